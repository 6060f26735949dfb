//! Brings a GGUF file's weights into the order in which the kernels read them: once, kept on disk, then read.
//!
//! Enters: a [`Gguf`], a folder for the result. Leaves: packed matrices and plain vectors. Never here: a result that
//! was half written, or made from another file: such a file is ignored and made anew.
//!
//! The file is named after the source's SHA-256 and [`VERSION`], and comes into being by a rename. Its head repeats
//! both, and gives its own length and hash. The source's hash is remembered beside it by length, time and inode,
//! because hashing a gigabyte costs every start most of a second.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use memmap2::{Advice, Mmap, MmapMut};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::gguf::{Gguf, TensorInfo};
use crate::kernels::Pool;
use crate::kernels::packed::{Format, LANES, Packed, SharedBytes, Source, pack, pack_f32};
use crate::kernels::pool::Parts;

/// Changes whenever the bytes of a packed file would.
pub const VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"CBXPACK\0";
/// Magic, version, length of the table, hash of the source, length of the file, hash of the table.
const HEAD: usize = 8 + 4 + 4 + 32 + 8 + 32;
const ALIGN: usize = 64;
/// Begins the name of what is being written; whoever writes it has a lock on it.
const PARTIAL: &str = ".import-";

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct Entry {
    name: String,
    /// [`Format::code`], or 0 for plain f32.
    format: u32,
    rows: usize,
    cols: usize,
    from: usize,
    len: usize,
}

struct Memory(Mmap);

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Weights in the kernels' order.
pub struct Imported {
    memory: Arc<Memory>,
    entries: HashMap<String, Entry>,
}

impl Imported {
    /// Finds the packed form of `gguf` (read from `path`) in the folder `cache`, or makes it there.
    ///
    /// # Errors
    /// If the folder cannot be written, or a tensor cannot be packed; one sentence.
    pub fn open(path: &Path, gguf: &Gguf, cache: &Path, pool: &Pool) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("cannot make the folder {}", cache.display()))?;
        sweep(cache).with_context(|| format!("cannot read the folder {}", cache.display()))?;
        let source = source_hash(path, gguf, cache)?;
        let packed = cache.join(format!("{}-v{VERSION}.pack", hex::encode(&source[..16])));
        if let Ok(imported) = Self::read(&packed, &source) {
            return Ok(imported);
        }
        tracing::info!(target = %packed.display(), "packing the model's weights, once");
        make(&packed, gguf, &source, pool).with_context(|| format!("cannot write {}", packed.display()))?;
        Self::read(&packed, &source).with_context(|| format!("cannot use {}", packed.display()))
    }

    /// Reads a packed file into huge pages: with 4 KiB pages of a mapped file, decoding is a fifth slower.
    fn read(path: &Path, source: &[u8; 32]) -> Result<Self> {
        let mut file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len())?;
        ensure!(len >= HEAD, "it is cut short");
        let mut memory = MmapMut::map_anon(len)?;
        // A kernel without huge pages is slower, not wrong.
        drop(memory.advise(Advice::HugePage));
        let (head, rest) = memory.split_at_mut(HEAD);
        file.read_exact(head)?;
        ensure!(&head[..8] == MAGIC && &head[16..48] == source, "it was made from another file");
        file.read_exact(rest)?;
        let memory = memory.make_read_only()?;
        let entries = check(&memory, source)?;
        Ok(Self { memory: Arc::new(Memory(memory)), entries })
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A matrix; its columns may have been padded with zeros.
    ///
    /// # Errors
    /// If it is missing, or has other sizes.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Packed> {
        let entry = self.entries.get(name).with_context(|| format!("the model has no tensor {name:?}"))?;
        let sizes = format!("{name:?} has {} × {} numbers, not {rows} × {cols}", entry.rows, entry.cols);
        let format = Format::from_code(entry.format).with_context(|| format!("{name:?} is not a matrix"))?;
        ensure!(entry.rows == rows && (entry.cols == cols || entry.cols == cols.next_multiple_of(ALIGN)), sizes);
        let bytes: SharedBytes = self.memory.clone();
        Packed::new(format, rows, entry.cols, bytes, entry.range()).context(sizes)
    }

    /// A vector.
    ///
    /// # Errors
    /// If it is missing, or has another length.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let entry = self.entries.get(name).with_context(|| format!("the model has no tensor {name:?}"))?;
        let (numbers, rest) = self.memory.0[entry.range()].as_chunks::<4>();
        let fits = entry.format == 0 && rest.is_empty() && numbers.len() == len;
        ensure!(fits, "{name:?} is not a vector of {len} numbers");
        Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

impl Entry {
    fn range(&self) -> Range<usize> {
        self.from..self.from + self.len
    }
}

fn check(bytes: &[u8], source: &[u8; 32]) -> Result<HashMap<String, Entry>> {
    let head = bytes.get(..HEAD).context("it is cut short")?;
    ensure!(&head[..8] == MAGIC && head[8..12] == VERSION.to_le_bytes(), "it is not of this version");
    ensure!(&head[16..48] == source, "it was made from another file");
    ensure!(head[48..56] == (bytes.len() as u64).to_le_bytes(), "it is cut short");
    let len = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
    let table = bytes.get(HEAD..HEAD + len).context("it is cut short")?;
    ensure!(Sha256::digest(table).as_slice() == &head[56..88], "its table is damaged");
    let table: Vec<Entry> = serde_json::from_slice(table)?;
    for entry in &table {
        let inside = entry.from.checked_add(entry.len).is_some_and(|end| end <= bytes.len());
        ensure!(inside, "{:?} ends after the file", entry.name);
    }
    Ok(table.into_iter().map(|entry| (entry.name.clone(), entry)).collect())
}

#[derive(Serialize, Deserialize, PartialEq, Eq, Clone)]
struct Known {
    len: u64,
    modified: (i64, i64),
    inode: u64,
    sha256: String,
}

fn source_hash(path: &Path, gguf: &Gguf, cache: &Path) -> Result<[u8; 32]> {
    let about = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut name = path.file_name().context("the model has no file name")?.to_owned();
    name.push(".sha256");
    let note = cache.join(name);
    let mut known = Known {
        len: about.len(),
        modified: (about.mtime(), about.mtime_nsec()),
        inode: about.ino(),
        sha256: String::new(),
    };
    let noted = fs::read(&note).ok().and_then(|bytes| serde_json::from_slice::<Known>(&bytes).ok());
    if let Some(noted) = noted {
        known.sha256.clone_from(&noted.sha256);
        let mut hash = [0; 32];
        if noted == known && hex::decode_to_slice(&noted.sha256, &mut hash).is_ok() {
            return Ok(hash);
        }
    }
    let hash: [u8; 32] = Sha256::digest(gguf.file()).into();
    known.sha256 = hex::encode(hash);
    let mut file = partial(cache)?;
    file.write_all(&serde_json::to_vec(&known)?)?;
    file.persist(&note)?;
    Ok(hash)
}

/// The block format that is kept, where it is kept.
fn kept(tensor: &TensorInfo) -> Option<Source> {
    let source = match tensor.dtype {
        GgmlDType::Q4_0 => Source::Q4_0,
        GgmlDType::Q4_1 => Source::Q4_1,
        GgmlDType::Q8_0 => Source::Q8_0,
        GgmlDType::Q4K => Source::Q4K,
        GgmlDType::Q6K => Source::Q6K,
        _ => return None,
    };
    source.format().block_bytes(tensor.cols).map(|_| source)
}

fn plan(gguf: &Gguf) -> Result<Vec<(Entry, &TensorInfo)>> {
    let mut tensors: Vec<_> = gguf.head().tensors.iter().collect();
    // In the order of the source, which is about the order of use.
    tensors.sort_by_key(|(_, tensor)| tensor.range.start);
    let mut from = 0_usize;
    let mut plan = Vec::new();
    for (name, tensor) in tensors {
        let (format, cols, len) = if tensor.vector {
            (0, tensor.cols, tensor.cols.checked_mul(4))
        } else {
            let (format, cols) = match kept(tensor) {
                Some(source) => (source.format(), tensor.cols),
                None => (Format::Q8, tensor.cols.next_multiple_of(ALIGN)),
            };
            (format.code(), cols, format.bytes(tensor.rows, cols))
        };
        let len = len.with_context(|| format!("{name:?} is too large"))?;
        plan.push((Entry { name: name.clone(), format, rows: tensor.rows, cols, from, len }, tensor));
        from = from.checked_add(len).context("the model is too large")?.next_multiple_of(ALIGN);
    }
    Ok(plan)
}

/// What is to be renamed when it is whole.
fn partial(folder: &Path) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder)?;
        file.as_file().lock()?;
        // A sweep that came before the lock took it for something dead.
        if file.as_file().metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Removes what those left who ended while they wrote.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PARTIAL);
        if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let abandoned = File::open(entry.path()).ok().filter(|file| file.try_lock().is_ok());
            if abandoned.is_some() && fs::remove_file(entry.path()).is_ok() {
                tracing::info!(file = %entry.path().display(), "removed what an import left that did not end");
            }
        }
    }
    Ok(())
}

fn make(path: &Path, gguf: &Gguf, source: &[u8; 32], pool: &Pool) -> Result<()> {
    let mut plan = plan(gguf)?;
    // The table's length depends on its numbers: leave room, then fill it with spaces, which JSON allows.
    let room = serde_json::to_vec(&plan.iter().map(|(entry, _)| entry).collect::<Vec<_>>())?.len() + plan.len() * 20;
    let data = (HEAD + room).next_multiple_of(4096);
    for (entry, _) in &mut plan {
        entry.from += data;
    }
    let mut table = serde_json::to_vec(&plan.iter().map(|(entry, _)| entry).collect::<Vec<_>>())?;
    table.resize(data - HEAD, b' ');
    let total = plan.last().map_or(data, |(entry, _)| entry.range().end);

    let folder = path.parent().context("no folder")?;
    let mut out = BufWriter::with_capacity(1 << 20, partial(folder)?);
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&u32::try_from(table.len())?.to_le_bytes())?;
    out.write_all(source)?;
    out.write_all(&(total as u64).to_le_bytes())?;
    out.write_all(&Sha256::digest(&table))?;
    out.write_all(&table)?;
    let mut at = data;
    for (entry, tensor) in plan {
        out.write_all(&[0; ALIGN][..entry.from - at])?;
        let bytes = packed(&entry, tensor, gguf.bytes(tensor), pool).with_context(|| entry.name.clone())?;
        ensure!(bytes.len() == entry.len, "{:?} came out at another length", entry.name);
        out.write_all(&bytes)?;
        at = entry.range().end;
    }
    let file = out.into_inner().map_err(|error| error.into_error())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn packed(entry: &Entry, tensor: &TensorInfo, raw: &[u8], pool: &Pool) -> Result<Vec<u8>> {
    let Some(format) = Format::from_code(entry.format) else {
        return Ok(plain(tensor, raw, 1)?.iter().flat_map(|x| x.to_le_bytes()).collect());
    };
    let mut bytes = vec![0; entry.len];
    let block = format.block_bytes(entry.cols).context("a width that does not fit")?;
    let row = raw.len() / tensor.rows;
    let out = Parts::new(&mut bytes);
    let failed = std::sync::Mutex::new(None);
    pool.run(tensor.rows.div_ceil(LANES), &|index| {
        // SAFETY: one block per piece.
        let out = unsafe { out.get(index * block, block) };
        let raw = &raw[index * LANES * row..((index + 1) * LANES * row).min(raw.len())];
        match kept(tensor) {
            Some(source) => pack(source, raw, entry.cols, out),
            None => match plain(tensor, raw, raw.len() / row) {
                Ok(values) => pack_f32(&values, tensor.cols, out),
                Err(error) => {
                    failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                }
            },
        }
    });
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(bytes),
    }
}

/// Rows of any format as plain numbers.
fn plain(tensor: &TensorInfo, raw: &[u8], rows: usize) -> Result<Vec<f32>> {
    let device = candle_core::Device::Cpu;
    let values = qtensor_from_ggml(tensor.dtype, raw, vec![rows, tensor.cols], &device)?;
    Ok(values.dequantize(&device)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_import_left_is_swept_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let dead = folder.path().join(format!("{PARTIAL}dead"));
        fs::write(&dead, "half").expect("written");
        let living = partial(folder.path()).expect("a file");
        sweep(folder.path()).expect("swept");
        assert!(!dead.exists() && living.path().exists());
    }
}
