//! Silero and Whisper against their oracles (`make_fixtures_ears.py`), and against sounds that are not speech.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use callbox_engine::models::silero::{self, Silero};
use callbox_engine::models::whisper::mel::{HOP, LogMel};
use callbox_engine::models::whisper::{Hearing, Pace, RATE, Unhurried, Whisper};
use callbox_engine::weights::tensors::Tensors;
use candle_core::Device;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

#[derive(serde::Deserialize)]
struct Fact {
    name: String,
    text: String,
    activity: Vec<f32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ears").join(name)
}

fn model(name: &str) -> PathBuf {
    let root = std::env::var_os("CALLBOX_MODELS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/callbox/models");
    let path = root.unwrap_or_else(home).join(name);
    assert!(path.exists(), "{} is missing: run `make models`", path.display());
    path
}

fn facts() -> Vec<Fact> {
    serde_json::from_slice(&std::fs::read(fixture("facts.json")).expect("committed")).expect("well formed")
}

fn wav(name: &str) -> Vec<f32> {
    let mut wav = hound::WavReader::open(fixture(&format!("{name}.wav"))).expect("committed");
    wav.samples::<i16>().map(|sample| f32::from(sample.expect("whole")) / 32_768.0).collect()
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixture(name)).expect("committed");
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn hear(whisper: &Whisper, samples: &[f32]) -> Hearing {
    whisper.transcribe(samples, &mut Unhurried).expect("it fits").expect("nobody cancels")
}

static WHISPER: LazyLock<Whisper> =
    LazyLock::new(|| Whisper::open(&model("whisper-tiny.en/tiny.en.pt"), &Device::Cpu, 1).expect("a whisper"));

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

/// Words without case and punctuation.
fn words(text: &str) -> Vec<String> {
    text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect()
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

fn noise(count: usize, loudness: f32) -> Vec<f32> {
    let mut seed = 7_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((seed >> 8) as f32 / (1 << 23) as f32 - 1.0) * loudness
    };
    (0..count).map(|_| next()).collect()
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

/// OpenAI's name as Hugging Face has it, independently of the product's table.
fn renamed(name: &str) -> String {
    let mut name = format!("model.{name}");
    for (ours, theirs) in [
        ("positional_embedding", "embed_positions.weight"),
        ("token_embedding", "embed_tokens"),
        (".blocks.", ".layers."),
        (".cross_attn_ln.", ".encoder_attn_layer_norm."),
        (".attn_ln.", ".self_attn_layer_norm."),
        (".mlp_ln.", ".final_layer_norm."),
        (".cross_attn.", ".encoder_attn."),
        (".attn.", ".self_attn."),
        (".query.", ".q_proj."),
        (".key.", ".k_proj."),
        (".value.", ".v_proj."),
        (".out.", ".out_proj."),
        (".mlp.0.", ".fc1."),
        (".mlp.2.", ".fc2."),
        (".ln_post.", ".layer_norm."),
        (".ln.", ".layer_norm."),
    ] {
        name = name.replace(ours, theirs);
    }
    name
}

#[test]
fn both_formats_and_namings_are_one_model() {
    let pickle = Tensors::open(&model("whisper-tiny.en/tiny.en.pt")).expect("a checkpoint");
    let tensors: HashMap<String, (Vec<usize>, Vec<u8>)> = pickle
        .names()
        .map(|name| {
            let shape = pickle.shape(name).expect("listed").to_vec();
            let numbers = pickle.read(name, &shape).expect("listed");
            (renamed(name), (shape, bytemuck::cast_slice(&numbers).to_vec()))
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("whole")));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).expect("a file")).expect("written");
    let other = Whisper::open(&path, &Device::Cpu, 1).expect("a whisper");
    assert_eq!(other.dims(), WHISPER.dims());
    let samples = wav("vm-toenternumber");
    assert_eq!(hear(&other, &samples), hear(&WHISPER, &samples));
}
