//! What the daemon says of NVIDIA's cards, and what becomes of calls when one dies. The driver's library is a stand-in, and
//! so is the engine for cards: the one for the processor, told to use them.

use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{Cards, Daemon, Engine, Setup, eventually, executable, say, scenario};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;

use crate::callers::{ask, call, meanwhile};
use crate::talk::{TALKER, Talk, Told};

/// Two looks, and a busy computer.
const SOON: Duration = Duration::from_secs(20);

async fn daemon(cards: &Cards) -> anyhow::Result<Daemon> {
    Daemon::start(Setup { cards: Some(cards.library()), ..Setup::new(Engine::Scripted(crate::outbound::SCRIPT)) }).await
}

/// Waits until a card has these faults, or none.
async fn faults(daemon: &Daemon, card: usize, wanted: &[&str]) -> anyhow::Result<()> {
    let same = || async {
        let health = daemon.api("/health").await.ok()?;
        let faults = health["gpus"]["cards"][card]["faults"].as_array()?.clone();
        let told = |(fault, wanted): (&Value, &&str)| fault.as_str().is_some_and(|fault| fault.contains(*wanted));
        (faults.len() == wanted.len() && faults.iter().zip(wanted).all(told)).then_some(())
    };
    let seen = eventually("the card's faults", SOON, same).await;
    seen.with_context(|| format!("wanted {wanted:?}"))
}

#[tokio::test]
async fn every_card_is_shown_and_what_is_wrong_with_one_is_said_once_and_counted() -> anyhow::Result<()> {
    let cards = Cards::new("count=2\nused=8589934592\nbusy=25\ntemperature=61\nslowed=4").await?;
    let daemon = daemon(&cards).await?;
    faults(&daemon, 1, &[]).await?;
    let seen = daemon.api("/health").await?["gpus"].clone();
    let first = &seen["cards"][0];
    ensure!(seen["driver"] == "580.95.05" && seen["cards"].as_array().is_some_and(|all| all.len() == 2), "{seen}");
    ensure!(
        first["uuid"] == "GPU-00000000-0000-0000-0000-000000000000" && first["pci"] == "00000000:01:00.0",
        "{seen}"
    );
    ensure!(first["memory_used_bytes"] == 8_u64 << 30 && first["utilization"] == 0.25, "{seen}");
    ensure!(
        first["power_watts"] == 90.0 && first["power_limit_watts"].is_null(),
        "what a card does not tell is absent"
    );
    ensure!(daemon.metric("callbox_gpu_memory_used_bytes{gpu=\"1\"}").await? == Some(8_589_934_592.0));

    // A program that fails is counted, and no fault of the card; a card that breaks is.
    cards.are("count=2\nxid=31\nxid_number=1")?;
    let counted = || async { daemon.metric("callbox_gpu_xid_total{gpu=\"0\",xid=\"31\"}").await.ok()? };
    ensure!(eventually("XID 31 to be counted", SOON, counted).await? == 1.0);
    cards.are("count=2\nxid=79\nxid_number=2\necc=3\nrows_pending=1\nslowed=64")?;
    faults(
        &daemon,
        0,
        &["XID 79: the card has fallen off the bus", "3 memory errors", "waits to be replaced", "slowed down by heat"],
    )
    .await?;
    cards.are("count=2\nlost=1")?;
    faults(&daemon, 1, &["it cannot be reached"]).await?;
    faults(&daemon, 0, &["XID 79"]).await?;
    ensure!(daemon.metric("callbox_gpu_healthy{gpu=\"1\"}").await? == Some(0.0));
    ensure!(daemon.metric("callbox_gpu_temperature_celsius{gpu=\"1\"}").await?.is_none(), "nothing of it is made up");
    ensure!(daemon.api("/health/ready").await?["status"] == "ready", "calls are computed elsewhere");
    cards.are("count=2\nlost=1\nxid=43\nxid_number=3")?;
    let counted = || async { daemon.metric("callbox_gpu_xid_total{gpu=\"0\",xid=\"43\"}").await.ok()? };
    eventually("XID 43 to be counted beside a card that is lost", SOON, counted).await?;
    let mut told = Command::new(executable("callbox")?);
    let told = told.args(["health", "--config"]).arg(daemon.config()).output().await?;
    let told = String::from_utf8(told.stdout)?;
    ensure!(
        told.contains("gpu:1") && told.contains("it cannot be reached") && told.contains("NVIDIA Stand-in 1"),
        "{told}"
    );
    cards.are("count=2")?;
    faults(&daemon, 1, &[]).await?;

    let events = daemon.api("/api/v1/reports/events?since_s=600").await?;
    let kinds: Vec<&str> =
        events["rows"].as_array().context("rows")?.iter().filter_map(|row| row["kind"].as_str()).collect();
    ensure!(kinds.iter().filter(|kind| **kind == "gpu_xid").count() == 3, "{events}");
    ensure!(kinds.iter().filter(|kind| **kind == "gpu").count() >= 4, "{events}");
    Ok(())
}

#[tokio::test]
async fn a_machine_without_a_card_says_nothing_of_any() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup::new(Engine::Scripted(crate::outbound::SCRIPT))).await?;
    let health = daemon.api("/health").await?;
    ensure!(health["gpus"]["driver"].is_null() && health["gpus"]["cards"] == serde_json::json!([]), "{health}");
    ensure!(!daemon.metrics().await?.contains("callbox_gpu"), "metrics of no card");
    ensure!(!daemon.log().contains("NVIDIA") || daemon.log().contains("no NVIDIA driver"), "{}", daemon.log());
    Ok(())
}

const FIRST: &str = "GPU-00000000-0000-0000-0000-000000000000";
const SECOND: &str = "GPU-00000000-0000-0000-0000-000000000001";

/// How long a caller may hear nothing whose card has died.
const SILENCE: Duration = Duration::from_secs(2);

/// Waits until the engines `gpu0`, `gpu1` and `cpu` are in these states; gives the calls of each.
async fn engines(daemon: &Daemon, wanted: [&str; 3]) -> anyhow::Result<[u64; 3]> {
    let same = || async {
        let health = daemon.api("/health").await.ok()?;
        let of = |name: &str| health["engines"].as_array()?.iter().find(|engine| engine["name"] == name).cloned();
        let all = [of("gpu0")?, of("gpu1")?, of("cpu")?];
        let states = all.each_ref().map(|engine| engine["state"].as_str().unwrap_or_default());
        (states == wanted).then(|| all.each_ref().map(|engine| engine["calls"].as_u64().unwrap_or_default()))
    };
    let seen = eventually("the engines", SOON, same).await;
    seen.with_context(|| format!("wanted {wanted:?}"))
}

#[tokio::test]
async fn a_card_that_dies_hands_its_calls_over_and_none_is_lost() -> anyhow::Result<()> {
    let cards = Cards::new("count=2").await?;
    let setup = Setup { agent: TALKER, cards: Some(cards.library()), ..Setup::new(Engine::Pack("tiny")) };
    let daemon = Daemon::start(setup).await?;
    ensure!(engines(&daemon, ["ready"; 3]).await? == [0; 3]);
    let talk = Talk::begin(&daemon, 4).await?;
    ensure!(engines(&daemon, ["ready"; 3]).await? == [2, 2, 0], "calls are spread over the cards");

    let engine = daemon.engine_on(FIRST).context("an engine on the first card")?;
    kill_process(engine, Signal::KILL)?;
    talk.lost();
    // It is started again, and its calls stay where they went.
    let another = || async { daemon.engine_on(FIRST).filter(|another| *another != engine) };
    eventually("another engine on the first card", SOON, another).await?;
    ensure!(engines(&daemon, ["ready"; 3]).await?[1] == 4);
    let Told { silences, apologies } = talk.end().await?;
    println!("silences of four callers, two of whom lost their card: {silences:?}; {apologies} apologies");
    let longest = silences.iter().flatten().max().context("nobody heard anything")?;
    ensure!(*longest <= SILENCE, "somebody heard nothing for {longest:?}");
    ensure!(apologies <= 2, "callers of the other card hear of nothing");
    Ok(())
}

#[tokio::test]
async fn no_engine_is_started_on_a_card_that_has_failed() -> anyhow::Result<()> {
    let cards = Cards::new("count=2").await?;
    let setup = Setup { agent: TALKER, cards: Some(cards.library()), ..Setup::new(Engine::Pack("tiny")) };
    let daemon = Daemon::start(setup).await?;
    engines(&daemon, ["ready"; 3]).await?;
    let dir = tempfile::TempDir::new()?;
    let question = say("When is breakfast served?", 0.0, 0.2, dir.path()).await?;
    let up = scenario("call").lasting(Duration::from_secs(60));
    let (up, mut rtp) = call(&daemon, up).await?;
    let first = daemon.engine_on(FIRST).context("an engine on the first card")?;
    cards.are("count=2\nxid=79\nxid_number=1")?;
    ensure!(meanwhile(&mut rtp, engines(&daemon, ["lost", "ready", "ready"])).await? == [0, 1, 0]);
    ensure!(!daemon.engines().contains(&first), "what computed there goes on");
    let told = daemon.api("/health").await?["engines"].to_string();
    ensure!(told.contains("GPU 0 had XID 79") && told.contains("tried again in 60 s"), "{told}");
    ensure!(daemon.api("/health/ready").await?["status"] == "ready");

    // Now the other card, too: the processor is left.
    cards.are("count=2\nxid=79\nxid_number=1\nlost=1")?;
    ensure!(meanwhile(&mut rtp, engines(&daemon, ["lost", "lost", "ready"])).await? == [0, 0, 1]);
    ask(&mut rtp, question).await?;
    cards.are("count=2\nxid=79\nxid_number=1")?;
    meanwhile(&mut rtp, engines(&daemon, ["lost", "ready", "ready"])).await?;
    ensure!(daemon.engine_on(SECOND).is_some() && daemon.engine_on(FIRST).is_none());
    let mut told = Command::new(executable("callbox")?);
    let told = told.args(["health", "--config"]).arg(daemon.config()).output().await?;
    let told = String::from_utf8(told.stdout)?;
    ensure!(
        told.contains("engine:gpu1    ready (ears mind voice embed on GPU-") && told.contains("lost: GPU 0"),
        "{told}"
    );
    meanwhile(&mut rtp, up.done(Duration::from_secs(90))).await?;
    Ok(())
}

#[tokio::test]
async fn the_plan_is_printed_and_what_does_not_fit_is_refused_with_the_figures() -> anyhow::Result<()> {
    let cards = Cards::new("count=2\nmemory=24").await?;
    let dir = tempfile::TempDir::new()?;
    let plan = async |more: &str| {
        let setup = Setup { cards: Some(cards.library()), more: more.into(), ..Setup::new(Engine::Pack("tiny")) };
        let (config, ..) = Daemon::configure(&setup, dir.path())?;
        let mut check = Command::new(executable("callbox")?);
        let told = check.args(["check", "--placement", "--config"]).arg(config).output().await?;
        let words = [told.stdout, told.stderr].concat();
        anyhow::Ok((told.status.success(), String::from_utf8(words)?))
    };
    let (good, told) = plan("").await?;
    ensure!(good && told.contains(&format!("gpu1 on {SECOND}, NVIDIA Stand-in 1: ears mind voice embed")), "{told}");
    ensure!(told.contains("keys and values of 64 calls") && told.contains("cpu on the processor: ears mind"), "{told}");
    let sums = told.lines().filter(|line| line.trim_start().starts_with("in all")).count();
    ensure!(sums == 2 && told.contains("24.0 GiB"), "{told}");

    let (good, told) = plan("[[gpu]]\ndevice = \"pci:0000:02:00.0\"\nroles = [\"mind\"]\n[[gpu]]\ndevice = 7").await?;
    ensure!(good && told.contains(&format!("gpu1 on {SECOND}, NVIDIA Stand-in 1: mind")), "{told}");
    ensure!(told.contains("device = 7: there is no such card"), "{told}");

    cards.are("count=1\nslices=2\nmemory=24")?;
    let (good, told) = plan("").await?;
    let slice = "gpu0:1 on MIG-00000000-0000-0000-0000-000000000001, NVIDIA Stand-in 101: ears mind voice embed";
    ensure!(good && told.contains(slice) && !told.contains(FIRST), "{told}");

    cards.are("count=1\nmemory=1")?;
    let (good, told) = plan("").await?;
    ensure!(good && told.contains("no engine on GPU-") && told.contains("the models need"), "{told}");
    let (good, told) = plan("[[gpu]]\ndevice = 0").await?;
    ensure!(!good && told.contains("there are 0.2 GiB beside 0.7 GiB for the driver"), "{told}");
    Ok(())
}
