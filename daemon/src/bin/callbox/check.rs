//! `callbox check`: one sentence for each thing that would keep the daemon from answering calls.

use std::process::ExitCode;

use callbox::app::{self, placing};
use callbox::call::agents::{Agents, AgentsError};
use callbox::config::{Config, EngineKind, PortCheck};
use callbox::models::{self, Use};
use clap::Args;
use serde_json::json;

use crate::{ConfigFile, client, manager};

/// See [`crate::Command::Check`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Prints `{"findings": […]}`.
    #[arg(long, conflicts_with = "placement")]
    json: bool,
    /// Prints what would compute where, and how the memory of each card is shared out.
    #[arg(long)]
    placement: bool,
}

/// One sentence for each thing that is wrong, and whether a daemon runs.
pub(crate) async fn findings(config: &Config) -> (Vec<String>, bool) {
    let running = client::is_running(config).await;
    // A daemon that runs holds its own ports; of one that does not, systemd holds some.
    let ports = if running { PortCheck::Skip } else { PortCheck::Try(manager::held().await) };
    let findings = config.check(&ports);
    let mut findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    match Agents::read(&config.agents.paths) {
        Ok(agents) => {
            findings.extend(agents.fit(&config.trunks).err());
            findings.extend(app::adapters(&config.models.dir, &agents).err());
            findings.extend(app::voices(config, &agents).err());
            findings.extend(app::languages(config, &agents).await.err().map(|error| error.to_string()));
        }
        // Said already.
        Err(AgentsError::None(_)) => {}
        Err(error) => findings.push(error.to_string()),
    }
    if config.engine.kind != EngineKind::Scripted
        && let Err(error) = models::resolve(&config.models.dir, &config.models.pack, &config.models.own(), &Use::ALL)
    {
        findings.push(format!("models: {error}"));
    }
    if let Err(error) = app::certificates(config) {
        findings.push(error.to_string());
    }
    (findings, running)
}

/// What would compute where.
async fn placement(config: &Config) -> anyhow::Result<ExitCode> {
    if config.engine.kind == EngineKind::Scripted {
        println!("a script answers: nothing is computed");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(missing) = config.missing_programs().first() {
        anyhow::bail!("{missing}");
    }
    let pack = models::resolve(&config.models.dir, &config.models.pack, &config.models.own(), &Use::ALL)?;
    let seen = placing::look(config).await.map_err(anyhow::Error::msg)?;
    print!("{}", placing::plan(config, &placing::files(&pack), &seen).await.map_err(anyhow::Error::msg)?);
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.placement {
        return placement(&arguments.file.load()?).await;
    }
    let (findings, running) = findings(&arguments.file.load()?).await;
    if arguments.json {
        println!("{}", json!({ "findings": findings, "running": running }));
    } else {
        for finding in &findings {
            println!("{finding}");
        }
        if findings.is_empty() {
            println!(
                "nothing is wrong{}",
                if running { "; callboxd is running, so its ports were not tried" } else { "" }
            );
        }
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
