//! What is kept of callers when the owner says so: nothing that names them, nothing that they said, and calls that are found
//! all the same.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Daemon, Engine, Rtp, Setup, say, scenario};
use tempfile::TempDir;

use crate::callers::meanwhile;
use crate::operations::done;
use crate::{PATIENCE, PAUSE};

const NUMBER: &str = "+4915550188";

#[tokio::test]
async fn callers_are_hashed_and_their_words_are_not_kept_and_the_self_test_still_finds_its_call() -> anyhow::Result<()>
{
    let dir = TempDir::new()?;
    let key = dir.path().join("key");
    fs::write(&key, "a key of more than sixteen characters\n")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let privacy = "[privacy]\ntranscripts = \"off\"\ncallers = \"hashed\"";
    let more = format!("{privacy}\nkey_file = \"{}\"\n", key.display());
    let daemon = Daemon::start(Setup { more, ..Setup::new(Engine::Pack("tiny")) }).await?;
    let mut rtp = Rtp::bind().await?;
    let call = scenario("call").from([127, 0, 0, 80], NUMBER).audio_at(rtp.port()?).lasting(Duration::from_secs(20));
    let call = call.start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no greeting was heard");
    rtp.say(say("When is breakfast served in the morning?", 0.0, 0.2, dir.path()).await?);
    ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the question was not sent");
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no answer was heard");
    meanwhile(&mut rtp, call.done(PATIENCE)).await?;

    let turns = daemon.turns().await?;
    ensure!(turns.len() >= 2, "the turns themselves are recorded: {turns:?}");
    let silent = turns.iter().all(|turn| [&turn.caller, &turn.agent, &turn.heard].into_iter().all(String::is_empty));
    ensure!(silent, "words were kept: {turns:?}");
    let calls = daemon.api("/api/v1/calls").await?;
    let from = calls["calls"][0]["from"].as_str().context("a caller")?.to_owned();
    ensure!(from.starts_with("hmac:"), "{from}");
    for suffix in ["", "-wal"] {
        let file = fs::read(format!("{}{suffix}", daemon.database().display())).unwrap_or_default();
        let digits = NUMBER.trim_start_matches('+').as_bytes();
        ensure!(!file.windows(digits.len()).any(|part| part == digits), "the number is in callbox.db{suffix}");
    }
    for name in ["+49 1555 0188", &from] {
        let found = done(&["privacy", "show", "--caller", name], daemon.config()).await?;
        ensure!(found.starts_with("1 calls"), "{name}: {found}");
        let listed = done(&["call", "list", "--caller", name, "--json"], daemon.config()).await?;
        ensure!(listed.contains(&from), "{name}: {listed}");
    }
    let outcomes = done(&["report", "outcomes", "--format", "csv"], daemon.config()).await?;
    ensure!(outcomes.contains("test,answer,completed,,1,"), "{outcomes}");
    let events = done(&["report", "events"], daemon.config()).await?;
    ensure!(events.contains("started") && events.contains("engine_ready"), "{events}");

    let summary = ["report", "summary", "--format", "csv"];
    let before = done(&summary, daemon.config()).await?;
    let test = done(&["selftest", "--json", "--report", "5m"], daemon.config()).await?;
    ensure!(test.contains("voice_to_voice_ms"), "{test}");
    let health = daemon.api("/health").await?;
    ensure!(health["parts"]["selftest"] == "ready", "{health}");
    ensure!(daemon.metric("callbox_selftest_passed").await? == Some(1.0), "the daemon was not told");
    // It is listed as what it is, and counts as nobody's.
    let listed = done(&["call", "list", "--caller", "callbox-selftest", "--json"], daemon.config()).await?;
    ensure!(listed.contains("callbox-selftest"), "{listed}");
    let after = done(&summary, daemon.config()).await?;
    ensure!(before == after && daemon.metric("callbox_calls_total").await? == Some(1.0), "{before}\n{after}");
    Ok(())
}
