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
    /// Key to show to the server
    #[arg(long, value_name = "ID", env = "STK_KEY_ID", hide_env = true)]
    key_id: Option<String>,
    /// The key's secret; better set in the environment than on the command line
    #[arg(long, value_name = "SECRET", env = "STK_SECRET_KEY", hide_env = true, hide_env_values = true)]
    secret_key: Option<String>,
}

impl ServerArgs {
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

    pub(super) fn rest(&self) -> Result<RestClient, CliError> {
        RestClient::new(self.server.clone(), self.key()?).map_err(rest_error)
    }
}

/// A failed request, with what to do about it.
pub(super) fn rest_error(error: RestError) -> CliError {
    match error {
        RestError::Unreachable { .. } => no_server(error),
        RestError::Forbidden { .. } => {
            CliError::no_server(error).hint("set STK_KEY_ID and STK_SECRET_KEY to a key of its server.keys")
        }
        RestError::Refused { .. } => CliError::usage(error),
        RestError::Broken { .. } => CliError::failed(error),
    }
}

/// Nobody answers: how to start somebody who does.
pub(super) fn no_server(error: impl std::fmt::Display) -> CliError {
    CliError::no_server(error).hint(
        "start one with `stk serve --feed sim`, name another with `--server`, or see it all at once with `stk demo`",
    )
}

/// Why there is no stream, with what to do about it.
pub(super) fn stream_error(error: StreamError) -> CliError {
    match error {
        StreamError::Unreachable { .. } => no_server(error),
        StreamError::Refused { code: 402, .. } => {
            CliError::no_server(error).hint("set STK_KEY_ID and STK_SECRET_KEY to a key of its server.keys")
        }
        StreamError::Refused { .. } => CliError::failed(error),
    }
}
