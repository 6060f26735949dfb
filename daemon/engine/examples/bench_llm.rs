//! Speed and memory of the language model alone, as JSON: `bench_llm MODEL.gguf CACHE_FOLDER [THREADS]`; with
//! `--tensors` behind it as a GPU would compute it, on the processor all the same.
//!
//! With `--question FACTS.txt QUESTION…` it answers questions about a text through the scheduler instead.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use callbox_engine::device::Gate;
use callbox_engine::kernels::{Level, Pool};
use callbox_engine::mind::{Config, Mind};
use callbox_engine::models::transformer::{Numbers, Piece, TensorConfig, Transformer, Wanted};
use callbox_engine::role::{Outlet, Worker};
use callbox_engine::weights::gguf::Gguf;
use callbox_wire::{CallId, ChatMessage, ChatRole, Event, Request, Sampling, TurnId};
use candle_core::Device;

#[expect(clippy::disallowed_methods, reason = "a benchmark takes the time")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = PathBuf::from(args.next().context("a model")?);
    let cache = PathBuf::from(args.next().context("a folder for the packed form")?);
    let mut rest: Vec<String> = args.collect();
    if rest.first().is_some_and(|arg| arg == "--question") {
        return answer(model, cache, &rest[1..]);
    }
    let tensors = rest.pop_if(|last| last == "--tensors").is_some();
    let threads = if rest.is_empty() { 2 } else { rest.remove(0).parse()? };
    measure(model, cache, threads, tensors)
}

fn measure(path: PathBuf, cache: PathBuf, threads: usize, tensors: bool) -> Result<()> {
    let started = now();
    let gguf = Gguf::open(&path)?;
    let mut model = if tensors {
        let config = TensorConfig { device: Device::Cpu, tokens: 1024, numbers: Numbers::AsStored };
        Transformer::load_tensors(&gguf, 1024, &config)?
    } else {
        Transformer::load(&path, &gguf, &cache, 1024, Level::detect(), Pool::new(threads)?)?
    };
    drop(gguf);
    let load = started.elapsed().as_secs_f64();
    let vocabulary = u32::try_from(model.spec().vocabulary)?;
    let prompt: Vec<u32> = (0..512).map(|index: u32| (index * 7919 + 13) % vocabulary.min(40_000)).collect();
    let prefill = |length: usize, model: &mut Transformer| -> Result<f64> {
        let mut cache = model.cache(length);
        let started = now();
        for tokens in prompt[..length].chunks(128) {
            let wanted = if cache.len() + tokens.len() == length { Wanted::Last } else { Wanted::Nothing };
            let mut pieces = [Piece { tokens, cache: &mut cache, wanted, adapter: None }];
            model.step(&mut pieces, &mut || true)?;
        }
        Ok(length as f64 / started.elapsed().as_secs_f64())
    };
    prefill(128, &mut model)?;
    let prefill_128 = prefill(128, &mut model)?.max(prefill(128, &mut model)?);
    let prefill_512 = prefill(512, &mut model)?;
    let mut cache = model.cache(256);
    let mut pieces = [Piece { tokens: &prompt[..128], cache: &mut cache, wanted: Wanted::Last, adapter: None }];
    model.step(&mut pieces, &mut || true)?;
    let steps = 48;
    let mut best = f64::INFINITY;
    for _ in 0..2 {
        let started = now();
        cache.truncate(128);
        for index in 0..steps {
            let mut pieces =
                [Piece { tokens: &prompt[index..=index], cache: &mut cache, wanted: Wanted::Last, adapter: None }];
            model.step(&mut pieces, &mut || true)?;
        }
        best = best.min(started.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let memory = |key: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    let figures = serde_json::json!({
        "model": path.file_name().map(|name| name.to_string_lossy()),
        "threads": threads,
        "tensors": tensors,
        "level": format!("{:?}", Level::detect()),
        "load_seconds": load,
        "prefill_128_tokens_per_second": prefill_128,
        "prefill_512_tokens_per_second": prefill_512,
        "decode_128_tokens_per_second": steps as f64 / best,
        "peak_rss_mib": memory("VmHWM:"),
        "anonymous_mib": memory("RssAnon:"),
    });
    println!("{figures}");
    Ok(())
}

struct Line(SyncSender<Event>);

impl Outlet for Line {
    fn send(&self, event: Event) {
        drop(self.0.send(event));
    }
}

fn answer(model: PathBuf, cache: PathBuf, args: &[String]) -> Result<()> {
    let (facts, questions) = args.split_first().context("a text and questions")?;
    let facts = std::fs::read_to_string(facts)?;
    let (line, events) = sync_channel(1000);
    let config = Config {
        model,
        cache,
        threads: 2,
        max_sequences: 2,
        context: 4096,
        device: Device::Cpu,
        tensors: false,
        kv_tokens: None,
    };
    let mind = Mind::start(&config, Gate::default(), Arc::new(Line(line)))?;
    eprintln!("{:?}", mind.info());
    let mut messages = vec![ChatMessage { role: ChatRole::System, content: facts }];
    mind.submit(Request::Prime { messages: messages.clone() });
    for (turn, question) in (1..).zip(questions) {
        messages.push(ChatMessage { role: ChatRole::User, content: question.clone() });
        let (call, turn, sampling) = (CallId(1), TurnId(turn), Sampling { max_tokens: 60, ..Sampling::default() });
        let asked = now();
        mind.submit(Request::Think { call, turn, messages: messages.clone(), sampling });
        let mut said = String::new();
        let (mut first, mut sixth) = (None, None);
        let thought = loop {
            match events.recv()? {
                Event::Token { text, .. } => {
                    said.push_str(&text);
                    first.get_or_insert_with(|| asked.elapsed());
                    if said.split_whitespace().count() > 6 {
                        sixth.get_or_insert_with(|| asked.elapsed());
                    }
                }
                Event::Thought { thought, .. } => break thought,
                other => bail!("{other:?}"),
            }
        };
        println!("{question}\n  {said}\n  first {first:?}, six words {sixth:?}, {thought:?}");
        messages.push(ChatMessage { role: ChatRole::Assistant, content: said });
    }
    Ok(())
}
