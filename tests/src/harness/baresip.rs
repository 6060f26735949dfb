//! baresip, a softphone without a sound card: plays a WAV into the call, records what comes back. It speaks no 100rel
//! and no session timers; sipp scenarios cover those.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::ports::rtp_range;
use super::process::tail;
use super::speech::{read_wav, write_wav};
use super::{Process, RATE, free_port};

/// What a softphone speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaks {
    /// `PCMU`, `PCMA`, `G722` or `opus`.
    pub codec: &'static str,
    /// Only SRTP with keys in SDP.
    pub srtp: bool,
}

impl Speaks {
    /// Plain µ-law.
    pub const PLAIN: Self = Self { codec: "PCMU", srtp: false };

    /// Samples per second of what it plays and records.
    fn rate(self) -> u32 {
        match self.codec {
            "opus" => 48_000,
            "G722" => 16_000,
            _ => RATE,
        }
    }
}

/// A softphone with its own folder.
pub struct Baresip {
    dir: TempDir,
    port: u16,
    control: u16,
    user: String,
    speaks: Speaks,
}

impl Baresip {
    /// Sets one up; `user` is the user part of its From.
    ///
    /// # Errors
    /// If its folder cannot be written.
    pub fn new(user: &str) -> anyhow::Result<Self> {
        Self::with_account(user, ";regint=0", Speaks::PLAIN)
    }

    /// One that answers a challenge with this name and password.
    ///
    /// # Errors
    /// As [`Baresip::new`].
    pub fn with_password(user: &str, name: &str, password: &str) -> anyhow::Result<Self> {
        Self::with_account(user, &format!(";regint=0;auth_user={name};auth_pass={password}"), Speaks::PLAIN)
    }

    /// A customer of a provider: registered there, and calling through it.
    ///
    /// # Errors
    /// As [`Baresip::new`].
    pub fn registered(user: &str, provider: SocketAddr, password: &str) -> anyhow::Result<Self> {
        let more = format!(";auth_user={user};auth_pass={password};outbound=\"sip:{provider};lr\";regint=60");
        Self::with_account(user, &more, Speaks::PLAIN)
    }

    /// Sets one up that has one codec.
    ///
    /// # Errors
    /// As [`Baresip::new`].
    pub fn speaking(user: &str, speaks: Speaks) -> anyhow::Result<Self> {
        Self::with_account(user, if speaks.srtp { ";regint=0;mediaenc=srtp-mand" } else { ";regint=0" }, speaks)
    }

    fn with_account(user: &str, more: &str, speaks: Speaks) -> anyhow::Result<Self> {
        let (dir, port, control) = (TempDir::new()?, free_port(), free_port());
        let domain = if more.contains("outbound") { "provider.test" } else { "127.0.0.1" };
        let ((first, last), folder) = (rtp_range(400), dir.path().display());
        fs::create_dir(dir.path().join("rec"))?;
        fs::write(dir.path().join("contacts"), "")?;
        fs::write(
            dir.path().join("accounts"),
            format!(
                "<sip:{user}@{domain}>;audio_codecs={};answermode=auto{more}\n",
                match speaks.codec {
                    "opus" => "opus/48000/2".to_owned(),
                    "G722" => "G722/16000/1".to_owned(),
                    codec => format!("{codec}/8000/1"),
                },
            ),
        )?;
        let rate = speaks.rate();
        let config = format!(
            "sip_listen 127.0.0.1:{port}\n\
             audio_path /usr/share/baresip\n\
             audio_source aufile,{folder}/say.wav\n\
             audio_player aubridge,sink{port}\n\
             audio_alert aubridge,alert{port}\n\
             ausrc_srate {rate}\n\
             auplay_srate {rate}\n\
             ausrc_channels 1\n\
             auplay_channels 1\n\
             rtp_ports {first}-{last}\n\
             jitter_buffer_delay 5-10\n\
             snd_path {folder}/rec\n\
             module_path /usr/lib/baresip/modules\n\
             module g711.so\n\
             module g722.so\n\
             module opus.so\n\
             module srtp.so\n\
             module aufile.so\n\
             module aubridge.so\n\
             module sndfile.so\n\
             module_tmp uuid.so\n\
             module_tmp account.so\n\
             module_app menu.so\n\
             module_app ctrl_tcp.so\n\
             ctrl_tcp_listen 127.0.0.1:{control}\n"
        );
        fs::write(dir.path().join("config"), config)?;
        Ok(Self { dir, port, control, user: user.to_owned(), speaks })
    }

    /// Believes servers whose certificate comes from an authority of this file.
    ///
    /// # Errors
    /// If its folder cannot be written.
    pub fn trusting(self, ca: &Path) -> anyhow::Result<Self> {
        let path = self.dir.path().join("config");
        let config = fs::read_to_string(&path)?;
        fs::write(&path, config + &format!("sip_cafile {}\n", ca.display()))?;
        Ok(self)
    }

    /// Its SIP address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// User part of its From.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Calls `uri`, says `samples` of 8 kHz, hangs up when they end; leaves what it heard.
    ///
    /// # Errors
    /// If there was no call, or nothing was recorded.
    pub async fn call(&self, uri: &str, samples: &[i16]) -> anyhow::Result<Vec<i16>> {
        let seconds = samples.len() as u64 / u64::from(RATE) + 5;
        let mut process = self.start(samples, &["-e", &format!("/dial {uri}"), "-t", &seconds.to_string()])?;
        // Its -t ends it; sooner would lose the end of the recording.
        process.ended(Duration::from_secs(seconds + 15)).await?;
        self.recording(&process)
    }

    /// Answers every call with `samples` until it is stopped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn answer(&self, samples: &[i16]) -> anyhow::Result<Process> {
        self.start(samples, &[])
    }

    /// Calls `uri` and says `samples`, until it is stopped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn dial(&self, uri: &str, samples: &[i16]) -> anyhow::Result<Process> {
        self.start(samples, &["-e", &format!("/dial {uri}")])
    }

    /// Has one do something with its call, as its menu names it: `hold`, `resume`, `sndcode 5`.
    ///
    /// # Errors
    /// If it does not listen, or refuses.
    pub async fn press(&self, command: &str) -> anyhow::Result<()> {
        let (command, parameters) = command.split_once(' ').unwrap_or((command, ""));
        let text = serde_json::json!({ "command": command, "params": parameters }).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.control)).await?;
        // A netstring, as its answer.
        stream.write_all(format!("{}:{text},", text.len()).as_bytes()).await?;
        let (mut answer, mut buffer) = (String::new(), [0; 2048]);
        while !answer.contains("\"response\"") {
            let length = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await??;
            anyhow::ensure!(length > 0, "{command}: {answer}");
            answer += &String::from_utf8_lossy(&buffer[..length]);
        }
        anyhow::ensure!(answer.contains("\"ok\":true"), "{command}: {answer}");
        Ok(())
    }

    fn start(&self, samples: &[i16], arguments: &[&str]) -> anyhow::Result<Process> {
        let wide = self.speaks.rate() / RATE;
        // It only plays what has its own rate; a staircase will do for a tone.
        let samples: Vec<i16> = samples.iter().flat_map(|sample| (0..wide).map(|_| *sample)).collect();
        write_wav(&self.dir.path().join("say.wav"), self.speaks.rate(), &samples)?;
        let mut command = Command::new("baresip");
        command.arg("-4").arg("-f").arg(self.dir.path()).args(arguments);
        Process::start("baresip", &mut command, &self.dir.path().join("log"))
    }

    /// What was received in the last call; its module `sndfile` names that `…-dec.wav`.
    ///
    /// # Errors
    /// If there was no call.
    pub fn recording(&self, process: &Process) -> anyhow::Result<Vec<i16>> {
        let entries = fs::read_dir(self.dir.path().join("rec"))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let received = paths.into_iter().rfind(|path| path.to_string_lossy().ends_with("-dec.wav"));
        let received = received.with_context(|| format!("baresip recorded nothing:\n{}", tail(&process.log())))?;
        let samples = read_wav(&received, self.speaks.rate())?;
        let wide = i32::try_from(self.speaks.rate() / RATE)?;
        // Their mean, so that little of what lies above 4 kHz is heard below it.
        let mean = |group: &[i16]| i16::try_from(group.iter().map(|sample| i32::from(*sample)).sum::<i32>() / wide);
        Ok(samples.chunks_exact(usize::try_from(wide)?).map(mean).collect::<Result<_, _>>()?)
    }
}
