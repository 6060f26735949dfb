//! Text in; audio frames out.
//!
//! ```text
//!  Speak ─ queue ─ normalise ─ espeak-ng ─ encoder ─┬─ flow ─ vocoder ─ trim ─ resample ─ 20 ms frames ─ Audio
//!            └──── the reader's thread ───┘└─ per sentence ┘ └────── window by window, credit allowing ──────┘
//! ```
//!
//! One thread owns the queue and asks the [`Gate`] before each step: sentences that begin, or windows, of as many calls as
//! are sooner done together. Never here: what was said, in a log line.

mod alphabet;
mod child;
mod espeak;
mod network;
mod normalise;
mod reader;
mod readings;
mod resample;
mod schedule;
mod sentence;
mod speech;
mod worker;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use callbox_wire::{CallId, Event, Failure, Request, Role, RoleInfo, TurnId};
use candle_core::Device;
use crossbeam_channel::{Sender, TrySendError, bounded};

pub use alphabet::{Language, tokens};
pub use espeak::{Espeak, EspeakError};
pub use network::NetworkError;
pub use normalise::normalise;
pub use readings::{Reader, ReadingError};
pub use resample::Resampler;
pub use sentence::Sentence;
pub use speech::SpeechError;

use crate::device::Gate;
use crate::role::{SharedOutlet, Worker};
use network::Window;
use speech::{Speech, Trim};

/// What the role needs.
#[derive(Clone, Debug)]
pub struct VoiceConfig {
    /// A Piper voice (`.onnx`) with its configuration (`.onnx.json`) beside it, or a speaker of Kokoro's (`.bin`) with the
    /// network (`.onnx`) and other speakers beside it.
    pub model: PathBuf,
    /// The program espeak-ng.
    pub espeak: PathBuf,
    /// Where Kokoro computes.
    pub device: Device,
    /// Threads that one window is computed with.
    pub threads: usize,
    /// Sentences of Kokoro's that begin at once at most: see [`together`].
    pub together: usize,
}

/// How many sentences of several calls begin at once where Kokoro computes: on a processor each takes as long beside others
/// as alone, and the first would only wait for them (`examples/bench_together.rs`).
#[must_use]
pub fn together(device: &Device) -> usize {
    if device.is_cpu() { 1 } else { 32 }
}

/// The role: a [`Worker`].
pub struct Voice {
    info: RoleInfo,
    speech: Arc<Speech>,
    queue: Option<Sender<Command>>,
    cancelled: Arc<Cancelled>,
    outlet: SharedOutlet,
    threads: Vec<JoinHandle<()>>,
}

enum Command {
    Do(Request, Instant),
    Beat(Box<dyn FnOnce() + Send>),
}

/// Turns whose cancellation was read but has not yet come round to the thread: nothing of them is sent any more.
#[derive(Default)]
struct Cancelled(Mutex<HashMap<(CallId, Option<TurnId>), u32>>);

/// Commands that wait for the thread, of any kind.
const QUEUE: usize = 1024;
/// Beyond this, new clauses are refused, so that grants and cancels still pass.
const SPEAK_QUEUE: usize = 256;
/// What the model says while it warms up: the lengths of real answers.
const WARM_UP: [&str; 3] = [
    "Yes.",
    "Sure, one moment please.",
    "We are open from nine to five, Monday through Friday, and on Saturday until noon.",
];

impl Voice {
    /// Loads the voice, warms it up and starts the thread.
    ///
    /// # Errors
    /// If a file is missing or wrong, or espeak-ng cannot be started; in one sentence.
    #[expect(clippy::disallowed_methods, reason = "the edge: load times are measured here")]
    pub fn start(config: &VoiceConfig, gate: Gate, outlet: SharedOutlet) -> Result<Self, SpeechError> {
        let started = Instant::now();
        let speech = Arc::new(Speech::load(config)?);
        let load_ms = millis(started);
        let started = Instant::now();
        for text in WARM_UP {
            speech.synthesise(text, None, 0)?;
        }
        let together = speech.network.together(config.together, config.threads);
        let sentences = speech.sentences(WARM_UP[2], None, started)?.into_iter().next();
        let many: Vec<_> = sentences.iter().cycle().take(together.sentences).map(|one| (one.clone(), 0)).collect();
        speech.begin(&many)?;
        let info = RoleInfo {
            role: Role::Voice,
            model: config.model.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            load_ms,
            warmup_ms: millis(started),
        };
        let (queue, commands) = bounded(QUEUE);
        let cancelled = Arc::new(Cancelled::default());
        let fault = |source| EspeakError::Missing { program: "the voice's thread".into(), source };
        let (texts, readings, reader) = reader::start(Arc::clone(&speech)).map_err(fault)?;
        let shared = (Arc::clone(&outlet), Arc::clone(&cancelled));
        let mut worker =
            worker::Scheduler::new(Arc::<Speech>::clone(&speech), together, texts, gate, shared.0, shared.1);
        let run = move || worker.run(&commands, &readings);
        let thread = std::thread::Builder::new().name("voice".into()).spawn(run).map_err(fault)?;
        Ok(Self { info, speech, queue: Some(queue), cancelled, outlet, threads: vec![thread, reader] })
    }

    /// Speaks a text at once, at [`Self::rate`]; the same seed gives the same samples. For tests and benches: it asks
    /// no gate and sends nothing.
    ///
    /// # Errors
    /// If espeak-ng is gone.
    pub fn synthesise(&self, text: &str, seed: u64) -> Result<Vec<f32>, SpeechError> {
        self.speech.synthesise(text, None, seed)
    }

    /// Samples per second of [`Self::synthesise`].
    pub fn rate(&self) -> u32 {
        self.speech.network.rate()
    }

    fn enqueue(&self, command: Command) -> Result<(), TrySendError<Command>> {
        match &self.queue {
            Some(queue) => queue.try_send(command),
            None => Err(TrySendError::Disconnected(command)),
        }
    }

    fn refuse(&self, call: CallId, turn: TurnId, failure: Failure, reason: &str) {
        self.outlet.send(Event::Failed { call, turn, role: Role::Voice, failure, reason: reason.into() });
    }
}

impl Worker for Voice {
    fn info(&self) -> &RoleInfo {
        &self.info
    }

    #[expect(clippy::disallowed_methods, reason = "the edge: a request's clock starts when it is read")]
    fn submit(&self, request: Request) {
        let (call, turn) = match &request {
            Request::Speak { call, turn, .. } | Request::Grant { call, turn, .. } | Request::Cancel { call, turn } => {
                (*call, Some(*turn))
            }
            Request::Forget { call } => (*call, None),
            _ => return,
        };
        let waiting = self.queue.as_ref().map_or(0, Sender::len);
        if let (Request::Speak { .. }, Some(turn)) = (&request, turn)
            && waiting >= SPEAK_QUEUE
        {
            return self.refuse(call, turn, Failure::Overloaded, "the voice's queue is full");
        }
        let ends = matches!(request, Request::Cancel { .. } | Request::Forget { .. });
        if ends {
            self.cancelled.note(call, turn);
        }
        if let Err(error) = self.enqueue(Command::Do(request, Instant::now())) {
            // A lost cancel stays noted, so nothing of its turn is sent.
            let (failure, reason) = match error {
                TrySendError::Full(_) => (Failure::Overloaded, "the voice's queue is full"),
                TrySendError::Disconnected(_) => (Failure::Internal, "the voice has stopped"),
            };
            self.refuse(call, turn.unwrap_or_default(), failure, reason);
        }
    }

    fn beat(&self, done: Box<dyn FnOnce() + Send>) {
        if self.enqueue(Command::Beat(done)).is_err() {
            tracing::warn!("the voice has no room for a heartbeat");
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the voice ended in a panic");
            }
        }
    }
}

impl Cancelled {
    fn lock(&self) -> MutexGuard<'_, HashMap<(CallId, Option<TurnId>), u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cancellation was read. The bound is reached only if the thread is stuck.
    fn note(&self, call: CallId, turn: Option<TurnId>) {
        let mut noted = self.lock();
        if noted.len() < 2 * QUEUE {
            *noted.entry((call, turn)).or_default() += 1;
        }
    }

    /// The thread has come to a cancellation.
    fn served(&self, call: CallId, turn: Option<TurnId>) {
        let mut noted = self.lock();
        if let Some(count) = noted.get_mut(&(call, turn)) {
            *count -= 1;
            if *count == 0 {
                noted.remove(&(call, turn));
            }
        }
    }
}

impl Speech {
    #[expect(clippy::disallowed_methods, reason = "the edge: for tests and benches")]
    fn synthesise(&self, text: &str, voice: Option<&str>, seed: u64) -> Result<Vec<f32>, SpeechError> {
        let mut out = Vec::new();
        let mut trim = Trim::new(self.network.rate());
        for sentence in self.sentences(text, voice, Instant::now())? {
            let pause = (self.network.rate() * sentence.pause_ms / 1000) as usize;
            for spoken in self.begin(&[(sentence, seed)])? {
                let mut windows = [Window { spoken, seconds: worker::LARGE_WINDOW, samples: Vec::new() }];
                while !windows[0].spoken.is_finished() {
                    self.network.advance(&mut windows)?;
                }
                trim.push(&windows[0].samples, &mut out);
            }
            out.resize(out.len() + pause, 0.0);
        }
        trim.finish(&mut out);
        Ok(out)
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge: load times are measured here")]
fn millis(since: Instant) -> u32 {
    u32::try_from(Instant::now().duration_since(since).as_millis()).unwrap_or(u32::MAX)
}
