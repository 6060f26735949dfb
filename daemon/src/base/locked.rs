//! A lock that ends when it says so. Enters: a file; leaves: the lock on it, until this is dropped or the process dies. Never
//! here: a wait. A child that is being started has every descriptor of its parent until it becomes its program, and with them
//! their locks (flock(2)): so one that was merely closed would be held for a moment longer by whatever is started beside it.

use std::fs::{File, TryLockError};

/// A locked file.
#[derive(Debug)]
pub struct Locked(File);

impl Locked {
    /// Locks it.
    ///
    /// # Errors
    /// If somebody else holds it, or it cannot be locked.
    pub fn new(file: File) -> Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing it is what is left.
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "a lock ends with its file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_although_another_descriptor_is_left() {
        let path = tempfile::NamedTempFile::new().expect("a file");
        let open = || File::open(path.path()).expect("there");
        let held = open();
        let left = held.try_clone().expect("a descriptor");
        let locked = Locked::new(held).expect("free");
        assert!(matches!(Locked::new(open()), Err(TryLockError::WouldBlock)));
        drop(locked);
        Locked::new(open()).expect("free again");
        drop(left);
    }
}
