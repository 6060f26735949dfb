//! The one door through which a caller's number or words may reach a log line, and it is shut unless the operator opens
//! it with `log.allow_pii`.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::Pii;

// Process-wide, as the log is.
static ALLOWED: AtomicBool = AtomicBool::new(false);

pub(super) fn allow(allowed: bool) {
    ALLOWED.store(allowed, Ordering::Relaxed);
}

pub(super) fn allowed() -> bool {
    ALLOWED.load(Ordering::Relaxed)
}

/// For log lines: the value if the operator has allowed it, else `[redacted]`.
pub fn shown<T: fmt::Display>(pii: &Pii<T>) -> impl fmt::Display {
    Shown(pii)
}

struct Shown<'a, T>(&'a Pii<T>);

impl<T: fmt::Display> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if allowed() { self.0.reveal().fmt(f) } else { fmt::Display::fmt(self.0, f) }
    }
}
