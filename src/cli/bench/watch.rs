//! What the board costs: `stk watch` itself, in a terminal of its own, beside a server whose
//! simulated market has so many updates a second.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{CliError, Findings, Global, machine, rounded};
use crate::cli::serve::node_error;
use crate::server::node::Node;

#[derive(Args)]
pub(super) struct WatchArgs {
    /// Updates per second
    #[arg(long, value_name = "UPDATES", default_value_t = 10_000.0)]
    rate: f64,
    /// How many symbols trade
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    symbols: usize,
    /// How long it is measured, after a warm-up of two seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
}

const WARM_UP: Duration = Duration::from_secs(2);
const SIZE: Winsize = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };

pub(super) fn run(args: &WatchArgs, global: &Global) -> Result<Findings, CliError> {
    let dir = tempfile::tempdir().map_err(CliError::failed)?;
    let flags = [
        ("data.dir", dir.path().join("data").display().to_string(), "bench"),
        ("feed.sources", format!("sim:rate={},symbols={}", args.rate, args.symbols), "--rate, --symbols"),
        ("server.keys", String::new(), "bench"),
        ("server.listen", "127.0.0.1:0".to_owned(), "bench"),
        ("server.ingest_listen", "127.0.0.1:0".to_owned(), "bench"),
    ];
    let config = global.resolve(&flags)?.config();
    crate::cli::runtime()?.block_on(async {
        let node = Node::start(&config).await.map_err(node_error)?;
        let (mut board, drawn) = board(&node.address().to_string()).map_err(CliError::failed)?;
        let pid = board.id();
        let measured = async {
            tokio::time::sleep(WARM_UP).await;
            let gone = || CliError::failed("the board ended, or this system does not tell what it costs");
            let (began, messages, bytes) = (Instant::now(), node.messages(), drawn.load(Ordering::Relaxed));
            let cpu = machine::cpu_seconds_of(pid).ok_or_else(gone)?;
            tokio::time::sleep(Duration::from_secs(args.seconds)).await;
            let cpu = machine::cpu_seconds_of(pid).ok_or_else(gone)? - cpu;
            let seconds = began.elapsed().as_secs_f64();
            let per_s = |count: u64| rounded(count as f64 / seconds);
            let mut findings = Findings::new("watch");
            findings.figure("cpu_percent_of_core", rounded(cpu * 100.0 / seconds));
            findings.figure("messages_per_s", per_s(node.messages() - messages));
            findings.figure("terminal_bytes_per_s", per_s(drawn.load(Ordering::Relaxed) - bytes));
            findings.figure("rss_peak_bytes", machine::rss_peak_bytes_of(pid));
            findings.parameter("rate", rounded(args.rate));
            findings.parameter("symbols", args.symbols);
            findings.parameter("seconds", args.seconds);
            findings.parameter("terminal", "120 by 40");
            Ok(findings)
        };
        let findings = measured.await;
        // It is a process of this bench, whatever came of it.
        let _ = board.kill();
        let _ = board.wait();
        node.stop().await.map_err(node_error)?;
        findings
    })
}

/// Starts the board in a terminal whose other end is read to nowhere; how much it has drawn.
fn board(server: &str) -> std::io::Result<(Child, Arc<AtomicU64>)> {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    tcsetwinsize(&terminal, SIZE)?;
    let name = ptsname(&terminal, Vec::new())?;
    let end: OwnedFd = rustix::fs::open(
        name.as_c_str(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY,
        rustix::fs::Mode::empty(),
    )?;
    let board = Command::new(std::env::current_exe()?)
        .args(["watch", "--server", server])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::from(end.try_clone()?))
        .stdout(Stdio::from(end))
        .stderr(Stdio::null())
        .spawn()?;
    let drawn = Arc::new(AtomicU64::new(0));
    let counted = drawn.clone();
    std::thread::Builder::new().name("bench-terminal".to_owned()).spawn(move || {
        let mut terminal = std::fs::File::from(terminal);
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = terminal.read(&mut buffer) {
            counted.fetch_add(count as u64, Ordering::Relaxed);
        }
    })?;
    Ok((board, drawn))
}
