//! MiniLM-L6-v2 (BERT with six layers): a sentence in, what it means as a vector of length 1 out.
//!
//! Enters: text of any length; what is beyond [`LONGEST`] tokens is not read. Leaves: the mean of the last layer's rows,
//! normalised, so that the dot product of two is the cosine of their angle. The file is not needed once it is open.

use std::path::Path;

use candle_core::{Device, Tensor};
use tokenizers::{Tokenizer, TruncationParams};

use super::layers::{Attention, Linear, Norm, gelu};
use crate::weights::tensors::{TensorError, Tensors};

/// Numbers of a vector.
pub const WIDTH: usize = 384;

/// Tokens that are read of a text.
pub const LONGEST: usize = 128;

const HEADS: usize = 12;
const INNER: usize = 4 * WIDTH;
const EPS: f32 = 1e-12;

/// A model that cannot be loaded or does not work.
#[derive(Debug, thiserror::Error)]
pub enum MiniLmError {
    /// Its weights are not a MiniLM's.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// `tokenizer.json`, beside the weights, cannot be used.
    #[error("tokenizer.json beside it cannot be used: {0}")]
    Tokenizer(tokenizers::Error),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] candle_core::Error),
}

struct Block {
    attention: Attention,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// The network and its tokenizer.
pub struct MiniLm {
    tokenizer: Tokenizer,
    /// A row for each word.
    words: Vec<f32>,
    /// For each position: its own row and that of the only kind of text.
    positions: Vec<f32>,
    norm: Norm,
    blocks: Vec<Block>,
    device: Device,
}

impl MiniLm {
    /// Loads `model.safetensors` and the `tokenizer.json` beside it.
    ///
    /// # Errors
    /// If one of them is not there or something else.
    pub fn open(path: &Path, device: &Device) -> Result<Self, MiniLmError> {
        let mut tokenizer =
            Tokenizer::from_file(path.with_file_name("tokenizer.json")).map_err(MiniLmError::Tokenizer)?;
        // The file pads every text to the longest, for batches.
        tokenizer.with_padding(None);
        let cut = TruncationParams { max_length: LONGEST, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(MiniLmError::Tokenizer)?;

        let tensors = Tensors::open(path)?;
        let pair = |name: String, weight: &[usize], bias: usize| -> Result<_, TensorError> {
            Ok((tensors.read(&format!("{name}.weight"), weight)?, tensors.read(&format!("{name}.bias"), &[bias])?))
        };
        let norm = |name: String| -> Result<Norm, MiniLmError> {
            Ok(Norm::new(pair(format!("{name}.LayerNorm"), &[WIDTH], WIDTH)?, EPS, device)?)
        };
        let layers = (0..).take_while(|i| tensors.has(&format!("encoder.layer.{i}.output.dense.weight"))).count();
        let blocks = (0..layers).map(|i| {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let (mut weights, mut biases) = (Vec::new(), Vec::new());
            for part in ["query", "key", "value"] {
                let (weight, bias) = pair(name(&format!("attention.self.{part}")), &[WIDTH, WIDTH], WIDTH)?;
                weights.extend(weight);
                biases.extend(bias);
            }
            let out = pair(name("attention.output.dense"), &[WIDTH, WIDTH], WIDTH)?;
            Ok(Block {
                attention: Attention::new((weights, biases), out, HEADS, device)?,
                attention_norm: norm(name("attention.output"))?,
                up: Linear::new(pair(name("intermediate.dense"), &[INNER, WIDTH], INNER)?, device)?,
                down: Linear::new(pair(name("output.dense"), &[WIDTH, INNER], WIDTH)?, device)?,
                norm: norm(name("output"))?,
            })
        });
        let blocks = blocks.collect::<Result<Vec<_>, MiniLmError>>()?;
        let table = |of: &str| -> Result<Vec<f32>, TensorError> {
            let name = format!("embeddings.{of}_embeddings.weight");
            let rows = tensors.shape(&name)?.first().copied().unwrap_or_default();
            tensors.read(&name, &[rows, WIDTH])
        };
        let (words, kinds, mut positions) = (table("word")?, table("token_type")?, table("position")?);
        if blocks.is_empty() || kinds.is_empty() || positions.len() < LONGEST * WIDTH {
            return Err(TensorError::Malformed("these are not the sizes of a MiniLM").into());
        }
        positions.truncate(LONGEST * WIDTH);
        positions.iter_mut().zip(kinds[..WIDTH].iter().cycle()).for_each(|(row, kind)| *row += kind);
        let norm = norm("embeddings".into())?;
        Ok(Self { tokenizer, words, positions, norm, blocks, device: device.clone() })
    }

    /// The vector of a text.
    ///
    /// # Errors
    /// If the device fails, or the tokenizer knows words that the table does not.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, MiniLmError> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(MiniLmError::Tokenizer)?;
        let ids = encoding.get_ids();
        let mut rows = Vec::with_capacity(ids.len() * WIDTH);
        for (id, position) in ids.iter().zip(self.positions.chunks_exact(WIDTH)) {
            let row = self.words.chunks_exact(WIDTH).nth(*id as usize);
            let row = row.ok_or(TensorError::Malformed("the tokenizer knows a word that the table does not"))?;
            rows.extend(row.iter().zip(position).map(|(row, position)| row + position));
        }
        let len = rows.len() / WIDTH;
        let mut x = self.norm.run(&Tensor::from_vec(rows, (len, WIDTH), &self.device)?)?;
        for block in &self.blocks {
            x = block.attention_norm.run(&(&x + block.attention.run(&x)?)?)?;
            let mut up = block.up.run(&x)?;
            gelu(&mut up)?;
            x = block.norm.run(&(&x + block.down.run(&up)?)?)?;
        }
        let mut mean: Vec<f32> = x.mean(0)?.to_vec1()?;
        let length = mean.iter().map(|number| number * number).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        mean.iter_mut().for_each(|number| *number /= length);
        Ok(mean)
    }
}
