//! Random processes of a daemon are killed while people talk to it. Enters: a plan, seeded; leaves: what was lost.
//!
//! Callers call, ask, listen, hang up and call again; each is a sipp of its own, so that the far end of every dialog knows
//! nothing of our signalling. One killer kills, and starts the daemon again as a service manager does. At the end
//! everything must be as before the first call, and the database must tell what the callers have seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::{Daemon, Rtp, Setup, Usage, eventually, scenario};

/// What to do.
pub struct Plan {
    /// Where all random choices come from.
    pub seed: u64,
    /// Processes to kill.
    pub kills: u32,
    /// From the first kill to the last.
    pub lasting: Duration,
    /// People who call at once.
    pub callers: u32,
    /// Seconds that a call lasts, from and to.
    pub seconds: (u64, u64),
    /// What they ask, each time.
    pub question: Vec<i16>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Kills by victim.
    pub kills: BTreeMap<&'static str, u32>,
    /// Calls that were answered.
    pub confirmed: usize,
    /// Calls that were refused with 503: no engine was ready.
    pub refused: usize,
    /// One sentence for each confirmed call that did not last until its caller hung up.
    pub lost: Vec<String>,
    /// Questions, and those after which the agent said something.
    pub questions: (u32, u32),
    /// Exchanges on record with words of the caller, and an answer of which something was heard.
    pub answered: u32,
    /// What `PRAGMA integrity_check` says.
    pub integrity: String,
    /// One sentence for each confirmed call that is not recorded once, with its end.
    pub records: Vec<String>,
    /// Calls whose BYE was answered by a daemon that died before it could note that.
    pub unseen_hangups: usize,
    /// One sentence for each thing that is still held.
    pub left: Vec<String>,
    /// What the daemon held after its first calls, and at the end.
    pub usage: Option<(Usage, Usage)>,
    /// Resident memory of the daemon in KiB: after its first calls, and the most before any kill and at the end.
    pub memory: (u64, u64),
}

/// The longest that a caller waits for the answer to a question.
const ANSWER: Duration = Duration::from_secs(12);

/// Longest silence on the line of a call that goes on: a daemon is back sooner.
const SILENT: Duration = Duration::from_secs(3);

/// RFC 3261 keeps a finished transaction for 32 s; nothing but time ends that.
const SETTLED: Duration = Duration::from_secs(60);

/// Carries a plan out.
///
/// # Errors
/// If the daemon cannot be started, or does not become ready again after a kill.
pub async fn run(plan: &Plan, setup: Setup) -> anyhow::Result<Report> {
    let mut daemon = Daemon::serve(setup).await?;
    let mut report = Report::default();
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let question = Arc::new(plan.question.clone());

    // The first calls pay for pools and caches that stay.
    let (over, stop) = watch::channel(true);
    let mut first = Callers::new(plan, daemon.sip(), &question, stop);
    first.call(&mut report).await;
    let idle = || async { daemon.metric("callbox_calls_active").await.ok()?.filter(|active| *active < 0.5) };
    eventually("the first calls to end", SETTLED, idle).await?;
    sleep(Duration::from_secs(1)).await;
    let before = daemon.usage()?;
    let mut most = 0;

    over.send_replace(false);
    let mut callers = Callers::new(plan, daemon.sip(), &question, over.subscribe());
    let calling = tokio::spawn(async move {
        let mut report = Report::default();
        callers.call(&mut report).await;
        report
    });
    let pause = plan.lasting / plan.kills.max(1);
    for _ in 0..plan.kills {
        sleep(pause.mul_f64(random.random_range(0.5..1.5))).await;
        most = most.max(daemon.usage()?.memory);
        let victim = kill(&mut daemon, &mut random).await?;
        *report.kills.entry(victim).or_default() += 1;
    }
    daemon.ready().await?;
    over.send_replace(true);
    report.add(calling.await?);

    settle(&mut daemon, &mut report, before).await?;
    report.memory = (before.memory, most.max(daemon.usage()?.memory));
    records(&daemon.database(), &mut report)?;
    Ok(report)
}

/// Kills somebody; says whom.
async fn kill(daemon: &mut Daemon, random: &mut ChaCha8Rng) -> anyhow::Result<&'static str> {
    let shoot = |victims: Vec<Pid>| match victims.first() {
        Some(victim) => kill_process(*victim, Signal::KILL).is_ok(),
        None => false,
    };
    let victim = match random.random_range(0..10) {
        0..3 if shoot(daemon.engines()) => "engine",
        3..5 if shoot(daemon.espeaks()) => "espeak-ng",
        5 if shoot(daemon.engines()) => {
            daemon.crash(|_| {}).await?;
            "daemon and engine"
        }
        _ => {
            daemon.crash(|_| {}).await?;
            "daemon"
        }
    };
    Ok(victim)
}

/// Everything comes back to what it was.
async fn settle(daemon: &mut Daemon, report: &mut Report, before: Usage) -> anyhow::Result<()> {
    daemon.ready().await?;
    let end = Instant::now() + SETTLED;
    loop {
        report.left = held(daemon, before).await?;
        if report.left.is_empty() || Instant::now() > end {
            report.usage = Some((before, daemon.usage()?));
            return Ok(());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn held(daemon: &Daemon, before: Usage) -> anyhow::Result<Vec<String>> {
    let mut held = Vec::new();
    for name in ["callbox_calls_active", "callbox_media_sessions", "callbox_media_ports_used", "callbox_sip_dialogs"] {
        let value = daemon.metric(name).await?.unwrap_or(0.0);
        if value > 0.5 {
            held.push(format!("{name} is {value}"));
        }
    }
    let stored = daemon.manager().stored();
    if !stored.is_empty() {
        held.push(format!("the manager keeps {stored:?}"));
    }
    let now = daemon.usage()?;
    if now.files > before.files || now.threads > before.threads {
        held.push(format!("before {before:?}, now {now:?}"));
    }
    for (what, count) in [("engines", daemon.engines().len()), ("espeak-ng", daemon.espeaks().len())] {
        if count > 1 {
            held.push(format!("{count} {what}"));
        }
    }
    Ok(held)
}

/// Compares what the callers have seen with what the database tells.
fn records(database: &Path, report: &mut Report) -> anyhow::Result<()> {
    let open = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    report.integrity = open.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    let answered = "SELECT count(*) FROM turns WHERE caller_text <> '' AND heard_text <> ''";
    report.answered = open.query_row(answered, [], |row| row.get(0))?;
    let mut rows = open.prepare("SELECT caller, end_reason, ended_us FROM calls")?;
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rows = rows.collect::<Result<Vec<(String, Option<String>, Option<i64>)>, _>>()?;
    for (caller, reason, ended) in &rows {
        match (reason.as_deref(), ended) {
            (Some("caller_hangup"), Some(_)) => {}
            (Some("media_timeout"), Some(_)) => report.unseen_hangups += 1,
            _ => report.records.push(format!("{caller}: ended at {ended:?} because of {reason:?}")),
        }
    }
    if rows.len() != report.confirmed {
        report.records.push(format!("{} records of {} calls", rows.len(), report.confirmed));
    }
    Ok(())
}

/// People who call, one after the other each.
struct Callers {
    number: u32,
    seed: u64,
    seconds: (u64, u64),
    sip: SocketAddr,
    question: Arc<Vec<i16>>,
    over: watch::Receiver<bool>,
}

impl Callers {
    fn new(plan: &Plan, sip: SocketAddr, question: &Arc<Vec<i16>>, over: watch::Receiver<bool>) -> Self {
        let question = Arc::clone(question);
        Self { number: plan.callers, seed: plan.seed, seconds: plan.seconds, sip, question, over }
    }

    /// Until it is over, but each at least once.
    async fn call(&mut self, report: &mut Report) {
        let mut callers = JoinSet::new();
        for number in 0..self.number {
            let (seconds, sip, question, over) =
                (self.seconds, self.sip, Arc::clone(&self.question), self.over.clone());
            let mut random = ChaCha8Rng::seed_from_u64(self.seed + 1 + u64::from(number));
            callers.spawn(async move {
                let mut report = Report::default();
                loop {
                    let lasting = Duration::from_secs(random.random_range(seconds.0..=seconds.1));
                    if let Err(error) = one_call(sip, number, lasting, &question, &mut report).await {
                        report.lost.push(format!("{error:#}"));
                    }
                    if *over.borrow() {
                        return report;
                    }
                }
            });
        }
        while let Some(ended) = callers.join_next().await {
            match ended {
                Ok(one) => report.add(one),
                Err(error) => report.lost.push(format!("a caller of this test failed: {error}")),
            }
        }
    }
}

impl Report {
    fn add(&mut self, other: Self) {
        self.confirmed += other.confirmed;
        self.refused += other.refused;
        self.lost.extend(other.lost);
        self.questions.0 += other.questions.0;
        self.questions.1 += other.questions.1;
    }

    /// The lines that tell how it went.
    pub fn sentences(&self) -> Vec<String> {
        let count = |what: &str, all: &[String]| format!("{what}: {}{}", all.len(), list(all));
        vec![
            format!("kills: {:?}", self.kills),
            format!("calls: {} confirmed, {} refused", self.confirmed, self.refused),
            format!(
                "questions: {}, {} of them followed by a voice, {} answers on record",
                self.questions.0, self.questions.1, self.answered
            ),
            count("calls lost", &self.lost),
            count("wrong records", &self.records),
            format!("hang-ups that no daemon saw: {}", self.unseen_hangups),
            format!("integrity: {}", self.integrity),
            count("left", &self.left),
            format!("usage: {:?}, memory in KiB: {:?}", self.usage, self.memory),
        ]
    }
}

fn list(all: &[String]) -> String {
    all.iter().map(|one| format!("\n    {one}")).collect()
}

/// One call, to its end. Its loss is an error.
async fn one_call(
    sip: SocketAddr,
    number: u32,
    lasting: Duration,
    question: &[i16],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rtp = Rtp::bind().await?;
    let name = format!("caller{number}");
    let calls = scenario("persist").from([127, 0, 0, 1], &name).audio_at(rtp.port()?).lasting(lasting);
    let mut sipp = calls.start(Daemon::USER, sip)?;
    let begun = Instant::now();
    let (done, over) = watch::channel(false);
    let talking = async {
        let mut questions = (0, 0);
        let is_over = || *over.borrow();
        rtp.run(lasting, |rtp| is_over() || quiet(rtp, begun)).await?;
        while !is_over() {
            rtp.say(question.to_vec());
            rtp.run(lasting, |rtp| is_over() || rtp.has_said_it()).await?;
            let asked = Instant::now();
            let answered = rtp.run(ANSWER, |rtp| is_over() || rtp.track().first_voiced(asked).is_some()).await?;
            if is_over() {
                break;
            }
            questions = (questions.0 + 1, questions.1 + u32::from(answered));
            rtp.run(ANSWER, |rtp| is_over() || quiet(rtp, asked)).await?;
        }
        anyhow::Ok((rtp, questions))
    };
    let signalling = async {
        let ended = sipp.ended(lasting + Duration::from_secs(45)).await;
        done.send_replace(true);
        ended
    };
    let (talked, ended) = tokio::join!(talking, signalling);
    let (rtp, questions) = talked?;
    if ended.is_ok() && sipp.logged().contains("refused") {
        report.refused += 1;
        sleep(Duration::from_millis(500)).await;
        return Ok(());
    }
    report.confirmed += 1;
    report.questions = (report.questions.0 + questions.0, report.questions.1 + questions.1);
    ended.with_context(|| format!("{name}, a call of {lasting:?}"))?;
    let last = rtp.track().heard().last().with_context(|| format!("{name} was answered, and nothing was heard"))?;
    anyhow::ensure!(last.at.elapsed() < SILENT, "{name}: {:?} of silence before the end", last.at.elapsed());
    Ok(())
}

/// The agent has said something and is silent.
fn quiet(rtp: &Rtp, from: Instant) -> bool {
    rtp.track().last_voiced(from).is_some_and(|last| last.elapsed() > Duration::from_millis(900))
}
