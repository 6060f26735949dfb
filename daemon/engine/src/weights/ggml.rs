//! whisper.cpp's own files, `ggml-….bin`: sizes, mel filters, a vocabulary, and tensors one after the other.
//!
//! Enters: bytes. Leaves: names (OpenAI's), shapes and places. Sizes are read off the shapes, filters are computed and both
//! vocabularies are embedded, so these parts are passed over. Source: whisper.cpp's `models/convert-pt-to-ggml.py` and
//! `whisper_model_load`.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use candle_core::quantized::GgmlDType;

use super::gguf;
use super::reader::Reader;
use super::tensors::{Entry, Number, TensorError};

/// What such a file begins with: 0x67676d6c, as all of whisper.cpp's.
pub const MAGIC: [u8; 4] = *b"lmgg";

/// Numbers at the beginning; the first is how many tokens there are, by which a Whisper is known.
const SIZES: usize = 11;
const TOKENS: RangeInclusive<u32> = 51_864..=51_866;

const CUT: TensorError = TensorError::Malformed("the ggml file is cut short");

/// Lists the tensors.
///
/// # Errors
/// If the bytes are not a Whisper of whisper.cpp's.
pub fn parse(bytes: &[u8]) -> Result<HashMap<String, Entry>, TensorError> {
    let mut reader = Reader(bytes);
    let magic = reader.take(MAGIC.len());
    let tokens = reader.u32().ok_or(CUT)?;
    if magic != Some(&MAGIC) || !TOKENS.contains(&tokens) {
        return Err(TensorError::Malformed("it is a ggml file, and not a Whisper's"));
    }
    skip_head(&mut reader).ok_or(CUT)?;
    let mut entries = HashMap::new();
    while !reader.0.is_empty() {
        let (name, entry) = tensor(&mut reader, bytes.len())?;
        if entries.insert(name, entry).is_some() {
            return Err(TensorError::Malformed("two tensors of the ggml file have one name"));
        }
    }
    Ok(entries)
}

/// The other sizes, the filters, the vocabulary.
fn skip_head(reader: &mut Reader) -> Option<()> {
    reader.take(4 * (SIZES - 1))?;
    let filters = u64::from(reader.u32()?) * u64::from(reader.u32()?);
    reader.take(usize::try_from(filters).ok()?.checked_mul(4)?)?;
    for _ in 0..reader.u32()? {
        let length = reader.u32()?;
        reader.take(length as usize)?;
    }
    Some(())
}

/// Dimensions innermost first, a type, a name; then its numbers, wherever that is.
fn tensor(reader: &mut Reader, len: usize) -> Result<(String, Entry), TensorError> {
    let [dimensions, name, kind] = [reader.u32(), reader.u32(), reader.u32()].map(|n| n.ok_or(CUT));
    let (dimensions, name) = (dimensions?, name?);
    if !(1..=4).contains(&dimensions) {
        return Err(TensorError::Malformed("a tensor of the ggml file has no shape"));
    }
    let number = match gguf::dtype(kind?) {
        Ok(GgmlDType::F32) => Number::F32,
        Ok(GgmlDType::F16) => Number::F16,
        Ok(GgmlDType::BF16) => Number::Bf16,
        Ok(quantised) => Number::Blocks(quantised),
        Err(_) => {
            return Err(TensorError::Malformed("it is quantised in a way that is not known; q5_0, q5_1 and q8_0 are"));
        }
    };
    let mut shape = (0..dimensions).map(|_| reader.u32().map(|n| n as usize)).collect::<Option<Vec<_>>>().ok_or(CUT)?;
    shape.reverse();
    // The biases of the convolutions are written as columns.
    while shape.len() > 1 && shape.last() == Some(&1) {
        shape.pop();
    }
    let name = reader.take(name as usize).ok_or(CUT)?;
    let name = std::str::from_utf8(name).map_err(|_| TensorError::Malformed("a name in the ggml file is no text"))?;
    let entry = Entry::checked(number, shape, len - reader.0.len(), len).ok_or(CUT)?;
    reader.take(entry.bytes.len()).ok_or(CUT)?;
    Ok((name.to_owned(), entry))
}
