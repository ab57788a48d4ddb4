//! `stk archive`: move old days into the cold store, and see what is there.
//!
//! Works on the stores themselves, or has a running server do it. A server also archives by itself
//! (`archive.every_minutes`).

mod adopt;
mod copy;
mod give_up;
mod lifecycle;
mod progress;
pub(super) mod restore;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::progress::Shown;
use super::desk::{Desk, DeskArgs, Needs, open_cold, refusal, unexpected};
use super::{CliError, Global};
use crate::config::Config;
use crate::market::{Kind, Timestamp, TradingDay};
use crate::server::admin::{Answer, Heard, Order, RunAnswer, RunOrder, Tell, VerifyOrder};
use crate::server::stores;
use crate::telemetry::say;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::archive::verify::Scrub;
use crate::tiering::archive::{Action, Planned, Progress, Waiting};
use crate::tiering::audit::Selection;
use crate::tiering::warm::Unit;

#[derive(Args)]
pub(super) struct ArchiveArgs {
    #[command(subcommand)]
    command: ArchiveCommand,
    #[command(flatten)]
    desk: DeskArgs,
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
    /// Give up days that warm has dropped and no archive holds any more
    ///
    /// Where the archive that held them is gone for good, history refuses to answer about their days, and every
    /// run of the archive fails for them. Once they are given up, history answers the rest and names what is
    /// lost. It can't be taken back.
    GiveUp(give_up::GiveUpArgs),
    /// Copy the archive to another place, and verify the copy before archive.url is changed
    ///
    /// FROM is not changed, and may be in use. Interrupt the copy at any time: no program takes an unfinished
    /// copy for an archive, and the same command continues it. Run it again after the switch to add days that
    /// were archived in FROM meanwhile. Exits with 1 if something in FROM is damaged or frozen.
    Copy(copy::CopyArgs),
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
    use ArchiveCommand as Command;
    crate::telemetry::init("warn", super::colour());
    let json = args.json;
    match &args.command {
        Command::Status(select) | Command::List(select) => super::check_days(select.from, select.to)?,
        Command::Restore(restore) => restore.check()?,
        Command::Run(_)
        | Command::Verify(_)
        | Command::Adopt(_)
        | Command::GiveUp(_)
        | Command::Copy(_)
        | Command::Lifecycle(_) => {}
    }
    let (needs, name) = match &args.command {
        Command::Run(run) if run.dry_run => (Needs::ToRead, "archive run"),
        Command::Run(_) => (Needs::ToMove, "archive run"),
        Command::Status(_) => (Needs::ToRead, "archive status"),
        Command::List(_) => (Needs::Archive, "archive list"),
        Command::Verify(_) => (Needs::Archive, "archive verify"),
        Command::Restore(restore) => (restore.needs(), "archive restore"),
        Command::Adopt(_) => (Needs::ToMove, "archive adopt"),
        Command::GiveUp(_) => (Needs::ToMove, "archive give-up"),
        Command::Copy(copy) => {
            args.desk
                .refuse_server("`stk archive copy` opens both archives itself, beside a running server")?;
            let config = args.desk.config(global)?;
            return super::runtime()?.block_on(async {
                tokio::select! {
                    done = copy::run(copy, &config, json) => done,
                    _ = super::stop_signal() => Err(CliError::interrupted().after("the same command continues")),
                }
            });
        }
        Command::Lifecycle(lifecycle) => {
            args.desk.refuse_server("lifecycle rules are set in the archive's bucket, without a server")?;
            let config = args.desk.config(global)?;
            return super::runtime()?.block_on(async {
                tokio::select! {
                    done = lifecycle::run(lifecycle, &config) => done,
                    _ = super::stop_signal() => Err(CliError::interrupted()),
                }
            });
        }
    };
    super::runtime()?.block_on(async {
        let work = async {
            let desk = args.desk.open(global, needs, name).await?;
            let done = match args.command {
                Command::Run(run) => archive(run, &desk, json).await,
                Command::Status(select) => status(select, &desk, json).await,
                Command::List(select) => list(select, &desk, json).await,
                Command::Verify(verify) => scrub(&verify, &desk, &args.desk.config(global)?, json).await,
                Command::Restore(restore) => restore::run(&restore, &desk).await,
                Command::Adopt(adopt) => adopt::run(&adopt, &desk, json).await,
                Command::GiveUp(give_up) => give_up::run(&give_up, &desk, json).await,
                Command::Lifecycle(_) | Command::Copy(_) => Ok(()),
            };
            desk.close().await;
            done
        };
        tokio::select! {
            done = work => done,
            _ = super::stop_signal() => Err(args.desk.interrupted()),
        }
    })
}

/// The archive that the configuration names, as it is read.
pub(super) fn open_reader(config: &Config) -> Result<Arc<ArchiveReader>, CliError> {
    Ok(Arc::new(ArchiveReader::new(open_cold(config)?)))
}

/// Passes the progress of an archive run or a verification to `progress`.
fn tell(progress: Progress) -> Tell {
    Arc::new(move |heard| {
        if let Heard::Archive(event) = heard {
            progress(event);
        }
    })
}

async fn archive(args: RunArgs, desk: &Desk, json: bool) -> Result<(), CliError> {
    let order = RunOrder { before: args.before, kinds: args.kind, bandwidth: args.limit_bandwidth };
    if args.dry_run {
        return match desk.ask_quietly(Order::ArchivePlan(order)).await? {
            Answer::Plan { planned, waiting } => {
                print_plan(&planned, json).inspect(|()| say_waiting(&waiting))
            }
            _ => Err(unexpected()),
        };
    }
    let shown = Shown::of_run();
    let done = desk.ask(Order::ArchiveRun(order), &tell(shown.progress())).await;
    shown.clear();
    match done? {
        Answer::Run(summary) => print_summary(&summary, json),
        _ => Err(unexpected()),
    }
}

pub(super) fn print(text: &str) -> Result<(), CliError> {
    crate::cli::stdout().write_all(text.as_bytes()).map_err(|error| CliError::stdout(&error))
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

fn print_summary(summary: &RunAnswer, json: bool) -> Result<(), CliError> {
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
        [(_, error)] => Err(refusal(error.clone())),
        [(_, first), rest @ ..] => {
            for (_, error) in rest {
                say(format_args!("error: {error}"));
            }
            Err(refusal(first.clone()))
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
    fn selection(self) -> Selection {
        Selection { kinds: self.kind, from: self.from, to: self.to }
    }
}

async fn status(args: SelectArgs, desk: &Desk, json: bool) -> Result<(), CliError> {
    let Answer::Status(units) = desk.ask_quietly(Order::ArchiveStatus(args.selection())).await? else {
        return Err(unexpected());
    };
    let now = Timestamp::now();
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

async fn list(args: SelectArgs, desk: &Desk, json: bool) -> Result<(), CliError> {
    let Answer::List(manifests) = desk.ask_quietly(Order::ArchiveList(args.selection())).await? else {
        return Err(unexpected());
    };
    if json {
        // A manifest a line, as it is stored.
        let mut out = String::new();
        for manifest in &manifests {
            out.push_str(&serde_json::to_string(manifest).map_err(CliError::failed)?);
            out.push('\n');
        }
        return print(&out);
    }
    let files = manifests.iter().flat_map(|manifest| {
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

async fn scrub(args: &VerifyArgs, desk: &Desk, config: &Config, json: bool) -> Result<(), CliError> {
    let order = VerifyOrder {
        bytes: args.bytes,
        time_ms: args.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        restart: args.restart,
        bandwidth: args.limit_bandwidth,
    };
    let shown = Shown::of_scrub();
    let done = desk.ask(Order::ArchiveVerify(order), &tell(shown.progress())).await;
    shown.clear();
    let Answer::Verify(scrub) = done? else { return Err(unexpected()) };
    if json {
        print(&format!("{}\n", serde_json::to_string(&scrub).map_err(CliError::failed)?))?;
    } else {
        print_scrub(&scrub);
    }
    let standing = check_standing(desk, config).await;
    match scrub.faults_found + scrub.known.len() as u64 + scrub.known_more {
        0 => standing,
        count => Err(CliError::failed(format!("{} damaged or missing", counted(count, "object")))
            .hint(
                "`stk audit --repair` rebuilds objects and manifests whose rows another tier has; put the others back \
                 from a copy, then run `stk archive verify --restart`",
            )),
    }
}

/// Refuses an archive whose rows are of another log than the one beside it, or of another timeline, and one that lacks
/// what warm has dropped.
async fn check_standing(desk: &Desk, config: &Config) -> Result<(), CliError> {
    if let Desk::There(_) = desk {
        return desk.ask_quietly(Order::ArchiveStanding).await.map(drop);
    }
    match stores::archive_standing(config, &open_cold(config)?).await {
        Ok(None) => Ok(()),
        Ok(Some(error)) if error.is_passing() => {
            say(format_args!("the archive was not compared with what warm has dropped: {error}"));
            Ok(())
        }
        Ok(Some(error)) => Err(refusal(error.into())),
        Err(error) => {
            say(format_args!("the archive was not compared with the log: {error}"));
            Ok(())
        }
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
