//! What all calls share, and the way in. Enters: calls that ring. Leaves: conversations, or refusals with the right
//! status. Never here: anything of one conversation. A call's bug ends that call: each has its own task.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::agents::Agents;
use super::conversation::{Before, Conversation, Ended};
use super::keep::Keep;
use super::phrases::{self, PhraseBook};
use super::record::timestamp;
use super::stream::{Stream, StreamNames, address_towards};
use crate::base::{Clock, Pii};
use crate::control::{LiveCall, LiveCalls, LiveState, Readiness};
use crate::dialogue::{Agent, prime_messages};
use crate::engine::{Engine, EngineState};
use crate::media::{self, Media, MediaSession, SessionParameters};
use crate::service::Service;
use crate::sip::{Call, IncomingCall};
use crate::storage::{CallRecord, Direction, MediaStats, Record, StorageHandle};
use crate::telemetry::{Metrics, Refusal, call_span};

/// Random numbers for names of streams.
pub type Random = Box<dyn FnMut() -> u64 + Send>;

/// The parts that calls are made of.
pub struct Parts {
    /// Who answers.
    pub agents: Agents,
    /// Hears, thinks, speaks.
    pub engine: Engine,
    /// Ports and packets.
    pub media: Media,
    /// Address that media sockets are bound to.
    pub media_bind: IpAddr,
    /// Our address as peers see it, if that differs.
    pub advertised: Option<IpAddr>,
    /// Seconds in `Retry-After`.
    pub retry_after: u32,
    /// Records.
    pub storage: StorageHandle,
    /// Calls that are up.
    pub live: LiveCalls,
    /// Whether all parts are ready.
    pub readiness: Readiness,
    /// Counts.
    pub metrics: Metrics,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Random,
    /// Keeps what outlives the daemon.
    pub service: Service,
}

/// What all calls share.
pub struct Exchange {
    pub(super) engine: Engine,
    pub(super) phrases: PhraseBook,
    pub(super) storage: StorageHandle,
    pub(super) metrics: Metrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) drain: CancellationToken,
    pub(super) agents: Agents,
    pub(super) media: Media,
    pub(super) service: Service,
    media_bind: IpAddr,
    advertised: Option<IpAddr>,
    retry_after: u32,
    live: LiveCalls,
    readiness: Readiness,
    random: Mutex<Random>,
    pub(super) calls: TaskTracker,
}

/// A refusal: what the caller is told, and how it is counted.
struct Refuse {
    status: u16,
    reason: &'static str,
    retry: bool,
    counted: Refusal,
}

const NO_AGENT: Refuse = Refuse { status: 404, reason: "Not Found", retry: false, counted: Refusal::NoAgent };
const NOT_READY: Refuse =
    Refuse { status: 503, reason: "Service Unavailable", retry: true, counted: Refusal::NotReady };
const DRAINING: Refuse = Refuse { status: 503, reason: "Service Unavailable", retry: true, counted: Refusal::Draining };
const NO_PORT: Refuse = Refuse { status: 503, reason: "Service Unavailable", retry: true, counted: Refusal::Full };

impl Exchange {
    /// Nothing is answered before [`Exchange::serve`].
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { agents, engine, media, storage, live, readiness, metrics, clock, random, service, .. } = parts;
        Arc::new(Self {
            engine,
            phrases: PhraseBook::default(),
            storage,
            metrics,
            clock,
            drain: CancellationToken::new(),
            agents,
            media,
            service,
            media_bind: parts.media_bind,
            advertised: parts.advertised,
            retry_after: parts.retry_after,
            live,
            readiness,
            random: Mutex::new(random),
            calls: TaskTracker::new(),
        })
    }

    /// The beginnings of every agent's conversations, for [`Engine::start`].
    pub fn prime(agents: &Agents) -> Vec<Vec<callbox_wire::ChatMessage>> {
        agents.iter().map(|agent| prime_messages(agent)).collect()
    }

    /// Renders what agents always say. Comes back when all of it can be said without an engine.
    pub async fn render_phrases(self: Arc<Self>) {
        let texts: Vec<String> = self.agents.iter().flat_map(|agent| phrases::fixed_texts(agent)).collect();
        self.phrases.fill(&self.engine, &texts).await;
        if self.phrases.holds(&texts) {
            tracing::info!(phrases = texts.len(), "the fixed phrases are rendered");
        }
    }

    /// Answers calls until `incoming` ends; comes back when the last of them is over.
    pub async fn serve(self: Arc<Self>, mut incoming: mpsc::Receiver<IncomingCall>) {
        while let Some(call) = incoming.recv().await {
            let span = call_span(call.id);
            let exchange = Arc::clone(&self);
            self.calls.spawn(async move { exchange.take(call).await }.instrument(span));
        }
        self.calls.close();
        self.calls.wait().await;
    }

    /// From now on calls are refused, and those that are up are asked to end.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Calls that are up.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    async fn take(self: Arc<Self>, incoming: IncomingCall) {
        let agent = match self.admit(&incoming) {
            Ok(agent) => agent,
            Err(refuse) => return self.refuse(incoming, &refuse).await,
        };
        match self.answer(incoming, agent).await {
            Ok(()) => {}
            Err(Unanswered::Refused(incoming, refuse)) => self.refuse(*incoming, &refuse).await,
            Err(Unanswered::Gone) => tracing::info!("the caller gave up before the answer"),
        }
    }

    fn admit(&self, incoming: &IncomingCall) -> Result<Arc<Agent>, Refuse> {
        if self.drain.is_cancelled() {
            return Err(DRAINING);
        }
        let agent = self.agents.answering(&incoming.to_user).ok_or(NO_AGENT)?;
        let engine_ready = matches!(*self.engine.state().borrow(), EngineState::Ready(_));
        if !engine_ready || !self.readiness.is_ready() {
            return Err(NOT_READY);
        }
        Ok(Arc::clone(agent))
    }

    async fn answer(self: &Arc<Self>, incoming: IncomingCall, agent: Arc<Agent>) -> Result<(), Unanswered> {
        let refused = |incoming: IncomingCall, refuse| Err(Unanswered::Refused(Box::new(incoming), refuse));
        let invited = self.clock.now();
        let reservation = match self.media.reserve() {
            Ok(reservation) => reservation,
            Err(error) => {
                tracing::warn!(%error, "a call was refused");
                return refused(incoming, NO_PORT);
            }
        };
        let Some(ip) = address_towards(incoming.peer, self.media_bind, self.advertised) else {
            tracing::warn!("there is no address of ours that the caller could reach");
            return refused(incoming, NO_PORT);
        };
        let names = StreamNames::draw(&mut *self.random.lock().unwrap_or_else(PoisonError::into_inner));
        let mut stream = Stream::new((ip, reservation.port()).into(), names);
        let (sdp, agreed) = match &incoming.offer {
            Some(offer) => match stream.answer(offer) {
                Ok((answer, agreed)) => (answer, Some(agreed)),
                Err(error) => {
                    tracing::info!(%error, "a call was refused");
                    let refuse = Refuse {
                        status: error.status(),
                        reason: "Not Acceptable Here",
                        retry: false,
                        counted: Refusal::NoMedia,
                    };
                    return refused(incoming, refuse);
                }
            },
            None => (stream.offer(), None),
        };
        let (id, from, to) = (incoming.id, incoming.from.clone(), Pii::new(incoming.to_user.clone()));
        let mut record = CallRecord {
            id,
            agent: agent.name.as_str().to_owned(),
            direction: Direction::Inbound,
            from,
            to,
            codec: agreed.as_ref().map_or_else(String::new, |agreed| agreed.codec.to_owned()),
            started: timestamp(self.clock.as_ref(), invited),
            answered: None,
            ended: None,
            end_reason: None,
            turns: 0,
            media: MediaStats::default(),
        };
        incoming.ringing().await.map_err(|_| Unanswered::Gone)?;
        let mut sip = incoming.answer(sdp).await.map_err(|_| Unanswered::Gone)?;
        let agreed = match agreed {
            Some(agreed) => agreed,
            None => match late_answer(&mut sip, &mut stream).await {
                Some(agreed) => agreed,
                None => return Ok(()),
            },
        };
        agreed.codec.clone_into(&mut record.codec);
        record.answered = Some(timestamp(self.clock.as_ref(), self.clock.now()));
        let keep = Keep::begin(&self.service, id, &reservation);
        let session = match self.media.open(reservation, agreed.session.clone()) {
            Ok(session) => session,
            Err(error) => {
                tracing::error!(%error, "an answered call has no media and is ended");
                sip.hangup().await;
                return Ok(());
            }
        };
        self.metrics.calls.answered.inc();
        self.storage.record(Record::Call(Box::new(record.clone())));
        tracing::info!(agent = record.agent, codec = record.codec, "answered");
        let up = Up { record, agent, sip, session, parameters: agreed.session, stream, keep, before: None };
        self.converse(up).await;
        Ok(())
    }

    /// Holds a conversation to its end, and records that.
    pub(super) async fn converse(self: &Arc<Self>, up: Up) {
        let Up { mut record, agent, sip, session, parameters, stream, keep, before } = up;
        let active = Active::new(&self.metrics);
        let live = self.live.enter(LiveCall {
            id: record.id,
            agent: record.agent.clone(),
            direction: Direction::Inbound,
            from: record.from.clone(),
            to: record.to.clone(),
            codec: record.codec.clone(),
            started: record.started,
            state: LiveState::Speaking,
            turns: record.turns,
        });
        let port = self.engine.attach(record.id);
        let media = record.media;
        let conversation = Conversation {
            exchange: Arc::clone(self),
            agent,
            record: record.clone(),
            sip,
            session,
            parameters,
            stream,
            port,
            live,
            keep,
            before,
        };
        let ended = conversation.hold().await;

        drop(active);
        tracing::info!(reason = ended.reason, turns = ended.turns, "ended");
        record.ended = Some(timestamp(self.clock.as_ref(), self.clock.now()));
        self.finish(record, media, ended);
    }

    fn finish(&self, mut record: CallRecord, before: MediaStats, ended: Ended) {
        record.turns = ended.turns;
        record.media = media_stats(before, &ended.media);
        record.end_reason = Some(ended.reason);
        self.storage.record(Record::Call(Box::new(record)));
    }

    async fn refuse(&self, incoming: IncomingCall, refuse: &Refuse) {
        self.metrics.calls.refused(refuse.counted);
        tracing::info!(status = refuse.status, why = refuse.counted.as_str(), "a call was refused");
        let retry_after = refuse.retry.then_some(self.retry_after);
        if incoming.reject(refuse.status, refuse.reason, retry_after).await.is_err() {
            tracing::debug!("the caller had given up already");
        }
    }
}

/// A call that is up.
pub(super) struct Up {
    pub(super) record: CallRecord,
    pub(super) agent: Arc<Agent>,
    pub(super) sip: Call,
    pub(super) session: MediaSession,
    pub(super) parameters: SessionParameters,
    pub(super) stream: Stream,
    pub(super) keep: Option<Keep>,
    /// What an earlier daemon left of its conversation.
    pub(super) before: Option<Before>,
}

/// Counts a call as active until it is dropped, also by a panic.
struct Active(Metrics);

impl Active {
    fn new(metrics: &Metrics) -> Self {
        metrics.calls.active.inc();
        Self(metrics.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.calls.active.dec();
    }
}

enum Unanswered {
    Refused(Box<IncomingCall>, Refuse),
    Gone,
}

/// The INVITE had no offer, so we made one; theirs comes with the ACK.
async fn late_answer(sip: &mut Call, stream: &mut Stream) -> Option<super::stream::Agreed> {
    use crate::sip::CallEvent;
    loop {
        match sip.event().await {
            CallEvent::Confirmed { answer: Some(answer) } => match stream.answered(&answer) {
                Ok(agreed) => return Some(agreed),
                Err(error) => {
                    tracing::warn!(%error, "the answer to our offer cannot be used; the call is ended");
                    break;
                }
            },
            CallEvent::Confirmed { answer: None } => {
                tracing::warn!("our offer was not answered; the call is ended");
                break;
            }
            CallEvent::Ended(_) => return None,
            _ => {}
        }
    }
    sip.hangup().await;
    None
}

/// Of the whole call: `before` comes from an earlier daemon.
pub(super) fn media_stats(before: MediaStats, stats: &media::SessionStats) -> MediaStats {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of jitter fit by far")]
    let jitter_us = (stats.jitter_ms.max(0.0) * 1000.0) as u32;
    MediaStats {
        packets_in: before.packets_in + stats.received,
        packets_lost: before.packets_lost + stats.buffer.lost,
        packets_late: before.packets_late + stats.buffer.late,
        packets_out: before.packets_out + stats.sent,
        jitter_us,
    }
}
