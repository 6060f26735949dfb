//! What can go wrong with an owner's model, each as one sentence that says what to do.

use std::path::PathBuf;

use crate::models::Use;

/// Why an owner's model is not there, or is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnError {
    /// What a source outside said; a whole sentence already.
    #[error("{0}")]
    Source(String),
    /// Not one that is safe to join to a folder.
    #[error("`{0}` is no name for a model: take 1 to 64 letters, digits, `-`, `_` or `.`, as in `--as house-mind`")]
    BadName(String),
    /// Another model has the name.
    #[error("`{name}` is {recorded} here: choose another name with `--as`, or replace it with `--update`")]
    Taken {
        /// The name.
        name: String,
        /// Where that one came from.
        recorded: String,
    },
    /// Named by nobody's lock file.
    #[error("there is no model `{0}` here; `callbox models list` names those that were pulled")]
    Unknown(String),
    /// Named by the configuration, for a role that it is not for.
    #[error("models.{role} names `{name}`, which is of role {is}; choose another one: `callbox models list`")]
    WrongRole {
        /// The role that wants one.
        role: Use,
        /// The model.
        name: String,
        /// Its role.
        is: Use,
    },
    /// Named by the configuration and never pulled.
    #[error(
        "models.{role} names `{name}`, which is not here: `callbox models pull hf:OWNER/NAME --as {name}` brings one"
    )]
    NotPulled {
        /// The role that wants one.
        role: Use,
        /// The model.
        name: String,
    },
    /// A file of it is gone or has another length.
    #[error("{} is missing or damaged: run `callbox models pull {source_name} --as {name}` again", path.display())]
    Lost {
        /// The file.
        path: PathBuf,
        /// The model.
        name: String,
        /// What to pull.
        source_name: String,
    },
    /// The file that was asked for is not in the source.
    #[error("{source_name} holds no file `{file}`")]
    NoFile {
        /// Where it was looked for.
        source_name: String,
        /// Its path.
        file: String,
    },
    /// Nothing for the role, or for any.
    #[error("{source_name} holds nothing that Callbox can use: {wants}")]
    Nothing {
        /// Where it was looked for.
        source_name: String,
        /// What is looked for.
        wants: String,
    },
    /// More than one file would do.
    #[error(
        "{source_name} holds {count} files that would do: add one of them after a colon, as :{first}; there are {all}"
    )]
    Several {
        /// Where they are.
        source_name: String,
        /// How many.
        count: usize,
        /// The first.
        first: String,
        /// The first few.
        all: String,
    },
    /// A file whose name does not say what it is for.
    #[error("`{0}` may be several things: say which with `--role stt`, `--role embed` or `--role vad`")]
    NeedsRole(String),
    /// A file that the role cannot read.
    #[error("{file} is nothing for the role {role}: {reason}")]
    Unfit {
        /// The file.
        file: String,
        /// Which role.
        role: Use,
        /// What it wants, or what is wrong.
        reason: String,
    },
    /// A path that would leave its folder.
    #[error("`{0}` is no path within a model: it was not touched")]
    Hostile(String),
    /// Bytes that are not those that were named.
    #[error("{file} is not what {named_by} names (SHA-256 or length differs); it was deleted: {remedy}")]
    Wrong {
        /// The file.
        file: String,
        /// Who named it.
        named_by: String,
        /// What to do.
        remedy: String,
    },
    /// A lock file that is none.
    #[error("{} is no lock file of Callbox ({reason}): repair it, or move it away and pull again", file.display())]
    BadBook {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A source that is on this machine and cannot be read.
    #[error("{} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The folder, file or archive.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}
