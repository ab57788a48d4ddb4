//! One symbol of median activity out of many stored rows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use foldhash::{HashMap, HashMapExt};
use futures_util::TryStreamExt;

use super::ingest::{MarketArgs, config, store};
use super::{CliError, Findings, Global, machine, rounded};
use crate::cli::serve::node_error;
use crate::config::Config;
use crate::feed::BATCH_TICKS_MAX;
use crate::feed::sim::{Sim, SimConfig};
use crate::market::{Kind, Symbol, TimeRange};
use crate::server::stores::Stores;
use crate::tiering::history::{HistoryQuery, HistoryStats};

#[derive(Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    market: MarketArgs,
    /// A directory that `stk bench ingest --data` filled with the same ticks, to be asked as it is;
    /// otherwise one is filled and its small segments merged, as a server does
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(args: &HistoryArgs, global: &Global) -> Result<Findings, CliError> {
    let market = args.market.market()?;
    let ticks = market.count.unwrap_or(0);
    let temporary = tempfile::tempdir().map_err(CliError::failed)?;
    let dir = if let Some(dir) = &args.data {
        dir.clone()
    } else {
        let dir = temporary.path().join("data");
        store(&config(global, &dir)?, market.clone())?;
        dir
    };
    let config = config(global, &dir)?;
    if args.data.is_none() {
        compact(&config)?;
    }
    let (symbol, ticks_of_symbol) =
        median(market).ok_or_else(|| CliError::failed("the market has no tick of a symbol"))?;
    let (opened, first, again) = crate::cli::runtime()?.block_on(async {
        let began = Instant::now();
        let stores = Stores::open_existing(&config).await.map_err(node_error)?;
        let opened = began.elapsed();
        let first = ask(&stores, symbol).await?;
        let again = ask(&stores, symbol).await?;
        stores.close().await;
        Ok::<_, CliError>((opened, first, again))
    })?;
    let warm = first.stats.warm;
    let ms = |time: Duration| rounded(time.as_secs_f64() * 1000.0);
    let mut findings = Findings::new("history");
    findings.figure("first_row_ms", ms(first.first_row));
    findings.figure("open_ms", ms(opened));
    findings.figure("all_rows_ms", ms(first.all_rows));
    findings.figure("first_row_again_ms", ms(again.first_row));
    findings.figure("rows", first.stats.rows);
    findings.figure("bytes_read", warm.bytes_read);
    findings.figure("bytes_stored", warm.bytes_stored);
    findings.figure(
        "share_read_percent",
        rounded(warm.bytes_read as f64 * 100.0 / warm.bytes_stored.max(1) as f64),
    );
    findings.figure("segments_read", warm.segments_read);
    findings.figure("segments", warm.segments_total);
    findings.figure("bytes_per_tick", rounded(warm.bytes_stored as f64 / ticks as f64));
    findings.figure("rss_peak_bytes", machine::rss_peak_bytes());
    findings.parameter("symbol", symbol.as_str());
    findings.parameter("ticks_of_symbol", ticks_of_symbol);
    args.market.tell(&mut findings);
    findings.parameter("page_cache", "warm: the files were just written");
    Ok(findings)
}

/// Merges small segments until none is due, as a server does by itself once the rush is over.
fn compact(config: &Config) -> Result<(), CliError> {
    crate::cli::runtime()?.block_on(async {
        let stores = Stores::open(config).await.map_err(node_error)?;
        let Some(warm) = stores.local_warm().cloned() else {
            return Err(CliError::usage("the bench is of warm in the data directory"));
        };
        while warm.compact().map_err(CliError::failed)? {}
        stores.close().await;
        Ok(())
    })
}

/// The symbol of median activity among those with ticks, and how many it has.
pub(super) fn median(market: SimConfig) -> Option<(Symbol, u64)> {
    let mut counts: HashMap<Symbol, u64> = HashMap::new();
    let mut sim = Sim::new(market);
    let mut ticks = Vec::with_capacity(BATCH_TICKS_MAX);
    let mut more = true;
    while more {
        more = sim.fill(&mut ticks, BATCH_TICKS_MAX);
        for symbol in ticks.drain(..).filter_map(|tick| tick.symbol()) {
            *counts.entry(symbol).or_default() += 1;
        }
    }
    let mut counts: Vec<(u64, Symbol)> = counts.into_iter().map(|(symbol, count)| (count, symbol)).collect();
    counts.sort_unstable();
    counts.get(counts.len() / 2).map(|(count, symbol)| (*symbol, *count))
}

struct Asked {
    first_row: Duration,
    all_rows: Duration,
    stats: HistoryStats,
}

async fn ask(stores: &Stores, symbol: Symbol) -> Result<Asked, CliError> {
    let query = HistoryQuery {
        symbols: vec![symbol],
        kind: Kind::Quote,
        timeframe: None,
        range: TimeRange::ALL,
        limit: None,
    };
    let began = Instant::now();
    let mut answer = stores.history().query(query).await.map_err(|error| node_error(error.into()))?;
    let mut first_row = None;
    while let Some(batch) = answer.rows.try_next().await.map_err(|error| node_error(error.into()))? {
        if !batch.is_empty() {
            first_row.get_or_insert_with(|| began.elapsed());
        }
    }
    let all_rows = began.elapsed();
    let stats = *answer.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Asked { first_row: first_row.unwrap_or(all_rows), all_rows, stats })
}
