//! Where the models compute, and whose turn it is.
//!
//! Enters: a wish to compute, with its urgency. Leaves: a device for each role; what launches kernels of our own there; permission,
//! one at a time. Never here: a model.

#[cfg(feature = "cuda")]
mod cuda;
mod gate;
mod launch;
#[cfg(feature = "cuda")]
mod recorded;

use candle_core::Device;

#[cfg(feature = "cuda")]
pub use cuda::CudaError;
pub use gate::{Gate, Permit, Urgency};
pub use launch::{Argument, Grid, Launcher, Part, Product, address};

/// What computes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::ValueEnum)]
pub enum Place {
    /// The processor.
    #[cfg_attr(not(feature = "cuda"), default)]
    Cpu,
    /// The first of NVIDIA's cards that is visible here.
    #[cfg(feature = "cuda")]
    #[default]
    Cuda,
}

impl Place {
    /// A device for one role.
    ///
    /// # Errors
    /// One sentence, if there is no such device, or it cannot be used.
    pub fn device(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(cuda::open()?),
        }
    }

    /// Has the process end when the device can compute no more: whoever started it moves its calls.
    ///
    /// # Errors
    /// One sentence, if the device cannot be used.
    pub fn watch(self) -> anyhow::Result<()> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(cuda::watch()?),
        }
    }
}

/// As long as what comes back lives, the shapes of which this thread tells a card's kernels stay on the card: candle copies each
/// there once, and not for every launch. They stay for good, so there must be few; and nothing else may be brought there
/// meanwhile, because that would stay, too.
pub(crate) fn keeping_shapes(device: &Device) -> impl Sized + use<> {
    #[cfg(feature = "cuda")]
    {
        device.as_cuda_device().ok().map(|card| card.enable_cuda_graph_htod_cache())
    }
    #[cfg(not(feature = "cuda"))]
    {
        device.is_cuda()
    }
}

/// What launches the kernels of `image`, as the compiler left them; none where there are only candle's.
///
/// # Errors
/// If the device does not take them.
#[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, reason = "a card may refuse"))]
pub(crate) fn launcher(device: &Device, image: &[u8]) -> anyhow::Result<Option<Box<dyn Launcher>>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => Ok(Some(Box::new(recorded::Recorder::new(device, image)?))),
        _ => {
            let _ = image;
            Ok(None)
        }
    }
}
