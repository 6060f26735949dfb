//! Who has looked at callers. Enters: who asks, and for what; leaves: an entry of the audit, before anything is shown; what
//! could not be noted is not shown. Changes are noted by `guard`, with what came of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use super::who::Who;
use super::{Problem, Shared};

/// Who looks at the same thing again within this time has looked once: displays ask every second.
const ONCE: Duration = Duration::from_secs(60);

/// Looks that are remembered for that; then all are forgotten, and noted again.
const MOST: usize = 1024;

/// Looks that were noted not long ago.
#[derive(Clone, Default)]
pub(super) struct Noted(Arc<Mutex<HashMap<(String, String), Instant>>>);

impl Noted {
    /// Whether this is a look that need not be noted again.
    fn is_known(&self, look: (String, String), now: Instant) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(&look).is_some_and(|at| now.saturating_duration_since(*at) < ONCE) {
            return true;
        }
        if noted.len() >= MOST {
            noted.clear();
        }
        noted.insert(look, now);
        false
    }
}

/// Notes that somebody looks at callers.
pub(super) fn look(shared: &Shared, who: &Who, action: &str, object: impl Into<String>) -> Result<(), Problem> {
    let object = object.into();
    if shared.noted.is_known((who.name.clone(), format!("{action} {object}")), shared.state.clock.now()) {
        return Ok(());
    }
    note(shared, who, action, object)
}

/// Notes that somebody is about to see callers, or to delete them.
pub(super) fn note(shared: &Shared, who: &Who, action: &str, object: impl Into<String>) -> Result<(), Problem> {
    if shared.state.storage.audit(&who.name, action, object) {
        return Ok(());
    }
    let why = "it cannot be noted who asks, because the database does not keep up: try again";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why))
}

/// Of an answer: its path has noted it before it did what was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotedBefore;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock as _, ManualClock};

    #[test]
    fn the_same_look_counts_once_a_minute_and_memory_is_bounded() {
        let (noted, clock) = (Noted::default(), ManualClock::default());
        let known = |what: &str| noted.is_known(("uid 0".into(), what.into()), clock.now());
        assert_eq!([known("a"), known("a"), known("b")], [false, true, false]);
        clock.advance(ONCE);
        assert!(!known("a"));
        assert!((0..2 * MOST).all(|look| !known(&look.to_string())));
        assert!(noted.0.lock().expect("locked").len() <= MOST);
    }
}
