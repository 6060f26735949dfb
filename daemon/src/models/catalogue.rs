//! The catalogue of `config/models.toml`. Enters: TOML; leaves: packs, models, files and archives whose names are safe
//! to join to a folder. Never here: a file or a network.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::ModelError;

const EMBEDDED: &str = include_str!("../../../config/models.toml");

/// Everything that can be pulled.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    #[serde(rename = "pack")]
    packs: BTreeMap<String, Pack>,
    #[serde(rename = "model")]
    models: Vec<Model>,
}

/// One model for each role.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// What it is good for, in a few words.
    pub about: String,
    /// Model of the voice activity detector.
    pub vad: String,
    /// Model of the speech recogniser.
    pub stt: String,
    /// Language model.
    pub llm: String,
    /// Model of the synthesiser.
    pub voice: String,
    /// Model of the embedder; without one only questions in the same words are found in the cache of answers.
    #[serde(default)]
    pub embed: Option<String>,
}

impl Pack {
    /// Its models by name, with what each must be.
    fn models(&self) -> impl Iterator<Item = (&String, Use)> {
        let needed = [(&self.vad, Use::Vad), (&self.stt, Use::Stt), (&self.llm, Use::Llm), (&self.voice, Use::Voice)];
        needed.into_iter().chain(self.embed.iter().map(|embed| (embed, Use::Embed)))
    }
}

/// What a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Voice activity.
    Vad,
    /// Speech to text.
    Stt,
    /// Language.
    Llm,
    /// Text to speech.
    Voice,
    /// What sentences mean.
    Embed,
}

impl Use {
    /// All that a daemon cannot be without.
    pub const ALL: [Self; 4] = [Self::Vad, Self::Stt, Self::Llm, Self::Voice];
}

impl FromStr for Use {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Vad, Self::Stt, Self::Llm, Self::Voice, Self::Embed]
            .into_iter()
            .find(|role| role.to_string() == text)
            .ok_or_else(|| format!("there is no role `{text}`; there are llm, stt, voice, embed and vad"))
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vad => "vad",
            Self::Stt => "stt",
            Self::Llm => "llm",
            Self::Voice => "voice",
            Self::Embed => "embed",
        })
    }
}

/// A folder of one or more files.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Also the name of its folder.
    pub name: String,
    /// What it does.
    pub role: Use,
    /// SPDX identifier of the weights' licence.
    pub licence: String,
    /// What it is, in a few words.
    pub about: String,
    /// At least one; the engine is given the path of the first.
    #[serde(rename = "file")]
    pub files: Vec<ModelFile>,
    /// Where the files come from; archives that hold the same file are its parts, in this order. Not in a manifest.
    #[serde(rename = "archive", default, skip_serializing)]
    pub archives: Vec<Archive>,
}

/// A file as installed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Within the model's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Lowercase hexadecimal.
    pub sha256: String,
}

/// Where an archive is fetched from, and with it what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registry {
    /// That of Python's packages; a wheel, which is a zip file.
    #[default]
    Pip,
    /// That of npm; a gzipped tar file.
    Npm,
}

/// A package that is used as an archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Where it is.
    #[serde(default)]
    pub registry: Registry,
    /// Its name in the registry.
    pub package: String,
    /// The one version whose hash is known.
    pub version: String,
    /// File name as downloaded.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Lowercase hexadecimal.
    pub sha256: String,
    /// Entry inside → file of the model.
    pub holds: BTreeMap<String, String>,
}

impl Model {
    /// Where `file` lies when it is installed under `dir`.
    pub fn path(&self, dir: &Path, file: &ModelFile) -> PathBuf {
        dir.join(&self.name).join(&file.name)
    }

    /// Whether its names are safe to join to a folder, and its hashes are hashes.
    pub(super) fn check(&self) -> Result<(), String> {
        let files = self.files.iter().map(|file| (&file.name, &file.sha256));
        let archives = self.archives.iter().map(|archive| (&archive.file, &archive.sha256));
        for (name, sha256) in files.chain(archives) {
            if !is_plain(name) || hex::decode(sha256).map(|hash| hash.len()) != Ok(32) {
                return Err(format!("model {}: `{name}` has a bad name or SHA-256", self.name));
            }
        }
        if !is_plain(&self.name) || self.files.is_empty() {
            return Err(format!("model {}: a plain name and at least one file are needed", self.name));
        }
        Ok(())
    }
}

impl Catalogue {
    /// The catalogue that was compiled in.
    pub fn embedded() -> &'static Self {
        static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
            Catalogue::parse(EMBEDDED).expect("config/models.toml is compiled in and parsed by a test. This is a bug.")
        });
        &CATALOGUE
    }

    /// Reads and checks a catalogue.
    ///
    /// # Errors
    /// One sentence: what is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let catalogue: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        catalogue.check()?;
        Ok(catalogue)
    }

    /// Names of the packs, in alphabetical order.
    pub fn packs(&self) -> impl Iterator<Item = (&str, &Pack)> {
        self.packs.iter().map(|(name, pack)| (name.as_str(), pack))
    }

    /// What a pack is good for; nothing for a pack that is not in it.
    pub(super) fn about(&self, pack: &str) -> &str {
        self.packs.get(pack).map_or("", |pack| &pack.about)
    }

    /// All models, in the order of the catalogue.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The models of a pack: vad, stt, llm, voice and, if it has one, embed.
    ///
    /// # Errors
    /// [`ModelError::UnknownPack`].
    pub fn pack(&self, name: &str) -> Result<Vec<&Model>, ModelError> {
        let pack = self.packs.get(name).ok_or_else(|| {
            let known: Vec<_> = self.packs.keys().map(|name| format!("`{name}`")).collect();
            ModelError::UnknownPack(name.to_owned(), known.join(", "))
        })?;
        let find = |name: &String| {
            self.models.iter().find(|model| model.name == *name).expect("checked when parsed. This is a bug.")
        };
        Ok(pack.models().map(|(model, _)| find(model)).collect())
    }

    /// What is pulled under a name: the models of a pack, or one model.
    ///
    /// # Errors
    /// [`ModelError::UnknownPack`].
    pub fn wanted(&self, name: &str) -> Result<Vec<&Model>, ModelError> {
        match self.models.iter().find(|model| model.name == name) {
            Some(model) if !self.packs.contains_key(name) => Ok(vec![model]),
            _ => self.pack(name),
        }
    }

    /// The model that `[models]` of the configuration means by a name: its own, or for a voice that of one of its speakers.
    /// The file that the engine is given is its first.
    pub fn chosen(&self, role: Use, name: &str) -> Option<Model> {
        let speaker = format!("{name}.bin");
        self.models.iter().filter(|model| model.role == role).find_map(|model| {
            let mut model = model.clone();
            let at = model.files.iter().position(|file| role == Use::Voice && file.name == speaker);
            model.files.swap(0, at.or_else(|| (model.name == name).then_some(0))?);
            Some(model)
        })
    }

    /// Names of the packs that hold a model.
    pub fn packs_of<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = &'a str> {
        self.packs().filter(|(_, pack)| pack.models().any(|(name, _)| *name == model.name)).map(|(name, _)| name)
    }

    fn check(&self) -> Result<(), String> {
        for (name, pack) in &self.packs {
            for (model, role) in pack.models() {
                if !self.models.iter().any(|known| known.name == *model && known.role == role) {
                    return Err(format!("pack {name}: no model `{model}` of role {role}"));
                }
            }
        }
        for model in &self.models {
            model.check()?;
            for file in &model.files {
                if !model.archives.iter().any(|archive| archive.holds.values().any(|held| *held == file.name)) {
                    return Err(format!("model {}: no archive holds {}", model.name, file.name));
                }
            }
        }
        Ok(())
    }
}

/// A name that stays in the folder it is joined to, and is none of the hidden working files.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_catalogue_is_sound_and_every_model_can_be_pulled() {
        let catalogue = Catalogue::parse(EMBEDDED).expect("sound");
        assert_eq!(catalogue.packs().map(|(name, _)| name).collect::<Vec<_>>(), ["starter", "tiny"]);
        for model in catalogue.models() {
            assert!(catalogue.wanted(&model.name).is_ok_and(|wanted| wanted[0].name == model.name), "{}", model.name);
        }
        let starter = catalogue.pack("starter").expect("there");
        let roles: Vec<_> = starter.iter().map(|model| model.role).collect();
        assert_eq!(roles, [Use::Vad, Use::Stt, Use::Llm, Use::Voice, Use::Embed]);
        assert_eq!(starter[2].archives.len(), 22);
    }

    #[test]
    fn a_voice_is_chosen_by_its_name_or_by_a_speakers() {
        let first = |role, name| Catalogue::embedded().chosen(role, name).map(|model| model.files[0].name.clone());
        assert_eq!(first(Use::Voice, "piper-joe").as_deref(), Some("en_US-joe-medium.onnx"));
        assert_eq!(first(Use::Voice, "kokoro-82m").as_deref(), Some("af_heart.bin"));
        assert_eq!(first(Use::Voice, "bm_george").as_deref(), Some("bm_george.bin"));
        assert_eq!((first(Use::Voice, "nobody"), first(Use::Llm, "bm_george")), (None, None));
    }

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for (from, to) in [
            ("name = \"tiny.en.pt\"", "name = \"../tiny.en.pt\""),
            ("name = \"piper-joe\"", "name = \"..\""),
            ("d3dd57d3", "xyz"),
            ("vad = \"silero-vad\"", "vad = \"piper-joe\""),
            ("licence = \"CC0-1.0\"", "license = \"CC0-1.0\""),
        ] {
            assert!(EMBEDDED.contains(from));
            assert!(Catalogue::parse(&EMBEDDED.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn an_unknown_pack_names_the_known_ones() {
        let error = Catalogue::embedded().pack("huge").expect_err("no such pack").to_string();
        assert_eq!(error, "there is no model pack `huge`; there are `starter`, `tiny`");
    }
}
