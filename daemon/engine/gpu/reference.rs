//! What the models are to compute, written once more, as plainly as it can be: whole sequences, no cache, f64, on the processor.
//!
//! Enters: weights as the files' numbers stand for, tokens or rows. Leaves: what an exact machine would compute. Never here: a
//! line of what is tested.

use std::collections::HashMap;

use anyhow::{Context, Result};
use callbox_engine::models::transformer::{RopePairs, TransformerSpec};
use candle_core::{D, DType, Device, Tensor};

type Computed = candle_core::Result<Tensor>;

/// ‖out − exact‖ / ‖exact‖; no number among `out` is infinitely far.
pub(crate) fn apart(out: &[f32], exact: &[f64]) -> f64 {
    if out.len() != exact.len() || !out.iter().all(|x| x.is_finite()) {
        return f64::INFINITY;
    }
    let squares = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    let wrong = squares(&mut out.iter().zip(exact).map(|(out, exact)| f64::from(*out) - exact));
    (wrong / squares(&mut exact.iter().copied())).sqrt()
}

/// The same of two that were both computed.
pub(crate) fn between(out: &[f32], other: &[f32]) -> f64 {
    apart(out, &other.iter().copied().map(f64::from).collect::<Vec<_>>())
}

pub(crate) fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

/// Logits of every token, one row after the other.
pub(crate) fn logits(spec: &TransformerSpec, weights: &HashMap<String, Tensor>, tokens: &[u32]) -> Result<Vec<f64>> {
    let get = |name: &str| weights.get(name).with_context(|| name.to_owned());
    let linear = |name: &str, x: &Tensor| -> Result<Tensor> {
        let y = x.matmul(&get(&format!("{name}.weight"))?.t()?)?;
        Ok(match weights.get(&format!("{name}.bias")) {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    };
    let norm = |name: &str, x: &Tensor| -> Result<Tensor> {
        let size = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(spec.norm_epsilon))?.sqrt()?;
        Ok(x.broadcast_div(&size)?.broadcast_mul(get(name)?)?)
    };
    let rows = tokens.len();
    let mut x = get("token_embd.weight")?.index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?;
    for layer in 0..spec.layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let normed = norm(&name("attn_norm.weight"), &x)?;
        let heads = |part: &str, heads: usize| -> Result<Tensor> {
            Ok(linear(&name(part), &normed)?.reshape((rows, heads, spec.head_dim))?.transpose(0, 1)?.contiguous()?)
        };
        let query = turned(spec, &heads("attn_q", spec.heads)?)?;
        let key = shared(spec, &turned(spec, &heads("attn_k", spec.kv_heads)?)?)?;
        let value = shared(spec, &heads("attn_v", spec.kv_heads)?)?;
        let attended = attention(&query, &key, &value, true)?;
        x = (&x + linear(&name("attn_output"), &attended)?)?;
        let normed = norm(&name("ffn_norm.weight"), &x)?;
        let gate = linear(&name("ffn_gate"), &normed)?;
        let gate = (&gate / ((gate.neg()?.exp()? + 1.0)?))?;
        x = (&x + linear(&name("ffn_down"), &(gate * linear(&name("ffn_up"), &normed)?)?)?)?;
    }
    numbers(&linear("output", &norm("output_norm.weight", &x)?)?)
}

/// `[heads][rows][width]`, each row turned by its position.
fn turned(spec: &TransformerSpec, heads: &Tensor) -> Computed {
    let (count, rows, width) = heads.dims3()?;
    let half = width / 2;
    let angle =
        |at: usize| (at / half) as f64 * f64::from(spec.rope_base).powf(-2.0 * (at % half) as f64 / width as f64);
    let table = |of: fn(f64) -> f64| {
        Tensor::from_vec((0..rows * half).map(|at| of(angle(at))).collect(), (rows, half), &Device::Cpu)
    };
    let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
    let (along, shape) = match spec.rope_pairs {
        RopePairs::Adjacent => (3, (count, rows, half, 2)),
        RopePairs::Halves => (2, (count, rows, 2, half)),
    };
    let pairs = heads.reshape(shape)?;
    let (a, b) = (pairs.narrow(along, 0, 1)?.squeeze(along)?, pairs.narrow(along, 1, 1)?.squeeze(along)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    Tensor::stack(&[first, second], along)?.reshape((count, rows, width))
}

/// Heads of keys or values, once for each head of queries.
fn shared(spec: &TransformerSpec, heads: &Tensor) -> Computed {
    let each = (0..spec.heads).map(|head| heads.get(head * spec.kv_heads / spec.heads));
    Tensor::stack(&each.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

/// `[heads][rows][width]` each, to `[rows][heads · width]`.
fn attention(query: &Tensor, key: &Tensor, value: &Tensor, causal: bool) -> Computed {
    let (heads, rows, width) = query.dims3()?;
    let mut scores = (query.matmul(&key.t()?.contiguous()?)? / (width as f64).sqrt())?;
    if causal {
        let hidden = |at: usize| if at % rows > at / rows { f64::NEG_INFINITY } else { 0.0 };
        scores = scores.broadcast_add(&Tensor::from_vec(
            (0..rows * rows).map(hidden).collect(),
            (rows, rows),
            &Device::Cpu,
        )?)?;
    }
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&value.contiguous()?)?.transpose(0, 1)?.contiguous()?.reshape((rows, heads * width))
}

/// Weights of an encoder by name: `(name, shape)` to numbers.
pub(crate) type Read<'a> = dyn Fn(&str, &[usize]) -> Result<Vec<f32>> + 'a;

/// Encoder layers as Whisper and BERT have them.
pub(crate) struct Encoder<'a> {
    pub(crate) read: &'a Read<'a>,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) epsilon: f64,
}

impl Encoder<'_> {
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_vec((self.read)(name, shape)?, shape, &Device::Cpu)?.to_dtype(DType::F64)?)
    }

    pub(crate) fn linear(&self, name: &str, out: usize, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.tensor(&format!("{name}.weight"), &[out, x.dim(1)?])?.t()?)?;
        // Whisper's keys have none.
        if name.ends_with(".key") && !name.contains(".self.") {
            return Ok(y);
        }
        Ok(y.broadcast_add(&self.tensor(&format!("{name}.bias"), &[out])?)?)
    }

    pub(crate) fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let size = (x.sqr()?.mean_keepdim(D::Minus1)? + self.epsilon)?.sqrt()?;
        let weight = self.tensor(&format!("{name}.weight"), &[self.width])?;
        let bias = self.tensor(&format!("{name}.bias"), &[self.width])?;
        Ok(x.broadcast_div(&size)?.broadcast_mul(&weight)?.broadcast_add(&bias)?)
    }

    /// Every row attends to every row; `names` of queries, keys, values, and of what follows.
    pub(crate) fn attention(&self, names: [String; 4], x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let heads = |name: &str| -> Result<Tensor> {
            let all = self.linear(name, self.width, x)?.reshape((rows, self.heads, self.width / self.heads))?;
            Ok(all.transpose(0, 1)?.contiguous()?)
        };
        let [query, key, value, out] = names;
        self.linear(&out, self.width, &attention(&heads(&query)?, &heads(&key)?, &heads(&value)?, false)?)
    }

    pub(crate) fn inner(&self, up: &str, down: &str, x: &Tensor) -> Result<Tensor> {
        self.linear(down, self.width, &self.linear(up, 4 * self.width, x)?.gelu_erf()?)
    }

    /// A convolution over three rows, with as many zeros beyond the edges as it needs.
    pub(crate) fn conv(&self, name: &str, stride: usize, x: &Tensor) -> Result<Tensor> {
        let (rows, inputs) = x.dims2()?;
        let weight = self.tensor(&format!("{name}.weight"), &[self.width, inputs, 3])?;
        let x = x.pad_with_zeros(0, 1, 1)?;
        let mut sum = self.tensor(&format!("{name}.bias"), &[self.width])?.broadcast_as((rows / stride, self.width))?;
        for tap in 0..3 {
            let seen: Vec<u32> = (0..rows / stride).map(|row| (row * stride + tap) as u32).collect();
            let seen = x.index_select(&Tensor::new(seen, &Device::Cpu)?, 0)?;
            sum = (sum + seen.matmul(&weight.narrow(2, tap, 1)?.squeeze(2)?.t()?.contiguous()?)?)?;
        }
        Ok(sum.gelu_erf()?)
    }
}
