//! What a command holds in memory, by what the system tells of the real binary.

use std::io::Read;
use std::process::{Child, Stdio};

use super::support::Home;

/// The most memory that `child`, which runs, had resident so far.
fn rss_peak_bytes(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the system tells it");
    let kilobytes = peak.trim().strip_suffix(" kB").expect("in kilobytes");
    kilobytes.parse::<u64>().expect("a number") * 1024
}

/// Runs `stk history` for quotes in `data`: the bytes it prints, and its peak of memory when all but
/// the last of them are out.
fn history(home: &Home, data: &str, more: &[&str]) -> (usize, u64) {
    // More than pipe and buffers hold: while it is not read, the program is not done.
    const LEFT: usize = 1 << 20;
    let symbols = ["AAPL", "MSFT", "NVDA", "QQQ", "SPY", "TSLA"];
    let asked = ["--kind", "quotes", "--format", "csv", "--data", data];
    let mut command = home.stk(&[&["history"], &symbols[..], &asked, more].concat());
    command.stderr(Stdio::null()).stdout(Stdio::piped());
    let count = |child: &mut Child, bytes: u64| {
        let out = child.stdout.as_mut().expect("it is piped");
        std::io::copy(&mut out.take(bytes), &mut std::io::sink()).expect("read") as usize
    };
    let mut whole = command.spawn().expect("the binary runs");
    let total = count(&mut whole, u64::MAX);
    assert_eq!(whole.wait().expect("it is ours").code(), Some(0));
    let mut again = command.spawn().expect("the binary runs");
    let read = count(&mut again, (total - LEFT) as u64);
    let peak = rss_peak_bytes(&again);
    assert_eq!(read + count(&mut again, u64::MAX), total);
    assert_eq!(again.wait().expect("it is ours").code(), Some(0));
    (total, peak)
}

/// Ten times the rows of a store come out of about the same memory.
#[test]
fn the_memory_of_history_does_not_grow_with_the_result() {
    let home = Home::new();
    let data = home.path("data").display().to_string();
    let market = ["--ticks", "600000", "--symbols", "6", "--rate", "100"];
    let stored = home.run(&[&["bench", "ingest", "--data", &data], &market[..]].concat());
    assert!(stored.starts_with("exit: 0\n"), "{stored}");
    // A peak also has what the allocator has not returned by then, which varies; what a program holds is in each.
    let least = |more: &[&str]| (0..3).map(|_| history(&home, &data, more)).min().expect("three runs");
    let (few, all) = (least(&["--limit", "50000"]), least(&[]));
    assert!(all.0 > 8 * few.0, "{few:?} {all:?}");
    let growth = all.1.saturating_sub(few.1);
    assert!(growth < (all.0 - few.0) as u64 / 4, "bytes printed and peaks of memory: {few:?} {all:?}");
}
