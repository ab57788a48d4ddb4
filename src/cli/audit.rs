//! `stk audit`: where the chain from feed to log to warm to the archive holds, and where it does not.

mod repair;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::ops::Range;
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::archive::{counted, grouped, kind, print, table};
use super::desk::{DeskArgs, Needs, unexpected};
use super::{CliError, Global};
use crate::market::{Kind, RowDigest, TradingDay};
use crate::server::admin::{Answer, Heard, Order, Tell};
use crate::telemetry::say;
use crate::tiering::audit::{Event, Finding, Report, Selection, Severity, UnitReport, Verdict};

/// Producers and gaps that are listed for a person.
const LISTED_MAX: usize = 20;

#[derive(Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    desk: DeskArgs,
    /// This day alone
    #[arg(long, value_name = "DAY", conflicts_with_all = ["from", "to"])]
    day: Option<TradingDay>,
    /// Days from this one on
    #[arg(long, value_name = "DAY")]
    from: Option<TradingDay>,
    /// Days up to this one
    #[arg(long, value_name = "DAY")]
    to: Option<TradingDay>,
    /// These kinds alone
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    kind: Vec<Kind>,
    /// Print JSON, one object a line: partitions, producers, gaps, lost records, units, their rows, findings, the total
    #[arg(long)]
    json: bool,
    /// Build damaged or missing files and objects again from another tier; the plan is shown first
    #[arg(long)]
    repair: bool,
    /// Do not ask before --repair
    #[arg(long, short, requires = "repair")]
    yes: bool,
}

pub(super) fn run(args: AuditArgs, global: &Global) -> Result<(), CliError> {
    super::check_days(args.from, args.to)?;
    crate::telemetry::init("warn", super::colour());
    let selection = Selection { kinds: args.kind, from: args.day.or(args.from), to: args.day.or(args.to) };
    super::runtime()?.block_on(async {
        let work = async {
            if args.repair {
                repair::run(&args.desk, global, &selection, args.yes).await?;
            }
            let desk = args.desk.open(global, Needs::ToExamine, "audit").await?;
            let (shown, tell) = shown();
            let done = desk.ask(Order::Audit(selection), &tell).await;
            shown.finish_and_clear();
            desk.close().await;
            let Answer::Audit(report) = done? else { return Err(unexpected()) };
            print(&if args.json { lines(&report) } else { text(&report) })?;
            conclude(&report)
        };
        tokio::select! {
            done = work => done,
            _ = super::stop_signal() => Err(args.desk.interrupted()),
        }
    })
}

/// Progress on a terminal; elsewhere nothing.
fn shown() -> (ProgressBar, Tell) {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    let told = bar.clone();
    let tell: Tell = Arc::new(move |heard| {
        let Heard::Audit(event) = heard else { return };
        told.set_message(match event {
            Event::Log { partition, offset, next } => {
                format!("log: partition {partition}, offset {} of {}", grouped(offset), grouped(next))
            }
            Event::Unit(unit) => unit.to_string(),
        });
        told.tick();
    });
    (bar, tell)
}

/// The last word, on stderr.
fn conclude(report: &Report) -> Result<(), CliError> {
    let breaks = report.breaks();
    if breaks > 0 {
        let places = counted(breaks, "place");
        return Err(CliError::failed(format!("the chain is broken in {places}")).hint(
            "each is named, with what to do next; `stk audit --repair` shows what it can build again",
        ));
    }
    say(last_word(report));
    Ok(())
}

/// What is said of a chain that is broken nowhere. What can't be told, and what there was nothing to compare
/// with, does not hold for that.
fn last_word(report: &Report) -> String {
    let unknown = report.findings.len() as u64;
    let (holds, alone) = (report.days(Verdict::Holds), report.days(Verdict::Alone));
    let mut said = Vec::new();
    if unknown > 0 {
        let places = counted(unknown, "place");
        said.push(format!("nothing is broken, and {places} can't be told"));
    }
    if holds > 0 {
        said.push(format!("the chain holds: {}", counted(holds, "day")));
    }
    if alone > 0 {
        said.push(format!("in one store alone, and not compared: {}", counted(alone, "day")));
    }
    if said.is_empty() {
        said.push("there is nothing of that in any store".to_owned());
    }
    said.join("; ")
}

/// What a line of the table says of rows of a day.
#[derive(Default)]
struct Line {
    offsets: Option<Range<u64>>,
    log: Option<u64>,
    warm: Option<u64>,
    /// Whether what warm holds can't be read.
    is_unread: bool,
    pending: u64,
    archived: Option<u64>,
    verdict: Option<Verdict>,
}

impl Line {
    fn add(count: &mut Option<u64>, rows: u64) {
        *count.get_or_insert(0) += rows;
    }

    fn add_warm(&mut self, warm: Option<RowDigest>) {
        match warm {
            Some(warm) => Self::add(&mut self.warm, warm.rows),
            None => self.is_unread = true,
        }
    }

    /// Adds a unit, all partitions together.
    fn add_unit(&mut self, unit: &UnitReport) {
        for of in &unit.partitions {
            Self::add(&mut self.log, of.log_rows);
            self.pending += of.pending;
        }
        self.add_warm(unit.warm);
        if !unit.manifests.is_empty() {
            Self::add(&mut self.archived, unit.archived_rows());
        }
        self.verdict = self.verdict.max(Some(unit.verdict));
    }

    fn cells(&self, day: TradingDay, name: String) -> [String; 8] {
        let count = |count: Option<u64>| count.map(grouped).unwrap_or_default();
        [
            day.to_string(),
            name,
            self.verdict.map_or("", Verdict::name).to_owned(),
            self.offsets
                .as_ref()
                .map(|offsets| format!("{}..{}", offsets.start, offsets.end))
                .unwrap_or_default(),
            count(self.log),
            if self.is_unread { "?".to_owned() } else { count(self.warm) },
            if self.pending > 0 { grouped(self.pending) } else { String::new() },
            count(self.archived),
        ]
    }
}

fn text(report: &Report) -> String {
    let mut days: BTreeMap<TradingDay, (BTreeMap<u16, Line>, Line, Line)> = BTreeMap::new();
    for unit in &report.units {
        let (partitions, all, bars) = days.entry(unit.unit.day).or_default();
        if unit.unit.kind == Kind::Bar {
            bars.add_unit(unit);
            continue;
        }
        all.add_unit(unit);
        for of in &unit.partitions {
            let line = partitions.entry(of.partition).or_default();
            line.offsets = report
                .partitions
                .iter()
                .find(|log| log.partition == of.partition)
                .map(|log| log.first..log.mark.clamp(log.first, log.next));
            Line::add(&mut line.log, of.log_rows);
            line.add_warm(of.warm);
            line.pending += of.pending;
            line.verdict = line.verdict.max(Some(of.verdict));
        }
    }
    let rows = days.into_iter().flat_map(|(day, (partitions, all, bars))| {
        let partitions = partitions.into_iter().map(|(partition, line)| (partition.to_string(), line));
        let sums = [("all".to_owned(), all), ("bars".to_owned(), bars)];
        let sums = sums.into_iter().filter(|(_, line)| line.verdict.is_some());
        let lines: Vec<_> = partitions.chain(sums).map(|(name, line)| line.cells(day, name)).collect();
        lines
    });
    let head = [
        "day",
        "partition",
        "chain",
        "log offsets",
        "log rows",
        "warm rows",
        "not in warm yet",
        "archived rows",
    ];
    let mut out = if report.units.is_empty() { String::new() } else { table(head, rows, 3) };
    add_feeds(&mut out, report);
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Broken => "broken",
            Severity::Unknown => "unknown",
        };
        let _ = write!(out, "\n{severity}: {}: {finding}\n  next: {}\n", finding.link.name(), finding.next);
    }
    if report.findings_untold > 0 {
        let _ = write!(out, "\nand {} more\n", counted(report.findings_untold, "place"));
    }
    out
}

/// What the log says of the feeds.
fn add_feeds(out: &mut String, report: &Report) {
    let more = |out: &mut String, count: usize| {
        if count > LISTED_MAX {
            let _ = writeln!(out, "and {} more: --json lists them", count - LISTED_MAX);
        }
    };
    if !report.producers.is_empty() {
        let rows = report.producers.iter().take(LISTED_MAX).map(|producer| {
            let unknown = || "?".to_owned();
            [
                format!("{:016x}", producer.producer),
                format!("{} to {}", producer.first, producer.last),
                producer.batches.map_or_else(unknown, grouped),
                producer.batches.map_or_else(unknown, |_| grouped(producer.missing())),
                grouped(producer.records),
                grouped(producer.repeats),
            ]
        });
        let head = ["producer", "batches", "in the log", "not in the log", "records", "repeats"];
        let _ = write!(out, "\n{}", table(head, rows, 2));
        more(out, report.producers.len());
    }
    if !report.lost.is_empty() {
        let rows = report.lost.iter().take(LISTED_MAX).map(|lost| {
            let days = match lost.gone.days() {
                None => "unknown".to_owned(),
                Some((first, last)) if first == last => first.to_string(),
                Some((first, last)) => format!("{first} to {last}"),
            };
            [lost.partition.to_string(), format!("{}..{}", lost.first_offset, lost.next_offset), days]
        });
        let _ = write!(
            out,
            "\n{}",
            table(["partition", "offsets lost but for the archive", "days of lost rows"], rows, 3)
        );
        more(out, report.lost.len() + report.lost_untold as usize);
    }
    if !report.gaps.is_empty() {
        let rows = report.gaps.iter().take(LISTED_MAX).map(|(day, gap)| {
            [
                day.to_string(),
                gap.source.to_string(),
                gap.kind.name().to_owned(),
                gap.symbol.map_or_else(String::new, |symbol| symbol.to_string()),
                messages(gap.first, gap.last).map_or_else(|| "?".to_owned(), grouped),
            ]
        });
        let _ = write!(out, "\n{}", table(["day", "gap of", "kind", "symbol", "messages"], rows, 4));
        more(out, report.gaps.len() + usize::from(report.has_more_gaps));
    }
}

/// How many messages were missed, where the feed knows it.
fn messages(first: u64, last: u64) -> Option<u64> {
    (0 < first && first <= last).then(|| last - first + 1)
}

fn lines(report: &Report) -> String {
    let partitions = report.partitions.iter().map(|of| {
        json!({
            "line": "partition", "partition": of.partition, "log_first": of.first, "warm_next": of.mark,
            "log_next": of.next, "records": of.records, "repeats": of.repeats,
        })
    });
    let producers = report.producers.iter().map(|of| {
        json!({
            "line": "producer", "producer": format!("{:016x}", of.producer), "first": of.first, "last": of.last,
            "batches": of.batches, "missing": of.batches.map(|_| of.missing()), "first_missing": of.first_missing,
            "records": of.records, "repeats": of.repeats,
        })
    });
    let gaps = report.gaps.iter().map(|(day, gap)| {
        json!({
            "line": "gap", "date": day.to_string(), "source": gap.source, "kind": gap.kind.name(),
            "symbol": gap.symbol.map(|symbol| symbol.to_string()), "ts": gap.ts.to_string(),
            "first": gap.first, "last": gap.last, "messages": messages(gap.first, gap.last),
        })
    });
    let lost = report.lost.iter().map(|of| {
        let days = of.gone.days();
        json!({
            "line": "lost", "partition": of.partition, "first_offset": of.first_offset,
            "next_offset": of.next_offset, "first_day": days.map(|(first, _)| first),
            "last_day": days.map(|(_, last)| last),
        })
    });
    let units = report.units.iter().flat_map(unit_lines);
    let findings = report.findings.iter().map(finding_line);
    let total = json!({
        "line": "total",
        "verdict": report.verdict().name(),
        "days_hold": report.days(Verdict::Holds), "days_alone": report.days(Verdict::Alone),
        "breaks": report.breaks(), "units": report.units.len(),
        "findings_not_listed": report.findings_untold, "has_more_gaps": report.has_more_gaps,
        "lost_not_listed": report.lost_untold,
        "producers_not_listed_records": report.producers_untold_records,
    });
    let all = partitions.chain(producers).chain(gaps).chain(lost).chain(units).chain(findings);
    all.chain(std::iter::once(total)).fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "{line}");
        out
    })
}

fn unit_lines(of: &UnitReport) -> Vec<Value> {
    let (date, kind) = (of.unit.day.to_string(), of.unit.kind.name());
    let rows = of.partitions.iter().map(|part| {
        json!({
            "line": "rows", "date": date, "kind": kind, "partition": part.partition, "log_rows": part.log_rows,
            "first_offset": part.offsets.start, "next_offset": part.offsets.end, "log": part.log,
            "warm": part.warm, "pending_rows": part.pending, "verdict": part.verdict.name(),
        })
    });
    let manifests = of.manifests.iter().map(|manifest| {
        json!({
            "number": manifest.number, "digest": manifest.digest, "is_in_warm": manifest.warm,
            "is_in_log": manifest.log,
        })
    });
    let unit = json!({
        "line": "unit", "date": date, "kind": kind, "warm": of.warm, "dropped_below": of.dropped,
        "is_restored": of.is_restored, "archived_rows": of.archived_rows(),
        "manifests": manifests.collect::<Value>(), "verdict": of.verdict.name(),
    });
    rows.chain(std::iter::once(unit)).collect()
}

fn finding_line(finding: &Finding) -> Value {
    json!({
        "line": "finding",
        "verdict": match finding.severity {
            Severity::Broken => "broken",
            Severity::Unknown => "unknown",
        },
        "link": finding.link.name(),
        "date": finding.unit.map(|unit| unit.day.to_string()),
        "kind": finding.unit.map(|unit| unit.kind.name()),
        "partition": finding.partition,
        "first_offset": finding.offsets.as_ref().map(|offsets| offsets.start),
        "next_offset": finding.offsets.as_ref().map(|offsets| offsets.end),
        "what": finding.what,
        "next": finding.next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiering::audit::Link;
    use crate::tiering::warm::Unit;

    fn report(verdicts: &[(i32, Kind, Verdict)]) -> Report {
        let unit = |&(day, kind, verdict): &(i32, Kind, Verdict)| UnitReport {
            unit: Unit { day: TradingDay::from_days_since_epoch(day), kind },
            partitions: Vec::new(),
            warm: None,
            dropped: Vec::new(),
            is_restored: false,
            manifests: Vec::new(),
            verdict,
        };
        Report { units: verdicts.iter().map(unit).collect(), ..Report::default() }
    }

    fn total(report: &Report) -> Value {
        serde_json::from_str(lines(report).lines().last().unwrap()).unwrap()
    }

    #[test]
    fn days_that_were_not_compared_do_not_hold() {
        let nothing = report(&[]);
        assert_eq!(last_word(&nothing), "there is nothing of that in any store");
        let alone = report(&[(1, Kind::Trade, Verdict::Alone), (2, Kind::Trade, Verdict::Alone)]);
        assert_eq!(last_word(&alone), "in one store alone, and not compared: 2 days");
        assert_eq!((&total(&alone)["verdict"], &total(&alone)["days_alone"]), (&"alone".into(), &2.into()));
        // Bars are in no log: the day was compared for all that.
        let mut some = report(&[
            (1, Kind::Trade, Verdict::Holds),
            (1, Kind::Bar, Verdict::Alone),
            (2, Kind::Trade, Verdict::Alone),
        ]);
        assert_eq!(last_word(&some), "the chain holds: 1 day; in one store alone, and not compared: 1 day");
        assert_eq!((&total(&some)["verdict"], &total(&some)["days_hold"]), (&"holds".into(), &1.into()));
        some.findings.push(Finding {
            severity: Severity::Unknown,
            link: Link::LogWarm,
            unit: None,
            partition: None,
            offsets: None,
            what: String::new(),
            next: String::new(),
        });
        assert!(last_word(&some).starts_with("nothing is broken, and 1 place can't be told; "));
        assert_eq!(total(&some)["verdict"], "unknown");
    }
}
