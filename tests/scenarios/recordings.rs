//! Calls that are recorded: what is heard of them, what lies on the disk, and what is left of a person who asks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{
    AGENT, Daemon, Engine, Rtp, Setup, Turn, eventually, executable, say, scenario, share_heard, transcribe,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::callers::meanwhile;
use crate::operations::done;
use crate::peers::{ENOUGH, greeting};
use crate::{PATIENCE, PAUSE};

const NUMBER: &str = "+4915550177";
const QUESTION: &str = "When is breakfast served in the morning?";
const CONSENT: &str = "This call is recorded.";

/// An agent that records, in TOML that lives as long as the test.
pub(crate) fn recording(agent: &str) -> &'static str {
    let head = format!("record = true\nconsent = \"{CONSENT}\"\ngreeting = ");
    agent.replacen("greeting = ", &head, 1).leak()
}

/// A daemon that can record, and the folder of its keys.
async fn setup(engine: Engine) -> anyhow::Result<(TempDir, Setup)> {
    let dir = TempDir::new()?;
    let more = keys(dir.path()).await?;
    Ok((dir, Setup { agent: recording(AGENT), more, ..Setup::new(engine) }))
}

/// Keys in this folder, and what a configuration says of them.
pub(crate) async fn keys(folder: &Path) -> anyhow::Result<String> {
    let keys = folder.join("keys");
    let rotate =
        Command::new(executable("callbox")?).args(["recording", "rotate", "--file"]).arg(&keys).output().await?;
    ensure!(rotate.status.success(), "{}", String::from_utf8_lossy(&rotate.stderr));
    Ok(format!("[recordings]\npath = \"recordings\"\nkey_file = \"{}\"\n", keys.display()))
}

fn files(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = fs::read_dir(daemon.dir().join("recordings")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The recorded call, once it has ended.
async fn ended(daemon: &Daemon) -> anyhow::Result<String> {
    let probe = || async {
        let parts = daemon.api("/api/v1/recordings").await.ok()?;
        let last = parts["rows"].as_array()?.first()?.clone();
        (last["ended"] == true).then(|| last["call"].as_str().map(str::to_owned))?
    };
    eventually("the end of a recording", PATIENCE, probe).await
}

/// Both channels of an exported recording, at 8 kHz.
async fn channels(daemon: &Daemon, call: &str, dir: &Path) -> anyhow::Result<[Vec<i16>; 2]> {
    let wav = dir.join("call.wav");
    let out = wav.to_str().context("a path")?;
    done(&["recording", "export", call, "--format", "wav", "--out", out], daemon.config()).await?;
    let mut reader = hound::WavReader::open(&wav)?;
    ensure!((reader.spec().channels, reader.spec().sample_rate) == (2, 16_000), "{:?}", reader.spec());
    let samples = reader.samples::<i16>().collect::<Result<Vec<_>, _>>()?;
    Ok([0, 1].map(|channel| samples.iter().skip(channel).step_by(4).copied().collect()))
}

#[tokio::test]
async fn a_recorded_call_is_heard_by_channel_sealed_on_the_disk_and_gone_when_its_caller_asks() -> anyhow::Result<()> {
    let (dir, setup) = setup(Engine::Pack("tiny")).await?;
    let daemon = Daemon::start(setup).await?;
    let question = say(QUESTION, 0.0, 0.2, dir.path()).await?;
    let mut rtp = Rtp::bind().await?;
    let call = scenario("call").from([127, 0, 0, 78], NUMBER).audio_at(rtp.port()?).lasting(Duration::from_secs(22));
    let call = call.start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no greeting was heard");
    rtp.say(question);
    ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the question was not sent");
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no answer was heard");
    meanwhile(&mut rtp, call.done(PATIENCE)).await?;
    let turns: Vec<Turn> = daemon.turns().await?;
    ensure!(turns[0].heard.starts_with(CONSENT), "{:?} was said first", turns[0].heard);

    let id = ended(&daemon).await?;
    let [caller, agent] = channels(&daemon, &id, dir.path()).await?;
    let (caller, agent) = (transcribe(&caller, dir.path()).await?, transcribe(&agent, dir.path()).await?);
    println!("left: {caller}\nright: {agent}");
    let asked = share_heard(QUESTION, &caller);
    ensure!(asked >= ENOUGH, "of the question, {asked:.2} is in the left channel: {caller:?}");
    for (what, text) in [("greeting", greeting()?), ("answer", turns[1].agent.clone())] {
        let heard = share_heard(&text, &agent);
        ensure!(heard >= ENOUGH, "of the {what}, {heard:.2} is in the right channel: {agent:?}");
    }
    ensure!(share_heard("recorded", &agent) < 0.5, "the announcement itself comes before the recording: {agent:?}");
    ensure!(share_heard(&greeting()?, &caller) < 0.4, "the agent is in the caller's channel: {caller:?}");

    let ogg = dir.path().join("call.ogg");
    done(&["recording", "export", &id, "--out", ogg.to_str().context("a path")?], daemon.config()).await?;
    let judged = Command::new("opusinfo").arg(&ogg).output().await.context("run `make setup`")?;
    let told = String::from_utf8_lossy(&judged.stdout).into_owned() + &String::from_utf8_lossy(&judged.stderr);
    ensure!(judged.status.success() && told.contains("Channels: 2") && !told.contains("WARNING"), "opusinfo: {told}");
    let sealed = files(&daemon);
    ensure!(sealed.len() == 1, "{sealed:?}");
    let bytes = fs::read(&sealed[0])?;
    ensure!(bytes.len() > 10_000, "{} bytes", bytes.len());
    for open in [b"OggS".as_slice(), b"OpusHead", b"RIFF"] {
        ensure!(!bytes.windows(open.len()).any(|part| part == open), "a plain recording lies on the disk");
    }
    ensure!(done(&["recording", "list"], daemon.config()).await?.contains(&id), "it is not listed");

    let dry = done(&["privacy", "erase", "--caller", "0049 1555 0177", "--dry-run"], daemon.config()).await?;
    ensure!(dry.starts_with("1 calls") && files(&daemon).len() == 1, "{dry}");
    let told = done(&["privacy", "erase", "--caller", "0049 1555 0177", "--yes"], daemon.config()).await?;
    ensure!(told.contains("1 calls") && told.contains("1 recordings"), "{told}");
    ensure!(files(&daemon).is_empty(), "{:?}", files(&daemon));
    ensure!(daemon.api("/api/v1/recordings").await?["rows"] == Value::Array(Vec::new()), "it is still listed");
    ensure!(daemon.api("/api/v1/calls").await?["calls"] == Value::Array(Vec::new()), "the call is still there");
    for suffix in ["", "-wal"] {
        let file = fs::read(format!("{}{suffix}", daemon.database().display())).unwrap_or_default();
        let digits = NUMBER.trim_start_matches('+').as_bytes();
        ensure!(!file.windows(digits.len()).any(|part| part == digits), "the number is in callbox.db{suffix}");
    }
    let looks = done(&["audit"], daemon.config()).await?;
    for action in ["recording.play", "privacy.show", "privacy.erase"] {
        ensure!(looks.contains(action), "{action} is not in the list of looks:\n{looks}");
    }
    ensure!(!looks.contains("0177"), "a number in the list of looks:\n{looks}");
    Ok(())
}

const SCRIPT: &str = r#"
first_token_ms = 20
ms_per_character = 40
[[answer]]
heard = "What do you know?"
say = "Breakfast is served from seven to ten in the morning."
"#;

#[tokio::test]
async fn a_recording_goes_on_in_a_second_part_when_the_daemon_is_killed() -> anyhow::Result<()> {
    let (dir, setup) = setup(Engine::Scripted(SCRIPT)).await?;
    let mut daemon = Daemon::serve(setup).await?;
    let mut rtp = Rtp::bind().await?;
    let call = scenario("call").from([127, 0, 0, 79], NUMBER).audio_at(rtp.port()?).lasting(Duration::from_secs(20));
    let call = call.start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no greeting was heard");
    rtp.run(Duration::from_secs(3), |_| false).await?;
    daemon.crash(|_| {}).await?;
    meanwhile(&mut rtp, daemon.ready()).await?;
    meanwhile(&mut rtp, call.done(PATIENCE)).await?;
    let id = ended(&daemon).await?;
    let parts = daemon.api("/api/v1/recordings").await?;
    let rows = parts["rows"].as_array().context("rows")?;
    ensure!(rows.len() == 2 && files(&daemon).len() == 2, "{parts}");
    let seconds = |row: &Value| row["seconds"].as_u64().unwrap_or(0);
    let [left, _] = channels(&daemon, &id, dir.path()).await?;
    let length = left.len() as u64 / 8000;
    println!("{} s of the second part, {length} s of both", seconds(&rows[0]));
    ensure!(seconds(&rows[0]) >= 5 && length >= seconds(&rows[0]) + 2, "{length} s in all: {parts}");
    ensure!(daemon.metric("callbox_recording_frames_total").await?.unwrap_or(0.0) > 200.0, "nothing was counted");
    Ok(())
}
