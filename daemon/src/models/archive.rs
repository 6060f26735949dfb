//! From archives to a model file. Enters: verified zip and gzipped tar files and the catalogue's word on what is in them; leaves: one
//! file under its final name, or nothing. Never here: a name out of an archive used as a path, or anything executed.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::Path;

use flate2::bufread::GzDecoder;
use tempfile::NamedTempFile;
use zip::ZipArchive;

use super::catalogue::{Model, ModelFile, Registry};
use super::{ModelError, digest};

/// How the names of unfinished things in the downloads folder begin.
pub(super) const PARTIAL: &str = "partial-";

/// Joins the parts of `file` out of the archives in `downloads` and puts it in place under `dir`, whole or not at all.
///
/// # Errors
/// [`ModelError::Archive`], [`ModelError::WrongHash`], [`ModelError::Io`].
pub(super) fn install(model: &Model, file: &ModelFile, downloads: &Path, dir: &Path) -> Result<(), ModelError> {
    let path = model.path(dir, file);
    let folder = dir.join(&model.name);
    fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
    // In the same file system; gone when dropped, and swept by the next pull after a crash.
    let partial = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(downloads).map_err(ModelError::io(downloads))?;
    let mut sink = digest::Sink::new(partial);

    for archive in &model.archives {
        let bad = |reason: String| ModelError::Archive { archive: archive.file.clone(), reason };
        let opened = downloads.join(&archive.file);
        for entry in archive.holds.iter().filter(|(_, held)| **held == file.name).map(|(entry, _)| entry) {
            let reader = BufReader::new(File::open(&opened).map_err(ModelError::io(&opened))?);
            let copied = match archive.registry {
                Registry::Pip => {
                    let mut zip = ZipArchive::new(reader).map_err(|error| bad(error.to_string()))?;
                    let part = zip.by_name(entry).map_err(|error| bad(format!("{entry}: {error}")))?;
                    sink.copy(part, file.bytes)
                }
                Registry::Npm => {
                    let mut tar = tar::Archive::new(GzDecoder::new(reader));
                    let found = tar.entries().map_err(|error| bad(error.to_string()))?.find_map(|found| match found {
                        Ok(part) => (*part.path_bytes() == *entry.as_bytes()).then_some(Ok(part)),
                        Err(error) => Some(Err(error)),
                    });
                    let part = found.ok_or_else(|| bad(format!("{entry} is not in it")))?;
                    sink.copy(part.map_err(|error| bad(format!("{entry}: {error}")))?, file.bytes)
                }
            };
            copied.map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull => ModelError::Io { path: path.clone(), reason: error },
                _ => bad(format!("{entry}: {error}")),
            })?;
        }
    }

    let (partial, bytes, sha256) = sink.finish();
    if bytes != file.bytes || sha256 != file.sha256 {
        return Err(ModelError::WrongHash { what: path.display().to_string() });
    }
    publish(partial, &path)
}

/// Renames a finished temporary file into place, durably, readable by every user.
pub(super) fn publish(mut partial: NamedTempFile, path: &Path) -> Result<(), ModelError> {
    use std::os::unix::fs::PermissionsExt;
    partial
        .flush()
        .and_then(|()| partial.as_file().set_permissions(fs::Permissions::from_mode(0o644)))
        .and_then(|()| partial.as_file().sync_all())
        .map_err(ModelError::io(path))?;
    partial.persist(path).map_err(|error| ModelError::Io { path: path.to_owned(), reason: error.error })?;
    Ok(())
}
