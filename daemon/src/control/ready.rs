//! Readiness. Enters: from anywhere, "this part is ready" or "it is not, because"; leaves: one answer for all parts.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::watch;

/// A part that must be ready before calls are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Latch {
    /// The database is open.
    Storage,
    /// Every SIP address is listened on.
    Sip,
    /// The media thread runs.
    Media,
    /// An engine hears.
    Ears,
    /// An engine thinks.
    Mind,
    /// An engine speaks.
    Voice,
    /// Nobody has asked the daemon to go down.
    Drain,
}

impl Latch {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Storage, Self::Sip, Self::Media, Self::Ears, Self::Mind, Self::Voice, Self::Drain];

    /// Its name in `/health`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Sip => "sip",
            Self::Media => "media",
            Self::Ears => "engine:ears",
            Self::Mind => "engine:mind",
            Self::Voice => "engine:voice",
            Self::Drain => "drain",
        }
    }
}

/// Whether a part is ready; if not, why.
pub type Status = Result<(), Cow<'static, str>>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct All {
    parts: [Status; Latch::ALL.len()],
    was_ready: bool,
}

/// Every latch; cheap to clone, to set and to ask. All but `drain` begin not ready.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<All>>);

impl Default for Readiness {
    fn default() -> Self {
        let parts = Latch::ALL.map(|latch| if latch == Latch::Drain { Ok(()) } else { Err("starting".into()) });
        Self(Arc::new(watch::Sender::new(All { parts, was_ready: false })))
    }
}

impl Readiness {
    /// Sets a latch; `because` completes "not ready: …" and holds nothing of a caller.
    pub fn set(&self, latch: Latch, status: Status) {
        self.0.send_if_modified(|all| {
            let part = &mut all.parts[latch as usize];
            let changed = *part != status;
            *part = status;
            all.was_ready |= all.parts.iter().all(Result::is_ok);
            changed
        });
    }

    /// This part is ready.
    pub fn ready(&self, latch: Latch) {
        self.set(latch, Ok(()));
    }

    /// This part is not ready, because.
    pub fn not_ready(&self, latch: Latch, because: impl Into<Cow<'static, str>>) {
        self.set(latch, Err(because.into()));
    }

    /// Whether calls may be answered.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.borrow().parts.iter().all(Result::is_ok)
    }

    /// Whether everything has been ready at least once.
    #[must_use]
    pub fn was_ready(&self) -> bool {
        self.0.borrow().was_ready
    }

    /// Every latch and its status.
    #[must_use]
    pub fn statuses(&self) -> Vec<(Latch, Status)> {
        Latch::ALL.into_iter().zip(self.0.borrow().parts.iter().cloned()).collect()
    }

    /// Comes back when everything is ready.
    pub async fn wait_ready(&self) {
        let mut watched = self.0.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        drop(watched.wait_for(|all| all.parts.iter().all(Result::is_ok)).await);
    }
}
