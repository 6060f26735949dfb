//! The one thread that records. Enters: sources of calls, through a bounded queue; leaves: parts of recordings on the disk, and
//! what became of them. A disk that fails ends a part, and another one is tried after a while: what comes in between is lost
//! and counted, and the call goes on.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::export::{AudioFormat, ExportError, export};
use super::folder;
use super::keys::KeyRing;
use super::opus::Encoder;
use super::sealed::{Header, Writer};
use super::{FRAME, Pair};
use crate::base::{CallId, Clock};

/// Recordings that wait to be begun; one more is not.
const QUEUE: usize = 1024;

/// How often sources are asked.
const EVERY: Duration = Duration::from_millis(100);

/// Packets of a chunk: what a process that dies may lose is a second.
const CHUNK: u32 = 50;

/// Frames in a row that are made good with silence; time that is missing beyond shows as a shorter recording.
const MOST_SILENCE: u64 = 60 * 50;

/// Between two attempts to write.
const AGAIN: Duration = Duration::from_secs(10);

/// Between two looks for what is too old.
const LOOK: Duration = Duration::from_secs(600);

/// Where frames come from. Never waits.
pub trait Source: Send {
    /// The next 20 ms, if they are there.
    fn next(&mut self) -> Option<Pair>;

    /// No more will come.
    fn is_over(&self) -> bool;
}

/// How recordings are kept.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Settings {
    /// To seal and to open with.
    pub keys: KeyRing,
    /// Days after which a recording is removed; none for never.
    pub keep_days: Option<u32>,
}

/// A part of a recording: told when it begins and when it ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The call.
    pub call: CallId,
    /// Which part, from 1.
    pub part: u32,
    /// Its first frame, in microseconds since 1970.
    pub begun_us: i64,
    /// Whether it has ended.
    pub ended: bool,
    /// Frames in it.
    pub frames: u64,
    /// Those of them that are silence because they were lost.
    pub lost: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// What its key is called.
    pub key: String,
}

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct RecordingMetrics {
    active: Gauge,
    frames: Counter,
    lost: Family<[(&'static str, &'static str); 1], Counter>,
    bytes: Counter,
    failures: Counter,
    removed: Counter,
}

impl RecordingMetrics {
    fn new() -> Self {
        let this = Self::default();
        for reason in [LATE, WRITE_FAILED] {
            this.lose(reason, 0);
        }
        this
    }

    fn lose(&self, reason: &'static str, frames: u64) {
        self.lost.get_or_create(&[("reason", reason)]).inc_by(frames);
    }

    /// Adds them to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("recording_active", "Calls that are recorded now", self.active.clone());
        registry.register("recording_frames", "Frames of 20 ms recorded", self.frames.clone());
        registry.register("recording_frames_lost", "Frames of 20 ms that are missing", self.lost.clone());
        registry.register_with_unit("recording_written", "Written to recordings", Unit::Bytes, self.bytes.clone());
        registry.register("recording_failures", "Times when a recording could not be written", self.failures.clone());
        registry.register("recording_removed", "Files removed for their age or a person", self.removed.clone());
    }
}

const LATE: &str = "late";
const WRITE_FAILED: &str = "write_failed";

/// Whether a call may be recorded at all; none if that is not known yet. Asked on the recorder's thread, so it may take its
/// time.
pub type Permitted = Box<dyn Fn(CallId) -> Option<bool> + Send>;

/// Told of parts, on the recorder's thread.
pub type Told = Box<dyn Fn(Part) + Send>;

enum Message {
    Begin(CallId, Box<dyn Source>, Arc<AtomicBool>),
    Forget(Vec<CallId>, SyncSender<io::Result<u64>>),
    Stop(SyncSender<()>),
}

/// The thread; dropping it finishes what is being recorded.
#[must_use = "dropping it ends all recordings"]
pub struct Recorder {
    handle: Recordings,
    thread: Option<JoinHandle<()>>,
}

/// What rooms hold; cheap to clone.
#[derive(Clone)]
pub struct Recordings {
    queue: SyncSender<Message>,
    folder: Arc<PathBuf>,
    settings: Arc<RwLock<Settings>>,
    metrics: RecordingMetrics,
}

impl Recorder {
    /// Starts the thread; nothing is written before a call is recorded. `random` must not be predictable.
    ///
    /// # Errors
    /// No thread.
    pub fn start(
        folder: PathBuf,
        settings: Settings,
        clock: Arc<dyn Clock>,
        random: Box<dyn FnMut() -> u64 + Send>,
        (permitted, told): (Permitted, Told),
    ) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let handle = Recordings {
            queue,
            folder: Arc::new(folder),
            settings: Arc::new(RwLock::new(settings)),
            metrics: RecordingMetrics::new(),
        };
        let own = handle.clone();
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || {
            let work = Work {
                folder: Arc::clone(&own.folder),
                settings: Arc::clone(&own.settings),
                metrics: own.metrics.clone(),
                clock,
                random,
                permitted,
                told,
                failing: false,
            };
            // The queue's other end must not be held by its own reader.
            drop(own);
            run(work, &messages);
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// For the rooms.
    #[must_use]
    pub fn handle(&self) -> Recordings {
        self.handle.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.handle.finish();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was reported by the hook already.
            drop(thread.join());
        }
    }
}

impl Recordings {
    /// Records a call from now on, until its source is over; what comes while `paused` says so is silence. Never blocks: if
    /// too many begin at once, this one is not recorded, and counted.
    pub fn begin(&self, call: CallId, source: Box<dyn Source>, paused: Arc<AtomicBool>) {
        if self.queue.try_send(Message::Begin(call, source, paused)).is_err() {
            self.metrics.failures.inc();
        }
    }

    /// Ends the recordings of these calls and removes them; how many files there were. Blocks on the disk.
    ///
    /// # Errors
    /// What the disk says; some may be removed.
    pub fn forget(&self, calls: Vec<CallId>) -> io::Result<u64> {
        let (done, wait) = sync_channel(1);
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.queue.send(Message::Forget(calls, done)).map_err(|_| gone())?;
        wait.recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Writes what waits and ends all recordings, for good. Blocks on the disk.
    pub fn finish(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Stop(done)).is_ok() {
            // An error means that the thread has ended: nothing waits any more.
            wait.recv().unwrap_or_default();
        }
    }

    /// All of a recording so far, as audio. Blocks on the disk.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub fn export(&self, call: CallId, format: AudioFormat) -> Result<Vec<u8>, ExportError> {
        let keys = self.settings.read().unwrap_or_else(PoisonError::into_inner).keys.clone();
        export(&self.folder, &keys, call, format)
    }

    /// Other keys and another time to keep, from the next part on.
    pub fn set(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// What is counted here.
    #[must_use]
    pub const fn metrics(&self) -> &RecordingMetrics {
        &self.metrics
    }
}

struct Work {
    folder: Arc<PathBuf>,
    settings: Arc<RwLock<Settings>>,
    metrics: RecordingMetrics,
    clock: Arc<dyn Clock>,
    random: Box<dyn FnMut() -> u64 + Send>,
    permitted: Permitted,
    told: Told,
    /// The disk was said to fail.
    failing: bool,
}

/// A call that is recorded.
struct Track {
    source: Box<dyn Source>,
    paused: Arc<AtomicBool>,
    permitted: bool,
    encoder: Encoder,
    /// The frame that is due.
    next: Option<u64>,
    open: Result<Open, Instant>,
}

/// The part that is written.
struct Open {
    writer: Writer,
    part: Part,
    /// Packets of the chunk.
    waiting: u32,
}

fn run(mut work: Work, messages: &Receiver<Message>) {
    let mut tracks: HashMap<CallId, Track> = HashMap::new();
    let mut look = None::<Instant>;
    loop {
        let mut message = match messages.recv_timeout(EVERY) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut stop = None;
        while let Some(next) = message {
            match next {
                Message::Begin(call, source, paused) => work.begin(&mut tracks, call, source, paused),
                Message::Forget(calls, done) => {
                    // Whoever asked may have gone.
                    done.try_send(work.forget(&mut tracks, &calls)).unwrap_or_default();
                }
                Message::Stop(done) => stop = Some(done),
            }
            message = messages.try_recv().ok();
        }
        tracks.retain(|call, track| {
            let permitted = work.take(*call, track);
            let goes_on = permitted && stop.is_none() && !track.source.is_over();
            if !goes_on {
                work.finish(track);
            }
            goes_on
        });
        work.metrics.active.set(i64::try_from(tracks.len()).unwrap_or(i64::MAX));
        let now = work.clock.now();
        if look.is_none_or(|next| now >= next) {
            look = Some(now + LOOK);
            work.remove_old();
        }
        if let Some(done) = stop {
            // Whoever asked may have gone.
            done.try_send(()).unwrap_or_default();
            return;
        }
    }
}

impl Work {
    fn begin(
        &mut self,
        tracks: &mut HashMap<CallId, Track>,
        call: CallId,
        source: Box<dyn Source>,
        paused: Arc<AtomicBool>,
    ) {
        match Encoder::new() {
            Ok(encoder) => {
                // The first part is opened with the first frame.
                let open = Err(self.clock.now());
                let track = Track { source, paused, permitted: false, encoder, next: None, open };
                tracks.insert(call, track);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Takes what has come, and writes what makes a chunk; false if this call must not be recorded. Until that is known,
    /// frames wait in their source.
    fn take(&mut self, call: CallId, track: &mut Track) -> bool {
        if !track.permitted {
            match (self.permitted)(call) {
                Some(permitted) => track.permitted = permitted,
                None => return true,
            }
        }
        if !track.permitted {
            return false;
        }
        while let Some(pair) = track.source.next() {
            let missing = track.next.map_or(0, |due| pair.index.saturating_sub(due)).min(MOST_SILENCE);
            track.next = Some(pair.index + 1);
            self.metrics.lose(LATE, missing);
            if let Err(since) = track.open {
                if since > self.clock.now() {
                    self.metrics.lose(WRITE_FAILED, 1);
                    continue;
                }
                track.open = self.open(call).ok_or_else(|| self.clock.now() + AGAIN);
            }
            let Ok(open) = &mut track.open else {
                self.metrics.lose(WRITE_FAILED, 1);
                continue;
            };
            let paused = track.paused.load(Ordering::Relaxed);
            let silence = [0; FRAME];
            let (far_end, agent) = if paused { (&silence, &silence) } else { (&pair.far_end, &pair.agent) };
            // What was lost before the part began is a gap between parts.
            let missing = if open.part.frames == 0 { 0 } else { missing };
            let encoded = (0..missing).try_for_each(|_| {
                open.put(track.encoder.silence()?);
                open.part.lost += 1;
                Ok(())
            });
            let encoded = encoded.and_then(|()| track.encoder.encode(far_end, agent).map(|packet| open.put(packet)));
            let written = match encoded {
                Ok(()) if open.waiting >= CHUNK => open.write(false, &self.metrics).map_err(|error| error.to_string()),
                Ok(()) => Ok(()),
                Err(error) => Err::<(), ::opus::Error>(error).map_err(|error| error.to_string()),
            };
            if let Err(why) = written {
                self.metrics.lose(WRITE_FAILED, open.waiting.into());
                let part = open.part.clone();
                self.fail(&why);
                (self.told)(Part { ended: true, ..part });
                track.open = Err(self.clock.now() + AGAIN);
            }
        }
        true
    }

    fn open(&mut self, call: CallId) -> Option<Open> {
        let opened = self.create(call);
        match opened {
            Ok(open) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("recordings can be written again");
                }
                (self.told)(open.part.clone());
                Some(open)
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    fn create(&mut self, call: CallId) -> io::Result<Open> {
        folder::make(&self.folder)?;
        let part = folder::next_part(&self.folder, call).ok_or(io::ErrorKind::QuotaExceeded)?;
        let mut nonce = [0; 19];
        nonce.chunks_mut(8).for_each(|to| {
            let random = (self.random)().to_le_bytes();
            to.iter_mut().zip(random).for_each(|(to, from)| *to = from);
        });
        let begun_us = micros(self.clock.wall());
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        let key = settings.keys.newest().ok_or_else(|| io::Error::other("there is no key for recordings"))?;
        let path = folder::path(&self.folder, call, part);
        let writer = Writer::create(&path, Header { call, part, begun_us }, key, &nonce)?;
        let key = settings.keys.newest_id();
        let bytes = writer.length();
        let part = Part { call, part, begun_us, ended: false, frames: 0, lost: 0, bytes, key };
        Ok(Open { writer, part, waiting: 0 })
    }

    fn finish(&mut self, track: &mut Track) {
        if let Ok(mut open) = std::mem::replace(&mut track.open, Err(self.clock.now())) {
            if let Err(error) = open.write(true, &self.metrics) {
                self.metrics.lose(WRITE_FAILED, open.waiting.into());
                self.fail(&error);
            }
            (self.told)(Part { ended: true, ..open.part });
        }
    }

    fn forget(&mut self, tracks: &mut HashMap<CallId, Track>, calls: &[CallId]) -> io::Result<u64> {
        let mut removed = 0;
        for call in calls {
            tracks.remove(call);
            removed += folder::remove(&self.folder, *call)?;
        }
        self.metrics.removed.inc_by(removed);
        Ok(removed)
    }

    fn remove_old(&mut self) {
        let days = self.settings.read().unwrap_or_else(PoisonError::into_inner).keep_days;
        let Some(days) = days else { return };
        let age = Duration::from_secs(u64::from(days) * 86_400);
        let Some(than) = self.clock.wall().checked_sub(age) else { return };
        match folder::remove_older(&self.folder, than) {
            Ok(removed) => drop(self.metrics.removed.inc_by(removed)),
            Err(error) => tracing::warn!(%error, "recordings that are too old cannot be removed"),
        }
    }

    /// Says once that recordings fail.
    fn fail(&mut self, why: &dyn std::fmt::Display) {
        self.metrics.failures.inc();
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%why, "a recording cannot be written; calls go on, and it is tried again");
        }
    }
}

impl Open {
    fn put(&mut self, packet: &[u8]) {
        self.writer.push(packet);
        self.waiting += 1;
        self.part.frames += 1;
    }

    fn write(&mut self, last: bool, metrics: &RecordingMetrics) -> io::Result<()> {
        let before = self.writer.length();
        self.writer.write(last)?;
        self.part.bytes = self.writer.length();
        metrics.bytes.inc_by(self.part.bytes - before);
        metrics.frames.inc_by(self.waiting.into());
        self.waiting = 0;
        Ok(())
    }
}

fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
