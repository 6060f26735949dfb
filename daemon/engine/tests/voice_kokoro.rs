//! Kokoro's network against onnxruntime (fixtures: `make_fixtures_kokoro.py`), and against itself: cut into windows, in
//! batches, and computed as elsewhere than on a processor.

use std::path::PathBuf;
use std::sync::OnceLock;

use callbox_engine::models::kokoro::{FRAME, Kokoro, Phrase, Plan, STYLE_LEN, Statistics};
use callbox_engine::models::vits::Noise;
use candle_core::Device;

fn folder() -> PathBuf {
    let models = std::env::var_os("CALLBOX_MODELS")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/callbox/models"));
    models.join("kokoro-82m")
}

fn load(kernels: bool) -> Kokoro {
    let model = folder().join("kokoro-v1.0.int8.onnx");
    assert!(model.exists(), "the voice is missing: run make models PACK=kokoro-82m");
    Kokoro::load_as(&model, &Device::Cpu, 2, kernels).expect("the network loads")
}

fn kokoro() -> &'static Kokoro {
    static KOKORO: OnceLock<Kokoro> = OnceLock::new();
    KOKORO.get_or_init(|| load(true))
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    voice: String,
    ids: Vec<u32>,
    speed: f32,
    durations: Vec<usize>,
}

impl Case {
    fn all() -> Vec<Self> {
        let cases = std::fs::read(fixture("cases.json")).expect("fixture");
        serde_json::from_slice(&cases).expect("fixture")
    }

    fn style(&self) -> Vec<f32> {
        let voice = numbers(&folder().join(format!("{}.bin", self.voice)));
        voice[(self.ids.len() - 1) * STYLE_LEN..][..STYLE_LEN].to_vec()
    }

    fn plan(&self, kokoro: &Kokoro) -> Plan {
        let style = self.style();
        let phrase = Phrase { ids: &self.ids, style: &style, speed: self.speed };
        kokoro.plan(&[phrase], &[]).expect("it is computed").remove(0)
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kokoro").join(name)
}

fn numbers(path: &std::path::Path) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("it is there");
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// The noise of `make_fixtures_kokoro.py`.
fn injected() -> Noise {
    let mut index = 0_u32;
    Box::new(move |out| {
        for x in out {
            let mixed = index.wrapping_mul(2_654_435_761).wrapping_add(12_345);
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519);
            *x = (mixed >> 8) as f32 / 16_777_216.0 * 3.4 - 1.7;
            index += 1;
        }
    })
}

fn spoken(kokoro: &Kokoro, plan: &Plan, statistics: Statistics, frames: usize) -> Vec<f32> {
    let mut utterance = kokoro.begin(plan, &mut injected(), statistics).expect("it is computed");
    let mut samples = Vec::new();
    while !utterance.is_finished() {
        kokoro.advance(&mut utterance, frames, &mut samples).expect("it is computed");
    }
    assert_eq!(samples.len(), plan.frames() * FRAME);
    samples
}

/// In dB, of what is alike to what is not.
fn snr(theirs: &[f32], ours: &[f32]) -> f64 {
    assert_eq!(theirs.len(), ours.len());
    let power = |x: f64| x * x;
    let signal: f64 = theirs.iter().map(|&x| power(f64::from(x))).sum();
    let noise: f64 = theirs.iter().zip(ours).map(|(&x, &y)| power(f64::from(x) - f64::from(y))).sum();
    10.0 * (signal / noise.max(1e-30)).log10()
}

#[test]
fn equals_onnxruntime() {
    for case in Case::all() {
        let mut plan = case.plan(kokoro());
        assert_eq!(plan.durations, case.durations, "{}", case.name);
        let curves = numbers(&fixture(&format!("{}.f32", case.name)));
        let (pitch, energy) = curves.split_at(curves.len() / 2);
        let (hertz, strength) = (snr(pitch, &plan.pitch), snr(energy, &plan.energy));
        let mut wav = hound::WavReader::open(fixture(&format!("{}.wav", case.name))).expect("fixture");
        let theirs: Vec<f32> = wav.samples::<i16>().map(|s| f32::from(s.expect("whole")) / 32767.0).collect();
        let own = snr(&theirs, &spoken(kokoro(), &plan, Statistics::Whole, usize::MAX / 4));
        (plan.pitch, plan.energy) = (pitch.to_vec(), energy.to_vec());
        let same = snr(&theirs, &spoken(kokoro(), &plan, Statistics::Whole, usize::MAX / 4));
        println!(
            "{}: pitch {hertz:.1}, energy {strength:.1}, sound {own:.1}, of the same curves {same:.1} dB",
            case.name
        );
        assert!(hertz > 80.0 && strength > 60.0 && same > 40.0 && own > 40.0, "{}", case.name);
    }
}

#[test]
fn windows_change_little() {
    let case = &Case::all()[0];
    let plan = case.plan(kokoro());
    let whole = spoken(kokoro(), &plan, Statistics::Whole, usize::MAX / 4);
    for frames in [usize::MAX / 4, 12, 40] {
        assert_eq!(spoken(kokoro(), &plan, Statistics::Whole, frames), whole);
    }
    for frames in [5, 40] {
        let cut = spoken(kokoro(), &plan, Statistics::Rehearsed, frames);
        println!("windows of {frames}: {:.1} dB", snr(&whole, &cut));
        assert!(snr(&whole, &cut) > 90.0, "windows of {frames} frames");
    }
}

#[test]
fn a_batch_is_what_its_sentences_are_alone() {
    let cases = Case::all();
    let alone: Vec<Plan> = cases.iter().map(|case| case.plan(kokoro())).collect();
    let styles: Vec<Vec<f32>> = cases.iter().map(Case::style).collect();
    let phrases: Vec<Phrase> =
        cases.iter().zip(&styles).map(|(case, style)| Phrase { ids: &case.ids, style, speed: case.speed }).collect();
    let together = kokoro().plan(&phrases, &[]).expect("it is computed");
    for (one, other) in alone.iter().zip(&together) {
        assert_eq!(one.durations, other.durations);
        assert!(one.pitch == other.pitch && one.energy == other.energy, "to the bit");
    }
    let plans: Vec<&Plan> = together.iter().collect();
    let mut noises: Vec<Noise> = plans.iter().map(|_| injected()).collect();
    let mut noises: Vec<&mut Noise> = noises.iter_mut().collect();
    let all = kokoro().speak_all(&plans, &mut noises).expect("it is computed");
    for (plan, ours) in alone.iter().zip(&all) {
        assert!(*ours == spoken(kokoro(), plan, Statistics::Whole, usize::MAX / 4), "to the bit");
    }
}

#[test]
fn candles_own_operations_give_the_same() {
    let other = load(false);
    let cases = Case::all();
    let plans: Vec<(Plan, Plan)> = cases.iter().map(|case| (case.plan(kokoro()), case.plan(&other))).collect();
    for (ours, theirs) in &plans {
        assert_eq!(ours.durations, theirs.durations);
        assert!(snr(&ours.pitch, &theirs.pitch) > 90.0 && snr(&ours.energy, &theirs.energy) > 70.0);
    }
    let both: Vec<&Plan> = plans.iter().map(|(ours, _)| ours).collect();
    let mut noises: Vec<Noise> = both.iter().map(|_| injected()).collect();
    let mut noises: Vec<&mut Noise> = noises.iter_mut().collect();
    let all = other.speak_all(&both, &mut noises).expect("it is computed");
    for (plan, theirs) in both.iter().zip(&all) {
        let ours = spoken(kokoro(), plan, Statistics::Whole, usize::MAX / 4);
        println!("{:.1} dB", snr(theirs, &ours));
        assert!(snr(theirs, &ours) > 70.0);
    }
}

#[test]
fn odd_ids_and_durations_are_harmless() {
    let style = Case::all()[0].style();
    for (ids, speed) in [(vec![], 1.0), (vec![u32::MAX, 177], 1.0), (vec![43], 0.5)] {
        let phrase = Phrase { ids: &ids, style: &style, speed };
        let plan = kokoro().plan(&[phrase], &[]).expect("it is computed").remove(0);
        spoken(kokoro(), &plan, Statistics::Rehearsed, 20);
    }
    let long = Phrase { ids: &[43; 600], style: &style, speed: 0.001 };
    let plan = kokoro().plan(&[long], &[]).expect("it is computed").remove(0);
    assert_eq!((plan.durations.len(), plan.frames()), (512, 2400), "60 s, and no more tokens than it knows places");
    let durations = Some(vec![0, 3, 0, 2]);
    let phrase = Phrase { ids: &[43, 44], style: &style, speed: 1.0 };
    let plan = kokoro().plan(&[phrase], &[durations]).expect("it is computed").remove(0);
    assert_eq!(spoken(kokoro(), &plan, Statistics::Whole, 3).len(), 5 * FRAME);
}
