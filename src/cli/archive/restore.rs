//! `stk archive restore`: objects out of Glacier, and days back into warm.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::kind;
use crate::cli::CliError;
use crate::cli::desk::{Desk, Needs, refusal, unexpected};
use crate::market::{Kind, TradingDay};
use crate::server::admin::{Answer, Heard, Order, RestoreOrder, Surveyed, Tell};
use crate::telemetry::say;
use crate::tiering::archive::read::{ArchiveReader, FrozenFile};
use crate::tiering::archive::restore::{self, Estimate, PRICES_OF};
use crate::tiering::cold::RestoreTier;

#[derive(Args)]
#[command(override_usage = "stk archive restore [OPTIONS] <DAY>...\n       \
                            stk archive restore [OPTIONS] --from <DAY> [--to <DAY>]")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct RestoreArgs {
    /// Trading days (2025-01-02)
    #[arg(value_name = "DAY", required_unless_present_any = ["from", "to"], conflicts_with_all = ["from", "to"])]
    days: Vec<TradingDay>,
    /// First trading day; without it, the first there is
    #[arg(long, value_name = "DAY")]
    from: Option<TradingDay>,
    /// Last trading day; without it, the last there is
    #[arg(long, value_name = "DAY")]
    to: Option<TradingDay>,
    /// Kinds of rows, separated by commas: trade, quote, bar, …; without it, all
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kind)]
    kind: Vec<Kind>,
    #[command(flatten)]
    how: HowArgs,
    /// Wait until all can be read, and show how far it is
    #[arg(long)]
    wait: bool,
    /// Copy the rows back into warm, and verify that they equal what was archived
    #[arg(long)]
    into_warm: bool,
    /// Say what it would take and cost, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// How objects are brought back.
#[derive(Args, Clone, Copy)]
pub(super) struct HowArgs {
    /// How quickly: expedited (minutes, not from Deep Archive), standard (hours), bulk (up to two days)
    #[arg(long, value_enum, default_value_t = TierName::Standard, value_name = "TIER")]
    tier: TierName,
    /// How many days the copies can be read
    #[arg(long = "days", value_name = "DAYS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=365))]
    copy_days: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum TierName {
    Expedited,
    Standard,
    Bulk,
}

impl From<TierName> for RestoreTier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Expedited => Self::Expedited,
            TierName::Standard => Self::Standard,
            TierName::Bulk => Self::Bulk,
        }
    }
}

/// What is asked for of archived objects.
#[derive(Clone, Copy)]
pub(in crate::cli) struct How {
    pub(in crate::cli) tier: RestoreTier,
    /// How long copies can be read.
    pub(in crate::cli) days: u32,
    pub(in crate::cli) yes: bool,
    pub(in crate::cli) dry_run: bool,
    pub(in crate::cli) wait: bool,
}

impl RestoreArgs {
    /// Refuses days that select none.
    pub(super) fn check(&self) -> Result<(), CliError> {
        crate::cli::check_days(self.from, self.to)
    }

    /// The stores that it takes.
    pub(super) fn needs(&self) -> Needs {
        if self.into_warm && !self.dry_run { Needs::ToMove } else { Needs::Archive }
    }
}

pub(super) async fn run(args: &RestoreArgs, desk: &Desk) -> Result<(), CliError> {
    let order = RestoreOrder {
        days: args.days.clone(),
        from: args.from,
        to: args.to,
        kinds: args.kind.clone(),
        tier: args.how.tier.into(),
        copy_days: args.how.copy_days,
    };
    let surveyed = survey(desk, &order).await?;
    say(in_words(&surveyed));
    let how = How {
        tier: order.tier,
        days: order.copy_days,
        yes: args.yes,
        dry_run: args.dry_run,
        wait: args.wait,
    };
    let all_ready = bring_back(&Ordered { desk, order: &order, surveyed }, how).await?;
    if args.needs() != Needs::ToMove {
        return Ok(());
    }
    if !all_ready {
        return Err(CliError::failed("the rows can't be copied into warm before they can be read")
            .hint("run it again once they can be read, or with `--wait`"));
    }
    let tell: Tell = Arc::new(|heard| {
        if let Heard::Restored { unit, rows } = heard {
            say(format!("{unit}: {rows} rows are in warm again, equal to what was archived"));
        }
    });
    desk.ask(Order::RestoreIntoWarm(order), &tell).await.map(drop)
}

async fn survey(desk: &Desk, order: &RestoreOrder) -> Result<Surveyed, CliError> {
    match desk.ask_quietly(Order::RestoreSurvey(order.clone())).await? {
        Answer::Survey(surveyed) => Ok(surveyed),
        _ => Err(unexpected()),
    }
}

fn in_words(surveyed: &Surveyed) -> String {
    let ready = format!("{} can be read now ({})", objects(surveyed.ready), HumanBytes(surveyed.ready_bytes));
    match surveyed.frozen {
        0 => ready,
        count => format!("{ready}, {} can't ({})", objects(count), HumanBytes(surveyed.frozen_bytes)),
    }
}

fn objects(count: u64) -> String {
    if count == 1 { "1 object".to_owned() } else { format!("{count} objects") }
}

/// Objects that can't be read yet, and how to have them restored.
pub(in crate::cli) trait Frozen {
    /// How many there are.
    fn count(&self) -> u64;
    /// What it takes to restore them.
    fn estimate(&self, how: How) -> Result<Estimate, CliError>;
    /// Requests copies of them. Calls `requested` after each.
    async fn request(&self, how: How, requested: impl Fn() + Send + Sync + 'static) -> Result<(), CliError>;
    /// Waits until all can be read; looks every `interval`, and calls `ready` with how many can be.
    async fn wait(&self, interval: Duration, ready: impl Fn(u64)) -> Result<(), CliError>;
}

/// Those of an order.
struct Ordered<'a> {
    desk: &'a Desk,
    order: &'a RestoreOrder,
    surveyed: Surveyed,
}

impl Frozen for Ordered<'_> {
    fn count(&self) -> u64 {
        self.surveyed.frozen
    }

    fn estimate(&self, _: How) -> Result<Estimate, CliError> {
        Ok(self.surveyed.estimate)
    }

    async fn request(&self, _: How, requested: impl Fn() + Send + Sync + 'static) -> Result<(), CliError> {
        let tell: Tell = Arc::new(move |heard| {
            if matches!(heard, Heard::Requested) {
                requested();
            }
        });
        self.desk.ask(Order::RestoreRequest(self.order.clone()), &tell).await.map(drop)
    }

    async fn wait(&self, interval: Duration, ready: impl Fn(u64)) -> Result<(), CliError> {
        loop {
            let left = survey(self.desk, self.order).await?.frozen;
            ready(self.count().saturating_sub(left));
            if left == 0 {
                return Ok(());
            }
            tokio::time::sleep(interval).await;
        }
    }
}

/// Those that an answer named, in an archive that this process reads.
pub(in crate::cli) struct Named<'a> {
    pub(in crate::cli) reader: &'a ArchiveReader,
    pub(in crate::cli) files: Vec<FrozenFile>,
}

impl Frozen for Named<'_> {
    fn count(&self) -> u64 {
        self.files.len() as u64
    }

    fn estimate(&self, how: How) -> Result<Estimate, CliError> {
        restore::estimate(&self.files, how.tier, how.days).map_err(|error| refusal(error.into()))
    }

    async fn request(&self, how: How, requested: impl Fn() + Send + Sync + 'static) -> Result<(), CliError> {
        let each = |_: &_| requested();
        let done = restore::request(&**self.reader.cold(), &self.files, how.tier, how.days, each).await;
        done.map_err(|error| refusal(error.into()))
    }

    async fn wait(&self, interval: Duration, ready: impl Fn(u64)) -> Result<(), CliError> {
        let seen = |count: usize| ready(count as u64);
        let waited = restore::wait(&**self.reader.cold(), &self.files, interval, seen).await;
        waited.map_err(|error| refusal(error.into()))
    }
}

/// Shows what restoring `frozen` takes, asks, and does it. Returns whether all can be read then.
pub(in crate::cli) async fn bring_back(frozen: &impl Frozen, how: How) -> Result<bool, CliError> {
    if frozen.count() == 0 {
        return Ok(true);
    }
    let estimate = frozen.estimate(how)?;
    say(estimate_in_words(&estimate, how.days));
    if how.dry_run {
        return Ok(false);
    }
    if estimate.objects > 0 {
        if !how.yes && !crate::cli::confirm::confirmed(&format!("ask for {}?", objects(estimate.objects)))? {
            return Err(CliError::interrupted());
        }
        let progress = bar(estimate.objects, "{bar:30} {pos} of {len} objects asked for");
        let shown = progress.clone();
        let asked = frozen.request(how, move || shown.inc(1)).await;
        progress.finish_and_clear();
        asked?;
        say(format!("asked for {}", objects(estimate.objects)));
    }
    if !how.wait {
        say("hint: the same command with --wait waits until they can be read");
        return Ok(false);
    }
    let progress = bar(frozen.count(), "{bar:30} {pos} of {len} objects can be read, {elapsed} so far");
    progress.enable_steady_tick(Duration::from_secs(1));
    let waited = frozen.wait(interval(how.tier), |ready| progress.set_position(ready)).await;
    progress.finish_and_clear();
    waited?;
    say(format!("{} can be read for {} days", objects(frozen.count()), how.days));
    Ok(true)
}

/// How often a store is asked whether objects have come: a request each is billed.
fn interval(tier: RestoreTier) -> Duration {
    match tier {
        RestoreTier::Expedited => Duration::from_secs(15),
        RestoreTier::Standard => Duration::from_mins(5),
        RestoreTier::Bulk => Duration::from_mins(15),
    }
}

fn bar(len: u64, template: &str) -> ProgressBar {
    // Drawn on a terminal alone.
    let progress = ProgressBar::new(len);
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress
}

fn estimate_in_words(estimate: &Estimate, days: u32) -> String {
    let (least, most) = estimate.time;
    let time = if most < Duration::from_hours(1) {
        format!("{} to {} minutes", least.as_secs() / 60, most.as_secs() / 60)
    } else {
        format!("{} to {} hours", least.as_secs() / 3600, most.as_secs() / 3600)
    };
    let under_way = match estimate.restoring {
        0 => String::new(),
        count => format!("; {} on the way already", objects(count)),
    };
    format!(
        "to bring back {} ({}) takes {time} and costs about ${:.2}, with the copies for {days} days (an estimate by \
         {PRICES_OF}){under_way}",
        objects(estimate.objects),
        HumanBytes(estimate.bytes),
        estimate.dollars,
    )
}

/// The archived objects that an answer named, for `stk history --restore`.
pub(in crate::cli) async fn named(
    reader: &ArchiveReader,
    keys: &[(Kind, TradingDay, String)],
) -> Result<Vec<FrozenFile>, CliError> {
    let mut found = Vec::new();
    let mut kinds: Vec<Kind> = keys.iter().map(|(kind, ..)| *kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let of_kind = || keys.iter().filter(|(other, ..)| *other == kind);
        let spans = restore::spans(of_kind().map(|(_, day, _)| *day));
        let survey = restore::survey(reader, &[kind], &spans).await.map_err(|error| refusal(error.into()))?;
        let is_named = |frozen: &FrozenFile| of_kind().any(|(.., key)| *key == frozen.file.file.key);
        found.extend(survey.frozen.into_iter().filter(is_named));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_and_time_are_said_with_their_source() {
        let estimate = Estimate {
            objects: 12,
            bytes: 3 << 30,
            restoring: 1,
            dollars: 0.0449,
            time: (Duration::from_hours(3), Duration::from_hours(5)),
        };
        assert_eq!(
            estimate_in_words(&estimate, 3),
            "to bring back 12 objects (3.00 GiB) takes 3 to 5 hours and costs about $0.04, with the copies for 3 days \
             (an estimate by list prices of us-east-1, June 2026); 1 object on the way already"
        );
    }
}
