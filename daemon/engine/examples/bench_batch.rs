//! What deciding for several calls in one step gains, and what adapters cost then, as JSON:
//! `bench_batch MODEL.gguf CACHE_FOLDER RESULT.json`. Both are compared within one run, in turns.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use callbox_engine::kernels::{Level, Pool};
use callbox_engine::models::transformer::{Adapter, BaseModel, Cache, Piece, Transformer, Wanted};
use callbox_engine::weights::gguf::Gguf;
use callbox_engine::weights::peft::PeftFile;
use serde_json::{Value, json};

#[path = "../gpu/lora.rs"]
mod lora;

const THREADS: usize = 2;

/// Answers at once, each with an adapter of its own.
const ANSWERS: usize = 16;

#[expect(clippy::disallowed_methods, reason = "a benchmark takes the time")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> Result<()> {
    let mut paths = std::env::args().skip(1).map(PathBuf::from);
    let mut next = |what: &'static str| paths.next().context(what);
    let (path, cache, result) =
        (next("a model")?, next("a folder for the packed form")?, next("a file for the result")?);
    let gguf = Gguf::open(&path)?;
    let mut model = Transformer::load(&path, &gguf, &cache, 1024, Level::detect(), Pool::new(THREADS)?)?;
    let base = BaseModel::new(gguf.head(), model.spec());
    let figures = json!({
        "model": path.file_name().map(|name| name.to_string_lossy()),
        "threads": THREADS,
        "level": format!("{:?}", Level::detect()),
        "sequences": together(&mut model)?,
        "adapters": {
            "8": adapters(&mut model, &base, ANSWERS, 8)?,
            "16": adapters(&mut model, &base, ANSWERS, 16)?,
            "64": adapters(&mut model, &base, ANSWERS, 64)?,
        },
    });
    std::fs::write(&result, format!("{figures:#}\n")).with_context(|| format!("{} cannot be written", result.display()))
}

/// Tokens per second of so many sequences together and one after another, in turns; the best of five rounds each.
fn together(model: &mut Transformer) -> Result<Value> {
    const STEPS: usize = 48;
    const PROMPT: usize = 256;
    let most = 8;
    let tokens: Vec<u32> = (0..4096).map(|index: u32| (index * 7919 + 13) % 40_000).collect();
    let mut caches: Vec<_> = (0..most).map(|_| model.cache(PROMPT + STEPS)).collect();
    for (index, cache) in caches.iter_mut().enumerate() {
        for tokens in tokens[index * PROMPT..(index + 1) * PROMPT].chunks(128) {
            model.step(&mut [Piece { tokens, cache, wanted: Wanted::Nothing, adapter: None }], &mut || true)?;
        }
    }
    let mut round = |caches: &mut [Cache], together: usize| -> Result<f64> {
        caches.iter_mut().for_each(|cache| cache.truncate(PROMPT));
        let started = now();
        for few in caches.chunks_mut(together) {
            for step in 0..STEPS {
                let tokens = &tokens[step..=step];
                let piece = |cache| Piece { tokens, cache, wanted: Wanted::Last, adapter: None };
                model.step(&mut few.iter_mut().map(piece).collect::<Vec<_>>(), &mut || true)?;
            }
        }
        Ok((caches.len() * STEPS) as f64 / started.elapsed().as_secs_f64())
    };
    let mut figures = serde_json::Map::new();
    for together in [2, 4, most] {
        let few = &mut caches[..together];
        let (mut alone, mut beside) = (0.0_f64, 0.0_f64);
        for _ in 0..5 {
            alone = alone.max(round(few, 1)?);
            beside = beside.max(round(few, together)?);
        }
        let figure = serde_json::json!({
            "one_after_another_tokens_per_second": alone,
            "together_tokens_per_second": beside,
            "ratio": beside / alone,
        });
        figures.insert(together.to_string(), figure);
    }
    Ok(Value::Object(figures))
}

/// Tokens per second without adapters, with one for all and with one for each; the median of rounds that take turns.
fn adapters(model: &mut Transformer, base: &BaseModel, count: usize, rank: usize) -> Result<Value> {
    const ROUNDS: usize = 7;
    const STEPS: usize = 16;
    const PROMPT: usize = 64;
    let (mut adapters, mut load) = (Vec::new(), 0.0);
    for seed in 0..count {
        let file = lora::drawn(model.spec(), rank, seed as u32)?;
        let started = now();
        adapters.push(Adapter::new(&PeftFile::parse(&file.0, file.1)?, base)?);
        load += started.elapsed().as_secs_f64() / count as f64;
    }
    let first = adapters.first().context("at least one adapter")?;
    let tokens: Vec<u32> = (0..PROMPT + STEPS).map(|index| (index as u32 * 7919 + 13) % 40_000).collect();
    let mut caches: Vec<_> = adapters.iter().map(|_| model.cache(PROMPT + STEPS)).collect();
    let ways = [
        adapters.iter().map(|_| None).collect::<Vec<_>>(),
        adapters.iter().map(|_| Some(first)).collect(),
        adapters.iter().map(Some).collect(),
    ];
    let (mut decode, mut prefill) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for _ in 0..ROUNDS {
        for (way, (decode, prefill)) in ways.iter().zip(decode.iter_mut().zip(&mut prefill)) {
            let started = now();
            for (cache, adapter) in caches.iter_mut().zip(way) {
                cache.truncate(0);
                let (tokens, adapter) = (&tokens[..PROMPT], *adapter);
                let mut pieces = [Piece { tokens, cache, wanted: Wanted::Last, adapter }];
                model.step(&mut pieces, &mut || true)?;
            }
            prefill.push((way.len() * PROMPT) as f64 / started.elapsed().as_secs_f64());
            let started = now();
            for step in PROMPT..PROMPT + STEPS {
                let pieces = caches.iter_mut().zip(way).map(|(cache, adapter)| {
                    let (tokens, adapter) = (&tokens[step..=step], *adapter);
                    Piece { tokens, cache, wanted: Wanted::Last, adapter }
                });
                let mut pieces: Vec<_> = pieces.collect();
                model.step(&mut pieces, &mut || true)?;
            }
            decode.push((way.len() * STEPS) as f64 / started.elapsed().as_secs_f64());
        }
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let ([decode_none, decode_one, decode_each], [prefill_none, prefill_one, _]) =
        (decode.map(median), prefill.map(median));
    Ok(json!({
        "adapters": adapters.len(),
        "rank": first.rank(),
        "mib_each": first.bytes() as f64 / 1_048_576.0,
        "load_seconds_each": load,
        "decode_tokens_per_second": { "none": decode_none, "one": decode_one, "each_its_own": decode_each },
        "prefill_tokens_per_second": { "none": prefill_none, "one": prefill_one },
        "decode_share": decode_each / decode_none,
        "prefill_share": prefill_one / prefill_none,
    }))
}
