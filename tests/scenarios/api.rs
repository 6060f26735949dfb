//! The control API as its clients meet it: a fuzzer that reads its document, a browser, a script that watches.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Daemon, Engine, Setup, eventually, executable, free_port, get, scenario};
use serde_json::Value;
use tokio::process::Command;

use crate::PATIENCE;
use crate::callers::{ask, call, meanwhile, tone};
use crate::outbound::{SCRIPT, agent};
use crate::recordings::{keys, recording};
use crate::tls::issue;

fn peers() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("CALLBOX_CACHE").context("CALLBOX_CACHE: run by `make test`")?;
    Ok(Path::new(&cache).join("peers"))
}

/// What the command line says, of this daemon.
pub(crate) async fn callbox(daemon: &Daemon, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(executable("callbox")?);
    let output = command.args(arguments).arg("--config").arg(daemon.config()).output().await?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "callbox {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// Bytes from outside by somebody else's hand: whatever the document allows, and what it does not, is answered as it says.
#[tokio::test]
async fn schemathesis_finds_no_server_error_and_no_undocumented_answer() -> anyhow::Result<()> {
    // Whoever is called there is not at home: calls that the fuzzer places come to nothing at once.
    let nobody = free_port();
    let more = format!("[[trunk]]\nname = \"nobody\"\nhosts = [\"sip:127.0.0.1:{nobody}\"]\nkeepalive_s = 0\n");
    let setup = Setup { more, agent: agent("nobody", "bridge"), ..Setup::new(Engine::Scripted(SCRIPT)) };
    let mut daemon = Daemon::start(setup).await?;
    let token = daemon.token("fuzzer", "admin").await?;
    let url = format!("http://{}/api/v1/openapi.json", daemon.http());
    let config = daemon.dir().join("schemathesis.toml");
    // Who is called and does not answer is 502; what the box cannot do now is 503. Both are documented, with a problem.
    std::fs::write(
        &config,
        "[checks]\nnot_a_server_error.expected-statuses = [\"2xx\", \"3xx\", \"4xx\", \"502\", \"503\"]\n\
         positive_data_acceptance.expected-statuses = [\"2xx\", \"401\", \"403\", \"404\", \"409\", \"422\", \"502\", \"503\"]\n",
    )?;
    let mut command = Command::new(peers()?.join("schemathesis/bin/schemathesis"));
    command.args(["--config-file".as_ref(), config.as_os_str()]).args(["run", &url]);
    // That no path ignores its token is held by a test that shows fewer wrong ones than are answered with 429.
    command.args(["-H", &format!("Authorization: Bearer {token}"), "--checks", "all", "--seed", "4711"]);
    command.args(["--exclude-checks", "ignored_auth"]);
    // A stream has no end, and a capture lasts as long as it is asked to.
    command.args(["--exclude-path-regex", "/(events|capture)$"]);
    command.args(["--max-examples", "25", "--phases", "examples,coverage,fuzzing", "--continue-on-failure"]);
    command.args(["--request-timeout", "20", "--workers", "1", "--no-color"]).current_dir(daemon.dir());
    let output = tokio::time::timeout(Duration::from_secs(120), command.output());
    let output = output.await.context("schemathesis did not end")?.context("schemathesis: run `make test`")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    println!("{}", said.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
    ensure!(daemon.runs() && daemon.metric("callbox_panics_total").await? == Some(0.0), "{}", daemon.log());
    Ok(())
}

/// A page for a person, in the browser of Debian, with nothing but its own files.
#[tokio::test]
async fn the_console_shows_a_call_as_it_happens_in_a_real_browser() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (agent, more) = (recording(agent("nobody", "bridge")), keys(folder.path()).await?);
    let setup = Setup { agent, more, ..Setup::new(Engine::Scripted(SCRIPT)) };
    let daemon = Daemon::start(setup).await?;
    let token = daemon.token("person", "admin").await?;
    let (_sipp, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(120))).await?;
    // A question every few seconds, as long as somebody watches.
    rtp.say((0..18).flat_map(|_| [vec![0; 5 * 8000], tone(400.0, 1.0)].concat()).collect());
    let pictures = std::env::var_os("PICTURES").map_or_else(|| daemon.dir().join("pictures"), PathBuf::from);
    std::fs::create_dir_all(&pictures)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("console/console.mjs");
    let mut command = Command::new("node");
    command.arg(script).arg(format!("http://{}/", daemon.http())).arg(&pictures).env("CALLBOX_TOKEN", token);
    command.kill_on_drop(true);
    let looked = async { Ok(tokio::time::timeout(Duration::from_secs(110), command.output()).await??) };
    let output = meanwhile(&mut rtp, looked).await?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    println!("{said}");
    Ok(())
}

#[tokio::test]
async fn an_operator_has_the_agent_say_something_and_hands_the_caller_over() -> anyhow::Result<()> {
    let setup = Setup { agent: agent("nobody", "bridge"), ..Setup::new(Engine::Scripted(SCRIPT)) };
    let daemon = Daemon::start(setup).await?;
    let (sipp, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(15))).await?;
    let id = daemon.api("/api/v1/calls").await?["calls"][0]["id"].as_str().context("a call")?.to_owned();
    callbox(&daemon, &["call", "say", &id, "A colleague is on the way."]).await?;
    ensure!(rtp.listen(crate::PAUSE, PATIENCE).await?, "nothing was said");
    ask(&mut rtp, tone(400.0, 0.6)).await?;
    ensure!(rtp.listen(crate::PAUSE, PATIENCE).await?, "no answer was heard");
    let refused = callbox(&daemon, &["call", "transfer", &id, "nobody"]).await.err().context("refused")?.to_string();
    ensure!(refused.contains("its agent has no transfer of that name"), "{refused}");
    callbox(&daemon, &["call", "transfer", &id, "office"]).await?;
    let told = || async {
        let turns = daemon.turns_so_far().await.ok()?;
        turns.iter().any(|turn| turn.heard == "Nobody is there.").then_some(turns)
    };
    let turns = meanwhile(&mut rtp, eventually("the transfer to come to nothing", PATIENCE, told)).await?;
    let heard: Vec<&str> = turns.iter().map(|turn| turn.heard.as_str()).collect();
    ensure!(
        heard == ["Good morning.", "A colleague is on the way.", "There is.", "I connect you.", "Nobody is there."],
        "{heard:?}"
    );
    meanwhile(&mut rtp, sipp.done(PATIENCE)).await?;
    let audit = callbox(&daemon, &["audit"]).await?;
    ensure!(audit.contains("/say") && audit.contains("/transfer") && !audit.contains("colleague"), "{audit}");
    let found = callbox(&daemon, &["call", "list", "--since", "1h", "--agent", "desk", "--json"]).await?;
    ensure!(found.contains(&id), "{found}");
    let later = callbox(&daemon, &["call", "list", "--until", "1h", "--json"]).await?;
    ensure!(!later.contains(&id), "{later}");
    Ok(())
}

#[tokio::test]
async fn the_api_speaks_tls_with_a_certificate_that_a_reload_renews() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    issue(folder.path(), "box")?;
    let daemon = Daemon::start(Setup::new(Engine::Scripted(SCRIPT))).await?;
    let token = daemon.token("person", "viewer").await?;
    ensure!(get(daemon.http(), "/health").await?.0 == 200, "plain before");
    // A reload turns it on, and a wrong key changes nothing.
    let text = std::fs::read_to_string(daemon.config())?;
    let with = |key: &str| {
        let lines = format!("[http]\ncertificate = \"{0}/box.pem\"\nkey = \"{0}/{key}\"", folder.path().display());
        text.replacen("[http]", &lines, 1)
    };
    std::fs::write(folder.path().join("wrong.key"), "no key")?;
    std::fs::write(daemon.config(), with("wrong.key"))?;
    let refused = callbox(&daemon, &["reload"]).await.err().context("refused")?.to_string();
    ensure!(refused.contains("http.key: ") && refused.contains("holds no private key"), "{refused}");
    ensure!(get(daemon.http(), "/health").await?.0 == 200, "as before");
    std::fs::write(daemon.config(), with("box.key"))?;
    let changed = callbox(&daemon, &["reload"]).await?;
    ensure!(changed.contains("http.certificate") && !changed.contains("restart"), "{changed}");
    ensure!(get(daemon.http(), "/health").await.is_err(), "nobody is answered in clear any more");
    let curl = |path: &str| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--cacert"]).arg(folder.path().join("ca.pem"));
        command.args(["--include", "-H", &format!("Authorization: Bearer {token}")]);
        command.arg(format!("https://{}{path}", daemon.http()));
        async move { anyhow::Ok(String::from_utf8_lossy(&command.output().await?.stdout).into_owned()) }
    };
    let answer = curl("/api/v1/calls").await?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security:"), "{answer}");
    let page: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).context("a body")?)?;
    ensure!(page["calls"].is_array(), "{page}");
    Ok(())
}
