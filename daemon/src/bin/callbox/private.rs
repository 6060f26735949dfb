//! An engine of the command's own: started for one command, with only the roles that it needs, gone with it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use callbox::app::placing;
use callbox::config::{Config, Threads};
use callbox::engine::placement::{self, Resources};
use callbox::engine::{AdapterFiles, Engine, EngineProcess, News, Port, RestartPolicy};
use callbox::models::{self, PackFiles, Use};
use callbox_wire::{CallId, Event, Role};

/// The only call of a private engine.
pub(crate) const CALL: CallId = CallId(1);

/// Loading, and importing the weights of a model that is used for the first time.
const START_LIMIT: Duration = Duration::from_secs(300);

/// No step of any command may take longer than this without a sign of life.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// Which configuration and models a command works with.
#[derive(clap::Args, Debug)]
pub(crate) struct EngineArgs {
    #[command(flatten)]
    file: crate::ConfigFile,
    /// Model pack, instead of the configured models.
    #[arg(long, value_name = "NAME")]
    pack: Option<String>,
    /// Folder of the models, instead of the configured one.
    #[arg(long, value_name = "DIR", env = "CALLBOX_MODELS")]
    models: Option<PathBuf>,
    /// Folder of imported weights, instead of the configured one.
    #[arg(long, value_name = "DIR", env = "CALLBOX_WEIGHTS")]
    weights: Option<PathBuf>,
}

impl EngineArgs {
    /// The configuration with the command's own words laid over it.
    pub(crate) fn config(&self) -> Result<Config> {
        let mut config = self.file.load()?;
        if let Some(dir) = &self.models {
            config.models.dir.clone_from(dir);
        }
        if let Some(weights) = &self.weights {
            config.models.cache.clone_from(weights);
        }
        if let Some(pack) = &self.pack {
            config.models.only(pack);
        }
        Ok(config)
    }
}

/// What a role cannot be without: `say` needs no language model.
fn uses(role: Role) -> &'static [Use] {
    match role {
        Role::Ears => &[Use::Vad, Use::Stt],
        Role::Mind => &[Use::Llm],
        Role::Voice => &[Use::Voice],
        Role::Embed => &[Use::Embed],
    }
}

/// A running private engine and the line to it.
pub(crate) struct Private {
    engine: Engine,
    pub(crate) port: Port,
    _run: tempfile::TempDir,
}

impl Private {
    /// Starts an engine with these roles and waits until it is warm.
    pub(crate) async fn start(config: &Config, roles: &[Role]) -> Result<Self> {
        let uses: Vec<Use> = roles.iter().flat_map(|role| uses(*role)).copied().collect();
        let pack = models::resolve(&config.models.dir, &config.models.pack, &config.models.own(), &uses)?;
        Self::start_with(config, pack, roles).await
    }

    /// The same, with these files instead of the configured pack's.
    pub(crate) async fn start_with(config: &Config, pack: PackFiles, roles: &[Role]) -> Result<Self> {
        let files = placing::files(&pack);
        let threads = match config.engine.threads {
            Threads::Auto => placement::default_threads(),
            Threads::Count(count) => count.get().into(),
        };
        let resources = Resources {
            threads,
            sequences: 1,
            context: 2048,
            cache: config.models.cache.clone(),
            espeak: "espeak-ng".into(),
            log: "warn",
        };
        let run = tempfile::tempdir().context("a temporary folder is needed for the engine's socket")?;
        let socket = run.path().join("engine.sock");
        let launch = placement::on_processor(&config.engine_program(), socket, roles, &files, &resources);
        let policy = RestartPolicy { start_limit: START_LIMIT, patience: STEP_LIMIT, ..RestartPolicy::default() };
        let engine = Engine::start(EngineProcess::new(launch, policy), Vec::new());
        let port = engine.attach(CALL);
        engine.ready(START_LIMIT).await.map_err(|reason| anyhow!(reason))?;
        Ok(Self { engine, port, _run: run })
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Result<Event> {
        loop {
            match tokio::time::timeout(STEP_LIMIT, self.port.recv()).await {
                Ok(Some(News::Event(Event::Failed { reason, .. }))) => bail!("the engine could not do it: {reason}"),
                Ok(Some(News::Event(event))) => return Ok(event),
                Ok(Some(News::Ready)) => {}
                Ok(Some(News::Lost) | None) => bail!("the engine ended; its log lines above say why"),
                Err(_) => bail!("the engine said nothing for {} s", STEP_LIMIT.as_secs()),
            }
        }
    }

    /// Has an adapter loaded, from beside the models.
    pub(crate) async fn load_adapter(&self, config: &Config, name: &str) -> Result<()> {
        let adapter = models::adapters::find(&config.models.dir, name)?;
        let (name, folder, sha256) = (adapter.name.clone(), adapter.folder.clone(), adapter.sha256()?);
        self.engine.load_adapter(AdapterFiles { name, folder, sha256 }).await.map_err(|reason| anyhow!(reason))
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        drop(self.port);
        self.engine.stop().await;
    }
}
