//! Who has the database. Enters: its path; leaves: a lock that ends with its holder, however that ends. A daemon holds
//! it while it runs, a restore while it puts another file in its place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Held as long as this lives. The file itself stays: removing it would let two holders have two files of one name.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "its being open is the lock")] File);

/// The lock's file: a lock on the database's own would end with any descriptor of it that is closed (`fcntl(2)`).
pub(super) fn file(database: &Path) -> PathBuf {
    super::beside(database, ".lock")
}

/// Takes it; none if somebody else has it.
pub(super) fn take(database: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file(database))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
