//! `stk archive`: move old days into the cold store, and see what is there.
//!
//! Works on the stores themselves. A server that has the data directory archives by itself
//! (`archive.every_minutes`).

mod adopt;
mod lifecycle;
mod progress;
pub(super) mod restore;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::progress::Shown;
use super::serve::node_error;
use super::{CliError, Global};
use crate::config::Config;
use crate::market::{Kind, Timestamp, TradingDay};
use crate::server::archiver;
use crate::server::stores::Stores;
use crate::telemetry::say;
use crate::tiering::archive::origin::{self, Beside};
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::archive::run::{Archiver, Summary};
use crate::tiering::archive::snapshot::ReadError;
use crate::tiering::archive::status::UnitStatus;
use crate::tiering::archive::verify::{Bounds, Scrub, Scrubber};
use crate::tiering::archive::{
    Action, ArchiveError, ArchiveMetrics, ArchiveOptions, Clock, Planned, Waiting,
};
use crate::tiering::cold::{Cold, ColdError, ColdMetrics};
use crate::tiering::warm::Unit;

#[derive(Args)]
pub(super) struct ArchiveArgs {
    #[command(subcommand)]
    command: ArchiveCommand,
    /// Data directory, which no server may have open
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Directory or `s3://bucket/prefix` that is the archive
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum ArchiveCommand {
    /// Copy closed days into the archive, drop from warm what has been there long enough
    ///
    /// Interrupt it or kill it at any time: the next run goes on where this one stopped. Exits with 1
    /// if a day could not be done, with 4 if another archiver is at work.
    Run(RunArgs),
    /// Show where each day stands
    Status(SelectArgs),
    /// List what the archive holds
    List(SelectArgs),
    /// Read archived objects again and compare them with their manifests
    ///
    /// Bounded by --bytes and --time, it goes on where it stopped the last time. What it found damaged
    /// or missing is remembered until it is read again and sound, and is not dropped from warm. Exits
    /// with 1 if there is such.
    Verify(VerifyArgs),
    /// Bring archived days back to where they can be read, or into warm
    ///
    /// Objects, bytes, time and price are shown first.
    Restore(restore::RestoreArgs),
    /// Make this log the archive's own after it was put back from a backup, or lost
    ///
    /// A log that is older than its archive continues after the archive's offsets, and archives nothing
    /// before the archive is adopted: another server may still be writing the newer timeline.
    Adopt(adopt::AdoptArgs),
    /// Show or set at which age archived days go to Glacier and Deep Archive
    Lifecycle(lifecycle::LifecycleArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Copy the days before this one, whatever their age
    #[arg(long, value_name = "DAY")]
    before: Option<TradingDay>,
    /// Copy and drop these kinds alone
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    kind: Vec<Kind>,
    /// Bytes of data objects a second to and from the archive, at most: 20MB
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    limit_bandwidth: Option<u64>,
}

#[derive(Args)]
struct SelectArgs {
    /// These kinds alone
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    kind: Vec<Kind>,
    /// Days from this one on
    #[arg(long, value_name = "DAY")]
    from: Option<TradingDay>,
    /// Days up to this one
    #[arg(long, value_name = "DAY")]
    to: Option<TradingDay>,
}

#[derive(Args)]
struct VerifyArgs {
    /// End after so many bytes, with the object in which they are reached: 10GB
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    bytes: Option<u64>,
    /// End after so long, with the object in which it is reached: 30m
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    time: Option<Duration>,
    /// Begin anew
    #[arg(long)]
    restart: bool,
    /// Bytes of data objects a second from the archive, at most: 20MB
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    limit_bandwidth: Option<u64>,
}

pub(super) fn kind(text: &str) -> Result<Kind, String> {
    Kind::from_name(text).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("a kind is one of {}", names.join(", "))
    })
}

/// Reads a number of bytes: `500000`, `64KiB`, `20MB`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => 0,
    };
    let count: Option<u64> = digits.replace('_', "").parse().ok();
    let read = count.and_then(|count| count.checked_mul(factor)).filter(|bytes| *bytes > 0);
    read.ok_or_else(|| "write a number of bytes, such as 500000, 64KiB or 20MB".to_owned())
}

pub(super) fn run(args: ArchiveArgs, global: &Global) -> Result<(), CliError> {
    crate::telemetry::init("warn", super::colour());
    let config = global.resolve_stores(args.data.as_deref(), args.url.as_deref())?.config();
    super::runtime()?.block_on(async {
        let work = async {
            match args.command {
                ArchiveCommand::Run(run) => archive(&run, &config, args.json).await,
                ArchiveCommand::Status(select) => status(&select, &config, args.json).await,
                ArchiveCommand::List(select) => list(&select, &config, args.json).await,
                ArchiveCommand::Verify(verify) => scrub(&verify, &config, args.json).await,
                ArchiveCommand::Restore(args) => restore::run(&args, &config).await,
                ArchiveCommand::Adopt(args) => adopt::run(&args, &config).await,
                ArchiveCommand::Lifecycle(args) => lifecycle::run(&args, &config).await,
            }
        };
        tokio::select! {
            done = work => done,
            _ = super::stop_signal() => Err(CliError::interrupted()),
        }
    })
}

/// Opens the archive that the configuration names.
fn open_cold(config: &Config) -> Result<Arc<dyn Cold>, CliError> {
    crate::server::stores::open_cold(config, &ColdMetrics::default()).map_err(|error| cold_error(&error))
}

/// The archive that the configuration names, as it is read.
pub(super) fn open_reader(config: &Config) -> Result<Arc<ArchiveReader>, CliError> {
    Ok(Arc::new(ArchiveReader::new(open_cold(config)?)))
}

fn cold_error(error: &ColdError) -> CliError {
    match error {
        ColdError::Refused { .. } => CliError::failed(error).hint(
            "check archive.url, archive.s3_endpoint and archive.s3_region, and the keys in AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY",
        ),
        ColdError::Unknown { .. } => {
            CliError::failed(error).hint("run it again: what was done is not done twice")
        }
        ColdError::Unsupported { .. } => {
            CliError::usage(error).hint("storage classes are S3's; a directory is always read at once")
        }
        _ => CliError::failed(error),
    }
}

fn read_error(error: &ReadError) -> CliError {
    match error {
        ReadError::Cold(error) => cold_error(error),
        _ => CliError::failed(error).hint("`stk archive verify` says what else is not as it was written"),
    }
}

pub(super) fn archive_error(error: ArchiveError) -> CliError {
    match &error {
        ArchiveError::Leased { .. } => {
            CliError::in_use(&error).hint("one archiver at a time works on an archive; run it again later")
        }
        ArchiveError::LeaseLost { .. } => {
            CliError::failed(&error).hint("what was committed stands; `stk archive run` goes on from there")
        }
        ArchiveError::OtherLog { .. } => CliError::failed(&error).hint(
            "set archive.url to a place of its own; history reads one archive, the other stays as it is",
        ),
        ArchiveError::OtherTimeline { is_parted: false, .. } => CliError::failed(&error).hint(
            "this log was put back from a backup, or is a copy. If no other server writes the newer one, run \
             `stk archive adopt`; otherwise set archive.url to another place",
        ),
        ArchiveError::OtherTimeline { is_parted: true, .. } => CliError::failed(&error).hint(
            "both have used the same offsets. Set archive.url to another place: `stk archive copy` moves the days \
             that are this log's there",
        ),
        ArchiveError::NotHere { .. } => CliError::failed(&error)
            .hint("set archive.url to where they are; `stk archive copy` moves an archive to another place"),
        ArchiveError::Unconditional { .. } => CliError::failed(&error)
            .hint("use a store that knows conditional writes (`If-None-Match: *`), or a directory"),
        ArchiveError::Differs { .. } | ArchiveError::Damaged { .. } => {
            CliError::failed(&error).hint("`stk archive verify` tells what is whole; nothing was dropped")
        }
        _ => CliError::failed(error),
    }
}

async fn archive(args: &RunArgs, config: &Config, json: bool) -> Result<(), CliError> {
    let cold = open_cold(config)?;
    let stores =
        if args.dry_run { Stores::open_existing(config).await } else { Stores::open_to_move(config).await };
    let stores = stores.map_err(node_error)?;
    let options = ArchiveOptions {
        before: args.before,
        kinds: args.kind.clone(),
        bandwidth: args.limit_bandwidth,
        log: Some(Beside::new(stores.bus.clone())),
        ..archiver::options(config)
    };
    let warm = stores.warm.clone();
    let archiver = Archiver::new(cold, warm, options, Clock::default(), ArchiveMetrics::default());
    let done = if args.dry_run {
        let planned = async {
            origin::check(&*stores.cold(), &Beside::new(stores.bus.clone())).await?;
            archiver.plan().await
        };
        match planned.await {
            Ok((planned, waiting)) => print_plan(&planned, json).inspect(|()| say_waiting(&waiting)),
            Err(error) => Err(archive_error(error)),
        }
    } else {
        let shown = Shown::of_run();
        let done = archiver.run(&shown.progress()).await;
        shown.clear();
        match done {
            Ok(summary) => print_summary(&summary, json),
            Err(error) => Err(archive_error(error)),
        }
    };
    drop(archiver);
    stores.close().await;
    done
}

pub(super) fn print(text: &str) -> Result<(), CliError> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| CliError::stdout(&error))
}

fn action(action: Action) -> String {
    match action {
        Action::Copy => "copy".to_owned(),
        Action::Supplement(number) => format!("supplement {number}"),
        Action::Drop => "drop".to_owned(),
    }
}

fn print_plan(planned: &[Planned], json: bool) -> Result<(), CliError> {
    if json {
        let units = planned.iter().map(|planned| {
            json!({
                "date": planned.unit.day.to_string(),
                "kind": planned.unit.kind.name(),
                "action": action(planned.action),
                "rows": planned.rows,
                "warm_bytes": planned.bytes,
            })
        });
        return print(&format!("{}\n", units.collect::<Value>()));
    }
    if planned.is_empty() {
        say("nothing is due");
        return Ok(());
    }
    let rows = planned.iter().map(|planned| {
        let unit = planned.unit;
        [
            unit.day.to_string(),
            unit.kind.name().to_owned(),
            action(planned.action),
            grouped(planned.rows),
            grouped(planned.bytes),
        ]
    });
    print(&table(["day", "kind", "to do", "rows", "bytes in warm"], rows, 3))
}

/// Lines about what is not due yet; the rest is counted.
const WAITING_LINES_MAX: usize = 10;

/// Says why days are not archived yet, a line for each day and reason.
fn say_waiting(waiting: &[(Unit, Waiting)]) {
    let now = Timestamp::now();
    let mut lines: Vec<String> =
        waiting.iter().map(|(unit, why)| format!("{}: {}", unit.day, why.in_words(now))).collect();
    lines.sort_unstable();
    lines.dedup();
    for line in lines.iter().take(WAITING_LINES_MAX) {
        say(line);
    }
    if lines.len() > WAITING_LINES_MAX {
        say(format_args!(
            "{} more days are not due yet; `stk archive status` lists them",
            lines.len() - WAITING_LINES_MAX
        ));
    }
}

fn print_summary(summary: &Summary, json: bool) -> Result<(), CliError> {
    if json {
        let failures = summary.failures.iter().map(|(unit, error)| {
            json!({
                "date": unit.day.to_string(),
                "kind": unit.kind.name(),
                "error": error.to_string(),
            })
        });
        print(&format!(
            "{}\n",
            json!({
                "commits": summary.commits,
                "rows": summary.rows,
                "bytes": summary.bytes,
                "drops": summary.drops,
                "drops_pending": summary.drops_pending,
                "objects_removed": summary.objects_removed,
                "failures": failures.collect::<Value>(),
                "waiting": summary.waiting.iter().map(|(unit, why)| {
                    json!({
                        "date": unit.day.to_string(),
                        "kind": unit.kind.name(),
                        "reason": why.in_words(Timestamp::now()),
                    })
                }).collect::<Value>(),
            })
        ))?;
    } else {
        say(format_args!(
            "{} archived: {} rows, {} bytes; {} dropped from warm",
            counted(summary.commits, "unit"),
            grouped(summary.rows),
            grouped(summary.bytes),
            counted(summary.drops, "unit"),
        ));
        if summary.drops_pending > 0 {
            say(format_args!("{} to be dropped by a later run", counted(summary.drops_pending, "unit")));
        }
        if summary.objects_removed > 0 {
            say(format_args!("{} of interrupted runs removed", counted(summary.objects_removed, "object")));
        }
        say_waiting(&summary.waiting);
    }
    match &summary.failures[..] {
        [] => Ok(()),
        [(_, error)] => Err(archive_error(error.clone())),
        [(_, first), rest @ ..] => {
            for (_, error) in rest {
                say(format_args!("error: {error}"));
            }
            Err(archive_error(first.clone()))
        }
    }
}

pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number in groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Columns of equal width; from the `numbers`-th on they are right-aligned.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    numbers: usize,
) -> String {
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            line.push_str(&if column < numbers {
                format!("{cell:<width$}  ")
            } else {
                format!("{cell:>width$}  ")
            });
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

impl SelectArgs {
    fn takes(&self, unit: Unit) -> bool {
        (self.kind.is_empty() || self.kind.contains(&unit.kind))
            && self.from.is_none_or(|from| from <= unit.day)
            && self.to.is_none_or(|to| unit.day <= to)
    }
}

async fn units(args: &SelectArgs, config: &Config) -> Result<BTreeMap<Unit, UnitStatus>, CliError> {
    super::check_days(args.from, args.to)?;
    let cold = open_cold(config)?;
    let stores = Stores::open_existing(config).await.map_err(node_error)?;
    let warm = stores.warm.clone();
    let archiver =
        Archiver::new(cold, warm, archiver::options(config), Clock::default(), ArchiveMetrics::default());
    let found = archiver.status(|unit| args.takes(unit)).await;
    drop(archiver);
    stores.close().await;
    found.map_err(archive_error)
}

async fn status(args: &SelectArgs, config: &Config, json: bool) -> Result<(), CliError> {
    let (units, now) = (units(args, config).await?, Timestamp::now());
    if json {
        let units = units.iter().map(|(unit, of)| {
            json!({
                "date": unit.day.to_string(),
                "kind": unit.kind.name(),
                "warm_rows": of.warm_rows,
                "warm_bytes": of.warm_bytes,
                "archived_rows": of.archived_rows(),
                "archived_bytes": of.archived_bytes(),
                "manifests": of.manifests.len(),
                "step": of.step.as_ref().map(|(step, _)| step),
                "updated_at": of.step.as_ref().map(|(_, at)| at),
                "waiting": of.waiting.map(|why| why.in_words(now)),
            })
        });
        return print(&format!("{}\n", units.collect::<Value>()));
    }
    if units.is_empty() {
        say("neither warm nor the archive holds anything of that");
        return Ok(());
    }
    let rows = units.iter().map(|(unit, of)| {
        [
            unit.day.to_string(),
            unit.kind.name().to_owned(),
            of.step.as_ref().map_or("-", |(step, _)| step).to_owned(),
            grouped(of.warm_rows),
            grouped(of.warm_bytes),
            grouped(of.archived_rows()),
            grouped(of.archived_bytes()),
        ]
    });
    let head = ["day", "kind", "step", "rows in warm", "bytes", "archived rows", "bytes"];
    print(&table(head, rows, 3))?;
    let waiting: Vec<_> = units.iter().filter_map(|(unit, of)| Some((*unit, of.waiting?))).collect();
    say_waiting(&waiting);
    Ok(())
}

async fn list(args: &SelectArgs, config: &Config, json: bool) -> Result<(), CliError> {
    super::check_days(args.from, args.to)?;
    let cold = open_cold(config)?;
    let archived = crate::tiering::archive::status::archived(&cold, |unit| args.takes(unit)).await;
    let archived = archived.map_err(archive_error)?;
    if json {
        // A manifest a line, as it is stored.
        let mut out = String::new();
        for manifest in archived.values().flatten() {
            out.push_str(&serde_json::to_string(manifest).map_err(CliError::failed)?);
            out.push('\n');
        }
        return print(&out);
    }
    let files = archived.values().flatten().flat_map(|manifest| {
        manifest.files.iter().map(move |file| {
            [
                manifest.date.to_string(),
                manifest.kind.clone(),
                format!("{:04}", manifest.number),
                format!(
                    "{} to {}",
                    file.symbol_min.as_deref().unwrap_or("-"),
                    file.symbol_max.as_deref().unwrap_or("-")
                ),
                grouped(file.digest.rows),
                grouped(file.bytes),
                file.key.clone(),
            ]
        })
    });
    let text = table(["day", "kind", "manifest", "symbols", "rows", "bytes", "object"], files, 4);
    if text.lines().count() == 1 {
        say("the archive holds nothing of that");
        return Ok(());
    }
    print(&text)
}

async fn scrub(args: &VerifyArgs, config: &Config, json: bool) -> Result<(), CliError> {
    let cold = open_cold(config)?;
    let metrics = ArchiveMetrics::default();
    let scrubber = Scrubber::new(cold, args.limit_bandwidth, Clock::default(), metrics);
    let bounds = Bounds { bytes: args.bytes.unwrap_or(u64::MAX), time: args.time.unwrap_or(Duration::MAX) };
    let shown = Shown::of_scrub();
    let done = scrubber.run(bounds, args.restart, &shown.progress()).await;
    shown.clear();
    let scrub = done.map_err(archive_error)?;
    if json {
        print(&format!("{}\n", serde_json::to_string(&scrub).map_err(CliError::failed)?))?;
    } else {
        print_scrub(&scrub);
    }
    match scrub.faults_found + scrub.known.len() as u64 + scrub.known_more {
        0 => Ok(()),
        count => Err(CliError::failed(format!("{} damaged or missing", counted(count, "object")))
            .hint("put back from a copy what is named above, then run `stk archive verify --restart`")),
    }
}

fn print_scrub(scrub: &Scrub) {
    say(format_args!(
        "{} of {} read: {} rows, {} bytes; {}",
        counted(scrub.files, "object"),
        counted(scrub.manifests, "manifest"),
        grouped(scrub.rows),
        grouped(scrub.bytes),
        if scrub.is_finished { "that is all" } else { "the next call goes on from here" },
    ));
    if scrub.frozen > 0 {
        say(format_args!("{} frozen: restore them to have them read", counted(scrub.frozen, "object")));
    }
    for fault in &scrub.faults {
        say(format_args!("{}: {}", fault.key, fault.reason));
    }
    for fault in &scrub.known {
        say(format_args!("{}: {} (found before, not read again yet)", fault.key, fault.reason));
    }
    let more = scrub.faults_untold();
    if more > 0 {
        say(format_args!("and {more} more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_their_unit() {
        assert_eq!(bytes("500_000"), Ok(500_000));
        assert_eq!(bytes("20MB"), Ok(20_000_000));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        for wrong in ["", "0", "MB", "-1", "1.5MB", "20 MB", "20mb", "99999999TB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "1"], ["bcd", "22"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["x", "n"], rows.into_iter(), 1), "x     n\na     1\nbcd  22\n");
    }
}
