//! Weights that no training made: of the true shapes, and of a size that keeps what is computed with them in bounds.
//!
//! Enters: a seed, shapes. Leaves: numbers, and files of the kinds that the engine reads. The same seed draws the same on every
//! machine. Never here: zeros, with which a card computes faster and a mistake is not seen.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use callbox_engine::models::transformer::{RopePairs, TransformerSpec};
use callbox_engine::models::whisper::Dims;
use callbox_engine::weights::onnx::Onnx;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use half::f16;
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::json;

/// Random numbers (SplitMix64, Steele et al. 2014).
#[derive(Clone)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// From 0 to 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn tokens(&mut self, count: usize, vocabulary: usize) -> Vec<u32> {
        (0..count).map(|_| (self.next() % vocabulary as u64) as u32).collect()
    }

    /// Numbers from `-most` to `most`.
    pub(crate) fn numbers(&mut self, count: usize, most: f32) -> Vec<f32> {
        const PIECE: usize = 1 << 16;
        let seed = self.next();
        let mut numbers = vec![0.0; count];
        numbers.par_chunks_mut(PIECE).enumerate().for_each(|(index, piece)| {
            let mut draw = Self::new(seed ^ index as u64);
            for number in piece {
                *number = ((draw.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * most;
            }
        });
        numbers
    }

    /// Of a matrix whose rows have so many inputs: what it makes of them is as large as they are.
    pub(crate) fn matrix(&mut self, count: usize, inputs: usize) -> Vec<f32> {
        self.numbers(count, even(inputs))
    }
}

/// The largest of evenly drawn numbers whose products with so many inputs of size 1 add up to size 1.
pub(crate) fn even(inputs: usize) -> f32 {
    (3.0 / inputs as f32).sqrt()
}

/// What the weights of a language model are called and how they are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Llama,
    Qwen2,
}

impl Family {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }
}

/// A language model of few layers; `wide` for a card, which computes small matrices with other kernels than large ones.
pub(crate) fn small(family: Family, wide: bool) -> TransformerSpec {
    let [layers, hidden, heads, kv_heads, head_dim, feed_forward, vocabulary] =
        if wide { [4, 1024, 8, 2, 128, 2816, 4096] } else { [2, 256, 4, 2, 64, 512, 512] };
    TransformerSpec {
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        feed_forward,
        vocabulary,
        context: 512,
        norm_epsilon: 1e-6,
        rope_pairs: if family == Family::Llama { RopePairs::Adjacent } else { RopePairs::Halves },
        rope_base: 10_000.0,
        qkv_bias: family == Family::Qwen2,
    }
}

/// A language model in a file, and what the file's numbers stand for.
pub(crate) struct Drawn {
    pub(crate) path: PathBuf,
    pub(crate) spec: TransformerSpec,
    /// By GGUF's names, in f64.
    pub(crate) weights: HashMap<String, Tensor>,
}

/// Writes a GGUF file; its matrices lie as `number`, its biases are from `-bias` to `bias`.
pub(crate) fn language_model(
    path: &Path,
    family: Family,
    number: GgmlDType,
    wide: bool,
    bias: f32,
    draw: &mut Draw,
) -> Result<Drawn> {
    let spec = small(family, wide);
    let (hidden, ff) = (spec.hidden, spec.feed_forward);
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let mut tensors: Vec<(String, QTensor)> = Vec::new();
    let mut matrix = |name: String, rows: usize, cols: usize, draw: &mut Draw| -> Result<()> {
        let tensor = Tensor::from_vec(draw.matrix(rows * cols, cols), (rows, cols), &Device::Cpu)?;
        tensors.push((name, QTensor::quantize(&tensor, number)?));
        Ok(())
    };
    // Embeddings are of size 1, so that they are not lost beside what the layers add.
    matrix("token_embd.weight".into(), spec.vocabulary, hidden, draw)?;
    matrix("output.weight".into(), spec.vocabulary, hidden, draw)?;
    for layer in 0..spec.layers {
        for (part, rows, cols) in [
            ("attn_q", q, hidden),
            ("attn_k", kv, hidden),
            ("attn_v", kv, hidden),
            ("attn_output", hidden, q),
            ("ffn_gate", ff, hidden),
            ("ffn_up", ff, hidden),
            ("ffn_down", hidden, ff),
        ] {
            matrix(format!("blk.{layer}.{part}.weight"), rows, cols, draw)?;
        }
    }
    let mut vector = |name: String, numbers: Vec<f32>| -> Result<()> {
        let len = numbers.len();
        tensors.push((name, QTensor::quantize(&Tensor::from_vec(numbers, len, &Device::Cpu)?, GgmlDType::F32)?));
        Ok(())
    };
    let mut around_one = |len: usize| draw.numbers(len, 0.5).into_iter().map(|x| 1.0 + x).collect();
    vector("output_norm.weight".into(), around_one(hidden))?;
    for layer in 0..spec.layers {
        for part in ["attn_norm", "ffn_norm"] {
            vector(format!("blk.{layer}.{part}.weight"), around_one(hidden))?;
        }
    }
    if spec.qkv_bias {
        for layer in 0..spec.layers {
            for (part, len) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                vector(format!("blk.{layer}.{part}.bias"), draw.numbers(len, bias))?;
            }
        }
    }
    let int = |value: usize| Value::U32(value as u32);
    let words = Value::Array((0..spec.vocabulary).map(|word| Value::String(format!("w{word}"))).collect());
    let name = family.name();
    let metadata = [
        ("general.architecture".to_owned(), Value::String(name.to_owned())),
        (format!("{name}.block_count"), int(spec.layers)),
        (format!("{name}.embedding_length"), int(hidden)),
        (format!("{name}.attention.head_count"), int(spec.heads)),
        (format!("{name}.attention.head_count_kv"), int(spec.kv_heads)),
        (format!("{name}.attention.key_length"), int(spec.head_dim)),
        (format!("{name}.feed_forward_length"), int(ff)),
        (format!("{name}.context_length"), int(spec.context)),
        (format!("{name}.attention.layer_norm_rms_epsilon"), Value::F32(spec.norm_epsilon)),
        (format!("{name}.rope.freq_base"), Value::F32(spec.rope_base)),
        ("tokenizer.ggml.tokens".to_owned(), words),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let named: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut BufWriter::new(File::create(path)?), &metadata, &named)?;
    let exact = |(name, tensor): (String, QTensor)| Ok((name, tensor.dequantize(&Device::Cpu)?.to_dtype(DType::F64)?));
    Ok(Drawn { path: path.to_owned(), spec, weights: tensors.into_iter().map(exact).collect::<Result<_>>()? })
}

/// Tensors in half precision, as safetensors.
fn save(path: &Path, tensors: Vec<(String, Vec<usize>, Vec<f32>)>) -> Result<()> {
    let bytes = |numbers: Vec<f32>| -> Vec<u8> {
        let mut bytes = vec![0; 2 * numbers.len()];
        bytes
            .par_chunks_exact_mut(2)
            .zip(&numbers)
            .for_each(|(two, x)| two.copy_from_slice(&f16::from_f32(*x).to_le_bytes()));
        bytes
    };
    let tensors: Vec<_> = tensors.into_iter().map(|(name, shape, numbers)| (name, shape, bytes(numbers))).collect();
    let views = tensors.iter().map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F16, shape.clone(), data)?)));
    serialize_to_file(views.collect::<Result<Vec<_>>>()?, None, path)?;
    Ok(())
}

/// A Whisper, under OpenAI's names, that writes `says` tokens about any sound and ends then, as people do who say a sentence:
/// what it is fed is all but the vector of what it is to write next.
pub(crate) fn whisper(path: &Path, dims: Dims, says: usize, draw: &mut Draw) -> Result<()> {
    let (width, english) = (dims.width, dims.vocab == 51_864);
    let (end, prompt) = if english { (50_256, 2) } else { (50_257, 4) };
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let put = |tensors: &mut Vec<_>, name: String, shape: &[usize], most: f32, around: f32, draw: &mut Draw| {
        let mut numbers = draw.numbers(shape.iter().product(), most);
        if around > 0.0 {
            numbers.iter_mut().for_each(|x| *x += around);
        }
        tensors.push((name, shape.to_vec(), numbers));
    };
    let linear = |tensors: &mut Vec<_>, name: String, out: usize, inputs: usize, draw: &mut Draw| {
        put(tensors, format!("{name}.weight"), &[out, inputs], even(inputs), 0.0, draw);
        if !name.ends_with(".key") {
            put(tensors, format!("{name}.bias"), &[out], 0.1, 0.0, draw);
        }
    };
    let norm = |tensors: &mut Vec<_>, name: String, draw: &mut Draw| {
        put(tensors, format!("{name}.weight"), &[width], 0.2, 1.0, draw);
        put(tensors, format!("{name}.bias"), &[width], 0.1, 0.0, draw);
    };
    for (conv, inputs) in [("conv1", dims.mels), ("conv2", width)] {
        put(&mut tensors, format!("encoder.{conv}.weight"), &[width, inputs, 3], even(3 * inputs), 0.0, draw);
        put(&mut tensors, format!("encoder.{conv}.bias"), &[width], 0.1, 0.0, draw);
    }
    put(&mut tensors, "encoder.positional_embedding".into(), &[dims.audio_ctx, width], 1.0, 0.0, draw);
    for (half, layers) in [("encoder", dims.audio_layers), ("decoder", dims.text_layers)] {
        for layer in 0..layers {
            let name = |part: &str| format!("{half}.blocks.{layer}.{part}");
            let attentions: &[(&str, &str)] = if half == "encoder" {
                &[("attn", "attn_ln")]
            } else {
                &[("attn", "attn_ln"), ("cross_attn", "cross_attn_ln")]
            };
            for (attention, before) in attentions {
                norm(&mut tensors, name(before), draw);
                for part in ["query", "key", "value", "out"] {
                    linear(&mut tensors, name(&format!("{attention}.{part}")), width, width, draw);
                }
            }
            norm(&mut tensors, name("mlp_ln"), draw);
            linear(&mut tensors, name("mlp.0"), 4 * width, width, draw);
            linear(&mut tensors, name("mlp.2"), width, 4 * width, draw);
        }
    }
    norm(&mut tensors, "encoder.ln_post".into(), draw);
    norm(&mut tensors, "decoder.ln".into(), draw);
    let tokens = draw.numbers(dims.vocab * width, 1.0);
    let mut positions = draw.numbers(dims.text_ctx * width, 1.0);
    for (at, row) in positions.chunks_exact_mut(width).skip(prompt - 1).enumerate() {
        // Any words, none of them twice.
        let next = if at < says { 1000 + 37 * at } else { end };
        row.iter_mut().zip(&tokens[next * width..]).for_each(|(x, next)| *x += 30.0 * next);
    }
    tensors.push(("decoder.token_embedding.weight".into(), vec![dims.vocab, width], tokens));
    tensors.push(("decoder.positional_embedding".into(), vec![dims.text_ctx, width], positions));
    save(path, tensors)
}

/// A MiniLM of two layers in a folder, and a tokenizer that knows `w0`, `w1` and so on.
pub(crate) fn minilm(folder: &Path, draw: &mut Draw) -> Result<PathBuf> {
    const WORDS: usize = 200;
    const WIDTH: usize = callbox_engine::models::minilm::WIDTH;
    let mut tensors = Vec::new();
    let mut put = |name: String, shape: &[usize], most: f32, around: f32| {
        let numbers = draw.numbers(shape.iter().product(), most).into_iter().map(|x| x + around).collect();
        tensors.push((name, shape.to_vec(), numbers));
    };
    for (table, rows) in [("word", WORDS), ("position", 512), ("token_type", 2)] {
        put(format!("embeddings.{table}_embeddings.weight"), &[rows, WIDTH], 1.0, 0.0);
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..2 {
        for (part, out, inputs) in [
            ("attention.self.query", WIDTH, WIDTH),
            ("attention.self.key", WIDTH, WIDTH),
            ("attention.self.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", 4 * WIDTH, WIDTH),
            ("output.dense", WIDTH, 4 * WIDTH),
        ] {
            put(format!("encoder.layer.{layer}.{part}.weight"), &[out, inputs], even(inputs), 0.0);
            put(format!("encoder.layer.{layer}.{part}.bias"), &[out], 0.1, 0.0);
        }
        norms.extend(["attention.output", "output"].map(|part| format!("encoder.layer.{layer}.{part}.LayerNorm")));
    }
    for norm in norms {
        put(format!("{norm}.weight"), &[WIDTH], 0.2, 1.0);
        put(format!("{norm}.bias"), &[WIDTH], 0.1, 0.0);
    }
    let path = folder.join("model.safetensors");
    save(&path, tensors)?;
    let words: HashMap<String, usize> = (0..WORDS).map(|word| (format!("w{word}"), word)).collect();
    let tokenizer = json!({
        "version": "1.0",
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    Ok(path)
}

/// Weights in bytes that are too large to be kept.
const LARGE: usize = 4096;

/// A file of ONNX in whose large weights two bytes take turns: their mean less their deviation, and as much more. So it packs
/// to a sixth, and still says how large the weights were.
pub(crate) fn hollowed(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(path).with_context(|| path.display().to_string())?;
    for (range, signed) in Onnx::parse(bytes.clone())?.bytes_of_weights() {
        let weights = &mut bytes[range];
        if weights.len() > LARGE {
            let number = |byte: &u8| if signed { f32::from(byte.cast_signed()) } else { f32::from(*byte) };
            let count = weights.len() as f32;
            let mean = weights.iter().map(number).sum::<f32>() / count;
            let deviation = (weights.iter().map(|byte| (number(byte) - mean).powi(2)).sum::<f32>() / count).sqrt();
            let byte = |number: f32| if signed { (number as i8).cast_unsigned() } else { number as u8 };
            let turns = [byte((mean - deviation).round()), byte((mean + deviation).round())];
            weights.iter_mut().zip(turns.iter().cycle()).for_each(|(weight, turn)| *weight = *turn);
        }
    }
    Ok(bytes)
}

/// The same with others in their place, of the same mean and the same deviation.
pub(crate) fn filled(path: &Path, draw: &mut Draw) -> Result<Vec<u8>> {
    let mut bytes = fs::read(path).with_context(|| path.display().to_string())?;
    for (range, signed) in Onnx::parse(bytes.clone())?.bytes_of_weights() {
        let weights = &mut bytes[range];
        if weights.len() > LARGE {
            let number = |byte: u8| if signed { f32::from(byte.cast_signed()) } else { f32::from(byte) };
            let (low, high) = (number(weights[0]), number(weights[1]));
            let (mean, most) = ((low + high) / 2.0, (high - low) / 2.0 * 3.0_f32.sqrt());
            let numbers = draw.numbers(weights.len(), most);
            for (weight, number) in weights.iter_mut().zip(numbers) {
                let number = (mean + number).round();
                *weight = if signed { (number as i8).cast_unsigned() } else { number as u8 };
            }
        }
    }
    Ok(bytes)
}
