//! Kernels of our own, asked for by name.
//!
//! Enters: addresses on a device, sizes. Leaves: the kernel is in the device's queue. Never here: what a kernel computes, or when
//! it is done.

use anyhow::{Result, bail};
use candle_core::{CpuStorage, DType, Storage, Tensor};

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// Where numbers lie on the device; 0: there are none.
    Address(u64),
    /// A count, or a size.
    Count(u32),
    /// A number.
    Number(f32),
}

/// In how many threads a kernel runs.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks, in three directions.
    pub blocks: [u32; 3],
    /// Threads of a block: whole warps.
    pub threads: u32,
    /// Bytes that a block's threads share, of which the kernel does not say itself how many.
    pub shared: u32,
}

/// Rows times a matrix, both of the same kind of numbers: `[rows][inputs]` times `[outputs][inputs]`, as f32.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Where the matrix lies.
    pub weight: u64,
    /// Where the rows lie.
    pub rows: u64,
    /// Where what comes out is to lie.
    pub out: u64,
    /// How many rows.
    pub count: u32,
    /// Numbers of a row.
    pub inputs: u32,
    /// Numbers of what comes out.
    pub outputs: u32,
    /// f32 or bf16.
    pub number: DType,
    /// Added to what lies there.
    pub add: bool,
}

/// A part of a step, which is asked for in the same way each time.
pub type Part<'a> = dyn FnMut(&mut dyn Launcher) -> Result<()> + 'a;

/// What kernels are asked of. All is computed in the order in which it was asked for.
pub trait Launcher: Send {
    /// Asks for a kernel.
    ///
    /// # Errors
    /// If there is none of this name, or the device refuses.
    ///
    /// # Safety
    /// The arguments must be the kernel's, in its order; what it reads and writes must stay where it is until it was computed.
    unsafe fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &[Argument]) -> Result<()>;

    /// Asks for a product.
    ///
    /// # Errors
    /// If the device refuses.
    ///
    /// # Safety
    /// As [`Launcher::launch`].
    unsafe fn multiply(&mut self, product: &Product) -> Result<()>;

    /// Asks for all that `part` asks for; or repeats what was asked for by the same `key` before, without asking again.
    ///
    /// # Errors
    /// If `part` fails, or the device.
    ///
    /// # Safety
    /// What is asked for by one key must be the same each time, addresses and sizes; and what lies there must stay for as long as
    /// this launcher lives.
    unsafe fn run(&mut self, key: u32, part: &mut Part) -> Result<()>;

    /// Whether what was asked for before is repeated without asking.
    fn records(&self) -> bool;
}

/// Where the numbers of a tensor lie, if they lie one after the other.
///
/// # Errors
/// If they do not, or are of a kind that no kernel of ours takes.
pub fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    if !layout.is_contiguous() {
        bail!("numbers that do not lie one after the other");
    }
    let start = match &*storage {
        Storage::Cpu(CpuStorage::F32(numbers)) => numbers.as_ptr() as u64,
        Storage::Cpu(CpuStorage::F16(numbers)) => numbers.as_ptr() as u64,
        Storage::Cpu(CpuStorage::BF16(numbers)) => numbers.as_ptr() as u64,
        Storage::Cpu(CpuStorage::U32(numbers)) => numbers.as_ptr() as u64,
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => super::recorded::start(storage)?,
        _ => bail!("numbers that no kernel takes"),
    };
    Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}
