//! `stk symbols`: what a server knows.

use std::io::Write;

use clap::Args;

use super::CliError;
use super::server_args::{ServerArgs, rest_error};

#[derive(Args)]
pub(super) struct SymbolsArgs {
    /// Show only symbols that begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: SymbolsArgs) -> Result<(), CliError> {
    let client = args.server.rest()?;
    let prefix = args.prefix.to_ascii_uppercase();
    let symbols = super::runtime()?.block_on(client.symbols()).map_err(rest_error)?;
    let mut out = String::new();
    for symbol in symbols.iter().filter(|symbol| symbol.as_str().starts_with(&prefix)) {
        out.push_str(symbol.as_str());
        out.push('\n');
    }
    std::io::stdout().write_all(out.as_bytes()).map_err(|error| CliError::stdout(&error))
}
