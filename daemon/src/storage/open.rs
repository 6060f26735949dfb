//! The database's file, opened. Enters: a path; leaves: a connection that writes and one that reads, and the lock that
//! says so, or one sentence. Whoever asks finds out whether it is worth asking again.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::house::Erased;
use super::{BUSY, StorageError, lock, upgrade};

/// An open database.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) reader: Connection,
    pub(super) erased: Erased,
    /// After the connections: it is given back when nothing is written any more.
    pub(super) lock: lock::Lock,
}

/// Opens or creates it and upgrades its schema.
pub(super) fn open(path: &Path) -> Result<Opened, StorageError> {
    let unopened = |source| StorageError::Open { path: path.to_owned(), source };
    let lock = lock::take(path).map_err(unopened)?.ok_or_else(|| StorageError::Used(path.to_owned()))?;
    // Created here for its mode: SQLite would follow the umask, and gives the WAL the mode of the database.
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(unopened)?;
    let connect = |flags| -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY)?;
        Ok(connection)
    };
    let sqlite = |error| StorageError::from_sqlite(path, error);
    let mut writer = connect(OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sqlite)?;
    let number = |writer: &Connection, pragma| writer.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    if number(&writer, "page_count").map_err(sqlite)? == 0 {
        writer.pragma_update(None, "auto_vacuum", "incremental").map_err(sqlite)?;
    }
    match upgrade::bring_up(&mut writer, upgrade::STEPS).map_err(sqlite)? {
        upgrade::Outcome::Current => {}
        upgrade::Outcome::Foreign => return Err(StorageError::Foreign(path.to_owned())),
        upgrade::Outcome::Newer { found, known } => {
            return Err(StorageError::Newer { path: path.to_owned(), found, known });
        }
    }
    // NORMAL in WAL: a killed process loses nothing committed; a power cut may cost the last commits, never the file.
    writer.pragma_update(None, "journal_mode", "wal").map_err(sqlite)?;
    writer.pragma_update(None, "synchronous", "normal").map_err(sqlite)?;
    // What is deleted is overwritten.
    writer.pragma_update(None, "secure_delete", "on").map_err(sqlite)?;
    if number(&writer, "auto_vacuum").map_err(sqlite)? != INCREMENTAL {
        rearrange(&writer);
    }
    let reader = connect(OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite)?;
    let erased = Erased::read(&reader).map_err(sqlite)?;
    Ok(Opened { writer, reader, erased, lock })
}

/// Of `PRAGMA auto_vacuum`: free pages can be given back to the disk, a few at a time.
const INCREMENTAL: i64 = 2;

/// A database of a release that did not give pages back is written anew, once. Without room for that it stays as it is.
fn rearrange(writer: &Connection) {
    tracing::info!("the database is rearranged, so that what is deleted gives its room back");
    let done = writer.pragma_update(None, "auto_vacuum", "incremental").and_then(|()| writer.execute_batch("VACUUM"));
    if let Err(error) = done {
        tracing::warn!(%error, "the database was not rearranged: it does not shrink until a later start has room for that");
    }
}

/// Whether it is the disk that does not take anything now: calls do not wait for it. Everything else was configured
/// wrongly, or is another file than it should be.
pub(super) fn may_pass(error: &StorageError) -> bool {
    match error {
        StorageError::Open { source, .. } => matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
        ),
        StorageError::Sqlite { source, .. } => matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure)
        ),
        _ => false,
    }
}
