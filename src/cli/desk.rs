//! Where operator commands are carried out: on the stores, which this process opens, or by a running
//! server that has them open.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use clap::Args;
use futures_util::TryStreamExt;

use super::serve::node_error;
use super::server_args::{KeyArgs, no_server};
use super::{CliError, Global};
use crate::client::Endpoint;
use crate::client::rest::{RestClient, RestError};
use crate::config::Config;
use crate::server::admin::{Admin, Answer, Cause, Line, Order, Refusal, Tell};
use crate::server::node::NodeError;
use crate::server::stores::{self, Stores};
use crate::tiering::archive::ArchiveMetrics;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::cold::{Cold, ColdMetrics};

#[derive(Args)]
pub(super) struct DeskArgs {
    /// Data directory to open; refused while a server has it open
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Archive to open: a directory or `s3://bucket/prefix`
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Have the server at this address do it, instead of opening the stores
    #[arg(long, global = true, value_name = "ADDR")]
    server: Option<Endpoint>,
    #[command(flatten)]
    key: KeyArgs,
}

/// The stores that a command takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Only the archive.
    Archive,
    /// All, and none of them is changed.
    ToRead,
    /// As [`Needs::ToRead`], also where warm holds rows of another log or timeline.
    ToExamine,
    /// All, to move rows between warm and the archive.
    ToMove,
}

/// Carries out orders.
pub(super) enum Desk {
    /// On these stores.
    Here { admin: Box<Admin>, stores: Option<Stores> },
    /// On a server.
    There(RestClient),
}

impl DeskArgs {
    /// Opens what `command` (as it is typed, without `stk`) needs, or prepares to ask the server.
    pub(super) async fn open(&self, global: &Global, needs: Needs, command: &str) -> Result<Desk, CliError> {
        if let Some(endpoint) = &self.server {
            if self.data.is_some() || self.url.is_some() {
                return Err(CliError::usage("--server can't be combined with --data or --url")
                    .hint("the server knows its own stores: leave `--data` and `--url` out"));
            }
            let client = RestClient::new(endpoint.clone(), self.key.key()?);
            return Ok(Desk::There(client.map_err(order_error)?));
        }
        let config = self.config(global)?;
        let stores = match needs {
            Needs::Archive => None,
            Needs::ToRead => Some(Stores::open_existing(&config).await),
            Needs::ToExamine => Some(Stores::open_to_examine(&config).await),
            Needs::ToMove => Some(Stores::open_to_move(&config).await),
        };
        let stores = stores.transpose().map_err(|error| store_error(error, command))?;
        let admin = match &stores {
            Some(stores) => Admin::new(&config, stores, ArchiveMetrics::default()),
            None => Admin::of_archive(Arc::new(ArchiveReader::new(open_cold(&config)?))),
        };
        Ok(Desk::Here { admin: Box::new(admin), stores })
    }

    /// Whether a server is to do it.
    pub(super) fn is_server(&self) -> bool {
        self.server.is_some()
    }

    /// The configuration of the stores that this process opens.
    pub(super) fn config(&self, global: &Global) -> Result<Config, CliError> {
        Ok(global.resolve_stores(self.data.as_deref(), self.url.as_deref())?.config())
    }

    /// Refuses `--server` for a command that a server does not know.
    pub(super) fn refuse_server(&self, why: &str) -> Result<(), CliError> {
        match self.server {
            Some(_) => Err(CliError::usage(why).hint("leave `--server` out")),
            None => Ok(()),
        }
    }

    /// What to add when the command is interrupted.
    pub(super) fn interrupted(&self) -> CliError {
        match self.server {
            Some(_) => CliError::interrupted().after("the server carries on"),
            None => CliError::interrupted(),
        }
    }
}

impl Desk {
    /// Has `order` carried out; `tell` receives the progress.
    pub(super) async fn ask(&self, order: Order, tell: &Tell) -> Result<Answer, CliError> {
        match self {
            Self::Here { admin, .. } => admin.perform(order, tell).await.map_err(refusal),
            Self::There(client) => {
                let lines = client.post_lines::<Line, _>("/v1/admin", &order).await.map_err(order_error)?;
                let mut lines = pin!(lines);
                while let Some(line) = lines.try_next().await.map_err(order_error)? {
                    match line {
                        Line::Alive => {}
                        Line::Heard(heard) => tell(heard),
                        Line::Answer(answer) => return Ok(answer),
                        Line::Refused(refused) => return Err(refusal(refused)),
                    }
                }
                Err(CliError::failed("the server's response ended before it was complete")
                    .hint("the server carries on: `stk archive status` shows the state of each day"))
            }
        }
    }

    /// Has `order` carried out without reporting progress.
    pub(super) async fn ask_quietly(&self, order: Order) -> Result<Answer, CliError> {
        let quiet: Tell = Arc::new(|_| {});
        self.ask(order, &quiet).await
    }

    /// Closes the stores that are open.
    pub(super) async fn close(self) {
        if let Self::Here { admin, stores } = self {
            drop(admin);
            if let Some(stores) = stores {
                stores.close().await;
            }
        }
    }
}

/// An answer to another order than the one that was sent.
pub(super) fn unexpected() -> CliError {
    CliError::failed("the server sent an unexpected answer").hint("use one version of stk for both")
}

/// Opens the archive that the configuration names.
pub(super) fn open_cold(config: &Config) -> Result<Arc<dyn Cold>, CliError> {
    stores::open_cold(config, &ColdMetrics::default()).map_err(|error| refusal(error.into()))
}

/// Stores that `command` could not open. A server that has them open is named.
pub(super) fn store_error(error: NodeError, command: &str) -> CliError {
    match &error {
        NodeError::DataInUse { server: Some(address), .. } => CliError::in_use(&error)
            .hint(format!("ask the server that has it open: `stk {command} --server {address}`")),
        _ => node_error(error),
    }
}

/// An order that did not reach the server, or whose answer did not come back.
fn order_error(error: RestError) -> CliError {
    match error {
        RestError::Unreachable { .. } => no_server(error, "--server"),
        RestError::Key(_) | RestError::Denied { .. } => CliError::no_server(error).hint(
            "set STK_KEY_ID and STK_SECRET_KEY to one of the server's server.admin_keys; without such keys a \
                   server without server.keys takes operator commands at a loopback address",
        ),
        RestError::Refused { .. } => CliError::usage(error),
        RestError::Busy { .. } => CliError::failed(error),
        RestError::Broken { .. } => CliError::failed(error)
            .hint("the server carries on: `stk archive status` shows the state of each day"),
    }
}

/// An order that failed, with what to do about it.
pub(super) fn refusal(refusal: Refusal) -> CliError {
    let failed = CliError::failed(&refusal);
    match refusal.cause {
        Cause::Leased => CliError::in_use(&refusal)
            .hint("one archiver at a time works on an archive; run it again later"),
        Cause::LeaseLost => failed.hint("what was committed is safe; `stk archive run` continues from there"),
        Cause::OtherLog => failed.hint(
            "set archive.url to a place of its own; history reads one archive, the other stays as it is",
        ),
        Cause::OtherTimeline => failed.hint(
            "this log was put back from a backup, or is a copy. If no other server writes the newer one, run \
             `stk archive adopt`; otherwise set archive.url to another place",
        ),
        Cause::AheadOfLog => failed.hint(
            "start the server again while the archive can be reached: the log then continues after these offsets, \
             and `stk archive adopt` makes the archive its own",
        ),
        Cause::Nameless => failed.hint(
            "bring log.json back from a copy of the archive; if its days are of this log, run `stk archive adopt`",
        ),
        Cause::PartedTimeline => failed.hint(
            "this log and the archive's have used the same offsets. `stk archive copy --own ARCHIVE TO` copies the \
             days that belong to this log; then set archive.url to another place, that is TO. The archive stays as it is",
        ),
        Cause::NotHere => failed.hint(
            "set archive.url to where they are, or copy them here from there: `stk archive copy THERE HERE`. If only a \
             manifest is gone, `stk audit --repair` makes it again from its objects. If they are gone for good, `stk archive give-up` has history answer the rest and name what is lost",
        ),
        Cause::Unconditional => {
            failed.hint("use a store that supports conditional writes (`If-None-Match: *`), or a directory")
        }
        Cause::Damaged => {
            failed.hint("`stk archive verify` reports every damaged object; nothing was dropped")
        }
        Cause::StoreRefused => failed.hint(
            "check archive.url, archive.s3_endpoint and archive.s3_region, and the keys in AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY",
        ),
        Cause::StoreUnsure => failed.hint("run it again; completed work is skipped"),
        Cause::Unsupported => CliError::usage(&refusal)
            .hint("only S3 has storage classes; a directory can always be read at once"),
        Cause::Full => failed.hint("free some space and run it again; completed work is skipped"),
        Cause::NotArchived => failed.hint("`stk archive list` shows what is archived"),
        Cause::NotExpedited => CliError::usage(&refusal)
            .hint("use `stk archive restore --tier standard` or `stk archive restore --tier bulk`"),
        Cause::Frozen => failed.hint("`stk archive restore --wait` waits until they can be read"),
        Cause::Unequal => failed.hint("`stk archive verify` reports which object is damaged"),
        Cause::ForeignRows => failed.hint("a server with an empty data directory answers out of it"),
        Cause::Ahead => failed
            .hint("let `stk serve` process the log to its end first; history has these rows from the archive"),
        Cause::Stopping => failed.hint("run it again once the server is back; completed work is skipped"),
        Cause::Other => failed,
    }
}
