//! What the machine says of itself. Enters: a device; leaves: names, sizes, clocks. Never here: a change of any of them.

use std::fs;

use anyhow::Result;
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};
use serde_json::{Value, json};

/// Bytes per second that the vendor's sheet gives a card's memory, by a word of its name.
const SHEETS: [(&str, f64); 3] = [("H200", 4.8e12), ("H100", 3.35e12), ("L4", 0.3e12)];

/// Everything that says what the figures are true of.
pub(crate) fn about(device: &Device) -> Value {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut about = json!({ "processor": processor.trim_start_matches(['\t', ':', ' ']), "cores": cores });
    if let Device::Cuda(cuda) = device {
        let stream = cuda.cuda_stream();
        about["card"] = card(stream.context()).unwrap_or_else(|error| json!({ "error": error.to_string() }));
    }
    about
}

fn card(context: &CudaContext) -> Result<Value> {
    let ask = |attribute| context.attribute(attribute).unwrap_or_default();
    let mut version = 0;
    // SAFETY: writes one int to where it is told.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    let name = context.name()?;
    let (free, total) = context.mem_get_info()?;
    Ok(json!({
        "name": name,
        "driver": fs::read_to_string("/proc/driver/nvidia/version").ok().and_then(|text| text.lines().next().map(str::to_owned)),
        "driver_is_for_cuda": format!("{}.{}", version / 1000, version % 1000 / 10),
        "compute_capability": format!(
            "{}.{}",
            ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        ),
        "multiprocessors": ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        "l2_mib": ask(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE) >> 20,
        "memory_mib": total >> 20,
        "memory_free_mib": free >> 20,
        "memory_bus_bits": ask(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
        "clock_mhz_at_most": ask(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE) / 1000,
        "memory_clock_mhz_at_most": ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE) / 1000,
        "sheet_gb_per_s": sheet(&name).map(|rate| rate / 1e9),
    }))
}

fn sheet(name: &str) -> Option<f64> {
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    SHEETS.iter().find(|(card, _)| words().any(|word| word == *card)).map(|(_, rate)| *rate)
}

/// Bytes per second of the card's memory by its sheet, or by its clock and its bus where it is not in the list; two transfers
/// in a cycle. A processor tells none.
pub(crate) fn bandwidth(device: &Device) -> Option<f64> {
    let Device::Cuda(cuda) = device else { return None };
    let stream = cuda.cuda_stream();
    let context = stream.context();
    let ask = |attribute| context.attribute(attribute).map_or(0.0, f64::from);
    let by_clock = 2.0 * 1000.0 * ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE) / 8.0
        * ask(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
    context.name().ok().and_then(|name| sheet(&name)).or(Some(by_clock))
}
