//! What a span of time looked like. Enters: when it began and ended; leaves: counts, shares and percentiles of the calls
//! that began in it, and of their turns. Percentiles are values that were measured (nearest rank), none is estimated.
//! Never here: a number or a word of a caller.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::{Timestamp, Timing};

const HOUR_US: i64 = 3_600_000_000;

/// A span of this length or less is shown by the hour, a longer one by the day.
const BY_THE_HOUR_US: i64 = 48 * HOUR_US;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportKind {
    /// One row for the whole span.
    Summary,
    /// A row for each hour, or for each day.
    Calls,
    /// A row for each agent.
    Turns,
    /// A row for each part of a turn's time.
    Latency,
    /// A row for each way in which turns of an agent ended.
    Outcomes,
    /// What befell the box, newest first.
    Events,
    /// A row for each agent and each source of its answers.
    Cache,
}

/// The rows of a report.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// Of [`ReportKind::Summary`].
    Summary([Box<Summary>; 1]),
    /// Of [`ReportKind::Calls`].
    Calls(Vec<Period>),
    /// Of [`ReportKind::Turns`].
    Turns(Vec<AgentTurns>),
    /// Of [`ReportKind::Latency`].
    Latency(Vec<Stage>),
    /// Of [`ReportKind::Outcomes`].
    Outcomes(Vec<Outcome>),
    /// Of [`ReportKind::Events`].
    Events(Vec<Event>),
    /// Of [`ReportKind::Cache`].
    Cache(Vec<Answered>),
}

/// Answers of one agent from one source.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Answered {
    /// Its name.
    pub agent: String,
    /// `model`, or of known answers `faq`, `added` or `learned`.
    pub source: String,
    /// Turns that were answered so.
    pub turns: u64,
    /// Their share of all answers of the agent, in percent.
    pub percent: f64,
    /// Turns that the caller cut short.
    pub interrupted: u64,
    /// How alike the questions were, on average; of known answers.
    pub score: Option<f64>,
    /// From the caller's last word to the agent's first.
    pub voice_to_voice: Option<Percentiles>,
}

/// The whole span.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Summary {
    /// Calls that were answered, in or out.
    pub calls: u64,
    /// Those that the box placed.
    pub outbound: u64,
    /// Those whose end is not recorded: they are up, or their daemon died.
    pub unfinished: u64,
    /// Most of them at one moment.
    pub at_once_most: u64,
    /// From answer to end, all of them together, in seconds.
    pub talked_s: u64,
    /// The longest, in seconds.
    pub longest_s: u64,
    /// Turns, greetings left out.
    pub turns: u64,
    /// Turns that the caller cut short.
    pub interrupted: u64,
    /// From the caller's last word to the agent's first.
    pub voice_to_voice: Option<Percentiles>,
    /// Packets that never came, in percent.
    pub lost_percent: f64,
    /// Packets that came too late to be played, in percent.
    pub late_percent: f64,
    /// How many calls ended for each reason.
    pub ended: BTreeMap<String, u64>,
}

/// One hour, or one day, of UTC.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Period {
    /// Its first moment.
    pub begins: Timestamp,
    /// Calls that began in it.
    pub calls: u64,
    /// Those that the box placed.
    pub outbound: u64,
    /// Most at one moment, of those that began in the whole span.
    pub at_once_most: u64,
    /// From answer to end of the calls that began in it, in seconds.
    pub talked_s: u64,
    /// Their turns.
    pub turns: u64,
    /// Of their packets those that never came, in percent.
    pub lost_percent: f64,
}

/// The turns of one agent.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AgentTurns {
    /// Its name.
    pub agent: String,
    /// Calls that had a turn.
    pub calls: u64,
    /// Turns, greetings left out.
    pub turns: u64,
    /// Turns that the caller cut short.
    pub interrupted: u64,
    /// Tokens of an answer, on average.
    pub answer_tokens: f64,
    /// Tokens of prompts that were not computed again, in percent.
    pub prompt_cached_percent: f64,
    /// From the caller's last word to the agent's first.
    pub voice_to_voice: Option<Percentiles>,
}

/// One part of the time of all turns.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stage {
    /// Which.
    pub stage: Timing,
    /// Turns that had it.
    pub turns: u64,
    /// How long it took.
    #[serde(flatten)]
    pub took: Percentiles,
}

/// Turns of one agent that ended alike.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub agent: String,
    /// Why it spoke: `greeting`, `answer`, …
    pub kind: String,
    /// `completed`, `interrupted`, `failed` or `abandoned`.
    pub outcome: String,
    /// What failed, if something did: `mind internal`.
    pub failure: Option<String>,
    /// How many turns.
    pub turns: u64,
    /// How often work of them was done again.
    pub retries: u64,
}

/// Something that befell the box.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// `started`, `engine_lost`, …
    pub kind: String,
    /// One sentence, or nothing.
    pub detail: String,
}

/// Events of a report.
const EVENTS: u32 = 1000;

/// Of a set of durations, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50_ms: f64,
    /// What nine of ten do not exceed.
    pub p90_ms: f64,
    /// What 95 of 100 do not exceed.
    pub p95_ms: f64,
    /// What 99 of 100 do not exceed.
    pub p99_ms: f64,
    /// The longest.
    pub most_ms: f64,
}

impl Percentiles {
    /// None of no values.
    fn of(mut micros: Vec<i64>) -> Option<Self> {
        micros.sort_unstable();
        let most = *micros.last()?;
        let rank = |share: usize| {
            let at = (micros.len() * share).div_ceil(100).max(1) - 1;
            micros.get(at).map_or(0.0, |took| milliseconds(*took))
        };
        let [p50_ms, p90_ms, p95_ms, p99_ms] = [50, 90, 95, 99].map(rank);
        Some(Self { p50_ms, p90_ms, p95_ms, p99_ms, most_ms: milliseconds(most) })
    }
}

/// To a tenth.
fn milliseconds(micros: i64) -> f64 {
    (micros as f64 / 100.0).round() / 10.0
}

/// To a hundredth.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 10_000.0 / whole as f64).round() / 100.0 }
}

/// What counts of a call here.
struct Call {
    outbound: bool,
    started: i64,
    answered: i64,
    ended: Option<i64>,
    reason: Option<String>,
    turns: u64,
    packets_in: u64,
    lost: u64,
    late: u64,
}

impl Call {
    fn talked_us(&self) -> u64 {
        self.ended.map_or(0, |ended| u64::try_from(ended - self.answered).unwrap_or(0))
    }
}

/// Answers a question about the calls that began from `since` on, but before `until`.
pub(super) fn report(
    connection: &Connection,
    kind: ReportKind,
    since: Timestamp,
    until: Timestamp,
) -> Result<Report, rusqlite::Error> {
    Ok(match kind {
        ReportKind::Summary => Report::Summary([Box::new(summary(connection, since, until)?)]),
        ReportKind::Calls => Report::Calls(periods(&calls(connection, since, until)?, since, until)),
        ReportKind::Turns => Report::Turns(turns(connection, since, until)?),
        ReportKind::Latency => Report::Latency(latency(connection, since, until)?),
        ReportKind::Outcomes => Report::Outcomes(outcomes(connection, since, until)?),
        ReportKind::Events => Report::Events(events(connection, since, until)?),
        ReportKind::Cache => Report::Cache(answered(connection, since, until)?),
    })
}

fn calls(connection: &Connection, since: Timestamp, until: Timestamp) -> Result<Vec<Call>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT direction = 'outbound', started_us, answered_us, ended_us, end_reason, turns, packets_in, packets_lost, \
             packets_late FROM calls WHERE started_us >= ?1 AND started_us < ?2 AND answered_us IS NOT NULL \
             AND party <> 'callbox-selftest'",
        )?
        .query_map(params![since.0, until.0], |row| {
            let count = |column| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
            Ok(Call {
                outbound: row.get(0)?,
                started: row.get(1)?,
                answered: row.get(2)?,
                ended: row.get(3)?,
                reason: row.get(4)?,
                turns: count(5)?,
                packets_in: count(6)?,
                lost: count(7)?,
                late: count(8)?,
            })
        })?
        .collect()
}

fn summary(connection: &Connection, since: Timestamp, until: Timestamp) -> Result<Summary, rusqlite::Error> {
    let calls = calls(connection, since, until)?;
    let talked = || calls.iter().map(Call::talked_us);
    let sum = |of: fn(&Call) -> u64| calls.iter().map(of).fold(0, u64::saturating_add);
    let expected = sum(|call| call.packets_in).saturating_add(sum(|call| call.lost));
    let mut ended = BTreeMap::new();
    for reason in calls.iter().filter_map(|call| call.reason.clone()) {
        *ended.entry(reason).or_insert(0) += 1;
    }
    let interrupted = connection
        .prepare_cached(
            "SELECT count(*) FROM calls JOIN turns ON turns.call = calls.id \
             WHERE calls.started_us >= ?1 AND calls.started_us < ?2 \
             AND calls.party <> 'callbox-selftest' AND turns.turn > 0 AND turns.interrupted = 1",
        )?
        .query_row(params![since.0, until.0], |row| row.get::<_, i64>(0))?;
    Ok(Summary {
        calls: calls.len() as u64,
        outbound: calls.iter().filter(|call| call.outbound).count() as u64,
        unfinished: calls.iter().filter(|call| call.ended.is_none()).count() as u64,
        at_once_most: most_at_once(&calls, since.0, until.0),
        talked_s: talked().fold(0, u64::saturating_add) / 1_000_000,
        longest_s: talked().max().unwrap_or(0) / 1_000_000,
        turns: sum(|call| call.turns),
        interrupted: u64::try_from(interrupted).unwrap_or(0),
        voice_to_voice: Percentiles::of(took(connection, since, until, Timing::VoiceToVoice, None)?),
        lost_percent: percent(sum(|call| call.lost), expected),
        late_percent: percent(sum(|call| call.late), expected),
        ended,
    })
}

fn periods(calls: &[Call], since: Timestamp, until: Timestamp) -> Vec<Period> {
    let length = if until.0.saturating_sub(since.0) <= BY_THE_HOUR_US { HOUR_US } else { 24 * HOUR_US };
    let first = since.0.div_euclid(length) * length;
    (0..)
        .map(|number| first + number * length)
        .take_while(|begins| *begins < until.0)
        .map(|begins| {
            let ends = begins + length;
            let own = || calls.iter().filter(move |call| (begins..ends).contains(&call.started));
            let sum = |of: fn(&Call) -> u64| own().map(of).fold(0, u64::saturating_add);
            let lost = sum(|call| call.lost);
            Period {
                begins: Timestamp(begins),
                calls: own().count() as u64,
                outbound: own().filter(|call| call.outbound).count() as u64,
                at_once_most: most_at_once(calls, begins, ends),
                talked_s: sum(Call::talked_us) / 1_000_000,
                turns: sum(|call| call.turns),
                lost_percent: percent(lost, lost.saturating_add(sum(|call| call.packets_in))),
            }
        })
        .collect()
}

/// Most calls at one moment of a span; of one without an end only its beginning is known.
fn most_at_once(calls: &[Call], from: i64, to: i64) -> u64 {
    let mut changes: Vec<(i64, i64)> = Vec::new();
    for call in calls {
        let ended = call.ended.unwrap_or(call.answered);
        if call.answered < to && ended >= from {
            changes.extend([(call.answered.max(from), 1), (ended.saturating_add(1), -1)]);
        }
    }
    changes.sort_unstable();
    let (mut now, mut most) = (0_i64, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    u64::try_from(most).unwrap_or(0)
}

fn turns(connection: &Connection, since: Timestamp, until: Timestamp) -> Result<Vec<AgentTurns>, rusqlite::Error> {
    let mut rows: Vec<AgentTurns> = connection
        .prepare_cached(
            "SELECT calls.agent, count(DISTINCT calls.id), count(*), sum(interrupted), avg(answer_tokens), sum(cached_tokens), \
             sum(prompt_tokens) FROM calls JOIN turns ON turns.call = calls.id \
             WHERE calls.started_us >= ?1 AND calls.started_us < ?2 \
             AND calls.party <> 'callbox-selftest' AND turns.turn > 0 \
             GROUP BY calls.agent ORDER BY calls.agent",
        )?
        .query_map(params![since.0, until.0], |row| {
            let count = |column| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
            Ok(AgentTurns {
                agent: row.get(0)?,
                calls: count(1)?,
                turns: count(2)?,
                interrupted: count(3)?,
                answer_tokens: (row.get::<_, f64>(4)? * 10.0).round() / 10.0,
                prompt_cached_percent: percent(count(5)?, count(6)?),
                voice_to_voice: None,
            })
        })?
        .collect::<Result<_, _>>()?;
    for row in &mut rows {
        let whole = took(connection, since, until, Timing::VoiceToVoice, Some(&row.agent))?;
        row.voice_to_voice = Percentiles::of(whole);
    }
    Ok(rows)
}

/// Parts that no turn had are left out.
fn latency(connection: &Connection, since: Timestamp, until: Timestamp) -> Result<Vec<Stage>, rusqlite::Error> {
    let mut rows = Vec::new();
    for stage in Timing::ALL {
        let took = took(connection, since, until, stage, None)?;
        let turns = took.len() as u64;
        rows.extend(Percentiles::of(took).map(|took| Stage { stage, turns, took }));
    }
    Ok(rows)
}

fn outcomes(connection: &Connection, since: Timestamp, until: Timestamp) -> Result<Vec<Outcome>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT agent, kind, outcome, failure, count(*), sum(retries) FROM calls JOIN turns ON turns.call = calls.id \
             WHERE calls.started_us >= ?1 AND calls.started_us < ?2 \
             AND calls.party <> 'callbox-selftest' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
        )?
        .query_map(params![since.0, until.0], |row| {
            let count = |column| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
            let (agent, kind, outcome, failure) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(Outcome { agent, kind, outcome, failure, turns: count(4)?, retries: count(5)? })
        })?
        .collect()
}

fn events(connection: &Connection, since: Timestamp, until: Timestamp) -> Result<Vec<Event>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT at_us, kind, detail FROM events WHERE at_us >= ?1 AND at_us < ?2 ORDER BY id DESC LIMIT ?3",
        )?
        .query_map(params![since.0, until.0, EVENTS], |row| {
            Ok(Event { at: Timestamp(row.get(0)?), kind: row.get(1)?, detail: row.get(2)? })
        })?
        .collect()
}

/// What was said without having been asked is left out.
fn answered(connection: &Connection, since: Timestamp, until: Timestamp) -> Result<Vec<Answered>, rusqlite::Error> {
    let mut rows: Vec<Answered> = connection
        .prepare_cached(
            "SELECT calls.agent, sources.source, count(*), sum(turns.interrupted), avg(sources.score) \
             FROM calls JOIN turns ON turns.call = calls.id JOIN sources USING (call, turn) \
             WHERE calls.started_us >= ?1 AND calls.started_us < ?2 \
             AND calls.party <> 'callbox-selftest' AND sources.source <> 'script' \
             GROUP BY calls.agent, sources.source ORDER BY calls.agent, sources.source",
        )?
        .query_map(params![since.0, until.0], |row| {
            let count = |column| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
            Ok(Answered {
                agent: row.get(0)?,
                source: row.get(1)?,
                turns: count(2)?,
                percent: 0.0,
                interrupted: count(3)?,
                score: row.get::<_, Option<f64>>(4)?.map(|score| (score * 1000.0).round() / 1000.0),
                voice_to_voice: None,
            })
        })?
        .collect::<Result<_, _>>()?;
    let mut times = connection.prepare_cached(
        "SELECT took_us FROM calls JOIN stages ON stages.call = calls.id JOIN sources USING (call, turn) \
         WHERE calls.started_us >= ?1 AND calls.started_us < ?2 \
             AND calls.party <> 'callbox-selftest' AND stages.stage = 'voice_to_voice' \
         AND calls.agent = ?3 AND sources.source = ?4",
    )?;
    let mut whole: BTreeMap<String, u64> = BTreeMap::new();
    rows.iter().for_each(|row| *whole.entry(row.agent.clone()).or_default() += row.turns);
    for row in &mut rows {
        let took = times.query_map(params![since.0, until.0, row.agent, row.source], |row| row.get(0))?;
        row.voice_to_voice = Percentiles::of(took.collect::<Result<_, _>>()?);
        row.percent = percent(row.turns, whole.get(&row.agent).copied().unwrap_or(0));
    }
    Ok(rows)
}

/// How long a part took in each turn, of all agents or of one.
fn took(
    connection: &Connection,
    since: Timestamp,
    until: Timestamp,
    timing: Timing,
    agent: Option<&str>,
) -> Result<Vec<i64>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT took_us FROM calls JOIN stages ON stages.call = calls.id WHERE calls.started_us >= ?1 \
             AND calls.started_us < ?2 \
             AND calls.party <> 'callbox-selftest' AND stages.stage = ?3 AND (?4 IS NULL OR calls.agent = ?4)",
        )?
        .query_map(params![since.0, until.0, timing.as_str(), agent], |row| row.get(0))?
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::tests::{call, open, turn};
    use super::super::{Direction, MediaStats, Record, StorageHandle};
    use super::*;
    use crate::base::{Pii, SELFTEST, Source};

    const SECOND: i64 = 1_000_000;

    /// Three calls of one hour, the second within the first; one of the next; one that nobody saw end.
    fn day(handle: &StorageHandle) {
        let media = MediaStats { packets_in: 97, packets_lost: 3, packets_late: 1, ..MediaStats::default() };
        for (id, agent, started, lasted, reason) in [
            (1, "desk", 0, Some(60), "caller_hangup"),
            (2, "desk", 10, Some(20), "agent_goodbye"),
            (3, "night", 1800, Some(1), "caller_hangup"),
            (4, "desk", 3600, Some(5), "media_timeout"),
            (5, "desk", 7000, None, ""),
            // The box's own call counts in none of it.
            (6, "desk", 30, Some(900), "caller_hangup"),
        ] {
            let mut record = call(id, started * SECOND);
            record.agent = agent.into();
            record.direction = if id == 3 { Direction::Outbound } else { Direction::Inbound };
            record.answered = Some(Timestamp(started * SECOND));
            if id == 6 {
                record.from = Pii::new(format!("sip:{SELFTEST}@127.0.0.1"));
            }
            record.ended = lasted.map(|lasted| Timestamp((started + lasted) * SECOND));
            record.end_reason = lasted.map(|_| reason.to_owned());
            (record.turns, record.media) = (2, media);
            handle.record(Record::Call(Box::new(record)));
            for number in 0..=2 {
                let mut turn = turn(id, number);
                turn.interrupted = number == 1;
                turn.source = [Some(Source::Script), Some(Source::Mind), turn.source][number as usize];
                turn.timings_us.clear();
                if number > 0 {
                    turn.took(Timing::VoiceToVoice, Duration::from_millis(100 * id + u64::from(number)));
                }
                handle.record(Record::Turn(Box::new(turn)));
            }
        }
        handle.flush();
    }

    #[test]
    fn a_span_is_told_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = open(&folder.path().join("callbox.db")).expect("open");
        let handle = storage.handle();
        day(&handle);
        let ask = |kind, since: i64, until: i64| {
            handle.report(kind, Timestamp(since * SECOND), Timestamp(until * SECOND)).expect("a report")
        };
        let Report::Summary([all]) = ask(ReportKind::Summary, 0, 7200) else { panic!() };
        assert_eq!((all.calls, all.outbound, all.unfinished, all.at_once_most), (5, 1, 1, 2));
        assert_eq!((all.talked_s, all.longest_s, all.turns, all.interrupted), (86, 60, 10, 5));
        assert_eq!((all.lost_percent, all.late_percent), (3.0, 1.0));
        assert_eq!(all.voice_to_voice.map(|whole| (whole.p50_ms, whole.most_ms)), Some((301.0, 502.0)));
        assert_eq!(all.ended.get("caller_hangup"), Some(&2));

        let Report::Calls(hours) = ask(ReportKind::Calls, 5, 7200) else { panic!() };
        let told: Vec<_> = hours.iter().map(|hour| (hour.begins.0 / HOUR_US, hour.calls, hour.at_once_most)).collect();
        assert_eq!(told, [(0, 2, 1), (1, 2, 1)], "the first call began before");
        let Report::Calls(days) = ask(ReportKind::Calls, 0, 3 * 86_400) else { panic!() };
        assert_eq!(days.iter().map(|day| day.calls).collect::<Vec<_>>(), [5, 0, 0]);

        let Report::Turns(agents) = ask(ReportKind::Turns, 0, 7200) else { panic!() };
        let told: Vec<_> =
            agents.iter().map(|row| (row.agent.as_str(), row.calls, row.turns, row.interrupted)).collect();
        assert_eq!(told, [("desk", 4, 8, 4), ("night", 1, 2, 1)]);
        assert_eq!((agents[0].answer_tokens, agents[0].prompt_cached_percent), (9.0, 95.0));
        assert_eq!(agents[1].voice_to_voice.map(|whole| whole.p99_ms), Some(302.0));

        let Report::Latency(stages) = ask(ReportKind::Latency, 0, 7200) else { panic!() };
        assert_eq!(stages.iter().map(|row| (row.stage, row.turns)).collect::<Vec<_>>(), [(Timing::VoiceToVoice, 10)]);
        let Report::Cache(sources) = ask(ReportKind::Cache, 0, 7200) else { panic!() };
        let told: Vec<_> =
            sources.iter().map(|row| (row.agent.as_str(), row.source.as_str(), row.turns, row.percent)).collect();
        assert_eq!(
            told,
            [
                ("desk", "added", 4, 50.0),
                ("desk", "model", 4, 50.0),
                ("night", "added", 1, 50.0),
                ("night", "model", 1, 50.0)
            ]
        );
        assert_eq!((sources[0].score, sources[1].score), (Some(0.875), None));
        assert_eq!(sources[3].voice_to_voice.map(|whole| whole.most_ms), Some(301.0));
        let Report::Outcomes(outcomes) = ask(ReportKind::Outcomes, 0, 7200) else { panic!() };
        assert_eq!(outcomes.iter().map(|row| row.turns).sum::<u64>(), 15);
        assert_eq!(ask(ReportKind::Latency, 8000, 9000), Report::Latency(Vec::new()));
        let Report::Summary([none]) = ask(ReportKind::Summary, 8000, 9000) else { panic!() };
        assert_eq!(*none, Summary::default());
    }

    proptest! {
        /// Nearest rank: at least this share of the values is no larger, and the next smaller value has not enough.
        #[test]
        fn percentiles_are_values_that_were_measured(mut values in proptest::collection::vec(0..10_000_000_i64, 1..300)) {
            let found = Percentiles::of(values.clone()).expect("there are values");
            values.sort_unstable();
            for (share, told) in [(50, found.p50_ms), (90, found.p90_ms), (95, found.p95_ms), (99, found.p99_ms)] {
                let place = values.iter().position(|value| milliseconds(*value) == told);
                prop_assert!(place.is_some());
                let upto = values.iter().filter(|value| milliseconds(**value) <= told).count();
                let below = values.iter().filter(|value| milliseconds(**value) < told).count();
                prop_assert!(upto * 100 >= values.len() * share && below * 100 < values.len() * share);
            }
            prop_assert_eq!(found.most_ms, milliseconds(values[values.len() - 1]));
        }
    }
}
