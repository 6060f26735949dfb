//! Adapters of the language model: which there are beside the models. Enters: a folder, a name; leaves: what an adapter says of
//! itself, and the hash of its two files. Never here: whether it fits the model: the engine says that when it loads it.

use std::fs::File;
use std::io::{self, Read as _, sink};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::digest::Sink;

/// As PEFT calls them.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Bytes of both at most.
const MOST: u64 = 1 << 30;

/// Why an adapter cannot be had; its `Display` is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// It could be anywhere.
    #[error("`{0}` names no adapter: a name is 1 to 40 letters, digits, - or _")]
    Name(String),
    /// Nothing of that name.
    #[error("there is no adapter `{name}`: {} and {WEIGHTS} beside it must be there, as PEFT saves them", path.display())]
    Missing {
        /// Its name.
        name: String,
        /// The file that was looked for.
        path: PathBuf,
    },
    /// It is there and cannot be read, or is no configuration.
    #[error("the adapter `{name}` cannot be read: {reason}")]
    Damaged {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// An adapter on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adapter {
    /// The name of its folder.
    pub name: String,
    /// Where its files are.
    pub folder: PathBuf,
    /// Its rank, as it says itself.
    pub rank: u32,
    /// The model that it was trained on, as it says itself.
    pub base: Option<String>,
    /// Of both files.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Config {
    r: u32,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
}

/// Where adapters lie, beside the models in `dir`.
#[must_use]
pub fn folder(dir: &Path) -> PathBuf {
    dir.join("adapters")
}

/// Looks at the adapter of a name.
///
/// # Errors
/// If it is not there, or its configuration cannot be read.
pub fn find(dir: &Path, name: &str) -> Result<Adapter, AdapterError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !(1..=40).contains(&name.len()) || !name.chars().all(fits) {
        return Err(AdapterError::Name(name.to_owned()));
    }
    let folder = folder(dir).join(name);
    let name = name.to_owned();
    let mut bytes = 0;
    for file in [CONFIG, WEIGHTS] {
        match folder.join(file).metadata() {
            Ok(meta) if meta.is_file() => bytes += meta.len(),
            _ => return Err(AdapterError::Missing { name, path: folder.join(file) }),
        }
    }
    let damaged = |reason: String| AdapterError::Damaged { name: name.clone(), reason };
    if bytes > MOST {
        return Err(damaged(format!("it has {bytes} bytes, and {MOST} are the most")));
    }
    let config = std::fs::read(folder.join(CONFIG)).map_err(|error| damaged(error.to_string()))?;
    let config: Config = serde_json::from_slice(&config).map_err(|error| damaged(format!("{CONFIG}: {error}")))?;
    Ok(Adapter { folder, rank: config.r, base: config.base_model_name_or_path, bytes, name })
}

/// Every adapter beside the models, by name; what is no adapter is passed over.
///
/// # Errors
/// If the folder is there and cannot be read.
pub fn list(dir: &Path) -> io::Result<Vec<Adapter>> {
    let entries = match std::fs::read_dir(folder(dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(find(dir, &entry?.file_name().to_string_lossy()).ok());
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl Adapter {
    /// SHA-256 of its configuration and, behind it, its weights: `cat adapter_config.json adapter_model.safetensors |
    /// sha256sum`. Reads all of both.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn sha256(&self) -> Result<String, AdapterError> {
        let open = |file: &str| File::open(self.folder.join(file));
        let hash = || -> io::Result<String> {
            let mut hash = Sink::new(sink());
            hash.copy(open(CONFIG)?.chain(open(WEIGHTS)?), MOST)?;
            Ok(hash.finish().2)
        };
        hash().map_err(|error| AdapterError::Damaged { name: self.name.clone(), reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn adapters_are_found_by_name_and_known_by_their_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(list(dir.path()).expect("no folder is no adapter"), []);
        let desk = folder(dir.path()).join("desk");
        fs::create_dir_all(&desk).expect("made");
        let config = br#"{"r": 8, "base_model_name_or_path": "org/model", "peft_type": "LORA"}"#;
        fs::write(desk.join(CONFIG), config).expect("written");
        let missing = find(dir.path(), "desk").expect_err("half of it").to_string();
        assert!(missing.contains("desk/adapter_model.safetensors"), "{missing}");
        fs::write(desk.join(WEIGHTS), b"numbers").expect("written");
        let found = find(dir.path(), "desk").expect("both files");
        assert_eq!((found.rank, found.base.as_deref()), (8, Some("org/model")));
        let hash = hex::encode(Sha256::digest([&config[..], b"numbers"].concat()));
        assert_eq!(found.sha256().expect("readable"), hash);
        fs::create_dir(folder(dir.path()).join("notes")).expect("made");
        assert_eq!(list(dir.path()).expect("readable"), [found]);
        for name in ["", "..", "a/b", "desk/..", "a b"] {
            assert!(matches!(find(dir.path(), name), Err(AdapterError::Name(_))), "{name}");
        }
        fs::write(desk.join(CONFIG), "{}").expect("written");
        assert!(find(dir.path(), "desk").expect_err("no rank").to_string().contains("`r`"));
    }
}
