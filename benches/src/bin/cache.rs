//! The cache of answers, in figures. First its lookup among 100 000 entries of one agent, the vector apart, on two threads
//! at once; then the labelled set with the real embedder: how many paraphrases are found, and how many near-misses are
//! taken for what they are not.
//!
//! `cargo run --release -p callbox-benches --bin cache [-- --out FILE --models DIR]`. Ends with 1 if a near-miss that
//! differs in a number, a day or a negation was found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use callbox::base::Origin;
use callbox::cache::reading::{Reading, own_names};
use callbox::cache::vectors::{Packed, WIDTH};
use callbox::cache::{Entry, Library, Rules};
use callbox_tests::labelled::{self, Embedder, Labelled, Tally};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Entries of the agent whose lookups are timed.
const ENTRIES: u64 = 100_000;

/// Lookups of each thread.
const LOOKUPS: usize = 300;

const THREADS: u64 = 2;

fn main() -> Result<ExitCode> {
    let (mut out, mut models) = (None, std::env::var_os("CALLBOX_MODELS").map(PathBuf::from));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--out" => out = Some(PathBuf::from(value)),
            "--models" => models = Some(PathBuf::from(value)),
            _ => bail!("{word} is no option"),
        }
    }
    let models = models.context("say where the models are: --models DIR or CALLBOX_MODELS")?;
    let lookup = lookup()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let labelled = runtime.block_on(measure(&models))?;
    let strict = labelled["all"]["wrong_strict"].as_u64().unwrap_or(1);
    let result = json!({ "lookup": lookup, "labelled": labelled });
    let text = serde_json::to_string_pretty(&result)?;
    println!("{text}");
    if let Some(out) = out {
        std::fs::write(out, text + "\n")?;
    }
    Ok(if strict == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A vector of length 1 around a topic: questions of one agent are no noise, they crowd.
fn vector(topic: u64, random: &mut StdRng) -> Result<Packed> {
    let mut centre = StdRng::seed_from_u64(topic);
    let mut numbers: Vec<f32> =
        (0..WIDTH).map(|_| centre.random_range(-0.5..0.5_f32) + random.random_range(-0.4..0.4_f32)).collect();
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
    numbers.iter_mut().for_each(|number| *number /= length);
    Packed::new(&numbers).context("a vector")
}

fn lookup() -> Result<Value> {
    let mut random = StdRng::seed_from_u64(7);
    let mut library = Library::default();
    for id in 1..=ENTRIES {
        let entry = Entry {
            id,
            agent: "desk".into(),
            origin: Origin::Added,
            question: format!("How much is the room number {id} with a view of the garden?"),
            answer: "It costs ninety dollars.".into(),
            basis: "p".into(),
            made_us: 0,
            used_us: 0,
            hits: 0,
            expires_us: None,
            call: None,
        };
        library.load(entry, Some(&vector(id % 500, &mut random)?));
    }
    let rules = Rules {
        agent: "desk".into(),
        own: own_names("hotel"),
        prompt: "p".into(),
        mind: "m".into(),
        voice: "v".into(),
        speaker: None,
        threshold: 0.5,
        ttl: Duration::from_secs(3600),
        most: 1,
        learn: false,
        faq: Vec::new(),
    };
    library.serve(vec![rules], 0);
    let library = &library;
    let own = own_names("hotel");
    let mut times = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let own = &own;
                scope.spawn(move || -> Result<Vec<Duration>> {
                    let mut random = StdRng::seed_from_u64(100 + thread);
                    let mut times = Vec::with_capacity(LOOKUPS);
                    for _ in 0..LOOKUPS {
                        // Near hundreds of questions that all differ in a number: the guard reads as many as it ever does.
                        let asked = vector(random.random_range(0..500), &mut random)?;
                        let begun = Instant::now();
                        let reading = Reading::of("How much is the room with a view of the garden?", own);
                        let found = library
                            .exact("desk", &reading, 1)
                            .map_or_else(|| library.similar("desk", &reading, &asked, 1), Ok);
                        times.push(begun.elapsed());
                        ensure!(found.is_err(), "a number was not seen");
                    }
                    Ok(times)
                })
            })
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??);
        }
        Ok(all)
    })?;
    times.sort_unstable();
    let rank = |share: usize| times[(times.len() * share).div_ceil(100) - 1].as_secs_f64() * 1000.0;
    let round = |ms: f64| (ms * 1000.0).round() / 1000.0;
    Ok(json!({ "entries": ENTRIES, "threads": THREADS, "lookups": times.len(),
        "p50_ms": round(rank(50)), "p95_ms": round(rank(95)), "p99_ms": round(rank(99)) }))
}

async fn measure(models: &std::path::Path) -> Result<Value> {
    let set = Labelled::read()?;
    let mut embedder = Embedder::start(models).await?;
    let mut vectors = BTreeMap::new();
    let mut took = Vec::new();
    for text in set.texts() {
        let begun = Instant::now();
        vectors.insert(text.to_owned(), embedder.embed(text).await?);
        took.push(begun.elapsed());
    }
    embedder.stop().await;
    took.sort_unstable();
    let p95 = took.get(took.len() * 95 / 100).copied().unwrap_or_default();
    let (tuning, held_out) = labelled::tally(&set, &vectors);
    let mut all = tuning.clone();
    all.add(&held_out);
    let told = |tally: &Tally| {
        json!({ "paraphrases": tally.same, "found": tally.found, "near_misses": tally.different, "wrong": tally.wrong,
            "wrong_strict": tally.wrong_strict, "precision": tally.precision(), "recall": tally.recall() })
    };
    for line in &all.complaints {
        eprintln!("{line}");
    }
    Ok(json!({ "all": told(&all), "tuning": told(&tuning), "held_out": told(&held_out),
        "embed_p95_ms": (p95.as_secs_f64() * 1e4).round() / 10.0 }))
}
