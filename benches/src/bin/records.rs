//! Records at 5 000 a second for a minute, the process killed with `kill -9` in the middle: what was lost, and how long
//! whoever records is held up.
//!
//! `cargo run --release -p callbox-benches --bin records [-- --out FILE --seconds S --rate N]`. A child records calls of ten
//! records each (begin, eight turns with their stages, end), and says which calls are committed; the parent kills it,
//! starts another on the same database, and then looks at every call. Ends with 1 if anything was lost.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use callbox::base::{CallId, Clock as _, Pii, SystemClock, TurnId};
use callbox::storage::{
    CallRecord, Direction, MediaStats, Record, Storage, StorageHandle, Timestamp, Timing, TurnRecord,
};
use rusqlite::Connection;
use serde_json::json;

/// Turns of a call; with its begin and its end that is ten records.
const TURNS: u32 = 8;
const OF_A_CALL: u64 = TURNS as u64 + 2;

/// Stages of a turn: what a turn that was answered has.
const STAGES: [Timing; 9] = [
    Timing::Pause,
    Timing::Stt,
    Timing::Prefill,
    Timing::FirstClause,
    Timing::TtsFirst,
    Timing::Hold,
    Timing::Playout,
    Timing::Endpoint,
    Timing::VoiceToVoice,
];

/// Enqueueing is counted by the microsecond up to here.
const LONGEST_US: usize = 2000;

/// How often records are queued.
const TICK: Duration = Duration::from_millis(2);

fn main() -> Result<ExitCode> {
    let mut arguments = BTreeMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").with_context(|| format!("{word} is no option"))?.to_owned();
        arguments.insert(name.clone(), words.next().with_context(|| format!("--{name} needs a value"))?);
    }
    let mut number = |name: &str, default: u64| -> Result<u64> {
        arguments.remove(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("--{name} {text}")))
    };
    let (seconds, rate, life) = (number("seconds", 60)?, number("rate", 5000)?, number("life", 0)?);
    let out = arguments.remove("out").map(PathBuf::from);
    if let Some(database) = arguments.remove("database") {
        record(Path::new(&database), life, rate)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = arguments.keys().next() {
        bail!("--{unknown} is no option");
    }
    let folder = tempfile::TempDir::new()?;
    let database = folder.path().join("callbox.db");
    let lives = [1, 2].map(|life| live(&database, life, rate, Duration::from_secs(seconds / 2)));
    let lives = lives.into_iter().collect::<Result<Vec<_>>>()?;

    let connection = Connection::open(&database)?;
    let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    let wrong = lives.iter().zip(1..).map(|(told, life)| broken(&connection, life, told.committed));
    let wrong: u64 = wrong.collect::<Result<Vec<_>>>()?.iter().sum();
    let took = lives.iter().fold(vec![0; LONGEST_US + 1], |sum, told| {
        sum.iter().zip(&told.took).map(|(a, b)| a + b).collect::<Vec<u64>>()
    });
    let sum = |of: fn(&Told) -> u64| lives.iter().map(of).sum::<u64>();
    let result = json!({
        "seconds": seconds,
        "rate": rate,
        "records": sum(|told| told.queued),
        "records_dropped": sum(|told| told.dropped),
        "calls_committed": sum(|told| told.committed),
        "calls_wrong": wrong,
        "integrity_check": integrity,
        "database_faults": u64::from(integrity != "ok"),
        "enqueue_p50_us": percentile(&took, 50.0),
        "enqueue_p99_us": percentile(&took, 99.0),
        "enqueue_p999_us": percentile(&took, 99.9),
        "database_mb": std::fs::metadata(&database)?.len() as f64 / 1e6,
    });
    println!("{result:#}");
    if let Some(out) = out {
        std::fs::write(&out, serde_json::to_string_pretty(&result)? + "\n")?;
    }
    Ok(if wrong == 0 && integrity == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a child has said.
#[derive(Default)]
struct Told {
    /// Calls that were committed with all that belongs to them.
    committed: u64,
    queued: u64,
    dropped: u64,
    /// How many records took so many microseconds to be queued.
    took: Vec<u64>,
}

/// Has a child record for so long, and kills it.
fn live(database: &Path, life: u64, rate: u64, lasting: Duration) -> Result<Told> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--life", &life.to_string(), "--rate", &rate.to_string(), "--database"])
        .arg(database)
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
    let pid = rustix::process::Pid::from_child(&child);
    std::thread::spawn(move || {
        let begun = SystemClock.now();
        while begun.elapsed() < lasting {
            std::thread::park_timeout(lasting.saturating_sub(begun.elapsed()));
        }
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
    });
    let mut told = Told { took: vec![0; LONGEST_US + 1], ..Told::default() };
    // One that was cut off in the middle of a line has not said it.
    for line in lines.map_while(Result::ok) {
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next().and_then(Result::ok);
        if let (Some(committed), Some(queued), Some(dropped)) = (next(), next(), next()) {
            let took: Vec<u64> = std::iter::from_fn(next).collect();
            if took.len() == LONGEST_US + 1 {
                told = Told { committed, queued, dropped, took };
            }
        }
    }
    ended(&mut child)?;
    Ok(told)
}

fn ended(child: &mut Child) -> Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let status = child.wait()?;
    anyhow::ensure!(status.signal() == Some(9), "the child ended by itself: {status}");
    Ok(())
}

/// The child: records until it is killed.
fn record(database: &Path, life: u64, rate: u64) -> Result<()> {
    let storage = Storage::open(database, Arc::new(SystemClock))?;
    let handle = storage.handle();
    let shared = Arc::new(Shared::default());
    let (teller, told) = (handle.clone(), Arc::clone(&shared));
    std::thread::spawn(move || tell(&teller, &told));
    let (begun, mut sent) = (SystemClock.now(), 0_u64);
    loop {
        let due = begun.elapsed().as_micros() as u64 * rate / 1_000_000;
        while sent < due {
            let (call, part) = (sent / OF_A_CALL, sent % OF_A_CALL);
            let record = part_of(life, call, part);
            let before = SystemClock.now();
            handle.record(record);
            let took = before.elapsed().as_nanos().div_ceil(1000) as usize;
            shared.took[took.min(LONGEST_US)].fetch_add(1, Ordering::Relaxed);
            sent += 1;
            shared.calls.store(sent / OF_A_CALL, Ordering::Release);
            shared.queued.store(sent, Ordering::Relaxed);
        }
        std::thread::park_timeout(TICK);
        if shared.failed.load(Ordering::Relaxed) {
            bail!("nobody listens");
        }
    }
}

struct Shared {
    calls: AtomicU64,
    queued: AtomicU64,
    failed: AtomicBool,
    took: Vec<AtomicU64>,
}

impl Default for Shared {
    fn default() -> Self {
        let took = (0..=LONGEST_US).map(|_| AtomicU64::new(0)).collect();
        Self { calls: AtomicU64::new(0), queued: AtomicU64::new(0), failed: AtomicBool::new(false), took }
    }
}

/// Says again and again which calls are committed.
fn tell(handle: &StorageHandle, shared: &Shared) {
    loop {
        let (calls, queued) = (shared.calls.load(Ordering::Acquire), shared.queued.load(Ordering::Relaxed));
        handle.flush();
        let dropped = handle.metrics().queue_full() + handle.metrics().write_failed();
        let took: Vec<_> = shared.took.iter().map(|count| count.load(Ordering::Relaxed).to_string()).collect();
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{calls} {queued} {dropped} {}", took.join(" ")).and_then(|()| out.flush()).is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        drop(out);
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

const fn id(life: u64, call: u64) -> CallId {
    // Ids are random in the product: their rows are spread over the whole table.
    CallId((life << 60) | (call.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 4))
}

fn part_of(life: u64, call: u64, part: u64) -> Record {
    let id = id(life, call);
    let now = Timestamp::from(SystemClock.wall());
    let ends = part == OF_A_CALL - 1;
    if part > 0 && !ends {
        let words = "When is breakfast served, and do you have a room with a balcony for two nights?";
        let answer = "Breakfast is served from seven to ten in the morning.";
        let mut turn = TurnRecord {
            caller_text: Pii::new(words.into()),
            agent_text: Pii::new(answer.into()),
            heard_text: Pii::new(answer.into()),
            kind: "answer".into(),
            outcome: "completed".into(),
            ..TurnRecord::new(id, TurnId(u32::try_from(part).unwrap_or(0)), now)
        };
        for stage in STAGES {
            turn.took(stage, Duration::from_millis(120));
        }
        return Record::Turn(Box::new(turn));
    }
    Record::Call(Box::new(CallRecord {
        id,
        agent: "frontdesk".into(),
        direction: Direction::Inbound,
        from: Pii::new(format!("+1555{:07}", call % 1_000_000)),
        to: Pii::new("+4930123".into()),
        codec: "PCMU".into(),
        started: now,
        answered: Some(now),
        ended: ends.then_some(now),
        end_reason: ends.then(|| "caller_hangup".into()),
        turns: if ends { TURNS } else { 0 },
        media: MediaStats::default(),
    }))
}

/// Calls that were committed and are not whole.
fn broken(connection: &Connection, life: u64, committed: u64) -> Result<u64> {
    let mut ended = connection.prepare("SELECT turns FROM calls WHERE id = ?1 AND ended_us IS NOT NULL")?;
    let mut turns = connection.prepare("SELECT count(*) FROM turns WHERE call = ?1")?;
    let mut stages = connection.prepare("SELECT count(*) FROM stages WHERE call = ?1")?;
    let mut broken = 0;
    for call in 0..committed {
        let id = id(life, call).to_string();
        let of = |statement: &mut rusqlite::Statement<'_>| statement.query_row([&id], |row| row.get::<_, i64>(0));
        let whole = of(&mut ended).unwrap_or(-1) == i64::from(TURNS)
            && of(&mut turns)? == i64::from(TURNS)
            && of(&mut stages)? == i64::from(TURNS) * STAGES.len() as i64;
        broken += u64::from(!whole);
    }
    Ok(broken)
}

/// Nearest rank, in microseconds.
fn percentile(took: &[u64], percent: f64) -> usize {
    let rank = (took.iter().sum::<u64>() as f64 * percent / 100.0).ceil() as u64;
    let mut seen = 0;
    took.iter()
        .position(|count| {
            seen += count;
            seen >= rank
        })
        .unwrap_or(LONGEST_US)
}
