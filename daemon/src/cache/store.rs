//! `answers.db`, beside the database of calls. Enters: changes, through a bounded queue; leaves: what was kept, at the
//! start, and clips that are not in memory. One thread; nobody waits for it. A change that the disk does not take is
//! counted and lost: the entry lives on in memory.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::clips::{Clip, Key};
use super::library::Entry;
use super::vectors::Packed;
use crate::base::Origin;

/// Changes that may wait.
const QUEUE: usize = 4096;

/// Changes of one transaction.
const BATCH: usize = 256;

/// "CBXA": marks the file as ours.
const APPLICATION: i64 = 0x4342_5841;

/// The version of the schema.
const VERSION: i64 = 2;

const SCHEMA: &str = "
-- A question whose answer is known. Times are microseconds since 1970-01-01 UTC.
CREATE TABLE entries (
    id         INTEGER PRIMARY KEY NOT NULL,
    agent      TEXT NOT NULL,
    origin     TEXT NOT NULL CHECK (origin IN ('faq', 'added', 'learned')),
    question   TEXT NOT NULL,
    answer     TEXT NOT NULL,
    basis      TEXT NOT NULL,             -- digest of what it was true of
    made_us    INTEGER NOT NULL,
    used_us    INTEGER NOT NULL,
    hits       INTEGER NOT NULL,
    expires_us INTEGER,                   -- NULL: never
    model      TEXT,                      -- of the vector
    vector     BLOB,                      -- scale (f32), then 384 bytes
    call       TEXT                       -- that it was learned in
) STRICT;
-- Ready audio.
CREATE TABLE clips (
    voice  TEXT NOT NULL,
    answer TEXT NOT NULL,
    data   BLOB NOT NULL,                 -- clause by clause, Opus
    PRIMARY KEY (voice, answer)
) STRICT, WITHOUT ROWID;
";

/// Why answers are not kept; one sentence.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or created.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is somebody else's, of a later release, or damaged.
    #[error("{} is no database of answers that this Callbox knows: move it away", .0.display())]
    Foreign(PathBuf),
    /// Anything else that SQLite says.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
}

/// Something to keep, or to bring.
pub(super) enum Change {
    Put(Box<Entry>),
    Used {
        id: u64,
        used_us: i64,
        hits: u64,
    },
    Vector {
        id: u64,
        model: String,
        vector: Packed,
    },
    Remove(Vec<u64>),
    Clip(Key, Clip),
    ForgetClips(Vec<Key>),
    /// Bring a clip into memory.
    Fetch(Key),
    Flush(SyncSender<()>),
    Stop,
}

/// What was kept.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) entries: Vec<(Entry, Option<(String, Packed)>)>,
    pub(super) clips: Vec<Key>,
}

/// The owner of what is loaded.
pub(super) trait Owner: Send + 'static {
    /// Once, at the start; with nothing where there is no disk.
    fn loaded(&self, loaded: Loaded);

    /// A clip was fetched.
    fn fetched(&self, key: Key, clip: Clip);

    /// So many changes were lost.
    fn lost(&self, count: usize);
}

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Store(SyncSender<Change>);

/// Dropping it writes what waits and ends the thread.
pub(super) struct Keeper {
    queue: SyncSender<Change>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Starts the thread, which opens the file; without a path nothing is kept.
    pub(super) fn begin(path: Option<PathBuf>, owner: impl Owner) -> io::Result<(Self, Keeper)> {
        let (queue, changes) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("answers".into()).spawn(move || run(path, &owner, &changes))?;
        Ok((Self(queue.clone()), Keeper { queue, thread: Some(thread) }))
    }

    /// Queues a change; false if the queue is full.
    pub(super) fn change(&self, change: Change) -> bool {
        !matches!(self.0.try_send(change), Err(TrySendError::Full(_)))
    }

    /// Blocks until all that was queued is written or lost.
    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.0.send(Change::Flush(done)).is_ok() {
            // An error means that the thread has ended: nothing waits any more.
            wait.recv().unwrap_or_default();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.queue.send(Change::Stop).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic of that thread was reported by the hook already.
            drop(thread.join());
        }
    }
}

fn run(path: Option<PathBuf>, owner: &impl Owner, changes: &Receiver<Change>) {
    let mut connection = path.as_deref().and_then(|path| {
        open(path).inspect_err(|error| tracing::error!("answers are not kept for the next start: {error}")).ok()
    });
    let loaded = connection.as_ref().map(load).transpose();
    owner.loaded(
        loaded
            .inspect_err(|error| tracing::error!(%error, "kept answers cannot be read"))
            .ok()
            .flatten()
            .unwrap_or_default(),
    );
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(first) = changes.recv() {
        let mut next = Some(first);
        let (mut flushed, mut stop) = (None, false);
        while let Some(change) = next {
            match change {
                Change::Flush(done) => flushed = Some(done),
                Change::Stop => stop = true,
                Change::Fetch(key) => fetch(connection.as_ref(), key, owner),
                change => batch.push(change),
            }
            let full = batch.len() >= BATCH || flushed.is_some() || stop;
            next = if full { None } else { changes.try_recv().ok() };
        }
        if let Some(connection) = connection.as_mut().filter(|_| !batch.is_empty())
            && let Err(error) = write(connection, &batch)
        {
            owner.lost(batch.len());
            tracing::warn!(%error, lost = batch.len(), "answers cannot be written");
        }
        batch.clear();
        if let Some(done) = flushed {
            // Whoever asked may have gone.
            done.try_send(()).unwrap_or_default();
        }
        if stop {
            return;
        }
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let unopened = |source| StoreError::Open { path: path.to_owned(), source };
    // Created here for its mode: SQLite would follow the umask.
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(unopened)?;
    let bring_up = || -> rusqlite::Result<Option<Connection>> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        // A learned question is somebody's words: what is taken out is gone.
        connection.pragma_update(None, "secure_delete", "on")?;
        let transaction = connection.transaction()?;
        let number = |pragma| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let empty: bool =
            transaction.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
        if empty {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        } else {
            match (number("application_id")?, number("user_version")?) {
                (APPLICATION, VERSION) => {}
                (APPLICATION, 1) => transaction.execute_batch("ALTER TABLE entries ADD COLUMN call TEXT")?,
                _ => return Ok(None),
            }
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        Ok(Some(connection))
    };
    bring_up()
        .map_err(|source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                StoreError::Foreign(path.to_owned())
            }
            _ => StoreError::Sqlite { path: path.to_owned(), source },
        })?
        .ok_or_else(|| StoreError::Foreign(path.to_owned()))
}

fn load(connection: &Connection) -> rusqlite::Result<Loaded> {
    let mut statement = connection.prepare(
        "SELECT id, agent, origin, question, answer, basis, made_us, used_us, hits, expires_us, model, vector, \
         call FROM entries ORDER BY id",
    )?;
    let entries = statement.query_map([], |row| {
        let origin: String = row.get(2)?;
        let entry = Entry {
            id: row.get::<_, i64>(0)?.cast_unsigned(),
            agent: row.get(1)?,
            // The table holds no others.
            origin: Origin::named(&origin).unwrap_or(Origin::Learned),
            question: row.get(3)?,
            answer: row.get(4)?,
            basis: row.get(5)?,
            made_us: row.get(6)?,
            used_us: row.get(7)?,
            hits: row.get::<_, i64>(8)?.cast_unsigned(),
            expires_us: row.get(9)?,
            call: row.get::<_, Option<String>>(12)?.and_then(|call| call.parse().ok()),
        };
        let (model, bytes): (Option<String>, Option<Vec<u8>>) = (row.get(10)?, row.get(11)?);
        let vector = bytes.as_deref().and_then(Packed::from_bytes);
        Ok((entry, model.zip(vector)))
    })?;
    let entries = entries.collect::<rusqlite::Result<_>>()?;
    let mut statement = connection.prepare("SELECT voice, answer FROM clips")?;
    let clips = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    Ok(Loaded { entries, clips })
}

fn fetch(connection: Option<&Connection>, key: Key, owner: &impl Owner) {
    let read = |connection: &Connection| {
        let mut statement = connection.prepare_cached("SELECT data FROM clips WHERE voice = ?1 AND answer = ?2")?;
        statement.query_row(params![key.0, key.1], |row| row.get::<_, Vec<u8>>(0)).optional()
    };
    match connection.map(read).transpose() {
        Ok(bytes) => {
            if let Some(clip) = bytes.flatten().as_deref().and_then(Clip::from_bytes) {
                owner.fetched(key, clip);
            }
        }
        Err(error) => tracing::warn!(%error, "ready audio cannot be read"),
    }
}

fn write(connection: &mut Connection, batch: &[Change]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    batch.iter().try_for_each(|change| write_one(&transaction, change))?;
    transaction.commit()
}

fn write_one(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Put(entry) => {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO entries (id, agent, origin, question, answer, basis, made_us, used_us, \
                     hits, expires_us, call) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                )?
                .execute(params![
                    entry.id.cast_signed(),
                    entry.agent,
                    entry.origin.as_str(),
                    entry.question,
                    entry.answer,
                    entry.basis,
                    entry.made_us,
                    entry.used_us,
                    entry.hits.cast_signed(),
                    entry.expires_us,
                    entry.call.map(|call| call.to_string()),
                ])?;
        }
        Change::Used { id, used_us, hits } => {
            transaction
                .prepare_cached("UPDATE entries SET used_us = ?2, hits = ?3 WHERE id = ?1")?
                .execute(params![id.cast_signed(), used_us, hits.cast_signed()])?;
        }
        Change::Vector { id, model, vector } => {
            transaction
                .prepare_cached("UPDATE entries SET model = ?2, vector = ?3 WHERE id = ?1")?
                .execute(params![id.cast_signed(), model, vector.to_bytes()])?;
        }
        Change::Remove(ids) => {
            let mut statement = transaction.prepare_cached("DELETE FROM entries WHERE id = ?1")?;
            for id in ids {
                statement.execute([id.cast_signed()])?;
            }
        }
        Change::Clip(key, clip) => {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO clips (voice, answer, data) VALUES (?1, ?2, ?3)")?
                .execute(params![key.0, key.1, clip.to_bytes()])?;
        }
        Change::ForgetClips(keys) => {
            let mut statement = transaction.prepare_cached("DELETE FROM clips WHERE voice = ?1 AND answer = ?2")?;
            for key in keys {
                statement.execute(params![key.0, key.1])?;
            }
        }
        Change::Fetch(_) | Change::Flush(_) | Change::Stop => {}
    }
    Ok(())
}
