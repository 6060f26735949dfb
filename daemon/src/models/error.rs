//! What can go wrong with model files, each as one sentence that says what to do.

use std::io;
use std::path::PathBuf;

use super::own::OwnError;
use super::{TrustError, Version};

/// Why a model is not there, or could not be brought.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Not in the catalogue.
    #[error("there is no model pack `{0}`; there are {1}")]
    UnknownPack(String, String),
    /// Never fetched, or the fetch did not end.
    #[error("{} is missing: run `callbox models pull {pack}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// A pack that holds it.
        pack: String,
    },
    /// Another process holds the lock.
    #[error("another `callbox models` is at work in {}; wait for it", .0.display())]
    Busy(PathBuf),
    /// Neither `pip` nor `python3 -m pip` runs.
    #[error("pip was not found: install the Debian package `python3-pip`")]
    NoClient,
    /// `npm` does not run.
    #[error("npm was not found: install the Debian package `npm`")]
    NoNpm,
    /// The registry does not answer.
    #[error("the package registry cannot be reached: check the network and run this again; what has arrived is kept")]
    NoNetwork,
    /// The client failed for a reason of its own.
    #[error("fetching {package} failed (run this again; what has arrived is kept): {reason}")]
    Client {
        /// The package asked for.
        package: String,
        /// The last line that the client said.
        reason: String,
    },
    /// Too little room before the start, or none left on the way.
    #[error("the disk of {} is too full: {needed} bytes are needed, {free} are free", dir.display())]
    DiskFull {
        /// The models folder.
        dir: PathBuf,
        /// For archives and files together.
        needed: u64,
        /// At that moment.
        free: u64,
    },
    /// What was fetched, or what lies there, is not what the catalogue names.
    #[error("{what} is not what the catalogue names (SHA-256 or size differs); it was not installed")]
    WrongHash {
        /// An archive or a file.
        what: String,
    },
    /// Not a zip file (or a gzipped tar file), or the wanted entry is not in it.
    #[error("archive {archive} cannot be unpacked: {reason}")]
    Archive {
        /// File name of the archive.
        archive: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not signed, or not by somebody who is trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A model of the owner's.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// Signed, and yet nothing that can be installed; or a damaged version.
    #[error("{} is no model pack: {reason}", file.display())]
    BadPack {
        /// The archive or the manifest.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A version from before the one that counts.
    #[error("pack {pack} {offered} is older than {installed}, which is installed; `--older` installs it all the same")]
    Older {
        /// The pack.
        pack: String,
        /// Version of the archive.
        offered: Version,
        /// Version that counts.
        installed: Version,
    },
    /// Nothing to go back to.
    #[error("there is no earlier version of pack {0} here")]
    NoEarlier(String),
    /// A file of an installed version is gone or has another length.
    #[error("{} is missing or damaged: install pack {pack} again, or run `callbox models rollback {pack}`", path.display())]
    Lost {
        /// The file.
        path: PathBuf,
        /// The pack.
        pack: String,
    },
    /// A file operation failed.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said; part of the sentence, so not a source of its own.
        reason: io::Error,
    },
}

impl ModelError {
    /// Names the file with which an operation failed.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |reason| Self::Io { path, reason }
    }
}
