//! How far a pull is. Enters: bytes; leaves: a bar on a terminal, plain lines elsewhere, both on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// Who is told how far a pull is.
pub trait Progress: Send + Sync {
    /// What a person should read before it begins.
    fn say(&self, line: &str);
    /// A pull of `bytes` in all begins; `what` is the pack.
    fn begin(&self, what: &str, bytes: u64);
    /// So many bytes of the current archive are here.
    fn arrived(&self, bytes: u64);
    /// The current archive is here, verified; its length.
    fn archive(&self, file: &str, bytes: u64);
    /// A file of a model was put in place.
    fn installed(&self, path: &str);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn say(&self, _: &str) {}
    fn begin(&self, _: &str, _: u64) {}
    fn arrived(&self, _: u64) {}
    fn archive(&self, _: &str, _: u64) {}
    fn installed(&self, _: &str) {}
}

/// Tells a person, or a log that a person may read.
pub struct Terminal {
    bar: Option<ProgressBar>,
    total: AtomicU64,
    before: AtomicU64,
}

impl Terminal {
    /// A bar if standard error is a terminal.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(ProgressBar::no_length);
        Self { bar, total: AtomicU64::new(0), before: AtomicU64::new(0) }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Terminal {
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            // Nobody to tell is no reason to stop.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    fn begin(&self, what: &str, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        match &self.bar {
            Some(bar) => {
                let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                bar.set_style(ProgressStyle::with_template(template).expect("a constant. This is a bug."));
                bar.set_message(what.to_owned());
                bar.set_length(bytes);
            }
            None => self.say(&format!("{what}: {} to fetch", megabytes(bytes))),
        }
    }

    fn arrived(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.before.load(Ordering::Relaxed) + bytes);
        }
    }

    fn archive(&self, file: &str, bytes: u64) {
        let now = self.before.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.bar {
            Some(bar) => bar.set_position(now),
            None => {
                let total = self.total.load(Ordering::Relaxed).max(1);
                self.say(&format!("{:3} % {file} verified", now * 100 / total));
            }
        }
    }

    fn installed(&self, path: &str) {
        self.say(&format!("installed {path}"));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Decimal megabytes, as disks and downloads are sold.
pub fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
