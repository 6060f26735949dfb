//! What operators order. Enters: requests of who may; leaves: orders, through a bounded queue, to whoever runs the daemon,
//! and the answers back. Never here: the doing of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use utoipa::ToSchema;

use super::adapters::{AdapterCard, NotAdapted};
use super::calls::Done;
use super::extract::{Asked, Brought};
use super::{Problem, Shared};
use crate::base::trunk::TrunkName;
use crate::base::{CallId, Pii};
use crate::config::LogLevel;

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
    /// Say how much is logged; and change it, until the next reload or restart.
    LogLevel {
        /// What is wanted; none changes nothing.
        wanted: Option<LogLevel>,
        /// Told what counts then.
        done: oneshot::Sender<LogLevel>,
    },
    /// Say which adapters there are.
    Adapters {
        /// Told all of them.
        done: oneshot::Sender<Result<Vec<AdapterCard>, NotAdapted>>,
    },
    /// Load an adapter, in place of what is loaded under its name.
    LoadAdapter {
        /// Its name.
        name: String,
        /// Told all of them, or why it is not loaded.
        done: oneshot::Sender<Result<Vec<AdapterCard>, NotAdapted>>,
    },
    /// Forget an adapter.
    UnloadAdapter {
        /// Its name.
        name: String,
        /// Told those that are left, or why it is still there.
        done: oneshot::Sender<Result<Vec<AdapterCard>, NotAdapted>>,
    },
    /// Read the configuration and the agents again.
    Reload {
        /// Told what came of it.
        done: oneshot::Sender<Result<Reloaded, ReloadError>>,
    },
}

/// How far a drain is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, ToSchema)]
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
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, ToSchema)]
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
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, ToSchema)]
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
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CallOrder {
    /// A number, or a SIP URI.
    #[schema(value_type = String, example = "+4930123456")]
    pub to: Pii<String>,
    /// Who speaks.
    #[schema(example = "frontdesk")]
    pub agent: String,
    /// Through which trunk; none lets the box choose.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._-]{1,32}$")]
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

/// How long calls go on.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Limit {
    /// Seconds; as configured where it is absent.
    #[param(maximum = 86_400)]
    limit_s: Option<u64>,
}

/// How far a drain is.
#[utoipa::path(get, path = "/api/v1/drain", tag = "box", responses((status = 200, description = "The drain", body = DrainStatus)))]
pub(super) async fn drain_status(State(shared): State<Shared>) -> Json<DrainStatus> {
    let status = *shared.state.orders.drain().borrow();
    Json(status)
}

/// Refuses new calls; those that are up go on for a while, then their agents take leave.
#[utoipa::path(post, path = "/api/v1/drain", tag = "box", params(Limit),
    responses((status = 200, description = "New calls are refused", body = DrainStatus)))]
pub(super) async fn drain(
    State(shared): State<Shared>,
    Asked(Limit { limit_s }): Asked<Limit>,
) -> Result<Json<DrainStatus>, Problem> {
    if limit_s.is_some_and(|seconds| seconds > LONGEST) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit_s: at most {LONGEST} seconds")));
    }
    let limit = limit_s.map(Duration::from_secs);
    shared.state.orders.give(|done| Order::Drain { limit, done }).await.ok_or_else(busy)?;
    Ok(drain_status(State(shared)).await)
}

/// Takes calls again.
#[utoipa::path(delete, path = "/api/v1/drain", tag = "box", responses((status = 200, description = "Calls are taken", body = DrainStatus)))]
pub(super) async fn resume(State(shared): State<Shared>) -> Result<Json<DrainStatus>, Problem> {
    shared.state.orders.give(|done| Order::Resume { done }).await.ok_or_else(busy)?;
    Ok(drain_status(State(shared)).await)
}

/// Reads configuration and agents again; no call that is up is touched.
#[utoipa::path(post, path = "/api/v1/reload", tag = "box",
    responses((status = 200, description = "What has changed", body = Reloaded),
        (status = 422, description = "A file is wrong; nothing was changed")))]
pub(super) async fn reload(State(shared): State<Shared>) -> Result<Json<Reloaded>, Problem> {
    match shared.state.orders.give(|done| Order::Reload { done }).await.ok_or_else(busy)? {
        Ok(reloaded) => Ok(Json(reloaded)),
        Err(ReloadError::Configuration(sentence)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, sentence)),
        Err(ReloadError::NotNow(sentence)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, sentence)),
    }
}

/// Places a call, and lets an agent speak once somebody answers. Comes back when somebody has, or nobody will.
#[utoipa::path(post, path = "/api/v1/calls", tag = "calls", request_body = CallOrder,
    responses((status = 201, description = "Somebody has answered", body = Done, headers(("location" = String, description = "The call"))),
        (status = 422, description = "There is no such agent, trunk or number"),
        (status = 502, description = "Whoever was called did not answer")))]
pub(super) async fn call(
    State(shared): State<Shared>,
    Brought(call): Brought<CallOrder>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Done>), Problem> {
    match shared.state.orders.give(|done| Order::Call { call, done }).await.ok_or_else(busy)? {
        Ok(id) => Ok((StatusCode::CREATED, [(header::LOCATION, format!("/api/v1/calls/{id}"))], Json(Done::of(id)))),
        Err(NotCalled::Wrong(sentence)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, sentence)),
        Err(NotCalled::NotNow(sentence)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, sentence)),
        Err(NotCalled::NotReached(sentence)) => Err(Problem::new(StatusCode::BAD_GATEWAY, sentence)),
    }
}

/// How much is logged.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Logged {
    /// The least important lines that are written.
    level: LogLevel,
}

/// How much is logged.
#[utoipa::path(get, path = "/api/v1/log-level", tag = "box", responses((status = 200, description = "The level", body = Logged)))]
pub(super) async fn log_level(State(shared): State<Shared>) -> Result<Json<Logged>, Problem> {
    let level = shared.state.orders.give(|done| Order::LogLevel { wanted: None, done }).await.ok_or_else(busy)?;
    Ok(Json(Logged { level }))
}

/// Logs more or less from now on, until the next reload or restart.
#[utoipa::path(put, path = "/api/v1/log-level", tag = "box", request_body = Logged,
    responses((status = 200, description = "The level that counts", body = Logged)))]
pub(super) async fn set_log_level(
    State(shared): State<Shared>,
    Brought(Logged { level }): Brought<Logged>,
) -> Result<Json<Logged>, Problem> {
    let wanted = Some(level);
    let level = shared.state.orders.give(|done| Order::LogLevel { wanted, done }).await.ok_or_else(busy)?;
    Ok(Json(Logged { level }))
}

pub(super) fn busy() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "callboxd is going down, or has other orders to carry out; try again")
}
