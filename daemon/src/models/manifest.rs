//! What is in a pack. Enters: the TOML of `pack.toml`; leaves: a version, models whose names are safe to join to a
//! folder, and how to find out whether they work. Never here: a file.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::catalogue::{Model, Use, is_plain};

/// The form of manifest that this version of Callbox writes. The second one may hold an embedder.
pub(super) const FORMAT: u32 = 2;

/// The forms that it reads.
const FORMATS: RangeInclusive<u32> = 1..=FORMAT;

/// MAJOR.MINOR.PATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version([u32; 3]);

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no version: write MAJOR.MINOR.PATCH, as 1.2.0");
        let numbers: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        let version = Self(numbers.ok().and_then(|numbers| numbers.try_into().ok()).ok_or_else(bad)?);
        // One spelling for one version, because it is the name of a folder.
        if version.to_string() == text { Ok(version) } else { Err(bad()) }
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        f.pad(&format!("{major}.{minor}.{patch}"))
    }
}

/// What whoever made the pack knows that it can do. Words are compared without case and punctuation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// The voice says it; the ears hear that.
    pub say: String,
    /// Words that the ears must hear in it.
    pub heard: Vec<String>,
    /// The mind answers what was heard, and the voice says the answer; one of these words must be heard in that.
    pub answer: Vec<String>,
}

impl Default for SelfTest {
    /// What even the smallest model of the catalogue knows.
    fn default() -> Self {
        Self {
            say: "What is the capital of France?".into(),
            heard: vec!["capital".into(), "France".into()],
            answer: vec!["Paris".into()],
        }
    }
}

/// `pack.toml`, the first entry of a pack's archive.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of this file; 1 today.
    pub format: u32,
    /// Which pack; `models.pack` of the configuration names it.
    pub pack: String,
    /// Which version of it.
    pub version: Version,
    /// What it is good for, in a few words.
    #[serde(default)]
    pub about: String,
    /// How to find out whether it works.
    pub test: SelfTest,
    /// One for each role, in the order of the archive.
    #[serde(rename = "model")]
    pub models: Vec<Model>,
}

impl Manifest {
    /// Reads and checks one.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        // First of all the form: a later one may have keys that are unknown here.
        let form: Form = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if !FORMATS.contains(&form.format) {
            return Err(format!(
                "it has form {} and this Callbox reads up to form {FORMAT}: upgrade Callbox first",
                form.format
            ));
        }
        let manifest: Self = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if !is_plain(&manifest.pack) {
            return Err(format!("`{}` is no name of a pack", manifest.pack));
        }
        let count = |role| manifest.models.iter().filter(|model| model.role == role).count();
        for role in Use::ALL {
            if count(role) != 1 {
                return Err(format!("it must hold one model of role {role}"));
            }
        }
        if count(Use::Embed) > 1 {
            return Err(format!("it must hold at most one model of role {}", Use::Embed));
        }
        manifest.models.iter().try_for_each(Model::check)?;
        Ok(manifest)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.models.iter().flat_map(|model| &model.files).map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_spelled_in_one_way() {
        let version = |text: &str| text.parse::<Version>();
        assert!(version("1.10.0").expect("a version") > version("1.9.9").expect("a version"));
        for text in ["1.2", "1.2.3.4", "1.02.3", "1.2.x", "+1.2.3", "../1.2", ""] {
            assert!(version(text).is_err(), "{text}");
        }
    }
}
