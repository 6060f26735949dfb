//! Looks at the machine through the configuration's eyes. Enters: a [`Config`]; leaves: one sentence for each thing
//! that would keep calls from being answered. Sockets that it opens are closed again; nothing is written.
//! What a service manager holds for a daemon that does not run is not missing.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use super::{Config, EngineKind};

/// What a service manager holds ready for the daemon.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// Addresses of UDP that it listens on.
    pub udp: Vec<SocketAddr>,
    /// Likewise of TCP.
    pub tcp: Vec<SocketAddr>,
    /// Folders that it makes before it starts the daemon.
    pub folders: Vec<PathBuf>,
}

/// Whether the ports are tried; a running daemon holds them itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortCheck {
    /// Binds each listening address for a moment, but those that the daemon is given.
    Try(Held),
    /// Leaves them alone.
    Skip,
}

/// Something that is wrong: one sentence that says what to do.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct Finding(pub String);

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn check(config: &Config, ports: &PortCheck) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut made: &[PathBuf] = &[];
    if let PortCheck::Try(held) = ports {
        for address in config.sip.udp.iter().filter(|address| !held.udp.contains(address)) {
            port("sip.udp", "UDP", *address, UdpSocket::bind(address).err(), &mut found);
        }
        for address in config.sip.tcp.iter().filter(|address| !held.tcp.contains(address)) {
            port("sip.tcp", "TCP", *address, TcpListener::bind(address).err(), &mut found);
        }
        for address in &config.sip.tls {
            port("sip.tls", "TCP", *address, TcpListener::bind(address).err(), &mut found);
        }
        let http = config.http.listen;
        port("http.listen", "TCP", http, TcpListener::bind(http).err(), &mut found);
        made = &held.folders;
    }
    let parent = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
    let mut folder = |key: &str, path: &Path| {
        if path.exists() || !made.iter().any(|made| made == path) {
            folder(key, path, &mut found);
        }
    };
    folder("storage.path", &parent(&config.storage.path));
    folder("http.socket", &parent(&config.http.socket));
    if config.engine.kind != EngineKind::Scripted {
        folder("engine.run", &config.engine.run);
    }
    match config.engine.kind {
        EngineKind::Auto | EngineKind::Cpu => found.extend(programs(config)),
        EngineKind::Scripted => {
            let script = config.engine.script.as_deref().unwrap_or_else(|| Path::new(""));
            if let Err(error) = fs::File::open(script) {
                found.push(Finding(format!(
                    "engine.script: {} cannot be read ({error}); create it or change the key",
                    script.display()
                )));
            }
        }
    }
    super::trunks::check(config, &mut found);
    super::privacy::check(config, &mut found);
    super::recordings::check(config, &mut found);
    if !config.agents.paths.iter().any(|folder| holds_agent(folder)) {
        let folders: Vec<_> = config.agents.paths.iter().map(|folder| folder.display().to_string()).collect();
        found.push(Finding(format!("agents.paths: no agent file (*.toml) in {}; put one there", folders.join(" or "))));
    }
    found
}

/// The programs without which there is no engine.
pub(super) fn programs(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let program = config.engine_program();
    if !executable(&program) {
        found.push(Finding(format!(
            "engine.program: {} is no executable file; install the package callbox or set the key",
            program.display()
        )));
    }
    let cuda = config.cuda_program();
    if config.engine.kind == EngineKind::Auto && !config.gpus.is_empty() && !executable(&cuda) {
        found.push(Finding(format!(
            "engine.cuda_program: {} is no executable file, and [[gpu]] wants it; install the package \
             callbox-engine-cuda or set the key",
            cuda.display()
        )));
    }
    if !has_program("espeak-ng") {
        found.push(Finding("the program espeak-ng is not in PATH; install the package espeak-ng".into()));
    }
    found
}

fn port(key: &str, protocol: &str, address: SocketAddr, error: Option<io::Error>, found: &mut Vec<Finding>) {
    let Some(error) = error else { return };
    let problem = match error.kind() {
        io::ErrorKind::AddrInUse => "is used by another program; stop that one or change the key".to_owned(),
        io::ErrorKind::AddrNotAvailable => "is no address of this machine; change the key".to_owned(),
        io::ErrorKind::PermissionDenied => "needs a privilege; take a port from 1024 or start as a service".to_owned(),
        _ => format!("cannot be used ({error}); change the key"),
    };
    found.push(Finding(format!("{key}: {protocol} {address} {problem}")));
}

/// A folder in which this process may create files.
fn folder(key: &str, path: &Path, found: &mut Vec<Finding>) {
    let problem = match fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => "is not a folder; change the key".to_owned(),
        Ok(_) if tempfile::tempfile_in(path).is_err() => {
            format!("cannot be written by user {}; change its owner or the key", rustix::process::geteuid().as_raw())
        }
        Ok(_) => return,
        Err(error) => format!("cannot be used ({error}); create it or change the key"),
    };
    found.push(Finding(format!("{key}: the folder {} {problem}", path.display())));
}

/// Whether a program of that name is found where programs are looked for.
#[must_use]
pub fn has_program(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|p| executable(&p.join(name))))
}

fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn holds_agent(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "toml"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named_once() {
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::default();
        config.sip.udp = vec![taken.local_addr().expect("an address")];
        config.sip.tcp = vec!["192.0.2.1:5060".parse().expect("an address")];
        config.http.listen = "127.0.0.1:0".parse().expect("an address");
        config.storage.path = "/nonexistent/callbox.db".into();
        config.http.socket = folder.path().join("control.sock");
        config.engine.run = folder.path().into();
        config.engine.program = Some("/nonexistent/callbox-engine".into());
        config.agents.paths = vec![folder.path().into()];
        let found: Vec<String> =
            config.check(&PortCheck::Try(Held::default())).into_iter().map(|finding| finding.0).collect();
        for (key, part) in [
            ("sip.udp", "is used by another program"),
            ("sip.tcp", "is no address of this machine"),
            ("storage.path", "the folder /nonexistent cannot be used"),
            ("engine.program", "is no executable file"),
            ("agents.paths", "no agent file"),
        ] {
            let hits = found.iter().filter(|line| line.starts_with(key) && line.contains(part)).count();
            assert_eq!(hits, 1, "{key}: {found:#?}");
        }
        assert_eq!(found.len(), 5, "{found:#?}");

        // What the manager holds for a daemon that does not run yet is neither taken nor missing.
        config.http.socket = "/nonexistent/run/control.sock".into();
        let held = Held { udp: config.sip.udp.clone(), tcp: Vec::new(), folders: vec!["/nonexistent/run".into()] };
        let found = config.check(&PortCheck::Try(held));
        assert!(found.iter().all(|line| !line.0.starts_with("sip.udp") && !line.0.starts_with("http.")), "{found:#?}");
        assert_eq!(found.len(), 4, "{found:#?}");
    }
}
