//! An engine as a child process: started, watched, killed when it hangs, started again.
//!
//! Enters: what to launch. Leaves: the state of the engine, and news to every call when it changes. Never here: what the
//! messages mean.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::link::Link;
use super::{Driver, EngineState, News, Wiring};

/// How to start an engine.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments but for the socket.
    pub arguments: Vec<OsString>,
    /// Where it shall listen.
    pub socket: PathBuf,
}

/// When to give up on an engine, and when to try again.
#[derive(Clone, Debug)]
pub struct RestartPolicy {
    /// Loading and warming up may take this long.
    pub start_limit: Duration,
    /// How often a ready engine is asked whether it lives.
    pub heartbeat: Duration,
    /// How long the answer may take; longer than any one step of a model.
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

/// Drives an engine that runs as a child process.
pub struct EngineProcess {
    launch: Launch,
    policy: RestartPolicy,
}

impl EngineProcess {
    /// Starts nothing yet.
    pub const fn new(launch: Launch, policy: RestartPolicy) -> Self {
        Self { launch, policy }
    }

    fn spawn(&self) -> Result<Child, String> {
        let program = self.launch.program.display();
        if let Err(error) = std::fs::remove_file(&self.launch.socket)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(format!("the old socket {} cannot be removed: {error}", self.launch.socket.display()));
        }
        Command::new(&self.launch.program)
            .args(&self.launch.arguments)
            .arg("--socket")
            .arg(&self.launch.socket)
            .arg("--guard-stdin")
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program} cannot be started: {error}"))
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
                        Ok(status) => format!("the engine ended before it was ready ({status}); its log lines say why"),
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

    /// One life of the engine. Comes back with the reason of its end.
    async fn live(&self, wiring: &mut Wiring) -> String {
        let mut child = match self.spawn() {
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
        if let Err(error) = child.kill().await {
            tracing::warn!(%error, "the engine could not be killed");
        }
        reason
    }

    async fn converse(&self, stream: UnixStream, wiring: &mut Wiring) -> String {
        let (mut link, roles) = match Link::greet(stream, self.policy.patience).await {
            Ok(greeted) => greeted,
            Err(error) => return format!("the engine was refused: {error}"),
        };
        let prime = Arc::clone(&wiring.prime.borrow_and_update());
        if let Err(error) = link.prime(&prime).await {
            return format!("the engine failed: {error}");
        }
        // What waited for the engine that died means nothing to this one.
        while wiring.requests.try_recv().is_ok() {}
        tracing::info!(roles = roles.len(), "the engine is ready");
        wiring.state.send_replace(EngineState::Ready(roles));
        wiring.router.broadcast(&News::Ready);
        let error = link.carry(&mut wiring.requests, &wiring.router, self.policy.heartbeat, self.policy.patience).await;
        format!("the engine failed: {error}")
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
                reason = self.live(&mut wiring) => reason,
                () = stop.cancelled() => return,
            };
            times += 1;
            tracing::error!(times, reason, "the engine was lost");
            wiring.state.send_replace(EngineState::Lost { reason, times });
            wiring.router.broadcast(&News::Lost);
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
