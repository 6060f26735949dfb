//! Reads GGUF, the container of llama.cpp's models (versions 2 and 3).
//!
//! Enters: a file's bytes. Leaves: its metadata and where its tensors lie. Never here: an allocation larger than the
//! file could fill, or a range outside it. Source: ggml's `docs/gguf.md`.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::GgmlDType;
use memmap2::Mmap;

/// A metadata value; whole numbers of all widths are one kind.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Any integer.
    Int(i64),
    /// Any floating point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text; bytes that are not UTF-8 are replaced.
    Text(String),
    /// Several of one kind.
    List(Vec<Value>),
}

/// Where a tensor lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorInfo {
    /// How its numbers are stored.
    pub dtype: GgmlDType,
    /// Values per row: GGUF's first dimension.
    pub cols: usize,
    /// Rows: the product of all other dimensions; 1 for a vector.
    pub rows: usize,
    /// Whether it has one dimension.
    pub vector: bool,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// The head of a GGUF file.
#[derive(Default, Debug)]
pub struct Head {
    /// All key-value pairs.
    pub metadata: HashMap<String, Value>,
    /// All tensors by name.
    pub tensors: HashMap<String, TensorInfo>,
}

/// A GGUF file, mapped into memory.
pub struct Gguf {
    head: Head,
    map: Mmap,
}

impl Gguf {
    /// Maps and reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not GGUF; one sentence that names the file.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Self> {
            let file = File::open(path)?;
            // SAFETY: model files are replaced by rename, not written in place; the operator's promise, as for any
            // program that maps a model.
            let map = unsafe { Mmap::map(&file)? };
            Ok(Self { head: Head::parse(&map)?, map })
        };
        open().with_context(|| format!("cannot read the model {}", path.display()))
    }

    /// Metadata and tensors.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The bytes of a tensor of this file.
    #[must_use]
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.map[tensor.range.clone()]
    }

    /// The whole file.
    #[must_use]
    pub fn file(&self) -> &[u8] {
        &self.map
    }
}

impl Head {
    /// Reads the head of a file that is `bytes`.
    ///
    /// # Errors
    /// If the bytes are not a GGUF file that could be used.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { bytes, at: 0 };
        ensure!(reader.take(4)? == b"GGUF", "it is not a GGUF file");
        let version = reader.u32()?;
        ensure!((2..=3).contains(&version), "GGUF version {version} is not supported");
        let (tensor_count, pair_count) = (reader.u64()?, reader.u64()?);
        let mut head = Self::default();
        for _ in 0..pair_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, 0).with_context(|| format!("metadata {key:?}"))?;
            head.metadata.insert(key, value);
        }
        let mut offsets = Vec::new();
        for _ in 0..tensor_count {
            let name = reader.text()?;
            let (info, offset) = reader.tensor().with_context(|| format!("tensor {name:?}"))?;
            offsets.push((name, info, offset));
        }
        let alignment = match head.metadata.get("general.alignment") {
            None => 32,
            Some(Value::Int(alignment @ 1..=65536)) if alignment.count_ones() == 1 => *alignment as usize,
            Some(other) => bail!("an alignment of {other:?}"),
        };
        let data = reader.at.next_multiple_of(alignment);
        for (name, mut info, offset) in offsets {
            let from = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
            let range = from.and_then(|from| Some(from..from.checked_add(info.range.len())?));
            match range.filter(|range| range.end <= bytes.len()) {
                Some(range) => info.range = range,
                None => bail!("tensor {name:?} ends after the file: it is cut short"),
            }
            head.tensors.insert(name, info);
        }
        Ok(head)
    }

    /// A whole number.
    ///
    /// # Errors
    /// If it is missing or is something else.
    pub fn int(&self, key: &str) -> Result<usize> {
        match self.metadata.get(key) {
            Some(Value::Int(value)) => usize::try_from(*value).with_context(|| format!("{key} is {value}")),
            Some(_) => bail!("{key} is not a whole number"),
            None => bail!("{key} is missing"),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// If it is missing or is something else.
    pub fn float(&self, key: &str) -> Result<f32> {
        match self.metadata.get(key) {
            Some(Value::Float(value)) => Ok(*value as f32),
            Some(_) => bail!("{key} is not a number"),
            None => bail!("{key} is missing"),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// If it is missing or is something else.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.metadata.get(key) {
            Some(Value::Text(value)) => Ok(value),
            Some(_) => bail!("{key} is not a text"),
            None => bail!("{key} is missing"),
        }
    }

    /// A list.
    ///
    /// # Errors
    /// If it is missing or is something else.
    pub fn list(&self, key: &str) -> Result<&[Value]> {
        match self.metadata.get(key) {
            Some(Value::List(value)) => Ok(value),
            Some(_) => bail!("{key} is not a list"),
            None => bail!("{key} is missing"),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.context("the file is cut short")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String> {
        let len = usize::try_from(self.u64()?)?;
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    fn value(&mut self, kind: u32, depth: u8) -> Result<Value> {
        Ok(match kind {
            0 => Value::Int(self.array::<1>()?[0].into()),
            1 => Value::Int(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Int(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => {
                ensure!(depth < 4, "lists within lists within lists");
                let kind = self.u32()?;
                let count = usize::try_from(self.u64()?)?;
                // Every element takes at least a byte, so no count makes us reserve more than the file's own size.
                ensure!(count <= self.bytes.len() - self.at, "a list of {count} in a file that is shorter");
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(kind, depth + 1)?);
                }
                Value::List(list)
            }
            10 => Value::Int(i64::try_from(self.u64()?)?),
            11 => Value::Int(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => bail!("values of kind {other} are not known"),
        })
    }

    /// A tensor, with a range that starts at 0, and its offset from the start of the data.
    fn tensor(&mut self) -> Result<(TensorInfo, u64)> {
        let dimensions = self.u32()?;
        ensure!((1..=4).contains(&dimensions), "{dimensions} dimensions");
        let mut sizes = [1_usize; 4];
        for size in sizes.iter_mut().take(dimensions as usize) {
            *size = usize::try_from(self.u64()?)?;
            ensure!(*size > 0, "a dimension of 0");
        }
        let dtype = dtype(self.u32()?)?;
        let offset = self.u64()?;
        let [cols, rest @ ..] = sizes;
        let rows = rest.iter().try_fold(1_usize, |rows, &size| rows.checked_mul(size)).context("too large")?;
        ensure!(cols.is_multiple_of(dtype.block_size()), "{cols} columns do not fill whole blocks");
        let bytes = (cols / dtype.block_size()).checked_mul(dtype.type_size()).and_then(|row| row.checked_mul(rows));
        let range = 0..bytes.context("too large")?;
        Ok((TensorInfo { dtype, cols, rows, vector: dimensions == 1, range }, offset))
    }
}

/// ggml's numbers for its types.
pub(super) fn dtype(code: u32) -> Result<GgmlDType> {
    Ok(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => bail!("quantisation type {other} is not supported"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    /// Two pairs and one tensor of 2 × 32 values in Q8_0.
    fn sample() -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(1_u64.to_le_bytes());
        out.extend(2_u64.to_le_bytes());
        text(&mut out, "general.architecture");
        out.extend(8_u32.to_le_bytes());
        text(&mut out, "llama");
        text(&mut out, "list");
        out.extend(9_u32.to_le_bytes());
        out.extend(5_u32.to_le_bytes());
        out.extend(2_u64.to_le_bytes());
        out.extend([1, 0, 0, 0, 255, 255, 255, 255]);
        text(&mut out, "w");
        out.extend(2_u32.to_le_bytes());
        out.extend(32_u64.to_le_bytes());
        out.extend(2_u64.to_le_bytes());
        out.extend(8_u32.to_le_bytes());
        out.extend(0_u64.to_le_bytes());
        out.resize(out.len().next_multiple_of(32) + 68, 7);
        out
    }

    #[test]
    fn a_small_file_is_read() {
        let bytes = sample();
        let head = Head::parse(&bytes).expect("valid");
        assert_eq!(head.text("general.architecture").expect("there"), "llama");
        assert_eq!(head.list("list").expect("there"), [Value::Int(1), Value::Int(-1)]);
        let tensor = &head.tensors["w"];
        assert_eq!((tensor.cols, tensor.rows, tensor.vector), (32, 2, false));
        assert_eq!(tensor.range, bytes.len() - 68..bytes.len());
        assert!(Head::parse(&bytes[..bytes.len() - 1]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                          cut in any::<prop::sample::Index>()) {
            let mut bytes = sample();
            for (index, value) in flips.drain(..) {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(head) = Head::parse(&bytes) {
                for tensor in head.tensors.values() {
                    prop_assert!(bytes.get(tensor.range.clone()).is_some());
                }
            }
        }

        #[test]
        fn no_random_bytes_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
            bytes.extend(tail);
            drop(Head::parse(&bytes));
        }
    }
}
