//! The way back. Whatever is wrong with the backup is found before the present database is touched; that one is moved
//! aside, with its WAL, and never deleted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{BackupError, HASH, Rows, documents, examine, file_error, give, owner, parent, sync_folder, unpack};
use crate::storage::{Timestamp, beside, lock};

/// Files that SQLite may have beside a database.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// A restored database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Restored {
    /// The database.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Calls in it.
    pub calls: u64,
    /// Turns in it.
    pub turns: u64,
    /// Documents that operators had added to what agents know; nothing if the backup is from before it had any: then those
    /// that are here stay.
    pub documents: Option<u64>,
    /// Where the one is that was there before.
    pub moved_aside: Option<PathBuf>,
    /// Likewise the documents, if they were others.
    pub documents_aside: Option<PathBuf>,
}

/// Puts the database of a backup in the place of `path`, and its documents in that of `knowledge`. `now` names what is moved aside.
///
/// # Errors
/// See [`BackupError`]; nothing was changed then, unless the disk failed between two renames: then the database is where
/// the error says.
pub fn restore(from: &Path, path: &Path, knowledge: &Path, now: Timestamp) -> Result<Restored, BackupError> {
    let folder = parent(path);
    let unwritable = file_error(folder, "cannot be written");
    let lock = lock::take(path).map_err(file_error(&lock::file(path), "cannot be locked"))?;
    let Some(lock::Lock(lock)) = lock else { return Err(BackupError::Running(path.to_owned())) };

    fs::metadata(from).map_err(file_error(from, "cannot be read"))?;
    let beside_it = beside(from, HASH);
    let wanted = match fs::read_to_string(&beside_it) {
        Ok(line) => line.split_whitespace().next().unwrap_or_default().to_lowercase(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BackupError::NoHash(beside_it)),
        Err(error) => return Err(file_error(&beside_it, "cannot be read")(error)),
    };
    // Beside the database: a rename moves it into place.
    let mut scratch = tempfile::Builder::new().prefix(".callbox-restore-").tempfile_in(folder).map_err(&unwritable)?;
    let (found, _, bytes) = match unpack(from, scratch.as_file_mut()) {
        Ok(unpacked) => unpacked,
        // Damage shows itself as an error of the decoder before the hash is known.
        Err(error) if error.raw_os_error().is_none() => return Err(BackupError::OtherHash(from.to_owned())),
        Err(error) => return Err(file_error(from, "cannot be unpacked")(error)),
    };
    if found != wanted {
        return Err(BackupError::OtherHash(from.to_owned()));
    }
    let rows = examine(scratch.path(), from)?;
    let added = documents::take(scratch.path(), from)?;

    // Whoever had the old one, or the folder, has the new one: a restore by root is for the daemon's user.
    let theirs = owner(path).or_else(|_| owner(folder)).map_err(&unwritable)?;
    give(scratch.as_file(), scratch.path(), theirs)?;
    give(&lock, &lock::file(path), theirs)?;
    scratch.as_file().sync_all().map_err(&unwritable)?;
    let added = added.map(|added| documents::prepare(&added, knowledge, theirs)).transpose()?.flatten();

    let aside = format!(".before-restore-{}", now.to_string().replace(':', "-"));
    let moved_aside = move_aside(path, &aside)?;
    scratch.persist(path).map_err(|error| unwritable(error.error))?;
    let documents_aside = added.map(|added| added.place(&aside)).transpose()?.flatten();
    sync_folder(folder)?;
    let Rows { calls, turns, documents } = rows;
    Ok(Restored { path: path.to_owned(), bytes, calls, turns, documents, moved_aside, documents_aside })
}

/// The database, and what SQLite has beside it, under another name; a WAL without its database would be lost, and beside
/// another one it would be poison.
fn move_aside(path: &Path, aside: &str) -> Result<Option<PathBuf>, BackupError> {
    let aside = beside(path, aside);
    let failed = file_error(path, "cannot be moved aside");
    for suffix in COMPANIONS {
        match fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    // A second name, which outlives the rename over the first: at no moment is there no database, which a daemon that is
    // started would take for a new box.
    let kept = fs::hard_link(path, &aside).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Err(error),
        _ => fs::rename(path, &aside),
    });
    match kept {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
