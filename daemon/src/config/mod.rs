//! Configuration. Enters: TOML files and nothing else; leaves: one validated [`Config`], or one sentence that names the
//! file, the line, the key and what to do. Never here: a socket that stays open, an agent file's content, a default
//! that differs from `config/callbox.toml`.
//!
//! The owner's file is laid over `/usr/lib/callbox/callbox.toml`, key by key. A relative path starts at the folder of
//! the owner's file, wherever it is written.

mod check;
mod parse;
mod privacy;
mod recordings;
mod reload;
mod secrets;
mod sections;
mod telemetry;
mod trunks;

use std::path::{Path, PathBuf};

pub use check::{Finding, Held, PortCheck, has_program};
pub use parse::ConfigError;
pub use privacy::Privacy;
pub use recordings::Recordings;
pub use reload::Change;
pub use secrets::hub_token;
pub use sections::{
    Agents, CardName, ClientCertificates, Engine, EngineKind, Gpu, Http, Log, LogFormat, LogLevel, Media, Models,
    PortRange, Sip, SipLimits, Storage, Threads,
};
use serde::{Deserialize, Serialize};
pub use telemetry::{Collector, Telemetry};

use crate::base::trunk::Trunk;

/// Where the package puts its defaults; an owner's file is laid over it.
pub const PACKAGED: &str = "/usr/lib/callbox/callbox.toml";

/// The owner's file when nothing else is said.
pub const OWNERS: &str = "/etc/callbox/callbox.toml";

/// Everything that can be configured. `Config::default()` is what an empty file means.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Signalling.
    pub sip: Sip,
    /// Audio on the network.
    pub media: Media,
    /// Health, metrics and the control API.
    pub http: Http,
    /// The inference worker.
    pub engine: Engine,
    /// Weights.
    pub models: Models,
    /// The database.
    pub storage: Storage,
    /// Where recordings of calls lie.
    pub recordings: Recordings,
    /// What is kept of callers.
    pub privacy: Privacy,
    /// Log lines.
    pub log: Log,
    /// Traces of calls.
    pub telemetry: Telemetry,
    /// NVIDIA's cards that compute; none named means every card.
    #[serde(rename = "gpu", skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Who answers.
    pub agents: Agents,
    /// Who may call, and who is called; nobody named means that every address may call.
    #[serde(rename = "trunk", skip_serializing_if = "Vec::is_empty")]
    pub trunks: Vec<Trunk>,
    /// The owner's file that this was read from.
    #[serde(skip)]
    pub path: Option<PathBuf>,
}

impl Config {
    /// Reads `path` over [`PACKAGED`], if that exists. [`OWNERS`] may be missing: then nothing differs from the package.
    ///
    /// # Errors
    /// One sentence; the daemon prints it and exits with status 78 (`EX_CONFIG`).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        parse::load(path, path != Path::new(OWNERS), Path::new(PACKAGED))
    }

    /// What counts when a running daemon is given `wanted`, and the keys that differ: with effect, and without until a
    /// restart.
    ///
    /// # Errors
    /// One sentence, if what `wanted` changes at once does not go with what is open.
    pub fn reload(&self, wanted: &Self) -> Result<Change, ConfigError> {
        reload::reload(self, wanted)
    }

    /// Reads the trunks' passwords and the keys. A daemon does; who asks it a question need not be allowed to.
    ///
    /// # Errors
    /// One sentence about the first secret that cannot be had.
    pub fn unlock(mut self) -> Result<Self, ConfigError> {
        trunks::unlock(&mut self)?;
        privacy::unlock(&mut self)?;
        recordings::unlock(&mut self)?;
        Ok(self)
    }

    /// The engine's executable: the configured one; else the one beside the running executable, as in a build folder;
    /// else the one that the package installs.
    #[must_use]
    pub fn engine_program(&self) -> PathBuf {
        if let Some(program) = &self.engine.program {
            return program.clone();
        }
        beside("callbox-engine")
    }

    /// The executable of the engine for NVIDIA's cards, looked for in the same places.
    #[must_use]
    pub fn cuda_program(&self) -> PathBuf {
        self.engine.cuda_program.clone().unwrap_or_else(|| beside("callbox-engine-cuda"))
    }

    /// Where documents lie that operators have added to what agents know: beside the database, and in its backups.
    #[must_use]
    pub fn knowledge(&self) -> PathBuf {
        self.storage.path.with_file_name("knowledge")
    }

    /// What would keep a daemon with this configuration from answering calls: one sentence each, none if all is well.
    #[must_use]
    pub fn check(&self, ports: &PortCheck) -> Vec<Finding> {
        check::check(self, ports)
    }

    /// The programs without which there is no engine and that are not there: one sentence each.
    #[must_use]
    pub fn missing_programs(&self) -> Vec<Finding> {
        check::programs(self)
    }
}

fn beside(name: &str) -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|folder| folder.join(name)))
        .filter(|sibling| sibling.is_file())
        .unwrap_or_else(|| Path::new("/usr/libexec/callbox").join(name))
}
