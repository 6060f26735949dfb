//! What the box has, as `control` tells it. Enters: agents and the folder of models; leaves: cards of them.

use std::sync::Arc;

use crate::call::agents::Agents;
use crate::config::{Config, EngineKind};
use crate::control::{AgentCard, ModelCard, Models, PackCard};
use crate::models::{Catalogue, Model, State, state, versions};

/// Every agent, by name.
pub(super) fn agents(agents: &Agents) -> Arc<[AgentCard]> {
    agents
        .iter()
        .map(|agent| AgentCard {
            name: agent.name.as_str().to_owned(),
            numbers: agent.numbers.iter().map(ToString::to_string).collect(),
            persona: agent.persona.as_str().to_owned(),
            facts: agent.facts.iter().map(|fact| fact.as_str().to_owned()).collect(),
            greeting: agent.greeting.as_str().to_owned(),
            goodbye: agent.goodbye.as_str().to_owned(),
            transfers: agent.transfers.iter().map(|transfer| transfer.name.as_str().to_owned()).collect(),
        })
        .collect()
}

/// The models of the pack that is configured; a scripted engine has none.
pub(super) fn models(config: &Config) -> Models {
    let (dir, pack) = (config.models.dir.clone(), config.models.pack.clone());
    let scripted = config.engine.kind == EngineKind::Scripted;
    Arc::new(move || {
        if scripted {
            return Ok(PackCard { pack: "scripted".to_owned(), version: None, models: Vec::new() });
        }
        let told = |error: crate::models::ModelError| error.to_string();
        let card = |model: &Model, dir| {
            let state = match state(model, dir, false).map_err(told)? {
                State::Installed => "installed",
                State::Missing => "missing",
                State::Damaged => "damaged",
            };
            Ok(ModelCard {
                name: model.name.clone(),
                role: model.role.to_string(),
                about: model.about.clone(),
                licence: model.licence.clone(),
                bytes: model.files.iter().map(|file| file.bytes).sum(),
                state: state.to_owned(),
            })
        };
        match versions::current(&dir, &pack).map_err(told)? {
            Some(installed) => {
                let models = installed.manifest.models.iter().map(|model| card(model, &installed.folder));
                let version = Some(installed.manifest.version.to_string());
                Ok(PackCard { pack: pack.clone(), version, models: models.collect::<Result<_, String>>()? })
            }
            None => {
                let models = Catalogue::embedded().pack(&pack).map_err(told)?;
                let models = models.iter().map(|model| card(model, &dir)).collect::<Result<_, String>>()?;
                Ok(PackCard { pack: pack.clone(), version: None, models })
            }
        }
    })
}
