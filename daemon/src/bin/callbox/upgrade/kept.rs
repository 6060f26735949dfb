//! The packages that are kept, in a folder of root's alone: those of the version in use, and those of the one before. Enters:
//! checked files; leaves: their paths. What lies here was checked when it came, and is not checked again.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use callbox::base::Locked;
use callbox::models::Checked;
use tempfile::NamedTempFile;

/// Where they lie.
const FOLDER: &str = "/var/lib/callbox-packages";

/// The link to the daemon's package that a rollback installs; those of the same version that belong to it lie beside it.
const PREVIOUS: &str = "previous";

/// The folder, held: nobody else upgrades meanwhile.
pub(super) struct Kept {
    pub(super) folder: PathBuf,
    _lock: Locked,
}

impl Kept {
    pub(super) fn open() -> Result<Self> {
        Self::open_at(Path::new(FOLDER))
    }

    fn open_at(folder: &Path) -> Result<Self> {
        let cannot = || format!("{} cannot be used", folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(cannot)?;
        let lock = File::create(folder.join(".lock")).with_context(cannot)?;
        match Locked::new(lock) {
            Ok(lock) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!("another upgrade or rollback is at work; wait for it"),
            Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
        }
    }

    /// A copy that nobody can change any more.
    pub(super) fn copy(&self, checked: &Checked) -> Result<NamedTempFile> {
        let cannot = || format!("{} cannot be copied to {}", checked.path().display(), self.folder.display());
        let mut copy = tempfile::Builder::new().prefix(".partial-").tempfile_in(&self.folder).with_context(cannot)?;
        let mut reading = checked.read()?;
        io::copy(&mut reading, &mut copy).with_context(cannot)?;
        reading.finish()?;
        copy.as_file().sync_all().with_context(cannot)?;
        Ok(copy)
    }

    /// Gives a copy its name.
    pub(super) fn place(&self, copy: NamedTempFile, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        copy.persist(&path)
            .map_err(|error| error.error)
            .with_context(|| format!("{} cannot be kept", path.display()))?;
        Ok(path)
    }

    /// Where a package of this name lies, if it does.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|path| path.exists())
    }

    /// What a rollback installs.
    pub(super) fn previous(&self) -> Option<PathBuf> {
        self.file(fs::read_link(self.folder.join(PREVIOUS)).ok()?.file_name()?.to_str()?)
    }

    pub(super) fn set_previous(&self, package: Option<&Path>) -> Result<()> {
        let link = self.folder.join(PREVIOUS);
        let cannot = || format!("{} cannot be changed", link.display());
        let Some(name) = package.and_then(Path::file_name) else {
            return match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(cannot),
                _ => Ok(()),
            };
        };
        let made = self.folder.join(".partial-previous");
        drop(fs::remove_file(&made));
        symlink(name, &made).with_context(cannot)?;
        fs::rename(&made, &link).with_context(cannot)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).with_context(cannot)
    }

    /// Deletes all packages but these, and what a killed command left.
    pub(super) fn prune(&self, packages: &[PathBuf]) -> Result<()> {
        for entry in fs::read_dir(&self.folder).context("the kept packages cannot be listed")?.flatten() {
            let path = entry.path();
            let own = [".lock", PREVIOUS].iter().any(|name| path.ends_with(name));
            if !own && !packages.contains(&path) {
                fs::remove_file(&path).with_context(|| format!("{} cannot be deleted", path.display()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_said_and_two_upgrades_do_not_meet() {
        let dir = tempfile::tempdir().expect("a folder");
        let kept = Kept::open_at(dir.path()).expect("opened");
        assert!(Kept::open_at(dir.path()).is_err(), "held");
        assert_eq!(kept.previous(), None);
        for name in ["a.deb", "b.deb", ".partial-x"] {
            fs::write(dir.path().join(name), name).expect("written");
        }
        let (a, b) = (dir.path().join("a.deb"), dir.path().join("b.deb"));
        kept.set_previous(Some(&a)).expect("linked");
        kept.set_previous(Some(&b)).expect("linked again");
        assert_eq!(kept.previous(), Some(b.clone()));
        kept.prune(std::slice::from_ref(&b)).expect("pruned");
        assert!(b.exists() && !a.exists() && !dir.path().join(".partial-x").exists());
        assert_eq!(kept.previous(), Some(b.clone()));
        fs::remove_file(&b).expect("deleted");
        assert_eq!(kept.previous(), None, "a link to nothing");
        kept.set_previous(None).expect("unlinked");
    }
}
