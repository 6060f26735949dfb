//! The utterances that wait for the scribe, and those that it works at.
//!
//! Enters: jobs and cancellations. Leaves: the job whose caller stopped speaking first, with others of about its length if the
//! scribe takes several. Bounded: what finds it full is given back. Whoever cancels a turn can be sure, once back, that nothing more of it is sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use callbox_wire::{CallId, Event, Language, TurnId};

use crate::models::whisper::bucket;
use crate::role::SharedOutlet;

/// Utterances that may wait: more would wait longer than a caller does.
const ROOM: usize = 64;

/// An utterance to be transcribed.
pub(super) struct Job {
    pub(super) call: CallId,
    pub(super) turn: TurnId,
    pub(super) samples: Vec<f32>,
    pub(super) language: Language,
    /// When it was asked for.
    pub(super) asked: Instant,
    /// When the span ended in the caller's time: who stopped speaking first waits longest.
    pub(super) ended: Instant,
    pub(super) cancelled: Arc<AtomicBool>,
}

pub(super) type Beat = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    waiting: Vec<Job>,
    current: Vec<(CallId, TurnId, Arc<AtomicBool>)>,
    beats: Vec<Beat>,
    closed: bool,
}

#[derive(Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

impl Desk {
    /// Nothing that runs under the lock can leave it half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if there is no room.
    pub(super) fn put(&self, job: Job) -> bool {
        let mut state = self.lock();
        let room = state.waiting.len() < ROOM;
        if room {
            state.waiting.push(job);
            self.changed.notify_one();
        }
        room
    }

    /// Ends the work of a turn, or of all turns of a call.
    pub(super) fn cancel(&self, call: CallId, turn: Option<TurnId>) {
        let wanted = |c: CallId, t: TurnId| c != call || turn.is_some_and(|turn| t != turn);
        let mut state = self.lock();
        state.waiting.retain(|job| wanted(job.call, job.turn));
        for (_, _, cancelled) in state.current.iter().filter(|(c, t, _)| !wanted(*c, *t)) {
            cancelled.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn beat(&self, beat: Beat) {
        self.lock().beats.push(beat);
        self.changed.notify_one();
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        for (.., cancelled) in &state.current {
            cancelled.store(true, Ordering::Relaxed);
        }
        self.changed.notify_all();
    }

    /// Waits for the next job, and takes others of its bucket with it, in all as many as `most` says of its samples; none if the
    /// desk is closed.
    pub(super) fn take(&self, most: impl Fn(usize) -> usize) -> Option<Vec<Job>> {
        let mut state = self.lock();
        loop {
            state.current.clear();
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
            if let Some(first) = state.waiting.iter().min_by_key(|job| job.ended) {
                let (like, most) = (bucket(first.samples.len()), most(first.samples.len()));
                state.waiting.sort_by_key(|job| job.ended);
                let mut taken = 0;
                let alike = |job: &mut Job| {
                    let alike = taken < most && bucket(job.samples.len()) == like;
                    taken += usize::from(alike);
                    alike
                };
                let jobs: Vec<Job> = state.waiting.extract_if(.., alike).collect();
                state.current = jobs.iter().map(|job| (job.call, job.turn, Arc::clone(&job.cancelled))).collect();
                return Some(jobs);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends the outcome of a job, unless it was cancelled; under the lock, so that a cancellation comes before or after.
    pub(super) fn report(&self, job: &Job, outlet: &SharedOutlet, event: Event) {
        let _state = self.lock();
        if !job.cancelled.load(Ordering::Relaxed) {
            outlet.send(event);
        }
    }
}
