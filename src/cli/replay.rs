//! `stk replay`: play a capture into a server, or straight into a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::serve::node_error;
use super::server_args::no_server;
use super::{CliError, Global};
use crate::client::Endpoint;
use crate::client::ingest::{IngestClient, IngestError};
use crate::feed::iex::{IexFeed, Selection, Speed, Tally};
use crate::feed::{Feed, FeedError, Pulled};
use crate::market::{Symbol, TimeRange, Timestamp};
use crate::server::intake::{Intake, IntakeMetrics};
use crate::server::node::Stores;
use crate::server::processor::{self, Processor, ProcessorConfig, ProcessorMetrics};
use crate::tiering::hot::memory::MemoryHot;
use crate::wire::record::Origin;

#[derive(Args)]
pub(super) struct ReplayArgs {
    /// Capture in IEX-TP/TOPS 1.6: pcap or pcapng, gzip or not
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// 1 keeps the capture's own timing, 10 is ten times as fast, max does not wait at all
    #[arg(long, default_value = "1", value_name = "SPEED")]
    speed: Speed,
    /// Skip what is before: a day (in New York) or an instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = crate::market::parse_from)]
    from: Option<Timestamp>,
    /// Stop at: a day, whole, or an instant
    #[arg(long, value_name = "TIME", value_parser = crate::market::parse_to)]
    to: Option<Timestamp>,
    /// Play these symbols alone
    #[arg(long, value_name = "SYMBOL", value_delimiter = ',')]
    symbols: Vec<Symbol>,
    /// Play it again and again, each time as a new session later in time
    #[arg(long = "loop")]
    repeat: bool,
    /// Where a running server takes ticks
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7879", conflicts_with = "data")]
    ingest: Endpoint,
    /// Write into this data directory, which no server may have open
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// How often a broken connection to the server is tried again before the replay ends.
const TRIES_MAX: u32 = 10;
/// Batches written to a store of this process that may not be durable yet.
const IN_FLIGHT_MAX: usize = 64;

pub(super) fn run(args: ReplayArgs, global: &Global) -> Result<(), CliError> {
    crate::telemetry::init("warn", super::colour());
    super::runtime()?.block_on(async {
        let selection = Selection {
            range: TimeRange {
                from: args.from.unwrap_or(Timestamp::MIN),
                to: args.to.unwrap_or(Timestamp::MAX),
            },
            symbols: args.symbols.iter().copied().collect(),
            repeat: args.repeat,
        };
        let mut feed = IexFeed::open(&args.file, selection, args.speed).map_err(feed_error)?;
        let progress = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} ticks, {per_sec}") {
            progress.set_style(style);
        }
        let stop = CancellationToken::new();
        let signalled = {
            let stop = stop.clone();
            tokio::spawn(async move {
                super::stop_signal().await;
                stop.cancel();
            })
        };
        let played = match &args.data {
            Some(dir) => into_store(&mut feed, dir, global, &stop, &progress).await,
            None => into_server(&mut feed, args.ingest, &stop, &progress).await,
        };
        signalled.abort();
        progress.finish_and_clear();
        eprint!("{}", in_words(feed.tally(), &args.file));
        let ticks = played?;
        eprintln!("{ticks} ticks durable");
        if stop.is_cancelled() { Err(CliError::interrupted()) } else { Ok(()) }
    })
}

fn feed_error(error: FeedError) -> CliError {
    CliError::usage(error).hint("it takes captures of IEX TOPS 1.6 as pcap or pcapng, gzip or not")
}

/// A producer that no other replay is.
fn producer() -> u64 {
    Timestamp::now().nanos() as u64 ^ u64::from(std::process::id()).rotate_left(40)
}

/// The next ticks, or `None` at the end or once `stop` is cancelled.
async fn pull(
    feed: &mut IexFeed,
    ticks: &mut Vec<crate::market::Tick>,
    stop: &CancellationToken,
) -> Result<Option<()>, CliError> {
    ticks.clear();
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(None),
        pulled = feed.next(ticks) => match pulled.map_err(feed_error)? {
            Pulled::Ticks => Ok(Some(())),
            Pulled::End => Ok(None),
        },
    }
}

/// Brings the ticks to a running server; returns how many it has made durable.
async fn into_server(
    feed: &mut IexFeed,
    endpoint: Endpoint,
    stop: &CancellationToken,
    progress: &ProgressBar,
) -> Result<u64, CliError> {
    let mut client = IngestClient::connect(endpoint, producer(), 1, TRIES_MAX).await.map_err(ingest_error)?;
    let mut ticks = Vec::new();
    while pull(feed, &mut ticks, stop).await?.is_some() {
        client.send(&ticks).await.map_err(ingest_error)?;
        progress.inc(ticks.len() as u64);
    }
    client.flush().await.map_err(ingest_error)?;
    Ok(client.acknowledged_ticks())
}

fn ingest_error(error: IngestError) -> CliError {
    match error {
        IngestError::Unreachable { .. } => no_server(error),
        _ => CliError::failed(error),
    }
}

/// Writes the ticks through log and processor of this process; returns how many are durable.
async fn into_store(
    feed: &mut IexFeed,
    dir: &Path,
    global: &Global,
    stop: &CancellationToken,
    progress: &ProgressBar,
) -> Result<u64, CliError> {
    let config = global.resolve(&[("data.dir", dir.display().to_string(), "--data")])?.config();
    let stores = Stores::open(&config).await.map_err(node_error)?;
    let hot = Arc::new(MemoryHot::new(crate::bus::Bus::partitions(&*stores.bus)));
    let into = processor::Stores { bus: stores.bus.clone(), hot, warm: stores.warm.clone(), hot_files: None };
    let processor_config = ProcessorConfig { rows_max: config.rows_max, ..ProcessorConfig::default() };
    let processor = Processor::start(into, processor_config, ProcessorMetrics::default());
    let processor = processor.map_err(|error| node_error(error.into()))?;
    let mut intake = Intake::new(stores.bus.clone(), IntakeMetrics::default());
    let taken = take(feed, &mut intake, stop, progress).await;
    let drained = processor.stop().await.map_err(|error| node_error(error.into()));
    drop(processor);
    stores.close().await;
    drained.and(taken)
}

async fn take(
    feed: &mut IexFeed,
    intake: &mut Intake,
    stop: &CancellationToken,
    progress: &ProgressBar,
) -> Result<u64, CliError> {
    let bus_error = |error: crate::bus::BusError| node_error(error.into());
    let mut in_flight = std::collections::VecDeque::new();
    let mut origin = Origin { producer: producer(), sequence: 0 };
    let (mut ticks, mut durable_ticks) = (Vec::new(), 0);
    while pull(feed, &mut ticks, stop).await?.is_some() {
        origin.sequence += 1;
        let appended = intake.append(&ticks, origin).await.map_err(CliError::failed)?;
        in_flight.push_back((ticks.len() as u64, appended.durable));
        if in_flight.len() == IN_FLIGHT_MAX
            && let Some((count, durable)) = in_flight.pop_front()
        {
            durable.await.map_err(bus_error)?;
            durable_ticks += count;
        }
        progress.inc(ticks.len() as u64);
    }
    for (count, durable) in in_flight {
        durable.await.map_err(bus_error)?;
        durable_ticks += count;
    }
    Ok(durable_ticks)
}

/// What became of every message of a capture.
fn in_words(tally: &Tally, path: &Path) -> String {
    let mut out = format!(
        "{}: {} messages in {} packets: {} quotes, {} trades, {} trade breaks, {} statuses, {} closes\n",
        path.display(),
        tally.messages,
        tally.packets,
        tally.quotes,
        tally.trades,
        tally.cancels,
        tally.statuses,
        tally.prev_closes,
    );
    let mut line = |count: u64, what: &str| {
        if count > 0 {
            out.push_str(&format!("  {count} {what}\n"));
        }
    };
    let mut not_carried = Vec::new();
    for (kind, count) in (0..=u8::MAX).zip(tally.not_carried).filter(|(_, count)| *count > 0) {
        not_carried.push(format!("{} {}", count, char::from(kind).escape_default()));
    }
    line(
        tally.not_carried.iter().sum(),
        &format!("not carried, by message type: {}", not_carried.join(", ")),
    );
    line(tally.filtered, "passed over by --from, --to or --symbols");
    line(tally.duplicates, "dropped as duplicates");
    line(tally.missed, "missed in the capture, told as gaps");
    line(tally.refused, "could not be read");
    line(tally.packets_other, "packets are not of IEX");
    line(tally.packets_cut, "packets are cut short");
    line(tally.segments_damaged, "segments are damaged");
    if let Some(first) = &tally.refused_first {
        out.push_str(&format!("  warning: the first that could not be read: {first}\n"));
    }
    if let Some(truncation) = &tally.truncation {
        out.push_str(&format!("  warning: {truncation}\n"));
    }
    out
}
