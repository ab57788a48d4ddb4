//! Warm days into an archive: rows a second of processor time, memory, and bytes a row, column by
//! column; then one symbol's day out of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use futures_util::TryStreamExt;

use super::history::median;
use super::ingest::{MarketArgs, config, store};
use super::{CliError, Findings, Global, machine, rounded};
use crate::market::{Kind, Symbol, TimeRange, TradingDay};
use crate::tiering::archive::read::{ArchiveReader, SharedReadStats};
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::status::{archived, column_bytes};
use crate::tiering::archive::{ArchiveMetrics, ArchiveOptions, Clock};
use crate::tiering::cold::{self, Cold, ColdMetrics};
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};

#[derive(Args)]
pub(super) struct ArchiveArgs {
    #[command(flatten)]
    market: MarketArgs,
    /// A data directory whose closed days are archived, as `stk bench ingest --data` or `stk replay
    /// --data` left it (its rows stay); otherwise one is filled, and the memory that took is
    /// counted
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the archive is written: an empty directory or `s3://bucket/prefix`; otherwise a
    /// directory that is removed
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Whose quotes of the first day are read again; otherwise those of the simulated market's
    /// symbol of median activity
    #[arg(long, value_name = "SYMBOL")]
    symbol: Option<Symbol>,
}

pub(super) fn run(args: &ArchiveArgs, global: &Global) -> Result<Findings, CliError> {
    let temporary = tempfile::tempdir().map_err(CliError::failed)?;
    let dir = if let Some(dir) = &args.data {
        dir.clone()
    } else {
        let dir = temporary.path().join("data");
        store(&config(global, &dir)?, args.market.market()?)?;
        dir
    };
    let config = config(global, &dir)?;
    let url = args.url.clone().unwrap_or_else(|| temporary.path().join("cold").display().to_string());
    let endpoint = config.archive.s3_endpoint.as_deref();
    let asked = ColdMetrics::default();
    let cold = cold::open(&url, endpoint, &config.archive.s3_region, &asked).map_err(CliError::failed)?;
    let warm = LocalWarm::open(&dir.join("warm"), LocalWarmOptions { compaction: false })
        .map_err(CliError::failed)?;
    while warm.compact().map_err(CliError::failed)? {}
    let warm_bytes: u64 = warm.stats().iter().map(|kind| kind.bytes).sum();
    let options = ArchiveOptions {
        before: Some(TradingDay::from_days_since_epoch(i32::MAX / 1_000)),
        settle: std::time::Duration::ZERO,
        keep_days: u32::MAX,
        ..ArchiveOptions::default()
    };
    let archiver = Archiver::new(cold.clone(), warm, options, Clock::default(), ArchiveMetrics::default());
    let processor = || machine::cpu_seconds_of(std::process::id()).unwrap_or(0.0);
    let runtime = crate::cli::runtime()?;
    let (began, cpu) = (Instant::now(), processor());
    let summary = runtime.block_on(archiver.run(&(Arc::new(|_| {}) as _))).map_err(CliError::failed)?;
    let (elapsed, cpu) = (began.elapsed().as_secs_f64(), processor() - cpu);
    if let Some((_, error)) = summary.failures.first() {
        return Err(CliError::failed(error));
    }
    let mut findings = Findings::new("archive");
    findings.figure("rows_per_s_core", rounded(summary.rows as f64 / cpu.max(0.01)));
    findings.figure("rows_per_s", rounded(summary.rows as f64 / elapsed));
    findings.figure("rss_peak_bytes", machine::rss_peak_bytes());
    findings.figure("rows", summary.rows);
    findings.figure("bytes", summary.bytes);
    findings.figure("elapsed_s", rounded(elapsed));
    findings.figure("processor_s", rounded(cpu));
    findings.figure("warm_bytes", warm_bytes);
    runtime.block_on(by_column(&cold, &mut findings))?;
    let symbol = match args.symbol {
        Some(symbol) => Some(symbol),
        None => median(args.market.market()?).map(|(symbol, _)| symbol),
    };
    if let Some(symbol) = symbol {
        runtime.block_on(symbols_day(&cold, &asked, symbol, &mut findings))?;
    }
    match &args.data {
        Some(data) => findings.parameter("data", data.display().to_string()),
        None => args.market.tell(&mut findings),
    }
    findings.parameter("proof", "source digested, written, read back");
    Ok(findings)
}

/// Reads the quotes of `symbol` on the archive's first day, with nothing in memory from before.
async fn symbols_day(
    cold: &Arc<dyn Cold>,
    asked: &ColdMetrics,
    symbol: Symbol,
    findings: &mut Findings,
) -> Result<(), CliError> {
    let (requests, received) = (asked.requests_sent(), asked.bytes_received.get());
    let began = Instant::now();
    let (symbols, range) = ([Some(symbol)], TimeRange::ALL);
    let reader = Arc::new(ArchiveReader::new(cold.clone()));
    let snapshot = reader.snapshot(Kind::Quote, range).await.map_err(CliError::failed)?;
    let Some((day, _)) = snapshot.days().next() else { return Ok(()) };
    let files = snapshot.files(day).map_err(CliError::failed)?;
    let stored: u64 = files.iter().map(|file| file.file.bytes).sum();
    let files = files.into_iter().filter(|file| file.may_hold_any(Some(&symbols), range)).collect();
    let stats = SharedReadStats::default();
    let (ready, _) = reader.availability(files, &stats).await.map_err(CliError::failed)?;
    let mut batches = reader.scan(Kind::Quote, ready, Some(&symbols), range, stats.clone());
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.map_err(CliError::failed)? {
        rows += batch.len();
    }
    let ms = began.elapsed().as_secs_f64() * 1000.0;
    findings.figure("symbol_day_rows", rows);
    findings.figure("symbol_day_ms", rounded(ms));
    // A directory is not asked by requests: what is read of it is what the scan says.
    let sent = asked.requests_sent() - requests;
    let read = if sent > 0 {
        findings.figure("symbol_day_requests", sent);
        asked.bytes_received.get() - received
    } else {
        stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner).bytes_read
    };
    findings.figure("symbol_day_bytes", read);
    findings.figure("symbol_day_share_percent", rounded(read as f64 * 100.0 / stored.max(1) as f64));
    findings.parameter("symbol", symbol.as_str());
    Ok(())
}

/// What a kind takes.
#[derive(Default)]
struct Sizes {
    rows: u64,
    bytes: u64,
    columns: Vec<(String, u64)>,
}

/// Bytes a row, by kind and column.
async fn by_column(cold: &Arc<dyn Cold>, findings: &mut Findings) -> Result<(), CliError> {
    let mut kinds: BTreeMap<Kind, Sizes> = BTreeMap::new();
    for (unit, manifests) in archived(cold, |_| true).await.map_err(CliError::failed)? {
        let Sizes { rows, bytes, columns } = kinds.entry(unit.kind).or_default();
        for manifest in &manifests {
            *rows += manifest.digest.rows;
            *bytes += manifest.files.iter().map(|file| file.bytes).sum::<u64>();
            for (name, size) in column_bytes(cold, unit, manifest).await.map_err(CliError::failed)? {
                match columns.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += size,
                    None => columns.push((name, size)),
                }
            }
        }
    }
    for (kind, Sizes { rows, bytes, columns }) in kinds {
        let per_row = |bytes: u64| rounded(bytes as f64 / rows.max(1) as f64);
        let name = kind.name();
        findings.figure(&format!("{name}_rows"), rows);
        findings.figure(&format!("{name}_bytes_per_row"), per_row(bytes));
        let in_columns: u64 = columns.iter().map(|(_, size)| size).sum();
        for (column, size) in columns {
            findings.figure(&format!("{name}_{column}_bytes_per_row"), per_row(size));
        }
        findings.figure(&format!("{name}_footers_bytes_per_row"), per_row(bytes - in_columns));
    }
    Ok(())
}
