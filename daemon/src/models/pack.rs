//! The archive of a pack: written for others, read from others. Enters: the files of a pack, or a signed archive; leaves:
//! an archive (tar in zstd, `pack.toml` first, the same bytes each time), or a version beside the others. Nothing of an
//! archive's names becomes a path: every entry must be the one that the manifest has next.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::archive::PARTIAL;
use super::manifest::{FORMAT, Manifest, SelfTest, Version};
use super::pull::{Machine, lock};
use super::versions::{self, Installed, MANIFEST};
use super::{Catalogue, Checked, ModelError, Progress, State, digest};
use crate::base::Locked;

/// No manifest is longer.
const LONGEST_MANIFEST: u64 = 1 << 20;

/// What zstd does to weights in little time; most do not shrink.
const LEVEL: i32 = 3;

/// Writes the archive of a pack of the catalogue whose files lie in `dir` into the folder `out`, unsigned.
///
/// # Errors
/// [`ModelError::UnknownPack`], [`ModelError::Missing`], [`ModelError::WrongHash`], [`ModelError::Io`].
pub fn write(
    catalogue: &Catalogue,
    pack: &str,
    version: Version,
    dir: &Path,
    out: &Path,
) -> Result<PathBuf, ModelError> {
    let models: Vec<_> = catalogue.pack(pack)?.into_iter().cloned().collect();
    for model in &models {
        let path = model.path(dir, &model.files[0]);
        match super::state(model, dir, true)? {
            State::Installed => {}
            State::Missing => return Err(ModelError::Missing { path, pack: pack.to_owned() }),
            State::Damaged => return Err(ModelError::WrongHash { what: path.display().to_string() }),
        }
    }
    let about = catalogue.about(pack).to_owned();
    let manifest =
        Manifest { format: FORMAT, pack: pack.to_owned(), version, about, test: SelfTest::default(), models };
    let text = toml::to_string(&manifest).expect("a table of plain values. This is a bug.");
    let path = out.join(format!("callbox-{pack}-{version}.tar.zst"));
    let partial = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(out).map_err(ModelError::io(out))?;
    write_to(partial.as_file(), &manifest, &text, dir).map_err(ModelError::io(&path))?;
    super::archive::publish(partial, &path)?;
    Ok(path)
}

fn write_to(file: &File, manifest: &Manifest, text: &str, dir: &Path) -> io::Result<()> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(file, LEVEL)?);
    // A tar entry without anything of the machine that it was made on.
    let header = |bytes: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(0);
        header
    };
    tar.append_data(&mut header(text.len() as u64), MANIFEST, text.as_bytes())?;
    for model in &manifest.models {
        for file in &model.files {
            let opened = File::open(model.path(dir, file))?.take(file.bytes);
            tar.append_data(&mut header(file.bytes), format!("{}/{}", model.name, file.name), opened)?;
        }
    }
    tar.into_inner()?.finish()?;
    Ok(())
}

/// What came of reading an archive.
#[derive(Debug)]
pub enum Unpacked {
    /// Its version counts already, and all of its files are sound.
    Already(Installed),
    /// It lies beside the others and counts for nothing yet.
    Staged(Staged),
}

/// A version that is whole and does not count yet. It goes when this is dropped.
#[derive(Debug)]
pub struct Staged {
    folder: PathBuf,
    staging: TempDir,
    installed: Installed,
    /// Nobody else installs meanwhile.
    _lock: Locked,
}

impl Staged {
    /// To be tested.
    pub fn installed(&self) -> &Installed {
        &self.installed
    }

    /// From now on it counts.
    ///
    /// # Errors
    /// [`ModelError::Io`]; then what counted still does.
    pub fn switch(self) -> Result<Installed, ModelError> {
        let manifest = self.installed.manifest;
        let target = versions::place(self.staging.path(), &self.folder, manifest.version)?;
        versions::switch(&self.folder, manifest.version)?;
        Ok(Installed { manifest, folder: target })
    }
}

/// Unpacks a signed archive beside the versions that are in `dir`. An older version than the one that counts is refused,
/// unless `older` is set.
///
/// # Errors
/// [`ModelError::BadPack`], [`ModelError::Older`], [`ModelError::DiskFull`], [`ModelError::Busy`], [`ModelError::Trust`],
/// [`ModelError::Io`]; nothing is left of it then.
pub fn unpack(
    dir: &Path,
    checked: &Checked,
    older: bool,
    machine: &Machine,
    progress: &dyn Progress,
) -> Result<Unpacked, ModelError> {
    let (unpacked, reading) = stage(dir, checked.path(), checked.read()?, older, machine, progress)?;
    // What was unpacked is what was signed, to the last byte.
    reading.finish()?;
    Ok(unpacked)
}

/// Unpacks what `reading` gives; `file` is its name, for sentences.
pub(super) fn stage<R: Read>(
    dir: &Path,
    file: &Path,
    reading: R,
    older: bool,
    machine: &Machine,
    progress: &dyn Progress,
) -> Result<(Unpacked, R), ModelError> {
    fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    let lock = lock(dir)?;
    let bad = |reason: String| ModelError::BadPack { file: file.to_owned(), reason };
    let unreadable = |error: io::Error| bad(format!("it cannot be unpacked: {error}"));
    let mut tar = tar::Archive::new(zstd::Decoder::new(reading).map_err(unreadable)?);
    let mut entries = tar.entries().map_err(unreadable)?;
    let mut next = |name: &str| -> Result<_, ModelError> {
        let entry = entries.next().ok_or_else(|| bad(format!("{name} is missing")))?.map_err(unreadable)?;
        if entry.path_bytes() != name.as_bytes() || !entry.header().entry_type().is_file() {
            let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            return Err(bad(format!("{found:?} is where {name} should be")));
        }
        Ok(entry)
    };

    let mut text = String::new();
    next(MANIFEST)?.take(LONGEST_MANIFEST).read_to_string(&mut text).map_err(unreadable)?;
    let manifest = Manifest::parse(&text).map_err(bad)?;
    let (pack, version) = (&manifest.pack, manifest.version);
    if let Some(counts) = versions::current(dir, pack)? {
        let installed = counts.manifest.version;
        if version == installed && whole(&counts)? {
            return Ok((Unpacked::Already(counts), tar.into_inner().finish().into_inner()));
        }
        if version < installed && !older {
            return Err(ModelError::Older { pack: pack.clone(), offered: version, installed });
        }
    }

    let folder = versions::folder(dir, pack);
    fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
    versions::sweep(&folder)?;
    let (needed, free) = (manifest.bytes(), (machine.free)(dir).map_err(ModelError::io(dir))?);
    if free < needed {
        return Err(ModelError::DiskFull { dir: dir.to_owned(), needed, free });
    }
    progress.begin(pack, needed);
    let staging = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(&folder).map_err(ModelError::io(&folder))?;
    let mode =
        |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).map_err(ModelError::io(path));
    mode(staging.path(), 0o755)?;
    for model in &manifest.models {
        let folder = staging.path().join(&model.name);
        fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
        mode(&folder, 0o755)?;
        for file in &model.files {
            let name = format!("{}/{}", model.name, file.name);
            let entry = next(&name)?;
            let path = folder.join(&file.name);
            let mut sink = digest::Sink::new(File::create_new(&path).map_err(ModelError::io(&path))?);
            sink.copy(entry, file.bytes).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull => ModelError::DiskFull { dir: dir.to_owned(), needed, free },
                _ => bad(format!("{name}: {error}")),
            })?;
            let (written, bytes, sha256) = sink.finish();
            if bytes != file.bytes || sha256 != file.sha256 {
                return Err(bad(format!("{name} is not what its manifest says")));
            }
            written.sync_all().map_err(ModelError::io(&path))?;
            mode(&path, 0o644)?;
            progress.archive(&name, bytes);
        }
        versions::sync(&folder)?;
    }
    if entries.next().is_some() {
        return Err(bad("it holds more than its manifest says".into()));
    }
    let reading = tar.into_inner().finish().into_inner();
    let path = staging.path().join(MANIFEST);
    let written = File::create_new(&path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(ModelError::io(&path))?;
    mode(&path, 0o644)?;
    versions::sync(staging.path())?;
    let installed = Installed { manifest, folder: staging.path().to_owned() };
    Ok((Unpacked::Staged(Staged { folder, staging, installed, _lock: lock }), reading))
}

/// Whether every byte of a version is as it was.
fn whole(installed: &Installed) -> Result<bool, ModelError> {
    for model in &installed.manifest.models {
        if super::state(model, &installed.folder, true)? != State::Installed {
            return Ok(false);
        }
    }
    Ok(true)
}
