//! The daemon's side of the engines: who serves a call, and what happens when an engine dies.
//!
//! Enters: requests of calls. Leaves: events to the calls that they name, and the news that an engine was lost or is
//! back. Never here: a model, a telephone word, a decision about what to say.
//!
//! ```text
//!  call ── Port ──► requests ──► driver: process + link (a real engine) │ scripted (tests)
//!  call ◄─ Port ─── router   ◄──────────────────────┘
//! ```

mod adapters;
mod counts;
mod link;
pub mod placement;
mod process;
mod pulse;
mod router;
mod scripted;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub use callbox_wire::AdapterInfo;
use callbox_wire::{CallId, ChatMessage, Event, Request};
pub use callbox_wire::{Role, RoleInfo};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use adapters::AdapterFiles;
pub use counts::role_name;
pub use process::{EngineProcess, Launch, RestartPolicy, identity};
pub use router::{Port, Refused};
pub use scripted::{Script, ScriptedAnswer, ScriptedEngine};

use adapters::Adapters;
use counts::Counts;
use prometheus_client::registry::Registry;
use router::Router;

/// Requests of all calls that wait for the engine; some seconds of audio of many calls. When full, a call's request is
/// refused, and the call says so to its caller.
const REQUESTS: usize = 8192;

/// What a call hears from its engine.
#[derive(Clone, PartialEq, Debug)]
pub enum News {
    /// An event of this call.
    Event(Event),
    /// The engine is gone, and with it all that it knew of this call.
    Lost,
    /// An engine is ready: listening can be started again.
    Ready,
}

/// What the rest of the daemon may know of the engine.
#[derive(Clone, PartialEq, Debug)]
pub enum EngineState {
    /// Being started for the first time.
    Starting,
    /// Serving.
    Ready(Vec<RoleInfo>),
    /// Gone; a new one is being started.
    Lost {
        /// One sentence.
        reason: String,
        /// How often this happened since the daemon started.
        times: u64,
    },
}

/// A way to get from requests to events: a process, or a script.
#[async_trait]
pub trait Driver: Send + 'static {
    /// Serves until `wiring.stop` is cancelled, however often the engine behind it dies.
    async fn drive(self: Box<Self>, wiring: Wiring);
}

/// How every conversation of an agent begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// The adapter that its answers are thought with.
    pub adapter: Option<String>,
    /// What the language model is told.
    pub messages: Vec<ChatMessage>,
}

impl Beginning {
    fn request(self) -> Request {
        match self {
            Self { adapter: None, messages } => Request::Prime { messages },
            Self { adapter: Some(adapter), messages } => Request::PrimeWith { adapter, messages },
        }
    }
}

/// Beginnings of conversations.
type Prime = Arc<Vec<Beginning>>;

/// What a driver is given.
pub struct Wiring {
    requests: mpsc::Receiver<Request>,
    router: Arc<Router>,
    state: watch::Sender<EngineState>,
    prime: watch::Receiver<Prime>,
    adapters: Adapters,
    counts: Counts,
    stop: CancellationToken,
}

/// A running engine, seen by the daemon. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    requests: mpsc::Sender<Request>,
    router: Arc<Router>,
    state: watch::Receiver<EngineState>,
    prime: Arc<watch::Sender<Prime>>,
    adapters: Adapters,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Engine {
    /// Starts a driver. `prime`: the beginnings of the conversations of every agent, computed anew in every new engine.
    pub fn start(driver: impl Driver, prime: Vec<Beginning>) -> Self {
        Self::with_adapters(driver, prime, Vec::new())
    }

    /// The same; every new engine loads these adapters before it serves.
    pub fn with_adapters(driver: impl Driver, prime: Vec<Beginning>, adapters: Vec<AdapterFiles>) -> Self {
        let adapters = Adapters::wanting(adapters);
        let (requests, queue) = mpsc::channel(REQUESTS);
        let (sender, state) = watch::channel(EngineState::Starting);
        let counts = Counts::default();
        let router = Arc::new(Router::new(counts.clone()));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (prime, primed) = watch::channel(Arc::new(prime));
        let wiring = Wiring {
            requests: queue,
            router: Arc::clone(&router),
            state: sender,
            prime: primed,
            adapters: adapters.clone(),
            counts,
            stop: stop.clone(),
        };
        tasks.spawn(Box::new(driver).drive(wiring));
        tasks.close();
        Self { requests, router, state, prime: Arc::new(prime), adapters, stop, tasks }
    }

    /// A call's own line to the engine; dropping it makes the engine forget the call.
    pub fn attach(&self, call: CallId) -> Port {
        Router::attach(&self.router, call, self.requests.clone())
    }

    /// Other beginnings from now on: the new ones are computed at once, all of them in every new engine.
    pub fn prime(&self, prime: Vec<Beginning>) {
        let known = self.prime.send_replace(Arc::new(prime.clone()));
        for beginning in prime.into_iter().filter(|beginning| !known.contains(beginning)) {
            if self.requests.try_send(beginning.request()).is_err() {
                tracing::warn!("the engine's queue is full; an agent's first answer will take longer");
            }
        }
    }

    /// The same, all of them anew: an adapter has changed behind its name.
    pub fn prime_again(&self, prime: Vec<Beginning>) {
        self.prime.send_replace(Arc::default());
        self.prime(prime);
    }

    /// The state, and how to wait for its change.
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.state.clone()
    }

    /// Waits until the engine is ready.
    ///
    /// # Errors
    /// One sentence, if it is lost first or is not ready within `limit`.
    pub async fn ready(&self, limit: Duration) -> Result<Vec<RoleInfo>, String> {
        let mut state = self.state();
        let wait = state.wait_for(|state| !matches!(state, EngineState::Starting));
        match tokio::time::timeout(limit, wait).await {
            Ok(Ok(state)) => match &*state {
                EngineState::Ready(roles) => Ok(roles.clone()),
                EngineState::Lost { reason, .. } => Err(reason.clone()),
                EngineState::Starting => unreachable!("waited for another state"),
            },
            Ok(Err(_)) => Err("the engine was stopped".into()),
            Err(_) => Err(format!("the engine was not ready within {} s", limit.as_secs())),
        }
    }

    /// Adds what is counted to a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.router.counts.register(registry);
    }

    /// Requests that wait for the engine.
    pub fn waiting(&self) -> usize {
        REQUESTS.saturating_sub(self.requests.capacity())
    }

    /// The process that serves; none of a script.
    pub fn process(&self) -> Option<i32> {
        self.router.counts.process()
    }

    /// Calls that are attached.
    pub fn attached(&self) -> usize {
        self.router.len()
    }

    /// Stops the driver and waits for it.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
