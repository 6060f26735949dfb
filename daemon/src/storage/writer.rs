//! The one thread that writes. Enters: records, through a bounded queue; leaves: rows, all that waits in one
//! transaction. A full queue drops the newest record; a failing disk drops the batch; both are counted. A database that
//! could not be opened or written is tried again, and told how much it lacks. Between batches, in small steps, what is not to be kept is deleted. The disk is asked
//! for nothing outside this thread: it may hang.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::house::{Erased, Erasing, Erasure, House};
use super::insert::write;
use super::open::{Opened, may_pass, open};
use super::privacy::Rules;
use super::read::Reader;
use super::{EventRecord, Record, StorageError, Timestamp, lock};
use crate::base::{CallId, Clock};

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
    waiting: Gauge,
    audited: Counter,
}

impl StorageMetrics {
    fn new() -> Self {
        let buckets = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];
        let this = Self {
            written: Counter::default(),
            dropped: Family::default(),
            commit: Histogram::new(buckets),
            waiting: Gauge::default(),
            audited: Counter::default(),
        };
        this.dropped(QUEUE_FULL, 0);
        this.dropped(WRITE_FAILED, 0);
        this
    }

    /// Adds them to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("storage_records", "Records committed", self.written.clone());
        registry.register("storage_records_dropped", "Records lost", self.dropped.clone());
        registry.register("storage_queue_records", "Records that wait for the disk", self.waiting.clone());
        registry.register("audit_entries", "Entries of the audit", self.audited.clone());
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
    Erase(Erasing),
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
    pub(super) rules: Arc<RwLock<Rules>>,
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
    erased: Erased,
}

impl Database {
    pub(super) fn new(path: PathBuf, reader: Arc<Reader>, opened: Result<Opened, StorageError>) -> Self {
        let mut this = Self {
            path,
            reader,
            open: Err(StorageError::Thread(io::ErrorKind::NotConnected.into())),
            erased: Erased::default(),
        };
        this.take(opened);
        this
    }

    /// Tries again.
    fn open(&mut self) {
        self.take(open(&self.path));
    }

    fn take(&mut self, opened: Result<Opened, StorageError>) {
        self.open = opened.map(|mut opened| {
            self.erased = std::mem::take(&mut opened.erased);
            share(opened, &self.reader)
        });
    }

    fn write(&mut self, batch: &[Record]) -> Result<(), String> {
        match &mut self.open {
            Ok((connection, _)) => write(connection, batch, &self.erased).map_err(|error| error.to_string()),
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
    let (rules, own) = (Arc::default(), metrics.clone());
    let writer = Writer { queue: queue.clone(), fault: Arc::clone(&fault), since, clock, metrics: own, rules };
    let (since, clock, rules) = (Arc::clone(&writer.since), Arc::clone(&writer.clock), Arc::clone(&writer.rules));
    let thread = std::thread::Builder::new().name("storage".into()).spawn(move || {
        let database = database(&fault);
        let tried = clock.now();
        set(&since, None);
        if let Some(database) = database {
            let house = House::default();
            Thread { database, tried, gap: None, clock, metrics, fault, since, rules, house }.run(&messages);
        }
    })?;
    Ok((writer, WriterThread { queue, thread: Some(thread) }))
}

fn set(since: &Since, at: Option<Instant>) {
    *since.lock().unwrap_or_else(PoisonError::into_inner) = at;
}

impl Writer {
    pub(super) fn record(&self, record: Record) -> bool {
        let audit = matches!(record, Record::Audit(_));
        // Before: who takes it out may be quicker.
        self.metrics.waiting.inc();
        let queued = self.queue.try_send(Message::Record(record)).is_ok();
        if queued {
            self.metrics.audited.inc_by(audit.into());
        } else {
            self.metrics.waiting.dec();
            self.metrics.dropped(QUEUE_FULL, 1);
        }
        queued
    }

    pub(super) fn erase(&self, names: Vec<String>, live: Vec<CallId>) -> Result<Erasure, String> {
        let (done, wait) = sync_channel(1);
        let gone = || "the database has been closed".to_owned();
        self.queue.send(Message::Erase(Erasing::new(names, live, done))).map_err(|_| gone())?;
        wait.recv().unwrap_or_else(|_| Err(gone()))
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from(self.clock.wall())
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

/// What the database lacks. It is told as soon as it can be written, which is also how that shows when nobody calls.
struct Gap {
    since: Timestamp,
    lost: usize,
}

impl Gap {
    fn event(&self, at: Timestamp) -> EventRecord {
        let Self { since, lost } = self;
        EventRecord { at, kind: "storage_gap", detail: format!("{lost} records were lost since {since}") }
    }
}

struct Thread {
    database: Database,
    /// When it was last tried whether it can be opened, or written though there is no record.
    tried: Instant,
    gap: Option<Gap>,
    clock: Arc<dyn Clock>,
    metrics: StorageMetrics,
    fault: Arc<Mutex<Option<String>>>,
    since: Since,
    rules: Arc<RwLock<Rules>>,
    house: House,
}

impl Thread {
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        self.judge(self.opened(), 0);
        loop {
            let patience = if self.house.is_erasing() { Duration::ZERO } else { AGAIN };
            let mut next = match messages.recv_timeout(patience) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut flushed = None;
            let mut stop = false;
            while let Some(message) = next {
                match message {
                    Message::Record(record) => batch.push(record),
                    Message::Erase(erasing) => self.house.erase(erasing),
                    Message::Flush(done) => flushed = Some(done),
                    Message::Stop => stop = true,
                }
                let full = batch.len() >= BATCH || flushed.is_some() || stop;
                next = if full { None } else { messages.try_recv().ok() };
            }
            self.commit(&mut batch);
            batch.clear();
            self.keep_house();
            if let Some(done) = flushed {
                // Whoever asked may have gone.
                done.try_send(()).unwrap_or_default();
            }
            if stop {
                return;
            }
        }
    }

    fn commit(&mut self, batch: &mut Vec<Record>) {
        let records = batch.len();
        self.open_again();
        let now = self.clock.now();
        if let (Some(gap), Ok(_)) = (&self.gap, &self.database.open)
            && (records > 0 || now.saturating_duration_since(self.tried) >= AGAIN)
        {
            self.tried = now;
            batch.push(Record::Event(Box::new(gap.event(Timestamp::from(self.clock.wall())))));
        }
        if batch.is_empty() {
            return;
        }
        self.metrics.waiting.dec_by(i64::try_from(records).unwrap_or(i64::MAX));
        set(&self.since, Some(now));
        let result = self.database.write(batch);
        set(&self.since, None);
        self.metrics.commit.observe(self.clock.now().saturating_duration_since(now).as_secs_f64());
        match &result {
            Ok(()) => {
                self.metrics.written.inc_by(batch.len() as u64);
                self.gap = None;
            }
            Err(_) => self.metrics.dropped(WRITE_FAILED, records),
        }
        self.judge(result, records);
    }

    /// Deletes a little of what is not to be kept.
    fn keep_house(&mut self) {
        let now = self.clock.now();
        if !self.house.is_due(now) {
            return;
        }
        let retention = self.rules.read().unwrap_or_else(PoisonError::into_inner).retention;
        set(&self.since, Some(now));
        let result = match &mut self.database.open {
            Ok((connection, _)) => {
                let today = Timestamp::from(self.clock.wall());
                self.house.step(connection, &mut self.database.erased, retention, (now, today))
            }
            Err(error) => {
                self.house.give_up(&error.to_string());
                Ok(false)
            }
        };
        set(&self.since, None);
        match result {
            Ok(false) => {}
            Ok(true) => self.judge(Ok(()), 0),
            Err(error) => self.judge(Err(error.to_string()), 0),
        }
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
    fn judge(&mut self, result: Result<(), String>, lost: usize) {
        if result.is_err() {
            let now = Timestamp::from(self.clock.wall());
            self.gap.get_or_insert(Gap { since: now, lost: 0 }).lost += lost;
        }
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
