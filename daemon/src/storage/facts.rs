//! What can be told of a database without telling of a caller, and its last calls. Enters: a path; leaves: counts, or
//! records. It reads on a connection of its own, whether a daemon runs or not.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::{BUSY, StorageError, StoredCall, Timestamp, Wanted, read};

/// Counts of a database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Facts {
    /// Version of its schema.
    pub schema: i64,
    /// Its bytes, without the WAL.
    pub bytes: i64,
    /// First finding of `PRAGMA quick_check`; `ok` if there is none.
    pub check: String,
    /// Rows of each table.
    pub rows: BTreeMap<&'static str, i64>,
    /// Calls by how they ended; those without an end are up, or were cut off with their daemon.
    pub ends: BTreeMap<String, i64>,
    /// Start of the first and the last call.
    pub span: Option<(Timestamp, Timestamp)>,
}

/// Counts what is there.
///
/// # Errors
/// What SQLite says.
pub fn facts(path: &Path) -> Result<Facts, StorageError> {
    let count = || -> Result<Facts, rusqlite::Error> {
        let database = open(path)?;
        let number = |pragma| database.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let mut rows = BTreeMap::new();
        for table in ["calls", "turns", "stages", "events", "audit", "recordings"] {
            let count = database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
            rows.insert(table, count);
        }
        let ends = database
            .prepare("SELECT coalesce(end_reason, 'none'), count(*) FROM calls GROUP BY 1")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let span = database.query_row("SELECT min(started_us), max(started_us) FROM calls", [], |row| {
            Ok(row.get::<_, Option<i64>>(0)?.zip(row.get(1)?))
        })?;
        Ok(Facts {
            schema: number("user_version")?,
            bytes: number("page_count")? * number("page_size")?,
            check: database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?,
            rows,
            ends,
            span: span.map(|(first, last)| (Timestamp(first), Timestamp(last))),
        })
    };
    count().map_err(|error| StorageError::from_sqlite(path, error))
}

/// The last calls with their turns, newest first.
///
/// # Errors
/// What SQLite says.
pub fn recent(path: &Path, limit: u32) -> Result<Vec<StoredCall>, StorageError> {
    let read = || -> Result<Vec<StoredCall>, rusqlite::Error> {
        let reader = read::Reader::new(open(path)?);
        let calls = reader.calls(&Wanted::default(), None, limit, None)?;
        calls.into_iter().map(|call| reader.call(call.id)).collect()
    };
    read().map_err(|error| StorageError::from_sqlite(path, error))
}

fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    // Not read-only: the WAL of a killed daemon has to be read.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    database.busy_timeout(BUSY)?;
    Ok(database)
}
