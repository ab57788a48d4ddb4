//! `stk watch`: the board, or lines where there is no terminal.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::CliError;
use super::server_args::{ServerArgs, stream_error};
use crate::client::stream::{Stream, Wanted};
use crate::market::Symbol;
use crate::tui::lines::{Format, LinesError};
use crate::tui::{self, BoardOptions, Column, Ended, Filter};

#[derive(Args)]
pub(super) struct WatchArgs {
    /// Symbols to watch, or * for all
    #[arg(value_name = "SYMBOL", default_value = "*")]
    symbols: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print lines instead of the board; without a terminal the default is line
    #[arg(long, value_name = "FORMAT")]
    format: Option<LineFormat>,
    /// Show only rows that match: a part of the symbol, or a comparison such as 'last<=5' or '%>1'
    #[arg(long, value_name = "EXPR")]
    filter: Option<Filter>,
    /// Column to sort by
    #[arg(long, value_name = "COLUMN", value_parser = sort_column)]
    sort: Option<Column>,
    /// End after this long, such as 10s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    time: Option<Duration>,
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

fn sort_column(text: &str) -> Result<Column, String> {
    Column::from_name(text).ok_or_else(|| {
        let names = Column::ALL.map(Column::name);
        let names: Vec<_> = names.into_iter().filter(|name| Column::from_name(name).is_some()).collect();
        format!("there is no column to sort by of that name; there are {}", names.join(", "))
    })
}

/// The names of symbols, and whether all are meant.
fn symbols(names: &[String]) -> Result<(Vec<Symbol>, bool), CliError> {
    let all = names.iter().any(|name| name == "*");
    let named = names.iter().filter(|name| *name != "*");
    let named = named.map(|name| super::symbol(name).map_err(CliError::usage));
    Ok((named.collect::<Result<_, _>>()?, all))
}

pub(super) fn run(args: WatchArgs) -> Result<(), CliError> {
    let (symbols, all) = symbols(&args.symbols)?;
    let format = match args.format {
        None if has_terminal() => None,
        None | Some(LineFormat::Line) => Some(Format::Line),
        Some(LineFormat::Json) => Some(Format::Json),
        Some(LineFormat::Csv) => Some(Format::Csv),
    };
    if format.is_some() && (args.filter.is_some() || args.sort.is_some()) {
        return Err(CliError::usage("--filter and --sort are the board's: a stream of lines has neither")
            .hint("name the symbols that are wanted"));
    }
    let names: Vec<String> =
        if all { vec!["*".to_owned()] } else { symbols.iter().map(Symbol::to_string).collect() };
    let wanted = Wanted {
        trades: names.clone(),
        quotes: names.clone(),
        statuses: names.clone(),
        daily_bars: if format.is_none() { names } else { Vec::new() },
        snapshot: matches!(format, None | Some(Format::Line)),
    };
    let (endpoint, key) = (args.server.server.clone(), args.server.key()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("the runtime: {error}")))?;
    let ended = runtime.block_on(async {
        let server = endpoint.to_string();
        let stream = Stream::connect(endpoint, key, wanted).await.map_err(stream_error)?;
        let Some(format) = format else {
            let (sort, filter, until) = (args.sort, args.filter.unwrap_or_default(), args.time);
            let options = BoardOptions { server, symbols, sort, filter, colour: super::colour(), until };
            return tui::run(stream, options).await.map_err(CliError::failed);
        };
        print(stream, format, args.time).await
    });
    // A write that hangs on a reader who does not read is not waited for.
    runtime.shutdown_background();
    match ended? {
        Ended::Done => Ok(()),
        Ended::Interrupted => Err(CliError::interrupted()),
    }
}

/// Whether there is a terminal to show a board on.
pub(super) fn has_terminal() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints lines until the time is over or a signal comes.
pub(super) async fn print(stream: Stream, format: Format, time: Option<Duration>) -> Result<Ended, CliError> {
    let out = tui::lines::stdout().map_err(|error| CliError::stdout(&error))?;
    let until = async {
        let over = async {
            match time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => Ok(Ended::Done),
            signal = tui::interrupted() => signal.map(|()| Ended::Interrupted),
        }
    };
    match tui::lines::run(stream, format, out, std::io::stdout().is_terminal(), until).await {
        Ok(ended) => ended.map_err(|error| CliError::failed(format!("signals: {error}"))),
        Err(LinesError::Write(error)) => Err(CliError::stdout(&error)),
        Err(error @ LinesError::StreamEnded) => Err(CliError::failed(error)),
    }
}
