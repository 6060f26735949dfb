//! 100 random kills of daemon, engine and espeak-ng in ten minutes of continuous calls: what was lost.
//!
//! `cargo run --release -p callbox-benches --bin kills [-- --out FILE --kills N --seconds S --seed N --scripted]`; without
//! models, with `--scripted`, only the daemon is killed. Ends with 1 if anything was lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use callbox_tests::harness::{Engine, Setup, say};
use callbox_tests::kills::{Plan, Report, run};
use serde_json::json;

const SCRIPT: &str = r#"
first_token_ms = 20
ms_per_character = 40
[[answer]]
heard = "What do you know?"
say = "Breakfast is served from seven to ten in the morning. The garden is open all day."
"#;

fn option(arguments: &mut BTreeMap<String, String>, name: &str, default: u64) -> Result<u64> {
    let given = arguments.remove(name).map(|text| text.parse().with_context(|| format!("--{name} {text}")));
    given.unwrap_or(Ok(default))
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut arguments = BTreeMap::new();
    let mut words = std::env::args().skip(1);
    let mut scripted = false;
    while let Some(word) = words.next() {
        match word.strip_prefix("--") {
            Some("scripted") => scripted = true,
            Some(name) => {
                arguments.insert(name.to_owned(), words.next().with_context(|| format!("--{name} needs a value"))?);
            }
            None => bail!("{word} is no option"),
        }
    }
    let out = arguments.remove("out").map(PathBuf::from);
    let (seed, kills) = (option(&mut arguments, "seed", 20_261_121)?, option(&mut arguments, "kills", 100)?);
    let (seconds, callers) = (option(&mut arguments, "seconds", 600)?, option(&mut arguments, "callers", 4)?);
    if let Some(unknown) = arguments.keys().next() {
        bail!("--{unknown} is no option");
    }
    let dir = tempfile::TempDir::new()?;
    let tone = (0..4800_u32).map(|n| if n / 10 % 2 == 0 { 8000 } else { -8000 }).collect();
    let plan = Plan {
        seed,
        kills: u32::try_from(kills)?,
        lasting: Duration::from_secs(seconds),
        callers: u32::try_from(callers)?,
        seconds: (10, 40),
        question: if scripted { tone } else { say("When is breakfast served?", 0.0, 0.2, dir.path()).await? },
    };
    let engine = if scripted { Engine::Scripted(SCRIPT) } else { Engine::Pack("tiny") };
    let report = run(&plan, Setup { log: "info", ..Setup::new(engine) }).await?;
    println!("{}", report.sentences().join("\n"));
    let result = result(&plan, &report, scripted);
    if let Some(out) = out {
        std::fs::write(&out, serde_json::to_string_pretty(&result)? + "\n")?;
    }
    let sound = report.lost.is_empty() && report.records.is_empty() && report.left.is_empty();
    Ok(if sound && report.integrity == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn result(plan: &Plan, report: &Report, scripted: bool) -> serde_json::Value {
    let grown = (report.memory.1 as f64 - report.memory.0 as f64) * 1024.0 / 1e6;
    json!({
        "seed": plan.seed,
        "engine": if scripted { "scripted" } else { "tiny" },
        "seconds": plan.lasting.as_secs(),
        "kills": report.kills,
        "calls_confirmed": report.confirmed,
        "calls_refused": report.refused,
        "calls_lost": report.lost.len(),
        "questions": report.questions.0,
        "questions_followed_by_a_voice": report.questions.1,
        "answers_on_record": report.answered,
        "records_wrong": report.records.len(),
        "integrity_check": report.integrity,
        "database_faults": usize::from(report.integrity != "ok"),
        "hang_ups_that_no_daemon_saw": report.unseen_hangups,
        "left": report.left.len(),
        "memory_grown_mb": grown,
    })
}
