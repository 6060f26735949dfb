//! `/api/v1/calls/{id}/trace`: the signalling of one call; `…/capture`: its datagrams for a while. What is remembered, and
//! that it holds no secret, is the room `sip`'s business; here it becomes JSON, for those who may see who called.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::calls::asked;
use super::orders::permitted;
use super::{Problem, Shared, View, Wish};
use crate::base::CallId;

/// One message of a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TracedMessage {
    /// Microseconds since 1970, UTC.
    pub at_us: u64,
    /// We sent it.
    pub sent: bool,
    /// `UDP`, `TCP` or `TLS`.
    pub transport: String,
    /// Our socket.
    pub local: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
    /// The message; secrets in it are overwritten with `*`.
    pub message: String,
}

/// What a client of the control socket is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// The call, as log lines show it.
    pub id: String,
    /// Oldest first.
    pub messages: Vec<TracedMessage>,
}

/// One datagram of RTP or RTCP, as it was on the wire: what is encrypted stays so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TracedPacket {
    /// Microseconds since 1970, UTC.
    pub at_us: u64,
    /// We sent it.
    pub sent: bool,
    /// Our address, as the peer knows it.
    pub local: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
    /// Its true length.
    pub length: usize,
    /// Its first octets, mostly all, in base64.
    pub octets: String,
}

/// What a capture has found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Time {
    seconds: u64,
}

/// Comes back when the time is over, or the call.
pub(super) async fn capture(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
    Path(id): Path<String>,
    time: Result<Query<Time>, QueryRejection>,
) -> Result<Json<Captured>, Problem> {
    permitted(view)?;
    let Query(Time { seconds }) = time.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    if !(1..=LONGEST).contains(&seconds) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("seconds: 1 to {LONGEST}")));
    }
    let (call, mut stream) = asked(&shared.state.live, &id, Wish::Capture).await?;
    let mut packets = Vec::new();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    while packets.len() < MOST
        && let Ok(Some(packet)) = tokio::time::timeout_at(end, stream.recv()).await
    {
        packets.push(packet);
    }
    Ok(Json(Captured { id: call.to_string(), packets }))
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

pub(super) async fn trace(
    State(shared): State<Shared>,
    Extension(view): Extension<View>,
    Path(id): Path<String>,
) -> Result<Json<Trace>, Problem> {
    if !view.callers {
        let why = "signalling names the caller: ask on the control socket, or set http.show_callers";
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let call: CallId = id.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))?;
    let messages = (shared.state.traces.0)(call);
    if messages.is_empty() {
        let why =
            format!("no signalling of call {call} is remembered: it was too long ago, or before the last restart");
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    }
    Ok(Json(Trace { id: call.to_string(), messages }))
}
