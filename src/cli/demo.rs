//! `stk demo`: server, simulated market and board in one process, in a temporary directory.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use super::{CliError, Global};
use crate::server::node::Node;

#[derive(Args)]
pub(super) struct DemoArgs {
    /// End by itself after so long: 10s, 2m
    #[arg(long = "for", value_name = "TIME", value_parser = super::parse_duration)]
    duration: Option<Duration>,
    /// Ticks per second
    #[arg(long, value_name = "TICKS", default_value_t = 2_000.0)]
    rate: f64,
    /// The same seed gives the same market
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}
