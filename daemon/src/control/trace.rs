//! `/api/v1/calls/{id}/trace`: the signalling of one call; `…/capture`: its datagrams for a while. What is remembered, and
//! that it holds no secret, is the room `sip`'s business; here it becomes JSON, for those who may see who called.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::calls::asked;
use super::extract::{Asked, CallPath, Named};
use super::looks::{look, note};
use super::who::Who;
use super::{Problem, Shared, Wish};
use crate::base::CallId;

/// One message of a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TracedMessage {
    /// Microseconds since 1970, UTC.
    pub at_us: u64,
    /// We sent it.
    pub sent: bool,
    /// `UDP`, `TCP` or `TLS`.
    pub transport: String,
    /// Our socket.
    #[schema(value_type = String)]
    pub local: SocketAddr,
    /// The peer's.
    #[schema(value_type = String)]
    pub peer: SocketAddr,
    /// The message; secrets in it are overwritten with `*`.
    pub message: String,
}

/// What a client of the control socket is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Trace {
    /// The call, as log lines show it.
    pub id: String,
    /// Oldest first.
    pub messages: Vec<TracedMessage>,
}

/// One datagram of RTP or RTCP, as it was on the wire: what is encrypted stays so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TracedPacket {
    /// Microseconds since 1970, UTC.
    pub at_us: u64,
    /// We sent it.
    pub sent: bool,
    /// Our address, as the peer knows it.
    #[schema(value_type = String)]
    pub local: SocketAddr,
    /// The peer's.
    #[schema(value_type = String)]
    pub peer: SocketAddr,
    /// Its true length.
    pub length: usize,
    /// Its first octets, mostly all, in base64.
    pub octets: String,
}

/// What a capture has found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Captured {
    /// The call, as log lines show it.
    pub id: String,
    /// Oldest first.
    pub packets: Vec<TracedPacket>,
}

/// Longest capture in seconds: less than a connection may last.
const LONGEST: u64 = 45;

/// Most packets of one capture: a flood must not fill the memory.
const MOST: usize = 50_000;

/// For how long.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Time {
    /// From now on.
    #[param(minimum = 1, maximum = 45)]
    seconds: u64,
}

/// The RTP and RTCP of a call that is up, as they are on the wire. Comes back when the time is over, or the call.
#[utoipa::path(get, path = "/api/v1/calls/{id}/capture", tag = "calls", params(CallPath, Time),
    responses((status = 200, description = "Its datagrams", body = Captured), (status = 404, description = "It is not up"),
        (status = 409, description = "It takes no orders")))]
pub(super) async fn capture(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Named(id): Named,
    Asked(Time { seconds }): Asked<Time>,
) -> Result<Json<Captured>, Problem> {
    if !(1..=LONGEST).contains(&seconds) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("seconds: 1 to {LONGEST}")));
    }
    note(&shared, &who, "call.capture", id.to_string())?;
    let mut stream = asked(&shared.state.live, id, Wish::Capture).await?;
    let mut packets = Vec::new();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    while packets.len() < MOST
        && let Ok(Some(packet)) = tokio::time::timeout_at(end, stream.recv()).await
    {
        packets.push(packet);
    }
    Ok(Json(Captured { id: id.to_string(), packets }))
}

/// Finds the messages of a call; none if it is not, or no longer, known.
#[derive(Clone)]
pub struct Traces(Arc<dyn Fn(CallId) -> Vec<TracedMessage> + Send + Sync>);

impl Traces {
    /// Asks this.
    pub fn new(find: impl Fn(CallId) -> Vec<TracedMessage> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traces")
    }
}

/// The signalling of a call that is up or was not long ago, without secrets.
#[utoipa::path(get, path = "/api/v1/calls/{id}/trace", tag = "calls", params(CallPath),
    responses((status = 200, description = "Its messages", body = Trace),
        (status = 404, description = "No signalling of such a call is remembered")))]
pub(super) async fn trace(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Named(call): Named,
) -> Result<Json<Trace>, Problem> {
    if !who.callers {
        let why = "signalling names the caller: it takes a token with scope operator, or http.show_callers";
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    look(&shared, &who, "call.trace", call.to_string())?;
    let messages = (shared.state.traces.0)(call);
    if messages.is_empty() {
        let why =
            format!("no signalling of call {call} is remembered: it was too long ago, or before the last restart");
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    }
    Ok(Json(Trace { id: call.to_string(), messages }))
}
