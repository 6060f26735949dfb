//! One answered call: its signalling, its media, its dialogue and its engine, joined.
//!
//! Enters: events of all four. Leaves: what the dialogue decides, done. Never here: a decision about the conversation, or
//! about packets. Audio passes from media to the engine and from the engine to media; nothing waits for the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use callbox_wire::{Event, Request};
use tokio::time::sleep_until;

use super::capture::{self, pass_on};
use super::exchange::{Exchange, media_stats};
use super::handover::{self, Fate, Handover, Happening, TRANSFERRED};
use super::hearing::Hearing;
use super::keep::{Keep, KeptCall, Over, Parts};
use super::librarian;
use super::recall::{Recall, Step};
use super::record;
use super::recording::{self, Tapped};
use super::retrieval::Retrieval;
use super::shelf::{Phrase, RATE, Shelf};
use super::stream::{Agreed, Stream};
use super::trace;
use crate::base::{CallId, TurnId};
use crate::control::{Happened, LiveEntry, LiveState, Wish};
use crate::dialogue::{self, Action, Agent, Dialogue, Errand, HangupReason, Input, Mark, TurnKind, Unreached};
use crate::engine::{News, Port, Role};
use crate::media::{self, MediaSession, PlayFrame, SessionParameters};
use crate::sip::{self, CallEvent, EndReason};
use crate::storage::{CallRecord, Record};
use crate::telemetry::turn_span;

/// Frames that wait in the playout: enough to ride out a busy moment, few enough that little is lost at a flush.
const IN_PLAYOUT: usize = 25;

/// Why a call has ended whose far end has vanished.
const MEDIA_TIMEOUT: &str = "media_timeout";

/// Why a call has ended that an operator did not want any more.
const OPERATOR: &str = "operator_hangup";

/// What a conversation is made of.
pub(super) struct Conversation {
    pub(super) exchange: Arc<Exchange>,
    pub(super) agent: Arc<Agent>,
    pub(super) sip: sip::Call,
    pub(super) session: MediaSession,
    pub(super) stream: Stream,
    pub(super) port: Port,
    pub(super) live: LiveEntry,
    /// As it was when the call was answered, or taken over.
    pub(super) record: CallRecord,
    /// What the media thread was told last.
    pub(super) parameters: SessionParameters,
    /// Where it is kept.
    pub(super) keep: Option<Keep>,
    /// The machine's uptime when it began.
    pub(super) began: Duration,
    pub(super) before: Option<Before>,
    /// Where handing the caller over is.
    pub(super) handover: Option<Handover>,
}

/// A conversation that an earlier daemon has begun.
pub(super) struct Before {
    pub(super) dialogue: dialogue::Kept,
    /// How long it was without a daemon.
    pub(super) gap: Duration,
    /// The frame of the caller from which on the next engine has to hear.
    pub(super) hear_from: u64,
    /// What the caller has said meanwhile.
    pub(super) missed: Vec<media::Samples>,
}

/// What wakes a conversation.
enum Wake {
    Signal(CallEvent),
    Media,
    News(News),
    Time,
    Drain,
    Handover(Happening),
    Wish(Wish),
}

/// Whether the far end still has to be told that it is over.
#[derive(PartialEq, Eq)]
enum Far {
    Up,
    Gone,
}

/// How a conversation went.
pub(super) struct Ended {
    /// As it was when the conversation began, and when it ended.
    pub(super) record: CallRecord,
    pub(super) reason: &'static str,
    pub(super) turns: u32,
    pub(super) media: media::SessionStats,
    /// To be dropped once the end is recorded.
    pub(super) keep: Option<Keep>,
}

/// What changes while it goes on.
struct State {
    dialogue: Dialogue,
    shelf: Shelf,
    hearing: Hearing,
    recall: Recall,
    retrieval: Retrieval,
    /// The turn whose words the engine was asked to embed last.
    embedding: Option<TurnId>,
    /// A stored phrase was wanted that had not been rendered yet.
    unheard: bool,
    hang_up: Option<HangupReason>,
    /// The caller is to be handed over to this target.
    wanted: Option<String>,
    began: Instant,
    turns: u32,
    on_hold: bool,
    /// There is something new to be kept.
    changed: bool,
    /// The call is recorded; true while nothing of it is.
    paused: Option<Arc<AtomicBool>>,
}

impl Conversation {
    /// Holds the conversation to its end.
    pub(super) async fn hold(mut self: Box<Self>) -> Box<Ended> {
        let now = self.exchange.clock.now();
        self.enter();
        let before = self.before.take();
        let hear_from = before.as_ref().map_or(0, |before| before.hear_from);
        let mut hearing = match &self.keep {
            Some(keep) => keep.hearing(hear_from),
            None => Hearing::new(None, 0),
        };
        let (dialogue, began) = match &before {
            Some(before) => {
                let agent = Arc::clone(&self.agent);
                let resumed = Dialogue::restore(self.call(), agent, before.dialogue.clone(), before.gap, now);
                let began = now.checked_sub(resumed.lasting()).unwrap_or(now);
                // There is no engine for it yet: it is only kept.
                before.missed.iter().for_each(|frame| drop(hearing.take(frame)));
                (resumed, began)
            }
            None => (Dialogue::new(self.call(), Arc::clone(&self.agent), now), now),
        };
        // Rooms of futures are as large as what is longest in them: here what lasts, in boxes what is rare.
        let mut state = Box::new(State {
            dialogue,
            shelf: Shelf::default(),
            hearing,
            recall: Recall::default(),
            retrieval: Retrieval::default(),
            embedding: None,
            unheard: false,
            hang_up: None,
            wanted: None,
            began,
            turns: self.record.turns,
            on_hold: self.stream.on_hold(),
            changed: true,
            paused: None,
        });
        // What became of engines before the call was attached is no news to its port.
        let ready = self.port.was_served();
        match (before, ready) {
            (None, true) => {
                self.ask(Request::Listen { call: self.call() });
                state.hearing.begin_now();
                self.tell(&mut state, Input::Answered);
            }
            (None, false) => {
                self.tell(&mut state, Input::EngineLost);
                self.tell(&mut state, Input::Answered);
            }
            (Some(_), true) => self.engine_ready(&mut state),
            (Some(_), false) => {}
        }
        if state.on_hold {
            self.live.update(|call| call.state = LiveState::Held);
            self.tell(&mut state, Input::Hold(true));
        }
        // What was under way when the daemon before died, and was not joined yet, has come to nothing.
        if self.handover.is_none() && state.dialogue.is_away() {
            self.back(&mut state, Unreached::Failed);
        }
        let drain = self.exchange.goodbye();
        let mut draining = false;
        let mut by_caller = false;
        // Who waits for the end.
        let mut asked = None;
        let (reason, far) = loop {
            self.play_out(&mut state);
            if self.handover.as_mut().is_some_and(|handover| handover.pass_to(&mut self.session) == Media::Gone) {
                break (MEDIA_TIMEOUT, Far::Up);
            }
            if let Some(name) = state.wanted.take() {
                Box::pin(self.hand_over(&mut state, &name)).await;
                continue;
            }
            if let Some(reason) = state.hang_up {
                break (reason.as_str(), Far::Up);
            }
            self.record(&mut state);
            self.keep(&mut state);
            self.leave();
            let deadline = state.dialogue.deadline().into_iter().chain(state.retrieval.deadline()).min();
            let wake = tokio::select! {
                event = self.sip.event() => Wake::Signal(event),
                () = self.session.readable() => Wake::Media,
                Some(news) = self.port.recv() => Wake::News(news),
                () = until(deadline) => Wake::Time,
                () = drain.cancelled(), if !draining => Wake::Drain,
                happening = Handover::next(&mut self.handover) => Wake::Handover(happening),
                wish = self.live.wish() => Wake::Wish(wish),
            };
            self.enter();
            match wake {
                Wake::Signal(CallEvent::Ended(reason)) => {
                    by_caller = reason == EndReason::RemoteHangup;
                    // Whose side has taken them over hangs up here.
                    let taken = by_caller && self.handover.as_ref().is_some_and(Handover::is_taken);
                    break (if taken { TRANSFERRED } else { ended_because(&reason) }, Far::Gone);
                }
                Wake::Signal(CallEvent::Referred(news)) => {
                    let record = &self.record;
                    let fate = handover::referred(&self.exchange, &mut self.handover, &self.sip, news, record);
                    let fate = Box::pin(fate).await;
                    if let Some(reason) = self.fate(&mut state, fate) {
                        break (reason, Far::Up);
                    }
                }
                Wake::Handover(Happening::Audio) => {}
                Wake::Handover(happening) => {
                    let fate = handover::happened(&self.exchange, &mut self.handover, &self.sip, happening);
                    let fate = Box::pin(fate).await;
                    if let Some(reason) = self.fate(&mut state, fate) {
                        break (reason, Far::Up);
                    }
                }
                Wake::Signal(event) => Box::pin(self.signalled(&mut state, event)).await,
                Wake::Media => {
                    if self.media_arrived(&mut state) == Media::Gone {
                        break (MEDIA_TIMEOUT, Far::Up);
                    }
                }
                Wake::News(news) => self.engine_said(&mut state, news),
                Wake::Time => {
                    if let Some(turn) = state.retrieval.is_late(self.exchange.clock.now()) {
                        self.embedded(&mut state, turn, None);
                    }
                    self.tell(&mut state, Input::Tick);
                }
                Wake::Wish(Wish::HangUp(done)) => {
                    asked = Some(done);
                    break (OPERATOR, Far::Up);
                }
                Wake::Wish(Wish::Say { words, done }) => {
                    drop(done.send(self.run(&mut state, Errand::Say(words.into_revealed()))));
                }
                Wake::Wish(Wish::Transfer { to, done }) => drop(done.send(self.run(&mut state, Errand::Transfer(to)))),
                Wake::Wish(Wish::Capture(done)) => {
                    if let Ok(capture) = self.session.capture(capture::WAITING) {
                        let clock = Arc::clone(&self.exchange.clock);
                        drop(done.send(pass_on(capture, self.stream.address(), clock)));
                    }
                }
                Wake::Drain => {
                    draining = true;
                    self.tell(&mut state, Input::Drain);
                }
            }
        };
        if far == Far::Up {
            Box::pin(self.sip.hangup()).await;
        }
        if let Some(done) = asked {
            // They may not wait any more.
            done.send(()).unwrap_or_default();
        }
        self.tell(&mut state, Input::HungUp);
        self.live.ends(reason);
        let over = Over {
            reason: reason.to_owned(),
            ended_us: self.exchange.present(&self.record, self.began).0,
            by_us: !by_caller,
        };
        self.write(&state, Some(over));
        // Only now: whoever goes on from what is kept has to know of the leg.
        if let Some(leg) = self.handover.take().and_then(Handover::into_leg) {
            Box::pin(leg.end(&self.exchange)).await;
        }
        let mut record = self.record.clone();
        record.ended = Some(self.exchange.present(&self.record, self.began));
        let keep = self.keep.take();
        Box::new(Ended { record, reason, turns: state.turns, media: self.session.stats(), keep })
    }

    fn enter(&self) {
        if let Some(keep) = &self.keep {
            keep.enter();
        }
    }

    fn leave(&self) {
        if let Some(keep) = &self.keep {
            keep.leave();
        }
    }

    /// Has the call recorded from the moment on at which the caller knows, but nobody whom they were handed over to.
    fn record(&mut self, state: &mut State) {
        if let Some(paused) = &state.paused {
            paused.store(self.handover.is_some(), Ordering::Relaxed);
        } else if state.dialogue.is_recorded()
            && let Ok(tap) = self.session.tap(recording::WAITING)
        {
            let paused = Arc::new(AtomicBool::new(self.handover.is_some()));
            self.exchange.recordings.begin(self.call(), Box::new(Tapped::new(tap)), Arc::clone(&paused));
            state.paused = Some(paused);
        }
    }

    /// Keeps what has changed: at once what was said or agreed on, soon how much of it was heard.
    fn keep(&mut self, state: &mut State) {
        let now = self.exchange.clock.now();
        let Some(keep) = self.keep.as_ref() else { return };
        if std::mem::take(&mut state.changed) || keep.is_due(self.session.queued() > 0, now) {
            self.write(state, None);
        }
    }

    fn write(&mut self, state: &State, over: Option<Over>) {
        let clock = self.exchange.clock.as_ref();
        let Some(keep) = self.keep.as_mut() else { return };
        let stats = self.session.stats();
        let parts = Parts {
            record: &self.record,
            began: self.began,
            turns: state.turns,
            media: media_stats(self.record.media, &stats),
            dialog: self.sip.snapshot(),
            stream: &self.stream,
            session: Some(&self.parameters),
            stats: &stats,
            dialogue: state.dialogue.kept(),
            hear_from: state.hearing.hear_from(state.dialogue.unheard_from()),
            leg: self.handover.as_ref().and_then(|handover| handover.kept(clock)),
            over,
        };
        keep.write(&KeptCall::new(parts, clock), clock.now());
    }

    async fn hand_over(&mut self, state: &mut State, name: &str) {
        let agent = Arc::clone(&self.agent);
        let begun = match agent.transfers.iter().find(|transfer| transfer.name.as_str() == name) {
            Some(target) => handover::begin(&self.exchange, &self.sip, target, &self.record).await,
            None => Err(Unreached::Failed),
        };
        match begun {
            Ok(begun) => self.handover = Some(begun),
            Err(why) => self.back(state, why),
        }
        state.changed = true;
    }

    /// Does what has become of a caller who is handed over; the reason if the call is over with it.
    fn fate(&mut self, state: &mut State, fate: Fate) -> Option<&'static str> {
        state.changed = true;
        if let (Some(Handover::Joined { leg }), Some(keep)) = (&mut self.handover, &self.keep)
            && let Some(sockets) = leg.take_sockets()
        {
            keep.store_leg(sockets);
        }
        match fate {
            Fate::Away => None,
            Fate::Back(why) => {
                self.handover = None;
                if state.hearing.listens() {
                    // From here on, and nothing of what was said meanwhile.
                    self.ask(Request::Listen { call: self.call() });
                    state.hearing.begin_now();
                }
                self.back(state, why);
                None
            }
            Fate::Gone(reason) => Some(reason),
        }
    }

    /// Whom the caller was to be handed over to was not reached.
    fn back(&mut self, state: &mut State, why: Unreached) {
        self.exchange.counts.unreached(why);
        self.live.tell(Happened::TransferFailed { reason: why.as_str().to_owned() });
        self.tell(state, Input::Unreached(why));
    }

    /// Has the agent do what an operator wants, once nobody has the floor.
    fn run(&mut self, state: &mut State, errand: Errand) -> Result<(), String> {
        state.dialogue.take_errand(errand).map_err(|why| why.to_string())?;
        state.changed = true;
        self.tell(state, Input::Tick);
        Ok(())
    }

    /// A key of the caller's: for whom they were joined to, or for the agent.
    fn pressed(&mut self, state: &mut State, key: char) {
        if !self.handover.as_mut().is_some_and(|handover| handover.press(key)) {
            self.tell(state, Input::Dtmf(key));
        }
    }

    const fn call(&self) -> CallId {
        self.port.call()
    }

    /// Gives the dialogue an input and does what it answers.
    fn tell(&mut self, state: &mut State, input: Input) {
        let now = self.exchange.clock.now();
        let mut actions = Vec::new();
        state.dialogue.handle(now, input, &mut actions);
        state.changed |= !actions.is_empty();
        for action in actions {
            self.act(state, action);
        }
    }

    fn act(&mut self, state: &mut State, action: Action) {
        let (call, spoken) = (self.call(), self.agent.language);
        match action {
            Action::Transcribe { turn, from, to } => self.ask(Request::transcribe(spoken, call, turn, (from, to))),
            Action::Think { turn, messages, sampling } => self.ask(match self.agent.adapter() {
                None => Request::Think { call, turn, messages, sampling },
                Some(adapter) => {
                    Request::ThinkWith { adapter: adapter.into(), call, turn, messages, sampling: sampling.into() }
                }
            }),
            Action::Recall { turn, words, asked } => self.recall(state, turn, words.reveal(), asked),
            Action::Retrieve { turn, question } => self.retrieve(state, turn, question.into_revealed()),
            Action::Speak { turn, clause, text } => match self.ready(state, &text) {
                Some(phrase) => state.shelf.put(turn, clause, &phrase),
                None => {
                    state.recall.spoken_by_engine(&self.agent, turn, clause, &text);
                    let (credit, voice) = (state.shelf.ask(turn, clause), self.agent.voice().map(str::to_owned));
                    self.ask(Request::Speak { call, turn, clause, text, rate: RATE, credit, voice });
                }
            },
            Action::Play { turn } => state.shelf.play(turn),
            Action::PlayStored(phrase) => match self.exchange.phrases.stored(&self.agent, phrase) {
                Some(phrase) => state.shelf.play_stored(&phrase),
                None => {
                    tracing::warn!("a stored phrase was not rendered yet; the caller hears nothing");
                    state.unheard = true;
                }
            },
            Action::Cancel { turn } => {
                state.shelf.cancel(turn);
                state.recall.cancelled(turn);
                state.retrieval.cancelled(turn);
                self.ask(Request::Cancel { call, turn });
            }
            Action::Flush => {
                state.shelf.flush();
                self.session.flush();
            }
            Action::Transfer { name } => {
                self.live.tell(Happened::Transfer { to: name.clone() });
                state.wanted = Some(name);
            }
            Action::Hangup(reason) => state.hang_up = Some(reason),
            Action::Record(turn) => {
                state.shelf.cancel(turn.turn);
                if turn.kind != TurnKind::Greeting {
                    state.turns += 1;
                }
                let turns = state.turns;
                self.live.update(|call| call.turns = turns);
                let clock = self.exchange.clock.as_ref();
                if record::counts(&self.record) {
                    record::count(&turn, &self.exchange.metrics.calls);
                    self.exchange.counts.turn(&turn);
                }
                state.recall.over(&self.exchange.answers, &self.agent, &turn);
                let kept = record::turn(call, &turn, self.exchange.mind(&self.agent), clock, state.began);
                record::log(&kept);
                if self.exchange.traces.is_on() {
                    let when = |at| self.exchange.moment(&self.record, self.began, at);
                    self.exchange.traces.send(trace::turn(&turn, &kept, when));
                }
                self.live.tell(Happened::turn(&kept));
                let own = record::privacy(&self.record, Some(&self.agent));
                self.exchange.storage.keep(Record::Turn(Box::new(kept)), own);
            }
            Action::Mark(mark) => self.mark(&mark),
        }
    }

    /// What is waiting to be said, or a sound that was put on the shelf without the engine, is told to the dialogue as
    /// the engine would have told it.
    fn play_out(&mut self, state: &mut State) {
        if let Some((turn, clauses, known)) = state.recall.take(&self.exchange.answers, &self.agent) {
            self.tell(state, Input::Recalled { turn, answer: Some((clauses, known)) });
        }
        if let Some((turn, found)) = state.retrieval.take() {
            self.tell(state, Input::Retrieved { turn, found });
        }
        for ready in state.shelf.announcements() {
            let (turn, clause) = (ready.turn, ready.clause);
            self.tell(state, Input::Audio { turn, clause });
            self.tell(state, Input::Spoken { turn, clause, frames: ready.frames, compute_us: 0 });
        }
        if std::mem::take(&mut state.unheard) {
            self.tell(state, Input::PlayoutDrained);
        }
        let mut heard = Vec::new();
        state.shelf.waiting(self.session.queued(), |part| heard.push(part));
        for part in heard {
            self.tell(state, Input::Played { turn: part.turn, clause: part.clause, frames: part.frames });
        }
        while self.session.queued() < IN_PLAYOUT
            && !self.session.is_full()
            && let Some(frame) = state.shelf.hand()
        {
            let frame = PlayFrame { turn: frame.turn, clause: frame.clause, samples: frame.samples };
            if self.session.push(frame).is_err() {
                tracing::error!("the playout is full; a frame was lost");
            }
        }
        let call = self.call();
        for (turn, frames) in state.shelf.grants(self.session.queued()) {
            if self.port.send(Request::Grant { call, turn, frames }).is_err() {
                tracing::warn!("the engine's queue is full; credit was lost");
            }
        }
    }

    fn media_arrived(&mut self, state: &mut State) -> Media {
        let call = self.call();
        while let Some(frame) = self.session.recv() {
            // What the caller says over our own voice is not in a frame of it.
            let samples = if frame.echo { &[0; media::FRAME] } else { &frame.samples };
            let heard = state.hearing.take(samples);
            match (&mut self.handover, heard) {
                // What they say to each other is not for the engine.
                (Some(handover), _) => handover.take_from(frame.samples),
                (None, Some(pcm)) => self.ask(Request::Hear { call, pcm }),
                (None, None) => {}
            }
        }
        let events: Vec<media::Event> = self.session.events().collect();
        for event in events {
            match event {
                media::Event::Dtmf { digit, .. } => self.pressed(state, *digit.reveal()),
                // More may have been handed over since the playout ran dry.
                media::Event::Drained if state.shelf.is_empty() && self.session.queued() == 0 => {
                    self.play_out(state);
                    self.tell(state, Input::PlayoutDrained);
                }
                media::Event::Silence { since } if self.stream.silence_is_end() => {
                    tracing::warn!(seconds = since.as_secs(), "no audio arrives; the call is ended");
                    return Media::Gone;
                }
                _ => {}
            }
        }
        if self.session.is_alive() { Media::Flows } else { Media::Gone }
    }

    fn engine_said(&mut self, state: &mut State, news: News) {
        match news {
            News::Lost => {
                state.hearing.lost(state.dialogue.unheard_from());
                self.tell(state, Input::EngineLost);
            }
            // One that was ready when the call was attached is told of twice.
            News::Ready if state.hearing.listens() => {}
            News::Ready => self.engine_ready(state),
            News::Event(event) => match event {
                Event::Activity { at, speech, .. } if state.hearing.has_sent(at) => {
                    self.tell(state, Input::Activity { at, speech });
                }
                Event::Activity { .. } => {}
                Event::Heard { turn, transcript, .. } => self.tell(state, Input::Heard { turn, transcript }),
                Event::Token { turn, text, .. } => self.tell(state, Input::Token { turn, text }),
                Event::Thought { turn, thought, .. } => self.tell(state, Input::Thought { turn, thought }),
                Event::Audio { turn, clause, pcm, .. } => {
                    if state.shelf.arrived(turn, clause, &pcm.0) {
                        state.recall.frame(turn, clause, &pcm.0);
                        self.tell(state, Input::Audio { turn, clause });
                    }
                }
                Event::Spoken { turn, clause, frames, compute_us, .. } => {
                    state.shelf.complete(turn, clause);
                    self.tell(state, Input::Spoken { turn, clause, frames, compute_us });
                }
                Event::Embedded { turn, vector, .. } => self.embedded(state, turn, Some(&vector)),
                // Then nothing is known, and the mind answers.
                Event::Failed { turn, role: Role::Embed, .. } => self.embedded(state, turn, None),
                Event::Failed { turn, role, failure, reason, .. } => {
                    turn_span(turn)
                        .in_scope(|| tracing::warn!(?role, ?failure, reason, "the engine could not do its work"));
                    self.tell(state, Input::Failed { turn, role, failure });
                }
                Event::Ready { .. } | Event::Pong { .. } | Event::Adapters { .. } => {}
            },
        }
    }

    /// Looks whether the answer is known.
    fn recall(&self, state: &mut State, turn: TurnId, words: &str, asked: bool) {
        let (answers, now) = (&self.exchange.answers, self.exchange.clock.now());
        if matches!(state.recall.look(answers, &self.agent, turn, words, asked, now), Step::Embed)
            && !self.embed(state, turn, words)
        {
            state.recall.embedded(answers, &self.agent, turn, None, now);
        }
    }

    /// Looks what the agent's documents say.
    fn retrieve(&self, state: &mut State, turn: TurnId, question: String) {
        let (knowledge, now) = (&self.exchange.knowledge, self.exchange.clock.now());
        // The same vector does for both, if the cache needs one, too.
        if state.retrieval.ask(knowledge, &self.agent, turn, question.clone(), now)
            && state.embedding != Some(turn)
            && !self.embed(state, turn, &question)
        {
            state.retrieval.embedded(knowledge, &self.agent, turn, None);
        }
    }

    /// Asks for the vector of a turn's words; false if none will come: an engine without an embedder knows the same words
    /// only.
    fn embed(&self, state: &mut State, turn: TurnId, words: &str) -> bool {
        let request = Request::Embed { call: self.call(), turn, text: words.to_owned(), urgent: true };
        let asked =
            librarian::model_of(&self.exchange.engine, Role::Embed).is_some() && self.port.send(request).is_ok();
        if asked {
            state.embedding = Some(turn);
        }
        asked
    }

    fn embedded(&mut self, state: &mut State, turn: TurnId, vector: Option<&[f32]>) {
        state.recall.embedded(&self.exchange.answers, &self.agent, turn, vector, self.exchange.clock.now());
        state.retrieval.embedded(&self.exchange.knowledge, &self.agent, turn, vector);
        // What was found is told with what is on the shelf; that there is nothing, ends the stage.
        if !state.recall.has_found() {
            self.tell(state, Input::Recalled { turn, answer: None });
        }
    }

    /// Audio of a clause that needs no engine.
    fn ready(&self, state: &State, text: &str) -> Option<Phrase> {
        state.recall.ready(text).or_else(|| self.exchange.phrases.get(self.agent.voice(), text))
    }

    /// There is an engine (again): it hears what was said while there was none.
    fn engine_ready(&mut self, state: &mut State) {
        let call = self.call();
        self.ask(Request::Listen { call });
        if state.hearing.begin() {
            self.tell(state, Input::Recorded);
        }
        self.tell(state, Input::EngineReady);
        if let Some(pcm) = state.hearing.portion() {
            self.ask(Request::Hear { call, pcm });
        }
    }

    async fn signalled(&mut self, state: &mut State, event: CallEvent) {
        match event {
            CallEvent::Offer { sdp, reply } => {
                let replied = match sdp.map(|sdp| self.stream.answer(&sdp)) {
                    None => reply.accept(self.stream.offer()).await,
                    Some(Ok((answer, agreed))) => {
                        self.agreed(state, agreed);
                        reply.accept(answer).await
                    }
                    Some(Err(error)) => {
                        tracing::info!(%error, "a change of media was refused");
                        reply.refuse(error.status()).await
                    }
                };
                if replied.is_err() {
                    tracing::debug!("the call ended while its media was to be changed");
                }
            }
            CallEvent::Confirmed { answer: None } => {
                self.parameters.confirmed = true;
                self.update(state);
            }
            // The answer to an offer of ours in a re-INVITE without SDP.
            CallEvent::Confirmed { answer: Some(sdp) } => match self.stream.answered(&sdp) {
                Ok(agreed) => self.agreed(state, agreed),
                Err(error) => {
                    tracing::warn!(%error, "the answer to our offer cannot be used; the call is ended");
                    self.sip.hangup().await;
                }
            },
            // Who sends telephone events as well has said it already.
            CallEvent::Info { content_type, body } if self.session.stats().keys == 0 => {
                state.changed = true;
                if let Some(key) = sip::info::key(&content_type, body.reveal()) {
                    self.pressed(state, key);
                }
            }
            // The dialog has changed, if nothing else.
            _ => state.changed = true,
        }
    }

    fn agreed(&mut self, state: &mut State, agreed: Agreed) {
        self.parameters = agreed.session;
        self.update(state);
        if state.on_hold != self.stream.on_hold() {
            state.on_hold = self.stream.on_hold();
            self.live.update(|call| call.state = if state.on_hold { LiveState::Held } else { LiveState::Listening });
            self.live.tell(Happened::Hold { held: state.on_hold });
            self.tell(state, Input::Hold(state.on_hold));
        }
    }

    fn update(&mut self, state: &mut State) {
        state.changed = true;
        if self.session.update(self.parameters.clone()).is_err() {
            tracing::error!("the media thread does not take changes; this one was lost");
        }
    }

    fn mark(&self, mark: &Mark) {
        self.live.tell(watched(mark));
        let state = match mark {
            Mark::CallerSpeaks | Mark::Listening | Mark::Interrupted { .. } => LiveState::Listening,
            Mark::EndOfTurn { .. } => LiveState::Thinking,
            Mark::AgentSays { .. } => LiveState::Speaking,
            _ => return,
        };
        if !self.stream.on_hold() {
            self.live.update(|call| call.state = state);
        }
    }

    /// A request that finds the engine's queue full is lost; the dialogue's own watch on each piece of work finds it.
    fn ask(&self, request: Request) {
        if self.port.send(request).is_err() {
            tracing::warn!("the engine's queue is full; a request was lost");
        }
    }
}

/// A mark, for who watches.
fn watched(mark: &Mark) -> Happened {
    match mark {
        Mark::CallerSpeaks => Happened::CallerSpeaking,
        Mark::CallerPaused { turn } => Happened::CallerPaused { turn: turn.0 },
        Mark::CallerSaid { turn, text } => Happened::CallerSaid { turn: turn.0, text: Some(text.clone()) },
        Mark::Revoked { turn } => Happened::TurnRevoked { turn: turn.0 },
        Mark::EndOfTurn { turn, quiet } => {
            Happened::EndOfTurn { turn: turn.0, quiet_ms: u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX) }
        }
        Mark::AgentSays { turn, clause, text } => {
            Happened::AgentSays { turn: turn.0, clause: clause.0, text: Some(text.clone()) }
        }
        Mark::Interrupted { turn } => Happened::Interrupted { turn: turn.0 },
        Mark::Listening => Happened::Listening,
    }
}

/// A word for records.
const fn ended_because(reason: &EndReason) -> &'static str {
    match reason {
        EndReason::LocalHangup => "agent_hangup",
        EndReason::RemoteHangup => "caller_hangup",
        EndReason::Cancelled => "cancelled",
        EndReason::NoAck => "no_ack",
        EndReason::Rejected { .. } => "rejected",
        EndReason::Timeout => "timeout",
        EndReason::Shutdown => "shutdown",
    }
}

/// Whether packets of a far end arrive, or are expected to.
#[derive(PartialEq, Eq)]
pub(super) enum Media {
    Flows,
    Gone,
}

pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
