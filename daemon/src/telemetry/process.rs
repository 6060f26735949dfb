//! Processes as the kernel sees them: this one, and the engine. Enters: `/proc`, read on each scrape; leaves: metrics. A file
//! that cannot be read costs its metric, never the page.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::base::Clock;

pub(super) struct Process {
    clock: Arc<dyn Clock>,
    started: Instant,
}

impl Process {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { started: clock.now(), clock }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let descriptor = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(value).encode(descriptor)
        };
        let uptime = self.clock.now().saturating_duration_since(self.started).as_secs_f64();
        gauge("process_uptime", "Time since the start", Some(&Unit::Seconds), Some(uptime))?;
        gauge("process_resident_memory", "Memory in RAM", Some(&Unit::Bytes), resident(OWN))?;
        gauge("process_open_fds", "Open file descriptors", None, descriptors())?;
        gauge("process_threads", "Threads", None, status(OWN, "Threads:"))?;
        if let Some(seconds) = cpu(OWN) {
            let help = "Processor time, user and system";
            let descriptor =
                encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
            ConstCounter::new(seconds).encode(descriptor)?;
        }
        Ok(())
    }
}

/// Its folder below `/proc`.
const OWN: &str = "self";

/// Memory in RAM and processor time in seconds of another process; none if there is none of that number.
#[must_use]
pub fn process(number: i32) -> Option<(f64, f64)> {
    let number = number.to_string();
    Some((resident(&number)?, cpu(&number)?))
}

/// The first number of a line of `proc_pid_status(5)`.
fn status(process: &str, key: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

fn resident(process: &str) -> Option<f64> {
    status(process, "VmRSS:").map(|kib| kib * 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn descriptors() -> Option<f64> {
    // One of them is the one that reads the folder.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64)
}

/// Fields 14 and 15 of `proc_pid_stat(5)`, in ticks.
fn cpu(process: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    // USER_HZ is 100 on every architecture that Linux and Rust share.
    Some(ticks / 100.0)
}
