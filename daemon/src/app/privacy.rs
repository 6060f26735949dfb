//! From what the owner writes about callers to the rules that records are kept by. Enters: configuration and agents; leaves:
//! rules for the database and for recordings, or one sentence.

use crate::base::Callers;
use crate::call::agents::Agents;
use crate::config::Config;
use crate::recording::{KeyRing, Settings};
use crate::storage::{HashKey, Retention, Rules};

/// The rules of this configuration.
///
/// # Errors
/// An agent wants its callers hashed, and there is no key.
pub(super) fn rules(config: &Config, agents: &Agents) -> Result<Rules, String> {
    let privacy = &config.privacy;
    let hashes = agents.iter().find(|agent| agent.privacy.callers == Some(Callers::Hashed));
    if let (Some(agent), None) = (hashes, &privacy.key) {
        return Err(format!(
            "privacy.callers: the agent `{}` wants its callers hashed, and there is no key: set privacy.credential or \
             privacy.key_file",
            agent.name.as_str()
        ));
    }
    Ok(Rules {
        transcripts: privacy.transcripts,
        callers: privacy.callers,
        key: privacy.key.as_ref().map(|key| HashKey::new(key.reveal())),
        retention: Retention {
            calls: days(privacy.keep_calls_days),
            transcripts: days(privacy.keep_transcripts_days),
            recordings: recordings_days(config),
            audit: days(privacy.keep_audit_days),
        },
    })
}

/// How recordings are kept.
///
/// # Errors
/// The keys are none, or an agent records and there are none.
pub(super) fn recordings(config: &Config, agents: &Agents) -> Result<Settings, String> {
    let recordings = &config.recordings;
    let key = if recordings.credential.is_some() { "recordings.credential" } else { "recordings.key_file" };
    let keys = match &recordings.keys {
        Some(secret) => KeyRing::parse(secret.reveal()).map_err(|error| format!("{key}: {error}"))?,
        None => KeyRing::default(),
    };
    if let (Some(agent), true) = (agents.iter().find(|agent| agent.record), keys.is_empty()) {
        return Err(format!(
            "recordings.key_file: the agent `{}` records its calls, and there is no key: type callbox recording rotate \
             --file FILE, and name that file here or as recordings.credential",
            agent.name.as_str()
        ));
    }
    Ok(Settings { keys, keep_days: recordings_days(config) })
}

/// A recording is not kept longer than its call.
fn recordings_days(config: &Config) -> Option<u32> {
    let privacy = &config.privacy;
    [privacy.keep_calls_days, privacy.keep_recordings_days].into_iter().filter_map(days).min()
}

fn days(days: u32) -> Option<u32> {
    (days > 0).then_some(days)
}
