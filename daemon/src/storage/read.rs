//! Questions to the database, on a connection that cannot write.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::report::report;
use super::{CallRecord, Direction, MediaStats, Report, ReportKind, Timestamp, Timing, TurnRecord};
use crate::base::{CallId, Pii, TurnId};

const CALL: &str = "SELECT id, agent, direction, caller, callee, codec, started_us, answered_us, ended_us, end_reason, \
                    turns, packets_in, packets_lost, packets_late, packets_out, jitter_us FROM calls";

/// What is kept of one call.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct StoredCall {
    /// The call; absent if it is unknown, or was not recorded yet.
    pub call: Option<CallRecord>,
    /// Its turns, in order; those that were lost on the way to the disk are absent.
    pub turns: Vec<TurnRecord>,
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

    pub(super) fn calls(&self, limit: u32, before: Option<Cursor>) -> Result<Vec<CallRecord>, rusqlite::Error> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_ref().ok_or_else(closed)?;
        let before = before.unwrap_or(Cursor { started: Timestamp(i64::MAX), id: CallId(u64::MAX) });
        connection
            .prepare_cached(&format!(
                "{CALL} WHERE (started_us, id) < (?1, ?2) ORDER BY started_us DESC, id DESC LIMIT ?3"
            ))?
            .query_map(params![before.started.0, before.id.to_string(), limit], call)?
            .collect()
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
                "SELECT turn, started_us, caller_text, agent_text, heard_text, interrupted, prompt_tokens, cached_tokens, \
                 answer_tokens FROM turns WHERE call = ?1 ORDER BY turn",
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

fn call(row: &Row<'_>) -> Result<CallRecord, rusqlite::Error> {
    let count = |column| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
    Ok(CallRecord {
        id: row
            .get::<_, String>(0)?
            .parse()
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))?,
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
        timings_us: BTreeMap::new(),
    })
}
