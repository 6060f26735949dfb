//! `/api/v1/calls/{id}/trace`: the signalling of one call. What is remembered, and that it holds no secret, is the room
//! `sip`'s business; here it becomes JSON, for those who may see who called.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::{Problem, Shared, View};
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
