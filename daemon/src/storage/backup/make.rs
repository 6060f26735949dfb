//! The copy. SQLite's backup interface reads one moment of the database in one transaction: in WAL that holds up no
//! writer, and no writer makes it begin anew.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use super::{
    BackupError, HASH, Hashed, PREFIX, Rows, SUFFIX, documents, examine, file_error, give, list, owner, sqlite_error,
    sync_folder, unpack,
};
use crate::storage::{BUSY, Timestamp, beside};

/// zstd's own default: a database of text shrinks to a quarter at 300 MB/s; more costs much and gains little.
const LEVEL: i32 = 3;

/// A finished backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Made {
    /// The compressed file; its hash is beside it.
    pub path: PathBuf,
    /// SHA-256 of it.
    pub sha256: String,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of the database in it.
    pub database_bytes: u64,
    /// Calls in it.
    pub calls: u64,
    /// Turns in it.
    pub turns: u64,
    /// Documents in it that operators have added to what agents know.
    pub documents: u64,
    /// Older backups that were removed.
    pub removed: Vec<PathBuf>,
}

/// Copies the database at `path`, and the documents in `knowledge`, into `folder`, which is made if it is missing; then removes
/// all but the newest `keep` backups there. `now` names the file.
///
/// # Errors
/// See [`BackupError`]; no file is left under a backup's name then, and no older one was removed.
pub fn back_up(path: &Path, knowledge: &Path, folder: &Path, keep: usize, now: Timestamp) -> Result<Made, BackupError> {
    if !path.is_file() {
        return Err(BackupError::NoDatabase(path.to_owned()));
    }
    let theirs = owner(path).map_err(file_error(path, "cannot be read"))?;
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file_error(folder, "cannot be made"))?;
        let made = rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        give(&made.map_err(io::Error::from).map_err(file_error(folder, "cannot be read"))?.into(), folder, theirs)?;
    }
    let unwritable = file_error(folder, "cannot be written");
    // Beside the result: on its disk, gone with its handle, mode 0600.
    let scratch = tempfile::Builder::new().prefix(".callbox-backup-").tempdir_in(folder).map_err(&unwritable)?;
    let plain = scratch.path().join("copy.db");
    copy(path, knowledge, &plain)?;

    let packed = scratch.path().join("packed");
    let (packed_file, expected, database_bytes) = pack(&plain, &packed).map_err(&unwritable)?;
    fs::remove_file(&plain).map_err(&unwritable)?;

    // Read back what was written, and look at that.
    let again = scratch.path().join("again.db");
    let mut file = fresh(&again).map_err(&unwritable)?;
    let (sha256, found, _) = unpack(&packed, &mut file).map_err(file_error(&packed, "cannot be read back"))?;
    if found != expected {
        return Err(BackupError::ReadBack(packed));
    }
    let rows = examine(&again, path)?;

    let name = format!("{PREFIX}{}{SUFFIX}", now.to_string().replace(':', "-"));
    let target = folder.join(&name);
    let bytes = fs::metadata(&packed).map_err(&unwritable)?.len();
    let hash = scratch.path().join("hash");
    let mut file = fresh(&hash).map_err(&unwritable)?;
    writeln!(file, "{sha256}  {name}").and_then(|()| file.sync_all()).map_err(&unwritable)?;
    give(&file, &hash, theirs)?;
    give(&packed_file, &packed, theirs)?;
    // The hash first: a backup without one is none.
    fs::rename(&hash, beside(&target, HASH)).map_err(&unwritable)?;
    fs::rename(&packed, &target).map_err(&unwritable)?;
    sync_folder(folder)?;

    let mut removed = Vec::new();
    // The new one does not count: if clocks were wrong, its name need not be the latest.
    for old in list(folder)?.into_iter().filter(|old| old.path != target).skip(keep.max(1) - 1) {
        fs::remove_file(&old.path).map_err(file_error(&old.path, "cannot be removed"))?;
        if old.has_hash {
            let hash = beside(&old.path, HASH);
            fs::remove_file(&hash).map_err(file_error(&hash, "cannot be removed"))?;
        }
        removed.push(old.path);
    }
    let Rows { calls, turns, documents } = rows;
    let documents = documents.unwrap_or(0);
    Ok(Made { path: target, sha256, bytes, database_bytes, calls, turns, documents, removed })
}

fn copy(from: &Path, knowledge: &Path, to: &Path) -> Result<(), BackupError> {
    let (theirs, ours) = (sqlite_error(from), sqlite_error(to));
    // Written only where a daemon was killed and its WAL has to be read.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(&theirs)?;
    source.busy_timeout(BUSY).map_err(&theirs)?;
    drop(fresh(to).map_err(file_error(to, "cannot be made"))?);
    let mut copy = Connection::open_with_flags(to, flags).map_err(&ours)?;
    let backup = Backup::new(&source, &mut copy).map_err(&theirs)?;
    // Somebody has the whole database, as a checkpoint at the end of a daemon does for a moment.
    while !matches!(backup.step(-1).map_err(&theirs)?, StepResult::Done) {
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    drop(backup);
    documents::put(&mut copy, &documents::read(knowledge)?).map_err(&ours)
}

/// Leaves the packed file, then hash and size of the plain one.
fn pack(from: &Path, to: &Path) -> io::Result<(fs::File, String, u64)> {
    let mut reader = Hashed::new(fs::File::open(from)?);
    let mut writer = zstd::stream::write::Encoder::new(fresh(to)?, LEVEL)?;
    writer.include_checksum(true)?;
    io::copy(&mut reader, &mut writer)?;
    let packed = writer.finish()?;
    packed.sync_all()?;
    let (_, hash, bytes) = reader.finish();
    Ok((packed, hash, bytes))
}

fn fresh(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}
