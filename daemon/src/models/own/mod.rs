//! Models that an owner brings beside those of the catalogue. Enters: a source (a repository of a hub, a folder, a file, a
//! tar archive) and a wish; leaves: verified files and an entry in `models.lock` that says where they came from and what
//! they hash to. Never here: the network (a hub is a [`Source`] of the command line's), anything executed or loaded.
//!
//! ```text
//!  Source ─► roles::choose ─► .downloads/half-… ─► SHA-256, roles::look ─► own/DIGEST/NAME/FILE ─► models.lock
//! ```

mod book;
mod error;
mod intake;
mod local;
mod roles;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;

pub use book::{Book, Owned, OwnedFile, is_name};
pub use error::OwnError;
pub use intake::{Brought, Wish, bring, remove};
pub use local::Local;

use super::{ModelError, Progress, Use};

/// Which roles have a model of the owner's instead of the pack's: role → name in `models.lock`.
pub type Own = BTreeMap<Use, String>;

/// What a source says of itself.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The commit that the revision stands for; sources without history have none.
    pub commit: Option<String>,
    /// As its card says it; none if it does not.
    pub licence: Option<String>,
    /// Architecture of its GGUF files, if it says that.
    pub architecture: Option<String>,
    /// Every file of it.
    pub files: Vec<Offer>,
}

/// A file that a source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Within the source, with `/` between folders; anything that a stranger may have written.
    pub path: String,
    /// Its length, where the source says it.
    pub bytes: Option<u64>,
    /// Lowercase hexadecimal, where the source says it.
    pub sha256: Option<String>,
}

/// Where files come from.
pub trait Source {
    /// As `models.lock` names it: `hf:OWNER/NAME`, or `file:PATH`.
    fn name(&self) -> String;

    /// What the owner asked for: a branch, a tag, a commit; none where there is no such thing.
    fn revision(&self) -> Option<String>;

    /// What the model is called if the owner does not say; checked by [`is_name`].
    fn title(&self) -> String;

    /// What is there, at this commit if one is given, else at the revision.
    ///
    /// # Errors
    /// One sentence.
    fn find(&mut self, commit: Option<&str>) -> Result<Found, ModelError>;

    /// Completes `half`, a file, with the bytes of `offer`, after those that it holds if that is possible. Returns the
    /// SHA-256 that the source names, if it has named one meanwhile.
    ///
    /// # Errors
    /// One sentence; what has arrived stays in `half`.
    fn fetch(
        &mut self,
        found: &Found,
        offer: &Offer,
        half: &mut File,
        progress: &dyn Progress,
    ) -> Result<Option<String>, ModelError>;
}
