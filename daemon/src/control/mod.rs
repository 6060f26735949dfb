//! What operators ask a running daemon. Enters: HTTP requests, on a TCP address and on a Unix socket; leaves: health,
//! metrics, calls and what happens to them, and orders carried out. All of it on one thread with a runtime of its own, so
//! that it answers while every worker is busy. Never here: a change of a call; a caller's number or words for whoever may
//! not see them.
//!
//! ```text
//!  serve       connections, each with who is at its other end
//!    counts      how many of them, and of requests
//!    guard       who may pass, and what is noted of what they did
//!      who, keys   tokens and users
//!      again       the same order twice
//!    routes      every path, by who may use it
//!      calls, recordings, cache, knowledge, adapters, privacy, orders, trace, reports, inventory, tokens, health
//!        looks       what is noted of who sees callers, before they do
//!      stream      events, as they happen
//!    openapi     what the paths say of themselves
//!  live        calls that are up; `events` what happens to them
//!  ready       the latches
//! ```
//!
//! On the Unix socket everybody is an administrator: its mode says who gets there. Over TCP a token says who it is, but for
//! health, metrics and the document. Errors are `application/problem+json` (RFC 9457).

mod adapters;
mod again;
mod answers;
mod cache;
mod calls;
mod console;
mod counts;
mod events;
mod extract;
mod guard;
mod health;
mod inventory;
mod keys;
mod knowledge;
mod live;
mod looks;
mod openapi;
mod orders;
mod privacy;
mod problem;
mod ready;
mod recordings;
mod reports;
mod routes;
mod selftest;
mod serve;
mod stream;
mod tokens;
mod trace;
mod who;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

pub use adapters::{AdapterCard, NotAdapted};
pub use events::{Batch, Event, Events, Happened, Watcher};
pub use health::EngineCard;
pub use inventory::{AgentCard, ModelCard, Models, PackCard};
pub use live::{LiveCall, LiveCalls, LiveEntry, LiveState, Wish};
pub use orders::{CallOrder, DrainState, DrainStatus, NotCalled, Order, Orders, ReloadError, Reloaded};
pub use problem::Problem;
pub use ready::{Latch, Readiness, Status};
pub use recordings::{Audio, AudioError, Recorded};
pub use serve::Certificates;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
pub use trace::{Captured, Trace, TracedMessage, TracedPacket, Traces};

use crate::base::{Clock, Pulse};
use crate::cache::Answers;
use crate::gpu::Gpus;
use crate::knowledge::Knowledge;
use crate::storage::StorageHandle;
use crate::telemetry::Metrics;

/// Where to listen, and what to tell.
pub struct ControlConfig {
    /// TCP address.
    pub http: SocketAddr,
    /// Unix socket; created with mode 0660, removed at the end.
    pub socket: PathBuf,
    /// What TLS is made with on the TCP address; none for plain HTTP. A later one counts for later connections.
    pub certificates: Certificates,
    /// Whether numbers and words of callers are shown to viewers too.
    pub show_callers: bool,
    /// What is told.
    pub state: ControlState,
}

/// What the daemon's rooms share with this one; cheap to clone.
#[derive(Clone)]
pub struct ControlState {
    /// Who is ready.
    pub readiness: Readiness,
    /// Calls that are up.
    pub live: LiveCalls,
    /// Calls that were.
    pub storage: StorageHandle,
    /// What is counted.
    pub metrics: Metrics,
    /// Takes orders.
    pub orders: Orders,
    /// Signalling of live and recent calls.
    pub traces: Traces,
    /// Tells the uptime.
    pub clock: Arc<dyn Clock>,
    /// Tells how the trunks are: an object for each, by name.
    pub trunks: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Tells how the engines are.
    pub engines: Arc<dyn Fn() -> Vec<EngineCard> + Send + Sync>,
    /// Who answers.
    pub agents: watch::Receiver<Arc<[AgentCard]>>,
    /// What the engine loads.
    pub models: Models,
    /// Recordings of calls.
    pub recorded: Recorded,
    /// Answers that are known.
    pub answers: Answers,
    /// Documents that agents know.
    pub knowledge: Knowledge,
    /// The machine's cards.
    pub gpus: Gpus,
}

/// Why the control thread could not be started; its `Display` is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The TCP address cannot be used.
    #[error("http.listen: {address} cannot be used: {source}; stop the program that has it or change the key")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("http.socket: {} cannot be made: {source}; create its folder, or change its owner or the key", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers on the socket.
    #[error("http.socket: a callboxd that uses {} is running already", .0.display())]
    Running(PathBuf),
    /// No thread, or no runtime in it.
    #[error("control: cannot start its thread: {0}")]
    Thread(io::Error),
}

/// The running control thread. Dropping it closes the listeners and ends the thread.
#[must_use = "dropping it ends the control thread"]
pub struct Control {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    http: SocketAddr,
    socket: PathBuf,
    pulse: Pulse,
}

impl Control {
    /// Binds both addresses and starts the thread.
    ///
    /// # Errors
    /// An address that cannot be had, see [`ControlError`].
    pub fn start(config: ControlConfig) -> Result<Self, ControlError> {
        let ControlConfig { http, socket, certificates, show_callers, state } = config;
        let http_error = |source| ControlError::Http { address: http, source };
        let tcp = TcpListener::bind(http).map_err(http_error)?;
        tcp.set_nonblocking(true).map_err(http_error)?;
        let http = tcp.local_addr().map_err(http_error)?;
        let unix = bind_socket(&socket)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("control-disk")
            .max_blocking_threads(2)
            .build()
            .map_err(ControlError::Thread)?;
        let stop = CancellationToken::new();
        let counts = state.metrics.register(|registry| counts::Counts::register(registry, Arc::clone(&state.clock)));
        let selftests = selftest::SelfTests::new(Arc::clone(&state.clock));
        state.metrics.register(|registry| registry.register_collector(Box::new(selftests.clone())));
        let shared = Shared {
            selftests,
            counts: counts.clone(),
            started: state.clock.now(),
            state,
            show_callers,
            keys: Arc::default(),
            failures: Arc::default(),
            answers: Arc::default(),
            streams: Arc::new(Semaphore::new(stream::STREAMS)),
            document: Arc::default(),
            noted: looks::Noted::default(),
        };
        let router = routes::router(shared);
        let (ended, pulse) = (stop.clone(), Pulse::default());
        let beating = pulse.clone();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let served =
                    runtime.block_on(serve::serve((tcp, certificates), unix, (router, counts), ended, beating));
                if let Err(error) = served {
                    tracing::error!(%error, "the control thread has ended");
                }
                // A slow disk must not hold up the end.
                runtime.shutdown_background();
            })
            .map_err(ControlError::Thread)?;
        Ok(Self { stop, thread: Some(thread), http, socket, pulse })
    }

    /// The TCP address, with the port that the kernel chose if 0 was asked for.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.http
    }

    /// Beats while its thread takes connections.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was reported by the hook already.
            drop(thread.join());
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::warn!(%error, "the control socket could not be removed");
        }
    }
}

/// Takes the place of a socket that nobody answers; never of one that somebody does.
fn bind_socket(path: &Path) -> Result<UnixListener, ControlError> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    let error = |source| ControlError::Socket { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(error(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of that name")));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ControlError::Running(path.to_owned()));
        }
        _ => {}
    }
    // Made under another name, so that it never stands at its place with another mode.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    match std::fs::remove_file(&fresh) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660)).map_err(error)?;
    std::fs::rename(&fresh, path).map_err(error)?;
    Ok(listener)
}

#[derive(Clone)]
struct Shared {
    counts: counts::Counts,
    started: Instant,
    state: ControlState,
    show_callers: bool,
    keys: Arc<keys::Keys>,
    failures: Arc<keys::Failures>,
    answers: Arc<again::Answers>,
    streams: Arc<Semaphore>,
    document: Arc<utoipa::openapi::OpenApi>,
    noted: looks::Noted,
    selftests: selftest::SelfTests,
}

#[cfg(test)]
mod tests;
