//! Reading archived rows: few requests, few bytes.
//!
//! Which objects may hold a row stands in the manifests, which pages of them in the copies of their
//! footers, both of which never freeze and are kept once read. Of an object only those pages are
//! fetched, near ones together, in whole blocks, each checked by its checksum in the footer, and that
//! by its own in the manifest. An object that was written without those is read whole first. Many objects are merged into one ordered stream; where they would
//! hold too much side by side, the symbols are read in several passes.

#[cfg(test)]
pub(in crate::tiering) mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio_util::task::AbortOnDropHandle;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::cache::Cache;
use super::manifest::{Manifest, ManifestFile};
use super::origin::{self, Beside};
use super::snapshot::{self, DataFile, ReadError, Snapshot};
use super::store::mend;
use crate::bus::epoch::{Gone, Held, Holder, Lost, Relation, is_within};
use crate::market::{Kind, Merge, Merged, RowKey, Seq, Symbol, TickBatch, TimeRange, Timestamp};
use crate::tiering::cold::{Availability, Cold, ColdError, StorageClass, ranges};
use crate::tiering::parquet::{
    DecodeError, Decoder, Index, LATE_BLOCK_BYTES, Step, Summer, Sums, Wanted, Window, is_inside,
};

/// Text of manifests that is kept.
const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// Parsed footers that are kept.
const INDEX_BYTES_MAX: usize = 48 << 20;

/// Bytes of a footer, at most: what is larger was not written here.
const FOOTER_BYTES_MAX: u64 = 64 << 20;

/// Bytes read at once of an object that is read whole.
const WHOLE_PART_BYTES: u64 = 8 << 20;

/// Rows of a batch, at most.
const BATCH_ROWS: usize = 8192;

/// How long the relation of the archive to the log is taken for what it was.
pub const STANDING_AGE_MAX: Duration = Duration::from_secs(10);

/// Encoded bytes that objects read side by side hold, about. Past that the symbols are read in
/// passes.
const HELD_BYTES_MAX: u64 = 64 << 20;

/// Objects that are begun before their rows are due.
const AHEAD: usize = 4;

/// Footers read, and objects asked for their state, at once.
const REQUESTS_MAX: usize = 8;

/// What a scan of the archive cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Data objects of which something was read.
    pub files_read: u64,
    /// Data objects of the days asked for.
    pub files_total: u64,
    /// Requests for manifests, footers, states and data. Those answered from memory are none.
    pub requests: u64,
    /// Bytes of footers and data read.
    pub bytes_read: u64,
    /// Bytes of the data objects of the days asked for.
    pub bytes_stored: u64,
}

impl ReadStats {
    /// Adds what another scan cost.
    pub fn add(&mut self, other: Self) {
        self.files_read += other.files_read;
        self.files_total += other.files_total;
        self.requests += other.requests;
        self.bytes_read += other.bytes_read;
        self.bytes_stored += other.bytes_stored;
    }
}

/// Shared by a scan and whoever wants to know.
pub type SharedReadStats = Arc<Mutex<ReadStats>>;

/// What readers of the archive count.
#[derive(Clone, Debug, Default)]
pub struct ReadMetrics {
    /// Scans begun.
    pub scans: Counter,
    /// Data objects of which something was read.
    pub files: Counter,
    /// Requests for footers and data.
    pub requests: Counter,
    /// Bytes of footers and data read.
    pub bytes: Counter,
    /// Archived objects that an answer had to leave out.
    pub frozen: Counter,
}

impl ReadMetrics {
    /// Adds all to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("archive_scans", "Scans of the archive begun", &self.scans),
            ("archive_read_files", "Archived objects read from", &self.files),
            ("archive_read_requests", "Requests for archived footers and data", &self.requests),
            ("archive_read_bytes", "Bytes of archived footers and data read", &self.bytes),
            ("archive_frozen_files", "Archived objects that answers left out", &self.frozen),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}

/// A data object that can't be read now.
#[derive(Clone, Debug)]
pub struct FrozenFile {
    /// Which.
    pub file: DataFile,
    /// Where it rests.
    pub class: StorageClass,
    /// Whether it is on its way back.
    pub restoring: bool,
}

/// Whether an archive holds rows that a warm store has not come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Warm has come to all of them.
    Not,
    /// It holds such rows.
    Is,
    /// Its rows are of another log than warm's, and none of them warm's.
    OfOtherLog,
}

/// The archive, as readers see it.
pub struct ArchiveReader {
    cold: Arc<dyn Cold>,
    manifests: Cache<Manifest>,
    indexes: Cache<Index>,
    /// The log beside which it is read, where that is known.
    log: Option<Beside>,
    /// How the archived rows relate to it, and when the archive said so.
    standing: Mutex<Option<(Relation, Held, Instant)>>,
    /// Where warm ended when it was found to be no older than the archive.
    caught_up: Mutex<Option<Vec<u64>>>,
    /// Held while that is asked.
    asking: Arc<tokio::sync::Mutex<()>>,
    /// What all scans do.
    pub metrics: ReadMetrics,
}

impl ArchiveReader {
    /// The archive in `cold`.
    pub fn new(cold: Arc<dyn Cold>) -> Self {
        Self {
            cold,
            manifests: Cache::new(MANIFEST_BYTES_MAX),
            indexes: Cache::new(INDEX_BYTES_MAX),
            log: None,
            standing: Mutex::default(),
            caught_up: Mutex::default(),
            asking: Arc::default(),
            metrics: ReadMetrics::default(),
        }
    }

    /// The same, read beside `log`.
    #[must_use]
    pub fn beside(self, log: Beside) -> Self {
        Self { log: Some(log), ..self }
    }

    /// The log beside which it is read, where that is known.
    pub fn log(&self) -> Option<&Beside> {
        self.log.as_ref()
    }

    /// Forgets the manifests read so far: a repair replaces one where its objects are damaged.
    pub fn forget_manifests(&self) {
        self.manifests.clear();
    }

    /// How the archived rows relate to the log beside which they are read, as known for at most
    /// [`STANDING_AGE_MAX`]. An archive that names no log yet counts as the log's own.
    pub async fn standing(&self) -> Result<Relation, ReadError> {
        let Some(log) = &self.log else { return Ok(Relation::Own) };
        if let Some(known) = self.known_standing() {
            return Ok(known);
        }
        let Some(held) = origin::held(&*self.cold).await? else { return Ok(Relation::Own) };
        let relation = log.relation(&held).await.map_err(|error| {
            let (store, key) = (self.cold.name().to_owned(), origin::LOG_KEY.to_owned());
            ReadError::Cold(ColdError::Unknown { store, key, reason: error.to_string() })
        })?;
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((relation.clone(), held, Instant::now()));
        Ok(relation)
    }

    /// By partition, an offset below which the archive holds every row of the log beside it; empty where none is
    /// known.
    pub async fn whole_offsets(&self) -> Result<Vec<u64>, ReadError> {
        if self.standing().await? != Relation::Own {
            return Ok(Vec::new());
        }
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(standing.as_ref().map_or_else(Vec::new, |(_, held, _)| held.whole_offsets.clone()))
    }

    /// The offsets of lost records that the archive is known to hold rows of, where the log beside it ends
    /// before `nexts`: of those that the log may yet skip the rows are answered, of the others no row is. A log
    /// with generations that has used the offsets itself has lost nothing: the rows are those of a copy of it.
    pub fn known_lost(&self, nexts: &[u64]) -> Option<Lost> {
        let has_generations = self.log.as_ref().is_some_and(|log| log.epoch().may_skip());
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let (relation, held, _) = standing.as_ref()?;
        let (from, gone) = match relation {
            Relation::Ahead => (nexts.to_vec(), held.gone),
            Relation::Parted { at } if !has_generations => (at.clone(), Gone::Unknown),
            _ => return None,
        };
        Some(Lost { holder: Holder::Archive, from, to: held.next_offsets.clone(), gone })
    }

    fn known_standing(&self) -> Option<Relation> {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = standing.as_ref().filter(|(.., since)| since.elapsed() < STANDING_AGE_MAX);
        fresh.map(|(relation, ..)| relation.clone())
    }

    /// The store.
    pub fn cold(&self) -> &Arc<dyn Cold> {
        &self.cold
    }

    /// What the archive holds now of `kind` and the days of `range`.
    pub async fn snapshot(&self, kind: Kind, range: TimeRange) -> Result<Snapshot, ReadError> {
        let snapshot = snapshot::take(&*self.cold, &self.manifests, kind, range).await?;
        match (&self.log, self.standing().await?) {
            (Some(log), Relation::Parted { at }) => Ok(snapshot.own(log.epoch(), &at)),
            _ => Ok(snapshot),
        }
    }

    /// Whether the archive may hold rows from offsets that a warm store has not come to, which ends at
    /// `next_offsets`: as where warm was made anew beside an old archive. Asks the store until it once does
    /// not: what comes into the archive comes out of warm. A warm store that was put back or emptied since
    /// is asked for again. One asks at a time, and goes on though nobody waits any more: the manifests of an
    /// archive without a `log.json` may take longer to read than a query has patience for, and what was found
    /// out is remembered.
    pub async fn is_ahead_of(self: &Arc<Self>, next_offsets: &[u64]) -> Result<Ahead, ReadError> {
        let known = || {
            if self.known_standing() == Some(Relation::OtherLog) {
                return Some(Ahead::OfOtherLog);
            }
            let caught_up = self.caught_up.lock().unwrap_or_else(PoisonError::into_inner);
            caught_up.as_ref().is_some_and(|before| is_within(before, next_offsets)).then_some(Ahead::Not)
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let turn = self.asking.clone().lock_owned().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let (reader, next_offsets) = (self.clone(), next_offsets.to_vec());
        let asked = tokio::spawn(async move {
            let _turn = turn;
            reader.ask_ahead(&next_offsets).await
        });
        asked.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn ask_ahead(&self, next_offsets: &[u64]) -> Result<Ahead, ReadError> {
        if self.standing().await? == Relation::OtherLog {
            return Ok(Ahead::OfOtherLog);
        }
        // Of all days: late rows may have gone to one that is not the newest.
        let reached = origin::held(&*self.cold).await?.map_or_else(Vec::new, |held| held.next_offsets);
        if !is_within(&reached, next_offsets) {
            return Ok(Ahead::Is);
        }
        *self.caught_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(next_offsets.to_vec());
        Ok(Ahead::Not)
    }

    /// Which of `files` can be read now, and which can't.
    pub async fn availability(
        &self,
        files: Vec<DataFile>,
        stats: &SharedReadStats,
    ) -> Result<(Vec<DataFile>, Vec<FrozenFile>), ReadError> {
        count(stats, files.len() as u64, 0);
        let states: Vec<_> = stream::iter(files.into_iter().map(|file| async move {
            let state = self.cold.state(&file.file.key).await;
            let (class, availability) = state.map_err(|error| self.missing(error))?;
            Ok::<_, ReadError>((file, class, availability))
        }))
        .buffered(REQUESTS_MAX)
        .try_collect()
        .await?;
        let (mut ready, mut frozen) = (Vec::new(), Vec::new());
        for (file, class, availability) in states {
            match availability {
                Availability::Ready | Availability::Restored { .. } => ready.push(file),
                Availability::Restoring => frozen.push(FrozenFile { file, class, restoring: true }),
                Availability::Frozen => frozen.push(FrozenFile { file, class, restoring: false }),
            }
        }
        self.metrics.frozen.inc_by(frozen.len() as u64);
        Ok((ready, frozen))
    }

    fn damaged(&self, key: &str, reason: impl ToString) -> ReadError {
        // A repair may have put another manifest in the place of the one that names the object.
        self.forget_manifests();
        let store = self.cold.name().to_owned();
        ReadError::Damaged {
            store,
            key: key.to_owned(),
            reason: format!("{}{}", reason.to_string(), mend(key)),
        }
    }

    /// An object that a manifest names must be there, and whole.
    fn missing(&self, error: ColdError) -> ReadError {
        match error {
            ColdError::NotFound { key, .. } => {
                self.damaged(&key, "it is not there, though a manifest names it")
            }
            ColdError::Short { key, .. } => self.damaged(&key, "it is shorter than its manifest says"),
            error => error.into(),
        }
    }

    /// The most memory, in bytes, that a scan of many symbols takes since it reads objects of `kind` side by side.
    /// Those of rare kinds are small.
    pub fn merge_bytes(kind: Kind) -> usize {
        match kind {
            Kind::Trade | Kind::Quote | Kind::Bar => HELD_BYTES_MAX as usize,
            _ => 0,
        }
    }

    /// The rows of `files` that are of `symbols` (sorted; `None` for all; a symbol that is `None`
    /// stands for rows without one) and in `range`, ordered by symbol, ts, seq within and across
    /// batches. Memory does not grow with the result.
    pub fn scan(
        self: &Arc<Self>,
        kind: Kind,
        files: Vec<DataFile>,
        symbols: Option<&[Option<Symbol>]>,
        range: TimeRange,
        stats: SharedReadStats,
    ) -> BoxStream<'static, Result<TickBatch, ReadError>> {
        let wanted = symbols.map_or(Wanted::ALL, |symbols| Wanted::Of(symbols.into()));
        {
            let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
            stats.files_total += files.len() as u64;
            stats.bytes_stored += files.iter().map(|file| file.file.bytes).sum::<u64>();
        }
        self.metrics.scans.inc();
        let files: Vec<_> = files.into_iter().filter(|file| file.may_hold(&wanted, range)).collect();
        let scanner =
            Scanner { reader: self.clone(), kind, range, files, stats, passes: None, current: None };
        stream::try_unfold((scanner, wanted), |(mut scanner, wanted)| async move {
            let rows = scanner.next(&wanted).await?;
            Ok(rows.map(|rows| (rows, (scanner, wanted))))
        })
        .boxed()
    }

    /// What the footer of `file` tells, with the checksums of what it tells of.
    async fn index(&self, file: &DataFile, stats: &SharedReadStats) -> Result<Arc<Index>, ReadError> {
        let (kind, file) = (file.unit.kind, &file.file);
        if let Some(index) = self.indexes.get(&file.footer_key) {
            return Ok(index);
        }
        if file.footer_at >= file.bytes || file.bytes - file.footer_at > FOOTER_BYTES_MAX {
            let reason = format!("its footer can't begin at {} of {} bytes", file.footer_at, file.bytes);
            return Err(self.damaged(&file.key, reason));
        }
        let (bytes, late) = if let Some(checksum) = &file.footer_checksum {
            (self.footer(file, checksum, stats).await?, None)
        } else {
            let (footer, sums) = self.whole(file, stats).await?;
            (footer, Some(sums))
        };
        let window = Window { start: file.footer_at, bytes, file_bytes: file.bytes };
        let parsed = blocking(move || match late {
            Some(sums) => Index::parse_checked_by(kind, &window, sums),
            None => Index::parse(kind, &window),
        });
        let index = Arc::new(parsed.await.map_err(|error| self.damaged(&file.key, error))?);
        if index.rows() != file.digest.rows {
            let reason = format!("it tells of {} rows, the manifest of {}", index.rows(), file.digest.rows);
            return Err(self.damaged(&file.key, reason));
        }
        self.indexes.insert(&file.footer_key, index.clone(), index.bytes());
        Ok(index)
    }

    /// The footer of `file`: its copy, or where that is damaged the end of the object.
    async fn footer(
        &self,
        file: &ManifestFile,
        checksum: &str,
        stats: &SharedReadStats,
    ) -> Result<bytes::Bytes, ReadError> {
        let counted = |bytes: &bytes::Bytes| {
            count(stats, 1, bytes.len() as u64);
            self.metrics.requests.inc();
            self.metrics.bytes.inc_by(bytes.len() as u64);
        };
        let is_sound = |bytes: &bytes::Bytes| format!("{:016x}", xxh3_64(bytes)) == checksum;
        let reason = match self.cold.get(&file.footer_key).await {
            Ok(copy) => {
                counted(&copy);
                if is_sound(&copy) {
                    return Ok(copy);
                }
                "it does not match its checksum"
            }
            Err(ColdError::NotFound { .. }) => "it is missing",
            Err(error) => return Err(error.into()),
        };
        tracing::warn!(
            store = self.cold.name(),
            key = file.footer_key,
            "a copy of a footer is damaged: {reason}; the object's own is read instead",
        );
        let own = self.read(&file.key, std::slice::from_ref(&(file.footer_at..file.bytes)), stats).await?;
        match own.into_iter().next() {
            Some(own) if is_sound(&own) => Ok(own),
            _ => Err(self.damaged(&file.key, "its footer does not match its checksum")),
        }
    }

    /// Reads an object that was written without checksums of its blocks: its footer, and checksums
    /// that hold from here on.
    async fn whole(
        &self,
        file: &ManifestFile,
        stats: &SharedReadStats,
    ) -> Result<(bytes::Bytes, Sums), ReadError> {
        let (mut hash, mut sums, mut at) = (Xxh3::new(), Summer::new(LATE_BLOCK_BYTES), 0);
        let mut footer = BytesMut::with_capacity((file.bytes - file.footer_at) as usize);
        while at < file.bytes {
            let end = file.bytes.min(at + WHOLE_PART_BYTES);
            let part = self.read(&file.key, std::slice::from_ref(&(at..end)), stats).await?;
            let part = part.into_iter().next().unwrap_or_default();
            if part.len() as u64 != end - at {
                return Err(self.damaged(&file.key, format!("it ends before byte {end}")));
            }
            if end > file.footer_at {
                footer.extend_from_slice(&part[file.footer_at.saturating_sub(at) as usize..]);
            }
            (hash, sums) = blocking(move || {
                hash.update(&part);
                sums.update(&part);
                (hash, sums)
            })
            .await;
            at = end;
        }
        if format!("{:016x}", hash.digest()) != file.checksum {
            return Err(self.damaged(&file.key, "it does not match its checksum"));
        }
        Ok((footer.freeze(), sums.finish()))
    }

    /// Fetches `ranges` of an object and checks them by what `index` knows.
    async fn fetch(
        &self,
        key: &str,
        index: &Index,
        ranges: &[Range<u64>],
        stats: &SharedReadStats,
    ) -> Result<Vec<bytes::Bytes>, ReadError> {
        let named = |error: DecodeError| self.damaged(key, error);
        let blocks = index.sums().blocks(ranges).map_err(named)?;
        let bytes = self.read(key, &blocks, stats).await?;
        index.sums().cut(ranges, &blocks, &bytes).map_err(named)
    }

    /// Reads `ranges` of an object, which are not checked.
    async fn read(
        &self,
        key: &str,
        ranges: &[Range<u64>],
        stats: &SharedReadStats,
    ) -> Result<Vec<bytes::Bytes>, ReadError> {
        let requests = ranges::coalesce(ranges, ranges::Limits::FAR);
        let bytes: u64 = requests.iter().map(|request| request.end - request.start).sum();
        count(stats, requests.len() as u64, bytes);
        self.metrics.requests.inc_by(requests.len() as u64);
        self.metrics.bytes.inc_by(bytes);
        let read = self.cold.get_ranges(key, ranges).await;
        read.map_err(|error| self.missing(error))
    }
}

fn count(stats: &SharedReadStats, requests: u64, bytes: u64) {
    let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
    stats.requests += requests;
    stats.bytes_read += bytes;
}

/// Runs `work`, which takes longer than an async thread may be kept, beside them.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels it, and then nobody waits for the answer.
            Err(_) => std::future::pending().await,
        },
    }
}

impl DataFile {
    /// Whether rows of `wanted` in `range` may be in it, by what the manifest says.
    fn may_hold(&self, wanted: &Wanted, range: TimeRange) -> bool {
        let digest = &self.file.digest;
        digest.rows > 0
            && digest.ts_max >= range.from.nanos()
            && (is_inside(digest.ts_min, range) || digest.ts_min < range.from.nanos())
            && wanted.may_be_in(self.symbol_min, self.symbol_max)
    }

    /// Whether rows of `symbols` (sorted; `None` for all) in `range` may be in it, by what the
    /// manifest says.
    pub fn may_hold_any(&self, symbols: Option<&[Option<Symbol>]>, range: TimeRange) -> bool {
        self.may_hold(&symbols.map_or(Wanted::ALL, |symbols| Wanted::Of(symbols.into())), range)
    }

    /// What none of its wanted rows comes before.
    fn bound(&self, wanted: &Wanted, range: TimeRange) -> RowKey {
        RowKey {
            symbol: wanted.first().max(self.symbol_min),
            ts: Timestamp::from_nanos(self.file.digest.ts_min).max(range.from),
            seq: Seq::default(),
        }
    }
}

/// The state of a scan.
struct Scanner {
    reader: Arc<ArchiveReader>,
    kind: Kind,
    range: TimeRange,
    files: Vec<DataFile>,
    stats: SharedReadStats,
    /// What is still to be read, one group of symbols after the other; `None` before it is planned.
    passes: Option<VecDeque<Wanted>>,
    current: Option<Pass>,
}

/// Objects that are being merged.
struct Pass {
    wanted: Wanted,
    merge: Merge,
    inputs: Vec<Input>,
    /// The inputs as they become due.
    order: Vec<usize>,
    /// How many of them are begun.
    begun: usize,
}

enum Input {
    Waiting(Box<DataFile>),
    Opening(AbortOnDropHandle<Result<Option<Open>, ReadError>>),
    Open(Box<Open>),
    Ended,
}

/// An object whose rows are being decoded.
struct Open {
    key: String,
    index: Arc<Index>,
    /// Away while it decodes.
    decoder: Option<Decoder>,
}

impl Scanner {
    async fn next(&mut self, wanted: &Wanted) -> Result<Option<TickBatch>, ReadError> {
        if self.passes.is_none() {
            let (reader, stats) = (self.reader.clone(), self.stats.clone());
            self.passes = Some(plan(&reader, &self.files, wanted, self.range, &stats, HELD_BYTES_MAX).await?);
        }
        loop {
            let Some(pass) = &mut self.current else {
                let Some(wanted) = self.passes.as_mut().and_then(VecDeque::pop_front) else {
                    return Ok(None);
                };
                self.current = Some(self.begin(wanted));
                continue;
            };
            match pass.merge.advance() {
                Merged::Rows(rows) => return Ok(Some(rows)),
                Merged::End => self.current = None,
                Merged::Need(at) => {
                    let place = pass.order.iter().position(|input| *input == at).unwrap_or(0);
                    while pass.begun < pass.order.len() && pass.begun <= place + AHEAD {
                        let input = &mut pass.inputs[pass.order[pass.begun]];
                        if let Input::Waiting(file) = std::mem::replace(input, Input::Ended) {
                            let opening = open(
                                self.reader.clone(),
                                *file,
                                pass.wanted.clone(),
                                self.range,
                                self.stats.clone(),
                            );
                            *input = Input::Opening(AbortOnDropHandle::new(tokio::spawn(opening)));
                        }
                        pass.begun += 1;
                    }
                    let batch = pass.inputs[at].next(&self.reader, &self.stats).await?;
                    let fed = pass.merge.feed(at, batch);
                    fed.map_err(|error| self.reader.damaged("a data object", error))?;
                }
            }
        }
    }

    fn begin(&self, wanted: Wanted) -> Pass {
        let files: Vec<_> =
            self.files.iter().filter(|file| file.may_hold(&wanted, self.range)).cloned().collect();
        let bounds: Vec<_> = files.iter().map(|file| file.bound(&wanted, self.range)).collect();
        let mut order: Vec<_> = (0..files.len()).collect();
        order.sort_by_key(|input| bounds[*input]);
        let merge = Merge::new(self.kind, BATCH_ROWS, bounds);
        let inputs = files.into_iter().map(|file| Input::Waiting(Box::new(file))).collect();
        Pass { wanted, merge, inputs, order, begun: 0 }
    }
}

/// The groups of symbols to be read one after the other, so that what is held of all objects side
/// by side is bounded: one group, mostly.
async fn plan(
    reader: &ArchiveReader,
    files: &[DataFile],
    wanted: &Wanted,
    range: TimeRange,
    stats: &SharedReadStats,
    held_bytes_max: u64,
) -> Result<VecDeque<Wanted>, ReadError> {
    let largest: u64 = files.iter().map(|file| file.file.bytes).sum();
    if files.len() < 2 || largest <= held_bytes_max {
        return Ok(VecDeque::from([wanted.clone()]));
    }
    let read: Vec<_> = stream::iter(files.iter().cloned().map(|file| async move {
        let index = reader.index(&file, stats).await?;
        let chosen = index.choose(wanted, range);
        Ok::<_, ReadError>((index.held_bytes(&chosen), index.weights(&chosen)))
    }))
    .buffered(REQUESTS_MAX)
    .try_collect()
    .await?;
    if read.iter().map(|(held, _)| held).sum::<u64>() <= held_bytes_max {
        return Ok(VecDeque::from([wanted.clone()]));
    }
    let mut by_symbol: BTreeMap<Option<Symbol>, u64> = BTreeMap::new();
    for (symbol, bytes) in read.into_iter().flat_map(|(_, weights)| weights) {
        *by_symbol.entry(symbol).or_default() += bytes;
    }
    Ok(passes(wanted, &by_symbol, held_bytes_max))
}

/// Cuts `wanted` where the bytes of the symbols so far, as they stand in `by_symbol`, come to
/// `bytes_max`.
fn passes(wanted: &Wanted, by_symbol: &BTreeMap<Option<Symbol>, u64>, bytes_max: u64) -> VecDeque<Wanted> {
    let (mut cuts, mut bytes) = (Vec::new(), 0);
    for (symbol, weight) in by_symbol {
        if bytes > 0 && bytes + weight > bytes_max && symbol.is_some() {
            cuts.push(*symbol);
            bytes = 0;
        }
        bytes += weight;
    }
    let starts = std::iter::once(None).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([None]);
    let spans = starts.zip(ends).map(|(from, to)| Wanted::Within(from, to));
    match wanted {
        Wanted::Within(..) => spans.collect(),
        Wanted::Of(symbols) => {
            let within =
                |span: Wanted| symbols.iter().copied().filter(|symbol| span.contains(*symbol)).collect();
            let groups = spans.map(within).filter(|group: &Vec<_>| !group.is_empty());
            groups.map(|group| Wanted::Of(group.into())).collect()
        }
    }
}

/// Finds out which pages of `file` to read and fetches the first. `None` where no row is wanted.
async fn open(
    reader: Arc<ArchiveReader>,
    file: DataFile,
    wanted: Wanted,
    range: TimeRange,
    stats: SharedReadStats,
) -> Result<Option<Open>, ReadError> {
    let index = reader.index(&file, &stats).await?;
    let chosen = index.choose(&wanted, range);
    if chosen.is_empty() {
        return Ok(None);
    }
    let decoder = index.decoder(chosen, wanted, range, BATCH_ROWS);
    let key = file.file.key;
    let mut decoder = decoder.map_err(|error| reader.damaged(&key, error))?;
    stats.lock().unwrap_or_else(PoisonError::into_inner).files_read += 1;
    reader.metrics.files.inc();
    // Nothing was pushed yet, so that it needs something or has come to its end.
    if let Step::Need(ranges) = decoder.step().map_err(|error| reader.damaged(&key, error))? {
        let bytes = reader.fetch(&key, &index, &ranges, &stats).await?;
        decoder.push(ranges, bytes).map_err(|error| reader.damaged(&key, error))?;
    }
    Ok(Some(Open { key, index, decoder: Some(decoder) }))
}

impl Input {
    async fn next(
        &mut self,
        reader: &ArchiveReader,
        stats: &SharedReadStats,
    ) -> Result<Option<TickBatch>, ReadError> {
        if let Self::Opening(opening) = self {
            let opened = match opening.await {
                Ok(opened) => opened?,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => None,
                },
            };
            *self = opened.map_or(Self::Ended, |open| Self::Open(Box::new(open)));
        }
        let Self::Open(open) = self else { return Ok(None) };
        let rows = open.next(reader, stats).await?;
        if rows.is_none() {
            *self = Self::Ended;
        }
        Ok(rows)
    }
}

impl Open {
    async fn next(
        &mut self,
        reader: &ArchiveReader,
        stats: &SharedReadStats,
    ) -> Result<Option<TickBatch>, ReadError> {
        loop {
            let Some(mut decoder) = self.decoder.take() else { return Ok(None) };
            let (decoder, step) = blocking(move || {
                let step = decoder.step();
                (decoder, step)
            })
            .await;
            let named = |error: DecodeError| reader.damaged(&self.key, error);
            match step.map_err(named)? {
                Step::End => return Ok(None),
                Step::Rows(rows) => {
                    self.decoder = Some(decoder);
                    return Ok(Some(rows));
                }
                Step::Need(ranges) => {
                    let bytes = reader.fetch(&self.key, &self.index, &ranges, stats).await?;
                    let mut decoder = decoder;
                    decoder.push(ranges, bytes).map_err(named)?;
                    self.decoder = Some(decoder);
                }
            }
        }
    }
}
