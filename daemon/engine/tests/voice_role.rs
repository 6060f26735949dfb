//! The role as the server sees it: requests in, events out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use callbox_engine::device::{Gate, Urgency};
use callbox_engine::role::{Outlet, Worker};
use callbox_engine::voice::{Voice, VoiceConfig};
use callbox_wire::{CallId, ClauseId, Event, Failure, Request, TurnId};
use candle_core::Device;
use crossbeam_channel::{Receiver, Sender, bounded};

struct Collect(Sender<Event>);

impl Outlet for Collect {
    fn send(&self, event: Event) {
        self.0.send(event).expect("the test listens");
    }
}

fn start() -> (Voice, Receiver<Event>, Gate) {
    start_with("piper-joe/en_US-joe-medium.onnx", 1)
}

fn start_with(model: &str, together: usize) -> (Voice, Receiver<Event>, Gate) {
    let models = std::env::var_os("CALLBOX_MODELS")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/callbox/models"));
    let model = models.join(model);
    assert!(model.exists(), "the voice is missing: run make models");
    let (send, events) = bounded(100_000);
    let gate = Gate::default();
    let config = VoiceConfig { model, espeak: "espeak-ng".into(), device: Device::Cpu, threads: 2, together };
    let voice = Voice::start(&config, gate.clone(), Arc::new(Collect(send))).expect("the voice starts");
    (voice, events, gate)
}

fn speak(call: u64, turn: u32, clause: u32, text: &str, credit: u32) -> Request {
    Request::Speak {
        call: CallId(call),
        turn: TurnId(turn),
        clause: ClauseId(clause),
        text: text.into(),
        rate: 8000,
        credit,
        voice: None,
    }
}

/// Returns when the thread has served all that was submitted before.
fn beat(voice: &Voice) {
    let (done, seen) = bounded(1);
    voice.beat(Box::new(move || done.send(()).expect("the test waits")));
    seen.recv_timeout(Duration::from_secs(60)).expect("the thread goes round");
}

fn until_spoken(events: &Receiver<Event>) -> (Vec<i16>, u32) {
    let mut samples = Vec::new();
    loop {
        match events.recv_timeout(Duration::from_secs(60)).expect("an event") {
            Event::Audio { pcm, .. } => {
                assert_eq!(pcm.0.len(), 160);
                samples.extend(pcm.0);
            }
            Event::Spoken { frames, .. } => {
                assert_eq!(samples.len(), frames as usize * 160);
                return (samples, frames);
            }
            event => panic!("{event:?}"),
        }
    }
}

#[test]
fn a_sentence_is_loud_enough_starts_at_once_and_is_the_same_again() {
    let (voice, events, _gate) = start();
    voice.submit(speak(1, 1, 0, "Sure, one moment.", 1000));
    let (samples, frames) = until_spoken(&events);
    assert!((40..120).contains(&frames), "{frames} frames");
    let peak = samples.iter().map(|x| x.unsigned_abs()).max().expect("samples");
    let rms = (samples.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / samples.len() as f64).sqrt();
    assert!((4000..=32_767).contains(&peak), "peak {peak}");
    assert!((800.0..8000.0).contains(&rms), "rms {rms}");
    let sound = samples.iter().position(|x| x.unsigned_abs() > 260).expect("sound");
    assert!(sound <= 30 * 8, "the first sound comes after {} ms", sound / 8);
    voice.submit(speak(2, 9, 3, "Sure, one moment.", 1000));
    assert_eq!(until_spoken(&events).0, samples);
    for silent in ["", "  ", "**", "🙂", "...", "!?"] {
        voice.submit(speak(1, 2, 0, silent, 10));
        assert_eq!(until_spoken(&events).1, 0, "{silent:?}");
    }
}

#[test]
fn a_speaker_of_kokoros_is_a_voice_like_others() {
    let (voice, events, _gate) = start_with("kokoro-82m/bf_emma.bin", 1);
    assert_eq!((voice.info().model.as_str(), voice.rate()), ("bf_emma.bin", 24_000));
    voice.submit(speak(1, 1, 0, "Sure, one moment.", 1000));
    let (samples, frames) = until_spoken(&events);
    assert!((40..120).contains(&frames), "{frames} frames");
    let peak = samples.iter().map(|x| x.unsigned_abs()).max().expect("samples");
    assert!((4000..=32_767).contains(&peak), "peak {peak}");
    voice.submit(speak(1, 2, 0, "...", 10));
    assert_eq!(until_spoken(&events).1, 0);
}

/// All that each call is told, when every one of them has been told it.
fn told(events: &Receiver<Event>, calls: usize) -> BTreeMap<u64, Vec<i16>> {
    let (mut told, mut left) = (BTreeMap::<u64, Vec<i16>>::new(), calls);
    while left > 0 {
        match events.recv_timeout(Duration::from_secs(60)).expect("an event") {
            Event::Audio { call, pcm, .. } => told.entry(call.0).or_default().extend(pcm.0),
            Event::Spoken { .. } => left -= 1,
            event => panic!("{event:?}"),
        }
    }
    told
}

#[test]
fn calls_that_are_computed_together_hear_what_each_hears_alone() {
    let texts = ["Yes.", "Sure, one moment.", "Of course, please hold.", "That is done."];
    for (model, together) in [("piper-joe/en_US-joe-medium.onnx", 1), ("kokoro-82m/af_heart.bin", 4)] {
        let (voice, events, gate) = start_with(model, together);
        let alone = (0..4).map(|at| {
            voice.submit(speak(at, 1, 0, texts[at as usize], 5000));
            told(&events, 1)
        });
        let alone: Vec<_> = alone.collect();
        // The first waits with its sentence, and by then the others have come.
        let permit = gate.enter(Urgency::FirstAudio);
        (0..4).for_each(|at| voice.submit(speak(at, 2, 0, texts[at as usize], 5000)));
        drop(permit);
        assert_eq!(told(&events, 4), alone.into_iter().flatten().collect(), "{model}");
    }
}

#[test]
fn credit_bounds_what_is_sent() {
    let (voice, events, _gate) = start();
    voice.submit(speak(1, 1, 0, "We are open from nine to five.", 7));
    let come = |count| {
        (0..count).for_each(|_| drop(events.recv_timeout(Duration::from_secs(60)).expect("a frame")));
        (0..20).for_each(|_| beat(&voice));
        assert!(events.is_empty(), "no more than {count}");
    };
    come(7);
    let grant = |frames| Request::Grant { call: CallId(1), turn: TurnId(1), frames };
    voice.submit(grant(3));
    come(3);
    voice.submit(Request::Grant { call: CallId(5), turn: TurnId(1), frames: 9 });
    voice.submit(grant(u32::MAX));
    voice.submit(grant(u32::MAX));
    while !matches!(events.recv_timeout(Duration::from_secs(60)).expect("an event"), Event::Spoken { .. }) {}
}

#[test]
fn nothing_of_a_cancelled_turn_follows() {
    let (voice, events, gate) = start();
    let long = "This is a rather long sentence that would take quite a while to be spoken to its very end.";
    voice.submit(speak(1, 1, 0, long, 5000));
    voice.submit(speak(2, 1, 0, long, 5000));
    voice.submit(speak(2, 2, 0, "Yes.", 5000));
    events.recv_timeout(Duration::from_secs(60)).expect("audio");
    voice.submit(Request::Cancel { call: CallId(1), turn: TurnId(1) });
    voice.submit(Request::Forget { call: CallId(2) });
    let sent = events.len();
    beat(&voice);
    assert!(events.len() <= sent + 1, "at most the frame that was on its way");
    assert!(events.try_iter().count() <= sent + 1);
    voice.submit(speak(1, 2, 0, "Yes.", 5000));
    let (_, frames) = until_spoken(&events);
    assert!(frames > 10);
    // A cancel that comes while the voice waits for its turn to compute.
    let permit = gate.enter(Urgency::FirstAudio);
    voice.submit(speak(1, 3, 0, long, 5000));
    voice.submit(Request::Cancel { call: CallId(1), turn: TurnId(3) });
    drop(permit);
    beat(&voice);
    assert!(events.is_empty());
}

#[test]
fn two_calls_take_turns_and_the_clauses_of_a_turn_do_not() {
    let (voice, events, gate) = start();
    let long = "This is a rather long sentence that would take quite a while to be spoken to its very end.";
    let permit = gate.enter(Urgency::FirstAudio);
    voice.submit(speak(1, 1, 0, long, 5000));
    voice.submit(speak(1, 1, 1, "Yes.", 5000));
    voice.submit(speak(2, 1, 0, long, 5000));
    drop(permit);
    let (mut order, mut spoken) = (Vec::new(), BTreeMap::new());
    while spoken.len() < 3 {
        match events.recv_timeout(Duration::from_secs(60)).expect("an event") {
            Event::Audio { call, clause, .. } => order.push((call.0, clause.0)),
            Event::Spoken { call, clause, frames, .. } => {
                spoken.insert((call.0, clause.0), frames);
            }
            event => panic!("{event:?}"),
        }
    }
    let of = |call| order.iter().filter(|(c, _)| *c == call).map(|(_, clause)| *clause).collect::<Vec<_>>();
    assert!(of(1).is_sorted() && of(1).contains(&1));
    let switches = order.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
    assert!(switches >= 8, "{switches} switches");
    let second = order.iter().position(|(call, _)| *call == 2).expect("spoken");
    assert!(second < 30, "the second call waits for one window, not for a sentence: {second} frames");
}

#[test]
fn too_much_is_refused_and_odd_requests_are_invalid() {
    let (voice, events, gate) = start();
    let permit = gate.enter(Urgency::FirstAudio);
    for clause in 0..2000 {
        voice.submit(speak(clause.into(), 1, clause, "Yes.", 0));
    }
    drop(permit);
    beat(&voice);
    let refused =
        events.try_iter().filter(|event| matches!(event, Event::Failed { failure: Failure::Overloaded, .. })).count();
    assert!(refused > 500, "{refused}");
    voice.submit(Request::Speak {
        call: CallId(1),
        turn: TurnId(7),
        clause: ClauseId(0),
        text: "Yes.".into(),
        rate: 44_100,
        credit: 10,
        voice: None,
    });
    beat(&voice);
    assert!(events.try_iter().any(|event| matches!(event, Event::Failed { failure: Failure::Invalid, .. })));
}

#[test]
fn agents_of_one_network_speak_each_with_its_own_speaker() {
    let (voice, events, _gate) = start_with("kokoro-82m/af_heart.bin", 1);
    let mut heard = Vec::new();
    let texts = [None, Some("bm_george"), Some("ef_dora"), Some("jf_alpha"), Some("zm_yunxi")];
    for (turn, speaker) in (0..).zip(texts) {
        let Request::Speak { call, clause, rate, credit, .. } = speak(1, turn, 0, "", 10_000) else { unreachable!() };
        let text = match speaker {
            Some("ef_dora") => "Buenos días.",
            Some("jf_alpha") => "こんにちは。",
            Some("zm_yunxi") => "你好。",
            _ => "Good morning.",
        };
        let (text, voice_of) = (text.into(), speaker.map(str::to_owned));
        voice.submit(Request::Speak { call, turn: TurnId(turn), clause, text, rate, credit, voice: voice_of });
        let (samples, _) = until_spoken(&events);
        let loud = samples.iter().map(|s| i32::from(*s).abs()).max().unwrap_or_default();
        assert!(loud > 1000 && samples.len() > 4000, "{speaker:?}: {} samples, peak {loud}", samples.len());
        heard.push(samples);
    }
    assert_ne!(heard[0], heard[1], "the same words by another speaker");
    let mut nobody = speak(1, 9, 0, "Good morning.", 100);
    if let Request::Speak { voice, .. } = &mut nobody {
        *voice = Some("../af_heart".into());
    }
    voice.submit(nobody);
    let refused = |event| matches!(event, Event::Failed { failure: Failure::Invalid, .. });
    assert!(refused(events.recv_timeout(Duration::from_secs(20)).expect("an answer")));
}
