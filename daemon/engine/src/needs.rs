//! How much of a card's memory models take. Enters: their files, of which only heads and lengths are read; leaves: bytes of
//! each role. Never here: a card, or a model that is loaded. Parameters are counted; what the ears, the voice and the embedder
//! compute with is a bound that no card has confirmed yet.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use callbox_wire::{Need, Role};

use crate::models::transformer::{BLOCK, FUSED_ROWS, TransformerSpec};
use crate::models::whisper;
use crate::weights::gguf::Gguf;
use crate::weights::tensors::Tensors;

const MIB: u64 = 1 << 20;

/// What the ears, the embedder and Kokoro compute with in a step; Kokoro's is what tensors took on a processor, of as many
/// frames as it computes at once.
const WORK: [u64; 3] = [1024 * MIB, 128 * MIB, 2304 * MIB];

/// Whisper.
///
/// # Errors
/// If the file is not one of weights; one sentence.
pub fn ears(model: &Path) -> Result<Need> {
    let languages = whisper::languages(model)?;
    Ok(Need { role: Role::Ears, model: name(model), weights: floats(model)?, work: WORK[0], token: 0, languages })
}

/// A language model with so many sequences of up to `context` tokens.
///
/// # Errors
/// If the file is no model that can be computed; one sentence.
pub fn mind(model: &Path, sequences: usize, context: usize) -> Result<Need> {
    let gguf = Gguf::open(model)?;
    let spec = TransformerSpec::from_gguf(gguf.head())?;
    let context = context.min(spec.context).next_multiple_of(BLOCK);
    let weights = gguf.head().tensors.values().map(|tensor| {
        let stored = gguf.bytes(tensor).len() as u64;
        // Half precision becomes floats there, all else stays as it is.
        if tensor.dtype == candle_core::quantized::GgmlDType::F16 { 2 * stored } else { stored }
    });
    let wide = spec.kv_heads * spec.head_dim;
    let token = 2 * spec.layers * wide * size_of::<half::f16>();
    // Of one layer at a time: keys and values of all sequences side by side, as kept and as floats for each query head;
    // scores; and the logits.
    let attended = 2 * context * (wide * size_of::<half::f16>() + spec.heads * spec.head_dim * size_of::<f32>());
    let scores = 2 * spec.heads * context * size_of::<f32>();
    let rows = (2 * spec.vocabulary + 4 * spec.feed_forward + 8 * spec.hidden) * size_of::<f32>();
    // Kernels of ours have buffers for as many rows as they take, however few there are.
    let buffers = FUSED_ROWS * (spec.vocabulary + 4 * spec.feed_forward + 8 * spec.hidden) * size_of::<f32>();
    let work = (sequences * (attended + scores + rows)) as u64;
    let weights = weights.sum::<u64>() + buffers as u64;
    Ok(Need { role: Role::Mind, model: name(model), weights, work, token: token as u64, languages: 0 })
}

/// A Piper voice computes on the processor, Kokoro beside its speaker on the card: one byte of each number is in its file.
///
/// # Errors
/// If the file is not there.
pub fn voice(model: &Path) -> Result<Need> {
    let is_speaker = model.extension() == Some(OsStr::new("bin"));
    let network = || -> Result<u64> {
        let folder = model.parent().unwrap_or_else(|| Path::new("."));
        let files = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        let network = files.flatten().map(|file| file.path()).find(|file| file.extension() == Some(OsStr::new("onnx")));
        length(&network.with_context(|| format!("there is no network beside {}", model.display()))?)
    };
    let (weights, work) = if is_speaker { (4 * network()?, WORK[2]) } else { (0, 0) };
    Ok(Need { role: Role::Voice, model: name(model), weights, work, token: 0, languages: 0 })
}

/// The embedder.
///
/// # Errors
/// If the file is not one of weights; one sentence.
pub fn embed(model: &Path) -> Result<Need> {
    let weights = floats(model)?;
    Ok(Need { role: Role::Embed, model: name(model), weights, work: WORK[1], token: 0, languages: 0 })
}

/// A card gets blocks as they lie, and floats of all else.
fn floats(model: &Path) -> Result<u64> {
    let tensors = Tensors::open(model)?;
    let bytes = tensors.names().map(|name| match tensors.block_bytes(name) {
        Some(bytes) => Ok(bytes),
        None => Ok(tensors.shape(name)?.iter().product::<usize>() * size_of::<f32>()),
    });
    Ok(bytes.sum::<Result<usize>>()? as u64)
}

fn length(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len())
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
