//! Whisper's encoder, MiniLM and Kokoro against f64, or against our kernels.

use anyhow::{Context, Result};
use callbox_engine::models::kokoro::{Kokoro, Phrase, Plan, STYLE_LEN};
use callbox_engine::models::minilm::{MiniLm, WIDTH};
use callbox_engine::models::vits::{Noise, seeded_noise};
use callbox_engine::models::whisper::mel::LogMel;
use callbox_engine::models::whisper::{Dims, RATE, Unhurried, Whisper};
use callbox_engine::weights::tensors::Tensors;
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use tokenizers::Tokenizer;

use super::{distance, holds};
use crate::Setting;
use crate::bench::networks::{SMALL, TINY_EN, kokoro_file, sound};
use crate::draw::{self, Draw};
use crate::reference::{Encoder, apart, between, numbers};
use crate::report::{Report, Row, Weights};

/// A network of f32 whose products may be rounded to the ten bits of a card's matrix units.
const NETWORK: f64 = 5e-3;

pub(super) fn whisper(setting: &Setting, report: &mut Report) -> Result<()> {
    let real = setting.model("whisper-tiny.en/tiny.en.pt");
    let weights = if real.is_some() { Weights::Real } else { Weights::Drawn };
    let path = match real {
        Some(path) => path,
        None => {
            let path = setting.work.path().join("whisper.safetensors");
            let dims = if setting.quick { SMALL } else { TINY_EN };
            draw::whisper(&path, dims, 10, &mut Draw::new(setting.seed))?;
            path
        }
    };
    let whisper = Whisper::open(&path, &setting.device, setting.threads)?;
    let samples = sound(if setting.quick { RATE } else { 3 * RATE }, &mut Draw::new(setting.seed));
    let layers = whisper.layers(&samples)?;
    let ours: Vec<f32> = layers.last().context("no layers")?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    let exact = encoded(&Tensors::open(&path)?, whisper.dims(), &samples)?;
    report.row(distance("Whisper's encoder, against f64", weights, apart(&ours, &numbers(&exact)?), NETWORK));

    let other = Whisper::open(&path, &Device::Cpu, setting.threads)?;
    let [ours, theirs] = [&whisper, &other].map(|whisper| whisper.transcribe(&samples, &mut Unhurried));
    let (ours, theirs) = (ours?.context("it was stopped")?, theirs?.context("it was stopped")?);
    let more = json!({ "tokens": ours.tokens });
    let same = ours.text == theirs.text && ours.tokens == theirs.tokens && ours.tokens > 0;
    report.row(Row { more, weights, ..holds("Whisper's words are those of the processor", same) });
    Ok(())
}

/// What Whisper's encoder makes of a sound.
fn encoded(tensors: &Tensors, dims: Dims, samples: &[f32]) -> Result<Tensor> {
    let read = |name: &str, shape: &[usize]| Ok(tensors.read(&format!("encoder.{name}"), shape)?);
    let encoder = Encoder { read: &read, width: dims.width, heads: dims.heads(), epsilon: 1e-5 };
    let rows = 2 * samples.len().div_ceil(320);
    let mel = Tensor::from_vec(LogMel::new(dims.mels).compute(samples, rows), (rows, dims.mels), &Device::Cpu)?;
    let x = encoder.conv("conv2", 2, &encoder.conv("conv1", 1, &mel.to_dtype(DType::F64)?)?)?;
    let mut x = (x + encoder.tensor("positional_embedding", &[dims.audio_ctx, dims.width])?.narrow(0, 0, rows / 2)?)?;
    for layer in 0..dims.audio_layers {
        let name = |part: &str| format!("blocks.{layer}.{part}");
        let names = ["attn.query", "attn.key", "attn.value", "attn.out"].map(name);
        x = (&x + encoder.attention(names, &encoder.norm(&name("attn_ln"), &x)?)?)?;
        x = (&x + encoder.inner(&name("mlp.0"), &name("mlp.2"), &encoder.norm(&name("mlp_ln"), &x)?)?)?;
    }
    encoder.norm("ln_post", &x)
}

pub(super) fn minilm(setting: &Setting, report: &mut Report) -> Result<()> {
    let real = setting.model("minilm-l6-v2/model.safetensors");
    let weights = if real.is_some() { Weights::Real } else { Weights::Drawn };
    let path = match real {
        Some(path) => path,
        None => draw::minilm(setting.work.path(), &mut Draw::new(setting.seed))?,
    };
    let minilm = MiniLm::open(&path, &setting.device)?;
    let mut tokenizer = Tokenizer::from_file(path.with_file_name("tokenizer.json")).map_err(anyhow::Error::msg)?;
    tokenizer.with_padding(None);
    let tensors = Tensors::open(&path)?;
    let read = |name: &str, shape: &[usize]| Ok(tensors.read(name, shape)?);
    let encoder = Encoder { read: &read, width: WIDTH, heads: 12, epsilon: 1e-12 };
    let mut worst = 0.0_f64;
    for text in ["w7", "w1 w2 w3 w100", "Are you open on Sunday?", "w5 w5 w9 w12 w17 w30 w51 w4 w8 w199 w3 w2 w1"] {
        let ids = tokenizer.encode_fast(text, true).map_err(anyhow::Error::msg)?.get_ids().to_vec();
        let table = |of: &str, rows: Vec<u32>| -> Result<Tensor> {
            let name = format!("embeddings.{of}_embeddings.weight");
            let shape = tensors.shape(&name)?.to_vec();
            Ok(encoder.tensor(&name, &shape)?.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
        };
        let count = ids.len();
        let places = (0..count as u32).collect();
        let x = (table("word", ids)? + table("position", places)?)?.broadcast_add(&table("token_type", vec![0])?)?;
        let mut x = encoder.norm("embeddings.LayerNorm", &x)?;
        for layer in (0..).take_while(|layer| tensors.has(&format!("encoder.layer.{layer}.output.dense.weight"))) {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            let names =
                ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"];
            let attended = encoder.attention(names.map(name), &x)?;
            x = encoder.norm(&name("attention.output.LayerNorm"), &(&x + attended)?)?;
            let inner = encoder.inner(&name("intermediate.dense"), &name("output.dense"), &x)?;
            x = encoder.norm(&name("output.LayerNorm"), &(&x + inner)?)?;
        }
        let mean = numbers(&x.mean(0)?)?;
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        let exact: Vec<f64> = mean.iter().map(|x| x / length).collect();
        worst = worst.max(apart(&minilm.embed(text)?, &exact));
    }
    report.row(distance("MiniLM's vectors, against f64", weights, worst, NETWORK));
    Ok(())
}

/// As a card computes it, against our kernels: the melody, the sound of the same melody, and several sentences at once.
pub(super) fn kokoro(setting: &Setting, report: &mut Report) -> Result<()> {
    let (path, weights) = kokoro_file(setting)?;
    let kernels = Kokoro::load(&path, &Device::Cpu, setting.threads)?;
    let other = Kokoro::load_as(&path, &setting.device, setting.threads, false)?;
    let mut draw = Draw::new(setting.seed);
    let style = draw.numbers(STYLE_LEN, 0.3);
    let sentences: Vec<Vec<u32>> =
        [6, 3].iter().map(|&count| (0..count).map(|_| 43 + (draw.next() % 100) as u32).collect()).collect();
    let phrases: Vec<Phrase> = sentences.iter().map(|ids| Phrase { ids, style: &style, speed: 1.0 }).collect();
    let durations: Vec<Option<Vec<usize>>> = sentences.iter().map(|ids| Some(vec![2; ids.len() + 2])).collect();
    let plans = kernels.plan(&phrases, &durations)?;
    let theirs = other.plan(&phrases, &durations)?;
    let melody = |plans: &[Plan]| -> Vec<f32> {
        plans.iter().flat_map(|plan| plan.pitch.iter().chain(&plan.energy)).copied().collect()
    };
    report.row(distance(
        "Kokoro's melody, against our kernels",
        weights,
        between(&melody(&theirs), &melody(&plans)),
        NETWORK,
    ));

    // Of the same melody: the source's phase is the sum of all pitch before it.
    let mut same = theirs;
    for (plan, ours) in same.iter_mut().zip(&plans) {
        (plan.pitch, plan.energy) = (ours.pitch.clone(), ours.energy.clone());
    }
    let spoken = |kokoro: &Kokoro, plans: &[&Plan]| -> Result<Vec<f32>> {
        let mut noises: Vec<Noise> = plans.iter().map(|plan| seeded_noise(plan.frames() as u64)).collect();
        Ok(kokoro.speak_all(plans, &mut noises.iter_mut().collect::<Vec<_>>())?.concat())
    };
    let each = |kokoro: &Kokoro, plans: &[Plan]| -> Result<Vec<f32>> {
        Ok(plans.iter().map(|plan| spoken(kokoro, &[plan])).collect::<Result<Vec<_>>>()?.concat())
    };
    let (ours, alone) = (each(&kernels, &plans)?, each(&other, &same)?);
    let together = spoken(&other, &same.iter().collect::<Vec<_>>())?;
    report.row(distance("Kokoro's sound, against our kernels", weights, between(&alone, &ours), 10.0 * NETWORK));
    report.row(distance("Kokoro's sentences at once, each alone", weights, between(&together, &alone), 10.0 * NETWORK));
    Ok(())
}
