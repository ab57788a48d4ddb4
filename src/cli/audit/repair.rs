//! `stk audit --repair`: shows what can be built again from another tier, and does it.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{Selection, shown};
use crate::cli::archive::{counted, grouped, print};
use crate::cli::confirm::confirmed;
use crate::cli::desk::{Desk, DeskArgs, Needs, store_error, unexpected};
use crate::cli::{CliError, Global};
use crate::server::admin::{Answer, Heard, Order, Tell};
use crate::server::refill::{self, Refill};
use crate::telemetry::say;
use crate::tiering::repair::{Done, Step};

/// Shows the plan and carries it out. The caller compares the stores afterwards.
pub(super) async fn run(
    desk: &DeskArgs,
    global: &Global,
    selection: &Selection,
    yes: bool,
) -> Result<(), CliError> {
    refill_warm(desk, global, yes).await?;
    let opened = desk.open(global, Needs::ToExamine, "audit").await?;
    let planned = plan(&opened, selection).await;
    opened.close().await;
    let steps = planned?;
    print(&in_words(&steps))?;
    let count = steps.iter().filter(|step| step.source.is_some()).count() as u64;
    if count == 0 {
        return Ok(());
    }
    if !yes && !confirmed(&format!("repair {}?", counted(count, "part")))? {
        return Err(CliError::interrupted());
    }
    let opened = desk.open(global, Needs::ToMove, "audit").await?;
    let tell: Tell = Arc::new(|heard| {
        if let Heard::Repair(Done { step, failed }) = heard {
            match failed {
                Some(reason) => say(format_args!("{}: not repaired: {reason}", step.part)),
                None if step.source.is_some() => say(format_args!("{}: repaired", step.part)),
                None => {}
            }
        }
    });
    let done = opened.ask(Order::Repair(selection.clone()), &tell).await;
    opened.close().await;
    let Answer::Repaired(done) = done? else { return Err(unexpected()) };
    let failed = done.iter().filter(|done| done.failed.is_some()).count() as u64;
    match failed {
        0 => Ok(()),
        _ => Err(CliError::failed(format!("{} could not be repaired", counted(failed, "part")))
            .hint("what failed is as it was; the reason is named above")),
    }
}

async fn plan(desk: &Desk, selection: &Selection) -> Result<Vec<Step>, CliError> {
    let (bar, tell) = shown();
    let planned = desk.ask(Order::RepairPlan(selection.clone()), &tell).await;
    bar.finish_and_clear();
    let Answer::RepairPlan(steps) = planned? else { return Err(unexpected()) };
    Ok(steps)
}

/// Fills an empty warm store where the old one can't be opened. A server has its warm store open.
async fn refill_warm(desk: &DeskArgs, global: &Global, yes: bool) -> Result<(), CliError> {
    if desk.is_server() {
        return Ok(());
    }
    let config = desk.config(global)?;
    let named = |error| store_error(error, "audit");
    let Some(refill) = refill::plan(&config).await.map_err(named)? else { return Ok(()) };
    print(&refill_in_words(&refill))?;
    if !refill.lost.is_empty() {
        return Err(CliError::failed("warm can't be rebuilt: rows would be lost")
            .hint("put the whole directory warm back from a backup of one time; nothing was changed"));
    }
    if !yes && !confirmed("rebuild warm?")? {
        return Err(CliError::interrupted());
    }
    let rows = refill::make(&config, &refill).await.map_err(named)?;
    say(format_args!("{}: rebuilt with {} rows", refill.warm.display(), grouped(rows)));
    Ok(())
}

fn refill_in_words(refill: &Refill) -> String {
    let mut text = format!("repair: {}\n  {}\n", refill.warm.display(), refill.fault);
    let from = if refill.uses_archive { "the log and the archive" } else { "the log" };
    let _ = writeln!(text, "  rebuilt from {from}: {} records of the log", grouped(refill.records));
    if let Some(kept) = &refill.kept {
        let _ = writeln!(text, "  the old store is moved to {}", kept.display());
    }
    for lost in &refill.lost {
        let _ = writeln!(text, "  lost: {lost}; no other tier has them");
    }
    text
}

/// The plan, a paragraph for each step.
fn in_words(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let Step { unit, part, fault, source, rows, kept } = step;
        let rows = match rows {
            0 => String::new(),
            rows => format!(": {} rows", grouped(*rows)),
        };
        let _ = match source {
            Some(source) => {
                let _ = writeln!(text, "repair: {part}\n  {fault}");
                let _ = writeln!(text, "  {unit}{rows}, rebuilt from {}", source.name());
                kept.as_ref().map_or(Ok(()), |kept| writeln!(text, "  what it replaces is kept in {kept}"))
            }
            None => writeln!(
                text,
                "not repairable: {part}\n  {fault}\n  {unit}{rows}; no other tier has them all: put it back from a copy"
            ),
        };
    }
    if steps.is_empty() {
        text.push_str("no part needs a repair\n");
    }
    text
}
