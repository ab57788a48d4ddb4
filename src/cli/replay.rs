//! `stk replay`: play a capture into a server, or straight into a store.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Global};
use crate::market::{Symbol, Timestamp};

#[derive(Args)]
pub(super) struct ReplayArgs {
    /// Capture in IEX-TP/TOPS 1.6: pcap or pcapng, gzip or not
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// 1 keeps the capture's own timing, 10 is ten times as fast, max does not wait at all
    #[arg(long, default_value = "1", value_name = "SPEED")]
    speed: String,
    /// Skip what is before: a day or an instant
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
    ingest: String,
    /// Write into this data directory, which no server may have open
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}
