//! The database of calls. Enters: records of calls and turns, from any task; leaves: the same, to the control API and
//! the command line. One thread writes, batch by batch; readers have a connection of their own (WAL). Never here: a wait
//! of a call for the disk. A full queue or a failing disk costs records, and both are counted.

mod read;
mod record;
mod timestamp;
mod upgrade;
mod writer;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use read::{Cursor, ParseCursorError, StoredCall};
pub use record::{CallRecord, Direction, MediaStats, Record, Timing, TurnRecord};
use rusqlite::{Connection, ErrorCode, OpenFlags};
pub use timestamp::Timestamp;
pub use writer::StorageMetrics;

use crate::base::{CallId, Clock, Pulse};

/// How long SQLite waits for someone else's lock, as of an operator's `sqlite3`, before a write or read fails.
const BUSY: Duration = Duration::from_secs(5);

/// Why the database cannot be used; its `Display` is one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The file cannot be opened or created.
    #[error("storage.path: {} cannot be opened for writing: {source}; create its folder, or change its owner or the key", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no database, or a damaged one.
    #[error("storage.path: {} is no SQLite database or is damaged; move it away and start again with a new one, or restore a backup", .0.display())]
    Damaged(PathBuf),
    /// The file is somebody else's database.
    #[error("storage.path: {} belongs to another program; change the key", .0.display())]
    Foreign(PathBuf),
    /// The file was written by a release that came after this one.
    #[error("storage.path: {} has schema {found}, this Callbox knows {known}; install the newer Callbox again or restore a backup", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest version that this build knows.
        known: i64,
    },
    /// Anything else that SQLite says.
    #[error("storage.path: {}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
    /// The writer thread could not be started.
    #[error("storage: cannot start the writer thread: {0}")]
    Thread(io::Error),
}

impl StorageError {
    fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged(path.to_owned()),
            _ => Self::Sqlite { path: path.to_owned(), source },
        }
    }
}

/// The open database. Dropping it writes what waits and ends the thread.
#[must_use = "dropping it closes the database"]
pub struct Storage {
    handle: StorageHandle,
    thread: writer::WriterThread,
}

/// What rooms hold; cheap to clone.
#[derive(Clone)]
pub struct StorageHandle {
    writer: writer::Writer,
    reader: Arc<read::Reader>,
}

impl Storage {
    /// Opens or creates the database, upgrades its schema, starts the writer. `clock` times commits.
    ///
    /// # Errors
    /// See [`StorageError`]; nothing was changed then.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StorageError> {
        // Created here for its mode: SQLite would follow the umask, and gives the WAL the mode of the database.
        OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| StorageError::Open { path: path.to_owned(), source })?;
        let connect = |flags| -> Result<Connection, rusqlite::Error> {
            let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            connection.busy_timeout(BUSY)?;
            Ok(connection)
        };
        let sqlite = |error| StorageError::from_sqlite(path, error);
        let mut connection = connect(OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sqlite)?;
        match upgrade::bring_up(&mut connection, upgrade::STEPS).map_err(sqlite)? {
            upgrade::Outcome::Current => {}
            upgrade::Outcome::Foreign => return Err(StorageError::Foreign(path.to_owned())),
            upgrade::Outcome::Newer { found, known } => {
                return Err(StorageError::Newer { path: path.to_owned(), found, known });
            }
        }
        // NORMAL in WAL: a killed process loses nothing committed; a power cut may cost the last commits, never the file.
        connection.pragma_update(None, "journal_mode", "wal").map_err(sqlite)?;
        connection.pragma_update(None, "synchronous", "normal").map_err(sqlite)?;
        let reader = Arc::new(read::Reader::new(connect(OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite)?));
        let (writer, thread) = writer::start(connection, clock).map_err(StorageError::Thread)?;
        Ok(Self { handle: StorageHandle { writer, reader }, thread })
    }

    /// For the rooms.
    #[must_use]
    pub fn handle(&self) -> StorageHandle {
        self.handle.clone()
    }

    /// Writes what waits, then closes. Blocks; records that come later are dropped and counted.
    pub fn close(self) {
        drop(self.thread);
    }
}

impl StorageHandle {
    /// Queues a record; never blocks. A full queue drops it and counts.
    pub fn record(&self, record: Record) {
        self.writer.record(record);
    }

    /// Blocks until all that was recorded before is committed or lost.
    pub fn flush(&self) {
        self.writer.flush();
    }

    /// Calls, newest first, from below `before`; those that have not ended yet included. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn calls(&self, limit: u32, before: Option<Cursor>) -> Result<Vec<CallRecord>, rusqlite::Error> {
        self.reader.calls(limit, before)
    }

    /// One call with its turns; empty if it is unknown. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn call(&self, id: CallId) -> Result<StoredCall, rusqlite::Error> {
        self.reader.call(id)
    }

    /// Why the last batch could not be written; absent if it was.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.writer.fault()
    }

    /// Beats whenever the writer comes round: after each batch, and now and then without one.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.writer.pulse()
    }

    /// What is counted here.
    #[must_use]
    pub fn metrics(&self) -> &StorageMetrics {
        self.writer.metrics()
    }
}

#[cfg(test)]
mod tests;
