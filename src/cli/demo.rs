//! `stk demo`: server, simulated market and board in one process, in a temporary directory.

use std::time::Duration;

use clap::Args;

use super::serve::{in_words, node_error};
use super::server_args::stream_error;
use super::{CliError, Global, watch};
use crate::client::stream::{Stream, Wanted};
use crate::server::node::Node;
use crate::telemetry::say;
use crate::tui::lines::Format;
use crate::tui::{self, BoardOptions, Column, Ended, Filter};

#[derive(Args)]
pub(super) struct DemoArgs {
    /// End by itself after so long: 10s, 2m
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    time: Option<Duration>,
    /// Ticks per second
    #[arg(long, value_name = "TICKS", default_value_t = 2_000.0)]
    rate: f64,
    /// How many symbols trade
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    symbols: usize,
    /// The same seed gives the same market
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

pub(super) fn run(args: DemoArgs, global: &Global) -> Result<(), CliError> {
    let board = watch::has_terminal();
    // Nothing is logged onto the board.
    crate::telemetry::init(if board { "off" } else { "warn" }, super::colour());
    let dir = tempfile::Builder::new().prefix("stk-demo-").tempdir().map_err(CliError::failed)?;
    let DemoArgs { time, rate, symbols, seed } = args;
    let flags = [
        ("data.dir", dir.path().display().to_string(), "--data"),
        ("feed.sources", format!("sim:rate={rate},symbols={symbols},seed={seed}"), "--feed"),
        ("server.keys", String::new(), "demo"),
        ("server.listen", "127.0.0.1:0".to_owned(), "--listen"),
        ("server.ingest_listen", "127.0.0.1:0".to_owned(), "--ingest-listen"),
    ];
    let config = global.resolve(&flags)?.config();
    super::runtime()?.block_on(async {
        let mut node = Node::start(&config).await.map_err(node_error)?;
        let address = node.address();
        for line in node.describe() {
            say(line);
        }
        let endpoint = address.to_string().parse().map_err(CliError::failed)?;
        let all = vec!["*".to_owned()];
        let wanted = Wanted {
            trades: all.clone(),
            quotes: if board { all.clone() } else { Vec::new() },
            statuses: all.clone(),
            daily_bars: if board { all } else { Vec::new() },
            snapshot: board,
        };
        let stream = Stream::connect(endpoint, None, wanted).await.map_err(stream_error)?;
        let show = async {
            if board {
                let options = BoardOptions {
                    server: format!("demo: a simulated market at http://{address}"),
                    symbols: Vec::new(),
                    sort: Some(Column::Volume),
                    filter: Filter::default(),
                    colour: super::colour(),
                    until: time,
                };
                tui::run(stream, options).await.map_err(CliError::failed)
            } else {
                watch::print(stream, Format::Line, time).await
            }
        };
        let shown = tokio::select! {
            shown = show => shown,
            reason = node.failed() => Err(CliError::failed(reason)),
        };
        let summary = node.stop().await.map_err(node_error)?;
        // A reader of a pipe that went away has seen enough: the summary is for those who stay.
        let ended = shown?;
        say(in_words(&summary));
        match ended {
            Ended::Done => Ok(()),
            Ended::Interrupted => Err(CliError::interrupted()),
        }
    })
}
