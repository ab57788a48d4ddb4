//! The machine a figure was measured on, and what a process used of it.

use serde_json::{Value, json};

/// Processor, cores, memory, kernel.
pub(in crate::cli) fn describe() -> Value {
    let cpu = field_of("/proc/cpuinfo", "model name").unwrap_or_default();
    let memory_bytes = field_of("/proc/meminfo", "MemTotal").and_then(|text| kilobytes(&text)).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let os = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": cpu,
        "cores": cores,
        "memory_bytes": memory_bytes,
        "os": format!("{} {}", std::env::consts::OS, os.trim()),
    })
}

/// The most memory this process had resident so far, in bytes; 0 where the system does not tell.
pub(in crate::cli) fn rss_peak_bytes() -> u64 {
    field_of("/proc/self/status", "VmHWM").and_then(|text| kilobytes(&text)).unwrap_or(0)
}

/// The value of the first line `name : value` of a file of the system.
fn field_of(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn kilobytes(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
