//! `stk watch`: the board, or lines where there is no terminal.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};

use super::{CliError, Global, ServerArgs};
use crate::market::Symbol;

#[derive(Args)]
pub(super) struct WatchArgs {
    /// Symbols to watch, or * for all
    #[arg(value_name = "SYMBOL", default_value = "*")]
    symbols: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print lines instead of the board (the default without a terminal is line)
    #[arg(long, value_name = "FORMAT")]
    format: Option<LineFormat>,
    /// Show only rows that match: a part of the symbol, or a comparison such as 'last<=5' or '%>1'
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// Column to sort by: symbol, last, change, percent, bid, ask, volume, age
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LineFormat {
    /// A JSON object a line, as Alpaca's stream has them
    Json,
    /// Comma-separated values with a header
    Csv,
    /// For people
    Line,
}
