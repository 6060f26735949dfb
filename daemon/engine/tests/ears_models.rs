//! Silero and Whisper against their oracles (`make_fixtures_ears.py`), and against sounds that are not speech.

mod whisper_support;

use std::ops::ControlFlow;
use std::sync::LazyLock;

use callbox_engine::models::silero::{self, Silero};
use callbox_engine::models::whisper::mel::{HOP, LogMel};
use callbox_engine::models::whisper::{Pace, RATE, Unhurried, Whisper};
use candle_core::Device;
use whisper_support::*;

static WHISPER: LazyLock<Whisper> = LazyLock::new(|| Whisper::open(&tiny_en(), &Device::Cpu, 1).expect("a whisper"));

#[test]
fn speech_activity_is_the_oracles() {
    let silero = Silero::open(&model("silero-vad/silero_vad_16k.safetensors")).expect("a silero");
    for fact in facts() {
        let mut state = silero::State::default();
        let samples = wav(&fact.name);
        let windows = samples.as_chunks().0;
        assert_eq!(windows.len(), fact.activity.len());
        for (window, wanted) in windows.iter().zip(&fact.activity) {
            let got = silero.step(&mut state, window);
            assert!((got - wanted).abs() < 1e-4, "{}: {got} is not {wanted}", fact.name);
        }
    }
}

#[test]
fn the_spectrogram_is_the_oracles() {
    let (samples, wanted) = (wav("vm-nomore"), floats("mel.f32"));
    let got = LogMel::new(80).compute(&samples, samples.len().div_ceil(2 * HOP) * 2);
    assert_eq!(got.len(), wanted.len());
    let worst = got.iter().zip(&wanted).map(|(got, wanted)| (got - wanted).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "differs by {worst}");
}

/// `make_fixtures_whisper.py`
#[test]
fn the_spectrogram_of_128_bands_is_the_oracles() {
    const EVERY: usize = 4;
    let (samples, wanted) = (wav("vm-nomore"), floats("mel-128.f32"));
    let got = LogMel::new(128).compute(&samples, samples.len().div_ceil(2 * HOP) * 2);
    let got: Vec<f32> = got.chunks_exact(128).step_by(EVERY).flatten().copied().collect();
    assert_eq!(got.len(), wanted.len());
    let worst = got.iter().zip(&wanted).map(|(got, wanted)| (got - wanted).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "differs by {worst}");
}

#[test]
fn each_layer_of_the_encoder_is_the_oracles() {
    const EVERY: usize = 8;
    let wanted = floats("layers.f32");
    let layers = WHISPER.layers(&wav("vm-nomore")).expect("it fits");
    assert_eq!(layers.len(), WHISPER.dims().audio_layers + 2);
    for (i, (layer, wanted)) in layers.iter().zip(wanted.chunks(wanted.len() / layers.len())).enumerate() {
        let layer = layer.to_vec2::<f32>().expect("a matrix");
        let got: Vec<f32> = layer.iter().step_by(EVERY).flatten().copied().collect();
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        assert_eq!(got.len(), wanted.len());
        let cosine = product(&got, wanted) / (product(&got, &got) * product(wanted, wanted)).sqrt();
        assert!(cosine > 0.9999, "layer {i}: cosine {cosine}");
    }
}

#[test]
fn over_thirty_seconds_prompts_are_heard_to_the_letter_as_the_oracle_hears_them() {
    for fact in &facts()[..2] {
        let mut samples = wav(&fact.name);
        samples.resize(WHISPER.window(), 0.0);
        let hearing = hear(&WHISPER, &samples);
        assert_eq!((hearing.text.as_str(), hearing.declined), (fact.text.trim(), None));
    }
}

#[test]
fn over_their_true_length_prompts_are_heard_word_for_word() {
    for fact in facts() {
        let hearing = hear(&WHISPER, &wav(&fact.name));
        assert_eq!((words(&hearing.text), hearing.declined), (words(&fact.text), None));
        assert!(hearing.no_speech < 0.6 && hearing.mean_logprob > -1.0, "{hearing:?}");
    }
}

#[test]
fn more_silence_behind_and_before_an_utterance_changes_no_word() {
    for fact in facts() {
        let samples = wav(&fact.name);
        for (before, behind) in [(0, RATE / 2), (RATE / 4, 0), (RATE / 2, RATE)] {
            let padded = [vec![0.0; before], samples.clone(), vec![0.0; behind]].concat();
            assert_eq!(words(&hear(&WHISPER, &padded).text), words(&fact.text));
        }
    }
}

/// Sine tones, on for the first and off for the second time of `cadence` (seconds).
fn tone(hertz: &[f32], seconds: f32, cadence: (f32, f32)) -> Vec<f32> {
    (0..(seconds * RATE as f32) as usize)
        .map(|i| {
            let t = i as f32 / RATE as f32;
            let on = t % (cadence.0 + cadence.1) < cadence.0;
            let sum: f32 = hertz.iter().map(|f| (std::f32::consts::TAU * f * t).sin()).sum();
            if on { 0.2 * sum / hertz.len() as f32 } else { 0.0 }
        })
        .collect()
}

#[test]
fn what_is_not_speech_is_declined() {
    let scale = [262.0, 294.0, 330.0, 349.0, 392.0, 440.0, 494.0, 523.0];
    let music: Vec<f32> = scale.iter().flat_map(|&f| tone(&[f, 2.0 * f, 1.5 * f], 0.4, (0.35, 0.05))).collect();
    for (name, sound) in [
        ("digital silence", vec![0.0; 2 * RATE]),
        ("line noise", noise(3 * RATE, 0.003)),
        ("loud noise", noise(2 * RATE, 0.3)),
        ("ringing", tone(&[440.0, 480.0], 5.0, (2.0, 4.0))),
        ("busy", tone(&[480.0, 620.0], 3.0, (0.5, 0.5))),
        ("hold tone", tone(&[425.0], 4.0, (0.2, 0.3))),
        ("music", music),
        ("a click", [vec![0.0; 8000], vec![0.9; 40], vec![0.0; 8000]].concat()),
    ] {
        let hearing = hear(&WHISPER, &sound);
        assert!(hearing.declined.is_some() && hearing.text.is_empty(), "{name}: {hearing:?}");
    }
}

#[test]
fn an_utterance_that_nobody_wants_ends_between_steps() {
    struct After(usize);
    impl Pace for After {
        fn between(&mut self) -> ControlFlow<()> {
            self.0 = self.0.saturating_sub(1);
            if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let samples = wav("pbx-invalidpark");
    for steps in [1, 3, 5, 6, 10] {
        assert!(WHISPER.transcribe(&samples, &mut After(steps)).expect("it fits").is_none(), "after {steps} steps");
    }
}

#[test]
fn lengths_at_the_edges_are_heard_or_refused() {
    for len in [0, 1, 159, 320, 8000] {
        assert!(hear(&WHISPER, &vec![0.0; len]).text.is_empty());
    }
    let window = WHISPER.window();
    assert_eq!(window, 30 * RATE);
    let whole = [wav("pbx-invalidpark"), vec![0.0; window]].concat();
    hear(&WHISPER, &whole[..window]);
    assert!(WHISPER.transcribe(&whole[..window + 1], &mut Unhurried).is_err());
}
