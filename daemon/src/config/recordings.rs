//! Where recordings lie and what seals them, as the owner writes it. Enters: `[recordings]`; leaves: the same with its keys
//! read. Never here: what a key looks like.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::Finding;
use super::{Config, ConfigError, secrets};
use crate::base::Secret;
use crate::base::trunk::CredentialName;

/// Recordings of calls; which are made, agents' files say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recordings {
    /// Folder of the sealed files.
    pub path: PathBuf,
    /// The systemd credential with the keys, as `callbox recording rotate` writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialName>,
    /// A file with them, which nobody but its owner may read; not asked for where there is a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// What credential or file hold; nobody has read it before the daemon has.
    #[serde(skip)]
    pub keys: Option<Secret>,
}

impl Default for Recordings {
    fn default() -> Self {
        Self { path: "/var/lib/callbox/recordings".into(), credential: None, key_file: None, keys: None }
    }
}

/// Reads the keys.
pub(super) fn unlock(config: &mut Config) -> Result<(), ConfigError> {
    config.recordings.keys = keys(&config.recordings)?;
    Ok(())
}

fn keys(recordings: &Recordings) -> Result<Option<Secret>, ConfigError> {
    let (key, read) = match (&recordings.credential, &recordings.key_file) {
        (Some(credential), _) => {
            ("recordings.credential", secrets::credential_of(credential, secrets::folder().as_ref()))
        }
        (None, Some(path)) => ("recordings.key_file", secrets::private_file(path)),
        (None, None) => return Ok(None),
    };
    read.map(|text| Some(Secret::new(text))).map_err(|sentence| ConfigError::Secret { key, sentence })
}

/// The keys that a daemon would miss.
pub(super) fn check(config: &Config, found: &mut Vec<Finding>) {
    let outcome = match (&config.recordings.credential, secrets::folder()) {
        (Some(credential), None) if secrets::stored(credential.as_str()) => Ok(()),
        (Some(credential), None) => Err(format!(
            "recordings.credential: the credential `{0}` is nowhere: type callbox recording rotate --file \
             /etc/callbox/credentials/{0}",
            credential.as_str()
        )),
        _ => keys(&config.recordings).map(drop).map_err(|error| error.to_string()),
    };
    found.extend(outcome.err().map(Finding));
}
