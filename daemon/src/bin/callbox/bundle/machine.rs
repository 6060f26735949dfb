//! Facts of the machine. Enters: `/proc` and a few programs, each within a time; leaves: JSON. What is not there is null.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use callbox::config::Config;
use serde_json::{Map, Value, json};
use tokio::process::Command;

/// Time for a program: `nvidia-smi` may hang on a driver that does.
const PATIENCE: Duration = Duration::from_secs(10);

/// Instructions that the kernels of the engine choose between.
const INSTRUCTIONS: [&str; 7] = ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni"];

/// What `nvidia-smi` is asked: no serial number, no identity.
const GPU: &str = "name,driver_version,memory.total,memory.used,utilization.gpu,temperature.gpu,pstate,\
                   clocks_event_reasons.active,ecc.errors.uncorrected.volatile.total";

/// What systemd is asked.
const UNIT: &str = "LoadState,ActiveState,SubState,Result,NRestarts,ExecMainCode,ExecMainStatus,ActiveEnterTimestamp,\
                    MemoryCurrent,MemoryPeak,TasksCurrent,NFileDescriptorStore";

pub(super) async fn facts(config: &Config) -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let flags = field("flags").unwrap_or_default();
    let has = |wanted: &&str| flags.split_whitespace().any(|flag| flag == *wanted);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory: Map<String, Value> = memory
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| ["MemTotal", "MemAvailable", "SwapTotal", "SwapFree", "HugePages_Total"].contains(key))
        .map(|(key, value)| (key.to_owned(), value.trim().into()))
        .collect();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"'));
    let disks: Map<String, Value> = [
        ("storage.path", &config.storage.path),
        ("storage.backups", &config.storage.backups),
        ("models.dir", &config.models.dir),
    ]
    .into_iter()
    .map(|(key, path)| (key.to_owned(), disk(path)))
    .collect();
    let query = format!("--query-gpu={GPU}");
    json!({
        "cpu": field("model name"),
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "instructions": INSTRUCTIONS.iter().filter(|name| has(name)).collect::<Vec<_>>(),
        "memory": memory,
        "kernel": line("/proc/sys/kernel/osrelease"),
        "system": release,
        "load": line("/proc/loadavg"),
        "uptime_seconds": line("/proc/uptime").and_then(|text| text.split(' ').next()?.parse::<f64>().ok()),
        "disks": disks,
        "gpus": program("nvidia-smi", &[&query, "--format=csv"]).await,
        "unit": program("systemctl", &["show", "callbox.service", "--property", UNIT]).await,
        "systemd": program("systemctl", &["--version"]).await.and_then(|text| text.lines().next().map(str::to_owned)),
        "espeak": program("espeak-ng", &["--version"]).await,
    })
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Bytes of the disk that a path is on, or will be.
fn disk(path: &Path) -> Value {
    match rustix::fs::statvfs(super::existing(path)) {
        Ok(disk) => json!({ "bytes": disk.f_blocks * disk.f_frsize, "free": disk.f_bavail * disk.f_frsize }),
        Err(_) => Value::Null,
    }
}

/// What a program prints; none if there is no such program, or it fails.
async fn program(name: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
