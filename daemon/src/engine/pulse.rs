//! How long an engine has been silent although it could have spoken. Enters: heartbeats, and what the kernel tells of the
//! engine's threads; leaves: the time that counts against it. Never here: what follows from it.
//!
//! On a computer with too much to do, a healthy engine answers late; to kill it and load its models anew would take what
//! there is left from the others. So time that a thread of it stood in a processor's queue does not count: one that hangs
//! stands in no queue, and one that turns in circles is given a processor now and then.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

/// What the kernel tells of a process's threads.
pub(super) trait Queueing: Send {
    /// The longest time that any one thread waited for a processor since it was asked last.
    fn waited(&mut self) -> Duration;
}

/// `/proc/PID/task/TID/schedstat`: nanoseconds on a processor, nanoseconds in its queue, turns (Linux,
/// Documentation/scheduler/sched-stats.rst). A kernel that does not tell tells of no wait.
pub(super) struct Schedstat {
    tasks: Option<PathBuf>,
    threads: HashMap<PathBuf, Duration>,
}

impl Schedstat {
    pub(super) fn of(process: Option<i32>) -> Self {
        let tasks = process.map(|process| PathBuf::from(format!("/proc/{process}/task")));
        let mut this = Self { tasks, threads: HashMap::new() };
        this.waited();
        this
    }

    /// Whether the kernel tells anything.
    #[cfg(test)]
    pub(super) fn is_told(&self) -> bool {
        !self.threads.is_empty()
    }
}

impl Queueing for Schedstat {
    fn waited(&mut self) -> Duration {
        let folders = self.tasks.as_ref().and_then(|tasks| fs::read_dir(tasks).ok());
        let read = |folder: fs::DirEntry| {
            let path = folder.path();
            let told = fs::read_to_string(path.join("schedstat")).ok()?;
            Some((path, Duration::from_nanos(told.split_ascii_whitespace().nth(1)?.parse().ok()?)))
        };
        let now: HashMap<_, _> = folders.into_iter().flatten().flatten().filter_map(read).collect();
        let longest = now
            .iter()
            .map(|(thread, waited)| waited.saturating_sub(self.threads.get(thread).copied().unwrap_or_default()))
            .max();
        self.threads = now;
        longest.unwrap_or_default()
    }
}

/// One engine's heartbeats.
pub(super) struct Pulse {
    queueing: Box<dyn Queueing>,
    beat: Duration,
    last: Instant,
}

impl Pulse {
    pub(super) fn new(beat: Duration, queueing: Box<dyn Queueing>) -> Self {
        Self { queueing, beat, last: Instant::now() }
    }

    /// Time between two beats.
    pub(super) fn interval(&self) -> Duration {
        self.beat
    }

    /// The time since the last beat in which the engine could have answered. Of a longer time than two beats this daemon
    /// itself was without a processor for the rest, and did not listen.
    pub(super) fn beat(&mut self, now: Instant) -> Duration {
        let passed = (now - self.last).min(2 * self.beat);
        self.last = now;
        passed.saturating_sub(self.queueing.waited())
    }
}
