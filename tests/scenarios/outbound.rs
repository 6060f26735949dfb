//! The box as a customer of a provider, and callers who are handed over: Kamailio keeps registrations and asks for
//! passwords, softphones are the other customers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Baresip, Daemon, Engine, Kamailio, Names, Setup, eventually, executable, scenario};
use tokio::process::Command;

use crate::PATIENCE;
use crate::callers::{call, tone};

pub(crate) const PASSWORD: &str = "f0xtrot-lima";

/// Takes a tone for a question.
pub(crate) const SCRIPT: &str =
    "ms_per_character = 20\n[[answer]]\nheard = \"is there a garden\"\nsay = \"There is.\"\n";

/// Hands callers over to `target` when they press 0.
pub(crate) fn agent(target: &str, how: &str) -> &'static str {
    let text = format!(
        "name = \"desk\"\nnumbers = [\"*\"]\npersona = \"You are kind.\"\ngreeting = \"Good morning.\"\ngoodbye = \"Goodbye.\"\n\
         [[transfers]]\nname = \"office\"\nto = \"{target}\"\nkeys = \"0\"\nhow = \"{how}\"\nring_ms = 5000\n\
         announce = \"I connect you.\"\nunreached = \"Nobody is there.\"\n"
    );
    text.leak()
}

/// A trunk to the provider, as the customer `box`.
pub(crate) fn trunk(provider: &Kamailio, folder: &Path, more: &str) -> anyhow::Result<String> {
    let file = folder.join("password");
    fs::write(&file, format!("{PASSWORD}\n"))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(format!(
        "[[trunk]]\nname = \"provider\"\nhosts = [\"sip:{}\"]\nusername = \"box\"\npassword_file = \"{}\"\n\
         keepalive_s = 1\ncaller_id = \"box\"\n{more}\n",
        provider.address(),
        file.display()
    ))
}

async fn callbox(daemon: &Daemon, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(executable("callbox")?);
    let output = command.args(arguments).arg("--config").arg(daemon.config()).output().await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn loud(samples: &[i16]) -> usize {
    samples.iter().filter(|sample| sample.unsigned_abs() > 1000).count()
}

#[tokio::test]
async fn a_customer_of_a_provider_is_called_and_calls() -> anyhow::Result<()> {
    let (provider, folder) = (Kamailio::registrar(PASSWORD).await?, tempfile::tempdir()?);
    let more = trunk(&provider, folder.path(), "register = true\nregister_s = 60")?;
    let daemon =
        Daemon::start(Setup { more, agent: agent("nobody", "bridge"), ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let registered = || async {
        let up = daemon.metric("callbox_trunk_registered").await.ok()??;
        (up == 1.0).then_some(())
    };
    eventually("the registration", PATIENCE, registered).await?;

    // Another customer calls the box, which the provider finds by its registration.
    let guest = Baresip::registered("guest", provider.address(), PASSWORD)?;
    let question = [vec![0; 3 * 8000], tone(400.0, 1.0), vec![0; 4 * 8000]].concat();
    let heard = guest.call("sip:box@provider.test", &question).await?;
    ensure!(loud(&heard) > 1000, "the caller heard nothing");
    ensure!(daemon.turns().await?.iter().any(|turn| turn.heard == "There is."), "the question was not answered");

    // The box calls another customer; INVITE and BYE are both asked for the password.
    let callee = Baresip::registered("alice", provider.address(), PASSWORD)?;
    let mut process = callee.answer(&question)?;
    let placed = || async {
        let (placed, said) = callbox(&daemon, &["call", "start", "--to", "alice", "--agent", "desk"]).await.ok()?;
        if !placed {
            println!("{said}");
        }
        placed.then_some(said)
    };
    let said = eventually("a call to a customer", PATIENCE, placed).await?;
    ensure!(said.starts_with("answered: call "), "{said}");
    let answered = || async {
        let calls = daemon.api("/api/v1/calls").await.ok()?;
        let ours = calls["calls"].as_array()?.iter().find(|call| call["direction"] == "outbound")?.clone();
        (ours["turns"].as_u64()? > 0).then_some(ours)
    };
    let ours = eventually("an answered question", PATIENCE, answered).await?;
    ensure!(ours["to"] == "alice", "{ours}");
    // It writes the end of its recording when it ends.
    process.stop(PATIENCE).await?;
    ensure!(loud(&callee.recording(&process)?) > 1000, "who was called heard nothing");

    let (placed, said) = callbox(&daemon, &["call", "start", "--to", "nobody", "--agent", "desk"]).await?;
    ensure!(!placed && said.contains("404"), "{said}");
    let (placed, said) = callbox(&daemon, &["call", "start", "--to", "+49 30", "--agent", "desk"]).await?;
    ensure!(!placed && said.contains("neither a number nor a SIP address"), "{said}");
    let log = daemon.log();
    ensure!(!log.contains(PASSWORD) && !log.contains("response="), "a password or a digest in the log");
    Ok(())
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_seen_and_a_wrong_password_as_well() -> anyhow::Result<()> {
    let (provider, folder) = (Kamailio::registrar("another").await?, tempfile::tempdir()?);
    let more = trunk(&provider, folder.path(), "register = true")?;
    let daemon = Daemon::start(Setup { more, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let refused = || async { daemon.log().contains("check username and password of the trunk").then_some(()) };
    eventually("a word about the password", PATIENCE, refused).await?;
    ensure!(daemon.metric("callbox_trunk_registered").await? == Some(0.0), "not registered");
    let up = |wanted: f64| {
        let daemon = &daemon;
        move || async move { (daemon.metric("callbox_trunk_host_up").await.ok()?? == wanted).then_some(()) }
    };
    eventually("a host that answers", PATIENCE, up(1.0)).await?;
    drop(provider);
    eventually("a host that does not answer", Duration::from_secs(45), up(0.0)).await
}

#[tokio::test]
async fn a_caller_is_joined_to_somebody_and_both_outlive_the_daemon() -> anyhow::Result<()> {
    let (provider, folder) = (Kamailio::registrar(PASSWORD).await?, tempfile::tempdir()?);
    let more = trunk(&provider, folder.path(), "")?;
    let agent = agent("alice", "bridge");
    let mut daemon = Daemon::serve(Setup { more, agent, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let alice = Baresip::registered("alice", provider.address(), PASSWORD)?;
    let mut process = alice.answer(&tone(1000.0, 60.0))?;
    let (sipp, mut rtp) = call(&daemon, scenario("keys").lasting(Duration::from_secs(25))).await?;
    rtp.press(0);
    let joined = || async {
        let calls = daemon.api("/api/v1/calls").await.ok()?;
        calls["calls"].as_array()?.iter().any(|call| call["direction"] == "outbound").then_some(())
    };
    crate::callers::meanwhile(&mut rtp, eventually("a second leg", PATIENCE, joined)).await?;
    rtp.run(Duration::from_secs(3), |_| false).await?;
    daemon.crash(|_| {}).await?;
    let after = tokio::time::Instant::now();
    rtp.say(tone(500.0, 5.0));
    rtp.run(Duration::from_secs(6), |_| false).await?;
    let heard = rtp.track().samples(after);
    ensure!(loud(&heard) > 3 * 8000, "the caller does not hear them any more: {} loud samples", loud(&heard));
    crate::callers::meanwhile(&mut rtp, sipp.done(Duration::from_secs(60))).await?;
    // It writes the end of its recording when it ends.
    process.stop(PATIENCE).await?;
    let recorded = alice.recording(&process).context("what the other side heard")?;
    ensure!(loud(&recorded) > 3 * 8000, "they did not hear the caller: {} loud samples", loud(&recorded));
    let ended = || async {
        let calls = daemon.api("/api/v1/calls").await.ok()?;
        calls["calls"].as_array()?.iter().all(|call| call["state"] == "ended").then_some(calls)
    };
    let calls = eventually("the end of both", PATIENCE, ended).await?;
    ensure!(calls["calls"].as_array().map(Vec::len) == Some(2), "{calls}");
    Ok(())
}

#[tokio::test]
async fn a_caller_who_cannot_be_handed_over_comes_back() -> anyhow::Result<()> {
    let (provider, folder) = (Kamailio::registrar(PASSWORD).await?, tempfile::tempdir()?);
    let more = trunk(&provider, folder.path(), "")?;
    // Their side does not take a REFER: the box calls itself, and nobody of that name is registered.
    let daemon =
        Daemon::start(Setup { more, agent: agent("nobody", "blind"), ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let (sipp, mut rtp) = call(&daemon, scenario("refuses").lasting(Duration::from_secs(15))).await?;
    rtp.press(0);
    let told = || async {
        daemon.turns_so_far().await.ok()?.iter().any(|turn| turn.heard == "Nobody is there.").then_some(())
    };
    crate::callers::meanwhile(&mut rtp, eventually("a word about it", PATIENCE, told)).await?;
    rtp.say(tone(400.0, 1.0));
    let answered =
        || async { daemon.turns_so_far().await.ok()?.iter().any(|turn| turn.heard == "There is.").then_some(()) };
    crate::callers::meanwhile(&mut rtp, eventually("an answer", PATIENCE, answered)).await?;
    crate::callers::meanwhile(&mut rtp, sipp.done(Duration::from_secs(60))).await?;
    Ok(())
}

#[tokio::test]
async fn a_caller_whose_side_takes_a_refer_is_let_go() -> anyhow::Result<()> {
    let daemon =
        Daemon::start(Setup { agent: agent("+493012346", "blind"), ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let (sipp, mut rtp) = call(&daemon, scenario("refers")).await?;
    rtp.press(0);
    let done = crate::callers::meanwhile(&mut rtp, sipp.done(PATIENCE)).await;
    done.with_context(|| daemon.log())?;
    let ended = || async {
        let calls = daemon.api("/api/v1/calls").await.ok()?;
        (calls["calls"][0]["end_reason"] == "transferred").then_some(())
    };
    eventually("the end of the call, as a transfer", PATIENCE, ended).await?;
    ensure!(daemon.turns().await?.last().is_some_and(|turn| turn.heard == "I connect you."), "not announced");
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_silent_is_given_up_for_the_next_that_dns_names() -> anyhow::Result<()> {
    let (provider, folder) = (Kamailio::registrar(PASSWORD).await?, tempfile::tempdir()?);
    // Somebody listens there and never says a word.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let record =
        |port: u16, priority: u32| format!("--srv-host=_sip._udp.provider.test,server.test,{port},{priority},1");
    let names = Names::start(&[
        record(silent.local_addr()?.port(), 1),
        record(provider.address().port(), 2),
        "--host-record=server.test,127.0.0.1".to_owned(),
    ])?;
    let more =
        trunk(&provider, folder.path(), "")?.replace(&format!("sip:{}", provider.address()), "sip:provider.test");
    let more = more.replace("keepalive_s = 1", "keepalive_s = 0");
    let setup = Setup { more, agent: agent("nobody", "bridge"), ..Setup::new(Engine::Scripted(SCRIPT)) };
    let daemon = Daemon::start(Setup { sip: format!("resolver = \"{}\"", names.address()), ..setup }).await?;
    let alice = Baresip::registered("alice", provider.address(), PASSWORD)?;
    let _process = alice.answer(&tone(400.0, 20.0))?;
    provider.knows("alice").await?;
    let begun = tokio::time::Instant::now();
    let (placed, said) = callbox(&daemon, &["call", "start", "--to", "alice", "--agent", "desk"]).await?;
    let took = begun.elapsed();
    ensure!(placed, "{said}");
    ensure!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&took), "answered after {took:?}");
    let mut request = [0; 2048];
    let asked = tokio::time::timeout(Duration::from_secs(1), silent.recv(&mut request)).await;
    asked.context("the first server was not asked")??;
    ensure!(request.starts_with(b"INVITE "), "{}", String::from_utf8_lossy(&request));
    Ok(())
}
