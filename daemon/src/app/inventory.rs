//! What the box has, as `control` tells it. Enters: agents and the folder of models; leaves: cards of them.

use std::sync::Arc;

use crate::call::agents::Agents;
use crate::config::{Config, EngineKind};
use crate::control::{AgentCard, ModelCard, Models, PackCard};
use crate::models::{Origin, Part, State, parts, state};

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

/// The models that are configured; a scripted engine has none.
pub(super) fn models(config: &Config) -> Models {
    let (dir, pack, own) = (config.models.dir.clone(), config.models.pack.clone(), config.models.own());
    let scripted = config.engine.kind == EngineKind::Scripted;
    Arc::new(move || {
        if scripted {
            return Ok(PackCard { pack: "scripted".to_owned(), version: None, models: Vec::new() });
        }
        let told = |error: crate::models::ModelError| error.to_string();
        let card = |Part { model, folder, .. }: &Part| {
            let state = match state(model, folder, false).map_err(told)? {
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
        let parts = parts(&dir, &pack, &own).map_err(told)?;
        let version = parts.iter().find_map(|part| match part.origin {
            Origin::Installed(version) => Some(version.to_string()),
            _ => None,
        });
        let models = parts.iter().map(card).collect::<Result<_, String>>()?;
        Ok(PackCard { pack: pack.clone(), version, models })
    })
}
