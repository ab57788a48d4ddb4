//! `stk history`: trades, quotes and bars of the past.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{CliError, Global, ServerArgs};
use crate::market::{Symbol, Timeframe, Timestamp};

#[derive(Args)]
pub(super) struct HistoryArgs {
    /// Symbols
    #[arg(value_name = "SYMBOL", required = true)]
    symbols: Vec<Symbol>,
    /// First day (2025-01-01, in New York) or instant (RFC 3339); without it, the beginning
    #[arg(long, value_name = "TIME", value_parser = crate::market::parse_from)]
    from: Option<Timestamp>,
    /// Last day, whole, or instant, exclusive; without it, now
    #[arg(long, value_name = "TIME", value_parser = crate::market::parse_to)]
    to: Option<Timestamp>,
    /// What to list
    #[arg(long, value_enum, default_value_t = Kind::Trades)]
    kind: Kind,
    /// Length of the bars: 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or 1, 2, 3, 6, 12Month
    #[arg(long, value_name = "SPAN", default_value = "1Min")]
    timeframe: Timeframe,
    /// Form of the output; table on a terminal, else csv
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// At most so many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Say on stderr what was read: bytes, segments, time to the first row
    #[arg(long)]
    stats: bool,
    /// Read this data directory, which no server may have open, instead of asking a server
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Trades,
    Quotes,
    Bars,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
    Ndjson,
    Parquet,
    Arrow,
}
