//! Whether the ears know what callers of an agent speak. Enters: the configuration, agents, model files; leaves: nothing, or one
//! sentence. Never here: an engine that is started.

use std::path::PathBuf;

use crate::base::{Language, Role};
use crate::call::agents::Agents;
use crate::config::Config;
use crate::engine::placement::{self, ModelFiles, Resources};

/// Asks the engine's program what the ears' model is.
///
/// # Errors
/// One sentence: whose language is not known to the speech model.
pub async fn check(config: &Config, agents: &Agents, files: &ModelFiles) -> Result<(), String> {
    let Some(agent) = agents.iter().find(|agent| agent.language != Language::ENGLISH) else { return Ok(()) };
    let resources = Resources {
        threads: 1,
        sequences: 1,
        context: 1,
        cache: config.models.cache.clone(),
        espeak: "espeak-ng".into(),
        log: "error",
    };
    // It is asked, and never started.
    let program = config.engine_program();
    let launch = placement::on_processor(&program, PathBuf::from("none"), &[Role::Ears], files, &resources);
    let needs = placement::needs(&launch).await?;
    match needs.iter().find(|need| need.role == Role::Ears && need.english_only) {
        Some(ears) => Err(format!(
            "the agent {} has language = \"{}\", and {} knows English alone: name a multilingual Whisper in models.stt",
            agent.name.as_str(),
            agent.language,
            ears.model
        )),
        None => Ok(()),
    }
}
