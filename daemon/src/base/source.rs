//! Where what an agent says comes from. Words for records, metrics and the API.

use serde::{Deserialize, Serialize};

/// Where a known answer comes from; the first is the most certain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The file of questions of its agent.
    Faq,
    /// An operator.
    Added,
    /// The mind, in an earlier call.
    Learned,
}

impl Origin {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Faq, Self::Added, Self::Learned];

    /// Its name in databases, the API and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Faq => "faq",
            Self::Added => "added",
            Self::Learned => "learned",
        }
    }

    /// From its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == name)
    }
}

/// A known answer that was given.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// Its entry in the cache.
    pub entry: u64,
    /// Where that comes from.
    pub origin: Origin,
    /// How alike the question was to the known one: 1 for the same words.
    pub score: f32,
}

/// A piece of an agent's documents that the language model was shown.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Passage {
    /// Its document and its headings: `rooms.md: Prices, Double room`.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// Who has chosen the words of a turn.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The agent's file: a greeting, a goodbye.
    #[default]
    Script,
    /// The language model.
    Mind,
    /// The cache of answers.
    Known(Known),
}

impl Source {
    /// Its name in databases, the API and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Mind => "model",
            Self::Known(known) => known.origin.as_str(),
        }
    }
}
