//! What happens to calls, as it happens. Enters: from each call's task, one event; leaves: the same, in order, to whoever
//! watches. The last ones are kept in one ring for all who watch: who is too slow loses the oldest and is told how many.
//! Publishing takes a lock for the time of a push, and waits for nobody.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

use super::{LiveCall, answers};
use crate::base::{CallId, Clock, Pii};
use crate::storage::{Direction, Timestamp, TurnRecord};

/// Events that are kept: some seconds of a hundred calls.
const KEPT: usize = 2048;

/// Events that a reader takes at once.
const BATCH: usize = 64;

/// Something that happened to a call. What a caller said or who they are is `None` where it must not be shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happened {
    /// A call is up.
    CallStarted {
        /// Who speaks with them.
        agent: String,
        /// Who called whom.
        direction: Direction,
        /// The caller.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<Pii<String>>,
        /// The callee.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<Pii<String>>,
        /// The INVITE.
        started: Timestamp,
    },
    /// It is over.
    CallEnded {
        /// Why.
        reason: String,
    },
    /// The caller began to speak, or went on.
    CallerSpeaking,
    /// A pause of the caller: work on an answer begins, in case they have finished.
    CallerPaused {
        /// The attempt.
        turn: u32,
    },
    /// What the ears understood so far; if the caller goes on, it is revoked.
    CallerSaid {
        /// The turn.
        turn: u32,
        /// The words.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<Pii<String>>,
    },
    /// The caller went on: nothing of this turn counts.
    TurnRevoked {
        /// The turn.
        turn: u32,
    },
    /// The caller has finished: what was understood is final.
    EndOfTurn {
        /// The turn.
        turn: u32,
        /// Milliseconds from their last sound to this decision.
        quiet_ms: u64,
    },
    /// A clause of the answer is known.
    AgentSays {
        /// The turn.
        turn: u32,
        /// Counts from 0 within the turn.
        clause: u32,
        /// The words.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<Pii<String>>,
    },
    /// The caller interrupted the agent.
    Interrupted {
        /// The turn.
        turn: u32,
    },
    /// A turn is over: what was said, and where its time went.
    TurnEnded {
        /// The turn.
        turn: u32,
        /// What the ears understood.
        #[serde(skip_serializing_if = "Option::is_none")]
        caller_text: Option<Pii<String>>,
        /// What of the answer was heard.
        #[serde(skip_serializing_if = "Option::is_none")]
        heard_text: Option<Pii<String>>,
        /// Whether the caller cut it short.
        interrupted: bool,
        /// By stage, in microseconds.
        timings_us: BTreeMap<&'static str, u64>,
    },
    /// The agent listens.
    Listening,
    /// The far end has put the call on hold, or is back.
    Hold {
        /// Which of the two.
        held: bool,
    },
    /// The caller is being handed over.
    Transfer {
        /// To which of the agent's transfers.
        to: String,
    },
    /// They are back: nobody was reached.
    TransferFailed {
        /// Why.
        reason: String,
    },
}

impl Happened {
    pub(super) fn started(call: &LiveCall) -> Self {
        Self::CallStarted {
            agent: call.agent.clone(),
            direction: call.direction,
            from: Some(call.from.clone()),
            to: Some(call.to.clone()),
            started: call.started,
        }
    }

    /// A turn that was recorded.
    #[must_use]
    pub fn turn(turn: &TurnRecord) -> Self {
        Self::TurnEnded {
            turn: turn.turn.0,
            caller_text: Some(turn.caller_text.clone()),
            heard_text: Some(turn.heard_text.clone()),
            interrupted: turn.interrupted,
            timings_us: answers::timings(&turn.timings_us),
        }
    }

    /// Its name on the wire.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::CallStarted { .. } => "call_started",
            Self::CallEnded { .. } => "call_ended",
            Self::CallerSpeaking => "caller_speaking",
            Self::CallerPaused { .. } => "caller_paused",
            Self::CallerSaid { .. } => "caller_said",
            Self::TurnRevoked { .. } => "turn_revoked",
            Self::EndOfTurn { .. } => "end_of_turn",
            Self::AgentSays { .. } => "agent_says",
            Self::Interrupted { .. } => "interrupted",
            Self::TurnEnded { .. } => "turn_ended",
            Self::Listening => "listening",
            Self::Hold { .. } => "hold",
            Self::Transfer { .. } => "transfer",
            Self::TransferFailed { .. } => "transfer_failed",
        }
    }

    /// Without a word or a number of a caller.
    pub(super) fn without_callers(&self) -> Self {
        let mut bare = self.clone();
        match &mut bare {
            Self::CallStarted { from, to, .. } => (*from, *to) = (None, None),
            Self::CallerSaid { text, .. } | Self::AgentSays { text, .. } => *text = None,
            Self::TurnEnded { caller_text, heard_text, .. } => (*caller_text, *heard_text) = (None, None),
            _ => {}
        }
        bare
    }
}

/// An event, with its place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Event {
    /// Counts up from the start of the daemon.
    #[serde(skip)]
    pub(super) number: u64,
    /// When.
    pub(super) at: Timestamp,
    /// Of which call.
    #[serde(serialize_with = "as_text")]
    pub(super) call: CallId,
    /// What.
    #[serde(flatten)]
    pub(super) happened: Happened,
}

fn as_text<S: serde::Serializer>(call: &CallId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(call)
}

struct Ring {
    kept: VecDeque<Arc<Event>>,
    next: u64,
}

/// Where events are put; cheap to clone.
#[derive(Clone)]
pub struct Events {
    ring: Arc<Mutex<Ring>>,
    /// The number of the next event, to wake who waits for it.
    next: Arc<watch::Sender<u64>>,
    clock: Arc<dyn Clock>,
    /// Tells this daemon's events from those of the one before.
    epoch: u64,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let epoch = Timestamp::from(clock.wall()).0.unsigned_abs();
        let ring = Ring { kept: VecDeque::with_capacity(KEPT), next: 0 };
        Self { ring: Arc::new(Mutex::new(ring)), next: Arc::default(), clock, epoch }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever watches.
    pub fn publish(&self, call: CallId, happened: Happened) {
        let at = Timestamp::from(self.clock.wall());
        let mut ring = self.ring();
        let number = ring.next;
        ring.next += 1;
        if ring.kept.len() == KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(Arc::new(Event { number, at, call, happened }));
        drop(ring);
        self.next.send_if_modified(|next| {
            let later = *next <= number;
            *next = (*next).max(number + 1);
            later
        });
    }

    /// Reads on after the event of this id, if it is one of ours; else from now on.
    #[must_use]
    pub fn watch(&self, after: Option<&str>) -> Watcher {
        let next = self.ring().next;
        let known = after.and_then(|id| {
            let (epoch, number) = id.split_once('-')?;
            let number: u64 = number.parse().ok()?;
            (epoch.parse() == Ok(self.epoch) && number < next).then_some(number + 1)
        });
        Watcher {
            events: self.clone(),
            at: known.unwrap_or(next),
            resumes: known.is_some(),
            next: self.next.subscribe(),
        }
    }

    /// Leaves out of what is kept who these calls were with, and what was said in them.
    pub(super) fn forget(&self, calls: &HashSet<CallId>) {
        for event in self.ring().kept.iter_mut().filter(|event| calls.contains(&event.call)) {
            *event = Arc::new(Event { happened: event.happened.without_callers(), ..Event::clone(event) });
        }
    }

    /// The id of an event's number.
    pub(super) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch)
    }
}

/// Someone who watches.
pub struct Watcher {
    events: Events,
    /// The number that comes next.
    at: u64,
    /// It goes on where it was.
    pub(super) resumes: bool,
    next: watch::Receiver<u64>,
}

/// What a watcher gets.
#[derive(Debug)]
pub struct Batch {
    /// How many were lost before these: they came too fast.
    pub lost: u64,
    /// In order; at least one.
    pub events: Vec<Arc<Event>>,
}

impl Watcher {
    /// The id of the last event that was seen.
    pub(super) fn id(&self) -> Option<String> {
        self.at.checked_sub(1).map(|number| self.events.id(number))
    }

    /// What is there already.
    pub fn ready(&mut self) -> Option<Batch> {
        let ring = self.events.ring();
        let oldest = ring.next - ring.kept.len() as u64;
        let from = self.at.max(oldest);
        let lost = from - self.at;
        let skip = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        let events: Vec<_> = ring.kept.iter().skip(skip).take(BATCH).cloned().collect();
        drop(ring);
        self.at = from + events.len() as u64;
        (!events.is_empty()).then_some(Batch { lost, events })
    }

    /// What comes next.
    pub async fn next(&mut self) -> Batch {
        loop {
            self.next.mark_unchanged();
            if let Some(batch) = self.ready() {
                return batch;
            }
            if self.next.changed().await.is_err() {
                // The sender lives as long as `events`.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::{ManualClock, SystemClock};

    fn events() -> Events {
        Events::new(Arc::new(ManualClock::default()))
    }

    fn said(text: &str) -> Happened {
        Happened::CallerSaid { turn: 1, text: Some(Pii::new(text.into())) }
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_sees_everything_in_order_and_goes_on_where_it_was() {
        let events = events();
        events.publish(CallId(1), Happened::CallerSpeaking);
        let mut watcher = events.watch(None);
        assert!(watcher.ready().is_none() && !watcher.resumes, "what was before is not told");
        let publisher = events.clone();
        tokio::spawn(async move {
            for text in ["a", "b", "c"] {
                tokio::time::sleep(Duration::from_secs(1)).await;
                publisher.publish(CallId(1), said(text));
            }
        });
        let first = watcher.next().await;
        assert_eq!((first.lost, &first.events[0].happened), (0, &said("a")));
        let id = watcher.id().expect("an id");
        drop(watcher);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut again = events.watch(Some(&id));
        assert!(again.resumes);
        let rest: Vec<_> = again.next().await.events.iter().map(|event| event.happened.clone()).collect();
        assert_eq!(rest, [said("b"), said("c")]);
        for strange in ["", "x", "7-0", "0-99", "-"] {
            assert!(!events.watch(Some(strange)).resumes, "{strange}");
        }
    }

    #[test]
    fn who_is_slow_loses_the_oldest_and_is_told_how_many() {
        let events = events();
        let mut watcher = events.watch(None);
        for _ in 0..KEPT + 10 {
            events.publish(CallId(1), Happened::Listening);
        }
        let (mut lost, mut seen) = (0, 0);
        while let Some(batch) = watcher.ready() {
            lost += batch.lost;
            seen += batch.events.len();
        }
        assert_eq!((lost, seen), (10, KEPT));
    }

    #[test]
    fn nobody_is_named_where_callers_are_not_shown() {
        let call = LiveCall {
            id: CallId(1),
            agent: "desk".into(),
            direction: Direction::Inbound,
            from: Pii::new("+15550100".into()),
            to: Pii::new("+15550100".into()),
            codec: String::new(),
            started: Timestamp(0),
            state: super::super::LiveState::Listening,
            turns: 0,
        };
        let says = Happened::AgentSays { turn: 0, clause: 0, text: Some(Pii::new("swordfish".into())) };
        for happened in [Happened::started(&call), said("swordfish"), says] {
            let name = happened.name();
            let whole = serde_json::to_string(&happened).expect("JSON");
            let bare = serde_json::to_string(&happened.without_callers()).expect("JSON");
            assert!(whole.contains("5550100") || whole.contains("swordfish"));
            assert!(!bare.contains("5550100") && !bare.contains("swordfish"), "{bare}");
            assert!(bare.contains(&format!("\"event\":\"{name}\"")), "{bare}");
        }
    }

    #[test]
    fn words_of_a_call_that_is_erased_are_told_nobody_any_more() {
        let events = events();
        let mut watcher = events.watch(None);
        for call in [1, 2] {
            events.publish(CallId(call), said("swordfish"));
        }
        events.forget(&HashSet::from([CallId(1)]));
        let told: Vec<_> = watcher.ready().expect("both").events.iter().map(|event| event.happened.clone()).collect();
        assert_eq!(told, [said("swordfish").without_callers(), said("swordfish")]);
    }

    #[test]
    fn publishing_does_not_wait_for_who_watches() {
        let events = events();
        // Four that read nothing, and one that reads all the time.
        let _idle: Vec<_> = (0..4).map(|_| events.watch(None)).collect();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (mut busy, stopped) = (events.watch(None), Arc::clone(&stop));
        let reader = std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                drop(busy.ready());
            }
        });
        let mut took: Vec<Duration> = (0..20_000)
            .map(|_| {
                let begun = SystemClock.now();
                events.publish(CallId(1), said("words of an ordinary length, such as a caller says"));
                SystemClock.now() - begun
            })
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().expect("ended");
        took.sort();
        let p99 = took[took.len() * 99 / 100];
        println!("p50 {:?}, p99 {p99:?}", took[took.len() / 2]);
        assert!(p99 < Duration::from_micros(500), "{p99:?}");
    }
}
