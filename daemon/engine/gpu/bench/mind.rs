//! The language model: tokens of several answers in one step, with adapters and without.

use anyhow::{Context, Result};
use callbox_engine::models::transformer::{
    Adapter, BaseModel, Cache, Numbers, Piece, Reach, RopePairs, TensorConfig, Transformer, TransformerSpec, Wanted,
};
use callbox_engine::weights::gguf::{Gguf, Head};
use callbox_engine::weights::peft::PeftFile;
use candle_core::{DType, Tensor};
use serde_json::json;

use super::launches;
use crate::draw::{Draw, Family, even, small};
use crate::report::{Bar, Report, Row, Times, Weights};
use crate::{Setting, card, lora};

/// Where the models of `--models` lie that is taken for real.
const REAL: &str = "qwen2.5-coder-1.5b/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf";

/// What may come next. Drawn weights find no token much better than others: so near are some tens, as many as what is not
/// improbable to a trained model.
pub(super) const DRAWN: Reach = Reach { span: 1.0, share: 0.0 };

/// Qwen2.5-1.5B.
fn qwen(quick: bool) -> TransformerSpec {
    let spec = small(Family::Qwen2, false);
    if quick {
        return spec;
    }
    TransformerSpec {
        layers: 28,
        hidden: 1536,
        heads: 12,
        kv_heads: 2,
        head_dim: 128,
        feed_forward: 8960,
        vocabulary: 151_936,
        context: 32_768,
        rope_base: 1e6,
        ..spec
    }
}

/// Of the size of a model of 4 thousand million parameters: Qwen3-4B, without what its attention has besides.
pub(super) fn four_billion(quick: bool) -> TransformerSpec {
    let spec = TransformerSpec { qkv_bias: false, rope_pairs: RopePairs::Halves, ..small(Family::Qwen2, false) };
    if quick {
        return spec;
    }
    TransformerSpec {
        layers: 36,
        hidden: 2560,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        feed_forward: 9728,
        vocabulary: 151_936,
        context: 32_768,
        rope_base: 1e6,
        ..spec
    }
}

/// A model of these sizes in brain floats, drawn on the device: faster than any file could be read.
pub(super) fn drawn(setting: &Setting, spec: TransformerSpec, context: usize, tokens: usize) -> Result<Transformer> {
    let device = &setting.device;
    let given = |name: &str, shape: &[usize]| -> candle_core::Result<Tensor> {
        match *shape {
            [len] if name.ends_with("norm.weight") => Tensor::rand(0.5_f32, 1.5, len, device),
            [len] => Tensor::rand(-0.5_f32, 0.5, len, device),
            _ => {
                let most = even(shape.last().copied().unwrap_or(1));
                Tensor::rand(-most, most, shape, device)?.to_dtype(DType::BF16)
            }
        }
    };
    let config = TensorConfig { device: device.clone(), tokens, numbers: Numbers::AsStored };
    Transformer::of_given(spec, &given, context, &config)
}

/// Bytes of matrices that a step reads once, in brain floats; the embedding serves as the head.
fn weight_bytes(spec: &TransformerSpec) -> f64 {
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let layer = 2 * spec.hidden * q + 2 * spec.hidden * kv + 3 * spec.hidden * spec.feed_forward;
    2.0 * (spec.layers * layer + spec.vocabulary * spec.hidden) as f64
}

/// Fills caches with tokens that differ from one to the next, so that nothing is shared.
pub(super) fn fill(model: &mut Transformer, caches: &mut [Cache], length: usize, draw: &mut Draw) -> Result<()> {
    const CHUNK: usize = 256;
    for cache in caches {
        for tokens in draw.tokens(length, model.spec().vocabulary).chunks(CHUNK) {
            step(model, &mut [Piece { tokens, cache, wanted: Wanted::Nothing, adapter: None }])?;
        }
    }
    Ok(())
}

pub(super) fn step(model: &mut Transformer, pieces: &mut [Piece]) -> Result<()> {
    model.step(pieces, &mut || true)?.context("it was stopped")?;
    Ok(())
}

/// One token of each; then it is as if it had not been. Of each row comes back what may be drawn, as the mind's sampler has it.
fn token(model: &mut Transformer, caches: &mut [Cache], adapters: &[Option<&Adapter>], wanted: Wanted) -> Result<()> {
    let none = std::iter::repeat(&None);
    let reaches = vec![DRAWN; if wanted == Wanted::Nothing { 0 } else { caches.len() }];
    let pieces = caches.iter_mut().zip(adapters.iter().chain(none));
    let mut pieces: Vec<_> =
        pieces.map(|(cache, adapter)| Piece { tokens: &[7], cache, wanted, adapter: *adapter }).collect();
    model.step_near(&mut pieces, &reaches, &mut || true)?.context("it was stopped")?;
    for cache in caches {
        cache.truncate(cache.len() - 1);
    }
    Ok(())
}

/// Against what moving its bytes alone would take: weights, and keys and values, once.
pub(super) fn decode(setting: &Setting, report: &mut Report) -> Result<()> {
    const MOST: usize = 64;
    let (length, count) = if setting.quick { (60, 3) } else { (1500, 50) };
    let (context, pool) = (length + 36, MOST * (length + 36));
    let real = setting.model(REAL).filter(|_| !setting.quick);
    let (mut model, weights) = match real {
        Some(path) => {
            let config = TensorConfig { device: setting.device.clone(), tokens: pool, numbers: Numbers::Bf16 };
            (Transformer::load_tensors(&Gguf::open(&path)?, context, &config)?, Weights::Real)
        }
        None => (drawn(setting, qwen(setting.quick), context, pool)?, Weights::Drawn),
    };
    let copied = super::copied(&setting.device, if setting.quick { 32 << 20 } else { 4 << 30 })?;
    let bandwidth = card::bandwidth(&setting.device).unwrap_or(copied);
    let mut caches: Vec<Cache> = (0..MOST).map(|_| model.cache(context)).collect();
    fill(&mut model, &mut caches, length, &mut Draw::new(setting.seed))?;
    for (batch, bar) in [(1, 60.0), (16, 60.0), (64, 50.0)] {
        let caches = &mut caches[..batch];
        let bytes = weight_bytes(model.spec()) + (batch * length * caches[0].position_bytes()) as f64;
        let bound = 1000.0 * bytes / bandwidth;
        let times = Times::of(&setting.device, 5, count, || token(&mut model, caches, &[], Wanted::Last))?;
        // Nothing comes back: so this ends when all is launched, and not when it is computed.
        let launched = launches::of(&setting.device, count, || token(&mut model, caches, &[], Wanted::Nothing))?;
        report.row(Row {
            key: format!("decode_{batch}"),
            name: format!("Qwen2.5-1.5B, bf16, tokens of {batch} at {length} tokens of context"),
            weights,
            figure: 100.0 * bound / times.at(0.5),
            unit: "% of the bandwidth bound",
            bar: Some(Bar::Least(bar)),
            more: json!({
                "step": times.json(),
                "tokens_per_s": 1000.0 * batch as f64 / times.at(0.5),
                "bound_ms": bound,
                "bytes": bytes,
                "bandwidth_gb_per_s": bandwidth / 1e9,
                "copy_gb_per_s": copied / 1e9,
                "without_logits": launched,
                "kernels_of_ours": model.is_fused(),
            }),
        });
    }
    Ok(())
}

/// Sixteen answers, each with an adapter of its own, against none; in turns.
pub(super) fn adapters(setting: &Setting, report: &mut Report) -> Result<()> {
    const ANSWERS: usize = 16;
    const RANK: usize = 16;
    let (length, count) = if setting.quick { (40, 3) } else { (256, 30) };
    let mut model = drawn(setting, qwen(setting.quick), length + 36, ANSWERS * (length + 36))?;
    let base = BaseModel::new(&Head::default(), model.spec());
    let adapter = |seed: usize| -> Result<Adapter> {
        let (config, numbers) = lora::drawn(model.spec(), RANK, seed as u32)?;
        Adapter::new(&PeftFile::parse(&config, numbers)?, &base)
    };
    let adapters = (0..ANSWERS).map(adapter).collect::<Result<Vec<_>>>()?;
    let each: Vec<_> = adapters.iter().map(Some).collect();
    let mut caches: Vec<Cache> = adapters.iter().map(|_| model.cache(length + 36)).collect();
    fill(&mut model, &mut caches, length, &mut Draw::new(setting.seed))?;
    let mut times = |with: &[Option<&Adapter>]| {
        Times::of(&setting.device, 5, count, || token(&mut model, &mut caches, with, Wanted::Last))
    };
    let rounds = [(times(&[])?, times(&each)?), (times(&[])?, times(&each)?), (times(&[])?, times(&each)?)];
    let median = |of: fn(&(Times, Times)) -> &Times| {
        let mut p50 = rounds.iter().map(|round| of(round).at(0.5)).collect::<Vec<_>>();
        p50.sort_by(f64::total_cmp);
        p50[1]
    };
    let (none, with) = (median(|(none, _)| none), median(|(_, with)| with));
    report.row(Row {
        key: "adapters".into(),
        name: format!(
            "{ANSWERS} answers in one step, each with its own adapter of rank {RANK}, against none: tokens per second"
        ),
        weights: Weights::Drawn,
        figure: none / with,
        unit: "×",
        bar: Some(Bar::Least(0.8)),
        more: json!({ "none_ms": none, "each_its_own_ms": with, "context": length }),
    });
    Ok(())
}
