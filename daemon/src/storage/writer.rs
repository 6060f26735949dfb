//! The one thread that writes. Enters: records, through a bounded queue; leaves: rows, all that waits in one
//! transaction. A full queue drops the newest record; a failing disk drops the batch; both are counted. A database that
//! could not be opened is tried again. The disk is asked for nothing outside this thread: it may hang.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use rusqlite::{Connection, Transaction, params};
use tokio::sync::oneshot;

use super::open::{Opened, may_pass, open};
use super::read::Reader;
use super::{CallRecord, Direction, Record, StorageError, TurnRecord, lock};
use crate::base::Clock;

/// Records that may wait: minutes of a hundred calls.
pub(super) const QUEUE: usize = 4096;

/// Records of one transaction, so that readers see progress and a failure costs little.
const BATCH: usize = 256;

/// What the database's writer counts.
#[derive(Clone, Debug)]
pub struct StorageMetrics {
    /// Records committed.
    pub written: Counter,
    dropped: Family<[(&'static str, &'static str); 1], Counter>,
    /// Seconds per commit.
    pub commit: Histogram,
}

impl StorageMetrics {
    fn new() -> Self {
        let buckets = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];
        let this = Self { written: Counter::default(), dropped: Family::default(), commit: Histogram::new(buckets) };
        this.dropped(QUEUE_FULL, 0);
        this.dropped(WRITE_FAILED, 0);
        this
    }

    /// Adds them to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("storage_records", "Records committed", self.written.clone());
        registry.register("storage_records_dropped", "Records lost", self.dropped.clone());
        registry.register_with_unit("storage_commit", "Time per transaction", Unit::Seconds, self.commit.clone());
    }

    /// Records that did not fit into the queue.
    #[must_use]
    pub fn queue_full(&self) -> u64 {
        self.dropped.get_or_create(&[("reason", QUEUE_FULL)]).get()
    }

    /// Records that could not be written.
    #[must_use]
    pub fn write_failed(&self) -> u64 {
        self.dropped.get_or_create(&[("reason", WRITE_FAILED)]).get()
    }

    fn dropped(&self, reason: &'static str, count: usize) {
        self.dropped.get_or_create(&[("reason", reason)]).inc_by(count as u64);
    }
}

/// Between two attempts to open a database that could not be opened.
const AGAIN: Duration = Duration::from_secs(2);

/// A disk that takes longer than this hangs, as far as an operator is concerned.
const HANGS: Duration = Duration::from_secs(5);

const QUEUE_FULL: &str = "queue_full";
const WRITE_FAILED: &str = "write_failed";

enum Message {
    Record(Record),
    Flush(SyncSender<()>),
    Stop,
}

/// Where records are put.
#[derive(Clone)]
pub(super) struct Writer {
    queue: SyncSender<Message>,
    fault: Arc<Mutex<Option<String>>>,
    since: Since,
    clock: Arc<dyn Clock>,
    metrics: StorageMetrics,
}

/// Since when the disk has been busy with what it was asked for; absent if that is nothing.
type Since = Arc<Mutex<Option<Instant>>>;

/// The thread; dropping it lets it finish what waits.
pub(super) struct WriterThread {
    queue: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

/// The database as its writer has it.
pub(super) struct Database {
    path: PathBuf,
    reader: Arc<Reader>,
    // The lock after the connection: it is given back when nothing is written any more.
    open: Result<(Connection, lock::Lock), StorageError>,
}

impl Database {
    pub(super) fn new(path: PathBuf, reader: Arc<Reader>, opened: Result<Opened, StorageError>) -> Self {
        let open = opened.map(|opened| share(opened, &reader));
        Self { path, reader, open }
    }

    /// Tries again.
    fn open(&mut self) {
        self.open = open(&self.path).map(|opened| share(opened, &self.reader));
    }

    fn write(&mut self, batch: &[Record]) -> Result<(), String> {
        match &mut self.open {
            Ok((connection, _)) => write(connection, batch).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn share(opened: Opened, reader: &Reader) -> (Connection, lock::Lock) {
    reader.set(opened.reader);
    (opened.writer, opened.lock)
}

/// Writes to a database that was opened, or could not be.
pub(super) fn start(database: Database, clock: Arc<dyn Clock>) -> io::Result<(Writer, WriterThread)> {
    spawn(clock, move |_| Some(database))
}

/// Opens the database in the writer's thread, and tells whether that can be lived with. Whoever does not wait for that any
/// more reads the answer in the log.
pub(super) fn begin(
    path: PathBuf,
    reader: Arc<Reader>,
    clock: Arc<dyn Clock>,
    told: oneshot::Sender<Result<(), StorageError>>,
) -> io::Result<(Writer, WriterThread)> {
    spawn(clock, move |fault| match open(&path) {
        Err(error) if !may_pass(&error) => {
            *fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            if let Err(Err(error)) = told.send(Err(error)) {
                tracing::error!("{error}; until then no call is recorded");
            }
            None
        }
        opened => {
            // Nobody needs to know any more.
            drop(told.send(Ok(())));
            Some(Database::new(path, reader, opened))
        }
    })
}

fn spawn(
    clock: Arc<dyn Clock>,
    database: impl FnOnce(&Mutex<Option<String>>) -> Option<Database> + Send + 'static,
) -> io::Result<(Writer, WriterThread)> {
    let (queue, messages) = sync_channel(QUEUE);
    let metrics = StorageMetrics::new();
    let fault = Arc::default();
    let since = Arc::new(Mutex::new(Some(clock.now())));
    let writer = Writer { queue: queue.clone(), fault: Arc::clone(&fault), since, clock, metrics: metrics.clone() };
    let (since, clock) = (Arc::clone(&writer.since), Arc::clone(&writer.clock));
    let thread = std::thread::Builder::new().name("storage".into()).spawn(move || {
        let database = database(&fault);
        let tried = clock.now();
        set(&since, None);
        if let Some(database) = database {
            Thread { database, tried, clock, metrics, fault, since }.run(&messages);
        }
    })?;
    Ok((writer, WriterThread { queue, thread: Some(thread) }))
}

fn set(since: &Since, at: Option<Instant>) {
    *since.lock().unwrap_or_else(PoisonError::into_inner) = at;
}

impl Writer {
    pub(super) fn record(&self, record: Record) {
        if self.queue.try_send(Message::Record(record)).is_err() {
            self.metrics.dropped(QUEUE_FULL, 1);
        }
    }

    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            // An error means that the thread has ended: nothing waits any more.
            wait.recv().unwrap_or_default();
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_some_and(|since| self.clock.now().saturating_duration_since(since) >= HANGS) {
            return Some("the database cannot be written: its disk does not answer".to_owned());
        }
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn metrics(&self) -> &StorageMetrics {
        &self.metrics
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        if self.queue.send(Message::Stop).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic of that thread was reported by the hook already.
            drop(thread.join());
        }
    }
}

struct Thread {
    database: Database,
    /// When it was opened, or could not be.
    tried: Instant,
    clock: Arc<dyn Clock>,
    metrics: StorageMetrics,
    fault: Arc<Mutex<Option<String>>>,
    since: Since,
}

impl Thread {
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        self.judge(self.opened(), 0);
        loop {
            self.open_again();
            let mut next = match messages.recv_timeout(AGAIN) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut flushed = None;
            let mut stop = false;
            while let Some(message) = next {
                match message {
                    Message::Record(record) => batch.push(record),
                    Message::Flush(done) => flushed = Some(done),
                    Message::Stop => stop = true,
                }
                let full = batch.len() >= BATCH || flushed.is_some() || stop;
                next = if full { None } else { messages.try_recv().ok() };
            }
            self.commit(&batch);
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

    fn commit(&mut self, batch: &[Record]) {
        if batch.is_empty() {
            return;
        }
        self.open_again();
        let begun = self.clock.now();
        set(&self.since, Some(begun));
        let result = self.database.write(batch);
        set(&self.since, None);
        self.metrics.commit.observe(self.clock.now().saturating_duration_since(begun).as_secs_f64());
        match &result {
            Ok(()) => drop(self.metrics.written.inc_by(batch.len() as u64)),
            Err(_) => self.metrics.dropped(WRITE_FAILED, batch.len()),
        }
        self.judge(result, batch.len());
    }

    fn opened(&self) -> Result<(), String> {
        self.database.open.as_ref().map(drop).map_err(ToString::to_string)
    }

    fn open_again(&mut self) {
        let now = self.clock.now();
        if self.database.open.is_err() && now.saturating_duration_since(self.tried) >= AGAIN {
            self.tried = now;
            set(&self.since, Some(now));
            self.database.open();
            set(&self.since, None);
            self.judge(self.opened(), 0);
        }
    }

    /// Says once that it cannot be written, and once that it can.
    fn judge(&self, result: Result<(), String>, lost: usize) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                if fault.take().is_some() {
                    tracing::info!("the database can be written again");
                }
            }
            Err(error) => {
                let sentence = format!("the database cannot be written: {error}");
                if fault.is_none() {
                    tracing::error!(lost, "{sentence}; records are lost until it can");
                }
                *fault = Some(sentence);
            }
        }
    }
}

fn write(connection: &mut Connection, batch: &[Record]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for record in batch {
        match record {
            Record::Call(call) => write_call(&transaction, call)?,
            Record::Turn(turn) => write_turn(&transaction, turn)?,
        }
    }
    transaction.commit()
}

/// SQLite's integers are signed.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn write_call(transaction: &Transaction<'_>, call: &CallRecord) -> rusqlite::Result<()> {
    let CallRecord { id, agent, direction, from, to, codec, started, answered, ended, end_reason, turns, media } = call;
    let direction = match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    };
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO calls (id, agent, direction, caller, callee, codec, started_us, answered_us, \
             ended_us, end_reason, turns, packets_in, packets_lost, packets_late, packets_out, jitter_us) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(params![
            id.to_string(),
            agent,
            direction,
            from.reveal(),
            to.reveal(),
            codec,
            started.0,
            answered.map(|at| at.0),
            ended.map(|at| at.0),
            end_reason,
            turns,
            int(media.packets_in),
            int(media.packets_lost),
            int(media.packets_late),
            int(media.packets_out),
            media.jitter_us,
        ])?;
    Ok(())
}

fn write_turn(transaction: &Transaction<'_>, record: &TurnRecord) -> rusqlite::Result<()> {
    let (call, turn) = (record.call.to_string(), record.turn.0);
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO turns (call, turn, started_us, caller_text, agent_text, heard_text, interrupted, \
             prompt_tokens, cached_tokens, answer_tokens) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            call,
            turn,
            record.started.0,
            record.caller_text.reveal(),
            record.agent_text.reveal(),
            record.heard_text.reveal(),
            record.interrupted,
            record.prompt_tokens,
            record.cached_tokens,
            record.answer_tokens,
        ])?;
    let mut stage = transaction
        .prepare_cached("INSERT OR REPLACE INTO stages (call, turn, stage, took_us) VALUES (?1, ?2, ?3, ?4)")?;
    for (timing, took) in &record.timings_us {
        stage.execute(params![call, turn, timing.as_str(), int(*took)])?;
    }
    Ok(())
}
