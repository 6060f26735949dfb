//! Adapters of the small model against PEFT, against each other, and through the scheduler.

mod mind_support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use callbox_engine::kernels::Level;
use callbox_engine::models::transformer::{Piece, Wanted};
use callbox_engine::role::Worker;
use callbox_wire::{CallId, ChatMessage, ChatRole, Event, Failure, Request, TurnId};
use mind_support::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use sha2::{Digest, Sha256};

const NAMES: [&str; 2] = ["every-matrix", "queries-values"];

fn question() -> Vec<ChatMessage> {
    vec![said(ChatRole::System, "You answer the phone of a clinic."), said(ChatRole::User, "Are you open on Sunday?")]
}

/// As `fixtures/mind/adapters.py` computed it with PEFT over the same weights in f32; the distance is what the rounding of
/// the model itself makes (0.0011 nats without an adapter), and far less than what the adapter does.
#[test]
fn a_row_with_an_adapter_is_what_peft_makes_of_it() {
    for name in NAMES {
        let adapter = adapter(name);
        for level in Level::available() {
            let mut model = load(&model(SMOLLM), level);
            let with = distance_with(&mut model, Some(&adapter), name, 2, 96, 64);
            let without = distance(&mut model, name, 2, 96, 64);
            eprintln!("{name} {level:?}: with {with:?}\nwithout {without:?}");
            assert!(with.positions == 192 && with.divergence < 0.006 && with.clear_agreement > 0.98, "{with:?}");
            assert!(without.divergence > 20.0 * with.divergence, "{without:?}");
        }
    }
}

#[test]
fn rows_of_one_step_have_adapters_of_their_own() {
    let mut model = load(&model(SMOLLM), Level::detect());
    let [first, second] = NAMES.map(adapter);
    let of = [None, Some(&first), Some(&second), Some(&first)];
    let tokens: Vec<Vec<u32>> =
        (1..=4).map(|seed| (0..20 + seed).map(|index| (index * 7919 * seed + 31) % 49_000).collect()).collect();
    let vocabulary = model.spec().vocabulary;
    let mut caches: Vec<_> = tokens.iter().map(|_| model.cache(32)).collect();
    let mut pieces: Vec<Piece> = caches
        .iter_mut()
        .zip(&tokens)
        .zip(of)
        .map(|((cache, tokens), adapter)| Piece { tokens, cache, wanted: Wanted::Last, adapter })
        .collect();
    let together = model.step(&mut pieces, &mut || true).expect("room").expect("not stopped").to_vec();
    for ((tokens, adapter), together) in tokens.iter().zip(of).zip(together.chunks_exact(vocabulary)) {
        // Alone, and token by token.
        for chunk in [1000, 1] {
            let alone = logits_with(&mut model, adapter, tokens, chunk);
            assert_eq!(&alone[alone.len() - vocabulary..], together);
        }
    }
}

fn hash(folder: &Path) -> String {
    let read = |name: &str| fs::read(folder.join(name)).expect("a file of an adapter");
    hex::encode(Sha256::digest([read("adapter_config.json"), read("adapter_model.safetensors")].concat()))
}

fn order_load(talker: &Talker, name: &str, folder: &Path, sha256: String) {
    let (call, turn, folder) = (CallId(u64::MAX), TurnId(0), folder.display().to_string());
    talker.mind.submit(Request::LoadAdapter { call, turn, name: name.to_owned(), folder, sha256 });
}

fn order_drop(talker: &Talker, name: &str) {
    talker.mind.submit(Request::DropAdapter { call: CallId(u64::MAX), turn: TurnId(0), name: name.to_owned() });
}

/// A mind with both adapters.
fn talker(sequences: usize) -> Talker {
    let talker = Talker::start(&model(SMOLLM), sequences, 512);
    for name in NAMES {
        let folder = adapters().join(name);
        order_load(&talker, name, &folder, hash(&folder));
        let loaded = talker.adapters().expect("it fits");
        assert!(loaded.iter().any(|adapter| adapter.name == name && adapter.sha256 == hash(&folder)), "{loaded:?}");
    }
    talker
}

#[test]
fn an_answer_is_its_adapters_and_no_other_s_prefix_serves_it() {
    let talker = talker(4);
    let mut answers = BTreeMap::new();
    for (call, name) in (1..).zip(["", NAMES[0], NAMES[1]]) {
        match name {
            "" => talker.think(call, 1, &question(), &sampling(24)),
            name => talker.think_with(name, call, &question(), &sampling(24)),
        }
        let (answer, thought) = talker.answer(call, 1);
        assert_eq!(thought.cached_tokens, 0, "the same prompt, and nothing of it can be shared");
        answers.insert(name, answer);
    }
    assert!(answers[""] != answers[NAMES[0]] && answers[NAMES[0]] != answers[NAMES[1]], "{answers:?}");

    // Its own is shared; one call may go from one to the other.
    talker.think_with(NAMES[0], 4, &question(), &sampling(24));
    let (again, thought) = talker.answer(4, 1);
    assert_eq!((&again, thought.cached_tokens), (&answers[NAMES[0]], thought.prompt_tokens - 1));
    talker.mind.submit(Request::Forget { call: CallId(3) });
    talker.think_with(NAMES[1], 4, &question(), &sampling(24));
    let (other, thought) = talker.answer(4, 1);
    assert_eq!((&other, thought.cached_tokens), (&answers[NAMES[1]], 0));

    // All at once.
    (1..4).for_each(|call| talker.mind.submit(Request::Forget { call: CallId(call) }));
    talker.think(11, 1, &question(), &sampling(24));
    talker.think_with(NAMES[0], 12, &question(), &sampling(24));
    talker.think_with(NAMES[1], 13, &question(), &sampling(24));
    let (mut together, mut ended) = (BTreeMap::<u64, String>::new(), 0);
    while ended < 3 {
        match talker.event() {
            Event::Token { call, text, .. } => together.entry(call.0).or_default().push_str(&text),
            Event::Thought { .. } => ended += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(together.into_values().collect::<Vec<_>>(), ["", NAMES[0], NAMES[1]].map(|name| answers[name].clone()));
}

#[test]
fn what_was_primed_with_an_adapter_serves_that_one() {
    let talker = talker(1);
    let messages = question()[..1].to_vec();
    talker.mind.submit(Request::PrimeWith { adapter: NAMES[0].to_owned(), messages });
    talker.settle();
    // Priming goes on in the background until there is something to think of: this waits for it.
    while !talker.is_silent() {}
    for (call, name, shares) in [(1, NAMES[1], false), (2, NAMES[0], true)] {
        talker.think_with(name, call, &question(), &sampling(2));
        let (_, thought) = talker.answer(call, 1);
        assert_eq!(thought.cached_tokens > 8, shares, "{name}: {thought:?}");
        talker.mind.submit(Request::Forget { call: CallId(call) });
    }
}

#[test]
fn an_adapter_that_is_dropped_ends_its_answers_and_begins_none() {
    let talker = talker(2);
    let ask = question();
    talker.think_with(NAMES[0], 1, &ask, &sampling(40));
    let (whole, _) = talker.answer(1, 1);
    talker.mind.submit(Request::Forget { call: CallId(1) });

    talker.think_with(NAMES[0], 2, &ask, &sampling(40));
    let Event::Token { text, .. } = talker.event() else { panic!("an answer that began") };
    order_drop(&talker, NAMES[0]);
    talker.think_with(NAMES[0], 3, &ask, &sampling(40));
    let (mut said, mut left, mut refused) = (text, None, None);
    loop {
        match talker.event() {
            Event::Token { call: CallId(2), text, .. } => said.push_str(&text),
            Event::Adapters { adapters, .. } => left = Some(adapters.len()),
            Event::Failed { call: CallId(3), failure, reason, .. } => refused = Some((failure, reason)),
            Event::Thought { call: CallId(2), .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((said, left), (whole.clone(), Some(1)));
    assert_eq!(refused, Some((Failure::Invalid, format!("no adapter {} is loaded", NAMES[0]))));
    order_drop(&talker, NAMES[0]);
    assert!(talker.adapters().expect_err("gone").contains("no adapter"));

    // Loaded again, and asked for before it is there.
    let folder = adapters().join(NAMES[0]);
    order_load(&talker, NAMES[0], &folder, hash(&folder));
    talker.think_with(NAMES[0], 4, &ask, &sampling(40));
    assert_eq!(talker.adapters().expect("it fits").len(), 2);
    assert_eq!(talker.answer(4, 1).0, whole);
}

#[test]
fn a_folder_that_is_no_adapter_of_this_model_is_refused_with_one_sentence() {
    let talker = talker(1);
    let good = adapters().join(NAMES[1]);
    let config = fs::read_to_string(good.join("adapter_config.json")).expect("a configuration");
    let weights = fs::read(good.join("adapter_model.safetensors")).expect("weights");
    let other_sizes = {
        let name = |half: char| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight");
        let zeros = vec![0; 6 * 960 * 4];
        let view = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.to_vec(), &zeros).expect("as many bytes");
        serialize([(name('A'), view([6, 960])), (name('B'), view([960, 6]))], None).expect("a file")
    };
    let deeper = |layer: usize| {
        let name = |half: char| format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight");
        let zeros = vec![0; 6 * 576 * 4];
        let view = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.to_vec(), &zeros).expect("as many bytes");
        serialize([(name('A'), view([6, 576])), (name('B'), view([576, 6]))], None).expect("a file")
    };
    let changed = |from: &str, to: &str| config.replace(from, to);
    for (config, weights, word) in [
        (changed("SmolLM2-135M", "SmolLM2-360M"), weights.clone(), "135m"),
        (changed("\"r\": 6", "\"r\": 8"), weights.clone(), "8 × 576"),
        (changed("\"use_dora\": false", "\"use_dora\": true"), weights.clone(), "DoRA"),
        (config.clone(), other_sizes, "another model"),
        (config.clone(), deeper(30), "layer 30"),
        (config.clone(), deeper(usize::MAX), "another model"),
        (config.clone(), weights[..weights.len() / 2].to_vec(), "adapter_model.safetensors"),
        (String::from("{}"), weights.clone(), "adapter_config.json"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("adapter_config.json"), config).expect("written");
        fs::write(folder.path().join("adapter_model.safetensors"), weights).expect("written");
        order_load(&talker, "wrong", folder.path(), hash(folder.path()));
        let reason = talker.adapters().expect_err(word);
        assert!(reason.contains(word) && reason.contains("wrong") && !reason.contains('\n'), "{word}: {reason}");
    }
    order_load(&talker, "changed", &good, "00".repeat(32));
    assert!(talker.adapters().expect_err("another hash").contains("have changed"));
    order_load(&talker, "missing", &good.join("nothing"), String::new());
    assert!(talker.adapters().expect_err("no files").contains("cannot be read"));
    order_drop(&talker, NAMES[0]);
    assert_eq!(talker.adapters().expect("one is left").len(), 1, "and nothing was added");
}
