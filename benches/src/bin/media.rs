//! 500 telephone calls at once through the media thread alone: what was sent late, what was lost. A child process is the
//! far end of all calls, on loopback; each call's audio is looped back by its task, so both directions carry packets. It
//! is noise without a pause: two who talk all the time.
//!
//! `cargo run --release -p callbox-benches --bin media [-- --calls N --seconds S]` writes `benches/results/media.json`.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use callbox::base::{ClauseId, Clock, SystemClock, TurnId};
use callbox::media::rtp::Packet;
use callbox::media::{Codec, FRAME_TIME, Histogram, MediaConfig, MediaThread, PlayFrame, SessionParameters};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const FAR_PORTS: u16 = 41_000;
const OUR_PORTS: u16 = 30_000;
/// Before the measurement; calls are still being opened.
const WARM_UP: Duration = Duration::from_secs(2);

/// What the far end saw, of packets due within the measurement.
#[derive(Serialize, Deserialize, Debug)]
struct FarEnd {
    sent: u64,
    received: u64,
    lost: u64,
    /// Of the time between two packets of a call, from 20 ms, as the far end's own busy process saw it.
    interval_error_p50_ms: f64,
    interval_error_p99_ms: f64,
}

#[derive(Serialize, Debug)]
struct Results {
    machine: String,
    command: String,
    load_average: String,
    calls: usize,
    seconds: u64,
    far_end: FarEnd,
    packets_sent: u64,
    lateness_p50_ms: f64,
    lateness_p99_ms: f64,
    lateness_p999_ms: f64,
    lateness_worst_ms: f64,
    packets_lost_on_the_way_to_us: u64,
    packets_late_for_playing: u64,
    frames_concealed: u64,
    frames_dropped: u64,
    send_errors: u64,
    stalls: u64,
    media_thread_cpu_percent: f64,
    daemon_resident_kib_per_call: u64,
    bar: &'static str,
    passed: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        let place = arguments.iter().position(|argument| argument == name);
        place.and_then(|place| arguments.get(place + 1)).map_or(Ok(default), |text| text.parse())
    };
    let (calls, seconds) = (number("--calls", 500)? as usize, number("--seconds", 20)?);
    if arguments.iter().any(|argument| argument == "--far-end") {
        return far_end(calls, Duration::from_secs(seconds));
    }
    let results = bench(calls, seconds)?;
    let text = serde_json::to_string_pretty(&results)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("media.json"), text.clone() + "\n")?;
    println!("{text}");
    ensure!(results.passed, "below the bar: {}", results.bar);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn bench(calls: usize, seconds: u64) -> Result<Results> {
    let load_average = std::fs::read_to_string("/proc/loadavg")?.trim().to_owned();
    let media = MediaThread::start(MediaConfig {
        bind: LOCALHOST,
        ports: OUR_PORTS..=OUR_PORTS + 2 * calls as u16,
        max_sessions: calls,
    })?;
    let idle = resident_kib()?;
    let mut ports = Vec::new();
    let mut tasks = Vec::new();
    for call in 0..calls {
        let far = FAR_PORTS + call as u16;
        let reservation = media.reserve()?;
        ports.push(reservation.port());
        let parameters = SessionParameters {
            remote_rtcp: SocketAddr::new(LOCALHOST, far),
            rtcp_mux: true,
            ssrc: call as u32,
            cname: format!("call-{call}"),
            silence: Duration::from_secs(3600),
            ..SessionParameters::new(Codec::Pcmu, SocketAddr::new(LOCALHOST, far))
        };
        let mut session = media.open(reservation, parameters)?;
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = session.readable() => {}
                    _ = &mut stopped => return session.stats(),
                }
                while let Some(frame) = session.recv() {
                    // A full queue would show as concealed frames at the far end; it holds 640 ms.
                    session
                        .push(PlayFrame { turn: TurnId(0), clause: ClauseId(0), samples: frame.samples })
                        .unwrap_or_default();
                }
                session.events().for_each(drop);
            }
        });
        tasks.push((stop, task));
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--far-end", "--calls", &calls.to_string(), "--seconds", &seconds.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no stdin")?.write_all(serde_json::to_string(&ports)?.as_bytes())?;
    tokio::time::sleep(WARM_UP).await;
    let (before, cpu_before) = (media.stats(), media_thread_cpu()?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (after, cpu_after) = (media.stats(), media_thread_cpu()?);
    let resident = resident_kib()?;
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await??;
    ensure!(output.status.success(), "the far end failed");
    // What is under way arrives, and is counted.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let line = BufReader::new(&output.stdout[..]).lines().next().context("the far end said nothing")??;
    let far_end: FarEnd = serde_json::from_str(&line)?;
    let (mut received, mut late, mut concealed, mut dropped) = (0, 0, 0, 0);
    for (stop, task) in tasks {
        drop(stop);
        let stats = task.await?;
        received += stats.received;
        late += stats.buffer.late;
        concealed += stats.buffer.concealed;
        dropped += stats.frames_dropped;
    }
    let lost = far_end.sent - received;
    // The far end stops sending before we stop listening: the jitter buffers conceal that pause for 500 ms.
    let concealed = u64::saturating_sub(concealed, calls as u64 * 25);
    let lateness = after.lateness.since(&before.lateness);
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let passed =
        far_end.lost == 0 && lost == 0 && after.send_errors == 0 && lateness.quantile(0.99) < Duration::from_millis(5);
    Ok(Results {
        machine: machine()?,
        command: format!("cargo run --release -p callbox-benches --bin media -- --calls {calls} --seconds {seconds}"),
        load_average,
        calls,
        seconds,
        packets_sent: lateness.count(),
        lateness_p50_ms: ms(lateness.quantile(0.5)),
        lateness_p99_ms: ms(lateness.quantile(0.99)),
        lateness_p999_ms: ms(lateness.quantile(0.999)),
        lateness_worst_ms: ms(lateness.largest()),
        packets_lost_on_the_way_to_us: lost,
        packets_late_for_playing: late,
        frames_concealed: concealed,
        frames_dropped: dropped,
        send_errors: after.send_errors,
        stalls: after.stalls,
        media_thread_cpu_percent: (cpu_after - cpu_before) / seconds as f64 * 100.0,
        daemon_resident_kib_per_call: resident.saturating_sub(idle) / calls as u64,
        far_end,
        bar: "p99 send lateness < 5 ms and no packet lost in either direction",
        passed,
    })
}

/// Sends each call a packet every 20 ms, spread over the 20 ms, and counts what comes back.
fn far_end(calls: usize, measured: Duration) -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let ports: Vec<u16> = serde_json::from_str(&line)?;
    let sockets: Vec<UdpSocket> = (0..calls)
        .map(|call| {
            let socket = UdpSocket::bind((LOCALHOST, FAR_PORTS + call as u16))?;
            socket.set_nonblocking(true)?;
            socket.connect((LOCALHOST, ports[call]))?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    // The load must be even, whatever else the machine does.
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
        eprintln!("the far end runs at ordinary priority: {error}");
    }
    let start = SystemClock.now();
    let rounds = ((WARM_UP + measured + Duration::from_secs(1)).as_millis() / 20) as u32;
    let mut packet = [0; 12 + 160];
    let mut sequences: Vec<Vec<u16>> = vec![Vec::new(); calls];
    let mut last: Vec<Option<Instant>> = vec![None; calls];
    let (mut intervals, mut buffer) = (Histogram::default(), [0; 2048]);
    let mut noise = StdRng::seed_from_u64(1);
    for round in 0..rounds {
        for (call, socket) in sockets.iter().enumerate() {
            let due = start + FRAME_TIME * round + FRAME_TIME * call as u32 / calls as u32;
            wait_until(due);
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        let Ok(received) = Packet::parse(&buffer[..length]) else { continue };
                        if received.payload_type != 0 {
                            continue;
                        }
                        let now = SystemClock.now();
                        sequences[call].push(received.sequence);
                        // The socket is read once in 20 ms, so the arrival is known no better than that.
                        if let Some(before) = last[call].replace(now) {
                            intervals.add((now - before).abs_diff(FRAME_TIME));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            let header = Packet {
                marker: round == 0,
                payload_type: 0,
                sequence: round as u16,
                timestamp: round * 160,
                ssrc: call as u32,
                payload: &[],
            };
            packet[..12].copy_from_slice(&header.header());
            // Never the same again, so that an echo of it is looked for and not found: what costs most.
            noise.fill_bytes(&mut packet[12..]);
            socket.send(&packet)?;
        }
    }
    let received: u64 = sequences.iter().map(|sequences| sequences.len() as u64).sum();
    let expected: u64 = sequences.iter().filter_map(|all| Some(u64::from(all.last()? - all.first()?) + 1)).sum();
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let result = FarEnd {
        sent: u64::from(rounds) * calls as u64,
        received,
        lost: expected.saturating_sub(received),
        interval_error_p50_ms: ms(intervals.quantile(0.5)),
        interval_error_p99_ms: ms(intervals.quantile(0.99)),
    };
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}

fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(SystemClock.now());
    if !left.is_zero() {
        let request = rustix::thread::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        // Woken early or late: the far end is only the load.
        drop(rustix::thread::clock_nanosleep_relative(rustix::thread::ClockId::Monotonic, &request));
    }
}

fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Seconds of processor time of the thread `callbox-media`.
fn media_thread_cpu() -> Result<f64> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        if let Some((_, fields)) = stat.split_once("(callbox-media) ") {
            let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse().unwrap_or(0_u64)).sum();
            return Ok(ticks as f64 / 100.0);
        }
    }
    anyhow::bail!("no media thread")
}

fn machine() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{cores} cores of {model}, Linux {}", kernel.trim()))
}
