//! ONNX as a container of weights: a file in; named tensors and the shape of the graph out. Never here: running a graph.
//!
//! The reader knows the few protobuf fields that it needs (`onnx.proto3`: ModelProto.graph = 7, GraphProto.node = 1,
//! GraphProto.initializer = 5) and steps over all others. Every length is checked against what is left, so hostile
//! bytes give an [`OnnxError`], and nothing is allocated that the file does not hold.
//!
//! Quantised weights come out as the floats that they stand for: `(value - zero point) · scale`.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};

/// Why a file is not a usable container.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not protobuf, or not an ONNX model.
    #[error("not an ONNX model: {0}")]
    Malformed(&'static str),
    /// A tensor or node that a model needs is not in the file.
    #[error("the ONNX model has no {0}")]
    Missing(String),
    /// A tensor whose type, shape or data is not what a model needs.
    #[error("tensor {0}: {1}")]
    Tensor(String, &'static str),
    /// candle would not take it.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// One operation of the graph, as far as weights need it.
#[derive(Default, Debug)]
pub struct Node {
    /// Such as `/dec/conv_pre/Conv`.
    pub name: String,
    /// Such as `Conv`.
    pub op: String,
    /// Names of tensors, in the operator's order.
    pub inputs: Vec<String>,
    /// Attributes that are lists of integers, such as `dilations`.
    pub ints: HashMap<String, Vec<i64>>,
}

#[derive(Default)]
struct Initializer {
    dims: Vec<usize>,
    kind: u64,
    raw: Range<usize>,
    floats: Range<usize>,
    /// Small integers that the exporter wrote one by one.
    ints: Range<usize>,
    external: bool,
}

/// A tensor's values in the order of its dimensions.
#[derive(Debug, PartialEq)]
pub struct Values {
    /// Outermost first.
    pub dims: Vec<usize>,
    /// As floats, whatever they are in the file.
    pub data: Vec<f32>,
}

/// A parsed file; tensors are cut out of it when asked for.
pub struct Onnx {
    bytes: Vec<u8>,
    tensors: HashMap<String, Initializer>,
    nodes: Vec<Node>,
}

const KIND_F32: u64 = 1;
const KIND_U8: u64 = 2;
const KIND_I8: u64 = 3;
const MAX_RANK: usize = 8;

impl Onnx {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// If it cannot be read or is no ONNX model.
    pub fn open(path: &Path) -> Result<Self, OnnxError> {
        let bytes = std::fs::read(path).map_err(|source| OnnxError::Io { path: path.display().to_string(), source })?;
        Self::parse(bytes)
    }

    /// Parses the bytes of a file.
    ///
    /// # Errors
    /// If they are no ONNX model.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, OnnxError> {
        let (mut tensors, mut nodes) = (HashMap::new(), Vec::new());
        let mut graphs = 0;
        each_field(&bytes, 0..bytes.len(), |model| {
            let (7, Value::Bytes(graph)) = model else { return Ok(()) };
            graphs += 1;
            each_field(&bytes, graph, |field| {
                match field {
                    (1, Value::Bytes(range)) => nodes.push(node(&bytes, range)?),
                    (5, Value::Bytes(range)) => {
                        let (name, tensor) = initializer(&bytes, range)?;
                        tensors.insert(name, tensor);
                    }
                    _ => {}
                }
                Ok(())
            })
        })?;
        if graphs == 0 {
            return Err(OnnxError::Malformed("it has no graph"));
        }
        Ok(Self { bytes, tensors, nodes })
    }

    /// The operations, in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The operation of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn node(&self, name: &str) -> Result<&Node, OnnxError> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| OnnxError::Missing(format!("node {name}")))
    }

    /// Where in the file the weights lie that were rounded to bytes, which is most of it, and whether those have a sign.
    pub fn bytes_of_weights(&self) -> Vec<(Range<usize>, bool)> {
        let rounded = |tensor: &&Initializer| matches!(tensor.kind, KIND_U8 | KIND_I8);
        let found = self.tensors.values().filter(rounded).map(|tensor| (tensor.raw.clone(), tensor.kind == KIND_I8));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|(range, _)| range.start);
        found
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor of 32-bit floats.
    ///
    /// # Errors
    /// If there is none of this name, or it holds something else.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor, OnnxError> {
        if self.found(name)?.kind != KIND_F32 {
            return Err(OnnxError::Tensor(name.to_owned(), "its values are not 32-bit floats"));
        }
        let values = self.values(name)?;
        Ok(Tensor::from_vec(values.data, values.dims.as_slice(), device)?)
    }

    /// A tensor of 32-bit floats or of bytes, with or without a sign.
    ///
    /// # Errors
    /// If there is none of this name, or it holds something else.
    pub fn values(&self, name: &str) -> Result<Values, OnnxError> {
        let found = self.found(name)?;
        let fault = |why| OnnxError::Tensor(name.to_owned(), why);
        if found.external {
            return Err(fault("its values are in another file"));
        }
        let raw = |other: &Range<usize>| {
            if found.raw.is_empty() { &self.bytes[other.clone()] } else { &self.bytes[found.raw.clone()] }
        };
        let data: Vec<f32> = match found.kind {
            KIND_F32 => {
                let (words, rest) = raw(&found.floats).as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(fault("its shape and its data disagree"));
                }
                words.iter().map(|word| f32::from_le_bytes(*word)).collect()
            }
            KIND_U8 | KIND_I8 if found.raw.is_empty() => {
                let mut ints = Vec::new();
                push_ints(&self.bytes, Value::Bytes(found.ints.clone()), &mut ints)?;
                ints.into_iter().map(|int| int as f32).collect()
            }
            KIND_U8 => self.bytes[found.raw.clone()].iter().map(|&byte| f32::from(byte)).collect(),
            KIND_I8 => self.bytes[found.raw.clone()].iter().map(|&byte| f32::from(byte.cast_signed())).collect(),
            _ => return Err(fault("its values are neither 32-bit floats nor bytes")),
        };
        let wanted = found.dims.iter().try_fold(1_usize, |size, &dim| size.checked_mul(dim));
        if wanted != Some(data.len()) {
            return Err(fault("its shape and its data disagree"));
        }
        Ok(Values { dims: found.dims.clone(), data })
    }

    /// What the bytes called `name` stand for, given what their zero point and their scale are called. There is one of
    /// each, or one for each index of the last dimension, or of the first.
    ///
    /// # Errors
    /// If one of the three is missing, or they do not fit each other.
    pub fn dequantised(&self, name: &str, zero: &str, scale: &str) -> Result<Values, OnnxError> {
        let (mut values, zero, scale) = (self.values(name)?, self.values(zero)?.data, self.values(scale)?.data);
        let last = values.dims.last().copied().unwrap_or(1).max(1);
        let block = values.data.len() / values.dims.first().copied().unwrap_or(1).max(1);
        let of = |list: &[f32], at: usize| match list.len() {
            1 => Some(list[0]),
            len if len == last => Some(list[at % last]),
            len if len * block == values.data.len() => Some(list[at / block.max(1)]),
            _ => None,
        };
        let data = values.data.iter().enumerate();
        let data: Option<Vec<f32>> =
            data.map(|(at, &value)| Some((value - of(&zero, at)?) * of(&scale, at)?)).collect();
        values.data = data.ok_or_else(|| OnnxError::Tensor(name.to_owned(), "its scales do not fit its shape"))?;
        Ok(values)
    }

    fn found(&self, name: &str) -> Result<&Initializer, OnnxError> {
        self.tensors.get(name).ok_or_else(|| OnnxError::Missing(format!("tensor {name}")))
    }
}

enum Value {
    Number(u64),
    Bytes(Range<usize>),
    Other,
}

fn varint(bytes: &[u8], at: &mut usize, end: usize) -> Result<u64, OnnxError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).filter(|_| *at < end).ok_or(OnnxError::Malformed("it ends within a number"))?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(OnnxError::Malformed("a number is too long"))
}

/// Calls `visit` with each field of the message in `range`.
fn each_field(
    bytes: &[u8],
    range: Range<usize>,
    mut visit: impl FnMut((u64, Value)) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    let (mut at, end) = (range.start, range.end);
    while at < end {
        let key = varint(bytes, &mut at, end)?;
        let skip = match key & 7 {
            0 => {
                let number = varint(bytes, &mut at, end)?;
                visit((key >> 3, Value::Number(number)))?;
                continue;
            }
            1 => 8,
            2 => varint(bytes, &mut at, end)?,
            5 => 4,
            _ => return Err(OnnxError::Malformed("it has a field of an unknown kind")),
        };
        let next = usize::try_from(skip).ok().and_then(|skip| at.checked_add(skip)).filter(|&next| next <= end);
        let next = next.ok_or(OnnxError::Malformed("a field is longer than the file"))?;
        visit((key >> 3, if key & 7 == 2 { Value::Bytes(at..next) } else { Value::Other }))?;
        at = next;
    }
    Ok(())
}

fn text(bytes: &[u8], range: Range<usize>) -> Result<String, OnnxError> {
    String::from_utf8(bytes[range].to_vec()).map_err(|_| OnnxError::Malformed("a name is not UTF-8"))
}

/// A repeated integer field, packed or not.
fn push_ints(bytes: &[u8], value: Value, out: &mut Vec<i64>) -> Result<(), OnnxError> {
    match value {
        Value::Number(number) => out.push(number.cast_signed()),
        Value::Bytes(range) => {
            let mut at = range.start;
            while at < range.end {
                out.push(varint(bytes, &mut at, range.end)?.cast_signed());
            }
        }
        Value::Other => return Err(OnnxError::Malformed("an integer list holds something else")),
    }
    Ok(())
}

fn node(bytes: &[u8], range: Range<usize>) -> Result<Node, OnnxError> {
    let mut node = Node::default();
    each_field(bytes, range, |field| {
        match field {
            (1, Value::Bytes(range)) => node.inputs.push(text(bytes, range)?),
            (3, Value::Bytes(range)) => node.name = text(bytes, range)?,
            (4, Value::Bytes(range)) => node.op = text(bytes, range)?,
            (5, Value::Bytes(range)) => {
                let (mut name, mut ints) = (String::new(), Vec::new());
                each_field(bytes, range, |field| {
                    match field {
                        (1, Value::Bytes(range)) => name = text(bytes, range)?,
                        (8, value) => push_ints(bytes, value, &mut ints)?,
                        _ => {}
                    }
                    Ok(())
                })?;
                if !ints.is_empty() {
                    node.ints.insert(name, ints);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(node)
}

fn initializer(bytes: &[u8], range: Range<usize>) -> Result<(String, Initializer), OnnxError> {
    let (mut name, mut tensor, mut dims) = (String::new(), Initializer::default(), Vec::new());
    each_field(bytes, range, |field| {
        match field {
            (1, value) => push_ints(bytes, value, &mut dims)?,
            (2, Value::Number(kind)) => tensor.kind = kind,
            (4, Value::Bytes(range)) => tensor.floats = range,
            (5, Value::Bytes(range)) => tensor.ints = range,
            (8, Value::Bytes(range)) => name = text(bytes, range)?,
            (9, Value::Bytes(range)) => tensor.raw = range,
            (14, Value::Number(place)) => tensor.external = place != 0,
            _ => {}
        }
        Ok(())
    })?;
    if dims.len() > MAX_RANK {
        return Err(OnnxError::Malformed("a tensor has too many dimensions"));
    }
    tensor.dims = dims
        .into_iter()
        .map(|dim| usize::try_from(dim).map_err(|_| OnnxError::Malformed("a dimension is negative")))
        .collect::<Result<_, _>>()?;
    Ok((name, tensor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut len = body.len();
        while len >= 0x80 {
            out.push((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(body);
        out
    }

    fn initializer(name: &[u8], kind: u8, dims: &[u8], data: Vec<u8>) -> Vec<u8> {
        let mut tensor = field(1, dims);
        tensor.extend([2 << 3, kind]);
        tensor.extend(field(8, name));
        tensor.extend(data);
        field(5, &tensor)
    }

    #[test]
    fn bytes_stand_for_floats() {
        let scale: Vec<u8> = [0.5_f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let graph = [
            initializer(b"signed", 3, &[2, 2], field(9, &[0, 0xff, 0x80, 0x7f])),
            initializer(b"unsigned", 2, &[3, 1, 2], field(9, &[10, 20, 30, 40, 50, 60])),
            initializer(b"none", 3, &[2], field(9, &[0, 0])),
            initializer(b"zero", 2, &[], field(5, &[20])),
            initializer(b"scale", 1, &[2], field(4, &scale)),
        ];
        let onnx = Onnx::parse(field(7, &graph.concat())).expect("well formed");
        let data = |name, zero| onnx.dequantised(name, zero, "scale").expect("they fit").data;
        assert_eq!(data("signed", "none"), [0.0, -2.0, -64.0, 254.0]);
        assert_eq!(data("unsigned", "zero"), [-5.0, 0.0, 5.0, 40.0, 15.0, 80.0]);
        assert!(matches!(onnx.tensor("zero", &Device::Cpu), Err(OnnxError::Tensor(..))));
        assert!(matches!(onnx.dequantised("signed", "none", "unsigned"), Err(OnnxError::Tensor(..))));
    }

    fn model(dims: &[u8], data: &[f32]) -> Vec<u8> {
        let mut tensor = field(1, dims);
        tensor.extend([2 << 3, 1]);
        tensor.extend(field(8, b"w"));
        tensor.extend(field(9, &data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()));
        let mut ints = field(1, b"strides");
        ints.extend(field(8, &[8, 3]));
        let mut node = field(1, b"x");
        node.extend(field(3, b"/conv"));
        node.extend(field(4, b"Conv"));
        node.extend(field(5, &ints));
        let mut graph = field(1, &node);
        graph.extend(field(5, &tensor));
        field(7, &graph)
    }

    #[test]
    fn tensors_and_attributes_are_read() {
        let data: Vec<f32> = (0..60).map(|x| x as f32 / 7.0).collect();
        let onnx = Onnx::parse(model(&[3, 20], &data)).expect("well formed");
        let tensor = onnx.tensor("w", &Device::Cpu).expect("present");
        assert_eq!(tensor.dims(), [3, 20]);
        assert_eq!(tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("floats"), data);
        let node = onnx.node("/conv").expect("present");
        assert_eq!((node.op.as_str(), &node.ints["strides"]), ("Conv", &vec![8, 3]));
        assert!(matches!(onnx.tensor("v", &Device::Cpu), Err(OnnxError::Missing(_))));
        let lying = Onnx::parse(model(&[3, 21], &data)).expect("well formed");
        assert!(matches!(lying.tensor("w", &Device::Cpu), Err(OnnxError::Tensor(..))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(onnx) = Onnx::parse(bytes) {
                onnx.tensors.keys().for_each(|name| drop(onnx.tensor(name, &Device::Cpu)));
            }
        }

        #[test]
        fn no_damage_panics(at in 0_usize..330, byte in any::<u8>(), cut in 0_usize..330) {
            let mut bytes = model(&[3, 20], &[0.5; 60]);
            let len = bytes.len();
            bytes[at % len] = byte;
            bytes.truncate(len - cut % len);
            if let Ok(onnx) = Onnx::parse(bytes) {
                onnx.tensors.keys().for_each(|name| drop(onnx.tensor(name, &Device::Cpu)));
            }
        }
    }
}
