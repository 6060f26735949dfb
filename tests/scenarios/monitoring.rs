//! What an operator's own monitoring makes of a box: a real Prometheus, its alerts, and what Grafana would ask it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Cards, Daemon, Engine, Kamailio, Process, Setup, eventually, free_port, get, scenario};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::PATIENCE;
use crate::callers::{ask, call, meanwhile, tone};
use crate::outbound::{PASSWORD, SCRIPT, trunk};
use crate::tls::issue;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/monitoring")
}

async fn run(program: &str, arguments: &[&str], within: &Path) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).current_dir(within).output().await;
    let output = output.with_context(|| format!("{program}: run `make setup`"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(said)
}

#[tokio::test]
async fn every_alert_fires_when_it_must_and_not_otherwise() -> anyhow::Result<()> {
    run("promtool", &["check", "rules", "--lint-fatal", "callbox-rules.yml"], &folder()).await?;
    run("promtool", &["test", "rules", "callbox-rules.test.yml"], &folder()).await?;
    // A rule that the tests do not know would pass them.
    let words = |file: &str, before: &str| -> anyhow::Result<BTreeSet<String>> {
        let text = fs::read_to_string(folder().join(file))?;
        let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric()).collect();
        Ok(text.split(before).skip(1).map(name).collect())
    };
    let (alerts, fired) = (words("callbox-rules.yml", "alert: ")?, words("callbox-rules.test.yml", "alertname=\"")?);
    ensure!(alerts == fired, "not tried: {:?}", alerts.difference(&fired).collect::<Vec<_>>());
    Ok(())
}

/// Scrapes a daemon every second.
fn prometheus(daemon: &Daemon, dir: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let config = dir.join("prometheus.yml");
    let rules = folder().join("callbox-rules.yml");
    let text = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [{}]\nscrape_configs:\n  - job_name: callbox\n    \
         static_configs: [{{ targets: [\"{}\"] }}]\n",
        rules.display(),
        daemon.http(),
    );
    fs::write(&config, text)?;
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    Ok((Process::start("prometheus", &mut command, &dir.join("prometheus.log"))?, address))
}

/// What Prometheus answers to a query.
async fn query(prometheus: SocketAddr, expression: &str) -> anyhow::Result<Vec<Value>> {
    let query = utf8_percent_encode(expression, NON_ALPHANUMERIC);
    let (status, body) = get(prometheus, &format!("/api/v1/query?query={query}")).await?;
    ensure!(status == 200, "{expression}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    Ok(answer["data"]["result"].as_array().context("a result")?.clone())
}

#[tokio::test]
async fn a_prometheus_finds_something_for_every_panel() -> anyhow::Result<()> {
    let (provider, dir) = (Kamailio::registrar(PASSWORD).await?, TempDir::new()?);
    issue(dir.path(), "box")?;
    let (folder_of_keys, port) = (dir.path().display(), free_port());
    let sip = format!(
        "tls = [\"127.0.0.1:{port}\"]\ncertificate = \"{folder_of_keys}/box.pem\"\nkey = \"{folder_of_keys}/box.key\""
    );
    let stand_in = Cards::new("busy=50").await?;
    let more = trunk(&provider, dir.path(), "register = true\nregister_s = 60")?;
    let cards = Some(stand_in.library());
    let daemon = Daemon::start(Setup { sip, more, cards, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let (mut prometheus, address) = prometheus(&daemon, dir.path())?;
    // One who asks, among sixty who only listen.
    let listeners = scenario("call").lasting(Duration::from_secs(1)).times(60, 10);
    let listeners = listeners.start(Daemon::USER, daemon.sip())?;
    let (sipp, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(10))).await?;
    ask(&mut rtp, tone(400.0, 0.6)).await?;
    meanwhile(&mut rtp, sipp.done(PATIENCE)).await?;
    listeners.done(PATIENCE).await?;
    let recorded = || async {
        let answered = query(address, "callbox_voice_to_voice_seconds_count > 0 and callbox_storage_records_total > 1");
        answered.await.ok().filter(|found| !found.is_empty())
    };
    eventually("Prometheus to know of the answer", PATIENCE, recorded).await.with_context(|| prometheus.log())?;

    let boards = dir.path().join("boards");
    run("python3", &["dashboards.py", &boards.display().to_string()], &folder()).await?;
    let mut asked = 0;
    let mut empty = Vec::new();
    for board in fs::read_dir(&boards)? {
        let board: Value = serde_json::from_str(&fs::read_to_string(board?.path())?)?;
        for panel in board["panels"].as_array().context("panels")? {
            for target in panel["targets"].as_array().context("targets")? {
                let expression = target["expr"].as_str().context("an expression")?;
                let expression = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
                asked += 1;
                if query(address, &expression).await?.is_empty() {
                    empty.push(format!("{}, {}: {expression}", board["title"], panel["title"]));
                }
            }
        }
    }
    ensure!(asked > 50 && empty.is_empty(), "{asked} expressions, nothing for:\n{}", empty.join("\n"));
    let (_, rules) = get(address, "/api/v1/rules").await?;
    let rules: Value = serde_json::from_str(&rules)?;
    for group in rules["data"]["groups"].as_array().context("groups")? {
        for rule in group["rules"].as_array().context("rules")? {
            ensure!(rule["health"] == "ok", "{rule}");
            ensure!(rule["state"] != "firing", "on a good day: {rule}");
        }
    }
    prometheus.stop(PATIENCE).await?;
    Ok(())
}
