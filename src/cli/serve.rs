//! `stk serve`: take ticks in, store them, serve them.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Global};
use crate::server::node::{Node, NodeError};

#[derive(Args)]
pub(super) struct ServeArgs {
    /// A feed: sim, sim:rate=1000,seed=7,symbols=500, or iex:FILE (may be repeated)
    #[arg(long, value_name = "FEED")]
    feed: Vec<String>,
    /// Directory that holds everything stored
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address and port for clients
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address and port for programs that bring ticks, on loopback
    #[arg(long, value_name = "ADDR")]
    ingest_listen: Option<String>,
}

pub(super) fn run(args: ServeArgs, global: &Global) -> Result<(), CliError> {
    let mut flags = Vec::new();
    if !args.feed.is_empty() {
        flags.push(("feed.sources", args.feed.join("\n"), "--feed"));
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
    let config = global.resolve(&flags)?.config();
    crate::telemetry::init("info", global.colour());
    super::runtime()?.block_on(async {
        let node = Node::start(&config).await.map_err(start_error)?;
        for line in node.describe() {
            eprintln!("{line}");
        }
        let ended = tokio::select! {
            signal = super::stop_signal() => {
                eprintln!("{signal}: making everything durable; a second one ends at once");
                Ok(())
            }
            failure = node.failed() => Err(CliError::failed(failure)),
        };
        let drained = tokio::select! {
            drained = node.stop() => drained.map_err(CliError::failed),
            _ = super::stop_signal() => return Err(CliError::interrupted()),
        };
        let summary = drained?;
        eprintln!("{summary}");
        ended
    })
}

/// A failed start, with what to do about it.
pub(super) fn start_error(error: NodeError) -> CliError {
    match &error {
        NodeError::PortInUse { .. } => {
            CliError::in_use(&error).hint("choose another with `--listen 127.0.0.1:0`, or end the program that holds it")
        }
        NodeError::DataInUse { .. } => CliError::in_use(&error)
            .hint("a server has it open: go through that with `--server`, or choose another directory with `--data`"),
        NodeError::DiskFull { .. } => {
            CliError::failed(&error).hint("free some space, or lower log.free_bytes_min")
        }
        NodeError::Source(_) | NodeError::Feed(_) | NodeError::Partitions { .. } => CliError::usage(&error),
        _ => CliError::failed(&error),
    }
}
