//! Sentences in; vectors out.
//!
//! Enters: [`Request::Embed`], [`Request::Cancel`], [`Request::Forget`]. Leaves: [`Event::Embedded`], [`Event::Failed`].
//! Never here: what is similar to what; that is the daemon's to say.
//!
//! A sentence is one short step, so one thread takes them one after the other: those that a caller waits for first. A
//! full queue says `Overloaded`.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use callbox_wire::{CallId, Event, Failure, Request, Role, RoleInfo, TurnId};
use candle_core::Device;

use crate::device::{Gate, Urgency};
use crate::models::minilm::MiniLm;
use crate::role::{SharedOutlet, Worker};

/// Sentences that may wait, those of callers and the others.
const ROOM: usize = 64;

/// Bytes of a sentence; the model reads a part of it.
const LONGEST: usize = 16 << 10;

struct Job {
    call: CallId,
    turn: TurnId,
    text: String,
    asked: Instant,
}

#[derive(Default)]
struct State {
    /// A caller waits for these.
    urgent: VecDeque<Job>,
    others: VecDeque<Job>,
    /// What is computed now, unless it is not wanted any more.
    current: Option<(CallId, TurnId)>,
    beats: Vec<Box<dyn FnOnce() + Send>>,
    closed: bool,
}

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

/// The role.
pub struct Embedder {
    info: RoleInfo,
    desk: Arc<Desk>,
    outlet: SharedOutlet,
    thread: Option<JoinHandle<()>>,
}

impl Embedder {
    /// Loads the model, runs it, starts its thread.
    ///
    /// # Errors
    /// If the model cannot be loaded or does not work.
    pub fn start(model: &Path, device: &Device, gate: Gate, outlet: SharedOutlet) -> Result<Self> {
        let begun = now();
        let network = MiniLm::open(model, device).with_context(|| model.display().to_string())?;
        let loaded = now();
        {
            let _permit = gate.enter(Urgency::Background);
            let vector = network.embed("When is breakfast served on weekdays?")?;
            ensure!(vector.iter().all(|number| number.is_finite()), "the embedder computes numbers that are none");
        }
        let millis = |from: Instant, to: Instant| u32::try_from((to - from).as_millis()).unwrap_or(u32::MAX);
        let folder = model.parent().and_then(Path::file_name).unwrap_or_default();
        let info = RoleInfo {
            role: Role::Embed,
            model: folder.to_string_lossy().into_owned(),
            load_ms: millis(begun, loaded),
            warmup_ms: millis(loaded, now()),
        };
        let desk = Arc::new(Desk::default());
        let run = {
            let (desk, outlet) = (Arc::clone(&desk), Arc::clone(&outlet));
            move || work(&network, &desk, &gate, &outlet)
        };
        let thread = std::thread::Builder::new().name("embed".into()).spawn(run)?;
        Ok(Self { info, desk, outlet, thread: Some(thread) })
    }
}

impl Worker for Embedder {
    fn info(&self) -> &RoleInfo {
        &self.info
    }

    fn submit(&self, request: Request) {
        match request {
            Request::Embed { call, turn, text, urgent } => {
                if text.len() > LONGEST {
                    self.outlet.send(failed(call, turn, Failure::Invalid, "the sentence is too long"));
                } else if !self.desk.put(Job { call, turn, text, asked: now() }, urgent) {
                    self.outlet.send(failed(call, turn, Failure::Overloaded, "too many sentences wait"));
                }
            }
            Request::Cancel { call, turn } => self.desk.cancel(call, Some(turn)),
            Request::Forget { call } => self.desk.cancel(call, None),
            _ => {}
        }
    }

    fn beat(&self, done: Box<dyn FnOnce() + Send>) {
        self.desk.lock().beats.push(done);
        self.desk.changed.notify_one();
    }
}

impl Drop for Embedder {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.changed.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the embedder's thread had panicked");
        }
    }
}

impl Desk {
    /// Nothing that runs under the lock can leave it half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if there is no room.
    fn put(&self, job: Job, urgent: bool) -> bool {
        let mut state = self.lock();
        let queue = if urgent { &mut state.urgent } else { &mut state.others };
        let room = queue.len() < ROOM;
        if room {
            queue.push_back(job);
            self.changed.notify_one();
        }
        room
    }

    fn cancel(&self, call: CallId, turn: Option<TurnId>) {
        let unwanted = |c: CallId, t: TurnId| c == call && turn.is_none_or(|turn| t == turn);
        let mut state = self.lock();
        state.urgent.retain(|job| !unwanted(job.call, job.turn));
        state.others.retain(|job| !unwanted(job.call, job.turn));
        if state.current.is_some_and(|(call, turn)| unwanted(call, turn)) {
            state.current = None;
        }
    }

    /// Waits for the next job and its urgency; none if the desk is closed.
    fn take(&self) -> Option<(Job, Urgency)> {
        let mut state = self.lock();
        loop {
            let beats = std::mem::take(&mut state.beats);
            if !beats.is_empty() {
                drop(state);
                beats.into_iter().for_each(|beat| beat());
                state = self.lock();
                continue;
            }
            if state.closed {
                return None;
            }
            let urgent = state.urgent.pop_front().map(|job| (job, Urgency::Embed));
            let next = urgent.or_else(|| state.others.pop_front().map(|job| (job, Urgency::Background)));
            if let Some((job, urgency)) = next {
                state.current = Some((job.call, job.turn));
                return Some((job, urgency));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends the outcome of a job, unless it was cancelled; under the lock, so that a cancellation comes before or after.
    fn report(&self, outlet: &SharedOutlet, event: Event) {
        if self.lock().current.take().is_some() {
            outlet.send(event);
        }
    }
}

fn work(network: &MiniLm, desk: &Desk, gate: &Gate, outlet: &SharedOutlet) {
    while let Some((Job { call, turn, text, asked }, urgency)) = desk.take() {
        let permit = gate.enter(urgency);
        let started = now();
        let outcome = network.embed(&text);
        drop(permit);
        let event = match outcome {
            Ok(vector) => Event::Embedded {
                call,
                turn,
                vector,
                queue_us: micros(asked, started),
                compute_us: micros(started, now()),
            },
            Err(error) => {
                tracing::error!(%call, %turn, %error, "a sentence could not be embedded");
                failed(call, turn, Failure::Internal, "the embedding model failed")
            }
        };
        desk.report(outlet, event);
    }
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

fn failed(call: CallId, turn: TurnId, failure: Failure, reason: &str) -> Event {
    Event::Failed { call, turn, role: Role::Embed, failure, reason: reason.into() }
}

#[expect(clippy::disallowed_methods, reason = "the edge: a role measures its own work")]
fn now() -> Instant {
    Instant::now()
}
