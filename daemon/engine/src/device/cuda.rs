//! The card: whether this engine can use it, and how candle is to.
//!
//! Enters: the first card that `CUDA_VISIBLE_DEVICES` lets be seen. Leaves: a candle device for each role that asks, or one
//! sentence that says what is missing. Never here: a model; whether a card is healthy, which the daemon looks at.

use std::ffi::c_int;
use std::time::Duration;
use std::{io, thread};

use candle_core::Device;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};

/// Compute capabilities that were compiled for, as `packaging/cuda/build.sh` was told; of the newest there is PTX, too.
const BUILT: &str = match option_env!("CALLBOX_CUDA_ARCHS") {
    Some(built) => built,
    None => "80",
};

/// candle's own kernels are PTX of this compute capability: nothing older runs them.
const OLDEST: c_int = 80;

/// A card that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no `libcuda.so.1`.
    #[error("the driver of NVIDIA's cards is missing: libcuda.so.1 was not found; install driver 580 or newer")]
    NoDriver,
    /// It compiles no code of this toolkit.
    #[error(
        "the driver of NVIDIA's cards is too old: it is for CUDA {}, this engine for CUDA {}; install driver 580 or newer",
        version(*.0),
        version(sys::CUDA_VERSION.cast_signed())
    )]
    OldDriver(c_int),
    /// It shows none.
    #[error(
        "the driver shows no card of NVIDIA's: if `nvidia-smi -L` does, CUDA_VISIBLE_DEVICES or DeviceAllow= hides it here"
    )]
    NoCard,
    /// Nothing that was compiled runs on it.
    #[error(
        "the card {name} has compute capability {}, and nothing in this engine runs on it: it was built for {}",
        capability(*.card),
        built().map(capability).collect::<Vec<_>>().join(", ")
    )]
    NoImage {
        /// As the driver calls it.
        name: String,
        /// Its compute capability, times ten.
        card: c_int,
    },
    /// It failed otherwise.
    #[error("the driver of NVIDIA's cards failed: {0}")]
    Driver(#[from] DriverError),
    /// Nobody can watch it.
    #[error("no thread can be had to watch the card: {0}")]
    Thread(#[source] io::Error),
    /// candle failed.
    #[error(transparent)]
    Device(#[from] candle_core::Error),
}

/// A device for one role. Tensors of two devices never meet, even on one card.
pub(super) fn open() -> Result<Device, CudaError> {
    usable()?;
    let device = CudaDevice::new_with_stream(0)?;
    // SAFETY: each device has a stream of its own, on which all that is made of the device is allocated, used and freed;
    // candle refuses tensors of another. So there are no two streams that events would have to keep apart.
    unsafe { device.disable_event_tracking() };
    keep_memory(&device)?;
    Ok(Device::Cuda(device))
}

/// Between two questions to the card whether it can still compute.
const LOOK: Duration = Duration::from_millis(500);

/// Ends the process when the card can compute no more. An error of the card, or of a kernel on it, stays with its context: all
/// that is asked for later fails with it, even nothing at all (CUDA driver API, "sticky errors").
pub(super) fn watch() -> Result<(), CudaError> {
    let device = CudaDevice::new_with_stream(0)?;
    let look = move || loop {
        thread::park_timeout(LOOK);
        if let Err(error) = device.cuda_stream().synchronize() {
            tracing::error!(%error, "the card computes no more: this engine ends");
            std::process::exit(1);
        }
    };
    thread::Builder::new().name("card".into()).spawn(look).map(drop).map_err(CudaError::Thread)
}

/// Freed memory stays with the process: by default the driver gives it back at every synchronisation, and asks anew.
fn keep_memory(device: &CudaDevice) -> Result<(), DriverError> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the card's number comes from its context, which lives; the pool is the card's own and is never destroyed; the
    // attribute is a u64, which is read before the call comes back.
    unsafe {
        let pool = result::device::get_mem_pool(context.cu_device())?;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
    }
}

/// Asks the driver, before candle does, what candle would say in words of its own.
fn usable() -> Result<(), CudaError> {
    let mut driver = 0;
    // SAFETY: writes one int to where it is told; may be called before all else.
    match unsafe { sys::cuDriverGetVersion(&raw mut driver) } {
        sys::CUresult::CUDA_SUCCESS => {}
        // So says what stands for the driver at the link (packaging/cuda/driver.c).
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => return Err(CudaError::NoDriver),
        error => return Err(DriverError(error).into()),
    }
    if driver < sys::CUDA_VERSION.cast_signed() {
        return Err(CudaError::OldDriver(driver));
    }
    let none = |error: &DriverError| error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE;
    match result::init() {
        Err(error) if none(&error) => return Err(CudaError::NoCard),
        outcome => outcome?,
    }
    if result::device::get_count()? == 0 {
        return Err(CudaError::NoCard);
    }
    let card = result::device::get(0)?;
    // SAFETY: the number comes from `device::get`.
    let ask = |attribute| unsafe { result::device::get_attribute(card, attribute) };
    let capability = 10 * ask(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
        + ask(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    if !runs_on(capability) {
        return Err(CudaError::NoImage { name: result::device::get_name(card)?, card: capability });
    }
    Ok(())
}

fn built() -> impl Iterator<Item = c_int> {
    BUILT.split_whitespace().filter_map(|arch| arch.parse().ok())
}

/// Machine code runs on later cards of its own generation, PTX on all later ones.
fn runs_on(card: c_int) -> bool {
    let same = built().any(|arch| arch / 10 == card / 10 && arch <= card);
    let newer = built().max().is_some_and(|newest| newest <= card);
    card >= OLDEST && (same || newer)
}

fn capability(times_ten: c_int) -> String {
    format!("{}.{}", times_ten / 10, times_ten % 10)
}

/// 13000 is 13.0.
fn version(number: c_int) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}
