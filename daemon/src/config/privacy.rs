//! What is kept of callers, as the owner writes it. Enters: `[privacy]`; leaves: the same with its key read, or the key of
//! the file that does not go with the others.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::Finding;
use super::{Config, ConfigError, secrets};
use crate::base::trunk::CredentialName;
use crate::base::{Callers, Secret, Transcripts};

/// Characters that a key has at least: whoever has the hashes can try every number under a short one.
const SHORTEST_KEY: usize = 16;

/// What is kept of callers, and for how long.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Privacy {
    /// What is kept of what was said; an agent may want something else.
    pub transcripts: Transcripts,
    /// How far ends are named; an agent may want something else.
    pub callers: Callers,
    /// The systemd credential with the key of hashes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialName>,
    /// A file with it, which nobody but its owner may read; not asked for where there is a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Days after which calls are deleted with all that belongs to them; 0 for never.
    pub keep_calls_days: u32,
    /// Days after which what was said is deleted; 0 for as long as the call.
    pub keep_transcripts_days: u32,
    /// Days after which recordings are deleted; 0 for as long as the call.
    pub keep_recordings_days: u32,
    /// Days after which it is forgotten who has looked; 0 for never.
    pub keep_audit_days: u32,
    /// What credential or file hold; nobody has read it before the daemon has.
    #[serde(skip)]
    pub key: Option<Secret>,
}

impl Default for Privacy {
    fn default() -> Self {
        Self {
            transcripts: Transcripts::Full,
            callers: Callers::Plain,
            credential: None,
            key_file: None,
            keep_calls_days: 0,
            keep_transcripts_days: 0,
            keep_recordings_days: 30,
            keep_audit_days: 365,
            key: None,
        }
    }
}

/// The key to change, and why.
pub(super) fn contradiction(privacy: &Privacy) -> Option<(&'static str, String)> {
    if privacy.callers == Callers::Hashed && privacy.credential.is_none() && privacy.key_file.is_none() {
        return Some(("privacy.callers", "needs a key: set privacy.credential or privacy.key_file".into()));
    }
    None
}

/// Reads the key.
pub(super) fn unlock(config: &mut Config) -> Result<(), ConfigError> {
    config.privacy.key = key(&config.privacy)?;
    Ok(())
}

fn key(privacy: &Privacy) -> Result<Option<Secret>, ConfigError> {
    let (key, read) = match (&privacy.credential, &privacy.key_file) {
        (Some(credential), _) => ("privacy.credential", secrets::credential_of(credential, secrets::folder().as_ref())),
        (None, Some(path)) => ("privacy.key_file", secrets::private_file(path)),
        (None, None) => return Ok(None),
    };
    let wrong = |sentence: String| ConfigError::Secret { key, sentence };
    let text = read.map_err(wrong)?;
    let long = |line: &&str| line.chars().count() >= SHORTEST_KEY;
    let line = secrets::line(&text).filter(long).ok_or_else(|| {
        wrong(format!(
            "the key must be one line of {SHORTEST_KEY} characters or more, as `openssl rand -hex 32` prints"
        ))
    })?;
    Ok(Some(Secret::new(line)))
}

/// The key that a daemon would miss.
pub(super) fn check(config: &Config, found: &mut Vec<Finding>) {
    let outcome = match (&config.privacy.credential, secrets::folder()) {
        (Some(credential), None) if secrets::stored(credential.as_str()) => Ok(()),
        (Some(credential), None) => Err(format!(
            "privacy.credential: the credential `{0}` is nowhere: put the key into /etc/callbox/credentials/{0} (mode 0600)",
            credential.as_str()
        )),
        _ => key(&config.privacy).map(drop).map_err(|error| error.to_string()),
    };
    found.extend(outcome.err().map(Finding));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_private_and_long_enough_or_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let privacy = Privacy { key_file: Some(path.clone()), ..Privacy::default() };
        for (text, mode, told) in [
            ("0123456789abcdef\n", 0o600, ""),
            ("0123456789abcde\n", 0o600, "privacy.key_file: the key must be one line of 16 characters or more"),
            ("0123456789abcdef\nx", 0o600, "privacy.key_file: the key must be one line"),
            ("0123456789abcdef\n", 0o640, "privacy.key_file: "),
        ] {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
            match key(&privacy) {
                Ok(found) => assert!(told.is_empty() && found == Some(Secret::new("0123456789abcdef")), "{text}"),
                Err(error) => assert!(!told.is_empty() && error.to_string().starts_with(told), "{error}"),
            }
        }
        assert_eq!(key(&Privacy::default()).expect("no key"), None);
    }
}
