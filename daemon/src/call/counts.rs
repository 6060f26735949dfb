//! What is counted of calls and turns that are over, beside how long their stages took. Enters: turns, ends of calls, calls
//! of ours; leaves: metrics. Never here: a label that a caller or an agent's file could make up.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::outgoing::NotReached;
use super::record::counts;
use crate::base::{Origin, Source};
use crate::dialogue::{HangupReason, Outcome, TurnKind, TurnRecord, Unreached};
use crate::engine::{Role, role_name};
use crate::storage::CallRecord;
use crate::telemetry::{LATENCY_BUCKETS, Label};

/// Seconds: from a wrong number to a long talk.
const LENGTHS: [f64; 11] = [1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

/// How calls end, beside what [`HangupReason`] names.
const ENDS: [&str; 16] = [
    "caller_hangup",
    "agent_hangup",
    "operator_hangup",
    "transferred",
    "media_timeout",
    "timeout",
    "no_ack",
    "cancelled",
    "rejected",
    "shutdown",
    "restart",
    "crashes",
    "no_agent",
    "lost_media",
    "lost_dialog",
    OTHER,
];

/// What no release of ours calls an end, as far as this one knows.
const OTHER: &str = "other";

fn ends() -> impl Iterator<Item = &'static str> {
    HangupReason::ALL.map(HangupReason::as_str).into_iter().chain(ENDS)
}

/// Of calls of ours.
const PLACED: [&str; 5] = ["answered", "busy", "no_answer", "declined", "failed"];

type Counters = Family<Label<&'static str>, Counter>;

fn add(counters: &Counters, label: &'static str, value: &'static str, count: u64) {
    counters.get_or_create(&[(label, value)]).inc_by(count);
}

/// All calls together.
#[derive(Debug)]
pub(super) struct Counts {
    turns: Family<[(&'static str, &'static str); 2], Counter>,
    answers: Counters,
    failures: Counters,
    retries: Counter,
    first_token: Histogram,
    queue: Histogram,
    compute: Family<Label<&'static str>, Counter<f64, std::sync::atomic::AtomicU64>>,
    tokens: Counters,
    ended: Counters,
    lasted: Histogram,
    setup: Histogram,
    placed: Counters,
    unreached: Counters,
}

impl Counts {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            turns: Family::default(),
            answers: Family::default(),
            failures: Family::default(),
            retries: Counter::default(),
            first_token: Histogram::new(LATENCY_BUCKETS),
            queue: Histogram::new(LATENCY_BUCKETS),
            compute: Family::default(),
            tokens: Family::default(),
            ended: Family::default(),
            lasted: Histogram::new(LENGTHS),
            setup: Histogram::new(LATENCY_BUCKETS),
            placed: Family::default(),
            unreached: Family::default(),
        };
        this.prepare();
        registry.register("turns", "Turns of agents that are over", this.turns.clone());
        registry.register(
            "answers",
            "Answers that were begun to be heard, by who chose the words",
            this.answers.clone(),
        );
        registry.register("turn_failures", "Turns in which a role of the engine failed", this.failures.clone());
        registry.register("turn_retries", "Work that was done again because the engine failed", this.retries.clone());
        let help = "From the question to the first token, waiting included";
        registry.register_with_unit("llm_first_token", help, Unit::Seconds, this.first_token.clone());
        let help = "The part of it that waited for other calls";
        registry.register_with_unit("llm_queue", help, Unit::Seconds, this.queue.clone());
        registry.register("llm_tokens", "Tokens of finished answers", this.tokens.clone());
        let help = "Time that roles of the engine computed for turns";
        registry.register_with_unit("engine_compute", help, Unit::Seconds, this.compute.clone());
        registry.register("calls_ended", "Calls that are over", this.ended.clone());
        let help = "From the answer to the end of a call";
        registry.register_with_unit("call_duration", help, Unit::Seconds, this.lasted.clone());
        let help = "From the INVITE to the 200";
        registry.register_with_unit("call_setup", help, Unit::Seconds, this.setup.clone());
        registry.register("calls_placed", "Calls that the box has tried to make", this.placed.clone());
        let help = "Callers who were to be handed over, and came back";
        registry.register("transfers_failed", help, this.unreached.clone());
        this
    }

    /// Every series exists from the first scrape on: a rate over one that appears with its first event is lost.
    fn prepare(&self) {
        for kind in TurnKind::ALL {
            for outcome in Outcome::ALL {
                drop(self.turns.get_or_create(&[("kind", kind.as_str()), ("outcome", outcome.as_str())]));
            }
        }
        let origins = Origin::ALL.map(Origin::as_str);
        origins.into_iter().chain([Source::Mind.as_str()]).for_each(|source| add(&self.answers, "source", source, 0));
        ["prompt", "cached", "answer"].into_iter().for_each(|kind| add(&self.tokens, "kind", kind, 0));
        for role in [Role::Ears, Role::Mind, Role::Voice] {
            add(&self.failures, "role", role_name(role), 0);
            drop(self.compute.get_or_create(&[("role", role_name(role))]));
        }
        ends().for_each(|reason| add(&self.ended, "reason", reason, 0));
        PLACED.into_iter().for_each(|result| add(&self.placed, "result", result, 0));
        Unreached::ALL.into_iter().for_each(|why| add(&self.unreached, "reason", short(why), 0));
    }

    /// Counts a turn.
    pub(super) fn turn(&self, record: &TurnRecord) {
        let labels = [("kind", record.kind.as_str()), ("outcome", record.outcome.as_str())];
        self.turns.get_or_create(&labels).inc();
        if record.kind == TurnKind::Answer && record.times.first_played.is_some() {
            add(&self.answers, "source", record.source.as_str(), 1);
        }
        if let Some((role, _)) = record.failure {
            add(&self.failures, "role", role_name(role), 1);
        }
        self.retries.inc_by(record.retries.into());
        if let (Some(asked), Some(came)) = (record.times.think, record.times.first_token) {
            self.first_token.observe(came.saturating_duration_since(asked).as_secs_f64());
        }
        self.computed(Role::Ears, record.stt_compute_us);
        self.computed(Role::Voice, record.tts_compute_us);
        if let Some(thought) = record.thought {
            self.queue.observe(Duration::from_micros(thought.queue_us).as_secs_f64());
            self.computed(Role::Mind, thought.prefill_us.saturating_add(thought.decode_us));
            add(&self.tokens, "kind", "prompt", thought.prompt_tokens.into());
            add(&self.tokens, "kind", "cached", thought.cached_tokens.into());
            add(&self.tokens, "kind", "answer", thought.answer_tokens.into());
        }
    }

    fn computed(&self, role: Role, us: u64) {
        self.compute.get_or_create(&[("role", role_name(role))]).inc_by(Duration::from_micros(us).as_secs_f64());
    }

    /// Counts a call that is over.
    pub(super) fn ended(&self, record: &CallRecord, reason: &str) {
        if !counts(record) {
            return;
        }
        add(&self.ended, "reason", ends().find(|known| *known == reason).unwrap_or(OTHER), 1);
        if let (Some(answered), Some(ended)) = (record.answered, record.ended) {
            let lasted = u64::try_from(ended.0 - answered.0).unwrap_or_default();
            self.lasted.observe(Duration::from_micros(lasted).as_secs_f64());
        }
    }

    /// A caller was answered, so long after their INVITE.
    pub(super) fn set_up(&self, took: Duration) {
        self.setup.observe(took.as_secs_f64());
    }

    /// What became of a call of ours.
    pub(super) fn placed<T>(&self, result: &Result<T, NotReached>) {
        let result = match result {
            Ok(_) => "answered",
            Err(why) => short(why.unreached()),
        };
        add(&self.placed, "result", result, 1);
    }

    /// A caller who was to be handed over is back.
    pub(super) fn unreached(&self, why: Unreached) {
        add(&self.unreached, "reason", short(why), 1);
    }
}

/// Why nobody was reached, in a word.
const fn short(why: Unreached) -> &'static str {
    match why {
        Unreached::Busy => "busy",
        Unreached::NoAnswer => "no_answer",
        Unreached::Declined => "declined",
        Unreached::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{CallId, Pii};
    use crate::storage::{Direction, MediaStats, Timestamp};

    #[test]
    fn an_end_that_has_no_name_here_makes_no_series_of_its_own() {
        let mut registry = Registry::default();
        let counts = Counts::register(&mut registry);
        let record = CallRecord {
            id: CallId(1),
            agent: "desk".to_owned(),
            direction: Direction::Inbound,
            from: Pii::default(),
            to: Pii::default(),
            codec: String::new(),
            started: Timestamp(0),
            answered: Some(Timestamp(1_000_000)),
            ended: Some(Timestamp(13_000_000)),
            end_reason: None,
            turns: 0,
            media: MediaStats::default(),
        };
        counts.ended(&record, "caller_hangup");
        counts.ended(&record, "a word of tomorrow");
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).expect("a page");
        for line in [
            "calls_ended_total{reason=\"caller_hangup\"} 1",
            "calls_ended_total{reason=\"other\"} 1",
            "calls_ended_total{reason=\"engine_lost\"} 0",
            "call_duration_seconds_sum 24.0",
            "turns_total{kind=\"answer\",outcome=\"failed\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("tomorrow"));
    }
}
