//! PyTorch's checkpoint: a zip archive of raw storages and one pickle that names them.
//!
//! Enters: bytes. Leaves: names, shapes and places. A pickle is a program for a stack machine; this one runs the
//! twenty-odd instructions that `torch.save` writes, knows three functions, and calls nothing. Everything else is an
//! error: an archive that compresses, a pickle that imports.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::reader::Reader;
use super::tensors::{Entry, Number, TensorError};

/// A tuple of tuples deeper than this is an attack on the stack; PyTorch writes three levels.
const MAX_DEPTH: u8 = 16;

/// Lists the tensors of a checkpoint.
///
/// # Errors
/// If the bytes are not what `torch.save` writes for a dictionary of tensors.
pub fn parse(bytes: &[u8]) -> Result<HashMap<String, Entry>, TensorError> {
    let files = directory(bytes).ok_or(TensorError::Malformed("the zip directory is wrong"))?;
    let (root, pickle) = files
        .iter()
        .find_map(|(name, range)| Some((name.strip_suffix("/data.pkl")?, range.clone())))
        .ok_or(TensorError::Malformed("the archive holds no data.pkl"))?;
    let machine = Machine {
        code: Reader(&bytes[pickle]),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        found: HashMap::new(),
        storages: Storages { root, files: &files },
    };
    machine.run()
}

/// Names and places of the files in a zip archive that stores them as they are.
fn directory(bytes: &[u8]) -> Option<HashMap<String, Range<usize>>> {
    const END: usize = 22;
    let tail = bytes.len().checked_sub(END)?;
    let lowest = tail.saturating_sub(usize::from(u16::MAX));
    let end = (lowest..=tail).rev().find(|&at| bytes[at..].starts_with(b"PK\x05\x06"))?;
    let mut reader = Reader(&bytes[end + 10..]);
    let count = reader.u16()?;
    reader.take(4)?;
    let start = reader.u32()? as usize;
    let mut reader = Reader(bytes.get(start..end)?);
    let mut files = HashMap::new();
    for _ in 0..count {
        let header = reader.take(46)?;
        if !header.starts_with(b"PK\x01\x02") {
            return None;
        }
        let short = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let long = |at: usize| short(at) | short(at + 2) << 16;
        let name = std::str::from_utf8(reader.take(short(28))?).ok()?;
        reader.take(short(30) + short(32))?;
        let (stored, size, local) = (short(10) == 0 && long(20) == long(24), long(24), long(42));
        let mut at = Reader(bytes.get(local..)?);
        let local_header = at.take(30)?;
        let skipped = usize::from(u16::from_le_bytes([local_header[26], local_header[27]]))
            + usize::from(u16::from_le_bytes([local_header[28], local_header[29]]));
        let data = local + 30 + skipped;
        let range = data..data.checked_add(size)?;
        if !stored || !local_header.starts_with(b"PK\x03\x04") || range.end > bytes.len() {
            return None;
        }
        files.insert(name.to_owned(), range);
    }
    Some(files)
}

/// What lies on the machine's stack. A dictionary is empty: its tensors are noted when they are put into it.
#[derive(Clone)]
enum Value {
    Nothing,
    Int(i64),
    Text(Rc<str>),
    Global(Number),
    RebuildTensor,
    Dict,
    Tuple(Rc<[Value]>, u8),
    Storage(Number, Range<usize>),
    Tensor(Rc<Entry>),
}

struct Storages<'a> {
    root: &'a str,
    files: &'a HashMap<String, Range<usize>>,
}

struct Machine<'a> {
    code: Reader<'a>,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    found: HashMap<String, Entry>,
    storages: Storages<'a>,
}

impl Machine<'_> {
    fn run(mut self) -> Result<HashMap<String, Entry>, TensorError> {
        loop {
            match self.step() {
                Some(true) => {}
                Some(false) => return Ok(self.found),
                None => return Err(TensorError::Malformed("the pickle does what no checkpoint needs")),
            }
        }
    }

    /// One instruction; false at the end, nothing if it cannot be.
    fn step(&mut self) -> Option<bool> {
        match self.code.u8()? {
            // PROTO, FRAME
            0x80 => drop(self.code.take(1)?),
            0x95 => drop(self.code.take(8)?),
            // STOP
            b'.' => return Some(false),
            b'(' => self.marks.push(self.stack.len()),
            // EMPTY_DICT
            b'}' => self.stack.push(Value::Dict),
            b')' => self.tuple(self.stack.len())?,
            b't' => {
                let mark = self.marks.pop()?;
                self.tuple(mark)?;
            }
            length @ 0x85..=0x87 => self.tuple(self.stack.len().checked_sub(usize::from(length - 0x84))?)?,
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Nothing),
            b'K' => {
                let value = self.code.u8()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = self.code.u16()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'J' => {
                let value = self.code.u32()? as i32;
                self.stack.push(Value::Int(value.into()));
            }
            // LONG1: up to eight bytes, two's complement; torch writes it for counts above 2^31.
            0x8a => {
                let length = usize::from(self.code.u8()?);
                let bytes = self.code.take(length)?;
                let negative = bytes.last().is_some_and(|top| top & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide.get_mut(..length)?.copy_from_slice(bytes);
                self.stack.push(Value::Int(i64::from_le_bytes(wide)));
            }
            b'X' => {
                let length = self.code.u32()? as usize;
                let text = std::str::from_utf8(self.code.take(length)?).ok()?;
                self.stack.push(Value::Text(text.into()));
            }
            b'q' => {
                let slot = self.code.u8()?;
                self.memo.insert(slot.into(), self.stack.last()?.clone());
            }
            b'r' => {
                let slot = self.code.u32()?;
                self.memo.insert(slot, self.stack.last()?.clone());
            }
            b'h' => {
                let slot = u32::from(self.code.u8()?);
                self.stack.push(self.memo.get(&slot)?.clone());
            }
            b'j' => {
                let slot = self.code.u32()?;
                self.stack.push(self.memo.get(&slot)?.clone());
            }
            b'c' => {
                let (module, name) = (self.code.line()?, self.code.line()?);
                self.stack.push(global(module, name)?);
            }
            // BINPERSID
            b'Q' => {
                let storage = self.storage()?;
                self.stack.push(storage);
            }
            b'R' => {
                let arguments = self.stack.pop()?;
                let function = self.stack.pop()?;
                self.stack.push(rebuild(&function, &arguments)?);
            }
            // SETITEM, SETITEMS
            b's' => self.set_items(self.stack.len().checked_sub(2)?)?,
            b'u' => {
                let mark = self.marks.pop()?;
                self.set_items(mark)?;
            }
            // BUILD: the attributes of a dictionary, which nobody here wants.
            b'b' => drop(self.stack.pop()?),
            _ => return None,
        }
        Some(true)
    }

    fn tuple(&mut self, from: usize) -> Option<()> {
        let items: Rc<[Value]> = self.stack.get(from..)?.into();
        self.stack.truncate(from);
        let inner = items.iter().map(|item| if let Value::Tuple(_, depth) = item { *depth } else { 0 }).max();
        let depth = inner.unwrap_or(0) + 1;
        self.stack.push(Value::Tuple(items, depth));
        (depth <= MAX_DEPTH).then_some(())
    }

    /// `("storage", type, key, device, count)` becomes the file of that key.
    fn storage(&mut self) -> Option<Value> {
        let Value::Tuple(items, _) = self.stack.pop()? else { return None };
        let [Value::Text(kind), Value::Global(number), Value::Text(key), ..] = &*items else { return None };
        if &**kind != "storage" {
            return None;
        }
        let range = self.storages.files.get(&format!("{}/data/{key}", self.storages.root))?;
        Some(Value::Storage(*number, range.clone()))
    }

    fn set_items(&mut self, from: usize) -> Option<()> {
        for pair in self.stack.get(from..)?.chunks(2) {
            if let [Value::Text(name), Value::Tensor(entry)] = pair {
                self.found.insert(name.to_string(), Entry::clone(entry));
            }
        }
        self.stack.truncate(from);
        matches!(self.stack.last()?, Value::Dict).then_some(())
    }
}

fn global(module: &str, name: &str) -> Option<Value> {
    Some(match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Value::RebuildTensor,
        ("collections", "OrderedDict") => Value::Dict,
        ("torch", "HalfStorage") => Value::Global(Number::F16),
        ("torch", "FloatStorage") => Value::Global(Number::F32),
        ("torch", "BFloat16Storage") => Value::Global(Number::Bf16),
        _ => return None,
    })
}

/// A call: an ordered dictionary, or `_rebuild_tensor_v2(storage, offset, shape, stride, …)`.
fn rebuild(function: &Value, arguments: &Value) -> Option<Value> {
    let Value::Tuple(arguments, _) = arguments else { return None };
    match (function, &**arguments) {
        (Value::Dict, []) => Some(Value::Dict),
        (
            Value::RebuildTensor,
            [Value::Storage(number, range), Value::Int(offset), Value::Tuple(shape, _), Value::Tuple(stride, _), ..],
        ) => {
            let (shape, stride) = (integers(shape)?, integers(stride)?);
            // torch.save keeps the order in memory: OpenAI's matrices lie transposed, as they were trained.
            let transposed =
                matches!((&*shape, &*stride), ([rows, cols], [1, step]) if *rows > 1 && *cols > 1 && step == rows);
            if !transposed && !row_major(&shape, &stride) {
                return None;
            }
            let start = usize::try_from(*offset).ok()?.checked_mul(number.size())?.checked_add(range.start)?;
            let entry = Entry::checked(*number, shape, start, range.end)?;
            Some(Value::Tensor(Entry { transposed, ..entry }.into()))
        }
        _ => None,
    }
}

fn row_major(shape: &[usize], stride: &[usize]) -> bool {
    let mut step = 1_usize;
    shape.len() == stride.len()
        && shape.iter().zip(stride).rev().all(|(&dim, &stride)| {
            let fits = dim == 1 || stride == step;
            step = step.saturating_mul(dim);
            fits
        })
}

fn integers(values: &[Value]) -> Option<Vec<usize>> {
    values.iter().map(|value| if let Value::Int(int) = value { usize::try_from(*int).ok() } else { None }).collect()
}
