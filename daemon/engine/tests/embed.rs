//! The embedder against `transformers` (fixture: `make_fixtures_embed.py`), and as the server sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use callbox_engine::device::{Gate, Urgency};
use callbox_engine::embed::Embedder;
use callbox_engine::models::minilm::{LONGEST, MiniLm, WIDTH};
use callbox_engine::role::{Outlet, Worker};
use callbox_wire::{CallId, Event, Failure, Request, TurnId};
use candle_core::Device;
use crossbeam_channel::{Receiver, Sender, bounded};

fn model() -> PathBuf {
    let models = std::env::var_os("CALLBOX_MODELS")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/callbox/models"));
    let model = models.join("minilm-l6-v2/model.safetensors");
    assert!(model.exists(), "the embedder is missing: run `callbox models pull tiny`");
    model
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    vector: Vec<f32>,
}

#[test]
fn equals_transformers() {
    let network = MiniLm::open(&model(), &Device::Cpu).expect("the model loads");
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/embed/cases.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(fixture).expect("fixture")).expect("fixture");
    assert!(cases.len() >= 8);
    for case in &cases {
        let vector = network.embed(&case.text).expect("embedded");
        assert_eq!(vector.len(), WIDTH);
        let worst = vector.iter().zip(&case.vector).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
        // The fixture has five decimals.
        assert!(worst < 2e-5, "{:?}: {worst}", case.text);
    }
}

#[test]
fn any_text_has_a_vector_and_only_its_beginning_counts() {
    let network = MiniLm::open(&model(), &Device::Cpu).expect("the model loads");
    for text in ["", " ", "\0\u{1f600} ...", "你好", &"tea ".repeat(LONGEST * 2)] {
        let vector = network.embed(text).expect("embedded");
        assert!((dot(&vector, &vector) - 1.0).abs() < 1e-4, "{text:?}");
    }
    let (long, longer) = ("tea ".repeat(LONGEST), "tea ".repeat(LONGEST) + "coffee");
    assert_eq!(network.embed(&long).expect("embedded"), network.embed(&longer).expect("embedded"));
}

struct Collect(Sender<Event>);

impl Outlet for Collect {
    fn send(&self, event: Event) {
        self.0.send(event).expect("the test listens");
    }
}

fn next(events: &Receiver<Event>) -> Event {
    events.recv_timeout(Duration::from_secs(20)).expect("an event")
}

fn ask(call: u64, text: &str, urgent: bool) -> Request {
    Request::Embed { call: CallId(call), turn: TurnId(1), text: text.into(), urgent }
}

#[test]
fn callers_come_first_and_cancelled_work_is_silent() {
    let (send, events) = bounded(100);
    let gate = Gate::default();
    let embedder = Embedder::start(&model(), &Device::Cpu, gate.clone(), Arc::new(Collect(send))).expect("started");
    let held = gate.enter(Urgency::FirstAudio);
    // The first is taken at once and waits at the gate.
    embedder.submit(ask(1, "one", false));
    while gate.waiting() == 0 {
        std::thread::yield_now();
    }
    for call in 2..=9 {
        embedder.submit(ask(call, "another", call == 9));
    }
    embedder.submit(Request::Forget { call: CallId(1) });
    embedder.submit(Request::Cancel { call: CallId(3), turn: TurnId(1) });
    embedder.submit(ask(10, &"x".repeat(20 << 10), true));
    assert!(matches!(next(&events), Event::Failed { call: CallId(10), failure: Failure::Invalid, .. }));
    drop(held);
    let order: Vec<u64> = (0..7).map(|_| next(&events).call().expect("of a call").0).collect();
    assert_eq!(order, [9, 2, 4, 5, 6, 7, 8]);
    drop(embedder);
    assert!(events.try_recv().is_err(), "nothing of calls 1 and 3");
}
