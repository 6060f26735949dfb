//! Who may call: strangers cost a line that fail2ban reads, telephones and proxies show that they know the password.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Baresip, Daemon, Engine, Kamailio, Setup, eventually, executable, free_port, scenario};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;
use tokio::process::Command;

use crate::PATIENCE;

const SCRIPT: &str = "ms_per_character = 20\n[[answer]]\nheard = \"anything\"\nsay = \"Thank you.\"\n";
const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/fail2ban/filter.conf");

fn options(from: SocketAddr, to: SocketAddr, agent: &str) -> String {
    format!(
        "OPTIONS sip:100@{to} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK-x\r\nFrom: <sip:100@{from}>;tag=1\r\n\
         To: <sip:100@{to}>\r\nCall-ID: x@{from}\r\nCSeq: 1 OPTIONS\r\nUser-Agent: {agent}\r\nContent-Length: 0\r\n\r\n"
    )
}

/// What `fail2ban-regex` finds in a log with our filter: addresses.
async fn found(log: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("fail2ban-regex").args(["-o", "ip"]).arg(log).arg(FILTER).output().await?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "fail2ban-regex: {out}{}", String::from_utf8_lossy(&output.stderr));
    Ok(out.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn fail2ban_reads_who_is_refused_and_nobody_else() -> anyhow::Result<()> {
    let trunk = "[[trunk]]\nname = \"carrier\"\npeers = [\"127.0.0.9\"]";
    let daemon = Daemon::start(Setup { more: trunk.into(), ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let (stranger, scanner) = (UdpSocket::bind("127.0.0.66:0").await?, UdpSocket::bind("127.0.0.9:0").await?);
    for _ in 0..20 {
        stranger.send_to(options(stranger.local_addr()?, daemon.sip(), "a telephone").as_bytes(), daemon.sip()).await?;
        scanner
            .send_to(options(scanner.local_addr()?, daemon.sip(), "friendly-scanner").as_bytes(), daemon.sip())
            .await?;
    }
    let counted = || async { daemon.metric("callbox_sip_offences_total").await.ok()?.filter(|count| *count > 39.5) };
    eventually("40 messages refused", PATIENCE, counted).await?;
    // A caller who may call leaves no such line.
    scenario("call").from([127, 0, 0, 9], "+4930").start(Daemon::USER, daemon.sip())?.done(PATIENCE).await?;
    let log = daemon.dir().join("log");
    let addresses = found(&log).await?;
    ensure!(addresses == ["127.0.0.66", "127.0.0.9"], "one line each is wanted: {addresses:?}\n{}", daemon.log());

    // The other two forms in which such lines reach fail2ban, and lines that only look like them.
    let line = "refused SIP from 192.0.2.7: it does not know the password; 3 since its last line";
    let forms = format!(
        "Nov 21 22:46:35 box callboxd[812]: {line}\n\
         2026-11-21T22:46:36.123456Z WARN  callbox::sip::offences: {}\n\
         2026-11-21T22:46:37.123456Z INFO  callbox::call::conversation: {line}\n\
         Nov 21 22:46:38 box other[812]: {line}\n",
        line.replace("192.0.2.7", "2001:db8::7")
    );
    let path = daemon.dir().join("forms");
    std::fs::write(&path, forms)?;
    ensure!(found(&path).await? == ["192.0.2.7", "2001:db8::7"], "{:?}", found(&path).await?);
    Ok(())
}

/// A daemon whose callers must know a password that only a file holds.
async fn asking(more: &str) -> anyhow::Result<(Daemon, tempfile::TempDir)> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("password");
    std::fs::write(&path, "s3cret\n")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let asks = format!("username = \"alice\"\npassword_file = \"{}\"\nchallenge = true\n{more}\n", path.display());
    let trunk = format!("[[trunk]]\nname = \"pbx\"\npeers = [\"127.0.0.1\"]\n{asks}");
    let daemon = Daemon::start(Setup { more: trunk, log: "trace", ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    Ok((daemon, folder))
}

async fn calls(daemon: &Daemon) -> anyhow::Result<usize> {
    Ok(daemon.api("/api/v1/calls").await?["calls"].as_array().context("calls")?.len())
}

#[tokio::test]
async fn telephones_and_proxies_show_that_they_know_the_password() -> anyhow::Result<()> {
    let (daemon, _folder) = asking("").await?;
    let quiet = vec![0; 2 * 8000];
    // baresip, which knows MD5 alone.
    ensure!(Baresip::with_password("guest", "alice", "wrong")?.call(&daemon.uri(), &quiet).await.is_err());
    ensure!(calls(&daemon).await? == 0, "a wrong password made a call");
    let heard = Baresip::with_password("guest", "alice", "s3cret")?.call(&daemon.uri(), &quiet).await?;
    ensure!(heard.iter().any(|sample| sample.unsigned_abs() > 1000), "the caller heard nothing");
    // sipp, over UDP and TCP; it re-INVITEs, too, and knows MD5 alone as well.
    for tcp in [false, true] {
        let call = scenario("password").lasting(Duration::from_millis(300)).times(5, 5);
        let call = if tcp { call.over_tcp() } else { call };
        call.start(Daemon::USER, daemon.sip())?.done(PATIENCE).await.with_context(|| format!("TCP: {tcp}"))?;
    }
    ensure!(calls(&daemon).await? == 11, "{}", calls(&daemon).await?);
    // A proxy that knows the password calls for telephones that do not.
    let proxy = Kamailio::knowing(daemon.sip(), "alice", "s3cret").await?;
    let uri = format!("sip:reception@{}", proxy.address());
    let heard = Baresip::new("guest")?.call(&uri, &quiet).await?;
    ensure!(heard.iter().any(|sample| sample.unsigned_abs() > 1000), "the caller through the proxy heard nothing");
    ensure!(calls(&daemon).await? == 12);
    let refused = daemon.metrics().await?;
    let refused = refused.lines().find(|line| line.contains("trunk_refused") && line.contains("reason=\"password\""));
    ensure!(refused.is_some_and(|line| !line.ends_with(" 0")), "a wrong password is not counted: {refused:?}");
    let health = daemon.api("/health").await?["trunks"]["pbx"].clone();
    ensure!(health["calls"] == 0 && health["refused"]["password"].as_u64() > Some(0), "{health}");
    let log = daemon.log();
    ensure!(!log.contains("s3cret") && !log.contains("response="), "the log holds a secret");
    Ok(())
}

#[tokio::test]
async fn a_telephone_that_knows_sha_256_is_asked_for_nothing_less() -> anyhow::Result<()> {
    let (daemon, folder) = asking("digest = [\"sha-256\"]").await?;
    let (port, home) = (free_port(), folder.path());
    std::fs::create_dir_all(home.join(".config/linphone"))?;
    std::fs::create_dir_all(home.join(".local/share/linphone"))?;
    let settings = format!(
        "[sip]\nsip_port={port}\nsip_tcp_port=-1\nsip_tls_port=-1\nbind_address=127.0.0.1\nguess_hostname=0\n\
         contact=\"alice\" <sip:alice@127.0.0.1>\n[auth_info_0]\nusername=alice\nuserid=alice\npasswd=s3cret\n\
         realm=callbox\nalgorithm=SHA-256\n"
    );
    std::fs::write(home.join("rc"), settings)?;
    let mut linphone = Command::new("linphonec");
    linphone.arg("-c").arg(home.join("rc")).env("HOME", home).kill_on_drop(true);
    linphone.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut linphone = linphone.spawn().context("linphonec")?;
    let mut keys = linphone.stdin.take().context("its keys")?;
    let call = format!("ipv6 disable\nsoundcard use files\ncall {}\n", daemon.uri());
    keys.write_all(call.as_bytes()).await?;
    let answered = || async { daemon.metric("callbox_calls_total").await.ok()?.filter(|count| *count > 0.5) };
    eventually("an answered call", PATIENCE, answered).await?;
    keys.write_all(b"terminate\nquit\n").await?;
    tokio::time::timeout(PATIENCE, linphone.wait()).await??;
    ensure!(daemon.metric("callbox_trunk_refused_total").await? == Some(0.0), "a right password was refused");
    Ok(())
}

/// Waits for an answer to OPTIONS from this address.
async fn heard(from: &str, to: SocketAddr) -> anyhow::Result<()> {
    let answered = || async move { is_heard(from, to).await.ok()?.then_some(()) };
    eventually(&format!("an answer to {from}"), PATIENCE, answered).await
}

/// Whether one OPTIONS from this address is answered.
async fn is_heard(from: &str, to: SocketAddr) -> anyhow::Result<bool> {
    let socket = UdpSocket::bind(from).await?;
    socket.send_to(options(socket.local_addr()?, to, "a telephone").as_bytes(), to).await?;
    Ok(tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut [0; 2048])).await.is_ok())
}

#[tokio::test]
async fn a_reload_decides_anew_who_may_call_and_check_names_what_is_missing() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup::new(Engine::Scripted(SCRIPT))).await?;
    let (before, callbox) = (std::fs::read_to_string(daemon.config())?, executable("callbox")?);
    let told = async |command: &str, more: &str| -> anyhow::Result<(bool, String)> {
        std::fs::write(daemon.config(), format!("{before}\n{more}"))?;
        let output = Command::new(&callbox).arg(command).arg("--config").arg(daemon.config()).output().await?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ok((output.status.success(), text))
    };
    heard("127.0.0.66:0", daemon.sip()).await.context("without a trunk everybody may call")?;
    let trunk = "[[trunk]]\nname = \"carrier\"\npeers = [\"127.0.0.9\"]\n";
    let (done, text) = told("reload", trunk).await?;
    ensure!(done && text.contains("trunk"), "{text}");
    heard("127.0.0.9:0", daemon.sip()).await.context("a peer of the trunk")?;
    ensure!(!is_heard("127.0.0.66:0", daemon.sip()).await?, "a stranger was answered");
    for (more, sentence) in [
        ("username = \"a\"\ncredential = \"nowhere\"", "trunk.credential: in trunk \"carrier\" "),
        (
            "username = \"a\"\npassword_file = \"/nonexistent\"",
            "trunk.password_file: in trunk \"carrier\" /nonexistent",
        ),
        ("agents = { \"1\" = \"nobody\" }", "trunk.agents: in trunk \"carrier\" an agent `nobody` is named"),
    ] {
        for command in ["check", "reload"] {
            let (done, text) = told(command, &format!("{trunk}{more}\n")).await?;
            ensure!(!done && text.lines().filter(|line| line.contains(sentence)).count() == 1, "{command}: {text}");
        }
    }
    ensure!(!is_heard("127.0.0.66:0", daemon.sip()).await?, "a wrong file changes nothing");
    ensure!(told("reload", "").await?.0, "the file of before was not taken");
    heard("127.0.0.66:0", daemon.sip()).await.context("everybody may again")
}
