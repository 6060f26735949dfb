//! Agents that answer with adapters of the language model, from the folder to the record.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Daemon, Engine, Setup, eventually, executable, say};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;

use crate::api::callbox;
use crate::cache::answered;
use crate::converse;

const AGENT: &str = r#"
name = "test"
numbers = ["*"]
persona = "You are the receptionist of a small hotel. Answer in one short sentence."
greeting = "Good morning, this is the garden hotel. How can I help you?"
goodbye = "Thank you for calling. Goodbye."
[sampling]
max_tokens = 30
adapter = "every-matrix"
"#;

/// The card of one of those that a command has listed.
fn card(said: &str, name: &str) -> anyhow::Result<Value> {
    let list: Value = serde_json::from_str(said)?;
    let mut cards = list["adapters"].as_array().context("adapters")?.iter();
    cards.find(|card| card["name"] == name).cloned().with_context(|| format!("no {name}: {said}"))
}

/// What `callbox reload` ends with, and says.
async fn reload(daemon: &Daemon) -> anyhow::Result<(i32, String)> {
    let mut command = Command::new(executable("callbox")?);
    let output = command.args(["reload", "--config"]).arg(daemon.config()).output().await?;
    Ok((output.status.code().context("a status")?, String::from_utf8(output.stderr)?))
}

#[tokio::test]
async fn an_agent_answers_with_its_adapter_and_the_record_names_it() -> anyhow::Result<()> {
    let adapters = &["every-matrix", "queries-values"];
    let daemon = Daemon::start(Setup { agent: AGENT, adapters, ..Setup::new(Engine::Pack("tiny")) }).await?;
    let listed = callbox(&daemon, &["adapter", "list", "--json"]).await?;
    let (first, second) = (card(&listed, "every-matrix")?, card(&listed, "queries-values")?);
    ensure!(first["loaded"] == true && first["agents"][0] == "test" && first["rank"] == 4, "{listed}");
    ensure!(second["loaded"] == false && second["agents"][0].is_null(), "{listed}");
    let refused = callbox(&daemon, &["adapter", "unload", "every-matrix"]).await.err().context("it is needed")?;
    ensure!(refused.to_string().contains("the agent `test` answers with every-matrix"), "{refused}");
    let loaded = callbox(&daemon, &["adapter", "load", "queries-values", "--json"]).await?;
    ensure!(card(&loaded, "queries-values")?["loaded"] == true, "{loaded}");
    callbox(&daemon, &["adapter", "unload", "queries-values"]).await?;
    let refused = callbox(&daemon, &["adapter", "load", "nothing"]).await.err().context("there is none")?;
    ensure!(refused.to_string().contains("there is no adapter `nothing`"), "{refused}");
    let audit = callbox(&daemon, &["audit"]).await?;
    for done in ["PUT /api/v1/adapters/{name}", "DELETE /api/v1/adapters/{name}"] {
        ensure!(audit.contains(done), "{audit}");
    }

    let named = |card: &Value| -> anyhow::Result<String> {
        let hash = card["sha256"].as_str().and_then(|hash| hash.get(..12)).context("a hash")?;
        Ok(format!(" + {} {hash}", card["name"].as_str().context("a name")?))
    };
    let asked = say("Do you have a garden, please?", 0.0, 0.3, daemon.dir()).await?;
    converse(&daemon, asked.clone()).await?;
    let (_, answer) = answered(&daemon, 1).await?;
    let model = answer["model"].as_str().context("a model")?;
    ensure!(model.starts_with("SmolLM2") && model.ends_with(&named(&first)?), "{model}");

    // The next call has another one; an agent whose adapter is not there changes nothing.
    let file = daemon.dir().join("agents/test.toml");
    fs::write(&file, AGENT.replace("every-matrix", "nothing"))?;
    let refused = callbox(&daemon, &["reload"]).await.err().context("there is none")?;
    ensure!(refused.to_string().contains("sampling.adapter of the agent `test`"), "{refused}");
    // Nor does one whose adapter nobody can load, because the engine is gone; that is no fault of the file's.
    fs::write(&file, AGENT.replace("every-matrix", "queries-values"))?;
    kill_process(daemon.engine().context("an engine")?, Signal::KILL)?;
    let (status, said) = reload(&daemon).await?;
    ensure!(status == 1 && said.contains("the engine ") && said.contains("try again when `callbox health`"), "{said}");
    let listed = callbox(&daemon, &["adapter", "list", "--json"]).await?;
    ensure!(card(&listed, "every-matrix")?["agents"][0] == "test", "{listed}");
    let again = || async { reload(&daemon).await.ok().filter(|(status, _)| *status == 0) };
    eventually("a reload with the next engine", Duration::from_secs(30), again).await?;
    callbox(&daemon, &["adapter", "unload", "every-matrix"]).await?;
    converse(&daemon, asked).await?;
    let (_, answer) = answered(&daemon, 2).await?;
    let model = answer["model"].as_str().context("a model")?;
    ensure!(model.ends_with(&named(&card(&loaded, "queries-values")?)?), "{model}");
    Ok(())
}
