//! The command line: one file per subcommand, which turns arguments into calls of the library.
//!
//! Parsing validates values and touches nothing; each command then resolves the world once.
//! stdout is data, stderr is talk.

mod bench;
mod config;
mod demo;
mod doctor;
mod exit;
mod generate;
mod history;
mod replay;
mod serve;
mod symbols;
mod watch;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, Parser, Subcommand};

pub use exit::{CliError, EXIT_CODES};

/// Real-time stock prices: from the feed to the eye, the log and the archive, in one binary.
#[derive(Parser)]
#[command(name = "stk", version, styles = STYLES, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_long_help = exit::help())]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

#[derive(Args)]
struct Global {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", env = "STK_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "always", "never"])]
    color: String,
}

/// How a command finds a server.
#[derive(Args, Clone)]
struct ServerArgs {
    /// The server to talk to, as host:port or URL
    #[arg(long, value_name = "URL", env = "STK_SERVER", hide_env = true, default_value = "127.0.0.1:7878")]
    server: String,
    /// Key to show to the server
    #[arg(long, value_name = "ID", env = "STK_KEY_ID", hide_env = true)]
    key_id: Option<String>,
    /// Secret to show to the server
    #[arg(long, value_name = "SECRET", env = "STK_SECRET_KEY", hide_env = true, hide_env_values = true)]
    secret_key: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Server, simulated market and board in one: the first thing to run
    Demo(demo::DemoArgs),
    /// Take ticks in, store them, and serve them
    Serve(serve::ServeArgs),
    /// The board: live prices in the terminal
    Watch(watch::WatchArgs),
    /// Trades, quotes and bars of the past
    History(history::HistoryArgs),
    /// Play a capture into a server or a store
    Replay(replay::ReplayArgs),
    /// The symbols a server knows
    Symbols(symbols::SymbolsArgs),
    /// Measure this program on this machine
    Bench(bench::BenchArgs),
    /// Look for what is wrong, and say what to do
    Doctor(doctor::DoctorArgs),
    /// Show, check or write the configuration
    Config(config::ConfigArgs),
    /// Print shell completions
    Completions(generate::CompletionsArgs),
    /// Print or write the man pages
    Man(generate::ManArgs),
}

/// Parses the arguments, runs the command, and returns the process's exit code.
pub fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help and version to stdout, errors to stderr, and knows the code.
            let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
            let _ = error.print();
            return code.into();
        }
    };
    match cli.run() {
        Ok(()) => exit::OK.into(),
        Err(error) => error.report(),
    }
}

/// The command line as clap sees it: what completions and man pages are made from.
pub fn command() -> clap::Command {
    Cli::command()
}

impl Cli {
    fn run(self) -> Result<(), CliError> {
        let Self { global, command } = self;
        match command {
            Command::Demo(args) => demo::run(args, &global),
            Command::Serve(args) => serve::run(args, &global),
            Command::Watch(args) => watch::run(args, &global),
            Command::History(args) => history::run(args, &global),
            Command::Replay(args) => replay::run(args, &global),
            Command::Symbols(args) => symbols::run(args, &global),
            Command::Bench(args) => bench::run(args),
            Command::Doctor(args) => doctor::run(args, &global),
            Command::Config(args) => config::run(args, &global),
            Command::Completions(args) => generate::completions(args),
            Command::Man(args) => generate::man(args),
        }
    }
}

impl Global {
    /// Whether output to a terminal may carry colour: `--color`, then `NO_COLOR`.
    fn colour(&self) -> bool {
        match self.color.as_str() {
            "always" => true,
            "never" => false,
            _ => std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// The configuration from file, environment and `flags`.
    fn resolve(&self, flags: &[(&'static str, String, &'static str)]) -> Result<crate::config::Resolved, CliError> {
        let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        crate::config::Resolved::new(self.config.as_deref(), env, flags)
            .map_err(|error| CliError::usage(error).hint("`stk config init` writes a file with every setting"))
    }
}

/// The runtime that everything with a socket runs on.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("can't start threads: {error}")))
}

/// Waits for SIGINT or SIGTERM and tells which came.
async fn stop_signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => "interrupted",
                _ = terminate.recv() => "asked to end",
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
            "interrupted"
        }
    }
}

/// Reads a length of time: `10s`, `2m`, `1h`, `500ms`.
fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let seconds_of_unit = match &text[unit_at..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("write a length of time such as 500ms, 10s, 2m or 1h".to_owned()),
    };
    let count: f64 = text[..unit_at].parse().map_err(|_| "write a number before the unit, such as 10s".to_owned())?;
    std::time::Duration::try_from_secs_f64(count * seconds_of_unit).map_err(|error| error.to_string())
}
