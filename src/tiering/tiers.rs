//! Warm and the archive as one: each row once, at every moment of an archive run.
//!
//! Warm is asked first, and tells of which days it has dropped rows. Those days, and no others, are
//! read from the archive, up to the offsets to which it holds them; warm leaves the same rows out.
//! A manifest is created before warm drops anything, and is there for ever, so that the archive
//! holds what warm has dropped: where a snapshot of it does not, the snapshot is too old and is
//! taken anew. Of a day that is in both, warm is the nearer. What was restored into warm is read
//! from there.
//!
//! An archive of another log has none of these rows. History reads it as long as warm has none itself,
//! and says after that that it does not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::bus::epoch::{LogEpoch, Relation};
use crate::market::{
    BatchError, Kind, Merge, Merged, RowKey, Seq, Symbol, TickBatch, TimeRange, Timestamp, TradingDay,
};
use crate::tiering::archive::origin::Beside;
use crate::tiering::archive::read::{Ahead, ArchiveReader, FrozenFile, ReadStats, SharedReadStats};
use crate::tiering::archive::snapshot::{ReadError, Snapshot, reaches};
use crate::tiering::history::LostRecords;
use crate::tiering::warm::local::SYMBOLS_ALONE_MAX;
use crate::tiering::warm::{Query, Scan, ScanStats, Warm, WarmError};

/// How often a scan begins anew because days were dropped or restored while it was planned.
const TRIES_MAX: usize = 16;

/// How long an archive may take to say that it has nothing that an answer needs.
const ASK_TIME_MAX: Duration = Duration::from_secs(1);

/// Rows of a batch, at most.
const BATCH_ROWS: usize = 8192;

/// Why the tiers can't be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TiersError {
    /// Warm refused.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// The archive refused.
    #[error(transparent)]
    Archive(#[from] ReadError),
    /// Warm has dropped rows of days, and there is no archive to read them from.
    #[error(
        "{kind} rows of {day} were dropped from warm, and no archive is configured: set archive.url to where they went"
    )]
    NoArchive {
        /// The name of the kind.
        kind: &'static str,
        /// The first such day.
        day: TradingDay,
    },
    /// Warm has dropped rows of a day that the archive does not hold, however often it is asked.
    #[error(
        "{kind} rows of {day} were dropped from warm, but {store} does not hold them: set archive.url to where they went; \
         if they are gone for good, `stk archive give-up` has history answer the rest"
    )]
    NotArchived {
        /// The name of the kind.
        kind: &'static str,
        /// The first such day.
        day: TradingDay,
        /// The archive's store.
        store: String,
    },
    /// Stored rows hold a value that no tick can have.
    #[error(transparent)]
    Rows(#[from] BatchError),
}

impl TiersError {
    /// Whether a later try may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Warm(error) => error.is_passing(),
            Self::Archive(error) => error.is_passing(),
            Self::NoArchive { .. } | Self::NotArchived { .. } | Self::Rows(_) => false,
        }
    }
}

/// What of a scan came from the archive.
#[derive(Clone, Debug, Default)]
pub struct ArchivedPart {
    /// The days that were read from the archive instead of warm.
    pub days: Vec<TradingDay>,
    /// Objects that may hold rows asked for and can be read.
    pub files: u64,
    /// Objects that may hold rows asked for and can't be read now: their rows are not in the scan.
    pub frozen: Vec<FrozenFile>,
    /// Why nothing was read of the archive, which may hold more than warm: it could not be asked, or
    /// is of another log. Warm has dropped nothing of what was asked for.
    pub unasked: Option<String>,
    /// Records whose rows the archive has given up.
    pub given_up: Vec<LostRecords>,
}

/// A stream of ordered batches.
pub type TierRows = BoxStream<'static, Result<TickBatch, TiersError>>;

/// A scan of all tiers but the log.
pub struct TierScan {
    /// Rows ordered by symbol, ts, seq, each once.
    pub rows: TierRows,
    /// What warm read so far.
    pub warm_stats: Arc<Mutex<ScanStats>>,
    /// What was read of the archive so far.
    pub archive_stats: SharedReadStats,
    /// The high-water mark of each partition in warm.
    pub next_offsets: Vec<u64>,
    /// What came from the archive.
    pub archived: ArchivedPart,
    /// Of each day that was read from the archive, the offsets (by partition) below which it was.
    pub archived_offsets: BTreeMap<TradingDay, Vec<u64>>,
}

/// Warm, and the archive beside it.
#[derive(Clone)]
pub struct Tiers {
    /// The days at hand.
    pub warm: Arc<dyn Warm>,
    /// The days that warm has dropped, where there is an archive.
    pub archive: Option<Arc<ArchiveReader>>,
}

/// Which offsets of which days are read from the archive.
type Days = BTreeMap<TradingDay, Vec<u64>>;

impl Tiers {
    /// Warm alone: an answer that needs the archive is an error.
    pub fn warm_alone(warm: Arc<dyn Warm>) -> Self {
        Self { warm, archive: None }
    }

    /// The most memory, in bytes, that `query` takes beyond one of few symbols: it reads files of warm and objects of
    /// the archive side by side.
    pub fn merge_bytes(&self, query: &Query) -> usize {
        if query.symbols.as_ref().is_some_and(|symbols| symbols.len() <= SYMBOLS_ALONE_MAX) {
            return 0;
        }
        let of_archive = self.archive.as_ref().map_or(0, |_| ArchiveReader::merge_bytes(query.kind));
        self.warm.merge_bytes(query) + of_archive
    }

    /// Reads `kind` of `symbols` (sorted, without repeats; `None` for all) in `range`, as the
    /// stores are at the moment of the call.
    pub async fn scan(
        &self,
        kind: Kind,
        symbols: Option<&[Symbol]>,
        range: TimeRange,
    ) -> Result<TierScan, TiersError> {
        let query = Query::new(kind, symbols.map(<[_]>::to_vec), range);
        self.scan_query(query, false).await
    }

    /// As [`Tiers::scan`], for who asks about history. Where `first_offsets` are given, by partition,
    /// no row below them is needed: days of the archive that hold none other are not read. Where none
    /// are, and warm stands at its beginning, an archive of another log is read.
    pub async fn scan_from(
        &self,
        kind: Kind,
        symbols: Option<&[Symbol]>,
        range: TimeRange,
        first_offsets: &[u64],
    ) -> Result<TierScan, TiersError> {
        let mut query = Query::new(kind, symbols.map(<[_]>::to_vec), range);
        query.first_offsets = first_offsets.to_vec();
        self.scan_query(query, first_offsets.is_empty()).await
    }

    async fn scan_query(&self, query: Query, reads_other_log: bool) -> Result<TierScan, TiersError> {
        let mut tries = 0;
        loop {
            let error = match self.try_scan(query.clone(), reads_other_log).await? {
                Ok(scan) => return Ok(scan),
                Err(error) => error,
            };
            tries += 1;
            if tries == TRIES_MAX {
                return Err(error);
            }
        }
    }

    /// An error within the answer where the archive went on between the looks at its two sides, or
    /// is not the one that warm's days went to.
    async fn try_scan(
        &self,
        mut query: Query,
        reads_other_log: bool,
    ) -> Result<Result<TierScan, TiersError>, TiersError> {
        let (kind, range) = (query.kind, query.range);
        let near = self.warm.scan(&query).await?;
        let needed = dropped_within(&near, &query);
        let Some(archive) = &self.archive else {
            if let Some(day) = needed.keys().next() {
                return Err(TiersError::NoArchive { kind: kind.name(), day: *day });
            }
            return Ok(Ok(from_warm(near, ArchivedPart::default())));
        };
        let epoch = archive.log().map(Beside::epoch);
        let has_skipped = epoch.is_some_and(|epoch| !epoch.lost().is_empty());
        let snapshot = if needed.is_empty() && !has_skipped {
            let reads_other_log = reads_other_log && near.next_offsets.iter().all(|next| *next == 0);
            let ask = async {
                let ahead = archive.is_ahead_of(&near.next_offsets).await?;
                let is_read = ahead == Ahead::Is || (ahead == Ahead::OfOtherLog && reads_other_log);
                let snapshot = if is_read { Some(archive.snapshot(kind, range).await?) } else { None };
                Ok::<_, ReadError>((ahead, snapshot))
            };
            let store = archive.cold().name();
            let unasked = match tokio::time::timeout(ASK_TIME_MAX, ask).await {
                Ok(Ok((Ahead::OfOtherLog, Some(snapshot)))) => {
                    let days = snapshot.days().map(|(day, _)| day).collect();
                    return merged(archive, &snapshot, &query, days, near).await.map(Ok);
                }
                Ok(Ok((_, Some(snapshot)))) => Ok(snapshot),
                Ok(Ok((Ahead::OfOtherLog, None))) => Err(Some(format!("{store} holds rows of another log"))),
                Ok(Ok((_, None))) => Err(None),
                Ok(Err(error)) if error.is_passing() => Err(Some(error.to_string())),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => Err(Some(format!("{store}: no answer within {ASK_TIME_MAX:?}"))),
            };
            match unasked {
                Ok(snapshot) => snapshot,
                // Warm has all it ever dropped or took in: that much can be answered.
                Err(unasked) => {
                    return Ok(Ok(from_warm(near, ArchivedPart { unasked, ..ArchivedPart::default() })));
                }
            }
        } else if query.first_offsets.is_empty()
            || archive.is_ahead_of(&near.next_offsets).await? == Ahead::Is
        {
            archive.snapshot(kind, range).await?
        } else {
            // Of all the days that there may be, no other has anything.
            archive.snapshot(kind, span_of(&needed)).await?
        };
        if let Some(day) = needed.keys().next()
            && archive.standing().await? == Relation::OtherLog
        {
            let store = archive.cold().name().to_owned();
            return Ok(Err(TiersError::NotArchived { kind: kind.name(), day: *day, store }));
        }
        query.archived = read_from_archive(&snapshot, &needed, &near.next_offsets, epoch);
        let scan = self.warm.scan(&query).await?;
        let dropped = dropped_within(&scan, &query);
        let unsettled = dropped
            .iter()
            .find(|(day, offsets)| !query.archived.contains_key(day) || !snapshot.covers(**day, offsets));
        if let Some((day, _)) = unsettled {
            let store = archive.cold().name().to_owned();
            return Ok(Err(TiersError::NotArchived { kind: kind.name(), day: *day, store }));
        }
        // What was restored since is in warm's rows, whatever was asked to be left out.
        query.archived.retain(|day, _| !scan.restored.contains(day));
        let days = query.archived.keys().copied().collect();
        merged(archive, &snapshot, &query, days, scan).await.map(Ok)
    }
}

/// The scan of warm, and of what the archive has of `days`, as one.
async fn merged(
    archive: &Arc<ArchiveReader>,
    snapshot: &Snapshot,
    query: &Query,
    days: Vec<TradingDay>,
    scan: Scan,
) -> Result<TierScan, TiersError> {
    let (kind, range) = (query.kind, query.range);
    // Rows without a symbol belong to an answer about all symbols alone.
    let symbols: Option<Vec<Option<Symbol>>> =
        query.symbols.as_ref().map(|symbols| symbols.iter().copied().map(Some).collect());
    let mut files = Vec::new();
    let stats = SharedReadStats::default();
    let (mut total, mut bytes) = (0, 0);
    let mut given_up = Vec::new();
    for day in &days {
        let asked = snapshot.manifests(*day).filter(|held| reaches(&held.next_offsets, &query.first_offsets));
        given_up.extend(asked.flat_map(|manifest| manifest.lost_records()));
        for file in snapshot.files_from(*day, &query.first_offsets)? {
            (total, bytes) = (total + 1, bytes + file.file.bytes);
            if file.may_hold_any(symbols.as_deref(), range) {
                files.push(file);
            }
        }
    }
    let (ready, frozen) = archive.availability(files, &stats).await?;
    let archived = ArchivedPart { days, files: ready.len() as u64, frozen, unasked: None, given_up };
    let cold = archive.scan(kind, ready, symbols.as_deref(), range, stats.clone());
    {
        let mut stats = stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *stats = ReadStats { files_total: total, bytes_stored: bytes, ..*stats };
    }
    let cold = cold.map_err(TiersError::from).boxed();
    let near = scan.rows.map_err(TiersError::from).boxed();
    Ok(TierScan {
        rows: merge_streams(kind, vec![near, cold]),
        warm_stats: scan.stats,
        archive_stats: stats,
        next_offsets: scan.next_offsets,
        archived,
        archived_offsets: query.archived.clone(),
    })
}

fn from_warm(scan: Scan, archived: ArchivedPart) -> TierScan {
    TierScan {
        rows: scan.rows.map_err(TiersError::from).boxed(),
        warm_stats: scan.stats,
        archive_stats: SharedReadStats::default(),
        next_offsets: scan.next_offsets,
        archived,
        archived_offsets: Days::new(),
    }
}

/// The days asked for of which rows are neither in the scan nor were restored into it.
fn dropped_within(scan: &Scan, query: &Query) -> Days {
    let dropped = scan.dropped.iter().filter(|(day, offsets)| {
        let day_range = TimeRange { from: day.start(), to: day.end() };
        query.range.overlaps(&day_range)
            && !scan.restored.contains(day)
            && reaches(offsets, &query.first_offsets)
    });
    dropped.map(|(day, offsets)| (*day, offsets.clone())).collect()
}

/// From the first of `days` to the last.
fn span_of(days: &Days) -> TimeRange {
    let start = days.keys().next().map_or(Timestamp::MIN, |day| day.start());
    let end = days.keys().next_back().map_or(Timestamp::MAX, |day| day.end());
    TimeRange { from: start, to: end }
}

/// Of which days the archive is read, and up to which offsets: those of which warm has dropped
/// rows, those that reach beyond the offsets warm has come to, and those that reach into offsets that
/// the log skipped: only the archive has rows with them, or warm did and may have been lost since.
fn read_from_archive(
    snapshot: &Snapshot,
    needed: &Days,
    warm_next_offsets: &[u64],
    epoch: Option<&LogEpoch>,
) -> Days {
    let mut days = Days::new();
    for (day, next_offsets) in snapshot.days() {
        let warm_next = |at: usize| warm_next_offsets.get(at).copied().unwrap_or(0);
        let beyond = next_offsets.iter().enumerate().any(|(at, offset)| *offset > warm_next(at));
        let is_skipped = epoch.is_some_and(|epoch| epoch.reaches_skipped(next_offsets));
        if beyond || needed.contains_key(&day) || is_skipped {
            days.insert(day, next_offsets.to_vec());
        }
    }
    days
}

/// Ordered streams as one.
pub(super) fn merge_streams<E>(
    kind: Kind,
    inputs: Vec<BoxStream<'static, Result<TickBatch, E>>>,
) -> BoxStream<'static, Result<TickBatch, E>>
where
    E: From<BatchError> + Send + 'static,
{
    // Each input opens its own files as late as it can, so the lowest bound does.
    let bound = RowKey { symbol: None, ts: Timestamp::MIN, seq: Seq::default() };
    let merge = Merge::new(kind, BATCH_ROWS, std::iter::repeat_n(bound, inputs.len()));
    stream::try_unfold((merge, inputs), |(mut merge, mut inputs)| async move {
        loop {
            match merge.advance() {
                Merged::Need(input) => {
                    let batch = inputs[input].try_next().await?;
                    merge.feed(input, batch)?;
                }
                Merged::Rows(rows) => return Ok(Some((rows, (merge, inputs)))),
                Merged::End => return Ok(None),
            }
        }
    })
    .boxed()
}
