//! `stk archive give-up`: the days of an archive that is gone for good are told to be lost.

use clap::Args;

use super::print;
use crate::cli::CliError;
use crate::cli::desk::{Desk, unexpected};
use crate::server::admin::{Answer, Order};
use crate::tiering::archive::give_up::GivenUp;

#[derive(Args)]
pub(super) struct GiveUpArgs {
    /// Do it; without this only the plan is shown
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: &GiveUpArgs, desk: &Desk, json: bool) -> Result<(), CliError> {
    let order = Order::ArchiveGiveUp { write: args.yes };
    let Answer::GaveUp(given_up) = desk.ask_quietly(order).await? else { return Err(unexpected()) };
    if json {
        return print(&(serde_json::json!({ "given_up": given_up, "done": args.yes }).to_string() + "\n"));
    }
    print(&in_words(&given_up, args.yes))
}

fn in_words(given_up: &[GivenUp], is_done: bool) -> String {
    if given_up.is_empty() {
        return "the archive holds all that warm has dropped: there is nothing to give up\n".to_owned();
    }
    let mut text = "Rows that warm has dropped, and that the archive does not hold:\n".to_owned();
    for GivenUp { unit, first_offsets, next_offsets } in given_up {
        for (partition, (first, next)) in first_offsets.iter().zip(next_offsets).enumerate() {
            if first < next {
                text.push_str(&format!("  {unit}, partition {partition}: offsets {first} to {}\n", next - 1));
            }
        }
    }
    text.push_str(if is_done {
        "They are given up: history answers the rest and names them as lost.\n"
    } else {
        "If another archive still holds them, set archive.url to it, or copy it here (`stk archive copy`).\n\
         If they are gone for good, run `stk archive give-up --yes`: history then answers the rest and names them as lost.\n"
    });
    text
}
