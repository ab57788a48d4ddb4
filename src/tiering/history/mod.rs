//! History: the archive, warm and what is not yet in warm, as one ordered stream, each row once.
//!
//! Warm and the archive are read as one ([`Tiers`]). Warm tells up to which offset of each partition it holds the log; from there on the log itself
//! is read, repeats are dropped by the same [`state`](crate::tiering::state) that the processor drops them by,
//! and bars are derived by it. A query sees both as they are at its call.

pub mod format;

mod amended;
mod bars;
mod coverage;
mod tail;
#[cfg(test)]
pub(in crate::tiering) mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::try_join;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

pub use self::amended::AmendedBatch;
use self::amended::{AmendedStream, Amender, Amendments, whole_days};
pub use self::coverage::{
    ArchivedCoverage, Coverage, FROZEN_MAX, Frozen, GAPS_MAX, LOST_MAX, LostRecords, Missing,
    PartitionCoverage, lost_records,
};
use self::tail::{LogFilter, Tail};
use crate::bus::{Bus, BusError};
use crate::market::{BatchError, Gap, Kind, Seq, Symbol, Tick, TickBatch, TimeRange, Timeframe, TradingDay};
use crate::tiering::archive::read::{ArchiveReader, ReadStats, SharedReadStats};
use crate::tiering::archive::snapshot::ReadError;
use crate::tiering::seam;
use crate::tiering::state::StateError;
use crate::tiering::tiers::{TierScan, Tiers, TiersError, merge_streams};
use crate::tiering::warm::{Mark, ScanStats, Warm, WarmError};
use crate::wire::record::RecordError;

/// How often a query begins anew because rows moved from the log to warm while it was planned.
const TRIES_MAX: usize = 16;

/// What is asked of history.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Whose rows, in any order; none asks for all symbols.
    pub symbols: Vec<Symbol>,
    /// The kind of row.
    pub kind: Kind,
    /// The bars' span, for [`Kind::Bar`] alone; a minute where it is not given.
    pub timeframe: Option<Timeframe>,
    /// The times, by `ts`; of a bar by its start.
    pub range: TimeRange,
    /// Rows after which the answer ends.
    pub limit: Option<u64>,
}

/// An answer: its rows, and what they cover.
pub struct HistoryAnswer {
    /// Rows ordered by symbol, ts, seq, each once. Memory does not grow with the result.
    pub rows: BoxStream<'static, Result<TickBatch, HistoryError>>,
    /// What the rows cover.
    pub coverage: Coverage,
    /// What the answer cost so far. Grows while `rows` is read.
    pub stats: Arc<Mutex<HistoryStats>>,
}

/// An answer whose trades are marked where they were broken or corrected later.
pub struct AmendedAnswer {
    /// As [`HistoryAnswer::rows`]; corrected trades stand beside what they were before.
    pub rows: BoxStream<'static, Result<AmendedBatch, HistoryError>>,
    /// What the rows cover.
    pub coverage: Coverage,
    /// What the answer cost so far. Grows while `rows` is read.
    pub stats: Arc<Mutex<HistoryStats>>,
}

/// What an answer cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryStats {
    /// What warm read.
    pub warm: ScanStats,
    /// What was read of the archive.
    pub archive: ReadStats,
    /// Rows given out.
    pub rows: u64,
    /// Rows of the log's tail among those that match.
    pub log_rows: u64,
    /// Bytes of the log's tail that were read.
    pub log_bytes_read: u64,
}

/// Why history could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HistoryError {
    /// Warm refused.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// The archive refused.
    #[error(transparent)]
    Archive(#[from] ReadError),
    /// Rows that warm has dropped are in no archive that is known.
    #[error("{0}")]
    NoArchive(String),
    /// The log refused.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A record of the log can't be read.
    #[error("record {offset} of partition {partition}: {reason}")]
    Record {
        /// The partition.
        partition: u16,
        /// The record's offset.
        offset: u64,
        /// What is wrong.
        reason: RecordError,
    },
    /// The processor's state in warm can't be read.
    #[error("the state of partition {partition}: {reason}")]
    State {
        /// The partition.
        partition: u16,
        /// What is wrong.
        reason: String,
    },
    /// Stored rows hold a value that no tick can have.
    #[error(transparent)]
    Rows(#[from] BatchError),
    /// Rows kept moving from the log to warm while the query was planned.
    #[error("the store changed {TRIES_MAX} times while the query was planned; ask again")]
    Unsettled,
}

impl HistoryError {
    /// Whether a stored file is damaged, which the message names.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Warm(WarmError::Damaged { .. })
                | Self::Archive(ReadError::Damaged { .. } | ReadError::Manifest { .. })
        )
    }

    /// Whether a later try may succeed: a store is away.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Warm(error) => error.is_passing(),
            Self::Archive(error) => error.is_passing(),
            Self::Bus(error) => matches!(error, BusError::Unavailable { .. }),
            Self::Unsettled => true,
            Self::NoArchive(_) | Self::Record { .. } | Self::State { .. } | Self::Rows(_) => false,
        }
    }

    fn state(partition: u16, error: &StateError) -> Self {
        Self::State { partition, reason: error.to_string() }
    }
}

impl From<TiersError> for HistoryError {
    fn from(error: TiersError) -> Self {
        match error {
            TiersError::Warm(error) => Self::Warm(error),
            TiersError::Archive(error) => Self::Archive(error),
            TiersError::NoArchive { .. } | TiersError::NotArchived { .. } => {
                Self::NoArchive(error.to_string())
            }
            TiersError::Rows(error) => Self::Rows(error),
        }
    }
}

/// Answers queries over the archive, warm and the log.
#[derive(Clone)]
pub struct History {
    bus: Arc<dyn Bus>,
    tiers: Tiers,
    tail_rows_max: u64,
}

/// The part of the log that one answer reads.
struct LogPart {
    bus: Arc<dyn Bus>,
    marks: Vec<Mark>,
    offsets: Vec<std::ops::Range<u64>>,
    filter: LogFilter,
}

impl LogPart {
    async fn read(&self, symbols: Option<&[Option<Symbol>]>, rows_max: u64) -> Result<Tail, HistoryError> {
        Tail::read(&*self.bus, &self.marks, &self.offsets, &self.filter, symbols, rows_max).await
    }
}

/// An answer before its rows are counted and cut to their limit.
struct Planned {
    rows: RowStream,
    coverage: Coverage,
    stats: Arc<Mutex<HistoryStats>>,
    of_tiers: (Arc<Mutex<ScanStats>>, SharedReadStats),
    /// The offsets, by partition, before which the rows lie.
    next_offsets: Vec<u64>,
    /// What amends the rows, where that was asked for and they are trades.
    amendments: Vec<Amendments>,
}

/// Archive, warm and the log at one moment, without a gap or an overlap between them.
struct Cut {
    marks: Vec<Mark>,
    /// What of the log is to be read, by partition.
    log: Vec<std::ops::Range<u64>>,
    /// In a lock, so that a reference to the cut can cross threads as a query's future does.
    rows: Mutex<RowStream>,
    warm_stats: Arc<Mutex<ScanStats>>,
    archive_stats: SharedReadStats,
    archived: ArchivedCoverage,
    /// Of each day that was read from the archive, the offsets below which it was.
    archived_offsets: Arc<BTreeMap<TradingDay, Vec<u64>>>,
    missing: Vec<Missing>,
    broken: Vec<String>,
}

impl History {
    /// History over a log and the warm store that is fed from it.
    pub fn new(bus: Arc<dyn Bus>, warm: Arc<dyn Warm>) -> Self {
        Self { bus, tiers: Tiers::warm_alone(warm), tail_rows_max: tail::ROWS_MAX }
    }

    /// The same, with the archive to which days of `warm` go.
    pub fn with_archive(self, archive: Arc<ArchiveReader>) -> Self {
        let Self { bus, tiers, tail_rows_max } = self;
        Self { bus, tiers: Tiers { archive: Some(archive), ..tiers }, tail_rows_max }
    }

    /// Warm and the archive, as they are read.
    pub fn tiers(&self) -> &Tiers {
        &self.tiers
    }

    /// Answers `query`: as the stores are now, whatever happens to them while the answer is read.
    pub async fn query(&self, query: HistoryQuery) -> Result<HistoryAnswer, HistoryError> {
        self.query_from(query, &[]).await
    }

    /// As [`History::query`], for who follows this log and needs no tick below `first_offsets`, by
    /// partition: some of them may be in the answer, but days of the archive that hold none other are
    /// not read. Not for bars.
    pub async fn query_from(
        &self,
        query: HistoryQuery,
        first_offsets: &[u64],
    ) -> Result<HistoryAnswer, HistoryError> {
        let Planned { rows, coverage, stats, of_tiers, .. } = self.plan(&query, first_offsets, false).await?;
        let rows = rows.map_ok(AmendedBatch::from).boxed();
        let rows = counted(rows, query.limit, of_tiers, stats.clone());
        Ok(HistoryAnswer { rows: rows.map_ok(|batch| batch.rows).boxed(), coverage, stats })
    }

    /// As [`History::query`], with trades marked that were broken or corrected later, whatever has come
    /// of that so far, and with a row for what each corrected one became.
    pub async fn query_amended(&self, query: HistoryQuery) -> Result<AmendedAnswer, HistoryError> {
        let Planned { rows, coverage, stats, of_tiers, next_offsets, amendments } =
            self.plan(&query, &[], true).await?;
        let rows = if amendments.is_empty() {
            rows.map_ok(AmendedBatch::from).boxed()
        } else {
            Amender::new(self.clone(), next_offsets, query.range, amendments).stream(rows)
        };
        Ok(AmendedAnswer { rows: counted(rows, query.limit, of_tiers, stats.clone()), coverage, stats })
    }

    async fn plan(
        &self,
        query: &HistoryQuery,
        first_offsets: &[u64],
        amended: bool,
    ) -> Result<Planned, HistoryError> {
        let symbols = wanted(&query.symbols);
        for _ in 0..TRIES_MAX {
            match self.try_plan(query, symbols.as_deref(), first_offsets, amended).await {
                // What stood in the log when the query began was stored and dropped since.
                Err(HistoryError::Bus(BusError::Trimmed { .. }) | HistoryError::Unsettled) => {}
                answer => return answer,
            }
        }
        Err(HistoryError::Unsettled)
    }

    async fn try_plan(
        &self,
        query: &HistoryQuery,
        symbols: Option<&[Symbol]>,
        first_offsets: &[u64],
        amended: bool,
    ) -> Result<Planned, HistoryError> {
        let timeframe = query.timeframe.unwrap_or(Timeframe::MINUTE);
        let bars = query.kind == Kind::Bar;
        let range = if bars { bars::parts_range(timeframe, query.range) } else { query.range };
        let mut cut = self.cut(query.kind, symbols, range, first_offsets).await?;
        // Rows without a symbol belong to an answer about all symbols alone.
        let named: Option<Vec<Option<Symbol>>> =
            symbols.map(|symbols| symbols.iter().copied().map(Some).collect());
        let mut amendments = if amended && query.kind == Kind::Trade {
            self.amendments(&mut cut, symbols, whole_days(range)).await?
        } else {
            Vec::new()
        };
        let log = self.log(&cut, query.kind, range);
        let mut tail = log.read(named.as_deref(), self.tail_rows_max).await?;
        if bars {
            for (symbol, day) in tail.rebuilds(symbols) {
                // Without all of the day's trades its bars stay as they are; the answer says so.
                match self.bar_ticks(&cut, symbol, day).await? {
                    Ok(ticks) => tail.rebuild(symbol, day, &ticks),
                    Err(frozen) => cut.archived.add(frozen),
                }
            }
        }
        let stats = Arc::new(Mutex::new(HistoryStats {
            log_rows: tail.rows(),
            log_bytes_read: tail.bytes_read(),
            ..HistoryStats::default()
        }));
        let (gaps, gaps_not_listed, of_gaps) =
            self.gaps(&cut, tail.take_gaps(), symbols, query.range, first_offsets).await?;
        cut.archived.frozen.extend(of_gaps.frozen);
        cut.archived.given_up.extend(of_gaps.given_up);
        if amended && query.kind == Kind::Trade {
            amendments.extend(Amendments::of_tail(tail.take_amendments()));
        }
        let nexts: Vec<u64> = cut.log.iter().map(|log| log.end).collect();
        let mut given_up = std::mem::take(&mut cut.archived.given_up);
        given_up.sort_by_key(|lost| (lost.partition, lost.first_offset, lost.next_offset));
        given_up.dedup();
        let archived = self.tiers.archive.as_ref().and_then(|archive| archive.known_lost(&nexts));
        let (lost, lost_not_listed) =
            coverage::lost_records(self.bus.epoch(), archived.as_ref(), given_up, query.range);
        let coverage = Coverage {
            partitions: (0..)
                .zip(&cut.log)
                .map(|(partition, log)| PartitionCoverage {
                    partition,
                    warm_next_offset: cut.marks[usize::from(partition)].next_offset,
                    log_next_offset: log.end,
                })
                .collect(),
            gaps,
            gaps_not_listed,
            missing: cut.missing,
            lost,
            lost_not_listed,
            broken: cut.broken,
            archived: cut.archived,
        };
        let tail_rows = match tail.passes() {
            Some(passes) => in_passes(log, passes),
            None => one_stream(query.kind, tail.finish()),
        };
        let stored_rows = cut.rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        let merged = merge_streams(query.kind, vec![stored_rows, tail_rows]);
        let rows = if bars { bars::merged(merged, timeframe, query.range) } else { merged };
        Ok(Planned {
            rows,
            coverage,
            stats,
            of_tiers: (cut.warm_stats, cut.archive_stats),
            next_offsets: nexts,
            amendments,
        })
    }

    /// What warm and the archive hold that amends trades of `symbols` on the days of `range`. Objects
    /// that can't be read now are named in the cut.
    async fn amendments(
        &self,
        cut: &mut Cut,
        symbols: Option<&[Symbol]>,
        range: TimeRange,
    ) -> Result<Vec<Amendments>, HistoryError> {
        let scan = |kind| self.scan_at(cut, kind, symbols, range, &[]);
        let scans = try_join(scan(Kind::Cancel), scan(Kind::Correction)).await?;
        let mut amendments = Vec::new();
        for (kind, scan) in [(Kind::Cancel, scans.0), (Kind::Correction, scans.1)] {
            let archived = ArchivedCoverage::new(kind, scan.archived);
            cut.archived.add(ArchivedCoverage { days: Vec::new(), files: 0, ..archived });
            amendments.extend(Amendments::stored(scan.rows.map_err(HistoryError::from).boxed()).await?);
        }
        Ok(amendments)
    }

    fn log(&self, cut: &Cut, kind: Kind, range: TimeRange) -> LogPart {
        let filter = LogFilter { kind, range, archived: cut.archived_offsets.clone() };
        LogPart { bus: self.bus.clone(), marks: cut.marks.clone(), offsets: cut.log.clone(), filter }
    }

    /// A scan of the tiers, and the part of the log that begins where warm ends.
    async fn cut(
        &self,
        kind: Kind,
        symbols: Option<&[Symbol]>,
        range: TimeRange,
        first_offsets: &[u64],
    ) -> Result<Cut, HistoryError> {
        let partitions = self.bus.partitions();
        let mut marks = Vec::with_capacity(usize::from(partitions));
        for partition in 0..partitions {
            marks.push(self.tiers.warm.mark(partition).await?);
        }
        let scan = self.tiers.scan_from(kind, symbols, range, first_offsets).await?;
        let mut log = Vec::with_capacity(marks.len());
        let mut missing = Vec::new();
        let mut broken: Vec<String> = self.bus.damage().map(str::to_owned).into_iter().collect();
        for (partition, mark) in (0..partitions).zip(&marks) {
            if scan.next_offsets.get(usize::from(partition)).copied().unwrap_or(0) != mark.next_offset {
                return Err(HistoryError::Unsettled);
            }
            let bounds = self.bus.bounds(partition).await?;
            // A log that is known to have lost its end ends before warm does.
            if self.bus.damage().is_none()
                && let Err(ahead) = seam::check(partition, mark.next_offset, bounds.next)
            {
                broken.push(ahead.to_string());
            }
            let first = mark.next_offset.max(bounds.first);
            if first > mark.next_offset {
                if self.tiers.warm.mark(partition).await?.next_offset != mark.next_offset {
                    return Err(HistoryError::Unsettled);
                }
                missing.push(Missing { partition, first_offset: mark.next_offset, next_offset: first });
            }
            log.push(first..bounds.next.max(first));
        }
        Ok(Cut {
            marks,
            log,
            archived: ArchivedCoverage::new(kind, scan.archived),
            archived_offsets: Arc::new(scan.archived_offsets),
            rows: Mutex::new(scan.rows.map_err(HistoryError::from).boxed()),
            warm_stats: scan.warm_stats,
            archive_stats: scan.archive_stats,
            missing,
            broken,
        })
    }

    /// What forms the bars of `symbol` on `day`, in the order of the log; or what of it is archived
    /// and can't be read now.
    async fn bar_ticks(
        &self,
        cut: &Cut,
        symbol: Symbol,
        day: TradingDay,
    ) -> Result<Result<Vec<(Seq, Tick)>, ArchivedCoverage>, HistoryError> {
        let range = TimeRange { from: day.start(), to: day.end() };
        let mut ticks = Vec::new();
        for kind in [Kind::Trade, Kind::Cancel, Kind::Correction] {
            let scan = self.scan_at(cut, kind, Some(&[symbol]), range, &[]).await?;
            let archived = ArchivedCoverage::new(kind, scan.archived);
            if !archived.frozen.is_empty() {
                return Ok(Err(archived));
            }
            let log = LogPart {
                filter: LogFilter { kind, range, archived: Arc::new(scan.archived_offsets) },
                ..self.log(cut, kind, range)
            };
            let tail = log.read(Some(&[Some(symbol)]), u64::MAX).await?;
            let stored = scan.rows.map_err(HistoryError::from).boxed();
            let mut rows = merge_streams(kind, vec![stored, one_stream(kind, tail.finish())]);
            while let Some(batch) = rows.try_next().await? {
                let view = batch.rows()?;
                for row in 0..batch.len() {
                    ticks.push((view.seq(row), view.tick(row)?));
                }
            }
        }
        ticks.sort_by_key(|(seq, _)| *seq);
        Ok(Ok(ticks))
    }

    /// A further scan of the tiers, with warm as it was at the cut.
    async fn scan_at(
        &self,
        cut: &Cut,
        kind: Kind,
        symbols: Option<&[Symbol]>,
        range: TimeRange,
        first_offsets: &[u64],
    ) -> Result<TierScan, HistoryError> {
        let scan = self.tiers.scan_from(kind, symbols, range, first_offsets).await?;
        let same = (0_usize..).zip(&cut.marks).all(|(partition, mark)| {
            scan.next_offsets.get(partition).copied().unwrap_or(0) == mark.next_offset
        });
        if same { Ok(scan) } else { Err(HistoryError::Unsettled) }
    }

    /// The gaps in `range` that concern one of `symbols`, how many more there are, and what came of
    /// the archive.
    async fn gaps(
        &self,
        cut: &Cut,
        in_log: Vec<(u16, Gap)>,
        symbols: Option<&[Symbol]>,
        range: TimeRange,
        first_offsets: &[u64],
    ) -> Result<(Vec<Gap>, u64, ArchivedCoverage), HistoryError> {
        let scan = self.scan_at(cut, Kind::Gap, None, range, first_offsets).await?;
        let TierScan { mut rows, archived, .. } = scan;
        let mut gaps = BTreeMap::new();
        let mut is_over = false;
        // A gap of no single symbol stands in every partition.
        let (mut of_symbols, mut of_all) = (0, BTreeMap::<u16, u64>::new());
        let mut take = |partition: u16, gap: Gap| {
            match gap.symbol {
                Some(_) => of_symbols += 1,
                None => *of_all.entry(partition).or_default() += 1,
            }
            let key = (gap.ts, gap.source.clone(), gap.first, gap.last, gap.kind as u8, gap.symbol);
            gaps.insert(key, gap);
            if gaps.len() > GAPS_MAX {
                is_over = true;
                gaps.pop_last();
            }
        };
        while let Some(batch) = rows.try_next().await? {
            let view = batch.rows()?;
            for row in 0..batch.len() {
                if concerns(view.symbol(row), symbols)
                    && let Tick::Gap(gap) = view.tick(row)?
                {
                    take(view.seq(row).partition, *gap);
                }
            }
        }
        in_log
            .into_iter()
            .filter(|(_, gap)| range.contains(gap.ts) && concerns(gap.symbol, symbols))
            .for_each(|(partition, gap)| take(partition, gap));
        let all = of_symbols + of_all.into_values().max().unwrap_or(0);
        let more = if is_over { all.saturating_sub(GAPS_MAX as u64) } else { 0 };
        Ok((gaps.into_values().collect(), more, ArchivedCoverage::new(Kind::Gap, archived)))
    }
}

fn concerns(symbol: Option<Symbol>, wanted: Option<&[Symbol]>) -> bool {
    match (symbol, wanted) {
        (Some(symbol), Some(wanted)) => wanted.binary_search(&symbol).is_ok(),
        _ => true,
    }
}

fn wanted(symbols: &[Symbol]) -> Option<Vec<Symbol>> {
    if symbols.is_empty() {
        return None;
    }
    let mut sorted = symbols.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    Some(sorted)
}

type RowStream = BoxStream<'static, Result<TickBatch, HistoryError>>;

/// Batches that are each ordered, as one stream.
fn one_stream(kind: Kind, batches: Vec<TickBatch>) -> RowStream {
    let inputs = batches.into_iter().map(|batch| stream::iter([Ok(batch)]).boxed());
    merge_streams(kind, inputs.collect())
}

/// The rows of a part of the log that has more of them than can be held, read once for each pass.
/// Fails where retention drops records in between.
fn in_passes(log: LogPart, passes: Vec<Vec<Option<Symbol>>>) -> RowStream {
    let state = (log, passes.into_iter());
    stream::try_unfold(state, |(log, mut passes)| async move {
        let Some(symbols) = passes.next() else { return Ok::<_, HistoryError>(None) };
        let tail = log.read(Some(&symbols), u64::MAX).await?;
        Ok(Some((one_stream(log.filter.kind, tail.finish()), (log, passes))))
    })
    .try_flatten()
    .boxed()
}

/// Ends `rows` after `limit` rows, and keeps `stats`.
fn counted(
    rows: AmendedStream,
    limit: Option<u64>,
    of_tiers: (Arc<Mutex<ScanStats>>, SharedReadStats),
    stats: Arc<Mutex<HistoryStats>>,
) -> AmendedStream {
    let state = (rows, limit.unwrap_or(u64::MAX));
    stream::try_unfold(state, move |(mut rows, left)| {
        let ((warm_stats, archive_stats), stats) = (of_tiers.clone(), stats.clone());
        async move {
            if left == 0 {
                return Ok(None);
            }
            let batch = rows.try_next().await?;
            let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
            stats.warm = *warm_stats.lock().unwrap_or_else(PoisonError::into_inner);
            stats.archive = *archive_stats.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(batch) = batch else { return Ok(None) };
            let len = left.min(batch.rows.len() as u64);
            stats.rows += len;
            let batch = if len == batch.rows.len() as u64 { batch } else { batch.first(len as usize) };
            Ok(Some((batch, (rows, left - len))))
        }
    })
    .boxed()
}
