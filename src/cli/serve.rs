//! `stk serve`: take ticks in, store them, serve them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::{CliError, Global};
use crate::backoff::{Backoff, jitter_seed};
use crate::bus::BusError;
use crate::config::Config;
use crate::server::fault::Fault;
use crate::server::node::{Node, NodeError, Summary};
use crate::server::standin::{self, ReopenMetrics};
use crate::signals::StopSignals;
use crate::telemetry::say;
use crate::tiering::warm::WarmError;

#[derive(Args)]
pub(super) struct ServeArgs {
    /// A feed: sim, sim:rate=1000,seed=7,symbols=500, iex:FILE, or kafka:FILE.toml (may be repeated)
    #[arg(long, value_name = "FEED")]
    feed: Vec<String>,
    /// What this process does: feed, processor, gateway, archiver, separated by commas; all of them
    /// if not given. Fewer share Kafka, ClickHouse and Redis with other processes
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    roles: Vec<String>,
    /// Directory that holds everything stored
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address and port for clients
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address and port for programs that bring ticks, on loopback
    #[arg(long, value_name = "ADDR")]
    ingest_listen: Option<String>,
    /// Serve everybody who reaches the address, without keys
    #[arg(long)]
    allow_anonymous: bool,
}

/// Why a server ends.
enum End {
    /// A person or a supervisor asked for it.
    Asked,
    /// It can't continue, for this reason.
    Failed(String),
    /// Its stores are to be opened again, for this reason.
    Reopen(&'static str),
}

/// A server that has run for so long counts as well: it is started again without a long wait.
const WELL_AFTER: Duration = Duration::from_mins(10);
/// Starts in a row that may fail, or be followed by another fault within [`WELL_AFTER`], before the process
/// ends with the error: about two minutes. A full disk is waited for without end.
const STARTS_MAX: u32 = 20;

pub(super) fn run(args: ServeArgs, global: &Global) -> Result<(), CliError> {
    let mut flags = Vec::new();
    if !args.feed.is_empty() {
        flags.push(("feed.sources", args.feed.join("\n"), "--feed"));
    }
    if !args.roles.is_empty() {
        flags.push(("server.roles", args.roles.join("\n"), "--roles"));
    }
    if let Some(dir) = &args.data {
        flags.push(("data.dir", dir.display().to_string(), "--data"));
    }
    if let Some(listen) = args.listen {
        flags.push(("server.listen", listen, "--listen"));
    }
    if let Some(listen) = args.ingest_listen {
        flags.push(("server.ingest_listen", listen, "--ingest-listen"));
    }
    if args.allow_anonymous {
        flags.push(("server.allow_anonymous", "yes".to_owned(), "--allow-anonymous"));
    }
    let resolved = global.resolve(&flags)?;
    super::check_access(&resolved)?;
    let config = resolved.config();
    crate::telemetry::init("warn,stk=info", super::colour());
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(serve(config));
    if outcome.is_err() {
        // What is still at work after a second signal has threads of its own: they would find the runtime gone.
        std::mem::forget(runtime);
    }
    outcome
}

/// Serves until somebody asks for the end. After a fault that may pass, the stores are closed and opened
/// again in this process.
async fn serve(mut config: Config) -> Result<(), CliError> {
    // From here to the end: a signal that comes in between two waits is not lost.
    let mut signals = StopSignals::listen();
    let mut backoff = Backoff::new(jitter_seed());
    let metrics = ReopenMetrics::default();
    let mut is_again = false;
    loop {
        let started = tokio::select! {
            started = Node::start_counted(&config, &metrics) => started,
            signal = signals.next() => return Err(interrupted_start(signal)),
        };
        let mut node = match started {
            Ok(node) => node,
            Err(error) if is_again && may_try(&error, &backoff) => {
                metrics.failures.inc();
                wait(&config, Some(error), &metrics, &mut backoff, &mut signals).await?;
                continue;
            }
            Err(error) => return Err(serve_error(error)),
        };
        for line in node.describe() {
            say(line);
        }
        let started_at = Instant::now();
        let may_reopen = node.may_reopen();
        let end = tokio::select! {
            signal = signals.next() => {
                say(format_args!("{signal}: making everything durable; SIGINT or SIGTERM now ends at once"));
                End::Asked
            }
            reason = node.failed() => End::Failed(reason),
            reason = may_reopen => End::Reopen(reason),
        };
        // Whoever was connected finds the server where it was.
        config.listen = node.address();
        config.ingest_listen = node.ingest_address().or(config.ingest_listen);
        match &end {
            End::Asked => {}
            End::Failed(reason) => tracing::error!(reason, "the server can't continue"),
            End::Reopen(reason) => say(format_args!("{reason}: the stores are opened again")),
        }
        let drained = tokio::select! {
            drained = node.stop() => drained,
            _ = signals.insist() => return Err(CliError::interrupted()),
        };
        if started_at.elapsed() > WELL_AFTER {
            backoff.reset();
        }
        let fault = match (end, drained) {
            (End::Asked, Ok(summary)) => {
                say(in_words(&summary));
                return Ok(());
            }
            (End::Asked, Err(error)) => return Err(serve_error(error)),
            (End::Failed(reason), Ok(_)) => return Err(CliError::failed(reason)),
            (End::Failed(_), Err(error)) if !may_try(&error, &backoff) => return Err(serve_error(error)),
            (End::Failed(_), Err(error)) => {
                say("the stores are opened again");
                Some(error)
            }
            (End::Reopen(_), Ok(_)) => None,
            (End::Reopen(_), Err(error)) => {
                tracing::warn!(%error, "not everything ended in good order");
                None
            }
        };
        metrics.reopens.inc();
        is_again = true;
        wait(&config, fault, &metrics, &mut backoff, &mut signals).await?;
    }
}

/// Whether the stores may be opened once more after `error`.
fn may_try(error: &NodeError, backoff: &Backoff) -> bool {
    match error.fault() {
        Fault::DiskFull => true,
        Fault::Passing => backoff.tries() < STARTS_MAX,
        Fault::Lasting => false,
    }
}

/// Waits before the stores are opened again, and meanwhile answers that they are closed, and why.
async fn wait(
    config: &Config,
    fault: Option<NodeError>,
    metrics: &ReopenMetrics,
    backoff: &mut Backoff,
    signals: &mut StopSignals,
) -> Result<(), CliError> {
    let wait = backoff.next();
    let reason = fault.as_ref().map_or("the stores are opened again".to_owned(), ToString::to_string);
    if fault.is_some() {
        tracing::warn!(reason, wait_ms = wait.as_millis() as u64, "the stores are opened again after a wait");
    }
    let waited = async {
        tokio::select! {
            () = tokio::time::sleep(wait) => None,
            signal = signals.next() => Some(signal),
        }
    };
    match (standin::serve(config.listen, reason, metrics, waited).await, fault) {
        (None, _) => Ok(()),
        (Some(signal), None) => Err(interrupted_start(signal)),
        (Some(_), Some(error)) => Err(serve_error(error)),
    }
}

fn interrupted_start(signal: &str) -> CliError {
    say(format_args!("{signal} before the server had started"));
    CliError::interrupted()
}

/// What a server did, for a person.
pub(super) fn in_words(summary: &Summary) -> String {
    let Summary { ticks, rows, messages, ran } = summary;
    format!(
        "done after {:.1} s: {ticks} ticks taken in and durable, {rows} rows stored in warm, {messages} messages sent",
        ran.as_secs_f64()
    )
}

/// Why `stk serve` did not start or did not end well, with what to do about it.
fn serve_error(error: NodeError) -> CliError {
    match &error {
        NodeError::PortInUse { .. } => CliError::in_use(&error).hint(
            "choose another with `--listen` or `--ingest-listen` (port 0 takes a free one), or end the program that \
             has it",
        ),
        NodeError::DataInUse { .. } => CliError::in_use(&error)
            .hint("end the process that has it open, or choose another directory with `--data`"),
        _ => node_error(error),
    }
}

/// A server or store that could not be had or did not end well, with what to do about it.
pub(super) fn node_error(error: NodeError) -> CliError {
    match &error {
        NodeError::PortInUse { .. } => CliError::in_use(&error).hint("end the program that has it"),
        NodeError::DataInUse { .. } => {
            CliError::in_use(&error).hint("wait until that process has ended, or use another directory")
        }
        NodeError::NoStore { .. } => {
            CliError::usage(&error).hint("name the directory that `stk serve` or `stk replay --data` wrote")
        }
        NodeError::Bus(BusError::Missing { .. }) => {
            CliError::usage(&error).hint("check log.kafka_topic, or start `stk serve`, which makes it")
        }
        NodeError::Warm(WarmError::Missing { .. }) => CliError::usage(&error)
            .hint("check warm.clickhouse_url and warm.clickhouse_database, or start `stk serve`, which makes it"),
        NodeError::Roles { .. } => {
            CliError::usage(&error).hint("set them in the configuration file, or let one process have all roles")
        }
        NodeError::Source(_) | NodeError::Feed(_) => CliError::usage(&error),
        NodeError::NewLog { .. } => CliError::failed(&error).hint(
            "start it again when the archive answers, or set archive.url to another place: beside an archive, a new log \
             continues after the archived rows",
        ),
        NodeError::LogAway { .. } => CliError::failed(&error).hint(
            "start it again when the log answers: what was acknowledged is in it, and what was not its producers keep",
        ),
        _ if error.is_disk_full() => CliError::failed(&error)
            .hint("free some space and start again, or lower log.free_bytes_min: what was accepted is there"),
        _ if error.is_damage() => {
            CliError::failed(&error).hint(
                "`stk audit --repair` shows what it can rebuild from the other tiers; nothing was changed",
            )
        }
        _ => CliError::failed(&error),
    }
}
