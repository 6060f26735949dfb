//! Whether the ears know what callers of an agent speak. Enters: the configuration, agents; leaves: nothing, or one sentence.
//! Never here: an engine that is started.

use std::path::PathBuf;

use super::placing;
use crate::base::{Language, Role};
use crate::call::agents::Agents;
use crate::config::{Config, EngineKind};
use crate::engine::NotDone;
use crate::engine::placement::{self, Resources};
use crate::models;

/// Asks the engine's program what the ears' model is, if an agent is called in another language than English.
///
/// # Errors
/// [`NotDone::Wrong`] names an agent whose language is not known to the speech model, [`NotDone::NotNow`] says why nobody could
/// be asked.
pub async fn check(config: &Config, agents: &Agents) -> Result<(), NotDone> {
    if config.engine.kind == EngineKind::Scripted || agents.iter().all(|agent| agent.language == Language::ENGLISH) {
        return Ok(());
    }
    // That a program or a model is missing is said elsewhere.
    if !config.missing_programs().is_empty() {
        return Ok(());
    }
    let Ok(pack) = models::resolve(&config.models.dir, &config.models.pack, &config.models.own(), &models::Use::ALL)
    else {
        return Ok(());
    };
    let resources = Resources {
        threads: 1,
        sequences: 1,
        context: 1,
        cache: config.models.cache.clone(),
        espeak: "espeak-ng".into(),
        log: "error",
    };
    // It is asked, and never started.
    let (program, files) = (config.engine_program(), placing::files(&pack));
    let launch = placement::on_processor(&program, PathBuf::from("none"), &[Role::Ears], &files, &resources);
    let needs = placement::needs(&launch).await.map_err(NotDone::NotNow)?;
    match needs.iter().find(|need| need.role == Role::Ears) {
        Some(ears) => known(agents, &ears.model, ears.languages).map_err(NotDone::Wrong),
        None => Ok(()),
    }
}

/// Whether ears that know so many languages, the first of all, know those of the agents; 0 is not known itself.
fn known(agents: &Agents, model: &str, languages: usize) -> Result<(), String> {
    let unknown = |language: Language| languages > 0 && language.index() >= languages;
    let Some(agent) = agents.iter().find(|agent| unknown(agent.language)) else { return Ok(()) };
    let (knows, name) = match languages {
        1 => ("English alone".to_owned(), "a multilingual Whisper"),
        _ => (format!("the first {languages} of Whisper's languages alone"), "a Whisper that is as new as large-v3"),
    };
    Err(format!(
        "the agent {} has language = \"{}\", and {model} knows {knows}: name {name} in models.stt",
        agent.name.as_str(),
        agent.language
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(language: &str, languages: usize) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let agent = "name = 'desk'\nnumbers = ['*']\npersona = 'Kind.'\ngreeting = 'Hello.'\ngoodbye = 'Bye.'\n";
        std::fs::write(dir.path().join("desk.toml"), format!("{agent}language = '{language}'\n")).expect("a disk");
        let agents = Agents::read(&[dir.path().to_owned()]).expect("an agent");
        known(&agents, "w.pt", languages).err().unwrap_or_default()
    }

    #[test]
    fn an_agent_is_called_in_a_language_that_the_ears_know() {
        for (language, languages) in [("en", 1), ("es", 99), ("su", 99), ("yue", 100), ("es", 0)] {
            assert_eq!(said(language, languages), "", "{language}");
        }
        let wanted = "the agent desk has language = \"es\", and w.pt knows English alone: name a multilingual Whisper in \
                      models.stt";
        assert_eq!(said("es", 1), wanted);
        assert!(said("yue", 99).contains("knows the first 99 of"), "{}", said("yue", 99));
    }
}
