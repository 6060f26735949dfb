//! A running box, operated: drained, reloaded, backed up, looked into. What the commands do, print and exit with.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{AGENT, Daemon, Engine, Rtp, Setup, eventually, executable, get, scenario};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::callers::{self, tone};

/// Silence after which a scripted agent has finished: its tones have no pauses.
const QUIET: Duration = Duration::from_millis(400);

/// Hears one thing and says one thing, in tones.
const SCRIPT: &str =
    "ms_per_character = 20\n[[answer]]\nheard = \"the marmalade is excellent\"\nsay = \"We are glad.\"\n";

/// Runs `callbox`.
async fn callbox(arguments: &[&str], config: &Path) -> anyhow::Result<Output> {
    let mut command = Command::new(executable("callbox")?);
    command.args(arguments).arg("--config").arg(config).kill_on_drop(true);
    let ran = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    ran.with_context(|| format!("callbox {arguments:?} did not end"))?.context("callbox cannot be run")
}

/// Runs it and wants it to succeed; what it printed.
pub(crate) async fn done(arguments: &[&str], config: &Path) -> anyhow::Result<String> {
    let output = callbox(arguments, config).await?;
    let (out, err) = texts(&output);
    ensure!(output.status.success(), "callbox {arguments:?}: {}\n{out}{err}", output.status);
    Ok(out)
}

/// Runs it and wants it to fail like this, in one sentence; the sentence.
async fn refused(arguments: &[&str], config: &Path, code: i32) -> anyhow::Result<String> {
    let output = callbox(arguments, config).await?;
    let (out, err) = texts(&output);
    ensure!(output.status.code() == Some(code), "callbox {arguments:?}: {}\n{out}{err}", output.status);
    ensure!(err.lines().count() == 1 && err.starts_with("callbox: "), "one sentence is wanted:\n{err}");
    Ok(err)
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A request out of the blue; its final status and what Retry-After says.
async fn ask(to: SocketAddr, method: &str) -> anyhow::Result<(u16, Option<String>)> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let (own, id) = (socket.local_addr()?, format!("{method}{}", socket.local_addr()?.port()));
    let body =
        format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP 0\r\n", 9);
    let (kind, body) = if method == "INVITE" { ("Content-Type: application/sdp\r\n", body.as_str()) } else { ("", "") };
    let request = format!(
        "{method} sip:reception@{to} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{id};rport\r\n\
         From: <sip:probe@{own}>;tag={id}\r\nTo: <sip:reception@{to}>\r\nCall-ID: {id}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:probe@{own}>\r\nMax-Forwards: 70\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.send_to(request.as_bytes(), to).await?;
    let mut buffer = [0; 4096];
    loop {
        let received = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
        let length = received.with_context(|| format!("no answer to {method}"))??;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let status: u16 = text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
        if status >= 200 {
            let retry = text.lines().find_map(|line| line.strip_prefix("Retry-After: "));
            return Ok((status, retry.map(str::to_owned)));
        }
    }
}

async fn daemon() -> anyhow::Result<Daemon> {
    Daemon::start(Setup::new(Engine::Scripted(SCRIPT))).await
}

/// Changes a file of the daemon.
fn edit(path: &Path, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
    Ok(fs::write(path, change(fs::read_to_string(path)?))?)
}

#[tokio::test]
async fn a_drain_lets_calls_finish_and_can_be_cancelled() -> anyhow::Result<()> {
    let daemon = daemon().await?;
    let config = daemon.config().to_owned();
    let mut rtp = Rtp::bind().await?;
    let call = scenario("stay").audio_at(rtp.port()?).start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(QUIET, PATIENCE).await?, "no greeting was heard");
    ensure!(ask(daemon.sip(), "OPTIONS").await?.0 == 200, "calls are taken before a drain");

    let http = daemon.http();
    let unready = || async move { get(http, "/health/ready").await.ok().filter(|(status, _)| *status == 503) };
    let drain = |limit: &'static str| {
        let config = config.clone();
        tokio::spawn(async move { callbox(&["drain", "--limit", limit, "--json"], &config).await })
    };
    // Begun and cancelled: whoever waits for it is told so, and the call that is up is none the wiser.
    let waiting = drain("60");
    eventually("/health/ready to say 503", Duration::from_secs(3), unready).await?;
    done(&["drain", "--cancel"], &config).await?;
    let (out, _) = texts(&waiting.await??);
    ensure!(out.lines().last().is_some_and(|line| line.contains("\"open\"")), "{out}");

    let begun = Instant::now();
    let draining = drain("3");
    let (_, why) = eventually("/health/ready to say 503", Duration::from_secs(3), unready).await?;
    ensure!(why.contains("draining"), "{why}");
    for method in ["OPTIONS", "INVITE"] {
        let answer = ask(daemon.sip(), method).await?;
        ensure!(answer == (503, Some("10".into())), "{method}: {answer:?}");
    }
    ensure!(daemon.metric("callbox_sip_refused_total").await?.is_some_and(|count| count > 1.5), "not counted");
    // The call goes on until the limit, and is then told goodbye by its agent.
    rtp.say(tone(400.0, 0.3));
    ensure!(
        rtp.run(PATIENCE, |rtp| rtp.track().first_voiced(begun + Duration::from_secs(3)).is_some()).await?,
        "no goodbye"
    );
    let leaving = tokio::spawn(call.done(PATIENCE));
    while !leaving.is_finished() {
        rtp.run(Duration::from_millis(100), |_| false).await?;
    }
    leaving.await??;
    ensure!(begun.elapsed() > Duration::from_secs(3), "it was cut off after {:?}", begun.elapsed());
    let steps: Vec<Value> = texts(&draining.await??).0.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let states: Vec<&str> = steps.iter().filter_map(|step| step["state"].as_str()).collect();
    ensure!(states.first() == Some(&"waiting") && states.last() == Some(&"drained"), "{states:?}");
    ensure!(states.contains(&"goodbye") && steps[0]["calls"] == 1, "{steps:?}");

    let said = done(&["drain", "--cancel"], &config).await?;
    ensure!(said == "open: calls are taken; 0 calls are up\n", "{said}");
    ensure!(get(http, "/health/ready").await?.0 == 200, "not ready after the drain was cancelled");
    let mut rtp = Rtp::bind().await?;
    let call =
        scenario("call").audio_at(rtp.port()?).lasting(Duration::from_secs(1)).start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.run(PATIENCE, |rtp| rtp.track().packets() > 10).await?, "no call is taken after a cancelled drain");
    call.done(PATIENCE).await
}

#[tokio::test]
async fn an_operator_captures_the_audio_of_a_call_and_ends_it() -> anyhow::Result<()> {
    let daemon = daemon().await?;
    let config = daemon.config().to_owned();
    let (stays, mut rtp) = callers::call(&daemon, scenario("stay")).await?;
    let id = daemon.api("/api/v1/calls").await?["calls"][0]["id"].as_str().context("a call")?.to_owned();
    let file = daemon.dir().join("call.pcap").display().to_string();
    rtp.say(tone(400.0, 8.0));
    let trace = ["call", "trace", &id, "--media", "2", "--pcap", &file];
    let said = callers::meanwhile(&mut rtp, done(&trace, &config)).await?;
    ensure!(said.contains("packets of audio"), "{said}");
    // The SDP in it says what is RTP.
    let fields = ["-T", "fields", "-e", "udp.srcport", "-e", "rtp.seq", "-e", "udp.checksum.status"];
    let mut command = Command::new("tshark");
    command.args(["-r", &file, "-o", "udp.check_checksum:TRUE", "-Y", "rtp.p_type == 0"]).args(fields);
    let read = texts(&command.output().await?).0;
    let mut numbers = std::collections::BTreeMap::<&str, Vec<u16>>::new();
    for line in read.lines() {
        let [port, sequence, sum] = line.split('\t').collect::<Vec<_>>()[..] else { anyhow::bail!("{line}") };
        ensure!(sum == "1", "a sum that is wrong: {line}");
        numbers.entry(port).or_default().push(sequence.parse()?);
    }
    ensure!(numbers.len() == 2, "two directions: {numbers:?}");
    for numbers in numbers.values() {
        ensure!((85..=115).contains(&numbers.len()), "two seconds of packets: {}", numbers.len());
        ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{numbers:?}");
    }

    ensure!(done(&["call", "hangup", &id], &config).await? == format!("ended: call {id}\n"), "not ended");
    callers::meanwhile(&mut rtp, stays.done(PATIENCE)).await?;
    let ended = || async {
        let calls = daemon.api("/api/v1/calls").await.ok()?;
        (calls["calls"][0]["end_reason"] == "operator_hangup").then_some(())
    };
    eventually("the end of the call", PATIENCE, ended).await?;
    let refused = refused(&["call", "hangup", &id], &config, 1).await?;
    ensure!(refused.ends_with("is not up") || refused.contains("is not up"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn with_every_port_in_use_the_next_caller_is_asked_to_come_back() -> anyhow::Result<()> {
    let limits = "max_calls = 2\ninvites_per_second = 100\nburst = 100";
    let daemon = Daemon::start(Setup { calls: 2, limits, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    // Of two pairs another program has one.
    let config: toml::Table = fs::read_to_string(daemon.config())?.parse()?;
    let range = config["media"]["ports"].as_str().context("media.ports")?;
    let first = range.split('-').next().context("a port")?;
    let _taken = UdpSocket::bind(format!("127.0.0.1:{first}")).await?;
    let one = scenario("call").lasting(Duration::from_secs(4)).start(Daemon::USER, daemon.sip())?;
    let up = |wanted: f64| {
        let daemon = &daemon;
        move || async move { (daemon.metric("callbox_media_ports_used").await.ok()?? == wanted).then_some(()) }
    };
    eventually("a call", PATIENCE, up(1.0)).await?;
    let (status, retry) = ask(daemon.sip(), "INVITE").await?;
    ensure!(status == 503 && retry.is_some(), "{status} {retry:?}");
    let counted = daemon.metric("callbox_calls_refused_total").await?;
    ensure!(counted == Some(1.0), "{counted:?}");
    one.done(PATIENCE).await?;
    eventually("its ports to be free", PATIENCE, up(0.0)).await?;
    ensure!(ask(daemon.sip(), "INVITE").await?.0 == 200, "ports that are free are used again");
    Ok(())
}

#[tokio::test]
async fn a_reload_changes_later_calls_and_a_wrong_file_changes_nothing() -> anyhow::Result<()> {
    let daemon = daemon().await?;
    let config = daemon.config().to_owned();
    let agent = daemon.dir().join("agents/test.toml");
    ensure!(done(&["reload"], &config).await? == "nothing has changed\n", "nothing was changed");
    let mut rtp = Rtp::bind().await?;
    let staying = scenario("stay").audio_at(rtp.port()?).start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(QUIET, PATIENCE).await?, "no greeting was heard");

    // Wrong files: named, and nothing changes.
    edit(&agent, |text| text.replace("greeting", "greting"))?;
    let sentence = refused(&["reload"], &config, 78).await?;
    ensure!(sentence.contains("test.toml") && sentence.contains("greting"), "{sentence}");
    fs::write(&agent, AGENT)?;
    edit(&config, |text| text.replace("[storage]", "[storage]\nspeed = 9"))?;
    let socket = daemon.dir().join("control.sock").display().to_string();
    let output = Command::new(executable("callbox")?).args(["reload", "--socket", &socket]).output().await?;
    let (_, sentence) = texts(&output);
    ensure!(output.status.code() == Some(78) && sentence.contains("unknown key `speed`"), "{sentence}");
    ensure!(ask(daemon.sip(), "OPTIONS").await?.0 == 200, "a wrong file has changed something");

    // Right ones: a changed agent, a new one, limits, the log's level; and a key that has to wait.
    edit(&config, |text| {
        text.replace("speed = 9\n", "")
            .replace("max_calls = 400", "max_calls = 1")
            .replace("drain_s = 2", "drain_s = 1")
            .replace("level = \"debug\"", "level = \"trace\"")
            .replace("callbox.db", "other.db")
    })?;
    edit(&agent, |text| text.replace("Good morning, this is", "Good evening, here is"))?;
    fs::write(
        daemon.dir().join("agents/night.toml"),
        AGENT.replace("\"test\"", "\"night\"").replace("\"*\"", "\"900\""),
    )?;
    let reloaded: Value = serde_json::from_str(&done(&["reload", "--json"], &config).await?)?;
    let wanted = serde_json::json!({
        "changed": ["log.level", "sip.limits.drain_s", "sip.limits.max_calls"],
        "needs_restart": ["storage.path"],
        "agents_added": ["night"],
        "agents_changed": ["test"],
        "agents_removed": [],
    });
    ensure!(reloaded == wanted, "{reloaded}");
    ensure!(ask(daemon.sip(), "OPTIONS").await?.0 == 503, "one call is all that the new limit allows");
    // Later than what has waited in the socket meanwhile.
    let later = Instant::now() + QUIET;
    let goes_on = |rtp: &Rtp| rtp.track().heard().last().is_some_and(|last| last.at > later);
    ensure!(rtp.run(PATIENCE, goes_on).await?, "the call is gone");
    edit(&config, |text| text.replace("max_calls = 1\n", "max_calls = 9\n"))?;
    kill_process(daemon.pid().context("it runs")?, Signal::HUP)?;
    let sip = daemon.sip();
    let taken = || async move { ask(sip, "OPTIONS").await.ok().filter(|(status, _)| *status == 200) };
    eventually("SIGHUP to take the new limit", Duration::from_secs(5), taken).await?;

    // The next call is greeted anew, as recorded; and its number has another agent.
    let mut second = Rtp::bind().await?;
    let call = scenario("call").audio_at(second.port()?).lasting(Duration::from_secs(2)).start("900", daemon.sip())?;
    ensure!(second.listen(QUIET, PATIENCE).await?, "the new agent does not greet");
    call.done(PATIENCE).await?;
    let call =
        scenario("call").audio_at(second.port()?).lasting(Duration::from_secs(2)).start(Daemon::USER, daemon.sip())?;
    call.done(PATIENCE).await?;
    let page = daemon.api("/api/v1/calls").await?;
    let calls = page["calls"].as_array().context("calls")?;
    let agents: Vec<&str> = calls.iter().filter_map(|call| call["agent"].as_str()).collect();
    ensure!(agents == ["test", "night", "test"], "{agents:?}");
    let newest = calls[0]["id"].as_str().context("an id")?.to_owned();
    let greeting = daemon.api(&format!("/api/v1/calls/{newest}")).await?["exchanges"][0]["agent_text"].clone();
    ensure!(greeting.as_str().is_some_and(|text| text.starts_with("Good evening")), "{greeting}");
    ensure!(calls[2]["state"] != "ended" && calls[2]["state"] != "lost", "the first call is still up: {}", calls[2]);

    // SIGTERM drains likewise: the call is told goodbye after drain_s, and everything ends well.
    let stopping = tokio::spawn(daemon.stop());
    let leaving = tokio::spawn(staying.done(PATIENCE));
    while !leaving.is_finished() {
        rtp.run(Duration::from_millis(100), |_| false).await?;
    }
    leaving.await??;
    ensure!(stopping.await??.success(), "callboxd must end with 0");
    Ok(())
}

#[tokio::test]
async fn a_backup_is_restored_on_a_stopped_box_only() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let daemon = daemon().await?;
    let (config, sip) = (daemon.config().to_owned(), daemon.sip());
    let one_call = || async move {
        scenario("call").lasting(Duration::from_millis(200)).start(Daemon::USER, sip)?.done(PATIENCE).await
    };
    one_call().await?;
    daemon.turns().await?;
    let folder = dir.path().join("backups").display().to_string();
    let made: Value =
        serde_json::from_str(&done(&["backup", "--to", &folder, "--keep", "2", "--json"], &config).await?)?;
    ensure!(made["calls"] == 1, "{made}");
    let path = made["path"].as_str().context("a path")?.to_owned();
    one_call().await?;
    let sentence = refused(&["restore", &path], &config, 1).await?;
    ensure!(sentence.contains("systemctl stop callbox"), "{sentence}");
    let listed = done(&["backup", "list", "--to", &folder], &config).await?;
    ensure!(listed.contains(&path) && listed.lines().count() == 1, "{listed}");

    // The folder of the daemon ends with it, so what is restored lies in one of its own.
    let database = dir.path().join("callbox.db");
    let copied = dir.path().join("callbox.toml");
    let text = fs::read_to_string(&config)?;
    let gone = daemon.dir().display().to_string();
    fs::write(&copied, text.replace(&gone, &dir.path().display().to_string()))?;
    fs::copy(daemon.dir().join("callbox.db"), &database)?;
    ensure!(daemon.stop().await?.success(), "callboxd must end with 0");
    let restored: Value = serde_json::from_str(&done(&["restore", &path, "--json"], &copied).await?)?;
    ensure!(restored["calls"] == 1 && restored["moved_aside"].is_string(), "{restored}");
    ensure!(fs::metadata(&database)?.mode() & 0o777 == 0o600, "others may read the restored database");
    let said = done(&["backup", "--to", &folder], &copied).await?;
    ensure!(said.contains("1 calls, 1 turns"), "{said}");
    Ok(())
}

/// What a bundle holds, file by file, in one text.
fn unpacked(path: &Path) -> anyhow::Result<String> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(fs::File::open(path)?)?);
    let mut text = String::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        text += &format!("\n--- {}\n", entry.path()?.display());
        entry.read_to_string(&mut text)?;
    }
    Ok(text)
}

#[tokio::test]
async fn a_support_bundle_names_no_caller_unless_asked() -> anyhow::Result<()> {
    const NUMBER: &str = "+15550177";
    const ADDRESS: [u8; 4] = [127, 0, 0, 77];
    let dir = TempDir::new()?;
    let agent = AGENT.replace("The hotel has a garden", "The safe opens with 4711");
    let daemon = Daemon::start(Setup { agent: agent.leak(), ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let mut rtp = Rtp::bind().await?;
    let call = scenario("call").from(ADDRESS, NUMBER).audio_at(rtp.port()?).lasting(Duration::from_secs(4));
    let call = call.start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(QUIET, PATIENCE).await?, "no greeting was heard");
    rtp.say(tone(400.0, 1.0));
    ensure!(rtp.listen(QUIET, PATIENCE).await?, "no answer was heard");
    call.done(PATIENCE).await?;
    let turns = daemon.turns().await?;
    ensure!(turns.iter().any(|turn| turn.caller.contains("marmalade")), "the words were not understood: {turns:?}");

    let bundle = dir.path().join("bundle.tar.zst");
    let out = bundle.display().to_string();
    let said = done(&["support-bundle", "--out", &out], daemon.config()).await?;
    ensure!(said.contains("health.json") && said.contains("database.json"), "{said}");
    let text = unpacked(&bundle)?;
    for wanted in ["[sip.limits]", "\"findings\"", "\"cores\"", "callbox_calls_total", "\"turns\": 2", "\"schema\": 5"]
    {
        ensure!(text.contains(wanted), "{wanted} is not in the bundle:\n{text}");
    }
    let address = std::net::Ipv4Addr::from(ADDRESS).to_string();
    let secrets = [NUMBER.trim_start_matches('+'), &address, "marmalade", "We are glad", "4711", "receptionist"];
    for secret in secrets {
        ensure!(!text.contains(secret), "the bundle holds {secret:?}");
    }
    ensure!(fs::metadata(&bundle)?.mode() & 0o777 == 0o600, "others may read the bundle");
    let sentence = refused(&["support-bundle", "--out", &out], daemon.config(), 1).await?;
    ensure!(sentence.contains("--out"), "{sentence}");

    let open = dir.path().join("open.tar.zst");
    let said =
        done(&["support-bundle", "--with-transcripts", "--out", &open.display().to_string()], daemon.config()).await?;
    ensure!(said.contains("numbers and words of callers"), "{said}");
    let text = unpacked(&open)?;
    for asked in [NUMBER, &address, "marmalade"] {
        ensure!(text.contains(asked), "{asked:?} was asked for and is not there");
    }
    Ok(())
}

/// Starts a journald of its own in namespaces of its own, then `callboxd`; when that ends, keeps the journal's files.
const BED: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/log/journal
ip link set lo up
/lib/systemd/systemd-journald 2>/dev/null & journald=$!
for _ in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.02; done
export JOURNAL_STREAM="$(stat -L -c %d:%i /proc/$$/fd/1)"
callboxd --config "$CONFIG" & daemon=$!
for _ in $(seq 200); do callbox health --config "$CONFIG" >/dev/null 2>&1 && break; sleep 0.05; done
sipp -sf "$SCENARIO" "$SIP" -s reception -nostdin -i 127.0.0.88 -p 5099 -mi 127.0.0.1 -key caller +15550188 \
    -key audio_port 9 -d 1500 -m 1 >/dev/null 2>&1
callbox call list --limit 1 --json --config "$CONFIG"
kill $daemon
wait $daemon
journalctl --sync 2>/dev/null || sleep 0.3
cp -r /run/log/journal/. "$KEPT"
kill $journald
"#;

#[tokio::test]
async fn a_report_tells_what_the_last_hour_was_like() -> anyhow::Result<()> {
    let daemon = daemon().await?;
    let config = daemon.config().to_owned();
    let (call, mut rtp) = callers::call(&daemon, scenario("call").lasting(Duration::from_secs(8))).await?;
    callers::ask(&mut rtp, tone(400.0, 1.0)).await?;
    call.done(PATIENCE).await?;
    let recorded = || async {
        let report = done(&["report", "--since", "1h", "--format", "json"], &config).await.ok()?;
        let row = serde_json::from_str::<Value>(&report).ok()?["rows"][0].take();
        (row["ended"]["caller_hangup"] == 1).then_some(row)
    };
    let row = eventually("the end of the call to be reported", PATIENCE, recorded).await?;
    ensure!((&row["calls"], &row["turns"], &row["unfinished"]) == (&1.into(), &1.into(), &0.into()), "{row}");

    let stages = done(&["report", "latency", "--format", "csv"], &config).await?;
    let whole =
        stages.lines().find_map(|line| line.strip_prefix("voice_to_voice,1,")).context("a line of the whole")?;
    let told: Vec<f64> = whole.split(',').map(str::parse).collect::<Result<_, _>>()?;
    ensure!(told.len() == 5 && told.iter().all(|took| *took > 0.0 && *took == told[0]), "one value: {stages}");
    ensure!(done(&["report"], &config).await?.lines().any(|line| line.starts_with("ended.caller_hangup")));
    let wrong = callbox(&["report", "--since", "1y"], &config).await?;
    ensure!(wrong.status.code() == Some(2) && texts(&wrong).1.contains("as in 24h"), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn the_journal_knows_call_turn_and_agent() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    if let Some(why) = no_journal().await {
        eprintln!("skipped: {why}");
        return Ok(());
    }
    let (config, sip, _) = Daemon::configure(&Setup::new(Engine::Scripted(SCRIPT)), dir.path())?;
    edit(&config, |text| text.replace("format = \"json\"", "format = \"auto\""))?;
    let (kept, built) = (dir.path().join("journal"), executable("callbox")?);
    fs::create_dir(&kept)?;
    let path = format!("{}:{}", built.parent().context("a folder")?.display(), std::env::var("PATH")?);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", BED]);
    command.env("PATH", path).env("CONFIG", &config).env("KEPT", &kept).env("SIP", sip.to_string());
    command.env("SCENARIO", Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/call.xml")).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output()).await.context("it did not end")??;
    let (out, err) = texts(&output);
    ensure!(output.status.success(), "{out}{err}");
    let page: Value =
        serde_json::from_str(out.lines().last().unwrap_or_default()).with_context(|| format!("{out}{err}"))?;
    let id = page["calls"][0]["id"].as_str().with_context(|| page.to_string())?.to_owned();

    let journal = kept.display().to_string();
    let logs = async |more: &[&str]| {
        let output = Command::new(&built).args(["logs", "--journal", &journal]).args(more).output().await?;
        let (out, err) = texts(&output);
        ensure!(output.status.success(), "{err}");
        anyhow::Ok(out)
    };
    let all = logs(&[]).await?;
    ensure!(all.contains("callboxd") && all.contains("down"), "{all}");
    let lines: Vec<Value> =
        logs(&["--json", "--call", &id]).await?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() >= 3 && lines.iter().all(|line| line["call"] == *id), "{lines:?}");
    let line = |message: &str| lines.iter().find(|line| line["message"] == message).with_context(|| message.to_owned());
    let answered = line("answered")?;
    ensure!(
        (&answered["agent"], &answered["codec"], &answered["level"])
            == (&"test".into(), &"PCMU".into(), &"INFO".into()),
        "{answered}"
    );
    ensure!(line("a turn has ended")?["turn"] == "0", "{lines:?}");
    let text = logs(&["--call", &id, "--since", "-1h", "--lines", "2"]).await?;
    ensure!(text.lines().count() == 2 && text.contains(&format!(" call={id} agent=test")), "{text}");
    ensure!(logs(&["--call", "1"]).await?.is_empty(), "lines of another call");

    // The bundle takes the same lines, without a caller.
    let bundle = dir.path().join("bundle.tar.zst").display().to_string();
    done(&["support-bundle", "--out", &bundle, "--journal", &journal], &config).await?;
    let text = unpacked(Path::new(&bundle))?;
    ensure!(text.contains("log.jsonl") && text.contains(&id), "{text}");
    ensure!(!text.contains("15550188") && !text.contains("127.0.0.88"), "the bundle names the caller");
    Ok(())
}

/// Why there cannot be a journald of this test's own.
async fn no_journal() -> Option<String> {
    if !Path::new("/lib/systemd/systemd-journald").exists() {
        return Some("systemd-journald is not installed".into());
    }
    let tried = Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "ip", "link"]).output().await;
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no namespaces: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("no unshare: {error}")),
    }
}
