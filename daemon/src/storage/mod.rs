//! The database of calls. Enters: records of calls and turns, from any task; leaves: the same, to the control API and
//! the command line. One thread writes, batch by batch; readers have a connection of their own (WAL). Never here: a wait
//! of a call for the disk. A full queue or a failing disk costs records, and both are counted.

pub mod backup;
mod facts;
mod lock;
mod open;
mod read;
mod record;
mod report;
mod timestamp;
mod upgrade;
mod writer;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use facts::{Facts, facts, recent};
pub use read::{Cursor, ParseCursorError, StoredCall};
pub use record::{CallRecord, Direction, MediaStats, Record, Timing, TurnRecord};
pub use report::{AgentTurns, Percentiles, Period, Report, ReportKind, Stage, Summary};
use rusqlite::ErrorCode;
pub use timestamp::Timestamp;
use tokio::sync::oneshot;
pub use writer::StorageMetrics;

use crate::base::{CallId, Clock};

/// How long SQLite waits for someone else's lock, as of an operator's `sqlite3`, before a write or read fails.
const BUSY: Duration = Duration::from_secs(5);

/// Why the database cannot be used; its `Display` is one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The file cannot be opened or created.
    #[error("storage.path: {} cannot be opened for writing: {source}; {}", path.display(), advice(source))]
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
    /// Another daemon has it, or a restore.
    #[error("storage.path: {} is used by another callboxd or a restore; stop that one or change the key", .0.display())]
    Used(PathBuf),
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

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its disk",
        io::ErrorKind::ReadOnlyFilesystem => "mount its disk for writing, or change the key",
        _ => "create its folder, or change its owner or the key",
    }
}

impl StorageError {
    fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged(path.to_owned()),
            _ => Self::Sqlite { path: path.to_owned(), source },
        }
    }
}

/// A file beside another: its name with something at the end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The database. Dropping it writes what waits and ends the thread.
#[must_use = "dropping it closes the database"]
pub struct Storage {
    handle: StorageHandle,
    thread: writer::WriterThread,
}

/// A database that is being opened.
#[must_use = "it says whether the database can be used"]
pub struct Opening(oneshot::Receiver<Result<(), StorageError>>);

impl Opening {
    /// Waits for as long as the disk takes.
    ///
    /// # Errors
    /// As [`Storage::open`]; nothing is recorded then.
    pub async fn wait(self) -> Result<(), StorageError> {
        // A panic of that thread was reported by the hook already.
        self.0.await.unwrap_or_else(|_| Err(StorageError::Thread(io::ErrorKind::BrokenPipe.into())))
    }
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
    /// A disk that is full or read-only is a fault and no error: records are lost and counted until it can be written,
    /// and it is tried again and again, because whoever calls does not wait for a disk.
    ///
    /// # Errors
    /// See [`StorageError`]; nothing was changed then.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StorageError> {
        let reader = Arc::new(read::Reader::default());
        let opened = match open::open(path) {
            Ok(opened) => Ok(opened),
            Err(error) if open::may_pass(&error) => Err(error),
            Err(error) => return Err(error),
        };
        let database = writer::Database::new(path.to_owned(), Arc::clone(&reader), opened);
        let (writer, thread) = writer::start(database, clock).map_err(StorageError::Thread)?;
        Ok(Self { handle: StorageHandle { writer, reader }, thread })
    }

    /// As [`Storage::open`], but comes back at once: a disk that hangs holds up nobody. What is recorded meanwhile waits
    /// in the queue.
    ///
    /// # Errors
    /// No thread.
    pub fn begin(path: &Path, clock: Arc<dyn Clock>) -> Result<(Self, Opening), StorageError> {
        let reader = Arc::new(read::Reader::default());
        let (told, opening) = oneshot::channel();
        let (writer, thread) =
            writer::begin(path.to_owned(), Arc::clone(&reader), clock, told).map_err(StorageError::Thread)?;
        Ok((Self { handle: StorageHandle { writer, reader }, thread }, Opening(opening)))
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

    /// What the calls looked like that began from `since` on, but before `until`. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn report(&self, kind: ReportKind, since: Timestamp, until: Timestamp) -> Result<Report, rusqlite::Error> {
        self.reader.report(kind, since, until)
    }

    /// Why the last batch could not be written, or that the disk does not answer; absent if all is well.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.writer.fault()
    }

    /// What is counted here.
    #[must_use]
    pub fn metrics(&self) -> &StorageMetrics {
        self.writer.metrics()
    }
}

#[cfg(test)]
mod tests;
