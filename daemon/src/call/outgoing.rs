//! Calls that the box places. Enters: whom to call and which agent is to speak, or who is to be joined to a caller.
//! Leaves: a conversation, a leg, or why nobody was reached. Never here: which server of a trunk takes the call.

use std::sync::Arc;
use std::time::Duration;

use super::exchange::{Exchange, Up};
use super::keep::Keep;
use super::record::timestamp;
use super::stream::Stream;
use crate::base::trunk::{CallerId, TrunkName};
use crate::base::{CallId, Pii};
use crate::dialogue::Unreached;
use crate::engine::EngineState;
use crate::media::Reservation;
use crate::sip::outbound::{Dialling, Order, Undialled};
use crate::sip::{EndReason, Progress};
use crate::storage::{CallRecord, Direction, MediaStats};
use crate::telemetry::{agent_span, call_span};

/// How long a call of ours may ring.
const RING: Duration = Duration::from_secs(60);

/// A call to be placed.
#[derive(Debug, Clone)]
pub struct CallOut {
    /// A number, or a SIP URI.
    pub to: Pii<String>,
    /// Who speaks.
    pub agent: String,
    /// Through which trunk; none lets us choose.
    pub trunk: Option<TrunkName>,
}

/// Why nobody was reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReached {
    /// No such agent.
    #[error("there is no agent `{0}`: name one of the agents' files")]
    NoAgent(String),
    /// No engine, or draining.
    #[error("callboxd takes no calls now: try again when `callbox health` says ready")]
    NotReady,
    /// No port is free.
    #[error("there is no free media port: end a call, or give media.ports more of them")]
    NoPort,
    /// No call was even tried.
    #[error(transparent)]
    Undialled(#[from] Undialled),
    /// 486 or 600.
    #[error("the line is busy")]
    Busy,
    /// It rang too long, or 408 or 480.
    #[error("nobody answered")]
    NoAnswer,
    /// 403 or 603.
    #[error("the call was declined ({0})")]
    Declined(u16),
    /// Another status.
    #[error("the call was refused: {0} {1}")]
    Refused(u16, String),
    /// They answered with audio that we cannot do.
    #[error("they answered with audio that the box does not do: {0}")]
    NoMedia(String),
}

impl NotReached {
    pub(super) fn from_end(reason: &EndReason) -> Self {
        match reason {
            EndReason::Rejected { status: 486 | 600, .. } => Self::Busy,
            EndReason::Rejected { status: 408 | 480, .. } | EndReason::Timeout => Self::NoAnswer,
            EndReason::Rejected { status: status @ (403 | 603), .. } => Self::Declined(*status),
            EndReason::Rejected { status, reason } => Self::Refused(*status, reason.clone()),
            _ => Self::NoAnswer,
        }
    }

    /// As a caller is told who was to be handed over.
    pub(super) const fn unreached(&self) -> Unreached {
        match self {
            Self::Busy => Unreached::Busy,
            Self::NoAnswer => Unreached::NoAnswer,
            Self::Declined(_) => Unreached::Declined,
            _ => Unreached::Failed,
        }
    }
}

/// A call of ours that rings, and the port and the offer that it was placed with.
pub(super) struct Ringing {
    pub(super) dialling: Dialling,
    /// None once it has media.
    pub(super) reservation: Option<Reservation>,
    pub(super) stream: Stream,
    pub(super) record: CallRecord,
    /// The machine's uptime when it was placed.
    pub(super) began: Duration,
}

impl Exchange {
    /// Places a call, and lets an agent speak once somebody answers.
    ///
    /// # Errors
    /// [`NotReached`], in one sentence.
    pub async fn call_out(self: &Arc<Self>, wanted: CallOut) -> Result<CallId, NotReached> {
        let placed = self.place(wanted).await;
        self.counts.placed(&placed);
        placed
    }

    async fn place(self: &Arc<Self>, wanted: CallOut) -> Result<CallId, NotReached> {
        let agent = self.agents().shared(&wanted.agent).ok_or_else(|| NotReached::NoAgent(wanted.agent.clone()))?;
        let engine_ready = matches!(*self.engine.state().borrow(), EngineState::Ready(_));
        if !engine_ready || !self.takes_calls() {
            return Err(NotReached::NotReady);
        }
        let order = Order { to: wanted.to, trunk: wanted.trunk, ..Order::default() };
        let mut ringing = self.ring(order, agent.name.as_str()).await?;
        let answer = tokio::time::timeout(RING, answered(&mut ringing.dialling)).await;
        let Ringing { dialling, reservation, mut stream, mut record, began } = ringing;
        let sdp = match answer {
            Ok(answer) => answer?,
            Err(_) => {
                dialling.cancel().await;
                return Err(NotReached::NoAnswer);
            }
        };
        let sip = dialling.into_call();
        let id = sip.id();
        record.id = id;
        let keep = reservation.as_ref().and_then(|reservation| Keep::begin(&self.service, id, reservation));
        let opened = match (reservation, sdp.as_deref().map(|sdp| stream.answered(sdp))) {
            (Some(reservation), Some(Ok(agreed))) => {
                agreed.codec.clone_into(&mut record.codec);
                self.media
                    .open(reservation, agreed.session.clone())
                    .map(|session| (agreed, session))
                    .map_err(|error| error.to_string())
            }
            (_, Some(Err(error))) => Err(error.to_string()),
            _ => Err("they sent no session description".to_owned()),
        };
        let (agreed, session) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                sip.hangup().await;
                return Err(NotReached::NoMedia(why));
            }
        };
        record.answered = Some(self.present(&record, began));
        self.metrics.calls.answered.inc();
        self.record(record.clone());
        let span = call_span(id);
        let span = span.in_scope(|| agent_span(agent.name.as_str()));
        span.in_scope(|| tracing::info!(codec = record.codec, "a call of ours was answered"));
        let parameters = agreed.session;
        let up = Up { record, agent, sip, session, parameters, stream, keep, began, before: None, leg: None };
        self.begin(up, span);
        Ok(id)
    }

    /// Sends the INVITE of a call of ours.
    pub(super) async fn ring(&self, order: Order, agent: &str) -> Result<Ringing, NotReached> {
        let invited = self.clock.now();
        let reservation = self.media.reserve().map_err(|_| NotReached::NoPort)?;
        // Where the packets will go is known only when somebody answers: the trunk's server is the best guess.
        let (trunk, server) = self.lines.towards(order.trunk.as_ref()).await?;
        let ip = self.address_towards(server).ok_or_else(|| Undialled::Unreachable(trunk.name.clone()))?;
        let mut stream = self.stream((ip, reservation.port()).into(), Some(&trunk));
        let own = trunk.caller_id.as_ref().map(CallerId::as_str).or(trunk.username.as_deref());
        let (to, from) = (order.to.clone(), Pii::new(own.unwrap_or_default().to_owned()));
        let dialling = self.lines.dial(Order { sdp: stream.offer(), ..order }).await?;
        let record = CallRecord {
            id: dialling.id(),
            agent: agent.to_owned(),
            direction: Direction::Outbound,
            from,
            to,
            codec: String::new(),
            started: timestamp(self.clock.as_ref(), invited),
            answered: None,
            ended: None,
            end_reason: None,
            turns: 0,
            media: MediaStats::default(),
        };
        Ok(Ringing { dialling, reservation: Some(reservation), stream, record, began: self.uptime_at(invited) })
    }
}

async fn answered(dialling: &mut Dialling) -> Result<Option<String>, NotReached> {
    loop {
        match dialling.progress().await {
            Progress::Provisional { .. } => {}
            Progress::Answered { sdp } => return Ok(sdp),
            Progress::Ended(reason) => return Err(NotReached::from_end(&reason)),
        }
    }
}
