//! Where the time of a step goes: what the processor asks of the driver, how long that takes, how long the card computes.
//!
//! Enters: a step; leaves: counts and times. Never here: a step whose result is used.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use candle_core::Device;
use serde_json::{Value, json};

use crate::report::{Times, millis, now};

/// Where [`count`] sends a launch on to.
static LAUNCH: AtomicU64 = AtomicU64::new(0);
static LAUNCHES: AtomicU64 = AtomicU64::new(0);

// SAFETY: `driver.c` defines it, a pointer to a function at all times: to `no_driver` until the library was opened.
unsafe extern "C" {
    /// Where the jump that stands for `cuLaunchKernel` goes to (packaging/cuda/driver.c).
    static mut to_cuLaunchKernel: *mut c_void;
}

type Launch = unsafe extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

// SAFETY: called only by that jump, with the arguments of a `cuLaunchKernel`.
unsafe extern "C" fn count(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> c_int {
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
    let launch = LAUNCH.load(Ordering::Relaxed) as usize as *mut c_void;
    // SAFETY: `counted` put the driver's own function there, of this type, before it sent anybody here; the arguments are those
    // that it was given.
    unsafe {
        let launch: Launch = std::mem::transmute(launch);
        launch(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters, extra)
    }
}

/// Kernels that `run` launches itself; those inside NVIDIA's libraries do not come by here.
fn counted(run: impl FnOnce() -> Result<()>) -> Result<u64> {
    // SAFETY: a word that only the jump reads, in whole; nobody else writes it once the program runs. Until it is written back,
    // launches of all threads are counted and sent on.
    unsafe {
        LAUNCH.store(to_cuLaunchKernel as usize as u64, Ordering::Relaxed);
        to_cuLaunchKernel = count as *mut c_void;
    }
    LAUNCHES.store(0, Ordering::Relaxed);
    let ran = run();
    // SAFETY: as above.
    unsafe { to_cuLaunchKernel = LAUNCH.load(Ordering::Relaxed) as usize as *mut c_void };
    ran.map(|()| LAUNCHES.load(Ordering::Relaxed))
}

/// Of a step that brings nothing back: until all is asked for, and until all is computed.
pub(super) fn of(device: &Device, times: usize, mut step: impl FnMut() -> Result<()>) -> Result<Value> {
    let (mut asked, mut computed) = (Vec::new(), Vec::new());
    for _ in 0..times {
        device.synchronize()?;
        let started = now();
        step()?;
        asked.push(millis(started.elapsed()));
        device.synchronize()?;
        computed.push(millis(started.elapsed()));
    }
    let launches = counted(&mut step)?;
    device.synchronize()?;
    let (asked, computed) = (Times::from(asked), Times::from(computed));
    Ok(json!({
        "asked_for": asked.json(),
        "computed": computed.json(),
        "launches": launches,
        "asked_of_computed": asked.at(0.5) / computed.at(0.5),
    }))
}
