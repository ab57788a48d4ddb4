//! `stk history`: trades, quotes and bars of the past, from a server or from its data directory.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use futures_util::{StreamExt, TryStreamExt};
use indicatif::HumanBytes;

use super::archive::open_reader;
use super::archive::restore::{self, TierName};
use super::desk::store_error;
use super::output::{self, Output};
use super::serve::node_error;
use super::server_args::{ServerArgs, rest_error};
use super::{CliError, Global};
use crate::client::rest::RestClient;
use crate::market::{Kind, Symbol, TimeRange, Timeframe, Timestamp, TradingDay};
use crate::server::stores::Stores;
use crate::telemetry::say;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::history::format::{Format, RowWriter, WriteError};
use crate::tiering::history::{ArchivedCoverage, Coverage, HistoryQuery, HistoryStats};

#[derive(Args)]
pub(super) struct HistoryArgs {
    /// Symbols
    #[arg(value_name = "SYMBOL", required = true, value_parser = super::symbol)]
    symbols: Vec<Symbol>,
    /// First day (2025-01-01, in New York) or instant (RFC 3339); without it, the beginning
    #[arg(long, value_name = "TIME", value_parser = crate::market::parse_from)]
    from: Option<Timestamp>,
    /// Last day, whole, or instant, exclusive; without it, the end
    #[arg(long, value_name = "TIME", value_parser = crate::market::parse_to)]
    to: Option<Timestamp>,
    /// What to list
    #[arg(long, value_enum, default_value_t = Rows::Trades)]
    kind: Rows,
    /// Length of the bars: 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or 1, 2, 3, 6, 12Month
    #[arg(long, value_name = "SPAN", default_value = "1Min")]
    timeframe: Timeframe,
    /// table, csv, json, ndjson, parquet or arrow; otherwise by the ending of --output, else table on a
    /// terminal and csv elsewhere
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// At most so many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// Write to this file instead of stdout (-)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Say on stderr what the answer cost: bytes and segments read, time to the first row
    #[arg(long)]
    stats: bool,
    /// Bring back what of the answer is archived, after a word on cost and time, and wait for it
    #[arg(long)]
    restore: bool,
    /// How quickly: expedited, standard or bulk (see `stk archive restore`)
    #[arg(long, value_enum, value_name = "TIER", default_value = "standard", requires = "restore")]
    restore_tier: TierName,
    /// How many days the copies can be read
    #[arg(long, value_name = "DAYS", default_value_t = 3, requires = "restore", value_parser = clap::value_parser!(u32).range(1..=365))]
    restore_days: u32,
    /// Do not ask before --restore
    #[arg(long, requires = "restore")]
    yes: bool,
    /// Read this data directory, which no server may have open, instead of asking a server
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rows {
    Trades,
    Quotes,
    Bars,
}

impl Rows {
    fn kind(self) -> Kind {
        match self {
            Self::Trades => Kind::Trade,
            Self::Quotes => Kind::Quote,
            Self::Bars => Kind::Bar,
        }
    }
}

/// What is shown of missing parts and gaps, at most; the rest is counted.
const LISTED_MAX: usize = 5;

pub(super) fn run(args: HistoryArgs, global: &Global) -> Result<(), CliError> {
    let began = Instant::now();
    let file = output::file(args.output.as_deref());
    let to_terminal = file.is_none() && std::io::stdout().is_terminal();
    let by_place = if to_terminal { Format::Table } else { Format::Csv };
    let format = args.format.or_else(|| file.and_then(output::format_of)).unwrap_or(by_place);
    if to_terminal && !format.is_text() {
        return Err(CliError::usage(format!("{format} is not for a terminal"))
            .hint(format!("write it to a file: --output rows.{format}")));
    }
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        return Err(CliError::usage(format!("--from {from} is not before --to {to}")));
    }
    let mut output = Output::open(args.output.as_deref())?;
    let done = super::runtime()?.block_on(async {
        tokio::select! {
            done = async {
                match args.data.clone() {
                    Some(dir) => from_data(&args, dir, format, global, &mut output, began).await,
                    None => from_server(&args, format, global, &mut output, began).await,
                }
            } => done,
            _ = super::stop_signal() => Err(CliError::interrupted()),
        }
    });
    match done {
        Ok(None) => output.keep(),
        // What there is may be all that is left.
        Ok(Some(incomplete)) => output.keep().and(Err(incomplete)),
        Err(error) => Err(error),
    }
}

/// What is wrong with an answer whose rows were written all the same, if anything is.
type Incomplete = Option<CliError>;

/// What the answer lacks: rows of damaged stores, nobody knows which, or rows that are known to be missing.
fn incomplete(is_broken: bool, is_missing: bool) -> Incomplete {
    if is_broken {
        return Some(
            CliError::failed("the answer may lack rows")
                .hint("`stk audit` compares the stores; the rows that could be read were written"),
        );
    }
    is_missing.then(|| {
        CliError::incomplete("the answer lacks rows")
            .hint("the warnings name them; the rows that could be read were written")
    })
}

async fn from_data(
    args: &HistoryArgs,
    dir: PathBuf,
    format: Format,
    global: &Global,
    output: &mut Output,
    began: Instant,
) -> Result<Incomplete, CliError> {
    let config = global.resolve(&[("data.dir", dir.display().to_string(), "--data")])?.config();
    let stores = Stores::open_existing(&config).await.map_err(|error| store_error(error, "history"))?;
    let kind = args.kind.kind();
    let query = HistoryQuery {
        symbols: args.symbols.clone(),
        kind,
        timeframe: (kind == Kind::Bar).then_some(args.timeframe),
        range: TimeRange { from: args.from.unwrap_or(Timestamp::MIN), to: args.to.unwrap_or(Timestamp::MAX) },
        limit: args.limit,
    };
    let mut answer =
        stores.history().query_amended(query.clone()).await.map_err(|error| node_error(error.into()))?;
    let frozen = &answer.coverage.archived.frozen;
    if args.restore && !frozen.is_empty() {
        let keys: Vec<_> =
            frozen.iter().map(|frozen| (frozen.kind, frozen.day, frozen.key.clone())).collect();
        args.bring_back(&stores.archive, &keys).await?;
        answer = stores.history().query_amended(query).await.map_err(|error| node_error(error.into()))?;
    }
    for line in coverage_in_words(&answer.coverage) {
        say(line);
    }
    let mut rows = answer.rows;
    let mut first_row = None;
    let mut writer = RowWriter::new(format, kind, Vec::new()).map_err(write_error)?;
    while let Some(batch) = rows.try_next().await.map_err(|error| node_error(error.into()))? {
        writer.write(&batch).map_err(write_error)?;
        output.write(writer.get_mut())?;
        writer.get_mut().clear();
        if first_row.is_none() && !batch.rows.is_empty() {
            output.flush()?;
            first_row = Some(began.elapsed());
        }
    }
    output.write(&writer.finish().map_err(write_error)?)?;
    drop(rows);
    if args.stats {
        let stats = *answer.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        say(stats_in_words(&stats, first_row));
    }
    stores.close().await;
    let Coverage { broken, missing, lost, archived, .. } = &answer.coverage;
    let is_missing = !missing.is_empty() || !lost.is_empty() || archived.is_partial();
    Ok(incomplete(!broken.is_empty(), is_missing))
}

fn write_error(error: WriteError) -> CliError {
    CliError::failed(error)
}

impl HistoryArgs {
    /// Brings archived objects (kind, day, key) back and waits for them.
    async fn bring_back(
        &self,
        reader: &Arc<ArchiveReader>,
        keys: &[(Kind, TradingDay, String)],
    ) -> Result<(), CliError> {
        let how = restore::How {
            tier: self.restore_tier.into(),
            days: self.restore_days,
            yes: self.yes,
            dry_run: false,
            wait: true,
        };
        let files = restore::named(reader, keys).await?;
        restore::bring_back(&restore::Named { reader, files }, how).await.map(drop)
    }
}

/// The archived objects that a server's answer names as unreadable: kind, day and key.
fn served_frozen(coverage: &serde_json::Value) -> Vec<(Kind, TradingDay, String)> {
    let frozen = coverage["archived"]["frozen"].as_array().cloned().unwrap_or_default();
    let named = frozen.iter().filter_map(|frozen| {
        let kind = Kind::from_name(frozen["kind"].as_str()?)?;
        Some((kind, frozen["date"].as_str()?.parse().ok()?, frozen["key"].as_str()?.to_owned()))
    });
    named.collect()
}

async fn from_server(
    args: &HistoryArgs,
    format: Format,
    global: &Global,
    output: &mut Output,
    began: Instant,
) -> Result<Incomplete, CliError> {
    let symbols: Vec<&str> = args.symbols.iter().map(Symbol::as_str).collect();
    let kind = args.kind.kind();
    let mut query = vec![
        ("symbols", symbols.join(",")),
        ("kind", kind.name().to_owned()),
        ("format", format.name().to_owned()),
    ];
    if kind == Kind::Bar {
        query.push(("timeframe", args.timeframe.to_string()));
    }
    query.extend(args.from.map(|from| ("from", from.to_string())));
    query.extend(args.to.map(|to| ("to", to.to_string())));
    query.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    let client = args.server.rest()?;
    let mut answer = client.history(&query).await.map_err(rest_error)?;
    // A server lists so many at once: as often as there are new ones.
    let mut asked_for: Vec<(Kind, TradingDay, String)> = Vec::new();
    while args.restore
        && let Some(short) = answer.coverage.take()
    {
        let coverage = if is_whole(&short) {
            answer.coverage = Some(short.clone());
            short
        } else {
            // A client may have one query at a time: this one goes first.
            drop(answer);
            let coverage = whole_coverage(&client, &query).await?;
            answer = client.history(&query).await.map_err(rest_error)?;
            coverage
        };
        let mut frozen = served_frozen(&coverage);
        frozen.retain(|named| !asked_for.contains(named));
        if frozen.is_empty() {
            break;
        }
        let reader = open_reader(&global.resolve(&[])?.config())?;
        args.bring_back(&reader, &frozen).await?;
        asked_for.extend(frozen);
        answer = client.history(&query).await.map_err(rest_error)?;
    }
    let (mut is_broken, mut is_missing) = (false, false);
    let mut tell = |coverage: &serde_json::Value| {
        for line in served_coverage_in_words(coverage) {
            say(line);
        }
        let any = |names: &[&str]| {
            let mut lists =
                names.iter().filter_map(|name| coverage.pointer(name).and_then(serde_json::Value::as_array));
            lists.any(|list| !list.is_empty())
        };
        is_broken = any(&["/broken"]);
        is_missing = any(&["/missing", "/lost", "/archived/frozen"]);
    };
    let short = answer.coverage.take();
    if let Some(short) = short.as_ref().filter(|short| is_whole(short)) {
        tell(short);
    }
    let (mut first, mut received) = (None, 0);
    let mut bytes = answer.bytes();
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(rest_error)?;
        received += chunk.len();
        output.write(&chunk)?;
        if first.is_none() {
            output.flush()?;
            first = Some(began.elapsed());
        }
    }
    if short.is_some_and(|short| !is_whole(&short)) {
        tell(&whole_coverage(&client, &query).await?);
    }
    if args.stats {
        let first_ms = first.map_or(0.0, |first| first.as_secs_f64() * 1000.0);
        say(format_args!(
            "first bytes after {first_ms:.1} ms; {received} bytes received (what was read, tells --data)"
        ));
    }
    Ok(incomplete(is_broken, is_missing))
}

/// Whether the head of a server's answer has room for all that it covers. Servers of older versions always
/// put all into it.
fn is_whole(short: &serde_json::Value) -> bool {
    let lists = [
        "/broken_not_listed",
        "/missing_not_listed",
        "/lost_not_listed",
        "/gaps_not_listed",
        "/archived/frozen_not_listed",
    ];
    // What a server of an older version does not know, it does not leave out either.
    let not_listed = |list| short.pointer(list).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let lists_all = lists.into_iter().all(|list| not_listed(list) == 0);
    lists_all || short.get("complete").is_none()
}

/// All that a server's answer covers.
async fn whole_coverage(
    client: &RestClient,
    query: &[(&str, String)],
) -> Result<serde_json::Value, CliError> {
    let names = ["symbols", "kind", "timeframe", "from", "to"];
    let asked: Vec<_> = query.iter().filter(|(name, _)| names.contains(name)).cloned().collect();
    client.coverage(&asked).await.map_err(rest_error)
}

/// What an answer covers: one line where all is well, and a warning for each part that is not.
fn coverage_in_words(coverage: &Coverage) -> Vec<String> {
    let log: u64 = coverage
        .partitions
        .iter()
        .map(|part| part.log_next_offset.saturating_sub(part.warm_next_offset))
        .sum();
    let gaps = coverage.gaps.iter().map(|gap| {
        let whose = gap.symbol.map_or("all symbols".to_owned(), |symbol| symbol.to_string());
        format!("{whose} at {}: {} {} to {} of {}", gap.ts, gap.kind.name(), gap.first, gap.last, gap.source)
    });
    let missing = coverage.missing.iter().map(|part| {
        let records = records(part.first_offset, part.next_offset, part.partition);
        format!("{records} are missing: the log dropped them before they were in warm")
    });
    let lost = coverage.lost.iter().map(|part| {
        let days = part.gone.days().map(|(first, last)| (first.to_string(), last.to_string()));
        lost_in_words(&records(part.first_offset, part.next_offset, part.partition), days)
    });
    let archived = ArchivedInWords::from(&coverage.archived);
    in_words(
        log,
        &missing.chain(lost).collect::<Vec<_>>(),
        coverage.lost_not_listed,
        &coverage.broken,
        &gaps.collect::<Vec<_>>(),
        coverage.gaps_not_listed,
        &archived,
    )
}

/// The same of a server's answer.
fn served_coverage_in_words(coverage: &serde_json::Value) -> Vec<String> {
    let list = |name: &str| coverage[name].as_array().cloned().unwrap_or_default();
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    let log = coverage["log_records"].as_u64().unwrap_or_else(|| {
        let of = |part: &serde_json::Value| {
            number(&part["log_next_offset"]).saturating_sub(number(&part["warm_next_offset"]))
        };
        list("partitions").iter().map(of).sum()
    });
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
    let gaps = list("gaps").into_iter().map(|gap| {
        let whose = gap["symbol"].as_str().unwrap_or("all symbols").to_owned();
        let (ts, kind, source) = (text(&gap["ts"]), text(&gap["kind"]), text(&gap["source"]));
        format!("{whose} at {ts}: {kind} {} to {} of {source}", gap["first"], gap["last"])
    });
    let records = |part: &serde_json::Value| {
        let [first, next, partition] =
            ["first_offset", "next_offset", "partition"].map(|name| number(&part[name]));
        records(first, next, partition)
    };
    let missing = list("missing")
        .into_iter()
        .map(|part| format!("{} are missing: the log dropped them before they were in warm", records(&part)));
    let lost = list("lost").into_iter().map(|part| {
        let day = |name: &str| part[name].as_str().map(str::to_owned);
        lost_in_words(&records(&part), day("first_day").zip(day("last_day")))
    });
    let missing_not_listed = number(&coverage["lost_not_listed"]);
    let not_listed = number(&coverage["gaps_not_listed"]);
    let archived = ArchivedInWords::from(&coverage["archived"]);
    let broken: Vec<_> = list("broken").iter().map(text).collect();
    let missing: Vec<_> = missing.chain(lost).collect();
    in_words(log, &missing, missing_not_listed, &broken, &gaps.collect::<Vec<_>>(), not_listed, &archived)
}

fn records(first_offset: u64, next_offset: u64, partition: impl std::fmt::Display) -> String {
    format!("records {first_offset} to {next_offset} of partition {partition}")
}

/// What is said of lost `records`, with the days of the rows that are gone, where they are known.
fn lost_in_words(records: &str, days: Option<(String, String)>) -> String {
    let which = match days {
        Some((first, last)) if first == last => format!("rows of {first}"),
        Some((first, last)) => format!("rows of {first} to {last}"),
        None => "the rows that were not archived".to_owned(),
    };
    format!("{records} were lost before all of them were archived: {which} are gone")
}

/// What of an answer came from the archive, in words.
#[derive(Default)]
struct ArchivedInWords {
    /// Days that came from there.
    days: u64,
    /// What can't be read now.
    frozen: Vec<String>,
    frozen_not_listed: u64,
    /// The commands that bring it back.
    restore: Vec<String>,
    unasked: Option<String>,
}

impl From<&ArchivedCoverage> for ArchivedInWords {
    fn from(archived: &ArchivedCoverage) -> Self {
        let frozen = archived.frozen.iter().map(|frozen| {
            let (kind, day, class) = (frozen.kind.name(), frozen.day, frozen.class.name());
            let coming = if frozen.restoring { ", on its way back" } else { "" };
            format!("{kind} of {day}: {} ({}, {class}{coming})", frozen.key, HumanBytes(frozen.bytes))
        });
        Self {
            days: archived.days.len() as u64,
            frozen: frozen.collect(),
            frozen_not_listed: archived.frozen_not_listed,
            restore: archived.restore_commands(),
            unasked: archived.unasked.clone(),
        }
    }
}

impl From<&serde_json::Value> for ArchivedInWords {
    fn from(archived: &serde_json::Value) -> Self {
        let list = |name: &str| archived[name].as_array().cloned().unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
        let frozen = list("frozen").into_iter().map(|frozen| {
            let (kind, day, class) = (text(&frozen["kind"]), text(&frozen["date"]), text(&frozen["class"]));
            let coming = if frozen["restoring"] == true { ", on its way back" } else { "" };
            let (key, bytes) = (text(&frozen["key"]), frozen["bytes"].as_u64().unwrap_or(0));
            format!("{kind} of {day}: {key} ({}, {class}{coming})", HumanBytes(bytes))
        });
        Self {
            days: archived["days"].as_u64().unwrap_or(0),
            frozen: frozen.collect(),
            frozen_not_listed: archived["frozen_not_listed"].as_u64().unwrap_or(0),
            restore: list("restore").iter().map(text).collect(),
            unasked: archived["unasked"].as_str().map(str::to_owned),
        }
    }
}

fn in_words(
    log_records: u64,
    missing: &[String],
    missing_not_listed: u64,
    broken: &[String],
    gaps: &[String],
    gaps_not_listed: u64,
    archived: &ArchivedInWords,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut log = match archived.days {
        0 => "warm".to_owned(),
        1 => "1 day of the archive, warm".to_owned(),
        days => format!("{days} days of the archive, warm"),
    };
    match log_records {
        0 => {}
        1 => log.push_str(" and 1 record of the log"),
        _ => log.push_str(&format!(" and {log_records} records of the log")),
    }
    let gap_count = gaps.len() as u64 + gaps_not_listed;
    let frozen_count = archived.frozen.len() as u64 + archived.frozen_not_listed;
    if missing.is_empty() && broken.is_empty() && gap_count == 0 && frozen_count == 0 {
        lines.push(format!("covers {log}: nothing is missing, no gap in what the feeds received"));
    } else {
        lines.push(format!("covers {log}"));
    }
    for part in archived.frozen.iter().take(LISTED_MAX) {
        lines.push(format!("warning: archived, and not in this answer: {part}"));
    }
    if frozen_count > LISTED_MAX as u64 {
        lines.push(format!(
            "warning: {} more archived objects are not in this answer",
            frozen_count - (archived.frozen.len().min(LISTED_MAX)) as u64
        ));
    }
    if frozen_count > 0 {
        for command in &archived.restore {
            lines.push(format!("hint: `{command}` brings them back, and tells first what it costs"));
        }
    }
    if let Some(reason) = &archived.unasked {
        lines.push(format!("warning: nothing was read of the archive: {reason}"));
    }
    for part in broken.iter().take(LISTED_MAX) {
        lines.push(format!("warning: rows may be missing: {part}"));
    }
    if broken.len() > LISTED_MAX {
        lines.push(format!("warning: {} more places where rows may be missing", broken.len() - LISTED_MAX));
    }
    for part in missing.iter().take(LISTED_MAX) {
        lines.push(format!("warning: {part}"));
    }
    let missing_count = missing.len() as u64 + missing_not_listed;
    if missing_count > LISTED_MAX as u64 {
        let more = missing_count - (missing.len().min(LISTED_MAX)) as u64;
        lines.push(format!("warning: {more} more parts are missing"));
    }
    for gap in gaps.iter().take(LISTED_MAX) {
        lines.push(format!("warning: a gap in what a feed received: {gap}"));
    }
    if gap_count > LISTED_MAX as u64 {
        lines.push(format!("warning: {} gaps more", gap_count - (gaps.len().min(LISTED_MAX)) as u64));
    }
    lines
}

fn stats_in_words(stats: &HistoryStats, first_row: Option<std::time::Duration>) -> String {
    let warm = &stats.warm;
    let share = warm.bytes_read as f64 * 100.0 / warm.bytes_stored.max(1) as f64;
    let first = first_row.map_or("no row".to_owned(), |first| {
        format!("first row after {:.1} ms", first.as_secs_f64() * 1000.0)
    });
    let archive = match stats.archive.requests {
        0 => String::new(),
        requests => format!(
            "; {requests} requests to the archive for {} bytes of {} ({} of {} objects)",
            stats.archive.bytes_read,
            stats.archive.bytes_stored,
            stats.archive.files_read,
            stats.archive.files_total
        ),
    };
    format!(
        "{first}; {} rows, {} of them from the log; read {} of {} stored bytes ({share:.2} %), {} of {} segments, and {} bytes of the log{archive}",
        stats.rows,
        stats.log_rows,
        warm.bytes_read,
        warm.bytes_stored,
        warm.segments_read,
        warm.segments_total,
        stats.log_bytes_read,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_and_the_rest_counted() {
        let nothing = ArchivedInWords::default();
        let well = in_words(0, &[], 0, &[], &[], 0, &nothing);
        assert_eq!(well, ["covers warm: nothing is missing, no gap in what the feeds received"]);
        let gaps: Vec<String> = (0..7).map(|at| format!("gap {at}")).collect();
        let missing = [lost_in_words(&records(5, 9, 1), Some(("2025-01-02".into(), "2025-01-02".into())))];
        let lines = in_words(2, &missing, 0, &[], &gaps, 3, &nothing);
        assert_eq!(lines[0], "covers warm and 2 records of the log");
        assert_eq!(
            lines[1],
            "warning: records 5 to 9 of partition 1 were lost before all of them were archived: rows of 2025-01-02 are gone"
        );
        assert_eq!(lines[2], "warning: a gap in what a feed received: gap 0");
        assert_eq!(lines.last().map(String::as_str), Some("warning: 5 gaps more"));
    }
}
