//! `stk archive`: closed days, in storage that costs little.

mod lifecycle;
pub(super) mod restore;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{CliError, Global};
use crate::config::Config;
use crate::server::node::open_cold;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::archive::snapshot::ReadError;
use crate::tiering::cold::{Cold, ColdError, ColdMetrics};

#[derive(Args)]
pub(super) struct ArchiveArgs {
    #[command(subcommand)]
    command: ArchiveCommand,
}

#[derive(Subcommand)]
enum ArchiveCommand {
    /// Bring archived days back to where they can be read, or into warm
    Restore(restore::RestoreArgs),
    /// Show or set at which age archived days go to Glacier and Deep Archive
    Lifecycle(lifecycle::LifecycleArgs),
}

pub(super) fn run(args: ArchiveArgs, global: &Global) -> Result<(), CliError> {
    match args.command {
        ArchiveCommand::Restore(args) => restore::run(args, global),
        ArchiveCommand::Lifecycle(args) => lifecycle::run(args, global),
    }
}

/// Which store a command is about.
#[derive(Args)]
struct StoreArgs {
    /// The data directory whose archive it is, where archive.url names none
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl StoreArgs {
    fn config(&self, global: &Global) -> Result<Config, CliError> {
        let data = self.data.iter().map(|dir| ("data.dir", dir.display().to_string(), "--data"));
        Ok(global.resolve(&data.collect::<Vec<_>>())?.config())
    }
}

/// The archive's store.
pub(super) async fn open(config: &Config) -> Result<Arc<dyn Cold>, CliError> {
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || open_cold(&config, &ColdMetrics::default())).await;
    opened.map_err(CliError::failed)?.map_err(|error| cold_error(&error))
}

/// The archive, as it is read.
pub(super) async fn open_reader(config: &Config) -> Result<Arc<ArchiveReader>, CliError> {
    Ok(Arc::new(ArchiveReader::new(open(config).await?)))
}

pub(super) fn cold_error(error: &ColdError) -> CliError {
    match error {
        ColdError::Refused { .. } => CliError::failed(error).hint(
            "check archive.url, archive.s3_endpoint and archive.s3_region, and the keys in AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY",
        ),
        ColdError::Unknown { .. } => CliError::failed(error).hint("run it again: what was done is not done twice"),
        ColdError::Unsupported { .. } => CliError::usage(error)
            .hint("storage classes are S3's; a directory is always read at once"),
        _ => CliError::failed(error),
    }
}

pub(super) fn read_error(error: &ReadError) -> CliError {
    match error {
        ReadError::Cold(error) => cold_error(error),
        _ => CliError::failed(error).hint("`stk archive verify` says what else is not as it was written"),
    }
}
