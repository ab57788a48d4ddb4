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

/// The same of another process.
pub(in crate::cli) fn rss_peak_bytes_of(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    field_of(&path, "VmHWM").and_then(|text| kilobytes(&text)).unwrap_or(0)
}

/// Processor time that a process has taken so far, in seconds; `None` where the system does not
/// tell (proc(5): fields 14 and 15 of `stat`, in hundredths of a second on Linux).
pub(in crate::cli) fn cpu_seconds_of(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) / 100.0)
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
