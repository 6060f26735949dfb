//! Copies of the database that can be trusted, and the way back. Enters: a database, in use or not; leaves: a
//! compressed copy of one moment, read back and checked, with its hash beside it. A restore checks all of that again and
//! never destroys what it replaces. Documents that operators have added lie beside the database and go with it. Never here: a
//! wait of the daemon for a copy; a half file under a whole file's name.
//!
//! ```text
//!  callbox-2026-01-31T03-00-00.000Z.db.zst         zstd of the SQLite file, with the documents as a table more
//!  callbox-2026-01-31T03-00-00.000Z.db.zst.sha256  "HASH  NAME", as sha256sum(1) writes and checks it
//! ```

mod documents;
mod make;
mod restore;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

pub use make::{Made, back_up};
pub use restore::{Restored, restore};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::upgrade;

const PREFIX: &str = "callbox-";
const SUFFIX: &str = ".db.zst";
const HASH: &str = ".sha256";

/// Why there is no backup, or no restored database; its `Display` is one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or folder cannot be used.
    #[error("{}: {what}: {source}{}", path.display(), if full(source) { "; make room there or choose another folder" } else { "" })]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing to copy.
    #[error("storage.path: there is no database {} to back up; start callboxd once, or change the key", .0.display())]
    NoDatabase(PathBuf),
    /// SQLite's own trouble.
    #[error("{}: {source}{}", path.display(), if sqlite_full(source) { "; make room there or choose another folder" } else { "" })]
    Sqlite {
        /// The database or its copy.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
    /// The check of the copy found faults: so has the database.
    #[error("{} is damaged ({finding}): restore a backup that is whole, `callbox backup list` shows them", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first line of `PRAGMA integrity_check`.
        finding: String,
    },
    /// What was read back is not what was written.
    #[error("{} reads back other bytes than were written: its disk cannot be trusted, choose another folder", .0.display())]
    ReadBack(PathBuf),
    /// No hash beside the file.
    #[error("{} is missing: copy it from where the backup came from, it says whether the backup is whole", .0.display())]
    NoHash(PathBuf),
    /// The hash beside the file is another.
    #[error("{} is not what was backed up: its SHA-256 differs from the one beside it; take another backup", .0.display())]
    OtherHash(PathBuf),
    /// Not a database of ours.
    #[error("{} holds no database of Callbox; take another file", .0.display())]
    Foreign(PathBuf),
    /// Of a later release.
    #[error("{} has schema {found}, this Callbox knows {known}: install the newer Callbox first", path.display())]
    Newer {
        /// The backup.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A daemon has the database.
    #[error("a callboxd uses {}: stop it first, with `systemctl stop callbox`", .0.display())]
    Running(PathBuf),
}

fn full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

fn sqlite_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

fn file_error<'a>(path: &'a Path, what: &'static str) -> impl Fn(io::Error) -> BackupError + 'a {
    move |source| BackupError::File { path: path.to_owned(), what, source }
}

fn sqlite_error(path: &Path) -> impl Fn(rusqlite::Error) -> BackupError + '_ {
    |source| match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            BackupError::Damaged { path: path.to_owned(), finding: source.to_string() }
        }
        _ => BackupError::Sqlite { path: path.to_owned(), source },
    }
}

/// A backup in a folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Listed {
    /// The compressed file.
    pub path: PathBuf,
    /// When it was made, in UTC, as its name says.
    pub made: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Whether its hash is beside it.
    pub has_hash: bool,
}

/// Backups of a folder, newest first; none if there is no such folder.
///
/// # Errors
/// A folder that cannot be read.
pub fn list(folder: &Path) -> Result<Vec<Listed>, BackupError> {
    let unreadable = file_error(folder, "cannot be read");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(&unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stamp) = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
        let path = entry.path();
        let bytes = entry.metadata().map_err(&unreadable)?.len();
        let has_hash = super::beside(&path, HASH).is_file();
        // Colons cannot be in a name that scp(1) takes.
        let (day, time) = stamp.split_once('T').unwrap_or((stamp, ""));
        found.push(Listed { made: format!("{day}T{}", time.replace('-', ":")), path, bytes, has_hash });
    }
    found.sort_unstable_by(|a, b| b.made.cmp(&a.made));
    Ok(found)
}

/// Counts bytes and hashes them on their way.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn finish(self) -> (T, String, u64) {
        (self.inner, hex::encode(self.hash.finalize()), self.bytes)
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count(&buffer[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.count(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Unpacks a backup into `to`; leaves the hash of the compressed file, then hash and size of what was in it.
fn unpack(from: &Path, to: &mut File) -> io::Result<(String, String, u64)> {
    let packed = Hashed::new(File::open(from)?);
    let mut reader = zstd::stream::read::Decoder::new(packed)?;
    let mut writer = Hashed::new(&mut *to);
    io::copy(&mut reader, &mut writer)?;
    // What lies behind the last frame belongs to the hash as well.
    let mut packed = reader.finish().into_inner();
    io::copy(&mut packed, &mut io::sink())?;
    let ((_, packed, _), (_, plain, bytes)) = (packed.finish(), writer.finish());
    to.sync_all()?;
    Ok((packed, plain, bytes))
}

/// Rows of a database that was found whole, ours, and of a schema that we know.
struct Rows {
    calls: u64,
    turns: u64,
    /// Nothing of a backup from before there were any.
    documents: Option<u64>,
}

/// Reads all of a copy that nobody else has. `shown` is the file that is to blame.
fn examine(copy: &Path, shown: &Path) -> Result<Rows, BackupError> {
    let sqlite = sqlite_error(shown);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(copy, flags).map_err(&sqlite)?;
    let number = |pragma| database.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(&sqlite);
    let (application, found) = (number("application_id")?, number("user_version")?);
    if application != upgrade::APPLICATION {
        return Err(BackupError::Foreign(shown.to_owned()));
    }
    let known = upgrade::known();
    if found > known {
        return Err(BackupError::Newer { path: shown.to_owned(), found, known });
    }
    let finding: String = database.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(&sqlite)?;
    if finding != "ok" {
        let finding = finding.lines().next().unwrap_or_default().to_owned();
        return Err(BackupError::Damaged { path: shown.to_owned(), finding });
    }
    let count = |table: &str| {
        database
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
            .map(|count| u64::try_from(count).unwrap_or(0))
            .map_err(&sqlite)
    };
    let documents = documents::count(&database).map_err(&sqlite)?;
    let rows = Rows { calls: count("calls")?, turns: count("turns")?, documents };
    // Out of WAL, so that the copy is one file and stays one.
    database.pragma_update(None, "journal_mode", "delete").map_err(&sqlite)?;
    Ok(rows)
}

/// Who has a file: its user and group.
fn owner(path: &Path) -> io::Result<(u32, u32)> {
    let meta = fs::metadata(path)?;
    Ok((meta.uid(), meta.gid()))
}

/// What root makes for the daemon is the daemon's; nobody else has files of others to give away. Never by its path, which
/// only names it: who can write to the folder can put a link there.
fn give(file: &File, path: &Path, to: (u32, u32)) -> Result<(), BackupError> {
    let failed = file_error(path, "cannot be given to the owner of the database");
    let meta = file.metadata().map_err(&failed)?;
    if (meta.uid(), meta.gid()) == to {
        return Ok(());
    }
    fchown(file, Some(to.0), Some(to.1)).map_err(failed)
}

/// A rename is on the disk when its folder is.
fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(file_error(folder, "cannot be written"))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests;
