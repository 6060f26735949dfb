//! Names for calls, turns and clauses. Enter and leave: small integers; never reused within a process.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One telephone call; sixteen hexadecimal digits in logs, paths and the API.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// One exchange within a call: what the caller said and what the agent answered. Turn 0 is the greeting.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, Debug)]
pub struct TurnId(pub u32);

/// One piece of an answer that is synthesised at once; counts from 0 within its turn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, Debug)]
pub struct ClauseId(pub u32);

/// A call id is sixteen hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a call id is 1 to 16 hexadecimal digits")]
pub struct ParseIdError;

impl TurnId {
    /// The turn after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallId({self})")
    }
}

impl FromStr for CallId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        u64::from_str_radix(text, 16).map(Self).map_err(|_| ParseIdError)
    }
}

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
