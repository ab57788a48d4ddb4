//! `stk symbols`: what a server knows.

use std::io::Write;

use clap::Args;

use super::{CliError, Global, ServerArgs};

#[derive(Args)]
pub(super) struct SymbolsArgs {
    /// Show only symbols that begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: SymbolsArgs, _global: &Global) -> Result<(), CliError> {
    let symbols = super::runtime()?.block_on(async {
        let client = super::rest_client(&args.server)?;
        client.symbols().await.map_err(|error| super::server_error(&args.server, error))
    })?;
    let mut out = String::new();
    for symbol in symbols.iter().filter(|symbol| symbol.as_str().starts_with(&args.prefix)) {
        out.push_str(symbol.as_str());
        out.push('\n');
    }
    std::io::stdout().write_all(out.as_bytes()).map_err(|error| CliError::stdout(&error))
}
