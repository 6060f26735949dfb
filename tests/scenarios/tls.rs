//! SIP over TLS as operators and peers meet it, and the signalling of a call as they see it.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{Baresip, Daemon, Engine, Process, Setup, eventually, executable, free_port};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::process::Command;

use crate::PATIENCE;
use crate::callers::tone;

const SCRIPT: &str = "ms_per_character = 20\n[[answer]]\nheard = \"hello\"\nsay = \"We are glad.\"\n";

/// What `openssl s_client` says at the end of a handshake in which it believed the server.
const VERIFIED: &str = "Verify return code: 0 (ok)";

/// An authority, and a certificate of it for 127.0.0.1, in files of this folder.
pub(crate) fn issue(dir: &Path, subject: &str) -> anyhow::Result<()> {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";
    if !dir.join("ca.pem").exists() {
        openssl(dir, &format!("req -x509 {key} -subj /CN=authority -keyout ca.key -out ca.pem"))?;
    }
    let of = "-CA ca.pem -CAkey ca.key -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    openssl(dir, &format!("req -x509 {key} {of} -subj /CN={subject} -keyout box.key -out box.pem"))?;
    fs::set_permissions(dir.join("box.key"), fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn openssl(dir: &Path, arguments: &str) -> anyhow::Result<()> {
    let done = std::process::Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output()?;
    ensure!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

struct Box {
    daemon: Daemon,
    files: TempDir,
    tls: SocketAddr,
}

async fn start() -> anyhow::Result<Box> {
    let files = TempDir::new()?;
    issue(files.path(), "first")?;
    let (port, folder) = (free_port(), files.path().display());
    let sip = format!("tls = [\"127.0.0.1:{port}\"]\ncertificate = \"{folder}/box.pem\"\nkey = \"{folder}/box.key\"");
    let daemon = Daemon::start(Setup { sip, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    Ok(Box { daemon, files, tls: (Ipv4Addr::LOCALHOST, port).into() })
}

impl Box {
    /// What a client sees of a handshake, and of the answer to what it sends, up to `last`, or until it gives up.
    async fn client(&self, version: &str, request: &str, last: &str) -> anyhow::Result<String> {
        let ca = self.files.path().join("ca.pem");
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &self.tls.to_string(), version, "-verify_return_error", "-CAfile"]);
        command.arg(ca).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut client = command.spawn()?;
        let mut input = client.stdin.take().context("piped")?;
        let mut output = client.stdout.take().context("piped")?;
        input.write_all(request.as_bytes()).await?;
        let mut seen = Vec::new();
        let reading = async {
            while !String::from_utf8_lossy(&seen).contains(last) && output.read_buf(&mut seen).await? > 0 {}
            // It ends with its input.
            drop(input);
            output.read_to_end(&mut seen).await?;
            client.wait_with_output().await
        };
        let ended = tokio::time::timeout(PATIENCE, reading).await.with_context(|| format!("waited for {last}"))??;
        seen.extend(ended.stderr);
        Ok(String::from_utf8_lossy(&seen).into_owned())
    }

    async fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        callbox(arguments, self.daemon.config()).await
    }
}

async fn callbox(arguments: &[&str], config: &Path) -> anyhow::Result<Output> {
    let mut command = Command::new(executable("callbox")?);
    command.args(arguments).arg("--config").arg(config).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(30), command.output()).await?.context("callbox cannot be run")
}

fn options(call: &str) -> String {
    format!(
        "OPTIONS sip:1@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;rport;branch=z9hG4bK{call}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:1@127.0.0.1>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

#[tokio::test]
async fn a_softphone_calls_over_tls_and_a_reload_renews_the_certificate_under_its_call() -> anyhow::Result<()> {
    let house = start().await?;
    for version in ["-tls1_2", "-tls1_3"] {
        let seen = house.client(version, &options(version), "SIP/2.0 200 OK").await?;
        ensure!(seen.contains(VERIFIED) && seen.contains("SIP/2.0 200 OK"), "{version}: {seen}");
        ensure!(seen.contains("CN = first") || seen.contains("CN=first"), "{seen}");
    }
    let seen = house.client("-tls1_1", "", VERIFIED).await?;
    ensure!(!seen.contains(VERIFIED) || seen.contains("alert"), "TLS 1.1: {seen}");

    let phone = Baresip::new("softphone")?.trusting(&house.files.path().join("ca.pem"))?;
    let uri = format!("sip:{}@{};transport=tls", Daemon::USER, house.tls);
    let talk = tone(400.0, 8.0);
    let calling = phone.call(&uri, &talk);
    let reloading = async {
        let up = || async { house.daemon.metric("callbox_calls_active").await.ok()?.filter(|calls| *calls > 0.5) };
        eventually("the call over TLS", PATIENCE, up).await?;
        issue(house.files.path(), "second")?;
        let reloaded = house.run(&["reload"]).await?;
        ensure!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        let seen = house.client("-tls1_3", "", VERIFIED).await?;
        ensure!(seen.contains("CN = second") || seen.contains("CN=second"), "{seen}");
        // A file that is wrong changes nothing.
        fs::write(house.files.path().join("box.key"), "nonsense")?;
        let refused = house.run(&["reload"]).await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(78) && said.contains("sip.key: "), "{said}");
        ensure!(house.client("-tls1_3", "", VERIFIED).await?.contains("second"), "the one of before is still shown");
        let calls = house.daemon.metric("callbox_calls_active").await?;
        ensure!(calls == Some(1.0), "the call stayed up: {calls:?}");
        anyhow::Ok(())
    };
    let (heard, reloaded) = tokio::join!(calling, reloading);
    reloaded?;
    ensure!(heard?.iter().any(|sample| sample.unsigned_abs() > 500), "the greeting was heard");
    let ended = || async {
        let calls = house.daemon.api("/api/v1/calls").await.ok()?;
        let call = calls["calls"].as_array()?.first()?.clone();
        (call["end_reason"] == "caller_hangup").then_some(())
    };
    eventually("the BYE of the softphone", PATIENCE, ended).await?;
    let expiry = house.daemon.metric("callbox_sip_certificate_expiry_timestamp_seconds").await?;
    ensure!(expiry.is_some_and(|seconds| seconds > 1.7e9), "{expiry:?}");
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_is_missing_keeps_the_daemon_from_starting_and_check_says_the_same() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    issue(dir.path(), "box")?;
    let folder = dir.path().display();
    let sip = format!(
        "tls = [\"127.0.0.1:{}\"]\ncertificate = \"{folder}/none.pem\"\nkey = \"{folder}/box.key\"",
        free_port()
    );
    let (config, ..) = Daemon::configure(&Setup { sip, ..Setup::new(Engine::Scripted(SCRIPT)) }, dir.path())?;
    let mut command = Command::new(executable("callboxd")?);
    let mut process = Process::start("callboxd", command.arg("--config").arg(&config), &dir.path().join("log"))?;
    let status = process.ended(Duration::from_secs(20)).await?;
    let sentence = format!("sip.certificate: {folder}/none.pem cannot be read");
    ensure!(status.code() == Some(78) && process.log().contains(&sentence), "{status}: {}", process.log());
    let checked = callbox(&["check"], &config).await?;
    let found = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(checked.status.code() == Some(1) && found.contains(&sentence), "{found}");
    Ok(())
}

/// A call in datagrams, with secrets in it; returns its id.
async fn call_with_secrets(daemon: &Daemon) -> anyhow::Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let (me, to) = (socket.local_addr()?, daemon.sip());
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP 0\r\n\
         a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:KEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYK\r\n",
        free_port()
    );
    let message = |method: &str, number: u32, tag: &str, body: &str| {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "{method} sip:{}@{to} SIP/2.0\r\nVia: SIP/2.0/UDP {me};rport;branch=z9hG4bK{method}{number}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:caller@{me}>;tag=1\r\nTo: <sip:1@{to}>{tag}\r\nCall-ID: traced\r\n\
             CSeq: {number} {method}\r\nContact: <sip:caller@{me}>\r\n\
             Authorization: Digest username=\"caller\", response=\"SECRETDIGEST\"\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            Daemon::USER,
            body.len()
        )
    };
    let mut buffer = [0; 4096];
    let mut final_answer = async |what: String| {
        socket.send_to(what.as_bytes(), to).await?;
        loop {
            let (length, _) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await??;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if !text.starts_with("SIP/2.0 1") {
                return anyhow::Ok(text);
            }
        }
    };
    let answer = final_answer(message("INVITE", 1, "", &sdp)).await?;
    ensure!(answer.starts_with("SIP/2.0 200"), "{answer}");
    let to_line = answer.lines().find(|line| line.starts_with("To:")).context("To")?;
    let tag = format!(";tag={}", to_line.split_once(";tag=").context("a tag")?.1);
    socket.send_to(message("ACK", 1, &tag, "").as_bytes(), to).await?;
    let up = || async { daemon.api("/api/v1/calls").await.ok()?["calls"][0]["id"].as_str().map(str::to_owned) };
    let id = eventually("the call in the list", PATIENCE, up).await?;
    let over = final_answer(message("BYE", 2, &tag, "")).await?;
    ensure!(over.contains("2 BYE"), "{over}");
    Ok(id)
}

#[tokio::test]
async fn a_trace_is_a_ladder_or_a_capture_that_tshark_reads_and_holds_no_secret() -> anyhow::Result<()> {
    let house = start().await?;
    let id = call_with_secrets(&house.daemon).await?;
    let ladder = house.run(&["call", "trace", &id]).await?;
    let drawn = String::from_utf8_lossy(&ladder.stdout).into_owned();
    let at = |what: &str| drawn.find(what).with_context(|| format!("{what} is not in\n{drawn}"));
    ensure!(at("INVITE SDP")? < at("200 OK (INVITE) SDP")? && at(" ACK ")? < at(" BYE ")?, "{drawn}");
    let file = house.files.path().join("call.pcap");
    let written = house.run(&["call", "trace", &id, "--pcap", &file.display().to_string()]).await?;
    ensure!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "it names the caller");
    let json = house.run(&["call", "trace", &id, "--json"]).await?;
    for bytes in [fs::read(&file)?, json.stdout] {
        let text = String::from_utf8_lossy(&bytes);
        ensure!(text.contains("a=crypto:") && text.contains("Authorization:"), "the lines themselves are there");
        ensure!(!text.contains("KEYKEY") && !text.contains("SECRETDIGEST"), "a secret is in the trace");
    }
    let fields = ["-e", "udp.checksum.status", "-e", "ip.checksum.status", "-e", "sip.Method", "-e", "sip.Status-Code"];
    let mut command = Command::new("tshark");
    command.args(["-r"]).arg(&file).args(["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
    command.args(["-Y", "sip", "-T", "fields"]).args(fields).kill_on_drop(true);
    let read = tokio::time::timeout(Duration::from_secs(30), command.output()).await??;
    let lines = String::from_utf8_lossy(&read.stdout).into_owned();
    let said: Vec<&str> = lines.lines().map(|line| line.trim_start_matches("1\t1\t").trim()).collect();
    std::io::stdout().write_all(lines.as_bytes())?;
    let wanted = |what: &str| said.contains(&what);
    ensure!(["INVITE", "200", "ACK", "BYE"].iter().all(|what| wanted(what)), "{said:?} of {lines:?}");
    ensure!(lines.lines().all(|line| line.starts_with("1\t1\t")), "sums that are wrong: {lines:?}");
    Ok(())
}
