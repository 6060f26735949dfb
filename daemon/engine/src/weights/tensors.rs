//! Named tensors as they lie in a file.
//!
//! Enters: the path of a checkpoint: PyTorch's zip, safetensors or whisper.cpp's ggml. Leaves: shapes, and numbers as `f32`. A
//! file is mapped, not read, unless its bytes are given: only what a model asks for is touched.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml};
use half::{bf16, f16};
use memmap2::Mmap;

use super::{ggml, pickle, safetensors};

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The file system says no.
    #[error("cannot read it: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes are not of the format that they claim, or of a part of it that no checkpoint needs.
    #[error("not a checkpoint: {0}")]
    Malformed(&'static str),
    /// The model needs a tensor that the file has not.
    #[error("no tensor is called {0}")]
    Missing(String),
    /// A tensor has another shape than the model needs.
    #[error("{name} has the shape {found:?}, not {wanted:?}")]
    Shape {
        /// Which tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the model needs.
        wanted: Vec<usize>,
    },
}

/// How numbers lie in the file; little-endian all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Number {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Brain float.
    Bf16,
    /// Blocks of several with a scale, as ggml quantises.
    Blocks(GgmlDType),
}

impl Number {
    /// Bytes of one, or of one block.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Blocks(dtype) => dtype.type_size(),
        }
    }

    /// How many lie together; a row consists of whole blocks.
    fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Blocks(dtype) => dtype.block_size(),
        }
    }
}

/// Where one tensor lies, without gaps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// How its numbers lie.
    pub number: Number,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Whether it is a matrix that lies column by column; else it lies row by row.
    pub transposed: bool,
    /// Its bytes in the file; checked to lie inside, and to be as many as the shape needs.
    pub bytes: Range<usize>,
}

impl Entry {
    /// An entry whose bytes begin at `start`, if they lie within `len` bytes.
    pub(super) fn checked(number: Number, shape: Vec<usize>, start: usize, len: usize) -> Option<Self> {
        let count = shape.iter().try_fold(1_usize, |count, &dim| count.checked_mul(dim))?;
        let whole = shape.last().is_none_or(|row| row.is_multiple_of(number.block()));
        let end = (count / number.block()).checked_mul(number.size())?.checked_add(start)?;
        (whole && end <= len).then_some(Self { number, shape, transposed: false, bytes: start..end })
    }
}

/// An open checkpoint.
#[derive(Debug)]
pub struct Tensors {
    bytes: Bytes,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

impl Tensors {
    /// Maps a checkpoint; the first bytes tell its format.
    ///
    /// # Errors
    /// If it cannot be read or is of no known format.
    pub fn open(path: &Path) -> Result<Self, TensorError> {
        let file = File::open(path)?;
        // SAFETY: model files are written once, under another name, and renamed; nobody truncates one in place.
        let map = unsafe { Mmap::map(&file)? };
        let entries = parse(&map)?;
        Ok(Self { bytes: Bytes::Mapped(map), entries })
    }

    /// A checkpoint that was read: of a file that somebody else may replace or change.
    ///
    /// # Errors
    /// If it is of no known format.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, TensorError> {
        let entries = parse(&bytes)?;
        Ok(Self { bytes: Bytes::Read(bytes), entries })
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Whether there is a tensor of that name, in brain floats.
    #[must_use]
    pub fn is_bf16(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.number == Number::Bf16)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn shape(&self, name: &str) -> Result<&[usize], TensorError> {
        Ok(&self.entry(name)?.shape)
    }

    /// Bytes of a tensor that lies in blocks.
    #[must_use]
    pub fn block_bytes(&self, name: &str) -> Option<usize> {
        let entry = self.entries.get(name).filter(|entry| matches!(entry.number, Number::Blocks(_)));
        entry.map(|entry| entry.bytes.len())
    }

    /// Matrices of one shape below one another, in blocks as they lie, on a device; none if they lie otherwise.
    ///
    /// # Errors
    /// If there is none of a name, one has another shape, or the device has no room.
    pub fn blocks(&self, names: &[String], shape: [usize; 2], device: &Device) -> Result<Option<QTensor>, TensorError> {
        let (mut alike, mut bytes) = (None, Vec::new());
        for name in names {
            let entry = self.shaped(name, &shape)?;
            match entry.number {
                Number::Blocks(dtype) if !entry.transposed && alike.is_none_or(|other| other == dtype) => {
                    alike = Some(dtype);
                    bytes.extend_from_slice(&self.bytes.get()[entry.bytes.clone()]);
                }
                _ => return Ok(None),
            }
        }
        let shape = vec![names.len() * shape[0], shape[1]];
        let tensor = alike.map(|dtype| quantised(dtype, &bytes, shape, device)).transpose();
        tensor.map_err(|_| TensorError::Malformed("a tensor's blocks cannot be read"))
    }

    /// The numbers of a tensor that must have `shape`.
    ///
    /// # Errors
    /// If there is none of that name, or it has another shape.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let entry = self.shaped(name, shape)?;
        let bytes = &self.bytes.get()[entry.bytes.clone()];
        let numbers: Vec<f32> = match entry.number {
            Number::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Number::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Number::Bf16 => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Number::Blocks(dtype) => {
                dequantised(dtype, bytes).map_err(|_| TensorError::Malformed("a tensor's blocks cannot be read"))?
            }
        };
        Ok(match shape {
            [rows, cols] if entry.transposed => (0..*rows)
                .flat_map(|row| (0..*cols).map(move |col| (row, col)))
                .map(|(r, c)| numbers[c * rows + r])
                .collect(),
            _ => numbers,
        })
    }

    fn shaped(&self, name: &str, shape: &[usize]) -> Result<&Entry, TensorError> {
        let entry = self.entry(name)?;
        if entry.shape == shape {
            Ok(entry)
        } else {
            Err(TensorError::Shape { name: name.into(), found: entry.shape.clone(), wanted: shape.into() })
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry, TensorError> {
        self.entries.get(name).ok_or_else(|| TensorError::Missing(name.into()))
    }
}

/// Whole blocks as numbers.
fn dequantised(dtype: GgmlDType, bytes: &[u8]) -> candle_core::Result<Vec<f32>> {
    let count = bytes.len() / dtype.type_size() * dtype.block_size();
    quantised(dtype, bytes, vec![count], &Device::Cpu)?.dequantize(&Device::Cpu)?.to_vec1()
}

fn quantised(dtype: GgmlDType, bytes: &[u8], shape: Vec<usize>, device: &Device) -> candle_core::Result<QTensor> {
    // candle looks at blocks where they lie, and a file puts them anywhere.
    let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
    let place = &mut bytemuck::cast_slice_mut(&mut aligned)[..bytes.len()];
    place.copy_from_slice(bytes);
    qtensor_from_ggml(dtype, place, shape, device)
}

/// The tensors that a checkpoint's bytes hold. No bytes make it panic, or hold more than a small multiple of their size.
///
/// # Errors
/// If they are of no known format.
pub fn parse(bytes: &[u8]) -> Result<HashMap<String, Entry>, TensorError> {
    if bytes.starts_with(b"PK") {
        pickle::parse(bytes)
    } else if bytes.starts_with(&ggml::MAGIC) {
        ggml::parse(bytes)
    } else if bytes.get(8) == Some(&b'{') {
        safetensors::parse(bytes)
    } else {
        Err(TensorError::Malformed("it is neither PyTorch's zip nor safetensors nor whisper.cpp's ggml"))
    }
}
