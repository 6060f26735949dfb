//! Who speaks for an agent. Enters: configuration, agents; leaves: one sentence about a speaker that cannot be had. Never here: a
//! file of a model.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::call::agents::Agents;
use crate::config::{Config, EngineKind, has_program};
use crate::models::{self, Part, Use};

/// What the names of Kokoro's speakers begin with who speak Japanese.
const JAPANESE: char = 'j';

/// Where the engine looks for a dictionary before it leaves that to mecab.
const DICTIONARIES: [&str; 3] =
    ["/var/lib/mecab/dic/ipadic-utf8", "/usr/lib64/mecab/dic/ipadic", "/usr/lib/mecab/dic/ipadic"];

/// Whether the speakers that agents name, and the one of the configuration, can speak.
///
/// # Errors
/// One sentence about the first who cannot.
pub fn check(config: &Config, agents: &Agents) -> Result<(), String> {
    if config.engine.kind == EngineKind::Scripted {
        return Ok(());
    }
    // That there is no such pack is said elsewhere.
    let Ok(parts) = models::parts(&config.models.dir, &config.models.pack, &config.models.own()) else { return Ok(()) };
    let Some(voice) = parts.iter().find(|part| part.model.role == Use::Voice) else { return Ok(()) };
    let first = speakers(voice).next();
    if let Some(name) = first {
        readable("models.voice", name)?;
    }
    for agent in agents.iter() {
        let Some(name) = agent.voice() else { continue };
        let key = format!("voice of the agent `{}`", agent.name.as_str());
        if first.is_none() {
            return Err(format!(
                "{key}: {name} is a speaker of another model than {}, which has one voice; take the key out, or run `callbox \
                 models pull kokoro-82m` and write `voice = \"kokoro-82m\"` into the section [models]",
                voice.model.name
            ));
        }
        if !speakers(voice).any(|speaker| speaker == name) {
            let alike: Vec<_> = speakers(voice).filter(|speaker| speaker.get(..1) == name.get(..1)).collect();
            let known = if alike.is_empty() { speakers(voice).collect() } else { alike }.join(", ");
            return Err(format!("{key}: {} has no speaker {name}; name one of {known}", voice.model.name));
        }
        readable(&key, name)?;
    }
    Ok(())
}

/// The speakers whose files belong to a voice; none of one that is a voice itself.
fn speakers(voice: &Part) -> impl Iterator<Item = &str> {
    let files = voice.model.files.iter().map(|file| Path::new(&file.name));
    files.filter(|file| file.extension() == Some(OsStr::new("bin"))).filter_map(|file| file.file_stem()?.to_str())
}

/// Whether somebody reads texts for this speaker.
fn readable(key: &str, name: &str) -> Result<(), String> {
    if !name.starts_with(JAPANESE) {
        return Ok(());
    }
    let lacks = if !has_program("mecab") {
        "is not in PATH"
    } else if !has_dictionary() {
        "has no dictionary"
    } else {
        return Ok(());
    };
    Err(format!(
        "{key}: {name} speaks Japanese, which is read with the program mecab, and that {lacks}; install the packages mecab \
         and mecab-ipadic-utf8"
    ))
}

/// Whether mecab has a dictionary to read with: one that the engine looks for, or its own.
fn has_dictionary() -> bool {
    // Its exit status says nothing of it.
    let told = || Command::new("mecab").arg("-D").stdin(Stdio::null()).output();
    DICTIONARIES.iter().any(|folder| Path::new(folder).is_dir())
        || told().is_ok_and(|told| told.stdout.starts_with(b"filename"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = "name = 'desk'\nnumbers = ['*']\npersona = 'Kind.'\ngreeting = 'Hola.'\ngoodbye = 'Adiós.'\n";

    fn said(voice: &str, models: &str) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("desk.toml"), format!("{AGENT}voice = '{voice}'\n")).expect("a disk");
        let agents = Agents::read(&[dir.path().to_owned()]).expect("an agent");
        let path = dir.path().join("callbox.conf");
        std::fs::write(&path, format!("[models]\npack = 'tiny'\n{models}\n")).expect("a disk");
        let config = Config::load(&path).expect("valid");
        check(&config, &agents).err().unwrap_or_default()
    }

    #[test]
    fn an_agent_has_a_speaker_of_the_boxs_voice_or_is_told_what_to_do() {
        assert_eq!(said("ef_dora", "voice = 'kokoro-82m'"), "");
        assert_eq!(said("zf_xiaobei", "voice = 'bm_george'"), "");
        let nobody = said("ef_doro", "voice = 'kokoro-82m'");
        assert!(nobody.starts_with("voice of the agent `desk`: kokoro-82m has no speaker ef_doro;"), "{nobody}");
        assert!(nobody.ends_with("ef_dora, em_alex, em_santa"), "{nobody}");
        let piper = said("ef_dora", "");
        assert!(piper.contains("another model than piper-joe") && piper.contains("models pull kokoro-82m"), "{piper}");
        assert!(!piper.contains('\n'));
    }
}
