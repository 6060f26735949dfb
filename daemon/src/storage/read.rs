//! Questions to the database, on a connection that cannot write.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Deserializer};

use super::report::report;
use super::{
    AuditRecord, CallRecord, Direction, MediaStats, RecordingRecord, Report, ReportKind, Timestamp, Timing,
    TokenRecord, TurnRecord, Wanted, audit, search, tokens,
};
use crate::base::{self, CallId, Origin, Pii, Source, TurnId};

pub(super) const CALL: &str = "SELECT id, agent, direction, caller, callee, codec, started_us, answered_us, ended_us, end_reason, \
                    turns, packets_in, packets_lost, packets_late, packets_out, jitter_us FROM calls";

/// What is kept of one call.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct StoredCall {
    /// The call; absent if it is unknown, or was not recorded yet.
    pub call: Option<CallRecord>,
    /// Its turns, in order; those that were lost on the way to the disk are absent.
    pub turns: Vec<TurnRecord>,
}

/// What there is of one person.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Known {
    /// Their calls, newest first.
    pub calls: Vec<CallRecord>,
    /// Turns of them.
    pub turns: u64,
}

/// A place in the list of calls, newest first; written `1767225600000000-00000000000000ab`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cursor {
    /// Start of the last call that was seen.
    pub started: Timestamp,
    /// That call; breaks ties.
    pub id: CallId,
}

/// A cursor is what an earlier page gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cursor is the `next` of an earlier page")]
pub struct ParseCursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.started.0, self.id)
    }
}

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let (started, id) = text.rsplit_once('-').ok_or(ParseCursorError)?;
        Ok(Self {
            started: Timestamp(started.parse().map_err(|_| ParseCursorError)?),
            id: id.parse().map_err(|_| ParseCursorError)?,
        })
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Has no connection while the database cannot be opened.
#[derive(Default)]
pub(super) struct Reader(Mutex<Option<Connection>>);

impl Reader {
    pub(super) fn new(connection: Connection) -> Self {
        Self(Mutex::new(Some(connection)))
    }

    pub(super) fn set(&self, connection: Connection) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }

    pub(super) fn calls(
        &self,
        wanted: &Wanted,
        parties: Option<&[String]>,
        limit: u32,
        before: Option<Cursor>,
    ) -> Result<Vec<CallRecord>, rusqlite::Error> {
        self.ask(|connection| search::calls(connection, wanted, parties, limit, before))
    }

    /// Who has looked at callers, and who has changed something, newest first.
    pub(super) fn audit(
        &self,
        since: Timestamp,
        limit: u32,
        before: Option<i64>,
    ) -> Result<Vec<(i64, AuditRecord)>, rusqlite::Error> {
        self.ask(|connection| audit::read(connection, since, limit, before))
    }

    pub(super) fn tokens(&self) -> Result<Vec<TokenRecord>, rusqlite::Error> {
        self.ask(tokens::read)
    }

    fn ask<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, rusqlite::Error> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        question(connection.as_ref().ok_or_else(closed)?)
    }

    pub(super) fn call(&self, id: CallId) -> Result<StoredCall, rusqlite::Error> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_mut().ok_or_else(closed)?;
        // One transaction, so that call and turns are of one moment.
        let at_once = connection.transaction()?;
        let name = id.to_string();
        let call = at_once.prepare_cached(&format!("{CALL} WHERE id = ?1"))?.query_row([&name], call).optional()?;
        let mut turns: Vec<TurnRecord> = at_once
            .prepare_cached(
                "SELECT turns.turn, started_us, caller_text, agent_text, heard_text, interrupted, prompt_tokens, cached_tokens, \
                 answer_tokens, kind, outcome, failure, retries, stt_us, tts_us, source, model, entry, score, knowledge FROM turns \
                 LEFT JOIN sources USING (call, turn) WHERE turns.call = ?1 ORDER BY turns.turn",
            )?
            .query_map([&name], |row| turn(id, row))?
            .collect::<Result<_, _>>()?;
        let mut statement = at_once.prepare_cached("SELECT turn, stage, took_us FROM stages WHERE call = ?1")?;
        let mut rows = statement.query([&name])?;
        while let Some(row) = rows.next()? {
            let (number, stage, took): (u32, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let timing = Timing::ALL.into_iter().find(|timing| timing.as_str() == stage);
            let turn = turns.iter_mut().find(|turn| turn.turn.0 == number);
            if let (Some(timing), Some(turn)) = (timing, turn) {
                turn.timings_us.insert(timing, u64::try_from(took).unwrap_or(0));
            }
        }
        Ok(StoredCall { call, turns })
    }

    /// What there is of whoever has one of these names.
    pub(super) fn known(&self, names: &[String]) -> Result<Known, rusqlite::Error> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_mut().ok_or_else(closed)?;
        let at_once = connection.transaction()?;
        let mut known = Known::default();
        for name in names {
            known.calls.extend(
                at_once
                    .prepare_cached(&format!("{CALL} WHERE party = ?1 ORDER BY started_us DESC"))?
                    .query_map([name], call)?
                    .collect::<Result<Vec<_>, _>>()?,
            );
            let turns = "SELECT count(*) FROM calls JOIN turns ON turns.call = calls.id WHERE party = ?1";
            let turns: i64 = at_once.prepare_cached(turns)?.query_row([name], |row| row.get(0))?;
            known.turns += u64::try_from(turns).unwrap_or(0);
        }
        Ok(known)
    }

    /// Parts of recordings that began since then, newest first.
    pub(super) fn recordings(&self, since: Timestamp, limit: u32) -> Result<Vec<RecordingRecord>, rusqlite::Error> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_ref().ok_or_else(closed)?;
        connection
            .prepare_cached(
                "SELECT call, part, begun_us, ended, frames, lost, bytes, key_id FROM recordings WHERE begun_us >= ?1 \
                 ORDER BY begun_us DESC, call, part DESC LIMIT ?2",
            )?
            .query_map(params![since.0, limit], |row| {
                let count = |column| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
                Ok(RecordingRecord {
                    call: id(row)?,
                    part: row.get(1)?,
                    begun: Timestamp(row.get(2)?),
                    ended: row.get(3)?,
                    frames: count(4)?,
                    lost: count(5)?,
                    bytes: count(6)?,
                    key: row.get(7)?,
                })
            })?
            .collect()
    }

    /// Whether a call was erased.
    pub(super) fn is_erased(&self, call: CallId) -> Result<bool, rusqlite::Error> {
        let known = "SELECT EXISTS (SELECT 1 FROM erased WHERE call = ?1)";
        self.ask(|connection| connection.prepare_cached(known)?.query_row([call.to_string()], |row| row.get(0)))
    }

    pub(super) fn report(
        &self,
        kind: ReportKind,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Report, rusqlite::Error> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_mut().ok_or_else(closed)?;
        // One transaction, so that calls and turns are of one moment.
        report(&*connection.transaction()?, kind, since, until)
    }
}

fn closed() -> rusqlite::Error {
    let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    rusqlite::Error::SqliteFailure(error, Some("the database could not be opened yet".to_owned()))
}

/// The call that a row's first column names.
fn id(row: &Row<'_>) -> Result<CallId, rusqlite::Error> {
    let text: String = row.get(0)?;
    text.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

pub(super) fn call(row: &Row<'_>) -> Result<CallRecord, rusqlite::Error> {
    let count = |column| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
    Ok(CallRecord {
        id: id(row)?,
        agent: row.get(1)?,
        direction: if row.get_ref(2)?.as_str()? == "outbound" { Direction::Outbound } else { Direction::Inbound },
        from: Pii::new(row.get(3)?),
        to: Pii::new(row.get(4)?),
        codec: row.get(5)?,
        started: Timestamp(row.get(6)?),
        answered: row.get::<_, Option<i64>>(7)?.map(Timestamp),
        ended: row.get::<_, Option<i64>>(8)?.map(Timestamp),
        end_reason: row.get(9)?,
        turns: row.get(10)?,
        media: MediaStats {
            packets_in: count(11)?,
            packets_lost: count(12)?,
            packets_late: count(13)?,
            packets_out: count(14)?,
            jitter_us: row.get(15)?,
        },
    })
}

fn turn(call: CallId, row: &Row<'_>) -> Result<TurnRecord, rusqlite::Error> {
    let micros = |column| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
    Ok(TurnRecord {
        call,
        turn: TurnId(row.get(0)?),
        started: Timestamp(row.get(1)?),
        caller_text: Pii::new(row.get(2)?),
        agent_text: Pii::new(row.get(3)?),
        heard_text: Pii::new(row.get(4)?),
        interrupted: row.get(5)?,
        prompt_tokens: row.get(6)?,
        cached_tokens: row.get(7)?,
        answer_tokens: row.get(8)?,
        kind: row.get(9)?,
        outcome: row.get(10)?,
        failure: row.get(11)?,
        retries: row.get(12)?,
        stt_us: micros(13)?,
        tts_us: micros(14)?,
        source: source(row)?,
        model: row.get(16)?,
        knowledge: row
            .get::<_, Option<String>>(19)?
            .iter()
            .flat_map(|names| names.lines())
            .map(str::to_owned)
            .collect(),
        timings_us: BTreeMap::new(),
    })
}

/// Nothing of a name that a later release may have given.
fn source(row: &Row<'_>) -> Result<Option<Source>, rusqlite::Error> {
    let (name, entry, score): (Option<String>, Option<i64>, Option<f64>) = (row.get(15)?, row.get(17)?, row.get(18)?);
    Ok(match name.as_deref() {
        Some("script") => Some(Source::Script),
        Some("model") => Some(Source::Mind),
        Some(name) => Origin::named(name).map(|origin| {
            #[expect(clippy::cast_possible_truncation, reason = "it was one before it was written")]
            let score = score.unwrap_or(0.0) as f32;
            Source::Known(base::Known { entry: entry.unwrap_or(0).cast_unsigned(), origin, score })
        }),
        None => None,
    })
}
