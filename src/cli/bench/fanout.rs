//! Quotes to many connections, beside a bare loop.

use clap::Args;

use super::{CliError, Findings, machine, rounded};
use crate::server::gateway::bench::{self, FanoutConfig, FanoutFigures};

#[derive(Args)]
pub(super) struct FanoutArgs {
    /// WebSocket connections, each subscribed to all quotes
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    connections: usize,
    /// Messages per second over all connections, or max
    #[arg(long, value_name = "RATE", default_value = "max", value_parser = rate)]
    rate: Rate,
    /// How long each side is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Leave the threads to the system instead of binding server and receivers to a core each
    #[arg(long)]
    unbound: bool,
}

/// `None` asks for as many as go through.
type Rate = Option<f64>;

fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "max" => Ok(None),
        _ => match text.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Some(rate)),
            _ => Err("write a number of messages per second, or max".to_owned()),
        },
    }
}

pub(super) fn run(args: &FanoutArgs) -> Result<Findings, CliError> {
    if !(0.1..=600.0).contains(&args.seconds) || !(1..=10_000).contains(&args.connections) {
        return Err(CliError::usage("it takes 0.1 to 600 seconds and 1 to 10000 connections"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bound = !args.unbound && cores > 1;
    let config = FanoutConfig {
        connections: args.connections,
        rate: args.rate,
        seconds: args.seconds,
        server_core: bound.then_some(0),
        receiver_core: bound.then_some(1),
        ..FanoutConfig::default()
    };
    let report = bench::run(&config).map_err(CliError::failed)?;
    let mut findings = Findings::new("fanout");
    let FanoutFigures { messages_per_s, bytes_per_s, p50_us, p99_us, p999_us } = report.gateway;
    findings.figure("messages_per_s", rounded(messages_per_s));
    findings.figure("bytes_per_s", rounded(bytes_per_s));
    findings.figure("p50_us", rounded(p50_us));
    findings.figure("p99_us", rounded(p99_us));
    findings.figure("p999_us", rounded(p999_us));
    if let (Some(bare), Some(ratio)) = (report.bare, report.ratio()) {
        findings.figure("bare_messages_per_s", rounded(bare.messages_per_s));
        findings.figure("ratio_to_bare", rounded(ratio));
    }
    findings.figure("slow_clients", report.slow_clients);
    findings.figure("rss_peak_bytes", machine::rss_peak_bytes());
    findings.parameter("connections", args.connections);
    findings.parameter("rate", args.rate.map_or("max".into(), rounded));
    findings.parameter("seconds", rounded(args.seconds));
    findings.parameter("message_bytes", report.message_bytes);
    findings.parameter("bound_to_cores", bound);
    Ok(findings)
}
