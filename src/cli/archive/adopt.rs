//! `stk archive adopt`: makes the log the archive's own after the log was put back from an older copy
//! or lost.

use clap::Args;

use super::print;
use crate::cli::CliError;
use crate::cli::desk::{Desk, unexpected};
use crate::server::admin::{AdoptAnswer, Answer, ArchiveHolds, Order};

#[derive(Args)]
pub(super) struct AdoptArgs {
    /// Do it; without this only the plan is shown
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: &AdoptArgs, desk: &Desk, json: bool) -> Result<(), CliError> {
    let order = Order::ArchiveAdopt { write: args.yes };
    let Answer::Adopt(answer) = desk.ask_quietly(order).await? else { return Err(unexpected()) };
    print(&if json { serde_json::json!(answer).to_string() + "\n" } else { in_words(&answer) })
}

fn in_words(answer: &AdoptAnswer) -> String {
    let AdoptAnswer { archive, holds, adopted } = answer;
    let mut text = match holds {
        ArchiveHolds::Nothing => return format!("{archive} holds no archive: there is nothing to adopt\n"),
        ArchiveHolds::OwnRows => return format!("all rows in {archive} are this log's already\n"),
        ArchiveHolds::NamelessRows => format!(
            "{archive} does not say of which log its rows are. This log has records at all of their offsets. Adopt the\n\
             archive only if no other log was archived there.\n"
        ),
        ArchiveHolds::OtherRows { offsets } => {
            let mut text = format!(
                "{archive} holds rows of another timeline of this log. They stay in history. Rows of that timeline that were\n\
                 not archived are lost, and a server that still writes it can no longer archive here.\n"
            );
            for span in offsets {
                text.push_str(&format!(
                    "  partition {}: offsets {} to {} are of that timeline\n",
                    span.partition, span.first, span.last
                ));
            }
            text
        }
    };
    text.push_str(&if *adopted {
        format!("{archive} belongs to this log now\n")
    } else {
        "run it with --yes to adopt the archive\n".to_owned()
    });
    text
}
