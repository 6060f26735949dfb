//! Calls as the monitor knows them. Enters: events and records of the daemon, and the time; leaves: what is known of each
//! call. Whatever a caller may have chosen is made printable here. Never here: a terminal.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use callbox::storage::{Timestamp, Timing};
use serde_json::Value;

use super::sse::Event;
use crate::printable::printable;

/// A call that has ended is shown for so long.
const KEPT: Duration = Duration::from_secs(60);

/// So many calls that have ended are shown.
const ENDED: usize = 50;

/// Turns of a call that are kept, the last ones.
const TURNS: usize = 300;

/// Clauses of one answer that are shown.
const CLAUSES: u64 = 200;

/// What a call is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Doing {
    Held,
    Listening,
    Thinking,
    Speaking,
    Caller,
    Interrupted,
    HandedOver(String),
    Unreached(String),
    Ended(String),
}

impl Doing {
    /// For a list.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Listening | Self::Unreached(_) => "listening",
            Self::Thinking => "thinking",
            Self::Speaking => "speaking",
            Self::Caller | Self::Interrupted => "caller",
            Self::HandedOver(_) => "transfer",
            Self::Ended(_) => "ended",
        }
    }

    /// For a reader.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Held => "On hold.".into(),
            Self::Listening => "The agent listens.".into(),
            Self::Thinking => "The agent thinks.".into(),
            Self::Speaking => "The agent speaks.".into(),
            Self::Caller => "The caller speaks.".into(),
            Self::Interrupted => "The caller interrupts.".into(),
            Self::HandedOver(to) => format!("The caller is being handed over to {to}."),
            Self::Unreached(reason) => format!("Nobody was reached: {reason}."),
            Self::Ended(reason) => format!("The call has ended: {reason}."),
        }
    }

    fn named(state: &str) -> Self {
        match state {
            "held" => Self::Held,
            "thinking" => Self::Thinking,
            "speaking" => Self::Speaking,
            _ => Self::Listening,
        }
    }
}

/// A turn that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Turn {
    number: u64,
    pub(super) caller: String,
    /// What was heard of the answer.
    pub(super) agent: String,
    pub(super) interrupted: bool,
    /// Microseconds by stage.
    pub(super) timings: BTreeMap<&'static str, u64>,
}

impl Turn {
    fn read(turn: &Value) -> Option<Self> {
        let interrupted = turn["interrupted"] == true;
        // A record has also what the agent wanted to say; who is cut short has not said it.
        let said = ["heard_text", "agent_text"].map(|name| words(turn, name));
        let agent = if said[0].is_empty() && !interrupted { said[1].clone() } else { said[0].clone() };
        let timing = |stage: Timing| Some((stage.as_str(), turn["timings_us"][stage.as_str()].as_u64()?));
        let timings = Timing::ALL.into_iter().filter_map(timing).collect();
        Some(Self { number: turn["turn"].as_u64()?, caller: words(turn, "caller_text"), agent, interrupted, timings })
    }
}

/// The turn that goes on.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Open {
    pub(super) caller: String,
    /// The caller has finished.
    pub(super) is_final: bool,
    clauses: BTreeMap<u64, String>,
}

impl Open {
    /// What of the answer is known.
    pub(super) fn answer(&self) -> String {
        self.clauses.values().map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

/// A call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) agent: String,
    /// Who is at the other end, as "From …" or "To …".
    pub(super) title: String,
    pub(super) codec: String,
    pub(super) started: Option<Timestamp>,
    pub(super) doing: Doing,
    /// In order.
    pub(super) said: Vec<Turn>,
    pub(super) open: Open,
    /// When we learned of its end.
    pub(super) ended: Option<Timestamp>,
    /// Its earlier turns were asked for.
    filled: bool,
}

impl Call {
    /// Of a list or of `call_started`, which name the id differently.
    fn read(call: &Value, id: &str) -> Option<Self> {
        let id = call[id].as_str().map(printable)?;
        let outbound = call["direction"] == "outbound";
        let (preposition, other) = if outbound { ("To", words(call, "to")) } else { ("From", words(call, "from")) };
        Some(Self {
            title: if other.is_empty() { format!("Call {id}") } else { format!("{preposition} {other}") },
            id,
            agent: words(call, "agent"),
            codec: words(call, "codec"),
            started: call["started"].as_str().and_then(|time| time.parse().ok()),
            // Who starts is greeted.
            doing: call["state"].as_str().map_or(Doing::Speaking, Doing::named),
            said: Vec::new(),
            open: Open::default(),
            ended: None,
            filled: false,
        })
    }

    /// How long it has lasted.
    pub(super) fn lasted(&self, now: Timestamp) -> Option<Duration> {
        let micros = self.ended.unwrap_or(now).0.saturating_sub(self.started?.0);
        Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    }

    fn add(&mut self, turns: impl IntoIterator<Item = Turn>) {
        for turn in turns {
            match self.said.binary_search_by_key(&turn.number, |known| known.number) {
                Ok(at) => self.said[at] = turn,
                Err(at) => self.said.insert(at, turn),
            }
        }
        let surplus = self.said.len().saturating_sub(TURNS);
        self.said.drain(..surplus);
    }

    fn end(&mut self, reason: String, now: Timestamp) {
        self.open = Open::default();
        self.doing = Doing::Ended(reason);
        self.ended = Some(now);
    }

    fn happened(&mut self, name: &str, data: &Value, now: Timestamp) {
        match name {
            "call_ended" => self.end(words(data, "reason"), now),
            "caller_speaking" => self.doing = Doing::Caller,
            "caller_said" => self.open = Open { caller: words(data, "text"), ..Open::default() },
            "turn_revoked" => {
                self.open = Open { caller: std::mem::take(&mut self.open.caller), ..Open::default() };
                self.doing = Doing::Caller;
            }
            "end_of_turn" => {
                self.open.is_final = true;
                self.doing = if self.open.clauses.is_empty() { Doing::Thinking } else { Doing::Speaking };
            }
            "agent_says" => {
                if let Some(clause) = data["clause"].as_u64().filter(|clause| *clause < CLAUSES) {
                    self.open.clauses.insert(clause, words(data, "text"));
                }
                if self.open.is_final || self.open.caller.is_empty() {
                    self.doing = Doing::Speaking;
                }
            }
            "interrupted" => self.doing = Doing::Interrupted,
            "turn_ended" => {
                self.add(Turn::read(data));
                self.open = Open::default();
                self.doing = Doing::Listening;
            }
            "listening" => {
                self.open = Open::default();
                self.doing = Doing::Listening;
            }
            "hold" => self.doing = if data["held"] == true { Doing::Held } else { Doing::Listening },
            "transfer" => self.doing = Doing::HandedOver(words(data, "to")),
            "transfer_failed" => self.doing = Doing::Unreached(words(data, "reason")),
            // Of a later version.
            _ => {}
        }
    }
}

fn words(object: &Value, name: &str) -> String {
    object[name].as_str().map(printable).unwrap_or_default()
}

/// Calls that are up, newest first, with those that have just ended among them.
#[derive(Default, Debug)]
pub(super) struct Calls(Vec<Call>);

impl Calls {
    /// All of them.
    pub(super) fn all(&self) -> &[Call] {
        &self.0
    }

    /// One of them.
    pub(super) fn get(&self, id: &str) -> Option<&Call> {
        self.0.iter().find(|call| call.id == id)
    }

    /// How many are up.
    pub(super) fn up(&self) -> usize {
        self.0.iter().filter(|call| call.ended.is_none()).count()
    }

    /// Something happened.
    pub(super) fn happened(&mut self, event: &Event, now: Timestamp) {
        // What is no JSON says nothing.
        let Ok(data) = serde_json::from_str::<Value>(&event.data) else { return };
        match event.name.as_str() {
            "snapshot" => self.snapshot(&data, now),
            "call_started" => self.add(Call::read(&data, "call")),
            name => {
                if let Some(call) = self.0.iter_mut().find(|call| data["call"] == *call.id && call.ended.is_none()) {
                    call.happened(name, &data, now);
                }
            }
        }
    }

    fn snapshot(&mut self, data: &Value, now: Timestamp) {
        let up: Vec<Call> =
            data["calls"].as_array().into_iter().flatten().filter_map(|call| Call::read(call, "id")).collect();
        let ids: HashSet<&str> = up.iter().map(|call| call.id.as_str()).collect();
        for call in self.0.iter_mut().filter(|call| call.ended.is_none()) {
            // What was said meanwhile is asked for again.
            call.filled = false;
            if !ids.contains(call.id.as_str()) {
                call.end("while nobody watched".into(), now);
            }
        }
        self.add(up);
    }

    /// One that is known keeps what was said in it.
    fn add(&mut self, calls: impl IntoIterator<Item = Call>) {
        for call in calls {
            match self.0.iter_mut().find(|known| known.id == call.id) {
                Some(known) => {
                    let (said, open) = (std::mem::take(&mut known.said), std::mem::take(&mut known.open));
                    *known = Call { said, open, filled: known.filled, ..call };
                }
                None => self.0.push(call),
            }
        }
        self.0.sort_by(|a, b| (b.started, &b.id).cmp(&(a.started, &a.id)));
    }

    /// The turns of a call that were over before we watched.
    pub(super) fn record(&mut self, id: &str, record: &Value) {
        if let Some(call) = self.0.iter_mut().find(|call| call.id == id) {
            call.add(record["exchanges"].as_array().into_iter().flatten().filter_map(Turn::read));
        }
    }

    /// Whether its earlier turns are to be asked for; true once.
    pub(super) fn wants_record(&mut self, id: &str) -> bool {
        self.0.iter_mut().find(|call| call.id == id).is_some_and(|call| !std::mem::replace(&mut call.filled, true))
    }

    /// Takes off what has ended long enough ago, but not the one that is read.
    pub(super) fn sweep(&mut self, now: Timestamp, read: Option<&str>) {
        let mut ended = 0;
        self.0.retain(|call| {
            let Some(at) = call.ended else { return true };
            ended += 1;
            read == Some(call.id.as_str()) || (ended <= ENDED && now < at + KEPT)
        });
    }
}
