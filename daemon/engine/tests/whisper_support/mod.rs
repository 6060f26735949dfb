//! tiny.en in the forms in which others keep a Whisper, made of OpenAI's checkpoint; prompts, and what they say.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use callbox_engine::models::whisper::{Hearing, Unhurried, Whisper};
use callbox_engine::weights::tensors::Tensors;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

#[derive(serde::Deserialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) activity: Vec<f32>,
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ears").join(name)
}

pub(crate) fn model(name: &str) -> PathBuf {
    let root = std::env::var_os("CALLBOX_MODELS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/callbox/models");
    let path = root.unwrap_or_else(home).join(name);
    assert!(path.exists(), "{} is missing: run `make models`", path.display());
    path
}

pub(crate) fn tiny_en() -> PathBuf {
    model("whisper-tiny.en/tiny.en.pt")
}

pub(crate) fn facts() -> Vec<Fact> {
    serde_json::from_slice(&std::fs::read(fixture("facts.json")).expect("committed")).expect("well formed")
}

pub(crate) fn wav(name: &str) -> Vec<f32> {
    let mut wav = hound::WavReader::open(fixture(&format!("{name}.wav"))).expect("committed");
    wav.samples::<i16>().map(|sample| f32::from(sample.expect("whole")) / 32_768.0).collect()
}

pub(crate) fn floats(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixture(name)).expect("committed");
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

pub(crate) fn hear(whisper: &Whisper, samples: &[f32]) -> Hearing {
    whisper.transcribe(samples, &mut Unhurried).expect("it fits").expect("nobody cancels")
}

/// Words without case and punctuation.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

pub(crate) fn noise(count: usize, loudness: f32) -> Vec<f32> {
    let mut seed = 7_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((seed >> 8) as f32 / (1 << 23) as f32 - 1.0) * loudness
    };
    (0..count).map(|_| next()).collect()
}

/// A model's tensors under OpenAI's names.
pub(crate) type Model = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub(crate) fn read(path: &Path) -> Model {
    let tensors = Tensors::open(path).expect("a checkpoint");
    let one = |name: &str| {
        let shape = tensors.shape(name).expect("listed").to_vec();
        let numbers = tensors.read(name, &shape).expect("listed");
        (name.to_owned(), (shape, numbers))
    };
    tensors.names().map(one).collect()
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

/// As transformers saves it.
pub(crate) fn safetensors(model: &Model, dtype: Dtype) -> Vec<u8> {
    let bytes = |numbers: &[f32]| -> Vec<u8> {
        match dtype {
            Dtype::F32 => bytemuck::cast_slice(numbers).to_vec(),
            Dtype::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => panic!("no checkpoint is of {dtype:?}"),
        }
    };
    let all: Vec<_> = model.iter().map(|(name, (shape, x))| (renamed(name), shape.clone(), bytes(x))).collect();
    let views = all
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).expect("whole")));
    safetensors::serialize(views, None).expect("a file")
}

/// How whisper.cpp keeps matrices, with its number of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ggml {
    F16 = 1,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
}

/// As whisper.cpp's `convert-pt-to-ggml.py` writes it and its `quantize` shrinks it.
pub(crate) fn ggml(model: &Model, kind: Ggml) -> Vec<u8> {
    let shape = |name: &str| model[name].0.clone();
    let layers =
        |half: &str| (0..).take_while(|i| model.contains_key(&format!("{half}.blocks.{i}.attn_ln.bias"))).count();
    let [vocab, width] = shape("decoder.token_embedding.weight")[..] else { panic!("a matrix") };
    let (heads, mels) = (width / 64, shape("encoder.conv1.weight")[1]);
    let (audio, text) = (shape("encoder.positional_embedding")[0], shape("decoder.positional_embedding")[0]);
    let sizes = [vocab, audio, width, heads, layers("encoder"), text, width, heads, layers("decoder"), mels];
    let mut out = Vec::new();
    let number = |out: &mut Vec<u8>, n: usize| out.extend((n as u32).to_le_bytes());
    number(&mut out, 0x6767_6d6c);
    sizes.iter().for_each(|n| number(&mut out, *n));
    // The files of ftype 8 and 9 hold types 6 and 7.
    number(
        &mut out,
        match kind {
            Ggml::F16 => 1,
            Ggml::Q5_0 => 2008,
            Ggml::Q5_1 => 2009,
            Ggml::Q8_0 => 2007,
        },
    );
    // Filters, which we compute, and a vocabulary, which we know.
    [mels, 201].into_iter().for_each(|n| number(&mut out, n));
    out.resize(out.len() + 4 * mels * 201, 0);
    number(&mut out, 3);
    for word in ["!", "", "a word"] {
        number(&mut out, word.len());
        out.extend(word.as_bytes());
    }
    for (name, (shape, numbers)) in model {
        let shape: Vec<usize> =
            if name.contains(".conv") && name.ends_with("bias") { [shape[0], 1].into() } else { shape.clone() };
        let plain = shape.len() < 2 || shape[1] == 1 || name.ends_with("positional_embedding");
        let kind = if shape.len() == 3 { Ggml::F16 } else { kind };
        [shape.len(), name.len(), if plain { 0 } else { kind as usize }].into_iter().for_each(|n| number(&mut out, n));
        shape.iter().rev().for_each(|n| number(&mut out, *n));
        out.extend(name.as_bytes());
        if plain {
            out.extend(bytemuck::cast_slice::<f32, u8>(numbers));
        } else {
            blocks(numbers, kind, &mut out);
        }
    }
    out
}

/// ggml's `quantize_row_…_ref`.
fn blocks(numbers: &[f32], kind: Ggml, out: &mut Vec<u8>) {
    if kind == Ggml::F16 {
        return out.extend(numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()));
    }
    let half = |out: &mut Vec<u8>, x: f32| out.extend(f16::from_f32(x).to_le_bytes());
    for block in numbers.as_chunks::<32>().0 {
        let peak = block.iter().copied().fold(0.0_f32, |peak, x| if x.abs() > peak.abs() { x } else { peak });
        let [low, high] =
            [f32::min as fn(f32, f32) -> f32, f32::max].map(|best| block.iter().copied().fold(block[0], best));
        let (scale, shift) = match kind {
            Ggml::Q8_0 => (peak.abs() / 127.0, 0.0),
            Ggml::Q5_0 => (peak / -16.0, -16.0),
            _ => ((high - low) / 31.0, 0.0),
        };
        half(out, scale);
        let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
        if kind == Ggml::Q8_0 {
            out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
            continue;
        }
        let zero = if kind == Ggml::Q5_1 { low } else { 0.0 };
        if kind == Ggml::Q5_1 {
            half(out, low);
        }
        let five = block.map(|x| ((x - zero) * inverse - shift + 0.5).clamp(0.0, 31.0) as u32);
        let fifth = (0..32).fold(0_u32, |bits, i| bits | (five[i] >> 4) << i);
        out.extend(fifth.to_le_bytes());
        out.extend((0..16).map(|i| (five[i] & 15 | (five[i + 16] & 15) << 4) as u8));
    }
}

/// A file that lives as long as the folder.
pub(crate) struct Kept(tempfile::TempDir, PathBuf);

impl Kept {
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        Self(folder, path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.1
    }
}
