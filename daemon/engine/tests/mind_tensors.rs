//! The language model on tensors, against our kernels, against f32, and against itself; on the processor, with the small
//! model.

mod mind_support;

use std::collections::BTreeMap;
use std::path::Path;

use callbox_engine::kernels::Level;
use callbox_engine::mind::Config;
use callbox_engine::models::transformer::{
    Adapter, BLOCK, BaseModel, Cache, Full, Numbers, Piece, Room, TensorConfig, Transformer, TransformerSpec, Wanted,
};
use callbox_engine::role::Worker;
use callbox_engine::weights::gguf::{Gguf, Head};
use callbox_engine::weights::peft::PeftFile;
use callbox_wire::{CallId, Event, Failure, Request, TurnId};
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::{DType, Device, Tensor};
use mind_support::*;
use serde_json::json;

const POOL: usize = 1024;

/// Sums over other numbers of rows come in another order, which now and then rounds a key or a value, in half precision,
/// the other way: so much of a logit, of which the largest is about 30; and in the mean of squares.
const MOST: f32 = 0.05;
const MEAN: f32 = 0.01;

fn dense() -> Transformer {
    load_tensors(&model(SMOLLM), Numbers::F32, POOL)
}

fn drawn(count: u32, seed: u32) -> Vec<u32> {
    (0..count).map(|index| (index * 7919 * seed + 31) % 49_000).collect()
}

fn near(a: &[f32], b: &[f32]) -> bool {
    let apart = || a.iter().zip(b).map(|(a, b)| (a - b).abs());
    let (most, squares) = apart().fold((0.0, 0.0), |(most, squares), x| (x.max(most), x.mul_add(x, squares)));
    let mean = (squares / a.len() as f32).sqrt();
    eprintln!("apart by {most}, in the mean {mean}");
    a.len() == b.len() && most < MOST && mean < MEAN
}

fn grow(model: &mut Transformer, cache: &mut Cache, tokens: &[u32]) -> Vec<f32> {
    let mut pieces = [Piece { tokens, cache, wanted: Wanted::Last, adapter: None }];
    model.step(&mut pieces, &mut || true).expect("room").expect("not stopped").to_vec()
}

fn free(model: &Transformer) -> usize {
    model.room().expect("a pool").free
}

/// In f32 nothing is left but keys and values in half precision, so this is the mathematics itself.
#[test]
fn dense_logits_are_those_of_f32() {
    let exact = distance(&mut dense(), "smollm2.f32", 2, 256, 128);
    eprintln!("{exact:?}");
    assert!(exact.positions >= 512 && exact.divergence < 1e-5 && exact.agreement > 0.998, "{exact:?}");
}

/// candle rounds activations as llama.cpp does (0.00254 nats and 96.9 % from f32), our kernels less.
#[test]
fn quantised_logits_are_near_to_f32_and_to_our_kernels() {
    let mut tensors = load_tensors(&model(SMOLLM), Numbers::AsStored, POOL);
    let exact = distance(&mut tensors, "smollm2.f32", 2, 256, 64);
    let mut kernels = load(&model(SMOLLM), Level::detect());
    let (mut divergence, mut agreeing, mut positions) = (0.0, 0, 0);
    for tokens in sequences("smollm2.f32").iter().take(4) {
        let [p, q] = [&mut kernels, &mut tensors].map(|model| logits(model, &tokens[..96], 32));
        for (p, q) in p.chunks_exact(49_152).zip(q.chunks_exact(49_152)) {
            let [p, q] = [p, q].map(log_probabilities);
            divergence += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            let best = |x: &[f64]| (0..x.len()).max_by(|a, b| x[*a].total_cmp(&x[*b]));
            agreeing += usize::from(best(&p) == best(&q));
            positions += 1;
        }
    }
    let (divergence, agreement) = (divergence / f64::from(positions), agreeing as f64 / f64::from(positions));
    eprintln!("from f32 {exact:?}\nfrom our kernels {divergence} nats, {agreement}");
    assert!(exact.divergence < 0.005 && exact.agreement > 0.96 && exact.clear_agreement > 0.98, "{exact:?}");
    assert!(divergence < 0.008 && agreement > 0.95, "{divergence} {agreement}");
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    logits.iter().map(|x| f64::from(x - most) - sum.ln()).collect()
}

#[test]
fn how_a_sequence_is_computed_changes_nothing_but_rounding() {
    let mut model = dense();
    let vocabulary = model.spec().vocabulary;
    let tokens: Vec<Vec<u32>> = (1..=4).map(|seed| drawn(40 + 9 * seed, seed)).collect();
    let last = |all: &[f32]| all[all.len() - vocabulary..].to_vec();
    let alone: Vec<Vec<f32>> = tokens.iter().map(|tokens| logits(&mut model, tokens, 1000)).collect();
    assert!(near(&logits(&mut model, &tokens[0], 1), &alone[0]), "token by token");
    assert!(near(&logits(&mut model, &tokens[0], 9), &alone[0]), "in pieces");

    // Two that go on by a token, a prompt between them, one that begins: each as if alone, in the order asked for.
    let mut caches: Vec<_> = tokens.iter().map(|_| model.cache(128)).collect();
    for (past, (cache, tokens)) in [48, 11, 66, 0].into_iter().zip(caches.iter_mut().zip(&tokens)) {
        if past > 0 {
            grow(&mut model, cache, &tokens[..past]);
        }
    }
    let mut pieces: Vec<Piece> = caches
        .iter_mut()
        .zip(&tokens)
        .map(|(cache, tokens)| Piece { tokens: &tokens[cache.len()..], cache, wanted: Wanted::Last, adapter: None })
        .collect();
    let together = model.step(&mut pieces, &mut || true).expect("room").expect("not stopped").to_vec();
    for (alone, together) in alone.iter().zip(together.chunks_exact(vocabulary)) {
        assert!(near(&last(alone), together));
    }
    assert_eq!(caches.iter().map(Cache::len).collect::<Vec<_>>(), [49, 58, 67, 76]);

    // Another continuation, cut off, then the right one; and one that shares the beginning.
    let (cache, others) = caches.split_first_mut().expect("four");
    let fork = &mut others[0];
    for at in [20, 32, 48] {
        cache.truncate(at);
        grow(&mut model, cache, &[5, 6, 7, 8]);
        cache.truncate(at);
        fork.copy_prefix(cache, at - 1);
        // The fork writes into what was shared; the other must not see it.
        grow(&mut model, fork, &[1, 2, 3]);
        assert!(near(&grow(&mut model, cache, &tokens[0][at..]), &last(&alone[0])), "cut at {at}");
        fork.truncate(at - 1);
        assert!(near(&grow(&mut model, fork, &tokens[0][at - 1..]), &last(&alone[0])), "shared to {at}");
    }
}

/// A sequence beside a much longer one looks at as many blocks as that, and at blocks that others have used.
#[test]
fn padding_changes_nothing() {
    const POOL: usize = 512;
    let mut model = load_tensors(&model(SMOLLM), Numbers::F32, POOL);
    let short = drawn(5, 2);
    let mut fresh = model.cache(BLOCK);
    grow(&mut model, &mut fresh, &short[..4]);
    let alone = grow(&mut model, &mut fresh, &short[4..]);
    drop(fresh);

    // Every block has held something else.
    let mut used = model.cache(POOL);
    for tokens in drawn(POOL as u32, 7).chunks(128) {
        grow(&mut model, &mut used, tokens);
    }
    drop(used);
    let mut long = model.cache(POOL);
    for tokens in drawn(400, 3).chunks(100) {
        grow(&mut model, &mut long, tokens);
    }
    let mut cache = model.cache(BLOCK);
    grow(&mut model, &mut cache, &short[..4]);
    let mut pieces = [
        Piece { tokens: &[9], cache: &mut long, wanted: Wanted::Nothing, adapter: None },
        Piece { tokens: &short[4..], cache: &mut cache, wanted: Wanted::Last, adapter: None },
    ];
    let beside = model.step(&mut pieces, &mut || true).expect("room").expect("not stopped").to_vec();
    assert!(near(&alone, &beside));
}

#[test]
fn a_full_pool_is_told_and_what_ends_gives_its_blocks_back() {
    let mut model = load_tensors(&model(SMOLLM), Numbers::AsStored, 4 * BLOCK);
    assert_eq!(model.room(), Some(Room { blocks: 4, free: 4 }));
    let (mut first, mut second) = (model.cache(256), model.cache(256));
    grow(&mut model, &mut first, &drawn(40, 1));
    assert_eq!(free(&model), 2);

    // Stopped half way: as if it had not begun.
    let tokens = drawn(40, 2);
    let mut left = 7;
    let mut pieces = [Piece { tokens: &tokens, cache: &mut second, wanted: Wanted::Last, adapter: None }];
    let stopped = model.step(&mut pieces, &mut || {
        left -= 1;
        left > 0
    });
    assert!(stopped.expect("room").is_none() && second.len() == 0 && free(&model) == 2);

    // One of two finds no room: neither has changed, and the error says what there is.
    let before = grow(&mut model, &mut second, &tokens);
    assert_eq!(free(&model), 0);
    let long = drawn(100, 3);
    let mut pieces = [
        Piece { tokens: &tokens[..1], cache: &mut second, wanted: Wanted::Last, adapter: None },
        Piece { tokens: &long, cache: &mut first, wanted: Wanted::Last, adapter: None },
    ];
    let full = model.step(&mut pieces, &mut || true).expect_err("no room");
    assert!(full.is::<Full>() && full.to_string().contains("128 tokens"), "{full}");
    assert_eq!((first.len(), second.len(), free(&model)), (40, 40, 0));

    // A fork of a full pool needs a block only once it writes.
    let mut fork = model.cache(256);
    fork.copy_prefix(&second, 39);
    let mut pieces = [Piece { tokens: &tokens[39..], cache: &mut fork, wanted: Wanted::Last, adapter: None }];
    assert!(model.step(&mut pieces, &mut || true).is_err_and(|full| full.is::<Full>()));
    drop(first);
    assert_eq!(free(&model), 2);
    assert!(near(&grow(&mut model, &mut fork, &tokens[39..]), &before));
    assert_eq!(free(&model), 1, "the first block is shared, the last is not");
    drop((second, fork));
    assert_eq!(free(&model), 4);
}

/// As PEFT computed it over the same weights in f32.
#[test]
fn rows_of_one_step_have_adapters_of_their_own() {
    let mut model = dense();
    let names = ["every-matrix", "queries-values"];
    let [first, second] = names.map(adapter);
    for (name, adapter) in names.into_iter().zip([&first, &second]) {
        let with = distance_with(&mut model, Some(adapter), name, 2, 96, 64);
        eprintln!("{name} {with:?}");
        assert!(with.positions == 192 && with.divergence < 1e-5 && with.agreement > 0.99, "{with:?}");
    }
    let of = [Some(&second), None, Some(&first), Some(&second), Some(&first)];
    let tokens: Vec<Vec<u32>> =
        [20, 1, 22, 1, 1].into_iter().zip(1..).map(|(count, seed)| drawn(count, seed)).collect();
    let vocabulary = model.spec().vocabulary;
    let mut caches: Vec<_> = tokens.iter().map(|_| model.cache(BLOCK)).collect();
    let pieces = caches.iter_mut().zip(&tokens).zip(of);
    let pieces = pieces.map(|((cache, tokens), adapter)| Piece { tokens, cache, wanted: Wanted::Last, adapter });
    let together =
        model.step(&mut pieces.collect::<Vec<_>>(), &mut || true).expect("room").expect("not stopped").to_vec();
    for ((tokens, adapter), together) in tokens.iter().zip(of).zip(together.chunks_exact(vocabulary)) {
        let alone = logits_with(&mut model, adapter, tokens, 1000);
        assert!(near(&alone[alone.len() - vocabulary..], together));
    }
}

/// The first layers of the small model as transformers would save them, by name.
fn checkpoint(layers: usize) -> (TransformerSpec, serde_json::Value, BTreeMap<String, Tensor>) {
    let gguf = Gguf::open(&model(SMOLLM)).expect("a model");
    let spec = TransformerSpec { layers, ..TransformerSpec::from_gguf(gguf.head()).expect("a model") };
    let config = json!({
        "model_type": "llama", "num_hidden_layers": layers, "hidden_size": spec.hidden,
        "num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads, "intermediate_size": spec.feed_forward,
        "vocab_size": spec.vocabulary, "max_position_embeddings": spec.context, "rms_norm_eps": spec.norm_epsilon,
        "rope_theta": spec.rope_base, "rope_scaling": null, "attention_bias": false,
    });
    let names = [
        ("token_embd", "embed_tokens"),
        ("output_norm", "norm"),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    let mut tensors = BTreeMap::new();
    for (name, info) in &gguf.head().tensors {
        let (place, part) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, _)) if layer.parse::<usize>().expect("a number") >= layers => continue,
            Some((layer, part)) => (format!("model.layers.{layer}"), part),
            None => ("model".to_owned(), name.as_str()),
        };
        let part = part.strip_suffix(".weight").expect("a weight");
        let (_, named) = names.iter().find(|(known, _)| *known == part).expect("a known name");
        let shape = if info.vector { vec![info.cols] } else { vec![info.rows, info.cols] };
        let read = || qtensor_from_ggml(info.dtype, gguf.bytes(info), shape, &Device::Cpu)?.dequantize(&Device::Cpu);
        let mut tensor = read().expect("a tensor");
        if matches!(part, "attn_q" | "attn_k") {
            // What is rotated together lies side by side in this file, and as halves there.
            let pairs = tensor.reshape((info.rows / spec.head_dim, spec.head_dim / 2, 2, info.cols));
            let halves = pairs.and_then(|pairs| pairs.transpose(1, 2)?.contiguous()?.reshape((info.rows, info.cols)));
            tensor = halves.expect("as many numbers");
        }
        tensors.insert(format!("{place}.{named}.weight"), tensor);
    }
    (spec, config, tensors)
}

fn saved(config: &serde_json::Value, tensors: &BTreeMap<String, Tensor>, number: DType) -> Transformer {
    let folder = tempfile::tempdir().expect("a folder");
    let tensors = tensors.iter().map(|(name, tensor)| Ok((name.clone(), tensor.to_dtype(number)?)));
    let tensors = tensors.collect::<candle_core::Result<_>>().expect("numbers");
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).expect("written");
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    from_folder(folder.path()).expect("a checkpoint")
}

fn from_folder(folder: &Path) -> anyhow::Result<Transformer> {
    let config = TensorConfig { device: Device::Cpu, tokens: POOL, numbers: Numbers::AsStored };
    Transformer::load_checkpoint(folder, 1024, &config)
}

#[test]
fn a_checkpoint_is_the_model_of_its_gguf_file() {
    let (spec, config, tensors) = checkpoint(30);
    let mut stored = saved(&config, &tensors, DType::BF16);
    assert_eq!((stored.spec().layers, stored.spec().rope_base), (spec.layers, spec.rope_base));
    let mut rounded = load_tensors(&model(SMOLLM), Numbers::Bf16, POOL);
    let tokens = drawn(50, 4);
    assert!(near(&logits(&mut stored, &tokens, 50), &logits(&mut rounded, &tokens, 50)));
    let folder = tempfile::tempdir().expect("a folder");
    let few = tensors.into_iter().filter(|(name, _)| name == "model.norm.weight").collect();
    candle_core::safetensors::save(&few, folder.path().join("model.safetensors")).expect("written");
    for (key, value, word) in [
        ("model_type", json!("gemma"), "gemma"),
        ("rope_scaling", json!({"type": "linear"}), "rope_scaling"),
        ("num_hidden_layers", json!("30"), "num_hidden_layers"),
        ("num_key_value_heads", json!(2), "share"),
        ("rms_norm_eps", json!("small"), "epsilon"),
        ("rope_scaling", json!(null), "embed_tokens"),
    ] {
        let mut wrong = config.clone();
        wrong[key] = value;
        std::fs::write(folder.path().join("config.json"), wrong.to_string()).expect("written");
        let error = from_folder(folder.path()).err().map(|error| format!("{error:#}")).expect("refused");
        assert!(error.contains(word), "{key}: {error}");
    }
}

#[test]
fn an_adapter_s_rows_are_those_of_merged_weights() {
    const RANK: usize = 6;
    let (spec, config, mut tensors) = checkpoint(2);
    let mut adapted = saved(&config, &tensors, DType::F32);
    let mut adapter = BTreeMap::new();
    let mut state = 1_u32;
    let mut numbers = |count: usize| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exact in half precision.
            f32::from((state >> 24) as u8) / 1024.0 - 0.125
        };
        (0..count).map(|_| next()).collect()
    };
    for (name, weight) in tensors.iter_mut().filter(|(name, _)| name.contains("proj")) {
        let (outputs, inputs) = weight.dims2().expect("a matrix");
        let a = Tensor::from_vec(numbers(RANK * inputs), (RANK, inputs), &Device::Cpu).expect("as many");
        let b = Tensor::from_vec(numbers(outputs * RANK), (outputs, RANK), &Device::Cpu).expect("as many");
        *weight = (&*weight + b.matmul(&a).expect("a product") * 0.5).expect("a sum");
        let module = name.strip_suffix(".weight").expect("a weight");
        adapter.insert(format!("base_model.model.{module}.lora_A.weight"), a);
        adapter.insert(format!("base_model.model.{module}.lora_B.weight"), b);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter_model.safetensors");
    candle_core::safetensors::save(&adapter.into_iter().collect(), &path).expect("written");
    let about = json!({ "peft_type": "LORA", "r": RANK, "lora_alpha": RANK / 2 }).to_string();
    let file = PeftFile::parse(about.as_bytes(), std::fs::read(&path).expect("written")).expect("an adapter");
    let spec = TransformerSpec { rope_pairs: adapted.spec().rope_pairs, ..spec };
    let adapter = Adapter::new(&file, &BaseModel::new(&Head::default(), &spec)).expect("it fits");
    let mut merged = saved(&config, &tensors, DType::F32);
    let tokens = drawn(40, 5);
    let with = logits_with(&mut adapted, Some(&adapter), &tokens, 13);
    assert!(near(&with, &logits(&mut merged, &tokens, 40)));
    assert!(!near(&with, &logits(&mut adapted, &tokens, 40)), "and not what the model is without");
}

fn talker(max_sequences: usize, context: usize, kv_tokens: Option<usize>) -> Talker {
    let config = config(&model(SMOLLM), max_sequences, context);
    Talker::with(&Config { tensors: true, kv_tokens, ..config })
}

#[test]
fn the_scheduler_sees_no_difference() {
    let talker = talker(3, 512, None);
    let questions = ["What is 2 + 2?", "Tell me about cats, please.", "Who are you?"];
    let mut alone = Vec::new();
    for (call, text) in (1..).zip(questions) {
        talker.think(call, 1, &question(text), &sampling(16));
        alone.push(talker.answer(call, 1).0);
        talker.mind.submit(Request::Forget { call: CallId(call) });
    }
    for (call, text) in (1..).zip(questions) {
        talker.think(call, 2, &question(text), &sampling(16));
    }
    let (mut together, mut ended) = (vec![String::new(); 3], 0);
    while ended < 3 {
        match talker.event() {
            Event::Token { call, text, .. } => together[call.0 as usize - 1].push_str(&text),
            Event::Thought { .. } => ended += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(together, alone);

    // What another call asked is known, and one that goes on knows its own.
    talker.mind.submit(Request::Forget { call: CallId(2) });
    talker.think(4, 1, &question(questions[0]), &sampling(16));
    let (shared, thought) = talker.answer(4, 1);
    assert_eq!((&shared, thought.cached_tokens), (&alone[0], thought.prompt_tokens - 1));
    talker.think(4, 2, &question("Count from one to one hundred."), &sampling(200));
    assert!(matches!(talker.event(), Event::Token { .. }));
    talker.mind.submit(Request::Cancel { call: CallId(4), turn: TurnId(2) });
    talker.settle();
    while !talker.is_silent() {}
    talker.think(1, 3, &question(questions[0]), &sampling(16));
    assert_eq!(talker.answer(1, 3).0, alone[0]);
}

#[test]
fn a_mind_whose_pool_is_full_forgets_the_idle_and_refuses_the_last() {
    let talker = talker(6, 96, Some(96));
    let ask = |call: u64| question(&format!("Count from {call} to one hundred."));
    // One after the other: what the last ones hold goes.
    for call in 1..=5 {
        talker.think(call, 1, &ask(call), &sampling(8));
        talker.answer(call, 1);
    }
    for call in 1..=5 {
        talker.think(call, 2, &ask(10 + call), &sampling(40));
    }
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < 5 {
        match talker.event() {
            Event::Thought { .. } => answered += 1,
            Event::Failed { failure: Failure::Overloaded, reason, .. } => {
                assert!(reason.contains("96 tokens"), "{reason}");
                refused += 1;
            }
            Event::Token { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
    talker.think(9, 1, &ask(9), &sampling(8));
    assert!(talker.answer(9, 1).1.answer_tokens > 0);
}
