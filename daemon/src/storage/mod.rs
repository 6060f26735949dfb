//! The database of calls. Enters: records of calls and turns, and of who did what, from any task; leaves: the same, to the
//! control API and the command line. One thread writes, batch by batch; readers have a connection of their own (WAL). Never
//! here: a wait of a call for the disk. A full queue or a failing disk costs records, and both are counted.

mod audit;
pub mod backup;
mod facts;
mod house;
mod insert;
mod lock;
mod open;
mod privacy;
mod read;
mod record;
mod report;
mod search;
mod timestamp;
mod tokens;
mod upgrade;
mod writer;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use audit::AuditRecord;
pub use facts::{Facts, facts, recent};
pub use house::Erasure;
pub use privacy::{HashKey, Retention, Rules, party, redacted};
pub use read::{Cursor, Known, ParseCursorError, StoredCall};
pub use record::{CallRecord, Direction, EventRecord, MediaStats, Record, RecordingRecord, Timing, TurnRecord};
pub use report::{AgentTurns, Answered, Event, Outcome, Percentiles, Period, Report, ReportKind, Stage, Summary};
use rusqlite::ErrorCode;
pub use search::Wanted;
pub use timestamp::{ParseTimestampError, Timestamp};
pub use tokens::{Scope, TokenRecord};
use tokio::sync::oneshot;
pub use writer::StorageMetrics;

use crate::base::{CallId, Clock, Privacy};

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
    /// Queues a record as it is; never blocks. A full queue drops it and counts.
    pub fn record(&self, record: Record) {
        self.writer.record(record);
    }

    /// Queues what the rules leave of a record, where an agent may want others; never blocks. A full queue drops it and
    /// counts.
    pub fn keep(&self, record: Record, own: Privacy) {
        let kept = self.writer.rules.read().unwrap_or_else(PoisonError::into_inner).apply(record, own);
        self.writer.record(kept);
    }

    /// Notes something that befell the box; never blocks.
    pub fn event(&self, kind: &'static str, detail: impl Into<String>) {
        let event = EventRecord { at: self.writer.now(), kind, detail: detail.into() };
        self.writer.record(Record::Event(Box::new(event)));
    }

    /// Notes that somebody is about to look at callers or to delete them; false if it could not be queued: then it must not
    /// be done. `object` names no caller.
    #[must_use = "what was not noted must not be done"]
    pub fn audit(&self, who: &str, action: &str, object: impl Into<String>) -> bool {
        self.audit_done(who, action, object, "")
    }

    /// Notes what somebody has changed, and what came of it; false if it could not be queued. `object` names no caller.
    #[must_use = "what was not noted is in no list"]
    pub fn audit_done(&self, who: &str, action: &str, object: impl Into<String>, result: &str) -> bool {
        let [who, action, result] = [who, action, result].map(str::to_owned);
        let entry = AuditRecord { at: self.writer.now(), who, action, object: object.into(), result };
        self.writer.record(Record::Audit(Box::new(entry)))
    }

    /// Other rules for what is recorded from now on, and for how long all of it is kept.
    pub fn set_rules(&self, rules: Rules) {
        *self.writer.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Every name under which a far end may have been recorded.
    #[must_use]
    pub fn names(&self, number: &str) -> Vec<String> {
        self.writer.rules.read().unwrap_or_else(PoisonError::into_inner).names(number)
    }

    /// What there is of whoever has one of these names. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn known(&self, names: &[String]) -> Result<Known, rusqlite::Error> {
        self.reader.known(names)
    }

    /// Deletes everything of whoever has one of these names, and of these calls, which are up: of those nothing more is
    /// recorded. Blocks on the disk.
    ///
    /// # Errors
    /// One sentence; a part may be deleted then.
    pub fn erase(&self, names: Vec<String>, live: Vec<CallId>) -> Result<Erasure, String> {
        self.writer.erase(names, live)
    }

    /// Parts of recordings that began since then, newest first. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn recordings(&self, since: Timestamp, limit: u32) -> Result<Vec<RecordingRecord>, rusqlite::Error> {
        self.reader.recordings(since, limit)
    }

    /// Whether a call was erased. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn is_erased(&self, call: CallId) -> Result<bool, rusqlite::Error> {
        self.reader.is_erased(call)
    }

    /// Blocks until all that was recorded before is committed or lost.
    pub fn flush(&self) {
        self.writer.flush();
    }

    /// Calls, newest first, from below `before`; those that have not ended yet included. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn calls(
        &self,
        wanted: &Wanted,
        limit: u32,
        before: Option<Cursor>,
    ) -> Result<Vec<CallRecord>, rusqlite::Error> {
        let parties = wanted.caller.as_ref().map(|caller| self.names(caller.reveal()));
        self.reader.calls(wanted, parties.as_deref(), limit, before)
    }

    /// Who has looked at callers and who has changed something since then, newest first, from below the number `before`;
    /// each with its number. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn audited(
        &self,
        since: Timestamp,
        limit: u32,
        before: Option<i64>,
    ) -> Result<Vec<(i64, AuditRecord)>, rusqlite::Error> {
        self.reader.audit(since, limit, before)
    }

    /// Every token, by name; those that have expired included. Blocks on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, rusqlite::Error> {
        self.reader.tokens()
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
