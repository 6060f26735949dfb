//! What all calls share, and the way in. Enters: calls that ring. Leaves: conversations, or refusals with the right
//! status. Never here: anything of one conversation. A call's bug ends that call: each has its own task.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use super::agents::Agents;
use super::conversation::{Before, Conversation, Ended};
use super::counts::Counts;
use super::handover::{Handover, Leg};
use super::keep::{Keep, KeptCall, Parts as KeptParts};
use super::librarian;
use super::phrases::{self, Fixed, PhraseBook};
use super::quality::Quality;
use super::record::{counts, privacy, timestamp};
use super::rendered::Rendered;
use super::stream::{MediaPolicy, Stream, StreamNames, address_towards};
use super::trace;
use crate::base::trunk::Trunk;
use crate::base::{Advertised, Clock, Pii};
use crate::cache::Answers;
use crate::control::{LiveCall, LiveCalls, LiveEntry, LiveState, Readiness};
use crate::dialogue::{Agent, prime_messages};
use crate::engine::{AdapterFiles, Beginning, Engine, EngineState, NotDone, Role};
use crate::knowledge::Knowledge;
use crate::media::{self, Media, MediaSession, SessionParameters};
use crate::recording::Recordings;
use crate::service::Service;
use crate::sip::outbound::Lines;
use crate::sip::{Call, DialogState, IncomingCall, Phase};
use crate::storage::{CallRecord, Direction, MediaStats, Record, StorageHandle, Timestamp};
use crate::telemetry::{Metrics, Refusal, Traces, While, agent_span, call_span};

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
    /// Without a packet for this long, and without hold, a caller is gone.
    pub silence: Duration,
    /// How audio is agreed on.
    pub policy: MediaPolicy,
    /// Our address as peers see it, if that differs.
    pub advertised: Advertised,
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
    /// What agents always say, rendered by an earlier daemon.
    pub rendered: Option<Rendered>,
    /// Calls out.
    pub lines: Lines,
    /// Audio of calls whose agents record.
    pub recordings: Recordings,
    /// Answers that are known.
    pub answers: Answers,
    /// Where traces of calls go.
    pub traces: Traces,
    /// What agents know beside their facts.
    pub knowledge: Knowledge,
    /// What names the voice, and the language model: other files make other answers.
    pub speaks: (String, String),
    /// SHA-256 of the language model's file, if it is one.
    pub weights: Option<String>,
    /// The adapters that agents name, as the engine was told to load them.
    pub adapters: Vec<AdapterFiles>,
}

/// What all calls share.
pub struct Exchange {
    pub(super) engine: Engine,
    pub(super) phrases: PhraseBook,
    pub(super) storage: StorageHandle,
    pub(super) metrics: Metrics,
    quality: Quality,
    pub(super) counts: Counts,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lines: Lines,
    pub(super) recordings: Recordings,
    pub(super) answers: Answers,
    pub(super) traces: Traces,
    pub(super) knowledge: Knowledge,
    speaks: (String, String),
    weights: Option<String>,
    /// SHA-256 of each adapter that agents may name.
    adapters: Mutex<BTreeMap<String, String>>,
    doors: Mutex<Doors>,
    agents: Mutex<Arc<Agents>>,
    /// Agents of before, as long as a call has them.
    retired: Mutex<Vec<Weak<Agent>>>,
    pub(super) media: Media,
    pub(super) service: Service,
    media_bind: IpAddr,
    silence: Duration,
    policy: MediaPolicy,
    advertised: Advertised,
    retry_after: AtomicU32,
    live: LiveCalls,
    readiness: Readiness,
    random: Mutex<Random>,
    pub(super) calls: TaskTracker,
}

/// Whether calls are taken, and whether those that are up are to take leave.
#[derive(Default)]
struct Doors {
    closed: bool,
    goodbye: CancellationToken,
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
        let Parts {
            agents,
            engine,
            media,
            storage,
            live,
            readiness,
            metrics,
            clock,
            random,
            service,
            lines,
            answers,
            knowledge,
            ..
        } = parts;
        let speaks = parts.speaks;
        let (quality, counts) = (metrics.register(Quality::register), metrics.register(Counts::register));
        knowledge.serve(agents.documents());
        let adapters = parts.adapters.into_iter().map(|files| (files.name, files.sha256)).collect();
        answers.serve(librarian::rules(&agents, &knowledge, &speaks.0, &speaks.1, &adapters));
        let phrases = PhraseBook::new(parts.rendered, &fixed_texts(&agents), clock.wall());
        Arc::new(Self {
            engine,
            phrases,
            storage,
            metrics,
            quality,
            counts,
            clock,
            lines,
            recordings: parts.recordings,
            answers,
            traces: parts.traces,
            knowledge,
            speaks,
            weights: parts.weights,
            adapters: Mutex::new(adapters),
            doors: Mutex::default(),
            agents: Mutex::new(Arc::new(agents)),
            retired: Mutex::default(),
            media,
            service,
            media_bind: parts.media_bind,
            silence: parts.silence,
            policy: parts.policy,
            advertised: parts.advertised,
            retry_after: AtomicU32::new(parts.retry_after),
            live,
            readiness,
            random: Mutex::new(random),
            calls: TaskTracker::new(),
        })
    }

    /// The beginnings of every agent's conversations, for [`Engine::start`].
    pub fn prime(agents: &Agents) -> Vec<Beginning> {
        let beginning = |agent: &Arc<Agent>| {
            let adapter = agent.adapter().map(str::to_owned);
            Beginning { adapter, messages: prime_messages(agent) }
        };
        agents.iter().map(beginning).collect()
    }

    /// What hears, thinks and speaks.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Has an adapter loaded in place of what was loaded under its name; later turns of whoever names it are thought with it.
    ///
    /// # Errors
    /// If it does not fit, or there is no engine; nothing has changed then.
    pub async fn load_adapter(&self, files: AdapterFiles) -> Result<(), NotDone> {
        let (name, sha256) = (files.name.clone(), files.sha256.clone());
        self.engine.load_adapter(files).await?;
        let before = self.adapters().insert(name.clone(), sha256.clone());
        let agents = self.agents();
        if agents.iter().any(|agent| agent.adapter() == Some(name.as_str())) {
            // What was learned from another one is not true for ever.
            if before.as_ref() != Some(&sha256) {
                self.refresh_answers(&agents);
            }
            self.engine.prime_again(Self::prime(&agents));
        }
        Ok(())
    }

    /// The agent that answers with an adapter, in later calls or in one that is up.
    pub fn answers_with(&self, adapter: &str) -> Option<String> {
        let with = |agent: &Arc<Agent>| agent.adapter() == Some(adapter);
        let name = |agent: &Arc<Agent>| agent.name.as_str().to_owned();
        let now = self.agents().iter().find(|agent| with(agent)).map(name);
        now.or_else(|| {
            let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.iter().filter_map(Weak::upgrade).find(with).as_ref().map(name)
        })
    }

    fn adapters(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.adapters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renders what agents always say. Comes back when all of it can be said without an engine.
    pub async fn render_phrases(self: Arc<Self>) {
        let texts = fixed_texts(&self.agents());
        match self.phrases.fill(&self.engine, &texts).await {
            Ok(()) => tracing::info!(phrases = texts.len(), "the fixed phrases are rendered"),
            Err(error) => tracing::error!(%error, "a fixed phrase of an agent cannot be rendered"),
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

    /// From now on calls are refused; those that are up go on.
    pub fn refuse_calls(&self) {
        self.doors().closed = true;
    }

    /// Calls are taken again. Those whose agents take leave already still end.
    pub fn take_calls(&self) {
        let mut doors = self.doors();
        doors.closed = false;
        // Whoever has not been told to take leave still waits for this one.
        if doors.goodbye.is_cancelled() {
            doors.goodbye = CancellationToken::new();
        }
    }

    /// The agents of all calls that are up take leave after the turn that they are in.
    pub fn say_goodbye(&self) {
        self.doors().goodbye.cancel();
    }

    /// Cancelled when a call that begins now must take leave.
    pub(super) fn goodbye(&self) -> CancellationToken {
        self.doors().goodbye.clone()
    }

    /// Whether calls are taken, and placed.
    pub(super) fn takes_calls(&self) -> bool {
        !self.doors().closed && self.readiness.is_ready()
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who answers from now on.
    pub fn agents(&self) -> Arc<Agents> {
        Arc::clone(&self.agents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Renders what these agents always say, so that they can take calls.
    ///
    /// # Errors
    /// If the engine cannot speak it, or is not there to.
    pub async fn render(&self, agents: &Agents) -> Result<(), NotDone> {
        self.phrases.fill(&self.engine, &fixed_texts(agents)).await.map_err(|error| {
            let why = format!("agents: a greeting, goodbye or another fixed phrase cannot be rendered: {error}");
            if error.is_the_text_s_fault() { NotDone::Wrong(why) } else { NotDone::NotNow(why) }
        })
    }

    /// Other agents for later calls; a call that is up keeps the one that it has.
    pub fn replace(&self, agents: Agents, retry_after: u32) {
        self.retry_after.store(retry_after, Ordering::Relaxed);
        self.engine.prime(Self::prime(&agents));
        self.knowledge.serve(agents.documents());
        self.refresh_answers(&agents);
        let mut texts = fixed_texts(&agents);
        let mut known = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, Arc::new(agents));
        drop(known);
        // What calls that are up may still have to say without an engine stays as well.
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.extend(before.iter().map(Arc::downgrade));
        drop(before);
        retired.retain(|agent| agent.strong_count() > 0);
        texts.extend(
            retired.iter().filter_map(Weak::upgrade).flat_map(|agent| phrases::fixed_texts(&agent).collect::<Vec<_>>()),
        );
        self.phrases.keep(&texts);
    }

    /// What answers are worth depends on what agents are told and know.
    pub(super) fn refresh_answers(&self, agents: &Agents) {
        let rules = librarian::rules(agents, &self.knowledge, &self.speaks.0, &self.speaks.1, &self.adapters());
        self.answers.serve(rules);
    }

    /// What the language model is recorded as: its file and the beginning of its hash, and so the agent's adapter.
    pub(super) fn mind(&self, agent: &Agent) -> Option<String> {
        let named = |name: String, sha256: Option<&String>| match sha256.and_then(|sha256| sha256.get(..12)) {
            Some(hash) => format!("{name} {hash}"),
            None => name,
        };
        let model = named(librarian::model_of(&self.engine, Role::Mind)?, self.weights.as_ref());
        let adapter = agent.adapter().map(|name| named(name.to_owned(), self.adapters().get(name)));
        Some(adapter.map_or_else(|| model.clone(), |adapter| format!("{model} + {adapter}")))
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
        let span = agent_span(agent.name.as_str());
        match self.answer(incoming, agent).instrument(span.clone()).await {
            Ok(Some(up)) => self.begin(*up, span),
            Ok(None) => {}
            Err(Unanswered::Refused(incoming, refuse)) => self.refuse(*incoming, &refuse).await,
            Err(Unanswered::Gone) => tracing::info!("the caller gave up before the answer"),
        }
    }

    fn admit(&self, incoming: &IncomingCall) -> Result<Arc<Agent>, Refuse> {
        if self.doors().closed {
            return Err(DRAINING);
        }
        let agents = self.agents();
        let agent = agents.through(incoming.trunk.as_deref(), &incoming.to_user).ok_or(NO_AGENT)?;
        let engine_ready = matches!(*self.engine.state().borrow(), EngineState::Ready(_));
        if !engine_ready || !self.readiness.is_ready() {
            return Err(NOT_READY);
        }
        Ok(Arc::clone(agent))
    }

    /// The call, unless it was over at once.
    async fn answer(
        self: &Arc<Self>,
        incoming: IncomingCall,
        agent: Arc<Agent>,
    ) -> Result<Option<Box<Up>>, Unanswered> {
        let refused = |incoming: IncomingCall, refuse| Err(Unanswered::Refused(Box::new(incoming), refuse));
        let invited = self.clock.now();
        let reservation = match self.media.reserve() {
            Ok(reservation) => reservation,
            Err(error) => {
                tracing::warn!(%error, "a call was refused");
                return refused(incoming, NO_PORT);
            }
        };
        let Some(ip) = self.address_towards(incoming.peer) else {
            tracing::warn!("there is no address of ours that the caller could reach");
            return refused(incoming, NO_PORT);
        };
        let mut stream = self.stream((ip, reservation.port()).into(), incoming.trunk.as_deref());
        let (sdp, agreed) = match &incoming.offer {
            Some(offer) => match stream.answer(offer) {
                Ok((answer, mut agreed)) => {
                    agreed.session.confirmed = false;
                    (answer, Some(agreed))
                }
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
        let parameters = agreed.as_ref().map(|agreed| &agreed.session);
        let began = self.uptime_at(invited);
        let mut keep = Keep::begin(&self.service, id, &reservation);
        let mut dialog = incoming.snapshot();
        let ring = agent.ring_ms.get();
        if !ring.is_zero() {
            self.keep(keep.as_mut(), (&record, began), &dialog, &stream, parameters);
            self.service.settled().await;
            incoming.ringing().await.map_err(|_| Unanswered::Gone)?;
            tokio::select! {
                () = tokio::time::sleep(ring) => {}
                _ = incoming.cancelled() => return Err(Unanswered::Gone),
            }
            if self.doors().closed {
                return refused(incoming, DRAINING);
            }
        }
        // Before it is said: whoever goes on from here says it again.
        dialog.phase = Phase::Answered;
        dialog.local_sdp = Some(sdp.clone());
        record.answered = Some(self.present(&record, began));
        self.keep(keep.as_mut(), (&record, began), &dialog, &stream, parameters);
        if ring.is_zero() {
            self.service.settled().await;
            incoming.ringing().await.map_err(|_| Unanswered::Gone)?;
        }
        let mut sip = incoming.answer(sdp).await.map_err(|_| Unanswered::Gone)?;
        let agreed = match agreed {
            Some(agreed) => agreed,
            None => match late_answer(&mut sip, &mut stream).await {
                Some(agreed) => agreed,
                None => return Ok(None),
            },
        };
        agreed.codec.clone_into(&mut record.codec);
        let session = match self.media.open(reservation, agreed.session.clone()) {
            Ok(session) => session,
            Err(error) => {
                tracing::error!(%error, "an answered call has no media and is ended");
                sip.hangup().await;
                return Ok(None);
            }
        };
        if counts(&record) {
            self.metrics.calls.answered.inc();
            self.counts.set_up(self.clock.now().saturating_duration_since(invited));
        }
        self.record(record.clone());
        tracing::info!(codec = record.codec, "answered");
        Ok(Some(Box::new(Up {
            record,
            agent,
            sip,
            session,
            parameters: agreed.session,
            stream,
            keep,
            began,
            before: None,
            leg: None,
        })))
    }

    /// The address that audio of a peer is to come to.
    pub(super) fn address_towards(&self, peer: SocketAddr) -> Option<IpAddr> {
        address_towards(peer, self.media_bind, &self.advertised)
    }

    /// A stream of which nothing is agreed on yet, as this trunk wants it.
    pub(super) fn stream(&self, rtp: SocketAddr, trunk: Option<&Trunk>) -> Stream {
        let names = StreamNames::draw(&mut *self.random.lock().unwrap_or_else(PoisonError::into_inner));
        let policy = match trunk {
            Some(trunk) => MediaPolicy { inband_keys: self.policy.inband_keys, ..MediaPolicy::from(trunk) },
            None => self.policy.clone(),
        };
        Stream::new(rtp, names, self.silence, &policy)
    }

    /// Lists a call as one that is up.
    pub(super) fn list(&self, record: &CallRecord) -> LiveEntry {
        self.live.enter(LiveCall {
            id: record.id,
            agent: record.agent.clone(),
            direction: record.direction,
            from: record.from.clone(),
            to: record.to.clone(),
            codec: record.codec.clone(),
            started: record.started,
            state: LiveState::Speaking,
            turns: record.turns,
        })
    }

    /// Keeps a call of which nothing was heard yet.
    fn keep(
        &self,
        keep: Option<&mut Keep>,
        (record, began): (&CallRecord, Duration),
        dialog: &DialogState,
        stream: &Stream,
        session: Option<&SessionParameters>,
    ) {
        let parts = KeptParts {
            record,
            began,
            turns: 0,
            media: MediaStats::default(),
            dialog: dialog.clone(),
            stream,
            session,
            stats: &media::SessionStats::default(),
            dialogue: None,
            hear_from: 0,
            leg: None,
            over: None,
        };
        if let Some(keep) = keep {
            keep.write(&KeptCall::new(parts, self.clock.as_ref()), self.clock.now());
        }
    }

    /// Begins a conversation, in a task of its own: what it took to get here need not be kept as long as they talk.
    pub(super) fn begin(self: &Arc<Self>, up: Up, span: Span) {
        let Up { record, agent, sip, session, parameters, stream, keep, began, before, leg } = up;
        let live = self.list(&record);
        let port = self.engine.attach(record.id);
        let conversation = Box::new(Conversation {
            exchange: Arc::clone(self),
            agent,
            record,
            sip,
            session,
            parameters,
            stream,
            port,
            live,
            keep,
            began,
            before,
            handover: leg.map(|leg| Handover::Joined { leg }),
        });
        self.calls.spawn(Self::converse(conversation).instrument(span));
    }

    /// Holds a conversation to its end, and records that.
    async fn converse(conversation: Box<Conversation>) {
        let exchange = Arc::clone(&conversation.exchange);
        let active = While::new(&exchange.metrics.calls.active);
        let ended = conversation.hold().await;
        drop(active);
        let Ended { mut record, reason, turns, media: stats, keep } = *ended;
        tracing::info!(reason, turns, "ended");
        record.turns = turns;
        record.media = media_stats(record.media, &stats);
        exchange.quality.observe(&stats);
        exchange.counts.ended(&record, reason);
        record.end_reason = Some(reason.to_owned());
        Box::pin(exchange.record_end(record, keep)).await;
    }

    /// The machine's uptime at this instant.
    pub(super) fn uptime_at(&self, at: Instant) -> Duration {
        self.clock.uptime().saturating_sub(self.clock.now().saturating_duration_since(at))
    }

    /// Now, counted from the start of a call: whoever sets the calendar clock meanwhile does not change how long it was.
    pub(super) fn present(&self, record: &CallRecord, began: Duration) -> Timestamp {
        self.moment(record, began, self.clock.now())
    }

    /// The same of another instant.
    pub(super) fn moment(&self, record: &CallRecord, began: Duration, at: Instant) -> Timestamp {
        record.started + self.uptime_at(at).saturating_sub(began)
    }

    /// Records a call, as its agent wants it; as the owner does, if there is no such agent any more.
    pub(super) fn record(&self, record: CallRecord) {
        let own = privacy(&record, self.agents().named(&record.agent));
        self.storage.keep(Record::Call(Box::new(record)), own);
    }

    /// Records the end of a call; nothing of it is kept from then on.
    pub(super) async fn record_end(&self, record: CallRecord, keep: Option<Keep>) {
        if self.traces.is_on() {
            self.traces.send(trace::call(&record));
        }
        self.record(record);
        if keep.is_some() {
            let storage = self.storage.clone();
            // Whoever dies until then leaves it to the next daemon.
            if tokio::task::spawn_blocking(move || storage.flush()).await.is_err() {
                tracing::error!("the end of a call may not be recorded");
            }
        }
    }

    async fn refuse(&self, incoming: IncomingCall, refuse: &Refuse) {
        self.metrics.calls.refused(refuse.counted);
        tracing::info!(status = refuse.status, why = refuse.counted.as_str(), "a call was refused");
        let retry_after = refuse.retry.then(|| self.retry_after.load(Ordering::Relaxed));
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
    /// The machine's uptime when it began.
    pub(super) began: Duration,
    /// What an earlier daemon left of its conversation.
    pub(super) before: Option<Before>,
    /// Whom the caller was joined to.
    pub(super) leg: Option<Box<Leg>>,
}

fn fixed_texts(agents: &Agents) -> Vec<Fixed> {
    agents.iter().flat_map(|agent| phrases::fixed_texts(agent)).collect()
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
