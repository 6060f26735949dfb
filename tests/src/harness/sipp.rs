//! sipp, a scripted SIP endpoint. Enters: a scenario of `tests/peers`; leaves: whether every call of it went as written.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use super::process::tail;
use super::{Process, free_port};

/// Calls that follow one scenario.
pub struct Sipp {
    dir: TempDir,
    process: Process,
    from: SocketAddr,
}

/// How the calls of a scenario are made.
pub struct Calls<'a> {
    /// File in `tests/peers`, without `.xml`.
    name: &'a str,
    /// µ-law file to say, for the scenarios that say something.
    speech: Option<&'a Path>,
    source: IpAddr,
    caller: &'a str,
    audio_port: u16,
    lasting: Duration,
    count: u32,
    per_second: u32,
    tcp: bool,
    keys: Vec<(&'a str, String)>,
}

/// One call of a scenario, from 127.0.0.1, by `sipp`; the methods change that.
pub fn scenario(name: &str) -> Calls<'_> {
    Calls {
        name,
        speech: None,
        source: IpAddr::from([127, 0, 0, 1]),
        caller: "sipp",
        audio_port: 9,
        lasting: Duration::ZERO,
        count: 1,
        per_second: 10,
        tcp: false,
        keys: Vec::new(),
    }
}

impl<'a> Calls<'a> {
    /// Says a µ-law file.
    pub fn saying(self, speech: &'a Path) -> Self {
        Self { speech: Some(speech), ..self }
    }

    /// From another address of loopback, and another user.
    pub fn from(self, source: [u8; 4], caller: &'a str) -> Self {
        Self { source: source.into(), caller, ..self }
    }

    /// With audio at a port of 127.0.0.1.
    pub fn audio_at(self, audio_port: u16) -> Self {
        Self { audio_port, ..self }
    }

    /// How long the caller stays.
    pub fn lasting(self, lasting: Duration) -> Self {
        Self { lasting, ..self }
    }

    /// How many calls, and how many of them begin in a second.
    pub fn times(self, count: u32, per_second: u32) -> Self {
        Self { count, per_second, ..self }
    }

    /// Over TCP, all calls on one connection.
    pub fn over_tcp(self) -> Self {
        Self { tcp: true, ..self }
    }

    /// With a value for a keyword of the scenario.
    pub fn with(mut self, keyword: &'a str, value: impl ToString) -> Self {
        self.keys.push((keyword, value.to_string()));
        self
    }

    /// Starts calling `user` at `to`.
    ///
    /// # Errors
    /// If sipp is not installed, or the scenario does not exist.
    pub fn start(self, user: &str, to: SocketAddr) -> anyhow::Result<Sipp> {
        self.run(&[&to.to_string(), "-s", user])
    }

    /// Starts waiting for its calls.
    ///
    /// # Errors
    /// As [`Calls::start`].
    pub fn answer(self) -> anyhow::Result<Sipp> {
        self.run(&[])
    }

    fn run(self, what: &[&str]) -> anyhow::Result<Sipp> {
        let dir = TempDir::new()?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(self.name).with_extension("xml");
        let mut text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if let Some(speech) = self.speech {
            // sipp does not expand keywords in this attribute.
            text = text.replace("SPEECH", &speech.display().to_string());
        }
        let xml = dir.path().join("scenario.xml");
        fs::write(&xml, text)?;
        let from = SocketAddr::new(self.source, free_port());
        let mut command = Command::new("sipp");
        command.current_dir(dir.path()).arg("-sf").arg(&xml).args(what).arg("-nostdin");
        command.args(["-i", &from.ip().to_string(), "-p", &from.port().to_string(), "-mi", "127.0.0.1"]);
        command.args(["-mp", &free_port().to_string(), "-key", "caller", self.caller]);
        command.args(["-key", "audio_port", &self.audio_port.to_string(), "-d", &self.lasting.as_millis().to_string()]);
        command.args(["-m", &self.count.to_string(), "-l", &self.count.to_string()]);
        command.args([
            "-r",
            &self.per_second.to_string(),
            "-trace_err",
            "-error_file",
            "errors",
            "-trace_logs",
            "-log_file",
            "logged",
        ]);
        command.args(["-t", if self.tcp { "t1" } else { "u1" }]);
        for (keyword, value) in &self.keys {
            match *keyword {
                // The one that sipp sorts messages by.
                "call_id" => command.args(["-cid_str", value]),
                keyword => command.args(["-key", keyword, value]),
            };
        }
        let process = Process::start("sipp", &mut command, &dir.path().join("log"))?;
        Ok(Sipp { dir, process, from })
    }
}

impl Sipp {
    /// Its SIP address.
    pub fn address(&self) -> SocketAddr {
        self.from
    }

    /// What the scenario has logged.
    pub fn logged(&self) -> String {
        fs::read_to_string(self.dir.path().join("logged")).unwrap_or_default()
    }

    /// Waits for the end of all its calls.
    ///
    /// # Errors
    /// If one of them did not go as the scenario says.
    pub async fn done(mut self, limit: Duration) -> anyhow::Result<()> {
        self.ended(limit).await
    }

    /// As [`Sipp::done`], for whoever has more to ask.
    ///
    /// # Errors
    /// As [`Sipp::done`].
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<()> {
        let status = self.process.ended(limit).await?;
        let errors = fs::read_to_string(self.dir.path().join("errors")).unwrap_or_default();
        ensure!(status.success(), "sipp: {status}\n{}\n{}", tail(&errors), tail(&self.process.log()));
        Ok(())
    }
}
