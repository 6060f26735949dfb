//! Kernels on a card: loaded once, launched one by one or, when a step was asked for before, all at once from a recording.
//!
//! Enters: a step's launches, the image of its kernels. Leaves: a CUDA graph for each key, and its replays. Never here: the
//! addresses that a kernel writes to, which whoever asks answers for.

use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::cuda_backend::cudarc::cublas::{result as cublas, sys as blas};
use candle_core::cuda_backend::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaGraph, CudaModule, CudaSlice, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice};
use candle_core::{DType, Device};

use super::launch::{Argument, Grid, Launcher, Part, Product};

/// The kernels of an image, on one card's stream.
pub(super) struct Recorder {
    device: CudaDevice,
    module: Arc<CudaModule>,
    functions: HashMap<&'static str, CudaFunction>,
    recordings: HashMap<u32, Recording>,
}

/// How far a part of a step is from being repeated.
enum Recording {
    /// It ran: what is loaded or set up at the first time is.
    Ran,
    Kept(CudaGraph),
    /// It cannot be recorded: it is asked for one by one.
    Refused,
}

// SAFETY: a graph is not to be used by two threads at once; whoever has the recorder by `&mut` is the only one.
unsafe impl Send for Recorder {}

impl Recorder {
    pub(super) fn new(device: &Device, image: &[u8]) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let module = device.cuda_stream().context().load_module(Ptx::from_binary(image.to_vec()));
        let module = module.context("the card does not take the engine's own kernels")?;
        Ok(Self { device, module, functions: HashMap::new(), recordings: HashMap::new() })
    }

    fn record(&mut self, part: &mut Part) -> Result<CudaGraph> {
        let stream = self.device.cuda_stream();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let ran = part(self);
        // What cudarc has noted of a failure would keep it from ending the recording, and the stream as it is.
        let noted = stream.context().check_err();
        let graph = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        ran?;
        noted?;
        graph?.context("nothing was recorded")
    }
}

impl Launcher for Recorder {
    // SAFETY: the trait says what the caller answers for.
    unsafe fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &[Argument]) -> Result<()> {
        if !self.functions.contains_key(kernel) {
            let function = self.module.load_function(kernel).with_context(|| format!("there is no kernel {kernel}"))?;
            self.functions.insert(kernel, function);
        }
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&self.functions[kernel]);
        for argument in arguments {
            match argument {
                Argument::Address(address) => builder.arg(address),
                Argument::Count(count) => builder.arg(count),
                Argument::Number(number) => builder.arg(number),
            };
        }
        let [x, y, z] = grid.blocks;
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (grid.threads, 1, 1), shared_mem_bytes: grid.shared };
        // SAFETY: the caller answers for the arguments.
        unsafe { builder.launch(config) }.with_context(|| format!("the card refuses the kernel {kernel}"))?;
        Ok(())
    }

    // SAFETY: the trait says what the caller answers for.
    unsafe fn multiply(&mut self, product: &Product) -> Result<()> {
        let kind = match product.number {
            DType::F32 => blas::cudaDataType::CUDA_R_32F,
            DType::BF16 => blas::cudaDataType::CUDA_R_16BF,
            other => bail!("no product of {other:?}"),
        };
        let [count, inputs, outputs] = [product.count, product.inputs, product.outputs].map(c_int::try_from);
        let (count, inputs, outputs) = (count?, inputs?, outputs?);
        let (alpha, beta) = (1.0_f32, if product.add { 1.0_f32 } else { 0.0 });
        // By columns, as cuBLAS counts: [outputs][rows] is the matrix, turned, times the rows.
        // SAFETY: the caller answers for the addresses and sizes; both scalars are read before the call comes back, as the
        // handle reads them from the host.
        unsafe {
            cublas::gemm_ex(
                *self.device.cublas_handle().handle(),
                blas::cublasOperation_t::CUBLAS_OP_T,
                blas::cublasOperation_t::CUBLAS_OP_N,
                outputs,
                count,
                inputs,
                (&raw const alpha).cast(),
                product.weight as *const _,
                kind,
                inputs,
                product.rows as *const _,
                kind,
                inputs,
                (&raw const beta).cast(),
                product.out as *mut _,
                blas::cudaDataType::CUDA_R_32F,
                outputs,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .context("cuBLAS refuses a product")
    }

    // SAFETY: the trait says what the caller answers for.
    unsafe fn run(&mut self, key: u32, part: &mut Part) -> Result<()> {
        match self.recordings.get(&key) {
            Some(Recording::Kept(graph)) => return Ok(graph.launch()?),
            Some(Recording::Refused) => return part(self),
            None => {
                part(self)?;
                self.recordings.insert(key, Recording::Ran);
                return Ok(());
            }
            Some(Recording::Ran) => {}
        }
        match self.record(part) {
            Ok(graph) => {
                graph.launch()?;
                self.recordings.insert(key, Recording::Kept(graph));
                Ok(())
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the card records no step: each kernel is launched by itself"
                );
                self.recordings.insert(key, Recording::Refused);
                part(self)
            }
        }
    }

    fn records(&self) -> bool {
        true
    }
}

/// Where a storage begins.
pub(super) fn start(storage: &CudaStorage) -> Result<u64> {
    fn of<T>(slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(slice.stream()).0
    }
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => of(slice),
        CudaStorageSlice::F16(slice) => of(slice),
        CudaStorageSlice::BF16(slice) => of(slice),
        CudaStorageSlice::U32(slice) => of(slice),
        _ => bail!("numbers that no kernel takes"),
    })
}
