//! The role as the daemon sees it: requests in, events out, on real models.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use callbox_engine::device::{Gate, Urgency};
use callbox_engine::ears::{Config, Ears};
use callbox_engine::role::{Outlet, Worker};
use callbox_wire::{CallId, Event, Failure, Pcm, Request, TurnId};
use candle_core::Device;
use crossbeam_channel::{Receiver, Sender, bounded};

const CALL: CallId = CallId(7);
const PATIENCE: Duration = Duration::from_secs(60);

struct Post(Sender<Event>);

impl Outlet for Post {
    fn send(&self, event: Event) {
        self.0.send(event).expect("the test listens");
    }
}

struct Bench {
    ears: Ears,
    gate: Gate,
    events: Receiver<Event>,
}

impl Bench {
    fn new() -> Self {
        Self::start(false)
    }

    fn start(tensors: bool) -> Self {
        let root = std::env::var_os("CALLBOX_MODELS").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/callbox/models");
        let root = root.unwrap_or_else(home);
        let config = Config {
            vad: root.join("silero-vad/silero_vad_16k.safetensors"),
            stt: root.join("whisper-tiny.en/tiny.en.pt"),
            threads: 1,
            device: Device::Cpu,
            tensors,
        };
        assert!(config.vad.exists() && config.stt.exists(), "models are missing: run `make models`");
        let (post, events) = bounded(100_000);
        let gate = Gate::default();
        let ears = Ears::start(&config, gate.clone(), Arc::new(Post(post))).expect("it works");
        Self { ears, gate, events }
    }

    fn listen_to(&self, call: CallId, name: &str) -> u64 {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ears").join(name);
        let samples: Vec<i16> =
            hound::WavReader::open(path).expect("committed").samples().map(|s| s.expect("whole")).collect();
        self.ears.submit(Request::Listen { call });
        for pcm in samples.chunks(320) {
            self.ears.submit(Request::Hear { call, pcm: Pcm(pcm.to_vec()) });
        }
        samples.len() as u64
    }

    fn transcribe(&self, call: CallId, turn: u32, from: u64, to: u64) {
        self.ears.submit(Request::Transcribe { call, turn: TurnId(turn), from, to });
    }

    /// The next event that is no activity.
    fn outcome(&self) -> Event {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("an answer") {
                Event::Activity { .. } => {}
                other => return other,
            }
        }
    }

    /// Waits until both threads have gone round.
    fn settle(&self) {
        let (done, beat) = bounded(1);
        self.ears.beat(Box::new(move || done.send(()).expect("the test waits")));
        beat.recv_timeout(PATIENCE).expect("a beat");
    }
}

fn failure(event: Event) -> (u32, Failure) {
    match event {
        Event::Failed { turn, failure, .. } => (turn.0, failure),
        other => panic!("not a failure: {other:?}"),
    }
}

#[test]
fn a_call_is_heard_and_activity_follows_the_voice() {
    let bench = Bench::new();
    assert!(bench.ears.info().model == "tiny.en.pt" && bench.ears.info().warmup_ms > 0);
    let heard = bench.listen_to(CALL, "vm-toenternumber.wav");
    bench.transcribe(CALL, 3, 0, heard);
    let (mut ends, mut speech) = (Vec::new(), Vec::new());
    let transcript = loop {
        match bench.events.recv_timeout(PATIENCE).expect("an answer") {
            Event::Activity { call: CALL, at, speech: s } => (ends.push(at), speech.push(s)),
            Event::Heard { call: CALL, turn: TurnId(3), transcript } => break transcript,
            other => panic!("unexpected: {other:?}"),
        };
    };
    assert_eq!(ends, (1..=heard / 512).map(|i| i * 512).collect::<Vec<_>>());
    assert!(speech[0] < 0.3 && speech.iter().filter(|&&s| s > 0.8).count() > speech.len() / 2, "{speech:?}");
    assert_eq!(
        (transcript.text.to_lowercase().trim_end_matches('.'), transcript.declined),
        ("press 1 to enter a number", None)
    );
    assert_eq!(u64::from(transcript.audio_ms), heard * 1000 / 16_000);
    assert!(transcript.compute_us > 0);
}

#[test]
fn a_span_that_is_not_there_is_invalid() {
    let bench = Bench::new();
    bench.transcribe(CALL, 1, 0, 100);
    assert_eq!(failure(bench.outcome()), (1, Failure::Invalid));
    let heard = bench.listen_to(CALL, "vm-nomore.wav");
    for (turn, from, to) in [(2, 0, heard + 1), (3, 10, 10), (4, 10, 5), (5, u64::MAX, u64::MAX)] {
        bench.transcribe(CALL, turn, from, to);
        assert_eq!(failure(bench.outcome()), (turn, Failure::Invalid));
    }
    bench.ears.submit(Request::Hear { call: CALL, pcm: Pcm(vec![0; 16_000 * 30]) });
    bench.transcribe(CALL, 6, 0, heard);
    assert_eq!(failure(bench.outcome()), (6, Failure::Invalid));
    let language = "es".parse().expect("a language");
    let span = (heard, heard + 100);
    bench.ears.submit(Request::TranscribeIn { language, call: CALL, turn: TurnId(8), from: span.0, to: span.1 });
    assert_eq!(failure(bench.outcome()), (8, Failure::Invalid), "tiny.en knows no Spanish");
    bench.ears.submit(Request::Forget { call: CALL });
    bench.transcribe(CALL, 7, heard, heard + 100);
    assert_eq!(failure(bench.outcome()), (7, Failure::Invalid));
}

#[test]
fn who_stopped_speaking_first_is_heard_first() {
    let bench = Bench::new();
    let held = bench.gate.enter(Urgency::FirstAudio);
    let early = bench.listen_to(CallId(1), "vm-nomore.wav");
    let late = bench.listen_to(CallId(2), "vm-nomore.wav");
    bench.ears.submit(Request::Hear { call: CallId(1), pcm: Pcm(vec![0; 16_000 * 20]) });
    // The first is in the scribe's hands once it waits at the gate; of the other two the second to be asked for ended twenty
    // seconds ago.
    bench.transcribe(CallId(2), 1, 0, late);
    while bench.gate.waiting() == 0 {
        std::thread::yield_now();
    }
    bench.transcribe(CallId(2), 2, 0, late);
    bench.transcribe(CallId(1), 3, 0, early);
    bench.settle_listener();
    drop(held);
    let turns: Vec<u32> = (0..3)
        .map(|_| match bench.outcome() {
            Event::Heard { turn, .. } => turn.0,
            other => panic!("unexpected: {other:?}"),
        })
        .collect();
    assert_eq!(turns, [1, 3, 2]);
}

impl Bench {
    /// Waits until the listener has taken all that was submitted: what is invalid is answered in its turn.
    fn settle_listener(&self) {
        self.transcribe(CallId(99), 99, 0, 1);
        assert_eq!(failure(self.outcome()), (99, Failure::Invalid));
    }
}

#[test]
fn nothing_of_a_cancelled_turn_is_sent_and_the_next_is_served() {
    let bench = Bench::new();
    let heard = bench.listen_to(CALL, "pbx-invalidpark.wav");
    let held = bench.gate.enter(Urgency::FirstAudio);
    for turn in 1..=3 {
        bench.transcribe(CALL, turn, 0, heard);
    }
    bench.ears.submit(Request::Cancel { call: CALL, turn: TurnId(1) });
    bench.ears.submit(Request::Cancel { call: CALL, turn: TurnId(2) });
    bench.settle_listener();
    drop(held);
    match bench.outcome() {
        Event::Heard { turn: TurnId(3), transcript, .. } => assert!(transcript.text.contains("no call parked")),
        other => panic!("unexpected: {other:?}"),
    }
    bench.transcribe(CALL, 4, 0, heard);
    bench.ears.submit(Request::Forget { call: CALL });
    bench.settle();
    assert!(bench.events.try_iter().all(|event| matches!(event, Event::Activity { .. })));
}

#[test]
fn those_who_wait_are_heard_together_where_tensors_decode() {
    let bench = Bench::start(true);
    let names = ["vm-nomore.wav", "conf-full.wav", "vm-toenternumber.wav", "pbx-invalidpark.wav"];
    let held = bench.gate.enter(Urgency::FirstAudio);
    // The first is in the scribe's hands once it waits at the gate; the others are of two buckets.
    for (call, name) in names.iter().enumerate().chain([(4, &names[0]), (5, &names[1])]) {
        let heard = bench.listen_to(CallId(call as u64), name);
        bench.transcribe(CallId(call as u64), 1, 0, heard);
        while bench.gate.waiting() == 0 {
            std::thread::yield_now();
        }
    }
    bench.ears.submit(Request::Cancel { call: CallId(4), turn: TurnId(1) });
    bench.settle_listener();
    drop(held);
    let mut heard: Vec<(u64, String, u64)> = (0..5)
        .map(|_| match bench.outcome() {
            Event::Heard { call, transcript, .. } => (call.0, transcript.text.to_lowercase(), transcript.compute_us),
            other => panic!("unexpected: {other:?}"),
        })
        .collect();
    heard.sort();
    for ((call, text, _), (wanted, words)) in heard.iter().zip([
        (0, "no more messages"),
        (1, "conference is full"),
        (2, "to enter a number"),
        (3, "no call parked"),
        (5, "conference is full"),
    ]) {
        assert!(*call == wanted && text.contains(words), "{heard:?}");
    }
    let together: Vec<u64> = heard.iter().map(|(.., computed)| *computed).collect();
    assert!(together[1] == together[4] && together[0] != together[1], "one batch took one time: {together:?}");
}

#[test]
fn what_finds_the_desk_full_is_told_so() {
    let bench = Bench::new();
    let heard = bench.listen_to(CALL, "vm-nomore.wav");
    let held = bench.gate.enter(Urgency::FirstAudio);
    for turn in 0..70 {
        bench.transcribe(CALL, turn, 0, heard);
    }
    let refused = failure(bench.outcome());
    assert!(refused.0 >= 64 && refused.1 == Failure::Overloaded, "{refused:?}");
    bench.ears.submit(Request::Forget { call: CALL });
    drop(held);
    bench.settle();
}
