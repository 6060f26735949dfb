//! What an engine says of its models' needs before it loads them, as JSON on its standard output.

use serde::{Deserialize, Serialize};

use crate::Role;

/// What one role takes of a card's memory, in bytes; at most, where it depends on how much there is to do.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Need {
    /// Which role.
    pub role: Role,
    /// File name of its model.
    pub model: String,
    /// The model itself.
    pub weights: u64,
    /// What a step computes with.
    pub work: u64,
    /// Keys and values of one token; 0 of a model that remembers none.
    pub token: u64,
    /// How many languages ears know, the first of [`crate::Language`]'s; 1 is English alone, 0 what does not say.
    #[serde(default)]
    pub languages: usize,
}
