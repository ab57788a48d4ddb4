//! `stk archive restore`: objects out of Glacier, and days back into warm.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{archive_error, kind, open_reader, read_error};
use crate::cli::CliError;
use crate::cli::serve::node_error;
use crate::config::Config;
use crate::market::{Kind, Timestamp, TradingDay};
use crate::server::archiver;
use crate::server::stores::Stores;
use crate::telemetry::say;
use crate::tiering::archive::lease::Lease;
use crate::tiering::archive::read::{ArchiveReader, FrozenFile};
use crate::tiering::archive::restore::{self, Estimate, PRICES_OF, RestoreError, Survey};
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::{ArchiveMetrics, Clock};
use crate::tiering::cold::RestoreTier;
use crate::tiering::warm::Unit;

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
    /// Take the rows back into warm, proven equal to what was archived. No server may run
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

pub(super) async fn run(args: &RestoreArgs, config: &Config) -> Result<(), CliError> {
    crate::cli::check_days(args.from, args.to)?;
    let stores = if args.into_warm && !args.dry_run {
        Some(Stores::open_to_move(config).await.map_err(node_error)?)
    } else {
        None
    };
    let reader = match &stores {
        Some(stores) => stores.archive.clone(),
        None => open_reader(config)?,
    };
    let kinds = if args.kind.is_empty() { Kind::ALL.to_vec() } else { args.kind.clone() };
    let spans = if args.days.is_empty() {
        let first = args.from.unwrap_or(Timestamp::MIN.trading_day());
        vec![first..=args.to.unwrap_or(Timestamp::MAX.trading_day())]
    } else {
        restore::spans(args.days.iter().copied())
    };
    let survey = restore::survey(&reader, &kinds, &spans).await.map_err(|error| read_error(&error))?;
    if survey.ready.is_empty() && survey.frozen.is_empty() {
        return Err(CliError::failed(format!("{}: nothing of these days is archived", reader.cold().name()))
            .hint("`stk archive list` shows what is"));
    }
    say(in_words(&survey));
    let how = How {
        tier: args.how.tier.into(),
        days: args.how.copy_days,
        yes: args.yes,
        dry_run: args.dry_run,
        wait: args.wait,
    };
    let all_ready = bring_back(&reader, &survey.frozen, how).await?;
    let Some(stores) = stores else { return Ok(()) };
    if !all_ready {
        return Err(CliError::failed("the rows can't be taken into warm before they can be read")
            .hint("run it again once they can, or with --wait"));
    }
    let taken = into_warm(&reader, &stores, config, &kinds, &spans).await;
    stores.close().await;
    taken
}

fn in_words(survey: &Survey) -> String {
    let bytes: u64 = survey.ready.iter().map(|file| file.file.bytes).sum();
    let ready = format!("{} can be read now ({})", objects(survey.ready.len()), HumanBytes(bytes));
    let frozen: u64 = survey.frozen.iter().map(|frozen| frozen.file.file.bytes).sum();
    match survey.frozen.len() {
        0 => ready,
        count => format!("{ready}, {} can't ({})", objects(count), HumanBytes(frozen)),
    }
}

fn objects(count: usize) -> String {
    if count == 1 { "1 object".to_owned() } else { format!("{count} objects") }
}

/// Tells what bringing `frozen` back takes, asks, and does it. Whether all can be read then.
pub(in crate::cli) async fn bring_back(
    reader: &Arc<ArchiveReader>,
    frozen: &[FrozenFile],
    how: How,
) -> Result<bool, CliError> {
    if frozen.is_empty() {
        return Ok(true);
    }
    let estimate = restore::estimate(frozen, how.tier, how.days).map_err(restore_error)?;
    say(estimate_in_words(&estimate, how.days));
    if how.dry_run {
        return Ok(false);
    }
    if estimate.objects > 0 {
        if !how.yes && !confirmed(&format!("ask for {}?", objects(estimate.objects as usize)))? {
            return Err(CliError::interrupted());
        }
        let progress = bar(estimate.objects, "{bar:30} {pos} of {len} objects asked for");
        let asked = restore::request(&**reader.cold(), frozen, how.tier, how.days, |_| progress.inc(1)).await;
        progress.finish_and_clear();
        asked.map_err(|error| read_error(&error))?;
        say(format!("asked for {}", objects(estimate.objects as usize)));
    }
    if !how.wait {
        say("hint: the same command with --wait waits until they can be read");
        return Ok(false);
    }
    let progress = bar(frozen.len() as u64, "{bar:30} {pos} of {len} objects can be read, {elapsed} so far");
    progress.enable_steady_tick(Duration::from_secs(1));
    let seen = |ready: usize| progress.set_position(ready as u64);
    let waited = restore::wait(&**reader.cold(), frozen, interval(how.tier), seen).await;
    progress.finish_and_clear();
    waited.map_err(|error| read_error(&error))?;
    say(format!("{} can be read for {} days", objects(frozen.len()), how.days));
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
        count => format!("; {} on the way already", objects(count as usize)),
    };
    format!(
        "to bring back {} ({}) takes {time} and costs about ${:.2}, with the copies for {days} days (an estimate by \
         {PRICES_OF}){under_way}",
        objects(estimate.objects as usize),
        HumanBytes(estimate.bytes),
        estimate.dollars,
    )
}

/// Asks a person. Where there is none, it takes --yes.
fn confirmed(question: &str) -> Result<bool, CliError> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CliError::usage("nothing was asked for: there is nobody to confirm it").hint("add --yes"));
    }
    let mut stderr = std::io::stderr().lock();
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    asked.map_err(|error| CliError::failed(format!("stderr: {error}")))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| CliError::failed(format!("stdin: {error}")))?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn restore_error(error: RestoreError) -> CliError {
    match &error {
        RestoreError::Read(error) => read_error(error),
        RestoreError::NotExpedited { .. } => CliError::usage(&error).hint("take --tier standard or bulk"),
        RestoreError::Frozen { .. } => CliError::failed(&error).hint("add --wait"),
        RestoreError::Unequal { .. } => {
            CliError::failed(&error).hint("`stk archive verify` says which object is damaged")
        }
        RestoreError::OtherLog { .. } => {
            CliError::failed(&error).hint("a server with an empty data directory answers out of it")
        }
        RestoreError::Ahead { .. } => CliError::failed(&error)
            .hint("let `stk serve` come to the log's end first; history has these rows from the archive"),
        RestoreError::Warm(error) => node_error(error.clone().into()),
    }
}

/// Takes the days back into warm, while nobody archives or drops: by the lease, and by the manifests as
/// they are under it, which may be more than when the restore was asked for.
async fn into_warm(
    reader: &Arc<ArchiveReader>,
    stores: &Stores,
    config: &Config,
    kinds: &[Kind],
    spans: &[std::ops::RangeInclusive<TradingDay>],
) -> Result<(), CliError> {
    let archiver = Archiver::new(
        stores.cold(),
        stores.warm.clone(),
        archiver::options(config),
        Clock::default(),
        ArchiveMetrics::default(),
    );
    let lease = archiver.hold().await.map_err(archive_error)?;
    let taken = into_warm_leased(reader, stores, &lease, kinds, spans).await;
    let released = lease.release().await.map_err(archive_error);
    taken.and(released)
}

async fn into_warm_leased(
    reader: &Arc<ArchiveReader>,
    stores: &Stores,
    lease: &Lease,
    kinds: &[Kind],
    spans: &[std::ops::RangeInclusive<TradingDay>],
) -> Result<(), CliError> {
    let survey = restore::survey(reader, kinds, spans).await.map_err(|error| read_error(&error))?;
    for snapshot in &survey.snapshots {
        for (day, _) in snapshot.days() {
            let unit = Unit { day, kind: snapshot.kind() };
            lease.check().map_err(archive_error)?;
            let rows = restore::into_warm(reader, snapshot, &*stores.warm, unit).await;
            let rows = rows.map_err(restore_error)?;
            say(format!("{unit}: {rows} rows are in warm again, equal to what was archived"));
        }
    }
    Ok(())
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
        let survey = restore::survey(reader, &[kind], &spans).await.map_err(|error| read_error(&error))?;
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
