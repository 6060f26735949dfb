//! The language model against f64 and against our kernels, in a batch against alone, with adapters against merged weights.

use anyhow::{Context, Result};
use callbox_engine::kernels::Level;
use callbox_engine::models::transformer::{
    Adapter, BaseModel, Near, Piece, Reach, Transformer, TransformerSpec, Wanted,
};
use callbox_engine::weights::gguf::{Gguf, Head};
use callbox_engine::weights::peft::{Module, PeftFile};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, safetensors::load_buffer};
use serde_json::json;

use super::{ROUNDING, distance, drawn, every, on_device};
use crate::Setting;
use crate::draw::{Draw, Family};
use crate::lora;
use crate::reference::{self, apart, between};
use crate::report::{Report, Weights};

/// How matrices lie, and how far from exact what is computed with them may be: in f32 the mathematics itself (5e-4 on a
/// processor); brain floats are multiplied with brain floats on a card; with bytes, activations are rounded to bytes, too
/// (3.5e-2 on a processor). What is wrong is off by about 1.
const NUMBERS: [(GgmlDType, f64); 6] = [
    (GgmlDType::F32, ROUNDING),
    (GgmlDType::F16, ROUNDING),
    (GgmlDType::BF16, 3e-2),
    (GgmlDType::Q8_0, 6e-2),
    (GgmlDType::Q4K, 6e-2),
    (GgmlDType::Q6K, 6e-2),
];

/// Pieces in which a sequence is computed: more rows than a card's kernels for few rows take, then few, then one by one.
const PIECES: [usize; 3] = [33, 5, 2];

pub(super) fn against_f64(setting: &Setting, report: &mut Report) -> Result<()> {
    for family in [Family::Llama, Family::Qwen2] {
        for (number, most) in NUMBERS {
            let model = drawn(setting, family, number, 0.5)?;
            let tokens = Draw::new(setting.seed).tokens(44, model.spec.vocabulary);
            let exact = reference::logits(&model.spec, &model.weights, &tokens)?;
            let mut tensors = on_device(setting, &model.path, 512)?;
            if setting.device.is_cuda() {
                // They are tried against tensors when a model is loaded; below, single tokens go by them.
                let name = format!("kernels of ours compute {}, {number:?}", family.name());
                report.row(super::holds(&name, tensors.is_fused()));
            }
            let ours = every(&mut tensors, None, &tokens, &PIECES)?;
            let name = format!("{}, {number:?}", family.name());
            report.row(distance(format!("logits of {name}, against f64"), Weights::Drawn, apart(&ours, &exact), most));
            // The processor's own kernels hold what is not rounded as bytes.
            if !matches!(number, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) {
                let (gguf, packed) = (Gguf::open(&model.path)?, setting.work.path().join("packed"));
                let mut kernels =
                    Transformer::load(&model.path, &gguf, &packed, 512, Level::detect(), setting.pool()?)?;
                let theirs = every(&mut kernels, None, &tokens, &PIECES)?;
                let name = format!("logits of {name}, against our kernels");
                report.row(distance(name, Weights::Drawn, between(&ours, &theirs), most));
            }
        }
    }
    Ok(())
}

/// Prompts and single tokens beside each other, of sequences of many lengths: each as if alone.
pub(super) fn batch(setting: &Setting, report: &mut Report) -> Result<()> {
    for (number, most) in [(GgmlDType::F32, ROUNDING), (GgmlDType::BF16, 3e-2), (GgmlDType::Q4K, 6e-2)] {
        let file = drawn(setting, Family::Qwen2, number, 0.5)?;
        let mut model = on_device(setting, &file.path, 2048)?;
        let vocabulary = file.spec.vocabulary;
        let mut draw = Draw::new(setting.seed);
        let (mut alone, mut caches, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for (length, past) in
            [(40, 39), (3, 2), (97, 96), (30, 0), (65, 64), (64, 63), (9, 4), (33, 32), (2, 1), (80, 79)]
        {
            let tokens = draw.tokens(length, vocabulary);
            let every = every(&mut model, None, &tokens, &[length])?;
            alone.extend_from_slice(&every[every.len() - vocabulary..]);
            let mut cache = model.cache(length);
            if past > 0 {
                super::grow(&mut model, &mut cache, &tokens[..past])?;
            }
            caches.push(cache);
            rest.push(tokens[past..].to_vec());
        }
        let pieces = caches.iter_mut().zip(&rest);
        let pieces = pieces.map(|(cache, tokens)| Piece { tokens, cache, wanted: Wanted::Last, adapter: None });
        let together = model.step(&mut pieces.collect::<Vec<_>>(), &mut || true)?.context("it was stopped")?.to_vec();
        let name = format!("ten sequences in one step, each alone, {number:?}");
        report.row(distance(name, Weights::Drawn, between(&together, &alone), most));
    }
    Ok(())
}

/// Rows with adapters against weights into which those were merged; several in one step against each alone.
pub(super) fn adapters(setting: &Setting, report: &mut Report) -> Result<()> {
    const RANK: usize = 16;
    let file = drawn(setting, Family::Qwen2, GgmlDType::F32, 0.5)?;
    let mut model = on_device(setting, &file.path, 2048)?;
    let base = BaseModel::new(&Head::default(), &file.spec);
    let vocabulary = file.spec.vocabulary;
    let tokens = Draw::new(setting.seed).tokens(30, vocabulary);
    let mut adapters = Vec::new();
    for seed in 1..=4 {
        let (config, numbers) = lora::drawn(&file.spec, RANK, seed)?;
        let adapter = Adapter::new(&PeftFile::parse(&config, numbers.clone())?, &base)?;
        let merged = reference::logits(&file.spec, &merged(&file.spec, &file.weights, &numbers)?, &tokens)?;
        let ours = every(&mut model, Some(&adapter), &tokens, &[20, 3])?;
        if seed == 1 {
            let name = "an adapter's rows, against merged weights in f64";
            report.row(distance(name, Weights::Drawn, apart(&ours, &merged), ROUNDING));
            let without = every(&mut model, None, &tokens, &[30])?;
            let more = json!({ "without_the_adapter": apart(&without, &merged) });
            let changed = apart(&without, &merged) > 10.0 * ROUNDING;
            report.row(crate::report::Row { more, ..super::holds("an adapter changes something", changed) });
        }
        adapters.push((adapter, ours));
    }
    let with = [Some(0), None, Some(1), Some(2), Some(0), Some(3), None, Some(3)];
    let mut caches: Vec<_> = with.iter().map(|_| model.cache(tokens.len())).collect();
    let none = every(&mut model, None, &tokens, &[30])?;
    let pieces = caches.iter_mut().zip(with).map(|(cache, with)| {
        let adapter = with.map(|at: usize| &adapters[at].0);
        Piece { tokens: &tokens, cache, wanted: Wanted::Last, adapter }
    });
    let together = model.step(&mut pieces.collect::<Vec<_>>(), &mut || true)?.context("it was stopped")?.to_vec();
    let each = with.map(|with| with.map_or(&none, |at| &adapters[at].1));
    let alone: Vec<f32> = each.iter().flat_map(|all| &all[all.len() - vocabulary..]).copied().collect();
    report.row(distance(
        "rows of one step with four adapters and none",
        Weights::Drawn,
        between(&together, &alone),
        ROUNDING,
    ));
    Ok(())
}

/// Steps of single tokens, of many sizes, some rows with adapters: on a card kernels of ours, and from the second time on a recording.
/// Against the same sequences computed whole.
pub(super) fn tokens(setting: &Setting, report: &mut Report) -> Result<()> {
    const REPEATED: usize = 3;
    for (number, most) in [(GgmlDType::F32, ROUNDING), (GgmlDType::BF16, 3e-2), (GgmlDType::Q4K, 6e-2)] {
        let file = drawn(setting, Family::Qwen2, number, 0.5)?;
        let mut model = on_device(setting, &file.path, 4096)?;
        let vocabulary = file.spec.vocabulary;
        let base = BaseModel::new(&Head::default(), &file.spec);
        let adapter = |(rank, seed)| -> Result<Adapter> {
            let (config, numbers) = lora::drawn(&file.spec, rank, seed)?;
            Adapter::new(&PeftFile::parse(&config, numbers)?, &base)
        };
        let adapters = [(16, 1), (4, 2), (64, 3)].into_iter().map(adapter).collect::<Result<Vec<_>>>()?;
        let mut draw = Draw::new(setting.seed);
        for count in [1, 2, 3, 7, 17, 33] {
            for adapted in [false, true] {
                let with = |row: usize| adapters.get(row % 4).filter(|_| adapted);
                let texts: Vec<Vec<u32>> = (0..count).map(|row| draw.tokens(3 + 11 * row % 90, vocabulary)).collect();
                let (mut whole, mut caches) = (Vec::new(), Vec::new());
                for (row, text) in texts.iter().enumerate() {
                    let all = every(&mut model, with(row), text, &[text.len()])?;
                    whole.extend_from_slice(&all[all.len() - vocabulary..]);
                    let mut cache = model.cache(text.len());
                    let tokens = &text[..text.len() - 1];
                    let piece = Piece { tokens, cache: &mut cache, wanted: Wanted::Nothing, adapter: with(row) };
                    model.step(&mut [piece], &mut || true)?.context("it was stopped")?;
                    caches.push(cache);
                }
                let (mut worst, mut near) = (0.0_f64, true);
                for _ in 0..REPEATED {
                    let mut next = |reaches: Option<&[Reach]>| -> Result<(Vec<f32>, Vec<Near>)> {
                        let pieces = caches.iter_mut().zip(&texts).enumerate().map(|(row, (cache, text))| {
                            let tokens = &text[text.len() - 1..];
                            Piece { tokens, cache, wanted: Wanted::Last, adapter: with(row) }
                        });
                        let mut pieces: Vec<Piece> = pieces.collect();
                        let said = match reaches {
                            None => {
                                let all = model.step(&mut pieces, &mut || true)?;
                                (all.context("it was stopped")?.to_vec(), Vec::new())
                            }
                            Some(reaches) => {
                                let near = model.step_near(&mut pieces, reaches, &mut || true)?;
                                (Vec::new(), near.context("it was stopped")?)
                            }
                        };
                        caches.iter_mut().for_each(|cache| cache.truncate(cache.len() - 1));
                        Ok(said)
                    };
                    let all = next(None)?.0;
                    worst = worst.max(between(&all, &whole));
                    let reach = Reach { span: 1.0, share: 0.1 };
                    let wanted = all.chunks_exact(vocabulary).map(|row| reach.of(row));
                    near &= next(Some(&vec![reach; count]))?.1 == wanted.collect::<Vec<_>>();
                }
                let kind = if adapted { "with adapters and none" } else { "without adapters" };
                let name = format!("{number:?}: single tokens of {count} sequences, {kind}, against them whole");
                report.row(distance(name, Weights::Drawn, worst, most));
                report.row(super::holds(&format!("{number:?}: those near the best, {count} rows, {kind}"), near));
            }
        }
    }
    Ok(())
}

type Exact = std::collections::HashMap<String, candle_core::Tensor>;

/// The weights with `B · A` of an adapter added, whose scale is 1.
fn merged(spec: &TransformerSpec, weights: &Exact, adapter: &[u8]) -> Result<Exact> {
    let halves = load_buffer(adapter, &Device::Cpu)?;
    let mut merged = weights.clone();
    let names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    for layer in 0..spec.layers {
        for (module, name) in Module::ALL.iter().zip(names) {
            let half = |which: &str| {
                let name = format!("base_model.model.model.layers.{layer}.{}.lora_{which}.weight", module.name());
                halves.get(&name).context(name)?.to_dtype(DType::F64).map_err(anyhow::Error::from)
            };
            let weight = merged.get_mut(&format!("blk.{layer}.{name}.weight")).context(name)?;
            *weight = (&*weight + half("B")?.matmul(&half("A")?)?)?;
        }
    }
    Ok(merged)
}
