//! Secrets that the configuration names and never holds. Enters: the name of a systemd credential, or a file's; leaves: its
//! text, or one sentence. Never here: a secret in a sentence.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::base::Secret;
use crate::base::trunk::CredentialName;

/// Longest secret, in bytes.
const LONGEST: u64 = 64 * 1024;

/// Where `callbox.service` and systemd itself take credentials from.
const STORES: [&str; 6] = [
    "/etc/callbox/credentials",
    "/etc/callbox/credentials.encrypted",
    "/etc/credstore",
    "/etc/credstore.encrypted",
    "/run/credstore",
    "/run/credstore.encrypted",
];

/// Where an owner's changes to the unit lie.
const DROP_INS: [&str; 2] = ["/etc/systemd/system/callbox.service.d", "/run/systemd/system/callbox.service.d"];

/// Where systemd has put the credentials of this process.
pub(super) fn folder() -> Option<OsString> {
    std::env::var_os("CREDENTIALS_DIRECTORY")
}

/// The one line that a secret is; none if it is something else.
pub(super) fn line(text: &str) -> Option<&str> {
    let text = text.trim_end_matches(['\r', '\n']);
    (!text.is_empty() && !text.contains(['\r', '\n', '\0'])).then_some(text)
}

/// systemd names what it passes after the credential, or after the folder that it came from and the file in it.
pub(super) fn credential_of(credential: &CredentialName, folder: Option<&OsString>) -> Result<String, String> {
    let name = credential.as_str();
    let Some(folder) = folder.map(Path::new) else {
        return Err(format!(
            "the credential `{name}` comes from systemd, which did not start this callboxd; name a file instead"
        ));
    };
    let missing = || {
        format!(
            "systemd has passed no credential `{name}`: put it into /etc/callbox/credentials/{name}, then \
             systemctl restart callbox"
        )
    };
    let found = ["", "sealed_", "secret_"].map(|before| folder.join(format!("{before}{name}")));
    let path = found.iter().find(|path| path.is_file()).ok_or_else(missing)?;
    fs::read_to_string(path).map_err(|error| format!("the credential `{name}` cannot be read: {error}"))
}

/// A file that nobody but its owner may read.
pub(super) fn private_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |error| {
        let user = rustix::process::geteuid().as_raw();
        format!("{shown} cannot be read by user {user} ({error}); create it, or change its owner")
    };
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(format!("{shown} is no file; write the secret into one"));
    }
    if meta.mode() & 0o177 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(format!("{shown} can be read by others (its mode is {mode:04o}); type: chmod 600 {shown}"));
    }
    if meta.len() > LONGEST {
        return Err(format!("{shown} is too long for a secret; write it anew"));
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// The credential with the token for a model hub.
const HUB_TOKEN: &str = "hub-token";

/// The token for a model hub: what `file` holds, else what systemd has passed as `hub-token`, else what lies where
/// `callbox.service` takes its credentials from. It stands in no configuration.
///
/// # Errors
/// One sentence, without the token.
pub fn hub_token(file: Option<&Path>) -> Result<Option<Secret>, String> {
    let passed = folder().map(|folder| Path::new(&folder).join(HUB_TOKEN)).filter(|path| path.is_file());
    let stored = Path::new(STORES[0]).join(HUB_TOKEN);
    let text = match (file, passed) {
        (Some(file), _) => private_file(file)?,
        (None, Some(passed)) => fs::read_to_string(passed)
            .map_err(|error| format!("the credential `{HUB_TOKEN}` cannot be read: {error}"))?,
        (None, None) if stored.is_file() => private_file(&stored)?,
        (None, None) => return Ok(None),
    };
    match line(&text) {
        Some(token) if token.bytes().all(|b| b.is_ascii_graphic()) => Ok(Some(Secret::new(token))),
        _ => Err("the hub's token must be one line without spaces: write its file or credential anew".into()),
    }
}

/// Whether systemd would find a credential of this name. Folders that this user may not look into count as holding it.
pub(super) fn stored(name: &str) -> bool {
    let may_hold = |folder: &str| {
        let path = Path::new(folder).join(name);
        match fs::symlink_metadata(path) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    };
    STORES.iter().any(|folder| may_hold(folder)) || DROP_INS.iter().any(|folder| names_it(Path::new(folder), name))
}

/// `LoadCredential=NAME:…`, `LoadCredentialEncrypted=`, `SetCredential=`, `SetCredentialEncrypted=`.
fn names_it(folder: &Path, name: &str) -> bool {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).any(|path: PathBuf| {
        fs::read_to_string(path).is_ok_and(|text| {
            text.lines().filter_map(|line| line.trim().split_once('=')).any(|(key, value)| {
                key.contains("Credential") && value.trim().split(':').next().is_some_and(|found| found == name)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_in_that_names_a_credential_is_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(
            folder.path().join("trunk.conf"),
            "[Service]\nLoadCredentialEncrypted=sip:/etc/credstore.encrypted/sip\n",
        )
        .expect("written");
        assert!(names_it(folder.path(), "sip") && !names_it(folder.path(), "other"));
    }
}
