//! `stk archive adopt`: makes the log the archive's own after the log was put back from an older copy
//! or lost.

use clap::Args;

use super::print;
use crate::bus::epoch::{Held, Holder, Relation};
use crate::cli::CliError;
use crate::cli::desk::refusal;
use crate::config::Config;
use crate::server::stores::Stores;
use crate::tiering::archive::origin::{self, Beside};
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::{ArchiveError, ArchiveMetrics, Clock};

#[derive(Args)]
pub(super) struct AdoptArgs {
    /// Do it; without this only the plan is shown
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: &AdoptArgs, config: &Config) -> Result<(), CliError> {
    let stores = Stores::open_to_move(config).await.map_err(crate::cli::serve::node_error)?;
    let done = adopt(args, config, &stores).await;
    stores.close().await;
    done
}

async fn adopt(args: &AdoptArgs, config: &Config, stores: &Stores) -> Result<(), CliError> {
    let (cold, log) = (stores.cold(), Beside::new(stores.bus.clone()));
    let Some(held) = origin::held(&*cold).await.map_err(|error| refusal(error.into()))? else {
        return print(&format!("{} holds no archive: there is nothing to adopt\n", cold.name()));
    };
    match log.relation(&held).await.map_err(|error| refusal(ArchiveError::from(error).into()))? {
        Relation::Own => return print(&format!("all rows in {} are this log's already\n", cold.name())),
        Relation::Skipped => {}
        _ => return origin::check(&*cold, &log).await.map(drop).map_err(|error| refusal(error.into())),
    }
    print(&describe(&held, log.epoch().lost()))?;
    if !args.yes {
        return print("run it with --yes to adopt the archive\n");
    }
    let options = crate::server::archiver::options(config);
    let metrics = ArchiveMetrics::default();
    let archiver = Archiver::new(cold.clone(), stores.warm.clone(), options, Clock::default(), metrics);
    let lease = archiver.hold().await.map_err(|error| refusal(error.into()))?;
    origin::adopt(cold.clone(), &log).await.map_err(|error| refusal(error.into()))?;
    lease.release().await.map_err(|error| refusal(error.into()))?;
    print(&format!("{} belongs to this log now\n", cold.name()))
}

fn describe(held: &Held, lost: &[crate::bus::epoch::Lost]) -> String {
    let mut text = format!(
        "{} holds rows of another timeline of this log. They stay in history. Rows of that timeline that were\n\
         not archived are lost, and a server that still writes it can no longer archive here.\n",
        held.name
    );
    for lost in lost.iter().filter(|lost| lost.holder == Holder::Archive) {
        for (partition, (from, to)) in lost.from.iter().zip(&lost.to).enumerate() {
            if from < to {
                text.push_str(&format!(
                    "  partition {partition}: offsets {from} to {} are of that timeline\n",
                    to - 1
                ));
            }
        }
    }
    text
}
