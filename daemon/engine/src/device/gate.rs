//! A turnstile for the processor: one role computes at a time, the most urgent first.
//!
//! On a small machine two models that compute at once both lose: each holds half of the memory bandwidth and spins for
//! the other's core. So a role asks before each step of at most some tens of milliseconds, and whoever is most urgent
//! goes next. A permit is never taken back; steps must be short.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Why a role wants to compute; the first is the most urgent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Urgency {
    /// The first audio of an answer: a caller hears silence until then.
    FirstAudio,
    /// Audio that keeps a started answer from running dry.
    NextAudio,
    /// What a caller's words mean: a few milliseconds, after which an answer may be known.
    Embed,
    /// Words of a caller who has stopped speaking.
    Transcribe,
    /// The next token of every answer.
    Decode,
    /// The prompt of an answer that is wanted now.
    Prefill,
    /// Work that no caller waits for yet.
    Background,
}

const LEVELS: usize = Urgency::Background as usize + 1;

#[derive(Default)]
struct State {
    busy: bool,
    waiting: [usize; LEVELS],
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A turnstile; clones are the same turnstile.
#[derive(Clone, Default)]
pub struct Gate(Arc<Shared>);

/// Permission to compute; ends when dropped.
#[must_use = "the permission ends when this is dropped"]
pub struct Permit(Arc<Shared>);

impl Gate {
    /// Waits until nobody computes and nobody more urgent waits.
    pub fn enter(&self, urgency: Urgency) -> Permit {
        let level = urgency as usize;
        let mut state = self.0.lock();
        state.waiting[level] += 1;
        while state.busy || state.waiting[..level].iter().any(|&waiting| waiting > 0) {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting[level] -= 1;
        state.busy = true;
        Permit(Arc::clone(&self.0))
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.iter().sum()
    }
}

impl Shared {
    /// A panic while computing leaves nothing here half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().busy = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::thread;

    use super::*;

    #[test]
    fn the_most_urgent_goes_first() {
        let gate = Gate::default();
        let held = gate.enter(Urgency::Background);
        let (done, order) = sync_channel(8);
        let wishes = [Urgency::Background, Urgency::Decode, Urgency::FirstAudio, Urgency::Prefill];
        let threads: Vec<_> = wishes
            .map(|urgency| {
                let (gate, done) = (gate.clone(), done.clone());
                thread::spawn(move || {
                    let _permit = gate.enter(urgency);
                    done.send(urgency).expect("the test listens");
                })
            })
            .into();
        while gate.waiting() < wishes.len() {
            thread::yield_now();
        }
        drop(held);
        for thread in threads {
            thread.join().expect("no panic");
        }
        drop(done);
        let order: Vec<_> = order.iter().collect();
        assert_eq!(order, [Urgency::FirstAudio, Urgency::Decode, Urgency::Prefill, Urgency::Background]);
    }
}
