//! What holds for trunks together, and their passwords. Enters: trunks as they were read; leaves: the key that does not
//! go with the others, or trunks whose passwords are known. Never here: a password in a sentence.

use std::collections::HashMap;
use std::ffi::OsString;

use super::check::Finding;
use super::secrets::{self, credential_of, private_file, stored};
use super::{Config, ConfigError};
use crate::base::Secret;
use crate::base::trunk::Trunk;

/// The key to change, as `trunk.INDEX.KEY`, and why.
pub(super) fn contradiction(trunks: &[Trunk]) -> Option<(String, String)> {
    let mut peers = HashMap::new();
    for (at, trunk) in trunks.iter().enumerate() {
        let name = &trunk.name;
        if trunks.iter().take(at).any(|other| other.name == *name) {
            return Some((format!("trunk.{at}.name"), format!("there are two trunks \"{name}\"; rename one")));
        }
        if let Some((key, why)) = trunk.contradiction() {
            let subject = if key == "peers" { format!("trunk \"{name}\" is") } else { format!("in trunk \"{name}\"") };
            return Some((format!("trunk.{at}.{key}"), format!("{subject} {why}")));
        }
        for peer in &trunk.peers {
            if let Some(other) = peers.insert(*peer, name).filter(|other| *other != name) {
                let why = format!("{peer} belongs to trunk \"{other}\" and to trunk \"{name}\"; remove it from one");
                return Some((format!("trunk.{at}.peers"), why));
            }
        }
    }
    None
}

/// Reads every password.
pub(super) fn unlock(config: &mut Config) -> Result<(), ConfigError> {
    let folder = secrets::folder();
    for trunk in &mut config.trunks {
        trunk.password = password(trunk, folder.as_ref())?;
    }
    Ok(())
}

fn password(trunk: &Trunk, folder: Option<&OsString>) -> Result<Option<Secret>, ConfigError> {
    let name = &trunk.name;
    let (key, read) = match (&trunk.credential, &trunk.password_file) {
        (Some(credential), _) => ("credential", credential_of(credential, folder)),
        (None, Some(path)) => ("password_file", private_file(path)),
        (None, None) => return Ok(None),
    };
    let wrong = |why: String| ConfigError::Password { key, sentence: format!("in trunk \"{name}\" {why}") };
    let text = read.map_err(wrong)?;
    let text = secrets::line(&text)
        .ok_or_else(|| wrong("the password must be one line that is not empty; write it anew".into()))?;
    Ok(Some(Secret::new(text)))
}

/// The passwords that a daemon would miss. Outside of it nobody knows what systemd passes: then it is looked for where
/// that comes from.
pub(super) fn check(config: &Config, found: &mut Vec<Finding>) {
    let folder = secrets::folder();
    for trunk in &config.trunks {
        let outcome = match (&trunk.credential, &folder) {
            (Some(credential), None) => {
                stored(credential.as_str()).then_some(()).ok_or_else(|| nowhere(trunk, credential.as_str()))
            }
            _ => password(trunk, folder.as_ref()).map(drop).map_err(|error| error.to_string()),
        };
        found.extend(outcome.err().map(Finding));
    }
}

fn nowhere(trunk: &Trunk, name: &str) -> String {
    format!(
        "trunk.credential: in trunk \"{}\" the credential `{name}` is nowhere: put the password into \
         /etc/callbox/credentials/{name} (mode 0600), or seal it and name it in a drop-in as docs/trunks.md shows",
        trunk.name
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn trunk() -> Trunk {
        Trunk { username: Some("alice".into()), ..Trunk::new("carrier".parse().expect("a name")) }
    }

    fn told(outcome: Result<Option<Secret>, ConfigError>) -> String {
        outcome.expect_err("no password").to_string()
    }

    #[test]
    fn a_password_file_is_private_or_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        let trunk = Trunk { password_file: Some(path.clone()), ..trunk() };
        assert!(told(password(&trunk, None)).contains("cannot be read by user"));
        fs::write(&path, "s3cret\n").expect("written");
        for (mode, fits) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o700, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
            match password(&trunk, None) {
                Ok(found) => assert!(fits && found == Some(Secret::new("s3cret")), "{mode:o}"),
                Err(error) => assert!(!fits && error.to_string().contains("type: chmod 600 "), "{mode:o}: {error}"),
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        fs::write(&path, "\n").expect("written");
        assert!(told(password(&trunk, None)).contains("one line that is not empty"));
        assert!(told(password(&trunk, None)).starts_with("trunk.password_file: in trunk \"carrier\""));
    }

    #[test]
    fn a_credential_is_found_by_each_name_that_systemd_gives_it_and_missed_in_one_sentence() {
        let credential = Some("sip".parse().expect("a name"));
        let trunk = Trunk { credential, ..trunk() };
        assert!(told(password(&trunk, None)).contains("systemd, which did not start this callboxd"));
        for before in ["", "sealed_", "secret_"] {
            let folder = tempfile::tempdir().expect("a folder");
            let passed = folder.path().as_os_str().to_owned();
            assert!(told(password(&trunk, Some(&passed))).contains("systemd has passed no credential `sip`"));
            fs::write(folder.path().join(format!("{before}sip")), "s3cret").expect("written");
            let found = password(&trunk, Some(&passed)).expect("found");
            assert_eq!(found, Some(Secret::new("s3cret")), "{before}");
        }
    }
}
