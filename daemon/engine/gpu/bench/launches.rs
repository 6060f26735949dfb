//! Where the time of a step goes: what the processor asks of the driver, how long that takes, how long the card computes.
//!
//! Enters: a step; leaves: counts and times. Never here: a step whose result is used.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUgraphNode, CUgraphNodeType, CUstreamCaptureMode, cuGraphGetNodes, cuGraphNodeGetType,
};
use serde_json::{Map, Value, json};

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
        "launches_of_candle": launches,
        "asked_of_computed": asked.at(0.5) / computed.at(0.5),
    }))
}

/// The step as a graph, if it can be recorded: what is in it, and how long it takes when nothing has to be asked for.
pub(super) fn recorded(device: &Device, times: usize, step: impl FnMut() -> Result<()>) -> Value {
    let Device::Cuda(_) = device else { return json!({ "recorded": false, "why": "only a card records" }) };
    record(device, times, step).unwrap_or_else(|error| json!({ "recorded": false, "why": format!("{error:#}") }))
}

fn record(device: &Device, times: usize, mut step: impl FnMut() -> Result<()>) -> Result<Value> {
    let cuda = device.as_cuda_device()?;
    let stream = cuda.cuda_stream();
    // What is copied to the card lies there from the second time on, so that no copy is recorded whose source is gone.
    let _cached = cuda.enable_cuda_graph_htod_cache();
    for _ in 0..2 {
        step()?;
    }
    device.synchronize()?;
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let ran = step();
    // Also where the step failed: else the stream stays as it is.
    let graph = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    ran?;
    let graph = graph?.context("nothing was recorded")?;
    let nodes = nodes(&graph)?;
    let replayed = Times::of(device, 3, times, || Ok(graph.launch()?))?;
    let mut said = replayed.json();
    said["recorded"] = json!(true);
    said["nodes"] = nodes;
    Ok(said)
}

/// How many there are of each kind.
fn nodes(graph: &CudaGraph) -> Result<Value> {
    let mut count = 0;
    // SAFETY: with no list given, only the count is written.
    unsafe { cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &raw mut count) }.result()?;
    let mut list: Vec<CUgraphNode> = vec![std::ptr::null_mut(); count];
    // SAFETY: the list has room for as many as were said to be there, and nobody changes the graph.
    unsafe { cuGraphGetNodes(graph.cu_graph(), list.as_mut_ptr(), &raw mut count) }.result()?;
    let mut kinds: Map<String, Value> = Map::new();
    for node in list {
        let mut kind = CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
        // SAFETY: a node of a graph that lives; one number is written.
        unsafe { cuGraphNodeGetType(node, &raw mut kind) }.result()?;
        let name = format!("{kind:?}").trim_start_matches("CU_GRAPH_NODE_TYPE_").to_lowercase();
        let before = kinds.get(&name).and_then(Value::as_u64).unwrap_or_default();
        kinds.insert(name, json!(before + 1));
    }
    Ok(json!(kinds))
}
