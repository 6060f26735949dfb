//! A `callboxd` of this build on loopback, in a folder of its own. Enters: an engine and an agent; leaves: its health,
//! its records, its log, and what it holds of the machine.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::ports::rtp_range;
use super::process::tail;
use super::{Manager, Process, eventually, executable, free_port, get, on_socket};

/// How long loading and warming up may take on a busy machine.
const READY: Duration = Duration::from_secs(120);

/// An agent that knows little and says it shortly, so that even the smallest model stays with it.
pub const AGENT: &str = r#"
name = "test"
numbers = ["*"]
persona = "You are the receptionist of a small hotel. Answer in one short sentence."
facts = ["Breakfast is served from seven to ten in the morning.", "The hotel has a garden and a swimming pool."]
greeting = "Good morning, this is the garden hotel. How can I help you?"
goodbye = "Thank you for calling. Goodbye."
apology = "I am sorry, something went wrong. One moment please."

[sampling]
max_tokens = 40
"#;

/// Limits that no test of something else meets.
const LIMITS: &str = "max_calls = 400\ndrain_s = 2\ninvites_per_second = 1000\nburst = 1000\nunacked = 400";

/// What thinks behind the daemon.
#[derive(Clone, Copy)]
pub enum Engine {
    /// `callbox-engine` with the models of a pack.
    Pack(&'static str),
    /// The scripted engine, with its script.
    Scripted(&'static str),
}

/// A daemon to start.
pub struct Setup {
    /// What thinks.
    pub engine: Engine,
    /// TOML of the one agent.
    pub agent: &'static str,
    /// A file of questions beside the agent's: its name and what it says.
    pub faq: Option<(&'static str, &'static str)>,
    /// The library that tells of cards: a pack is computed on all of them by engines that stand for those for cards, and on
    /// the processor beside them.
    pub cards: Option<PathBuf>,
    /// Adapters of the engine's own tests that lie beside the models.
    pub adapters: &'static [&'static str],
    /// Lines to append to the configuration; sections that the harness writes are `sip`, `sip.limits`, `media`,
    /// `http`, `engine`, `models`, `storage`, `log` and `agents`.
    pub more: String,
    /// Lines of `sip`.
    pub sip: String,
    /// Lines of `sip.limits`; none of them leaves what the package says.
    pub limits: &'static str,
    /// Calls that there are ports for.
    pub calls: u16,
    /// `media.silence_s`.
    pub silence: u32,
    /// `log.level`.
    pub log: &'static str,
}

impl Setup {
    /// With this engine and [`AGENT`].
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            agent: AGENT,
            faq: None,
            cards: None,
            adapters: &[],
            more: String::new(),
            sip: String::new(),
            limits: LIMITS,
            calls: 400,
            silence: 30,
            log: "debug",
        }
    }
}

/// A running daemon; it is killed with its engine when dropped.
pub struct Daemon {
    process: Process,
    manager: Option<Manager>,
    lives: u32,
    dir: TempDir,
    config: PathBuf,
    sip: SocketAddr,
    http: SocketAddr,
}

/// What a process holds of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in KiB.
    pub memory: u64,
    /// Memory files that it has open, in KiB.
    pub kept: u64,
    /// Open file descriptors.
    pub files: usize,
    /// Threads.
    pub threads: usize,
}

/// One exchange of a call, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What the ears understood.
    pub caller: String,
    /// What the agent answered.
    pub agent: String,
    /// What of it was played.
    pub heard: String,
}

impl Daemon {
    /// Writes the configuration and the agent, without starting anything: for tests of a failing start.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn configure(setup: &Setup, dir: &Path) -> anyhow::Result<(PathBuf, SocketAddr, SocketAddr)> {
        let (sip, http) = (free_port(), free_port());
        let (first, last) = rtp_range(setup.calls);
        let folder = dir.display();
        let agents = dir.join("agents");
        fs::create_dir_all(&agents)?;
        fs::create_dir_all(dir.join("weights"))?;
        fs::write(agents.join("test.toml"), setup.agent)?;
        if let Some((name, text)) = setup.faq {
            fs::write(agents.join(name), text)?;
        }
        let engine = match setup.engine {
            Engine::Pack(_) if setup.cards.is_some() => "kind = \"auto\"".to_owned(),
            Engine::Pack(_) => "kind = \"cpu\"".to_owned(),
            Engine::Scripted(script) => {
                fs::write(dir.join("script.toml"), script)?;
                "kind = \"scripted\"\nscript = \"script.toml\"".to_owned()
            }
        };
        let cards = setup.cards.as_ref().map_or_else(|| Ok(String::new()), |library| on_cards(library, dir))?;
        let pack = if let Engine::Pack(pack) = setup.engine { pack } else { "tiny" };
        let models = if setup.adapters.is_empty() { models() } else { with_adapters(dir, setup.adapters)? };
        let (models, weights) = (models.display().to_string(), weights(dir).display().to_string());
        let (log, more, lines, limits, silence) = (setup.log, &setup.more, &setup.sip, setup.limits, setup.silence);
        let text = format!(
            r#"
[sip]
udp = ["127.0.0.1:{sip}"]
tcp = ["127.0.0.1:{sip}"]
{lines}
[sip.limits]
{limits}
[media]
bind = "127.0.0.1"
ports = "{first}-{last}"
silence_s = {silence}
[http]
listen = "127.0.0.1:{http}"
socket = "{folder}/control.sock"
show_callers = true
[engine]
{engine}
{cards}
run = "{folder}"
[models]
dir = "{models}"
pack = "{pack}"
cache = "{weights}"
[storage]
path = "{folder}/callbox.db"
[log]
level = "{log}"
format = "json"
[agents]
paths = ["agents"]
{more}
"#
        );
        let config = dir.join("callbox.toml");
        fs::write(&config, text)?;
        Ok((config, (Ipv4Addr::LOCALHOST, sip).into(), (Ipv4Addr::LOCALHOST, http).into()))
    }

    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// If it ends or does not become ready; the error holds the end of its log.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let (config, sip, http) = Self::configure(&setup, dir.path())?;
        let mut command = Command::new(executable("callboxd")?);
        command.arg("--config").arg(&config);
        let process = Process::start("callboxd", &mut command, &dir.path().join("log"))?;
        let mut daemon = Self { process, manager: None, lives: 1, dir, config, sip, http };
        daemon.ready().await?;
        Ok(daemon)
    }

    /// Starts one as a service, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub async fn serve(setup: Setup) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let (config, sip, http) = Self::configure(&setup, dir.path())?;
        let manager = Manager::start(dir.path(), sip)?;
        let process = Self::spawn(&manager, &config, &dir.path().join("log"))?;
        let mut daemon = Self { process, manager: Some(manager), lives: 1, dir, config, sip, http };
        daemon.ready().await?;
        Ok(daemon)
    }

    fn spawn(manager: &Manager, config: &Path, log: &Path) -> anyhow::Result<Process> {
        let mut command = manager.command(&executable("callboxd")?)?;
        command.arg("--config").arg(config);
        Process::start("callboxd", &mut command.into(), log)
    }

    /// Its service manager.
    ///
    /// # Panics
    /// If it was not started by [`Daemon::serve`].
    pub fn manager(&self) -> &Manager {
        self.manager.as_ref().expect("only of a service")
    }

    /// Kills it and starts the next one, as a service manager does. `before` is called in between. Does not wait until
    /// the next one is ready.
    ///
    /// # Errors
    /// If it cannot be started again.
    pub async fn crash(&mut self, before: impl FnOnce(&Manager)) -> anyhow::Result<()> {
        let pid = self.process.pid().context("callboxd has ended")?;
        kill_process(pid, Signal::KILL)?;
        self.process.ended(Duration::from_secs(5)).await?;
        self.again(before)
    }

    /// Restarts it as `systemctl restart` does.
    ///
    /// # Errors
    /// If it does not step aside, or cannot be started again.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let pid = self.process.pid().context("callboxd has ended")?;
        kill_process(pid, Signal::USR2)?;
        let status = self.process.ended(Duration::from_secs(5)).await?;
        anyhow::ensure!(status.success(), "callboxd did not step aside: {status}");
        self.again(|_| {})
    }

    fn again(&mut self, before: impl FnOnce(&Manager)) -> anyhow::Result<()> {
        self.lives += 1;
        let log = self.dir.path().join(format!("log-{}", self.lives));
        let manager = self.manager.as_ref().context("only of a service")?;
        before(manager);
        self.process = Self::spawn(manager, &self.config, &log)?;
        Ok(())
    }

    /// Waits until `/health/ready` says so.
    ///
    /// # Errors
    /// If the daemon ends or it takes too long.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let http = self.http;
        let probe = || async move { get(http, "/health/ready").await.ok().filter(|(status, _)| *status == 200) };
        let ready = tokio::select! {
            ready = eventually("/health/ready", READY, probe) => ready.map(drop),
            ended = self.process.ended(READY) => Err(anyhow::anyhow!("callboxd ended: {ended:?}")),
        };
        ready.with_context(|| tail(&self.process.log()))
    }

    /// URI that reaches the agent.
    pub fn uri(&self) -> String {
        format!("sip:{}@{}", Self::USER, self.sip)
    }

    /// User part of [`Daemon::uri`].
    pub const USER: &'static str = "reception";

    /// Where it listens for SIP, over UDP and TCP.
    pub fn sip(&self) -> SocketAddr {
        self.sip
    }

    /// Where it answers HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// A folder that lives as long as it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// Its process id; none once it has ended.
    pub fn pid(&self) -> Option<Pid> {
        self.process.pid()
    }

    /// All that it has written.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The page of metrics.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let (status, text) = get(self.http, "/metrics").await?;
        if status == 200 { Ok(text) } else { bail!("/metrics: {status}") }
    }

    /// All samples of a metric, added up, or the one of these labels; none if there is no sample of it.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let page = self.metrics().await?;
        let value = |line: &str| {
            let (sample, value) = line.rsplit_once(' ')?;
            (sample == name || sample.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok()).flatten()
        };
        let values: Vec<_> = page.lines().filter_map(value).collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }

    /// The turns of the call that ended last, greeting first; waits until there is one.
    ///
    /// # Errors
    /// If no call has ended within 20 s.
    pub async fn turns(&self) -> anyhow::Result<Vec<Turn>> {
        let probe = || async {
            let page = self.api("/api/v1/calls").await.ok()?;
            let call = page["calls"].as_array()?.iter().find(|call| call["state"] == "ended")?.clone();
            self.api(&format!("/api/v1/calls/{}", call["id"].as_str()?)).await.ok()
        };
        exchanges(&eventually("the record of a call", Duration::from_secs(20), probe).await?)
    }

    /// The turns of the newest call so far, up or not.
    ///
    /// # Errors
    /// If there is no call.
    pub async fn turns_so_far(&self) -> anyhow::Result<Vec<Turn>> {
        let page = self.api("/api/v1/calls").await?;
        let id = page["calls"][0]["id"].as_str().context("no call is known")?;
        exchanges(&self.api(&format!("/api/v1/calls/{id}")).await?)
    }

    /// JSON of the control API.
    ///
    /// # Errors
    /// If it does not answer 200 and JSON.
    pub async fn api(&self, path: &str) -> anyhow::Result<Value> {
        self.order("GET", path, "").await
    }

    /// The same with any method, and a body of JSON.
    ///
    /// # Errors
    /// If it does not answer 200, 201 or 202 and JSON.
    pub async fn order(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Value> {
        let (status, text) = on_socket(&self.dir.path().join("control.sock"), method, path, body).await?;
        if !(200..=202).contains(&status) {
            bail!("{method} {path}: {status} {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// A token for the control API over TCP.
    ///
    /// # Errors
    /// If the daemon makes none.
    pub async fn token(&self, name: &str, scope: &str) -> anyhow::Result<String> {
        let wanted = serde_json::json!({ "name": name, "scope": scope, "expires_s": 3600 }).to_string();
        let made = self.order("POST", "/api/v1/tokens", &wanted).await?;
        Ok(made["token"].as_str().context("a token")?.to_owned())
    }

    /// Process id of its engine.
    pub fn engine(&self) -> Option<Pid> {
        self.engines().first().copied()
    }

    /// Process ids of all engines that run for it.
    pub fn engines(&self) -> Vec<Pid> {
        let own = self.process.pid();
        processes("callbox-engine", |parent, pid| {
            // One that was taken over is nobody's child; it listens in this folder.
            let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            parent == own || String::from_utf8_lossy(&command).contains(&*self.dir.path().to_string_lossy())
        })
    }

    /// The process id of the engine that was told to compute on this card.
    pub fn engine_on(&self, uuid: &str) -> Option<Pid> {
        let told = format!("CUDA_VISIBLE_DEVICES={uuid}");
        self.engines().into_iter().find(|pid| {
            let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|one| one == told.as_bytes())
        })
    }

    /// Process ids of the programs that make phonemes for its engines.
    pub fn espeaks(&self) -> Vec<Pid> {
        let engines = self.engines();
        processes("espeak-ng", |parent, _| parent.is_some_and(|parent| engines.contains(&parent)))
    }

    /// Its database.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("callbox.db")
    }

    /// What the daemon itself holds, its engine not counted.
    ///
    /// # Errors
    /// If it has ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.process.pid().context("callboxd has ended")?;
        let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
        let status = fs::read_to_string(proc.join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Ok(Usage {
            memory: field("VmRSS:").context("no VmRSS")?,
            kept: memory_files(&proc)?,
            files: fs::read_dir(proc.join("fd"))?.count(),
            threads: usize::try_from(field("Threads:").context("no Threads")?)?,
        })
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// If it does not within ten seconds.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.process.stop(Duration::from_secs(10)).await
    }
}

/// KiB of all `memfd_create(2)` files of a process.
fn memory_files(proc: &Path) -> anyhow::Result<u64> {
    let files = fs::read_dir(proc.join("fd"))?.flatten().map(|entry| entry.path());
    let ours = files.filter(|path| fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:")));
    // Descriptors of one file count once.
    let sizes: HashMap<u64, u64> =
        ours.filter_map(|path| fs::metadata(path).ok()).map(|file| (file.ino(), file.blocks() / 2)).collect();
    Ok(sizes.values().sum())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An engine may outlive its daemon by design; a test's must not.
        for engine in self.engines() {
            kill_process(engine, Signal::KILL).unwrap_or_default();
        }
    }
}

/// Running processes whose name begins so, and whose parent and id are as wanted.
fn processes(name: &str, wanted: impl Fn(Option<Pid>, Pid) -> bool) -> Vec<Pid> {
    let number = |text: &str| text.trim().parse().ok().and_then(Pid::from_raw);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = entries.filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // pid (comm) state ppid …; comm may hold anything, so it is cut at its last parenthesis.
        let (head, rest) = stat.rsplit_once(')')?;
        let (pid, comm) = head.split_once(" (")?;
        let mut fields = rest.split_whitespace();
        let runs = !matches!(fields.next()?, "Z" | "X");
        let parent = number(fields.next()?);
        let pid = number(pid)?;
        (runs && comm.starts_with(name) && wanted(parent, pid)).then_some(pid)
    });
    process.collect()
}

/// A models folder of its own: all models of the other, and adapters.
fn with_adapters(dir: &Path, names: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = dir.join("models");
    fs::create_dir_all(folder.join("adapters"))?;
    for entry in fs::read_dir(models())? {
        let entry = entry?;
        symlink(entry.path(), folder.join(entry.file_name()))?;
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/engine/tests/fixtures/mind/adapters");
    for name in names {
        symlink(fixtures.join(name), folder.join("adapters").join(name))?;
    }
    Ok(folder)
}

/// The models folder of `make models`.
fn models() -> PathBuf {
    std::env::var_os("CALLBOX_MODELS").map_or_else(|| cache().join("models"), PathBuf::from)
}

/// Repacked weights are kept between runs where there is a cache, because making them takes seconds.
fn weights(dir: &Path) -> PathBuf {
    let kept = cache().join("weights");
    if fs::create_dir_all(&kept).is_ok() { kept } else { dir.join("weights") }
}

fn cache() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("callbox")
}

/// The turns of a call, as the control API shows it.
fn exchanges(call: &Value) -> anyhow::Result<Vec<Turn>> {
    let text = |turn: &Value, key: &str| turn[key].as_str().unwrap_or_default().to_owned();
    let turn = |turn: &Value| Turn {
        caller: text(turn, "caller_text"),
        agent: text(turn, "agent_text"),
        heard: text(turn, "heard_text"),
    };
    Ok(call["exchanges"].as_array().context("a call has exchanges")?.iter().map(turn).collect())
}

/// Lines of `engine`, and what stands for the engine for cards: the same models, the same messages, on the processor.
fn on_cards(library: &Path, dir: &Path) -> anyhow::Result<String> {
    let program = dir.join("callbox-engine-cuda");
    fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", executable("callbox-engine")?.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(format!("nvml = \"{}\"\ncuda_program = \"{}\"", library.display(), program.display()))
}
