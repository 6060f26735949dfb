//! The language model against llama.cpp and against itself, with the small model.

mod mind_support;

use callbox_engine::kernels::Level;
use callbox_engine::models::transformer::{Piece, Wanted};
use callbox_engine::role::Worker;
use callbox_wire::{CallId, ChatRole, Event, Failure, Finish, Request, Sampling, TurnId};
use mind_support::*;

#[test]
fn tokens_and_prompts_are_those_of_llama_cpp() {
    check_texts(&model(SMOLLM), "smollm2");
}

/// A model this small is at a coin's toss often, and the rounding of activations decides it: llama.cpp is 0.00254 nats and
/// 96.9 % from the same weights in f32 (`fixtures/mind/reference.py`), we are 0.0011 nats and 98.1 %.
#[test]
fn logits_are_nearer_to_f32_than_those_of_llama_cpp() {
    let mut model = load(&model(SMOLLM), Level::detect());
    let exact = distance(&mut model, "smollm2.f32", 4, 512, 128);
    let peer = distance(&mut model, "smollm2", 4, 512, 128);
    eprintln!("from f32 {exact:?}\nfrom llama.cpp {peer:?}");
    assert!(exact.positions >= 2000 && exact.divergence < 0.002 && exact.agreement > 0.98, "{exact:?}");
    assert!(exact.clear_agreement > 0.99 && peer.clear_agreement > 0.99, "{exact:?} {peer:?}");
    assert!(peer.divergence < 0.01, "{peer:?}");
}

#[test]
fn every_instruction_level_gives_the_logits_of_the_model() {
    for level in Level::available() {
        let distance = distance(&mut load(&model(SMOLLM), level), "smollm2.f32", 4, 40, 64);
        assert!(distance.divergence < 0.005 && distance.clear_agreement > 0.98, "{level:?}: {distance:?}");
    }
}

#[test]
fn how_a_sequence_is_computed_does_not_change_a_bit() {
    let mut model = load(&model(SMOLLM), Level::detect());
    let tokens: Vec<Vec<u32>> =
        (1..=3).map(|seed| (0..40 + seed).map(|index| (index * 7919 * seed + 31) % 49_000).collect()).collect();
    let alone: Vec<Vec<f32>> = tokens.iter().map(|tokens| logits(&mut model, tokens, 1000)).collect();
    let vocabulary = model.spec().vocabulary;
    assert_eq!(logits(&mut model, &tokens[0], 1), alone[0], "token by token");
    assert_eq!(logits(&mut model, &tokens[0], 9), alone[0], "in pieces");

    // Three sequences of different lengths in one step, two of them with a past.
    let mut caches: Vec<_> = tokens.iter().map(|_| model.cache(64)).collect();
    for (past, (cache, tokens)) in [0, 5, 17].into_iter().zip(caches.iter_mut().zip(&tokens)) {
        if past > 0 {
            let mut pieces = [Piece { tokens: &tokens[..past], cache, wanted: Wanted::Nothing, adapter: None }];
            model.step(&mut pieces, &mut || true).expect("room");
        }
    }
    let mut pieces: Vec<Piece> = caches
        .iter_mut()
        .zip(&tokens)
        .map(|(cache, tokens)| Piece { tokens: &tokens[cache.len()..], cache, wanted: Wanted::Last, adapter: None })
        .collect();
    let together = model.step(&mut pieces, &mut || true).expect("room").expect("not stopped").to_vec();
    for (alone, together) in alone.iter().zip(together.chunks_exact(vocabulary)) {
        assert_eq!(&alone[alone.len() - vocabulary..], together);
    }

    // Another continuation, cut off, then the right one; and a copy of the beginning.
    let cache = &mut caches[0];
    cache.truncate(20);
    let mut pieces = [Piece { tokens: &[5, 6, 7, 8], cache, wanted: Wanted::Nothing, adapter: None }];
    model.step(&mut pieces, &mut || true).expect("room");
    cache.truncate(20);
    let mut copy = model.cache(100);
    copy.copy_prefix(cache, 19);
    for cache in [cache, &mut copy] {
        let mut pieces = [Piece { tokens: &tokens[0][cache.len()..], cache, wanted: Wanted::Last, adapter: None }];
        let last = model.step(&mut pieces, &mut || true).expect("room").expect("not stopped");
        assert_eq!(&alone[0][alone[0].len() - vocabulary..], last);
    }

    // A step that is stopped half way leaves nothing behind.
    let mut left = 7;
    copy.truncate(20);
    let mut pieces = [Piece { tokens: &[1, 2, 3], cache: &mut copy, wanted: Wanted::Last, adapter: None }];
    let stopped = model.step(&mut pieces, &mut || {
        left -= 1;
        left > 0
    });
    assert!(stopped.expect("room").is_none() && copy.len() == 20);
}

#[test]
fn a_known_prefix_is_not_computed_again_and_changes_no_word() {
    let path = model(SMOLLM);
    let talker = Talker::start(&path, 2, 512);
    let first = question("What is the capital of France?");
    talker.think(1, 1, &first, &sampling(24));
    let (cold, thought) = talker.answer(1, 1);
    assert!(!cold.is_empty() && thought.cached_tokens == 0 && thought.prompt_tokens > 20, "{cold:?} {thought:?}");

    talker.think(2, 1, &first, &sampling(24));
    let (copied, thought) = talker.answer(2, 1);
    assert_eq!(copied, cold);
    assert_eq!(thought.cached_tokens, thought.prompt_tokens - 1, "another call asked the same");

    // The conversation goes on: all of the last turn is known but what the template adds.
    let mut second = first.clone();
    second.push(said(ChatRole::Assistant, &cold));
    second.push(said(ChatRole::User, "And of Italy?"));
    talker.think(1, 2, &second, &sampling(24));
    let (warm, thought) = talker.answer(1, 2);
    assert!(thought.cached_tokens + 24 > thought.prompt_tokens, "{thought:?}");
    talker.mind.submit(Request::Forget { call: CallId(1) });
    talker.mind.submit(Request::Forget { call: CallId(2) });
    talker.think(3, 1, &second, &sampling(24));
    let (fresh, thought) = talker.answer(3, 1);
    assert_eq!((fresh, thought.cached_tokens), (warm, 0), "forgotten calls are forgotten");

    // A primed agent's prompt survives its callers.
    talker
        .mind
        .submit(Request::Prime { messages: vec![said(ChatRole::System, "You sell flowers in the Market Street.")] });
    let flowers = [said(ChatRole::System, "You sell flowers in the Market Street."), said(ChatRole::User, "Roses?")];
    talker.think(4, 1, &flowers, &sampling(4));
    talker.answer(4, 1);
    talker.mind.submit(Request::Forget { call: CallId(4) });
    talker.settle();
    while !talker.is_silent() {}
    talker.think(5, 1, &question("Hello?"), &sampling(4));
    talker.answer(5, 1);
    talker.think(6, 1, &flowers, &sampling(4));
    let (_, thought) = talker.answer(6, 1);
    assert!(thought.cached_tokens >= 12, "{thought:?}");
}

#[test]
fn answers_of_several_calls_at_once_are_those_of_each_alone() {
    let talker = Talker::start(&model(SMOLLM), 3, 512);
    let questions = ["What is 2 + 2?", "Tell me about cats, please, in many words.", "Who are you?"];
    let seeded = Sampling { temperature: 0.8, top_p: 0.95, seed: 11, max_tokens: 30, ..Sampling::default() };
    let mut alone = Vec::new();
    for (call, text) in (1..).zip(questions) {
        talker.think(call, 1, &question(text), &seeded);
        alone.push(talker.answer(call, 1).0);
        talker.mind.submit(Request::Forget { call: CallId(call) });
    }
    for (call, text) in (1..).zip(questions) {
        talker.think(call, 2, &question(text), &seeded);
    }
    let mut together = vec![String::new(); 3];
    let mut ended = 0;
    while ended < 3 {
        match talker.event() {
            Event::Token { call, text, .. } => together[call.0 as usize - 1].push_str(&text),
            Event::Thought { .. } => ended += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(together, alone);
}

#[test]
fn a_cancelled_turn_says_nothing_more_and_frees_its_place() {
    let talker = Talker::start(&model(SMOLLM), 1, 512);
    let long = question("Count from one to one hundred, slowly.");
    talker.think(1, 1, &long, &sampling(400));
    assert!(matches!(talker.event(), Event::Token { .. }));
    talker.mind.submit(Request::Cancel { call: CallId(1), turn: TurnId(1) });
    talker.settle();
    while !talker.is_silent() {}
    // The same question with more after it: what was computed is still there.
    let mut more = long.clone();
    more[1].content.push_str(" Now!");
    talker.think(1, 2, &more, &sampling(3));
    let (_, thought) = talker.answer(1, 2);
    assert!(thought.cached_tokens > 20, "{thought:?}");
    // A turn that is replaced before it began, and one of a call that is gone.
    talker.think(1, 3, &long, &sampling(400));
    talker.think(1, 4, &long, &sampling(2));
    talker.answer(1, 4);
    talker.think(1, 5, &long, &sampling(400));
    talker.mind.submit(Request::Forget { call: CallId(1) });
    talker.think(2, 1, &long, &sampling(2));
    loop {
        if matches!(talker.event(), Event::Thought { call: CallId(2), .. }) {
            break;
        }
    }
    assert!(talker.is_silent());
}

#[test]
fn an_answer_ends_at_its_limits() {
    let talker = Talker::start(&model(SMOLLM), 1, 96);
    let ask = question("Name three colours.");
    talker.think(1, 1, &ask, &sampling(20));
    let (whole, thought) = talker.answer(1, 1);
    assert!(thought.answer_tokens <= 20);
    let stop: String = whole.chars().skip(whole.chars().count() / 2).take(4).collect();
    talker.think(1, 2, &ask, &Sampling { stop: vec![stop.clone()], ..sampling(20) });
    let (cut, thought) = talker.answer(1, 2);
    let before = whole.split(&stop).next().expect("a first part");
    assert_eq!((cut.as_str(), thought.finish), (before, Finish::Stop));

    // The context ends the answer; a conversation that does not fit is refused.
    let long = Sampling { repeat_penalty: 1.3, ..sampling(4000) };
    talker.think(1, 3, &question("Tell me a very long story about a ship, with every detail."), &long);
    let (_, thought) = talker.answer(1, 3);
    assert!(thought.prompt_tokens + thought.answer_tokens <= 96, "{thought:?}");
    talker.think(1, 4, &question(&"word ".repeat(100)), &sampling(4));
    assert!(matches!(talker.event(), Event::Failed { failure: Failure::Invalid, .. }));
    talker.think(1, 5, &ask, &sampling(20));
    assert_eq!(talker.answer(1, 5).0, whole, "and nothing was harmed");
}

#[test]
fn a_full_queue_refuses() {
    let talker = Talker::start(&model(SMOLLM), 1, 256);
    let calls = 12;
    for call in 0..calls {
        talker.think(call, 1, &question("Hello?"), &sampling(8));
    }
    let (mut refused, mut answered) = (0, 0);
    while refused + answered < calls {
        match talker.event() {
            Event::Failed { failure: Failure::Overloaded, .. } => refused += 1,
            Event::Thought { .. } => answered += 1,
            Event::Token { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && answered >= 4, "{refused} refused, {answered} answered");
    talker.think(50, 1, &question("Hello?"), &sampling(2));
    talker.answer(50, 1);
}

#[test]
fn a_packed_file_that_is_not_ours_is_made_anew() {
    use callbox_engine::kernels::Pool;
    use callbox_engine::weights::{gguf::Gguf, import::Imported};
    let path = model(SMOLLM);
    let folder = tempfile::tempdir().expect("a folder");
    let gguf = Gguf::open(&path).expect("a model");
    let pool = Pool::new(2).expect("threads");
    let open = || Imported::open(&path, &gguf, folder.path(), &pool).expect("packed");
    let norm = open().vector("output_norm.weight", 576).expect("there");
    let pack = std::fs::read_dir(folder.path()).expect("a folder").flatten().map(|entry| entry.path());
    let pack = pack.into_iter().find(|path| path.extension().is_some_and(|x| x == "pack")).expect("a packed file");
    let good = std::fs::read(&pack).expect("readable");
    for (broken, what) in [(good[..good.len() / 2].to_vec(), "cut"), (vec![0; 100], "foreign"), (Vec::new(), "empty")] {
        std::fs::write(&pack, broken).expect("written");
        assert_eq!(open().vector("output_norm.weight", 576).expect("there"), norm, "{what}");
        assert!(std::fs::read(&pack).expect("readable") == good, "{what}");
    }
    let mut flipped = good.clone();
    flipped[120] ^= 1;
    std::fs::write(&pack, flipped).expect("written");
    assert_eq!(open().vector("output_norm.weight", 576).expect("there"), norm, "a damaged table");
}
