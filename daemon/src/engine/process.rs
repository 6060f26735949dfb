//! An engine as a child process: started, watched, killed when it hangs, started again.
//!
//! Enters: what to launch. Leaves: the state of the engine, and news to every call when it changes. Never here: what the
//! messages mean.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sha2::{Digest as _, Sha256};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::link::Link;
use super::pulse::{Pulse, Schedstat};
use super::{Driver, Wiring};

/// How long a killed engine may take to end.
const KILL: Duration = Duration::from_millis(500);

/// Seconds that an engine waits for the next daemon.
const LINGER: &str = "60";

/// Bytes that are taken of why an engine cannot start.
const LAST_WORDS: u64 = 512;

/// How to start an engine.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments but for the socket.
    pub arguments: Vec<OsString>,
    /// What it finds in its environment beside what the daemon does.
    pub environment: Vec<(&'static str, OsString)>,
    /// Where it shall listen.
    pub socket: PathBuf,
    /// It goes on without its daemon, and the next daemon takes it over.
    pub outlives: bool,
}

impl Launch {
    /// An engine that outlives its daemon. Its socket's name tells program, models and numbers apart, so that a daemon
    /// takes over only an engine that it would have started itself.
    #[must_use]
    pub fn outliving(mut self) -> Self {
        let mut digest = Sha256::new();
        let mut paths: Vec<&OsStr> = vec![self.program.as_os_str()];
        paths.extend(self.arguments.iter().map(OsString::as_os_str));
        paths.extend(self.environment.iter().map(|(_, value)| value.as_os_str()));
        for part in paths {
            identify(part, &mut digest);
        }
        self.socket.set_extension(format!("{}.sock", name(digest)));
        self.outlives = true;
        self
    }
}

/// A file as it is now, in a few letters: another path, length or time gives others.
#[must_use]
pub fn identity(file: &Path) -> String {
    let mut digest = Sha256::new();
    identify(file.as_os_str(), &mut digest);
    name(digest)
}

fn identify(part: &OsStr, digest: &mut Sha256) {
    digest.update(part.as_bytes());
    // The program and the models as they are now; folders change by themselves.
    if let Some(file) = std::fs::metadata(part).ok().filter(std::fs::Metadata::is_file) {
        let facts = [file.len(), file.mtime().cast_unsigned(), file.mtime_nsec().cast_unsigned()];
        digest.update(facts.map(u64::to_le_bytes).concat());
    }
    digest.update([0]);
}

fn name(digest: Sha256) -> String {
    hex::encode(digest.finalize().get(..6).unwrap_or_default())
}

/// When to give up on an engine, and when to try again.
#[derive(Clone, Debug)]
pub struct RestartPolicy {
    /// Loading and warming up may take this long.
    pub start_limit: Duration,
    /// How often a ready engine is asked whether it lives.
    pub heartbeat: Duration,
    /// How much of its own time the answer may take; longer than any one step of a model. What it waited for a processor
    /// does not count.
    pub patience: Duration,
    /// Pause before the first restart; doubles with each failure in a row.
    pub backoff: Duration,
    /// The longest pause. An engine that served longer than this has its failures forgiven.
    pub backoff_limit: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            start_limit: Duration::from_secs(300),
            heartbeat: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            backoff: Duration::from_millis(100),
            backoff_limit: Duration::from_secs(30),
        }
    }
}

/// Why an engine shall not run, a sentence; none: it shall.
pub type Fence = watch::Receiver<Option<String>>;

/// Drives an engine that runs as a child process.
pub struct EngineProcess {
    launch: Launch,
    policy: RestartPolicy,
    fence: Option<Fence>,
}

impl EngineProcess {
    /// Starts nothing yet.
    pub const fn new(launch: Launch, policy: RestartPolicy) -> Self {
        Self { launch, policy, fence: None }
    }

    /// It is ended when the fence closes, and not started before it opens.
    #[must_use]
    pub fn behind(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Comes back with the reason when the fence is, or becomes, closed; never if there is none.
    async fn closed(&self) -> String {
        let Some(mut fence) = self.fence.clone() else { return std::future::pending().await };
        match fence.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(reason) => reason.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Comes back when the fence is open.
    async fn open(&self) {
        // Whoever held it has gone: nobody closes it any more.
        if let Some(mut fence) = self.fence.clone() {
            drop(fence.wait_for(Option::is_none).await);
        }
    }

    /// `lock`: of an engine that outlives us; it is held as long as that lives.
    fn spawn(&self, lock: Option<File>) -> Result<Child, String> {
        let program = self.launch.program.display();
        if let Err(error) = std::fs::remove_file(&self.launch.socket)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(format!("the old socket {} cannot be removed: {error}", self.launch.socket.display()));
        }
        // What an earlier one said, if any.
        drop(std::fs::remove_file(self.why()));
        let mut command = Command::new(&self.launch.program);
        command.args(&self.launch.arguments).arg("--socket").arg(&self.launch.socket).kill_on_drop(true);
        // The daemon alone speaks to the service manager.
        command.envs(self.launch.environment.iter().map(|(name, value)| (name, value)));
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
        match lock.as_ref().map(File::try_clone) {
            Some(Ok(lock)) => command.args(["--linger", LINGER]).stdin(lock),
            Some(Err(error)) => return Err(format!("{program} cannot be started: {error}")),
            None => command.arg("--guard-stdin").stdin(Stdio::piped()),
        };
        let child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
        if let (Some(mut lock), Some(pid)) = (lock, child.id()) {
            let noted = lock.set_len(0).and_then(|()| lock.write_all(pid.to_string().as_bytes()));
            noted.map_err(|error| format!("the engine's lock cannot be written: {error}"))?;
        }
        Ok(child)
    }

    /// Where an engine that cannot start says why.
    fn why(&self) -> PathBuf {
        self.launch.socket.with_extension("why")
    }

    /// The sentence of one that could not.
    fn last_words(&self) -> Option<String> {
        let mut words = Vec::new();
        File::open(self.why()).ok()?.take(LAST_WORDS).read_to_end(&mut words).ok()?;
        let words = String::from_utf8_lossy(&words);
        let line: String = words.lines().next()?.chars().filter(|c| !c.is_control()).collect();
        Some(line).filter(|line| !line.is_empty())
    }

    /// Waits for the socket, which appears when the engine is ready.
    async fn connect(&self, child: &mut Child) -> Result<UnixStream, String> {
        let limit = sleep(self.policy.start_limit);
        tokio::pin!(limit);
        loop {
            if let Ok(stream) = UnixStream::connect(&self.launch.socket).await {
                return Ok(stream);
            }
            tokio::select! {
                status = child.wait() => {
                    return Err(match status {
                        Ok(status) => match self.last_words() {
                            Some(why) => format!("the engine ended before it was ready: {why}"),
                            None => format!("the engine ended before it was ready ({status}); its log lines say why"),
                        },
                        Err(error) => format!("the engine cannot be watched: {error}"),
                    });
                }
                () = &mut limit => {
                    return Err(format!("the engine was not ready within {} s", self.policy.start_limit.as_secs()));
                }
                () = sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    /// The engine of an earlier daemon, if one lives or is being loaded: comes back with the reason of its end. Else the
    /// lock that the next engine is to hold.
    async fn take_over(&self, wiring: &mut Wiring) -> Result<File, String> {
        let path = self.launch.socket.with_extension("lock");
        let open = || File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let lock = open().map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
        if lock.try_lock().is_ok() {
            return Ok(lock);
        }
        let limit = sleep(self.policy.start_limit);
        tokio::pin!(limit);
        let stream = loop {
            if let Ok(stream) = UnixStream::connect(&self.launch.socket).await {
                break stream;
            }
            if lock.try_lock().is_ok() {
                return Ok(lock);
            }
            tokio::select! {
                () = &mut limit => {
                    drop(TakenOver::of(std::fs::read_to_string(&path).ok().and_then(|pid| pid.parse().ok())));
                    return Err("the engine of an earlier daemon did not become ready".into());
                }
                () = sleep(Duration::from_millis(20)) => {}
            }
        };
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let Some(taken) = TakenOver::of(pid) else { return Err("the engine of an earlier daemon has ended".into()) };
        tracing::info!(pid, "the engine of an earlier daemon goes on");
        let reason = self.converse(stream, wiring).await;
        drop(taken);
        Err(reason)
    }

    /// One life of the engine. Comes back with the reason of its end.
    async fn live(&self, wiring: &mut Wiring) -> String {
        let lock = match self.launch.outlives {
            true => match self.take_over(wiring).await {
                Ok(lock) => Some(lock),
                Err(reason) => return reason,
            },
            false => None,
        };
        let mut child = match self.spawn(lock) {
            Ok(child) => child,
            Err(reason) => return reason,
        };
        // Held, because waiting for a child closes its standard input, and this one ends when that closes.
        let held = child.stdin.take();
        let reason = match self.connect(&mut child).await {
            Err(reason) => reason,
            Ok(stream) => tokio::select! {
                reason = self.converse(stream, wiring) => reason,
                status = child.wait() => match status {
                    Ok(status) => format!("the engine ended ({status})"),
                    Err(error) => format!("the engine cannot be watched: {error}"),
                },
            },
        };
        drop(held);
        // One that hangs in a driver does not die: its calls are not to wait for that.
        match timeout(KILL, child.kill()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the engine could not be killed"),
            Err(_) => tracing::error!("the engine was killed and does not end: a driver holds it"),
        }
        reason
    }

    async fn converse(&self, stream: UnixStream, wiring: &mut Wiring) -> String {
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
        wiring.outlet.runs(process);
        let (mut link, roles) = match Link::greet(stream, self.policy.patience).await {
            Ok(greeted) => greeted,
            Err(error) => return format!("the engine was refused: {error}"),
        };
        let still = wiring.adapters.still().await;
        if let Err(error) = link.adapt(&wiring.adapters, self.policy.start_limit).await {
            return format!("the engine failed: {error}");
        }
        let prime = Arc::clone(&wiring.prime.borrow_and_update());
        if let Err(error) = link.prime(&prime).await {
            return format!("the engine failed: {error}");
        }
        // What waited for the engine that died means nothing to this one.
        while wiring.requests.try_recv().is_ok() {}
        tracing::info!(engine = wiring.outlet.name(), roles = roles.len(), "the engine is ready");
        wiring.outlet.ready(roles);
        drop(still);
        let pulse = Pulse::new(self.policy.heartbeat, Box::new(Schedstat::of(process)));
        let outlet = wiring.outlet.clone();
        let error = link.carry(&mut wiring.requests, |event| outlet.event(event), pulse, self.policy.patience).await;
        format!("the engine failed: {error}")
    }
}

/// An engine that is no child of ours; it ends like one.
struct TakenOver(OwnedFd);

impl TakenOver {
    /// None if it has ended.
    fn of(pid: Option<i32>) -> Option<Self> {
        let pid = pid.and_then(Pid::from_raw)?;
        Some(Self(pidfd_open(pid, PidfdFlags::empty()).ok()?))
    }
}

impl Drop for TakenOver {
    fn drop(&mut self) {
        if let Err(error) = pidfd_send_signal(&self.0, Signal::KILL) {
            tracing::debug!(%error, "the engine had ended already");
        }
    }
}

#[async_trait]
impl Driver for EngineProcess {
    async fn drive(self: Box<Self>, mut wiring: Wiring) {
        let stop = wiring.stop.clone();
        let (mut times, mut pause) = (0_u64, self.policy.backoff);
        loop {
            let started = Instant::now();
            let reason = tokio::select! {
                biased;
                reason = self.closed() => reason,
                reason = self.live(&mut wiring) => reason,
                () = stop.cancelled() => return,
            };
            times += 1;
            tracing::error!(engine = wiring.outlet.name(), times, "the engine was lost: {reason}");
            wiring.outlet.lost(reason);
            tokio::select! {
                () = self.open() => {}
                () = stop.cancelled() => return,
            }
            if started.elapsed() > self.policy.backoff_limit {
                pause = self.policy.backoff;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(self.policy.backoff_limit);
        }
    }
}
