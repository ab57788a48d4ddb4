//! `stk replay`: play a capture into a server, or straight into a store.

use std::path::{Path, PathBuf};
use std::time::Duration;

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
use crate::market::{Horizon, Symbol, Tick, TimeRange, Timestamp};
use crate::server::intake::{FeedRunError, IntakeMetrics, run_feed};
use crate::server::node::NodeError;
use crate::server::processor::ProcessorMetrics;
use crate::server::stores::Stores;
use crate::signals::StopSignals;
use crate::telemetry::say;
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
    #[arg(long, value_name = "SYMBOL", value_delimiter = ',', value_parser = super::symbol)]
    symbols: Vec<Symbol>,
    /// Play it again and again, each time as a new session later in time
    #[arg(long = "loop")]
    repeat: bool,
    /// Store the capture a second time, as a new session, though some or all of it is stored already
    #[arg(long)]
    again: bool,
    /// Where a running server takes ticks
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7879", conflicts_with = "data")]
    ingest: Endpoint,
    /// Write into this data directory, which no server may have open
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// How often a broken connection to the server is tried again before the replay ends.
const TRIES_MAX: u32 = 10;
/// How often progress is looked at.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

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
        let feed = IexFeed::open(&args.file, selection, args.speed).map_err(feed_error)?;
        let mut feed = feed.identified(args.again);
        let progress = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} ticks, {per_sec}") {
            progress.set_style(style);
        }
        let stop = CancellationToken::new();
        let signalled = {
            let (stop, mut signals) = (stop.clone(), StopSignals::listen());
            tokio::spawn(async move {
                signals.next().await;
                stop.cancel();
            })
        };
        let played = match &args.data {
            Some(dir) => into_store(&mut feed, dir, global, &stop, &progress).await,
            // A server refuses ticks that are too far ahead of its clock.
            None => into_server(&mut feed, args.ingest, &stop, &progress).await.map(|ticks| (ticks, 0)),
        };
        signalled.abort();
        progress.finish_and_clear();
        // Without a server nothing was read.
        if played.is_ok() || feed.tally().packets > 0 {
            say(in_words(feed.tally(), &args.file).trim_end());
        }
        let already_stored = feed.already_stored();
        if already_stored > 0 {
            say(format_args!(
                "{already_stored} ticks already stored; use --again to store them a second time"
            ));
        }
        let (ticks, ahead) = played?;
        say(format_args!("{ticks} ticks durable"));
        if stop.is_cancelled() {
            return Err(CliError::interrupted().hint("play it again to continue where it stopped"));
        }
        if args.again {
            say("stored as a new session (--again)");
        }
        if feed.doubtful() > 0 {
            return Err(CliError::failed(format!(
                "{} of the ticks already stored may not be: what was played before has too many holes to tell them apart",
                feed.doubtful()
            ))
            .hint("play this capture alone into an empty data directory (`--data`), and compare"));
        }
        // Everything else is durable, but the capture is not whole in the store.
        match (feed.tally().refused, ahead) {
            (0, 0) => Ok(()),
            (0, ahead) => Err(CliError::failed(format!(
                "{ahead} ticks were not stored: they are too far ahead of this machine's clock"
            ))
            .hint("set the clock, or server.ahead_ms_max, and play the capture into an empty directory")),
            (refused, _) => {
                Err(CliError::failed(format!("{refused} messages of the capture could not be read")))
            }
        }
    })
}

fn feed_error(error: FeedError) -> CliError {
    CliError::usage(error).hint("it takes captures of IEX TOPS 1.6 as pcap or pcapng, gzip or not")
}

/// A capture that can't be read to its end, of which `ticks` are durable.
fn broken_off(error: FeedError, ticks: u64) -> CliError {
    if matches!(error, FeedError::Stored { .. }) {
        return CliError::failed(error);
    }
    if ticks == 0 {
        return feed_error(error);
    }
    CliError::failed(error)
        .after(format_args!("the {ticks} ticks before that are durable"))
        .hint("mend the capture and play it again: what is stored already is not stored a second time")
}

/// Brings the ticks to a running server; returns how many it has made durable.
async fn into_server(
    feed: &mut IexFeed,
    endpoint: Endpoint,
    stop: &CancellationToken,
    progress: &ProgressBar,
) -> Result<u64, CliError> {
    let mut client = IngestClient::connect(endpoint, 0, 0, TRIES_MAX).await.map_err(not_taken)?;
    let mut ticks: Vec<Tick> = Vec::new();
    loop {
        ticks.clear();
        let pulled = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            pulled = feed.next(&mut ticks) => pulled,
        };
        match pulled {
            Ok(Pulled::Ticks) => {}
            Ok(Pulled::Asks(producer)) => match client.stored(producer).await {
                Ok(stored) => match feed.told(stored) {
                    Ok(()) => continue,
                    Err(error) => return Err(broken_off(error, client.acknowledged_ticks())),
                },
                Err(error) => return Err(ingest_error(error, &client)),
            },
            Ok(Pulled::End) => break,
            Err(error) => {
                if let Err(error) = client.flush().await {
                    return Err(ingest_error(error, &client));
                }
                return Err(broken_off(error, client.acknowledged_ticks()));
            }
        }
        // A feed that knows its messages again says where they belong.
        let origin = feed.origin().unwrap_or(Origin { producer: 0, sequence: 0 });
        if let Err(error) = client.send_as(origin, feed.follows(), &ticks).await {
            return Err(ingest_error(error, &client));
        }
        progress.inc(ticks.len() as u64);
    }
    match client.flush().await {
        Ok(()) => Ok(client.acknowledged_ticks()),
        Err(error) => Err(ingest_error(error, &client)),
    }
}

fn not_taken(error: IngestError) -> CliError {
    match error {
        IngestError::Unreachable { .. } => no_server(error, "--ingest"),
        _ => CliError::failed(error),
    }
}

/// The same once ticks may have been taken: it tells how many are known to be durable.
fn ingest_error(error: IngestError, client: &IngestClient) -> CliError {
    let error = not_taken(error);
    match client.acknowledged_ticks() {
        0 => error,
        ticks => error.after(format_args!("the {ticks} ticks before that are durable")),
    }
}

/// Writes the ticks through log and processor of this process; returns how many are durable, and how many
/// were dropped because they are too far ahead of the clock.
async fn into_store(
    feed: &mut IexFeed,
    dir: &Path,
    global: &Global,
    stop: &CancellationToken,
    progress: &ProgressBar,
) -> Result<(u64, u64), CliError> {
    let config = global.resolve(&[("data.dir", dir.display().to_string(), "--data")])?.config();
    let stores = Stores::open(&config).await.map_err(|error| match &error {
        NodeError::DataInUse { server: Some(_), .. } => CliError::in_use(&error)
            .hint("play it into the server that has it open: `--ingest` instead of `--data`"),
        _ => node_error(error),
    })?;
    let (processor, _hot) = stores.process(&config, ProcessorMetrics::default());
    let metrics = IntakeMetrics::default();
    let fed = {
        let intake = stores.intake(metrics.clone()).with_horizon(Horizon::ahead_of_clock(config.ahead_max));
        let mut fed = std::pin::pin!(run_feed(feed, intake, stop.clone()));
        let mut looks = tokio::time::interval(PROGRESS_PERIOD);
        loop {
            tokio::select! {
                fed = &mut fed => break fed,
                _ = looks.tick() => progress.set_position(metrics.ticks.get()),
            }
        }
    };
    let drained = processor.stop().await;
    drop(processor);
    stores.close().await;
    drained.map_err(|error| node_error(error.into()))?;
    match fed {
        Ok(fed) => Ok((fed.ticks, metrics.ahead.get())),
        // What the feed had brought before was waited for.
        Err(FeedRunError::Feed { source, .. }) => Err(broken_off(source, metrics.ticks.get())),
        Err(error) => Err(node_error(error.into())),
    }
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
    for (reason, count) in &tally.refused_reasons {
        out.push_str(&format!("  warning: could not be read: {count} with {reason}\n"));
    }
    let others = tally.refused - tally.refused_reasons.values().sum::<u64>();
    if others > 0 {
        out.push_str(&format!("  warning: could not be read: {others} for other reasons\n"));
    }
    if let Some(truncation) = &tally.truncation {
        out.push_str(&format!("  warning: {truncation}\n"));
    }
    out
}
