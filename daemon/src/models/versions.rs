//! The versions of a pack on disk. Enters: the folder of the models and the name of a pack; leaves: which version counts,
//! and a switch to another that happens at one moment. Never here: an archive, a signature.
//!
//! ```text
//!  packs/PACK/1.0.0/pack.toml, MODEL/FILE      packs/PACK/current  → 1.1.0
//!  packs/PACK/1.1.0/…                          packs/PACK/previous → 1.0.0
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::archive::PARTIAL;
use super::manifest::{Manifest, Version};
use super::{ModelError, PackFiles, Use, catalogue::is_plain};

/// The manifest within a version's folder and within an archive.
pub(super) const MANIFEST: &str = "pack.toml";

const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";

/// A version that is there as a whole.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What is in it.
    pub manifest: Manifest,
    /// Where it lies: a folder per model.
    pub folder: PathBuf,
}

impl Installed {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// [`ModelError::BadPack`], [`ModelError::Io`].
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(ModelError::io(&path))?;
        let manifest = Manifest::parse(&text).map_err(|reason| ModelError::BadPack { file: path, reason })?;
        Ok(Self { manifest, folder: folder.to_owned() })
    }

    /// Its files; looks at names and lengths of those that are needed for `uses`.
    ///
    /// # Errors
    /// [`ModelError::Lost`] for the first file that is not as it should be.
    pub fn files(&self, uses: &[Use]) -> Result<PackFiles, ModelError> {
        for model in self.manifest.models.iter().filter(|model| uses.contains(&model.role)) {
            if let Some(path) = super::lacks(model, &self.folder) {
                return Err(ModelError::Lost { path, pack: self.manifest.pack.clone() });
            }
        }
        let first = |model: &super::Model| model.path(&self.folder, &model.files[0]);
        Ok(PackFiles::new(self.manifest.models.iter().map(|model| (model, first(model)))))
    }
}

/// Where the versions of a pack lie.
pub(super) fn folder(dir: &Path, pack: &str) -> PathBuf {
    dir.join("packs").join(pack)
}

/// Packs of which a version was installed, in alphabetical order.
pub fn packs(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("packs")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_plain(name));
    names.sort();
    names
}

/// The version that counts, if one was installed.
///
/// # Errors
/// [`ModelError::BadPack`], [`ModelError::Io`].
pub fn current(dir: &Path, pack: &str) -> Result<Option<Installed>, ModelError> {
    linked(&folder(dir, pack), CURRENT)
}

/// The version that counted before.
///
/// # Errors
/// As [`current`].
pub fn previous(dir: &Path, pack: &str) -> Result<Option<Installed>, ModelError> {
    linked(&folder(dir, pack), PREVIOUS)
}

fn linked(folder: &Path, name: &str) -> Result<Option<Installed>, ModelError> {
    let link = folder.join(name);
    match fs::read_link(&link) {
        Ok(version) if version.to_str().is_some_and(|name| name.parse::<Version>().is_ok()) => {
            // The version's own folder, so that nothing that is open changes with the link.
            Installed::read(&folder.join(version)).map(Some)
        }
        Ok(_) => Err(ModelError::BadPack { file: link, reason: "it leads to no version".into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(ModelError::Io { path: link, reason }),
    }
}

/// Puts a finished folder into the place of its version, whole; what was there goes.
pub(super) fn place(staged: &Path, folder: &Path, version: Version) -> Result<PathBuf, ModelError> {
    let target = folder.join(version.to_string());
    let failed = || ModelError::io(&target);
    let moved = match renameat_with(CWD, staged, CWD, &target, RenameFlags::NOREPLACE) {
        // At no moment is there no such version: what runs may look for its files.
        Err(rustix::io::Errno::EXIST) => renameat_with(CWD, staged, CWD, &target, RenameFlags::EXCHANGE),
        moved => moved,
    };
    moved.map_err(|error| failed()(error.into()))?;
    sync(folder)?;
    Ok(target)
}

/// From now on `version` counts, and what counted is the previous one. Versions beside these two are deleted.
pub(super) fn switch(folder: &Path, version: Version) -> Result<(), ModelError> {
    let counted = fs::read_link(folder.join(CURRENT)).ok().filter(|old| *old != Path::new(&version.to_string()));
    if let Some(old) = counted {
        link(folder, &old, PREVIOUS)?;
    }
    link(folder, Path::new(&version.to_string()), CURRENT)?;
    let kept: Vec<_> = [CURRENT, PREVIOUS].iter().filter_map(|name| fs::read_link(folder.join(name)).ok()).collect();
    for entry in fs::read_dir(folder).map_err(ModelError::io(folder))?.flatten() {
        let name = PathBuf::from(entry.file_name());
        let is_version = name.to_str().is_some_and(|name| name.parse::<Version>().is_ok());
        if is_version && !kept.contains(&name) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(ModelError::io(&path))?;
        }
    }
    Ok(())
}

/// Back to what counted before: the previous version, or, without one, the files that were pulled. Returns the version
/// that counts now; none stands for pulled files.
///
/// # Errors
/// [`ModelError::NoEarlier`] if there is neither, [`ModelError::Lost`] if it is not whole, [`ModelError::Io`].
pub fn roll_back(dir: &Path, pack: &str) -> Result<Option<Version>, ModelError> {
    let _lock = super::pull::lock(dir)?;
    let folder = folder(dir, pack);
    let no_earlier = || ModelError::NoEarlier(pack.to_owned());
    let counts = fs::read_link(folder.join(CURRENT)).map_err(|_| no_earlier())?;
    match linked(&folder, PREVIOUS)? {
        Some(earlier) => {
            earlier.files(&Use::ALL)?;
            let version = earlier.manifest.version;
            if counts == Path::new(&version.to_string()) {
                return Err(no_earlier());
            }
            switch(&folder, version)?;
            Ok(Some(version))
        }
        None => {
            super::resolve_in(super::Catalogue::embedded(), dir, pack, &Use::ALL).map_err(|_| no_earlier())?;
            let path = folder.join(CURRENT);
            fs::remove_file(&path).map_err(ModelError::io(&path))?;
            sync(&folder)?;
            Ok(None)
        }
    }
}

/// Deletes what a killed installation left; called with the lock held.
pub(super) fn sweep(folder: &Path) -> Result<(), ModelError> {
    for entry in fs::read_dir(folder).map_err(ModelError::io(folder))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            let path = entry.path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(ModelError::io(&path))?;
        }
    }
    Ok(())
}

/// Makes a link anew and renames it over the old one.
fn link(folder: &Path, to: &Path, name: &str) -> Result<(), ModelError> {
    let (path, made) = (folder.join(name), folder.join(format!("{PARTIAL}{name}")));
    drop(fs::remove_file(&made));
    symlink(to, &made).map_err(ModelError::io(&made))?;
    fs::rename(&made, &path).map_err(ModelError::io(&path))?;
    sync(folder)
}

/// Makes what was renamed in a folder survive a power cut.
pub(super) fn sync(folder: &Path) -> Result<(), ModelError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(ModelError::io(folder))
}
