//! Who has the database. Enters: its path; leaves: a lock that ends with its holder, however that ends. A daemon holds
//! it while it runs, a restore while it puts another file in its place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// Held as long as this lives. The file itself stays: removing it would let two holders have two files of one name.
#[derive(Debug)]
pub(super) struct Lock(pub(super) File);

/// The lock's file: a lock on the database's own would end with any descriptor of it that is closed (`fcntl(2)`).
pub(super) fn file(database: &Path) -> PathBuf {
    super::beside(database, ".lock")
}

/// Takes it; none if somebody else has it. A link is an error: root comes here, too, and others can make links here.
pub(super) fn take(database: &Path) -> io::Result<Option<Lock>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(file(database))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
