//! What goes wrong on a bad day, done on purpose: the call, the daemon and the machine are as they were.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{Daemon, Engine, Rtp, Setup, eventually, get, say, scenario, share_heard, transcribe};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::callers::{ask, call, meanwhile};
use crate::talk::{TALKER, Talk, Told};
use crate::{PATIENCE, PAUSE, converse};

/// What the apology of the agent may take to be heard after its engine died.
const APOLOGY: Duration = Duration::from_secs(1);

/// How far apart the daemon's memory may be before and after something that must leave nothing, in KiB: an allocator
/// keeps some of what it was given.
const SLACK: u64 = 8 << 10;

#[tokio::test]
async fn a_killed_engine_is_apologised_for_and_replaced() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut daemon = Daemon::start(Setup::new(Engine::Pack("tiny"))).await?;
    let question = say("Please tell me everything that you know about the hotel.", 0.0, 0.2, dir.path()).await?;

    let mut rtp = Rtp::bind().await?;
    let call = scenario("call").audio_at(rtp.port()?).lasting(Duration::from_secs(45));
    let call = call.start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no greeting was heard");
    rtp.say(question.clone());
    ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the question was not sent");
    let asked = Instant::now();
    ensure!(rtp.run(PATIENCE, |rtp| rtp.track().first_voiced(asked).is_some()).await?, "no answer was heard");

    let engine = daemon.engine().context("callboxd has no engine")?;
    kill_process(engine, Signal::KILL)?;
    let killed = Instant::now();
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "nothing was heard after the engine had died");
    let heard = rtp.track().first_voiced(killed).context("voiced")?;
    ensure!(heard - killed <= APOLOGY, "first heard {:?} after the engine had died", heard - killed);

    daemon.ready().await?;
    let replaced = daemon.engine().context("there is no new engine")?;
    ensure!(replaced != engine, "the engine was not replaced");
    // Now that there are ears again: what was heard was an apology, not silence or noise.
    let words = transcribe(&rtp.track().samples(killed), daemon.dir()).await?;
    ensure!(words.to_lowercase().contains("sorry"), "no apology in {words:?}");

    rtp.say(question);
    ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the second question was not sent");
    let asked = Instant::now();
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no answer after the restart");
    let answer = transcribe(&rtp.track().samples(asked), daemon.dir()).await?;
    call.done(Duration::from_secs(60)).await?;
    let turns = daemon.turns().await?;
    let told = turns.iter().any(|turn| share_heard(&turn.agent, &answer) >= 0.5);
    ensure!(told, "no turn said what was heard: {answer:?}");
    Ok(())
}

/// Calls that one engine answers when it dies, and how long none of their callers may hear nothing.
const CALLS: usize = 8;
const SILENCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_killed_engine_costs_none_of_eight_calls_and_no_question_after_it() -> anyhow::Result<()> {
    let mut daemon = Daemon::start(Setup { agent: TALKER, ..Setup::new(Engine::Pack("tiny")) }).await?;
    let talk = Talk::begin(&daemon, CALLS).await?;
    let engine = daemon.engine().context("callboxd has no engine")?;
    kill_process(engine, Signal::KILL)?;
    talk.lost();
    let another = || async { daemon.engine().filter(|another| *another != engine) };
    eventually("another engine", PATIENCE, another).await?;
    daemon.ready().await?;
    let Told { silences, apologies } = talk.end().await?;
    println!("silences of {CALLS} callers: {silences:?}; {apologies} apologies");
    let longest = silences.iter().flatten().max().context("nobody heard anything")?;
    ensure!(*longest <= SILENCE, "somebody heard nothing for {longest:?}");
    ensure!(apologies > 0, "nobody was in the middle of an answer");
    let calls = daemon.api("/api/v1/calls?limit=100").await?;
    let ends = calls["calls"].as_array().context("a list")?.iter().filter(|call| call["end_reason"] == "caller_hangup");
    ensure!(ends.count() == CALLS, "{calls}");
    Ok(())
}

#[tokio::test]
async fn calls_that_vanish_leave_nothing_behind() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup { silence: 5, ..Setup::new(Engine::Pack("tiny")) }).await?;
    let vanish = || async {
        let calls = scenario("vanish").times(200, 20).start(Daemon::USER, daemon.sip())?;
        calls.done(Duration::from_secs(60)).await?;
        let none = || async { daemon.metric("callbox_calls_active").await.ok()?.filter(|active| *active < 0.5) };
        eventually("200 calls without a caller to end", Duration::from_secs(90), none).await
    };
    // The first round pays for pools and caches that stay.
    vanish().await?;
    let before = daemon.usage()?;
    vanish().await?;
    // RFC 3261 keeps a finished transaction for 32 s; nothing but time ends that.
    let back = || async {
        let now = daemon.usage().ok()?;
        (now.files <= before.files && now.threads <= before.threads && now.memory <= before.memory + SLACK)
            .then_some(())
    };
    let settled = eventually("memory, files and threads to come back", Duration::from_secs(60), back).await;
    settled.with_context(|| format!("before: {before:?}, now: {:?}", daemon.usage()))
}

/// Of 8000 datagrams to the SIP port, those that must have come to the parser and been no SIP: the kernel may drop some.
const READ: f64 = 3000.0;

/// Of 2000 datagrams to RTP ports, half are sent to the one of a call.
const RECEIVED: f64 = 700.0;

#[tokio::test]
async fn hostile_datagrams_change_nothing() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    // They come from a trunk: what others send is not even read once they have sent some of it.
    let storm = "[[trunk]]\nname = \"storm\"\npeers = [\"127.0.0.66\"]\nmax_calls = 400\ninvites_per_second = 10000\n";
    let mut daemon = Daemon::start(Setup { more: storm.into(), ..Setup::new(Engine::Pack("tiny")) }).await?;
    let before = daemon.usage()?;
    let question = say("When is breakfast served?", 0.0, 0.2, dir.path()).await?;
    let (up, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(40))).await?;
    let received = daemon.metric("callbox_media_packets_received_total").await?.context("a count")?;
    let theirs = rtp.track().heard().last().context("no audio")?.from;
    meanwhile(&mut rtp, send_hostile(&daemon, theirs)).await?;
    ensure!(daemon.runs(), "callboxd ended");
    let malformed = daemon.metric("callbox_sip_malformed_total").await?.context("a count")?;
    ensure!(malformed > READ, "only {malformed} were read as SIP");
    let received = daemon.metric("callbox_media_packets_received_total").await?.context("a count")? - received;
    ensure!(received > RECEIVED, "only {received} came to the socket of the call");
    ask(&mut rtp, question.clone()).await.context("the call that was up")?;
    meanwhile(&mut rtp, up.done(Duration::from_secs(60))).await?;
    ensure!(get(daemon.http(), "/health/live").await?.0 == 200, "callboxd is not alive");
    let log = daemon.log();
    let panic = log.lines().find(|line| line.contains("panicked") || line.contains("a bug of Callbox"));
    ensure!(panic.is_none(), "{panic:?}");
    converse(&daemon, question).await?;
    ensure!(daemon.turns().await?.len() >= 2, "the caller after the storm was not answered");

    let back = || async { (daemon.usage().ok()?.memory <= before.memory + 3 * SLACK).then_some(()) };
    let settled = eventually("memory to come back", Duration::from_secs(90), back).await;
    settled.with_context(|| format!("before: {before:?}, now: {:?}", daemon.usage()))
}

/// 10 000 datagrams within some seconds: four fifths for SIP, the others for this RTP socket and for ports around it.
async fn send_hostile(daemon: &Daemon, rtp: SocketAddr) -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(0x0e00_5eed);
    let socket = UdpSocket::bind("127.0.0.66:0").await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    for number in 0..10_000 {
        let to = match number % 10 {
            4 => rtp,
            9 => rtp_port(daemon, &mut rng)?,
            _ => daemon.sip(),
        };
        // A full socket buffer is the daemon's protection, not a failure of this test.
        socket.send_to(&hostile(&mut rng), to).await.unwrap_or_default();
        if number % 10 == 0 {
            ticks.tick().await;
        }
    }
    Ok(())
}

fn rtp_port(daemon: &Daemon, rng: &mut ChaCha8Rng) -> anyhow::Result<SocketAddr> {
    let config: toml::Table = toml::from_str(&std::fs::read_to_string(daemon.config())?)?;
    let range = config["media"]["ports"].as_str().context("media.ports")?;
    let (first, last) = range.split_once('-').context("first-last")?;
    let port: u16 = rng.random_range(first.parse()?..=last.parse()?);
    Ok((std::net::Ipv4Addr::LOCALHOST, port).into())
}

/// Bytes that nobody should send: noise, SIP cut short, SIP with bytes changed, lengths that lie, RTP of a stranger.
fn hostile(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut message = format!(
        "INVITE sip:reception@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.66:5060;branch=z9hG4bK{0}\r\n\
         From: <sip:x@127.0.0.66>;tag={0}\r\nTo: <sip:reception@127.0.0.1>\r\nCall-ID: {0}\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:x@127.0.0.66>\r\nMax-Forwards: 70\r\nContent-Type: application/sdp\r\nContent-Length: 90\r\n\r\n\
         v=0\r\no=- 1 1 IN IP4 127.0.0.66\r\ns=-\r\nc=IN IP4 127.0.0.66\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n",
        rng.random::<u64>()
    );
    match rng.random_range(0..7) {
        0 => {
            let mut noise = vec![0; rng.random_range(0..1400)];
            rng.fill_bytes(&mut noise);
            return noise;
        }
        1 => message.truncate(rng.random_range(0..message.len())),
        2 => message = message.replace("Content-Length: 90", "Content-Length: 4294967297"),
        3 => message = message.replace("CSeq: 1 INVITE", "CSeq: 99999999999 BYE"),
        4 => message = message.replace("Max-Forwards: 70\r\n", &"Via: SIP/2.0/UDP a;branch=b\r\n".repeat(40)),
        5 => {
            let mut rtp = vec![0x80, rng.random_range(0..128)];
            rtp.resize(rng.random_range(2..400), rng.random());
            return rtp;
        }
        _ => {}
    }
    let mut bytes = message.into_bytes();
    for _ in 0..rng.random_range(1..12) {
        if !bytes.is_empty() {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
    }
    bytes
}
