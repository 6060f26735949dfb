//! Documents that operators have added to what agents know: files beside the database, which travel in a backup as one more
//! table of the copy. Enters: a folder that has one for each agent; leaves: the same, at another time. No link is followed:
//! root reads and writes here what belongs to the daemon's user.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _};
use rustix::fs::{CWD, Dir, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::{BackupError, file_error, give, parent, sqlite_error};
use crate::storage::beside;

/// Bytes of one, at most: no agent takes more.
const MOST: u64 = 1 << 20;

const TABLE: &str = "
    CREATE TABLE added_documents (agent TEXT NOT NULL, name TEXT NOT NULL, text BLOB NOT NULL, PRIMARY KEY (agent, name))
    STRICT, WITHOUT ROWID";

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Document {
    agent: String,
    name: String,
    text: Vec<u8>,
}

/// All that are there; none if there is no folder. What no document could be is passed over.
pub(super) fn read(folder: &Path) -> Result<Vec<Document>, BackupError> {
    let unreadable = file_error(folder, "cannot be read");
    let Some(top) = enter(CWD, folder).map_err(&unreadable)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for agent in names(&top).map_err(&unreadable)? {
        let Some(shelf) = enter(&top, agent.as_ref()).map_err(&unreadable)? else { continue };
        for name in names(&shelf).map_err(&unreadable)? {
            if let Some(text) = text(&shelf, &name).map_err(&unreadable)? {
                found.push(Document { agent: agent.clone(), name, text });
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A folder, if it is one.
fn enter(within: impl std::os::fd::AsFd, name: &Path) -> io::Result<Option<OwnedFd>> {
    match openat(within, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn names(folder: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        names.extend(entry?.file_name().to_str().ok().filter(|name| is_plain(name)).map(str::to_owned));
    }
    Ok(names)
}

fn is_plain(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.starts_with('.') && !name.contains(['/', '\0'])
}

fn text(folder: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    // Whatever lies there under that name: nothing is waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let meta = file.metadata()?;
    let mut text = Vec::new();
    if !meta.is_file() || file.take(MOST + 1).read_to_end(&mut text)? as u64 > MOST {
        return Ok(None);
    }
    Ok(Some(text))
}

/// Adds them to a copy of the database that nobody else has.
pub(super) fn put(copy: &mut Connection, documents: &[Document]) -> rusqlite::Result<()> {
    copy.pragma_update(None, "journal_mode", "delete")?;
    let transaction = copy.transaction()?;
    transaction.execute_batch(TABLE)?;
    for Document { agent, name, text } in documents {
        transaction.execute("INSERT INTO added_documents VALUES (?1, ?2, ?3)", (agent, name, text))?;
    }
    transaction.commit()
}

/// How many a copy has; nothing if it was made before documents were part of a backup.
pub(super) fn count(copy: &Connection) -> rusqlite::Result<Option<u64>> {
    let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'added_documents'";
    if copy.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    let count = copy.query_row("SELECT count(*) FROM added_documents", [], |row| row.get::<_, i64>(0))?;
    Ok(Some(u64::try_from(count).unwrap_or(0)))
}

/// Takes them out of a copy again. `shown` is the file that is to blame.
pub(super) fn take(copy: &Path, shown: &Path) -> Result<Option<Vec<Document>>, BackupError> {
    let sqlite = sqlite_error(shown);
    let copy = Connection::open(copy).map_err(&sqlite)?;
    if count(&copy).map_err(&sqlite)?.is_none() {
        return Ok(None);
    }
    let mut rows = copy.prepare("SELECT agent, name, text FROM added_documents ORDER BY 1, 2, 3").map_err(&sqlite)?;
    let document = |row: &rusqlite::Row<'_>| Ok(Document { agent: row.get(0)?, name: row.get(1)?, text: row.get(2)? });
    let found = rows.query_map([], document).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(&sqlite)?;
    if let Some(strange) = found.iter().find(|document| !is_plain(&document.agent) || !is_plain(&document.name)) {
        let finding = format!("{:?} of {:?} is no name of a document", strange.name, strange.agent);
        return Err(BackupError::Damaged { path: shown.to_owned(), finding });
    }
    drop(rows);
    copy.execute_batch("DROP TABLE added_documents").map_err(&sqlite)?;
    Ok(Some(found))
}

/// Documents that lie beside their place, to be moved there.
pub(super) struct Ready {
    folder: PathBuf,
    /// None where there are no documents.
    scratch: Option<tempfile::TempDir>,
}

/// Writes them beside `folder`; nothing if they are there already.
pub(super) fn prepare(documents: &[Document], folder: &Path, theirs: (u32, u32)) -> Result<Option<Ready>, BackupError> {
    if read(folder)? == documents {
        return Ok(None);
    }
    if documents.is_empty() {
        return Ok(Some(Ready { folder: folder.to_owned(), scratch: None }));
    }
    let unwritable = file_error(folder, "cannot be written");
    let mode = fs::Permissions::from_mode(0o700);
    let scratch = tempfile::Builder::new().prefix(".callbox-restore-").permissions(mode).tempdir_in(parent(folder));
    let scratch = scratch.map_err(&unwritable)?;
    let missing = || unwritable(io::ErrorKind::NotFound.into());
    let top = enter(CWD, scratch.path()).map_err(&unwritable)?.ok_or_else(missing)?;
    for agent in documents.chunk_by(|a, b| a.agent == b.agent) {
        let Some(Document { agent: name, .. }) = agent.first() else { continue };
        mkdirat(&top, name.as_str(), Mode::RWXU).map_err(|error| unwritable(error.into()))?;
        let shelf = enter(&top, name.as_ref()).map_err(&unwritable)?.ok_or_else(missing)?;
        for document in agent {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&shelf, document.name.as_str(), flags, Mode::RUSR | Mode::WUSR);
            let mut file = File::from(file.map_err(|error| unwritable(error.into()))?);
            file.write_all(&document.text).and_then(|()| file.sync_all()).map_err(&unwritable)?;
            give(&file, folder, theirs)?;
        }
        let shelf = File::from(shelf);
        shelf.sync_all().map_err(&unwritable)?;
        give(&shelf, folder, theirs)?;
    }
    give(&File::from(top), folder, theirs)?;
    Ok(Some(Ready { folder: folder.to_owned(), scratch: Some(scratch) }))
}

impl Ready {
    /// Moves what was there aside, and these in its place. Leaves where the old ones are.
    pub(super) fn place(self, aside: &str) -> Result<Option<PathBuf>, BackupError> {
        let Self { folder, scratch } = self;
        let aside = beside(&folder, aside);
        let old = match fs::rename(&folder, &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(file_error(&folder, "cannot be moved aside")(error)),
        };
        if let Some(scratch) = scratch {
            fs::rename(scratch.path(), &folder).map_err(file_error(&folder, "cannot be written"))?;
            // Nothing is left under its name.
            drop(scratch.keep());
        }
        Ok(old)
    }
}
