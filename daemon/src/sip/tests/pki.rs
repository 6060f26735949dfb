//! Certificates for tests, made by `openssl` in a folder that goes away with them.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::sip::{Tls, TlsFiles};

pub(super) struct Pki(TempDir);

impl Pki {
    /// A folder with an authority, `ca.pem`.
    pub(super) fn new() -> Self {
        let pki = Self(TempDir::new().unwrap());
        pki.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=ca -keyout ca.key -out ca.pem");
        pki
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `NAME.pem` and `NAME.key`: of the authority, for these names.
    pub(super) fn issue(&self, name: &str, names: &str) {
        self.openssl(&format!(
            "req -x509 -CA ca.pem -CAkey ca.key -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} \
             -addext subjectAltName={names} -addext basicConstraints=critical,CA:FALSE -keyout {name}.key -out {name}.pem"
        ));
    }

    pub(super) fn openssl(&self, arguments: &str) {
        let done = Command::new("openssl").args(arguments.split_whitespace()).current_dir(self.0.path()).output();
        let done = done.expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        for entry in std::fs::read_dir(self.0.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "key") {
                mode(&path, 0o600);
            }
        }
    }

    pub(super) fn files(&self, name: &str) -> TlsFiles {
        TlsFiles {
            certificate: Some(self.path(&format!("{name}.pem"))),
            key: Some(self.path(&format!("{name}.key"))),
            ca: Some(self.path("ca.pem")),
            ..TlsFiles::default()
        }
    }

    pub(super) fn load(&self, name: &str) -> Tls {
        Tls::load(&self.files(name)).unwrap()
    }
}

pub(super) fn mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
