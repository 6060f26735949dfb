//! Sources on this machine: a folder, one file, a tar archive (also in zstd), for boxes without a network. Enters: a path;
//! leaves: which files are there, and their bytes. Never here: a name out of an archive used as a path, a link out of one,
//! or a file that nobody asked for.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, Write};
use std::path::{Path, PathBuf};

use super::{Found, Offer, OwnError, Source, roles};
use crate::models::{ModelError, Progress};

/// More files than that are in no model's folder.
const MOST: usize = 10_000;

/// How deep below the folder files are looked for.
const DEEPEST: usize = 4;

/// The first bytes of a file in zstd (RFC 8878 §3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How many bytes are copied between two looks at the bar.
const CHUNK: usize = 1 << 20;

enum Kind {
    /// A folder; of one file, the folder that it lies in.
    Folder(PathBuf),
    Tar,
}

/// Something on this machine.
pub struct Local {
    path: PathBuf,
    kind: Kind,
    /// The file that was meant, if it was one.
    file: Option<String>,
}

impl Local {
    /// Looks at what lies there.
    ///
    /// # Errors
    /// [`OwnError::Unreadable`].
    pub fn open(path: &Path) -> Result<Self, OwnError> {
        let failed = |reason: io::Error| unreadable(path, reason);
        let path = fs::canonicalize(path).map_err(failed)?;
        let meta = fs::metadata(&path).map_err(failed)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let archive = [".tar", ".tar.zst", ".tar.zstd", ".tzst"].iter().any(|ending| name.ends_with(ending));
        if meta.is_dir() {
            return Ok(Self { kind: Kind::Folder(path.clone()), path, file: None });
        }
        if !meta.is_file() {
            return Err(unreadable(&path, "it is neither a folder nor a file"));
        }
        if archive {
            return Ok(Self { path, kind: Kind::Tar, file: None });
        }
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { path, kind: Kind::Folder(folder), file: Some(name) })
    }

    /// The file that the path names, if it names one.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    fn tar(&self) -> Result<tar::Archive<Box<dyn Read>>, ModelError> {
        let failed = |reason: io::Error| unreadable(&self.path, reason);
        let mut reader = BufReader::with_capacity(CHUNK, File::open(&self.path).map_err(failed)?);
        let packed = reader.fill_buf().map_err(failed)?.starts_with(&ZSTD);
        let reader: Box<dyn Read> = match packed {
            true => Box::new(zstd::Decoder::with_buffer(reader).map_err(failed)?),
            false => Box::new(reader),
        };
        Ok(tar::Archive::new(reader))
    }

    /// Calls `see` for each regular file of the archive until it is done.
    fn each<T>(&self, mut see: impl FnMut(String, &mut dyn Read, u64) -> Option<T>) -> Result<Option<T>, ModelError> {
        let failed = |reason: io::Error| unreadable(&self.path, format!("it is no whole tar archive: {reason}"));
        let mut tar = self.tar()?;
        for (count, entry) in tar.entries().map_err(failed)?.enumerate() {
            let mut entry = entry.map_err(failed)?;
            if count == MOST {
                return Err(unreadable(&self.path, format!("it holds more than {MOST} files")).into());
            }
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
            if !roles::is_safe(&path) {
                return Err(OwnError::Hostile(path.escape_debug().to_string()).into());
            }
            let bytes = entry.size();
            if let Some(seen) = see(path, &mut entry, bytes) {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }
}

impl Source for Local {
    fn name(&self) -> String {
        format!("file:{}", self.path.display())
    }

    fn revision(&self) -> Option<String> {
        None
    }

    fn title(&self) -> String {
        let name = self.path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let endings = [".tar", ".tar.zst", ".tar.zstd", ".tzst", ".gguf", ".onnx", ".pt", ".bin", ".safetensors"];
        let stem = endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        stem.trim_start_matches('.').chars().take(64).map(plain).collect()
    }

    fn find(&mut self, _: Option<&str>) -> Result<Found, ModelError> {
        let mut found = Found::default();
        let mut card = None;
        match &self.kind {
            Kind::Folder(folder) => {
                walk(folder, "", 0, &mut found.files)?;
                card = fs::read_to_string(folder.join("README.md")).ok();
            }
            Kind::Tar => {
                let files = &mut found.files;
                self.each(|path, reader, bytes| -> Option<()> {
                    if path.rsplit('/').next() == Some("README.md") && card.is_none() {
                        let mut text = String::new();
                        card = reader.take(1 << 20).read_to_string(&mut text).ok().map(|_| text);
                    }
                    files.push(Offer { path, bytes: Some(bytes), sha256: None });
                    None
                })?;
            }
        }
        found.licence = card.as_deref().and_then(licence);
        Ok(found)
    }

    fn fetch(
        &mut self,
        _: &Found,
        offer: &Offer,
        half: &mut File,
        progress: &dyn Progress,
    ) -> Result<Option<String>, ModelError> {
        let failed = |reason: io::Error| unreadable(&self.path, reason);
        // What came off a disk is copied anew: that is as quick as finding out where to go on.
        half.set_len(0).and_then(|()| half.rewind()).map_err(failed)?;
        match &self.kind {
            Kind::Folder(folder) => {
                let path = folder.join(&offer.path);
                let opened = File::open(&path).map_err(|error| unreadable(&path, error))?;
                copy(opened, half, progress, &path)?;
            }
            Kind::Tar => {
                let wanted = self
                    .each(|path, reader, _| (path == offer.path).then(|| copy(reader, half, progress, &self.path)))?;
                match wanted {
                    Some(copied) => copied?,
                    None => {
                        let (source_name, file) = (self.name(), offer.path.clone());
                        return Err(OwnError::NoFile { source_name, file }.into());
                    }
                }
            }
        }
        Ok(None)
    }
}

fn unreadable(path: &Path, reason: impl ToString) -> OwnError {
    OwnError::Unreadable { path: path.to_owned(), reason: reason.to_string() }
}

/// Copies to the end; `from` is what is copied, for sentences.
fn copy(mut reader: impl Read, to: &mut File, progress: &dyn Progress, from: &Path) -> Result<(), ModelError> {
    let mut buffer = vec![0; CHUNK];
    let mut arrived = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&buffer[..read]).map_err(ModelError::io(from))?;
                arrived += read as u64;
                progress.arrived(arrived);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(from, error).into()),
        }
    }
}

/// Every file below a folder, hidden ones and linked folders left out. A link to a file is followed: the hub's own cache
/// is made of them.
fn walk(folder: &Path, within: &str, depth: usize, files: &mut Vec<Offer>) -> Result<(), OwnError> {
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{within}{name}");
        if !roles::is_safe(&path) {
            continue;
        }
        match entry.path().metadata() {
            Ok(meta) if meta.is_file() => files.push(Offer { path, bytes: Some(meta.len()), sha256: None }),
            Ok(meta) if meta.is_dir() && depth < DEEPEST && !entry.path().is_symlink() => {
                walk(&entry.path(), &format!("{path}/"), depth + 1, files)?;
            }
            _ => {}
        }
        if files.len() > MOST {
            return Err(unreadable(folder, format!("it holds more than {MOST} files")));
        }
    }
    Ok(())
}

/// `license:` of the YAML with which a model's card begins.
fn licence(card: &str) -> Option<String> {
    let mut lines = card.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let found = lines.take_while(|line| line.trim_end() != "---").find_map(|line| line.strip_prefix("license:"))?;
    let found = found.trim().trim_matches(['"', '\'']);
    (!found.is_empty()).then(|| found.to_owned())
}
