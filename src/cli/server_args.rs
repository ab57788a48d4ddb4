//! How commands find the server they talk to.

use clap::Args;

use super::CliError;
use crate::client::rest::{RestClient, RestError};
use crate::client::stream::StreamError;
use crate::client::{Endpoint, Key};

#[derive(Args)]
pub(super) struct ServerArgs {
    /// Server to talk to: host:port, http://host:port or ws://host:port
    #[arg(long, value_name = "ADDR", env = "STK_SERVER", hide_env = true, default_value = "127.0.0.1:7878")]
    pub(super) server: Endpoint,
    #[command(flatten)]
    key: KeyArgs,
}

/// The key that a command shows.
#[derive(Args)]
pub(super) struct KeyArgs {
    /// Key to show to the server
    #[arg(long, global = true, value_name = "ID", env = "STK_KEY_ID", hide_env = true)]
    key_id: Option<String>,
    /// The key's secret; better set in the environment than on the command line
    #[arg(
        long,
        global = true,
        value_name = "SECRET",
        env = "STK_SECRET_KEY",
        hide_env = true,
        hide_env_values = true
    )]
    secret_key: Option<String>,
}

impl KeyArgs {
    /// The key, if both of its halves are there.
    pub(super) fn key(&self) -> Result<Option<Key>, CliError> {
        // An empty variable is how a shell says that there is none.
        let given = |half: &Option<String>| half.clone().filter(|half| !half.is_empty());
        match (given(&self.key_id), given(&self.secret_key)) {
            (Some(id), Some(secret)) => Ok(Some(Key { id, secret })),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(CliError::usage("a key without its secret").hint("set STK_SECRET_KEY too"))
            }
            (None, Some(_)) => Err(CliError::usage("a secret without its key").hint("set STK_KEY_ID too")),
        }
    }
}

impl ServerArgs {
    /// The key, if both of its halves are there.
    pub(super) fn key(&self) -> Result<Option<Key>, CliError> {
        self.key.key()
    }

    pub(super) fn rest(&self) -> Result<RestClient, CliError> {
        RestClient::new(self.server.clone(), self.key()?).map_err(rest_error)
    }
}

/// A failed request, with what to do about it.
pub(super) fn rest_error(error: RestError) -> CliError {
    match error {
        RestError::Unreachable { .. } => no_server(error, "--server"),
        RestError::Key(_) | RestError::Denied { .. } => key_refused(error),
        RestError::Busy { .. } | RestError::Broken { .. } => CliError::failed(error),
        RestError::Refused { .. } => CliError::usage(error),
    }
}

/// Nobody answers: how to start somebody who does.
///
/// `option` is the one by which the command is told another address.
pub(super) fn no_server(error: impl std::fmt::Display, option: &str) -> CliError {
    CliError::no_server(error).hint(format!(
        "start one with `stk serve --feed sim`, name another with `{option}`, or see it all at once with `stk demo`"
    ))
}

/// What to do about a key that a server does not accept.
pub(super) const KEY_HINT: &str = "set STK_KEY_ID and STK_SECRET_KEY to one of the server's server.keys";

/// The server wants a key, or another one.
fn key_refused(error: impl std::fmt::Display) -> CliError {
    CliError::no_server(error).hint(KEY_HINT)
}

/// Why there is no stream, with what to do about it.
pub(super) fn stream_error(error: StreamError) -> CliError {
    match error {
        StreamError::Unreachable { .. } => no_server(error, "--server"),
        StreamError::Key(_) => key_refused(error),
        StreamError::Refused { .. } => CliError::failed(error),
    }
}
