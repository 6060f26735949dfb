//! The daemon's side of the engines: who serves a call, and what happens when an engine dies.
//!
//! Enters: requests of calls. Leaves: events to the calls that they name, and the news that an engine was lost or is
//! back. Never here: a model, a telephone word, a decision about what to say.
//!
//! ```text
//!  placement: which engine on which card, with which roles
//!                    ┌─► requests ──► driver: process + link (a real engine) │ scripted (tests)
//!  call ── Port ── fleet ─► requests ──► driver …       each engine has one, and a fence that keeps it from a card
//!  call ◄─ Port ── fleet ◄──────────────────┘
//! ```

mod adapters;
mod counts;
mod fleet;
mod link;
pub mod placement;
mod port;
mod process;
mod pulse;
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

pub use adapters::{AdapterFiles, NotDone};
pub use counts::role_name;
pub use port::{Port, Refused};
pub use process::{EngineProcess, Fence, Launch, RestartPolicy, identity};
pub use scripted::{Script, ScriptedAnswer, ScriptedEngine};

use adapters::Adapters;
use fleet::Fleet;
use prometheus_client::registry::Registry;

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

/// Where an engine computes, and what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Its name in metrics, health and log lines.
    pub name: String,
    /// The UUID of its card; none: the processor.
    pub card: Option<String>,
    /// Calls take the lowest rank that is ready.
    pub rank: u8,
    /// What it is there for.
    pub roles: Vec<Role>,
}

/// One engine of several, as it is now.
#[derive(Clone, PartialEq, Debug)]
pub struct EngineReport {
    /// Where.
    pub place: Place,
    /// How.
    pub state: EngineState,
    /// Calls that it works for.
    pub calls: usize,
    /// Its process; none of a script.
    pub process: Option<i32>,
}

/// What a driver is given.
pub struct Wiring {
    requests: mpsc::Receiver<Request>,
    outlet: Outlet,
    prime: watch::Receiver<Prime>,
    adapters: Adapters,
    stop: CancellationToken,
}

/// Where an engine's driver tells what it has to tell; clones are the same engine's.
#[derive(Clone)]
struct Outlet {
    fleet: Arc<Fleet>,
    engine: usize,
}

impl Outlet {
    fn event(&self, event: Event) {
        self.fleet.event(self.engine, event);
    }

    fn runs(&self, process: Option<i32>) {
        self.fleet.runs(self.engine, process);
    }

    fn ready(&self, roles: Vec<RoleInfo>) {
        self.fleet.ready(self.engine, roles);
    }

    fn lost(&self, reason: String) {
        self.fleet.lost(self.engine, reason);
    }

    fn name(&self) -> String {
        self.fleet.name(self.engine)
    }
}

/// An engine's place, and what drives it.
pub type Placed = (Place, Box<dyn Driver>);

/// All running engines, which to the rest of the daemon are one. Clones are the same.
#[derive(Clone)]
pub struct Engine {
    fleet: Arc<Fleet>,
    prime: Arc<watch::Sender<Prime>>,
    adapters: Adapters,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Engine {
    /// Starts one driver. `prime`: the beginnings of the conversations of every agent, computed anew in every new engine.
    pub fn start(driver: impl Driver, prime: Vec<Beginning>) -> Self {
        let place = Place { name: "only".into(), ..Place::default() };
        Self::of(vec![(place, Box::new(driver))], prime, Vec::new())
    }

    /// Starts a driver at each place; every new engine loads these adapters before it serves.
    pub fn of(placed: Vec<Placed>, prime: Vec<Beginning>, adapters: Vec<AdapterFiles>) -> Self {
        let adapters = Adapters::wanting(adapters);
        let (places, drivers): (Vec<_>, Vec<_>) = placed.into_iter().unzip();
        let (fleet, queues) = Fleet::new(places);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (prime, primed) = watch::channel(Arc::new(prime));
        for (engine, (driver, requests)) in drivers.into_iter().zip(queues).enumerate() {
            tasks.spawn(driver.drive(Wiring {
                requests,
                outlet: Outlet { fleet: Arc::clone(&fleet), engine },
                prime: primed.clone(),
                adapters: adapters.of(engine),
                stop: stop.clone(),
            }));
        }
        tasks.close();
        Self { fleet, prime: Arc::new(prime), adapters, stop, tasks }
    }

    /// A call's own line to the engine; dropping it makes the engine forget the call.
    pub fn attach(&self, call: CallId) -> Port {
        self.fleet.attach(call)
    }

    /// Other beginnings from now on: the new ones are computed at once, all of them in every new engine.
    pub fn prime(&self, prime: Vec<Beginning>) {
        let known = self.prime.send_replace(Arc::new(prime.clone()));
        for beginning in prime.into_iter().filter(|beginning| !known.contains(beginning)) {
            if !self.fleet.send_all(&beginning.request()) {
                tracing::warn!("an engine's queue is full; an agent's first answer will take longer");
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
        self.fleet.state()
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
        self.fleet.counts.register(registry);
    }

    /// Requests that wait for an engine.
    pub fn waiting(&self) -> usize {
        self.fleet.waiting()
    }

    /// Each engine, as it is now.
    pub fn each(&self) -> Vec<EngineReport> {
        self.fleet.reports()
    }

    /// Calls that are attached.
    pub fn attached(&self) -> usize {
        self.fleet.attached()
    }

    /// Stops the drivers and waits for them.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
