//! What operators order. Enters: requests on the Unix socket; leaves: orders, through a bounded queue, to whoever runs
//! the daemon, and the answers back. Never here: the doing of it; an order that came over TCP.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Problem, Shared, View};
use crate::base::trunk::TrunkName;
use crate::base::{CallId, Pii};

/// Orders that wait; one more is refused with 503.
const QUEUE: usize = 16;

/// Longest time that an order may name, in seconds: a day.
const LONGEST: u64 = 86_400;

/// Something to be done to the whole daemon.
#[derive(Debug)]
pub enum Order {
    /// Refuse new calls; let those that are up go on for so long, then say goodbye.
    Drain {
        /// How long; without it, as configured.
        limit: Option<Duration>,
        /// Told when new calls are refused.
        done: oneshot::Sender<()>,
    },
    /// Take calls again.
    Resume {
        /// Told when they are taken.
        done: oneshot::Sender<()>,
    },
    /// Place a call, and let an agent speak once somebody answers.
    Call {
        /// Whom, and who speaks.
        call: CallOrder,
        /// Told which call it is, or why nobody was reached.
        done: oneshot::Sender<Result<CallId, NotCalled>>,
    },
    /// Read the configuration and the agents again.
    Reload {
        /// Told what came of it.
        done: oneshot::Sender<Result<Reloaded, ReloadError>>,
    },
}

/// How far a drain is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainState {
    /// Calls are taken.
    #[default]
    Open,
    /// New calls are refused, those that are up go on.
    Waiting,
    /// The time is over: agents take leave.
    Goodbye,
    /// No call is up, and none is taken.
    Drained,
}

/// A drain, seen from outside.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct DrainStatus {
    /// How far it is.
    pub state: DrainState,
    /// Calls that are up.
    pub calls: usize,
    /// Seconds until agents take leave; absent unless waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// What a reload has changed.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Reloaded {
    /// Keys whose new value counts from now on.
    pub changed: Vec<String>,
    /// Keys whose new value counts after a restart.
    pub needs_restart: Vec<String>,
    /// Agents that are new.
    pub agents_added: Vec<String>,
    /// Agents that are others from the next call on.
    pub agents_changed: Vec<String>,
    /// Agents that take no further call.
    pub agents_removed: Vec<String>,
}

/// A call to be placed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallOrder {
    /// A number, or a SIP URI.
    pub to: Pii<String>,
    /// Who speaks.
    pub agent: String,
    /// Through which trunk; none lets the box choose.
    #[serde(default)]
    pub trunk: Option<TrunkName>,
}

/// Why there is no call, each with one sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotCalled {
    /// The order makes no sense.
    Wrong(String),
    /// The box cannot do it now.
    NotNow(String),
    /// Whoever was called did not answer.
    NotReached(String),
}

/// Why nothing was changed; its `Display` is one sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReloadError {
    /// A file is wrong.
    #[error("{0}")]
    Configuration(String),
    /// The files are right, but the daemon cannot take them now.
    #[error("{0}")]
    NotNow(String),
}

/// Where orders are put, and how far a drain is; cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    queue: mpsc::Sender<Order>,
    drain: Arc<watch::Sender<DrainStatus>>,
}

impl Orders {
    /// The queue and its other end.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (queue, orders) = mpsc::channel(QUEUE);
        (Self { queue, drain: Arc::default() }, orders)
    }

    /// Gives an order and waits for what comes of it; nothing comes when the queue is full or the daemon goes down.
    pub async fn give<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.queue.try_send(order(done)).ok()?;
        answer.await.ok()
    }

    /// How far a drain is, and how to wait for its change.
    #[must_use]
    pub fn drain(&self) -> watch::Receiver<DrainStatus> {
        self.drain.subscribe()
    }

    /// For whoever carries the drain out.
    pub fn drain_is(&self, status: DrainStatus) {
        self.drain.send_if_modified(|known| std::mem::replace(known, status) != status);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    limit_s: Option<u64>,
}

pub(super) async fn drain_status(State(shared): State<Shared>) -> Json<DrainStatus> {
    let status = *shared.state.orders.drain().borrow();
    Json(status)
}

pub(super) async fn drain(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
    limit: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<DrainStatus>, Problem> {
    permitted(view)?;
    let Query(limit) = limit.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    if limit.limit_s.is_some_and(|seconds| seconds > LONGEST) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit_s: at most {LONGEST} seconds")));
    }
    let limit = limit.limit_s.map(Duration::from_secs);
    shared.state.orders.give(|done| Order::Drain { limit, done }).await.ok_or_else(busy)?;
    Ok(drain_status(State(shared)).await)
}

pub(super) async fn resume(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
) -> Result<Json<DrainStatus>, Problem> {
    permitted(view)?;
    shared.state.orders.give(|done| Order::Resume { done }).await.ok_or_else(busy)?;
    Ok(drain_status(State(shared)).await)
}

pub(super) async fn reload(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
) -> Result<Json<Value>, Problem> {
    permitted(view)?;
    match shared.state.orders.give(|done| Order::Reload { done }).await.ok_or_else(busy)? {
        Ok(reloaded) => Ok(Json(json!(reloaded))),
        Err(ReloadError::Configuration(sentence)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, sentence)),
        Err(ReloadError::NotNow(sentence)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, sentence)),
    }
}

/// Comes back when somebody has answered, or nobody will.
pub(super) async fn call(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
    wanted: Result<Json<CallOrder>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    permitted(view)?;
    let Json(call) = wanted.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    match shared.state.orders.give(|done| Order::Call { call, done }).await.ok_or_else(busy)? {
        Ok(id) => Ok((StatusCode::CREATED, Json(json!({ "id": id.to_string() })))),
        Err(NotCalled::Wrong(sentence)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, sentence)),
        Err(NotCalled::NotNow(sentence)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, sentence)),
        Err(NotCalled::NotReached(sentence)) => Err(Problem::new(StatusCode::BAD_GATEWAY, sentence)),
    }
}

pub(super) fn permitted(view: View) -> Result<(), Problem> {
    if view.orders {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "orders are taken on the control socket only: use the command callbox"))
}

fn busy() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "callboxd is going down, or has other orders to carry out; try again")
}
