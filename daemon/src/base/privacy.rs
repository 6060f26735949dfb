//! How much of callers is kept. Plain words of the configuration and of an agent's file; what they do is done by the room
//! `storage`.

use serde::{Deserialize, Serialize};

/// What is kept of what was said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transcripts {
    /// All of it.
    #[default]
    Full,
    /// All of it but numbers, addresses and accounts.
    Redacted,
    /// Nothing.
    Off,
}

/// How a far end is named.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Callers {
    /// By number or address.
    #[default]
    Plain,
    /// By a keyed hash of it.
    Hashed,
}

/// What one agent wants instead of what the configuration says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Privacy {
    /// Of its calls.
    pub transcripts: Option<Transcripts>,
    /// Of its callers.
    pub callers: Option<Callers>,
}

/// The user that `callbox dial` calls as. There is nobody behind it.
pub const NOBODY: &str = "callbox-dial";

/// The user that the self-test calls as. There is nobody behind it, it has to find its call, and it counts as nobody's.
pub const SELFTEST: &str = "callbox-selftest";

impl Privacy {
    /// Of calls of [`NOBODY`] and [`SELFTEST`]: all of it.
    pub const OF_NOBODY: Self = Self { transcripts: Some(Transcripts::Full), callers: Some(Callers::Plain) };
}
