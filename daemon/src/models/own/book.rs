//! `models.lock`: which models the owner has brought, from where, at which commit, and what each file hashes to. Enters:
//! TOML that a person may have edited or copied from another box; leaves: entries whose names are safe to join to a folder.
//! Never here: the files themselves.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::OwnError;
use crate::models::archive::{PARTIAL, publish};
use crate::models::catalogue::is_plain;
use crate::models::{Model, ModelError, ModelFile, Use, versions};

/// Beside the models.
const FILE: &str = "models.lock";

/// Folder of all of them; the name of no model of the catalogue.
pub(super) const FOLDER: &str = "own";

/// The form of file that this version reads and writes.
const FORM: u32 = 1;

/// The file as a whole.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    format: u32,
    #[serde(rename = "model", default)]
    models: Vec<Owned>,
}

/// A model that the owner has brought.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Owned {
    /// What `[models]` of the configuration calls it.
    pub name: String,
    /// What it does.
    pub role: Use,
    /// As its card says it, else `unknown`.
    pub licence: String,
    /// `hf:OWNER/NAME`, or `file:PATH`.
    pub source: String,
    /// The branch, tag or commit that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What that stood for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// At least one; the engine is given the path of the first.
    #[serde(rename = "file")]
    pub files: Vec<OwnedFile>,
}

/// A file of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedFile {
    /// Its path in the source.
    pub from: String,
    /// Within the model's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Lowercase hexadecimal.
    pub sha256: String,
}

/// Whether a model may be called that.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && is_plain(name)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

impl Owned {
    /// Where its folder lies. Named after the hashes of its files: another content is another path, so that nothing which
    /// is loaded changes under the one who has loaded it.
    pub fn folder(&self, dir: &Path) -> PathBuf {
        dir.join(FOLDER).join(self.digest())
    }

    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash.update(format!("{} {}\n", file.sha256, file.name));
        }
        hex::encode(&hash.finalize()[..8])
    }

    /// As one of the catalogue.
    pub fn model(&self) -> Model {
        let file =
            |file: &OwnedFile| ModelFile { name: file.name.clone(), bytes: file.bytes, sha256: file.sha256.clone() };
        Model {
            name: self.name.clone(),
            role: self.role,
            licence: self.licence.clone(),
            about: self.origin(),
            files: self.files.iter().map(file).collect(),
            archives: Vec::new(),
        }
    }

    /// Source, revision and commit, for people.
    pub fn origin(&self) -> String {
        let mut said = self.source.clone();
        if let Some(revision) = &self.revision {
            said += &format!("@{revision}");
        }
        if let Some(first) = self.files.first() {
            said += &format!(":{}", first.from);
        }
        if let Some(commit) = &self.commit {
            said += &format!(" (commit {})", commit.get(..12).unwrap_or(commit));
        }
        said
    }

    fn check(&self) -> Result<(), String> {
        if !is_name(&self.name) {
            return Err(format!("`{}` is no name for a model", self.name));
        }
        if self.commit.as_ref().is_some_and(|commit| !is_commit(commit)) {
            return Err(format!("model {}: the commit is no commit", self.name));
        }
        self.model().check()
    }
}

/// A Git commit, whole.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Book {
    /// Reads the lock file of a models folder; one that is not there is empty.
    ///
    /// # Errors
    /// [`OwnError::BadBook`], [`ModelError::Io`].
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Self::parse(&text).map_err(|reason| OwnError::BadBook { file: path, reason })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { format: FORM, models: Vec::new() }),
            Err(reason) => Err(ModelError::Io { path, reason }),
        }
    }

    /// # Errors
    /// One sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let book: Self = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if book.format != FORM {
            return Err(format!(
                "it has form {} and this Callbox reads form {FORM}: upgrade Callbox first",
                book.format
            ));
        }
        for (index, model) in book.models.iter().enumerate() {
            model.check()?;
            if book.models.iter().take(index).any(|other| other.name == model.name) {
                return Err(format!("model {} is in it twice", model.name));
            }
        }
        Ok(book)
    }

    /// All, in alphabetical order.
    pub fn models(&self) -> &[Owned] {
        &self.models
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Owned> {
        self.models.iter().find(|model| model.name == name)
    }

    /// Records a model in place of one of its name.
    pub(super) fn put(&mut self, owned: Owned) {
        self.take(&owned.name);
        self.models.push(owned);
        self.models.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Forgets a model; false if there was none.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let before = self.models.len();
        self.models.retain(|model| model.name != name);
        self.models.len() < before
    }

    /// Replaces the lock file, whole and durably.
    pub(super) fn write(&self, dir: &Path) -> Result<(), ModelError> {
        let text = toml::to_string(self).expect("a table of plain values. This is a bug.");
        let mut partial = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(dir).map_err(ModelError::io(dir))?;
        partial
            .write_all(b"# Written by `callbox models pull`: what was pulled, and what it must hash to.\n\n")
            .and_then(|()| partial.write_all(text.as_bytes()))
            .map_err(ModelError::io(dir.join(FILE)))?;
        publish(partial, &dir.join(FILE))?;
        versions::sync(dir)
    }
}
