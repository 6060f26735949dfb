//! A few threads that share out the pieces of one computation.
//!
//! Enters: a closure and a number of pieces. Leaves: nothing until every piece is done. Never here: a lock on the hot
//! path, or a thread that spins without bound.
//!
//! Each thread takes the pieces of its own share in order, so that it reads memory forwards, and then what is left of
//! the others': a thread that lost its core delays the step by the one piece it holds.
//! Between two jobs a worker spins some tens of microseconds, then sleeps until it is called.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Rounds of waiting before a worker sleeps: about 50 µs.
const SPINS: u32 = 2_000;

type Job = *const (dyn Fn(usize) + Sync);

struct Worker {
    asleep: AtomicBool,
}

/// On a cache line of its own: every thread counts in its own share most of the time.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicUsize);

struct Shared {
    /// Counts jobs; a worker looks at each job once.
    epoch: AtomicU64,
    open: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    /// The next piece of each thread's share; the caller's comes first.
    next: Vec<Counter>,
    pieces: AtomicUsize,
    /// Workers that may be reading `job`.
    inside: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    workers: Vec<Worker>,
}

// SAFETY: `job` is written only while `open` is false and `inside` is zero, and read only by threads counted in
// `inside` that saw `open` after they were counted.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure and is used only while `Pool::run` borrows it.
unsafe impl Send for Shared {}

/// A set of threads; the caller of [`Pool::run`] is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

impl Pool {
    /// Starts `threads - 1` workers (at least none).
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let count = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            open: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            next: (0..=count).map(|_| Counter::default()).collect(),
            pieces: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            workers: (0..count).map(|_| Worker { asleep: AtomicBool::new(false) }).collect(),
        });
        let mut pool = Self { shared, handles: Vec::new(), turn: Mutex::new(()) };
        for index in 0..count {
            let shared = Arc::clone(&pool.shared);
            let name = format!("compute-{}", index + 1);
            pool.handles.push(thread::Builder::new().name(name).spawn(move || shared.work(index))?);
        }
        Ok(pool)
    }

    /// How many threads compute, the caller among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.handles.len() + 1
    }

    /// Calls `job` once with each number below `pieces`, on all threads; returns when all calls have returned.
    ///
    /// # Panics
    /// If a call panicked.
    pub fn run(&self, pieces: usize, job: &(dyn Fn(usize) + Sync)) {
        if pieces <= 1 || self.handles.is_empty() {
            (0..pieces).for_each(job);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; `run` does not return before no worker can hold the pointer.
        let erased: Job = unsafe { std::mem::transmute(std::ptr::from_ref(job)) };
        // SAFETY: the job before has been closed and `inside` was zero, so nobody reads the slot.
        unsafe { *shared.job.get() = Some(erased) };
        for (thread, next) in shared.next.iter().enumerate() {
            next.0.store(shared.share(pieces, thread).start, Ordering::Relaxed);
        }
        shared.pieces.store(pieces, Ordering::Relaxed);
        shared.open.store(true, Ordering::SeqCst);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (worker, handle) in shared.workers.iter().zip(&self.handles) {
            if worker.asleep.swap(false, Ordering::SeqCst) {
                handle.thread().unpark();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| shared.take(0, job)));
        shared.open.store(false, Ordering::SeqCst);
        let mut spins = 0;
        while shared.inside.load(Ordering::SeqCst) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
        }
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a piece of a computation panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for handle in self.handles.drain(..) {
            handle.thread().unpark();
            // A worker catches the panics of its jobs; there is nothing left to report here.
            drop(handle.join());
        }
    }
}

impl Shared {
    /// The pieces that a thread begins with.
    fn share(&self, pieces: usize, thread: usize) -> Range<usize> {
        let threads = self.next.len();
        pieces * thread / threads..pieces * (thread + 1) / threads
    }

    fn take(&self, own: usize, job: &(dyn Fn(usize) + Sync)) {
        let pieces = self.pieces.load(Ordering::Relaxed);
        let threads = self.next.len();
        for thread in (own..threads).chain(0..own) {
            let end = self.share(pieces, thread).end;
            loop {
                let piece = self.next[thread].0.fetch_add(1, Ordering::Relaxed);
                if piece >= end {
                    break;
                }
                job(piece);
            }
        }
    }

    fn work(&self, index: usize) {
        let mut seen = 0;
        while self.await_job(index, &mut seen) {
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) {
                // SAFETY: counted in `inside` and open since: `run` waits for us before it takes the closure away.
                let job = unsafe { (*self.job.get()).map(|job| &*job) };
                if let Some(job) = job
                    && catch_unwind(AssertUnwindSafe(|| self.take(index + 1, job))).is_err()
                {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Waits for a job not seen before; false when the pool ends.
    fn await_job(&self, index: usize, seen: &mut u64) -> bool {
        let mut spins = 0;
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return false;
            }
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != *seen {
                *seen = epoch;
                return true;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            let asleep = &self.workers[index].asleep;
            asleep.store(true, Ordering::SeqCst);
            if self.epoch.load(Ordering::SeqCst) == *seen && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
            spins = 0;
        }
    }
}

/// A slice whose parts are written by several threads at once, each part by one.
pub(crate) struct Parts<T>(*mut T, usize);

// SAFETY: a part is handed out only through the unsafe `get`, whose caller promises that parts do not overlap.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// # Safety
    /// No two parts that are alive at once overlap, and the slice outlives them.
    #[expect(clippy::mut_from_ref, reason = "the parts do not overlap: the caller's promise")]
    pub(crate) unsafe fn get(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.1), "a part outside its slice");
        // SAFETY: inside the slice, by the check; alone, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(from), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_however_small_the_jobs() {
        let pool = Pool::new(3).expect("threads");
        for pieces in 0..400 {
            let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
            pool.run(pieces, &|piece| {
                counts[piece].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).expect("threads");
        let panic = catch_unwind(AssertUnwindSafe(|| pool.run(64, &|piece| assert!(piece != 40, "forty"))));
        assert!(panic.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, &|piece| {
            sum.fetch_add(piece, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 45);
    }
}
