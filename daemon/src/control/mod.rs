//! What operators ask a running daemon. Enters: HTTP requests, on a TCP address and on a Unix socket; leaves: health,
//! metrics, calls, and orders carried out. All of it on one thread with a runtime of its own, so that it answers while
//! every worker is busy. Never here: a change of a call; on TCP an order, or a caller's number or words, unless
//! `http.show_callers` says so.
//!
//! | path | answer |
//! |---|---|
//! | `/health` | 200 if calls are answered, else 503; every latch, live calls, the database's state |
//! | `/health/live` | 200: this process runs |
//! | `/health/ready` | 200 if calls are answered, else 503 with the latches that are not ready and why |
//! | `/health/startup` | 200 once everything has been ready, for good |
//! | `/metrics` | OpenMetrics text |
//! | `/api/v1/calls?limit=&before=` | calls, newest first, live ones among them; `next` continues. POST places a call |
//! | `/api/v1/calls/{id}` | one call with its exchanges |
//! | `/api/v1/calls/{id}/trace` | its signalling, without secrets; 403 where callers are not shown |
//! | `/api/v1/reports/{summary,calls,turns,latency}?since_s=` | what the last so many seconds looked like, without callers |
//! | `/api/v1/drain` | how far a drain is; POST with `limit_s=` begins one, DELETE takes calls again |
//! | `/api/v1/reload` | POST reads configuration and agents again: what changed, what needs a restart; 422 if a file is wrong |
//!
//! POST and DELETE are for the Unix socket.
//!
//! Errors are `application/problem+json` (RFC 9457).

mod calls;
mod health;
mod live;
mod orders;
mod problem;
mod ready;
mod reports;
mod serve;
mod trace;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
pub use live::{LiveCall, LiveCalls, LiveEntry, LiveState, Wish};
pub use orders::{CallOrder, DrainState, DrainStatus, NotCalled, Order, Orders, ReloadError, Reloaded};
pub use problem::Problem;
pub use ready::{Latch, Readiness, Status};
use tokio_util::sync::CancellationToken;
pub use trace::{Captured, Trace, TracedMessage, TracedPacket, Traces};

use crate::base::{Clock, Pulse};
use crate::storage::StorageHandle;
use crate::telemetry::Metrics;

/// Where to listen, and what to tell.
pub struct ControlConfig {
    /// TCP address.
    pub http: SocketAddr,
    /// Unix socket; created with mode 0660, removed at the end.
    pub socket: PathBuf,
    /// Whether numbers and words of callers are shown on TCP too.
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
        let ControlConfig { http, socket, show_callers, state } = config;
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
        let shared = Shared { started: state.clock.now(), state };
        let (open, closed) = (
            router(shared.clone(), View { callers: true, orders: true }),
            router(shared, View { callers: show_callers, orders: false }),
        );
        let (ended, pulse) = (stop.clone(), Pulse::default());
        let beating = pulse.clone();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let served = runtime.block_on(serve::serve((tcp, closed), (unix, open), ended, beating));
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
    started: Instant,
    state: ControlState,
}

/// What one of the two listeners may show.
#[derive(Clone, Copy)]
struct View {
    callers: bool,
    orders: bool,
}

fn router(shared: Shared, view: View) -> Router {
    Router::new()
        .route("/health", get(health::summary))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/health/startup", get(health::startup))
        .route("/metrics", get(metrics))
        .route("/api/v1/calls", get(calls::list).post(orders::call))
        .route("/api/v1/calls/{id}", get(calls::one).delete(calls::hang_up))
        .route("/api/v1/calls/{id}/capture", get(trace::capture))
        .route("/api/v1/calls/{id}/trace", get(trace::trace))
        .route("/api/v1/reports/{kind}", get(reports::report))
        .route("/api/v1/drain", get(orders::drain_status).post(orders::drain).delete(orders::resume))
        .route("/api/v1/reload", post(orders::reload))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take this method: most can only be read, with GET",
            )
        })
        .layer(axum::Extension(view))
        .with_state(shared)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match shared.state.metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, TEXT)], page).into_response(),
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests;
