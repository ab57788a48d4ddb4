//! The command line: one file per subcommand, which turns arguments into calls of the library.
//!
//! Parsing validates values and touches nothing; each command then resolves the world once.
//! stdout is data, stderr is talk.

mod archive;
mod audit;
mod backup;
mod bench;
mod config;
mod confirm;
mod demo;
mod desk;
mod doctor;
mod exit;
mod generate;
mod history;
mod output;
mod replay;
mod serve;
mod server_args;
mod symbols;
mod watch;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{ConfigError, Origin};
use crate::market::{Symbol, SymbolError};
use crate::secret::Secret;
use crate::signals::StopSignals;
use crate::telemetry::say;
use crate::text::PrintableWriter;

pub use exit::{CliError, EXIT_CODES};
pub use generate::generated_files;

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
}

#[derive(Subcommand)]
enum Command {
    /// See it all at once: a simulated market, the server and the board
    Demo(demo::DemoArgs),
    /// Watch live prices
    Watch(watch::WatchArgs),
    /// Take ticks in, store them, serve them
    Serve(serve::ServeArgs),
    /// List trades, quotes or bars of the past
    History(history::HistoryArgs),
    /// Move old days into the archive, see what is there, and bring it back
    Archive(archive::ArchiveArgs),
    /// Copy the data directory of this machine while a server uses it, and put the copy back
    Backup(backup::BackupArgs),
    /// Say where the chain from feed to log to warm to archive holds, and where it does not
    ///
    /// Everything is counted and digested on both sides of each link, by day and partition. Exits with 1
    /// where it does not hold. Without --repair nothing is changed.
    Audit(audit::AuditArgs),
    /// Play a capture into a server or a store
    Replay(replay::ReplayArgs),
    /// List the symbols a server knows
    Symbols(symbols::SymbolsArgs),
    /// Measure what the README states, on this machine
    Bench(bench::BenchArgs),
    /// Look for what could be wrong, and say what to do
    Doctor(doctor::DoctorArgs),
    /// Show, check or write the configuration
    Config(config::ConfigArgs),
    /// Print shell completions
    Completions(generate::CompletionsArgs),
    /// Print or write the man pages
    Man(generate::ManArgs),
    /// Print the help of a command
    #[command(hide = true)]
    Help {
        /// The command, such as `archive run`
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
}

/// Parses the arguments, runs the command, and returns the process's exit code.
pub fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut error) => {
            // It quotes what was written: an address, perhaps with a password.
            if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
                && value.contains('@')
            {
                let shown = Secret::url(value.as_str()).to_string();
                error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
            }
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
            Command::Watch(args) => watch::run(args),
            Command::Serve(args) => serve::run(args, &global),
            Command::History(args) => history::run(args, &global),
            Command::Archive(args) => archive::run(args, &global),
            Command::Backup(args) => backup::run(&args, &global),
            Command::Audit(args) => audit::run(args, &global),
            Command::Replay(args) => replay::run(args, &global),
            Command::Symbols(args) => symbols::run(args),
            Command::Bench(args) => bench::run(args, &global),
            Command::Doctor(args) => doctor::run(args, &global),
            Command::Config(args) => config::run(args, &global),
            Command::Completions(args) => generate::completions(args),
            Command::Man(args) => generate::man(args),
            Command::Help { command } => help(&command),
        }
    }
}

/// Prints the long help of the command that `names` lead to.
fn help(names: &[String]) -> Result<(), CliError> {
    let mut root = command();
    root.build();
    let mut found = &mut root;
    for name in names {
        found = found.find_subcommand_mut(name).ok_or_else(|| {
            CliError::usage(format!("there is no command `{name}`")).hint("`stk --help` lists the commands")
        })?;
    }
    let text = found.render_long_help();
    stdout().write_all(text.to_string().as_bytes()).map_err(|error| CliError::stdout(&error))
}

impl Global {
    /// The configuration, with the data directory `--data` and the archive `--url` where they are given.
    fn resolve_stores(
        &self,
        data: Option<&std::path::Path>,
        url: Option<&str>,
    ) -> Result<crate::config::Resolved, CliError> {
        let data = data.map(|dir| ("data.dir", dir.display().to_string(), "--data"));
        let url = url.map(|url| ("archive.url", url.to_owned(), "--url"));
        self.resolve(&data.into_iter().chain(url).collect::<Vec<_>>())
    }

    /// The configuration from file, environment and `flags`.
    fn resolve(
        &self,
        flags: &[(&'static str, String, &'static str)],
    ) -> Result<crate::config::Resolved, CliError> {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let resolved = crate::config::Resolved::new(self.config.as_deref(), env, flags).map_err(|error| {
            let is_flag = matches!(&error, ConfigError::Value { origin: Origin::Flag(_), .. });
            let refused = CliError::usage(error);
            if is_flag { refused } else { refused.hint("`stk config init` writes a file with every setting") }
        })?;
        for warning in &resolved.warnings {
            say(format_args!("warning: {warning}"));
        }
        Ok(resolved)
    }
}

/// Refuses a configuration with which `stk serve` would be open to everybody on the network.
fn check_access(resolved: &crate::config::Resolved) -> Result<(), CliError> {
    resolved.check_access().map_err(|error| {
        CliError::usage(error).hint(
            "set server.keys, listen on 127.0.0.1, or say that it is meant: `stk serve --allow-anonymous` \
             (server.allow_anonymous = \"yes\")",
        )
    })
}

/// The async runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("the async runtime can't start: {error}")))
}

/// Waits for a person or a supervisor to end the program: which signal it was.
async fn stop_signal() -> &'static str {
    StopSignals::listen().next().await
}

/// stdout. Text for a terminal is escaped, so that nothing from a feed or a server steers it; programs
/// get the bytes as they are.
fn stdout() -> Box<dyn Write + Send> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() { Box::new(PrintableWriter::new(stdout)) } else { Box::new(stdout) }
}

/// Whether colour is wanted: unless `NO_COLOR` is set (no-color.org).
fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Reads a symbol as a person types it: case does not matter.
fn symbol(text: &str) -> Result<Symbol, SymbolError> {
    text.to_ascii_uppercase().parse()
}

/// Refuses days that select none.
fn check_days(
    from: Option<crate::market::TradingDay>,
    to: Option<crate::market::TradingDay>,
) -> Result<(), CliError> {
    match (from, to) {
        (Some(from), Some(to)) if from > to => {
            Err(CliError::usage(format!("--from {from} is after --to {to}")))
        }
        _ => Ok(()),
    }
}

/// Reads a span of time: `10s`, `2m`, `1h30m`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let read = text.parse::<jiff::SignedDuration>().ok().and_then(|span| span.try_into().ok());
    read.ok_or_else(|| "write a span of time with its unit, such as 10s or 2m".to_owned())
}
