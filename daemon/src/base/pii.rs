//! What callers say and who they are. Enters anything; leaves a log line only as a placeholder.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number, an address or words of a caller. `Display` and `Debug` print a placeholder, so that no log line can leak
/// it by accident; whoever needs the value says [`Pii::reveal`], which is easy to search for.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pii<T>(T);

impl<T> Pii<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for storage, signalling or a log that the operator has allowed.
    pub const fn reveal(&self) -> &T {
        &self.0
    }

    /// The value itself.
    pub fn into_revealed(self) -> T {
        self.0
    }
}

impl<T> fmt::Display for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Debug for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> From<T> for Pii<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}
