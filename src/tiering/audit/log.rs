//! The log's side of an audit: its records, taken in as the processor does, digested by unit.
//!
//! Where the log has lost its beginning nobody knows any more which of a producer's batches went before,
//! so that its first records may be repeats of ones that were dropped. Warm tells them apart: it holds
//! rows of a record that was taken in, and from the first such record on a producer's numbers are known.
//! A record before that one is a repeat if warm holds the same rows at offsets before the log's beginning,
//! and was lost if it holds none of them. Where warm has dropped rows of there it is doubtful, and not counted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use futures_util::TryStreamExt;

use super::producers::Producers;
use super::{Auditor, Event, Finding, Link, Severity, at};
use crate::bus::{Bounds, Bus, BusError, BusReader, Record};
use crate::market::{
    Gap, NO_SYMBOL, RowDigest, Seq, SymbolTable, Tick, TickBatch, TickBatchBuilder, TimeRange, Timestamp,
    TradingDay,
};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::{Mark, Query, Unit, WarmError};
use crate::wire::record::{Origin, RecordError, RecordView};

/// Bytes of records taken from the log at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// Rows that are digested at once.
const DIGEST_ROWS: usize = 1 << 16;

/// How often a partition is begun anew because retention took what was being read.
const TRIES_MAX: usize = 16;

/// Gaps that are told one by one.
const GAPS_MAX: usize = 1_000;

/// New records of a producer, at the beginning of a partition that lost its own, that may be repeats, and
/// that warm is asked about. A client sends again what it holds unacknowledged (64 batches, a record of each in
/// a partition), a feed out of Kafka what it read since it told the brokers last, message by message.
pub(super) const DOUBTFUL_RECORDS_MAX: u64 = 1_024;

/// Records of a partition that are passed over, as repeats or doubtful.
const PASSED_MAX: usize = 1 << 16;

/// The records of a partition in order.
struct Walk {
    reader: Box<dyn BusReader>,
    /// The offset of the record that comes next.
    next: u64,
    to: u64,
    /// Offsets without a record that the log does not vouch for.
    holes: Vec<Range<u64>>,
}

impl Walk {
    async fn new(bus: &dyn Bus, partition: u16, offsets: Range<u64>) -> Result<Self, BusError> {
        let reader = bus.reader(partition, offsets.start).await?;
        Ok(Self { reader, next: offsets.start, to: offsets.end, holes: Vec::new() })
    }

    /// Some records more; none at the end.
    async fn next(&mut self) -> Result<Vec<Record>, BusError> {
        if self.next.max(self.reader.offset()) >= self.to {
            return Ok(Vec::new());
        }
        let mut records = self.reader.next(READ_BYTES_MAX).await?;
        while records.is_empty() && self.reader.offset() < self.to {
            // The log skipped offsets.
            records = self.reader.next(READ_BYTES_MAX).await?;
        }
        for record in &records {
            let at = record.offset.min(self.to);
            if at > self.next && !self.reader.is_hole(self.next, record.offset) {
                self.holes.push(self.next..at);
            }
            self.next = record.offset + 1;
        }
        records.retain(|record| record.offset < self.to);
        Ok(records)
    }
}

/// Digests of a partition's rows, by unit and by the stretch between two cuts.
pub(super) struct Digests {
    /// Where stretches begin, in order.
    cuts: Vec<u64>,
    sums: BTreeMap<(Unit, usize), RowDigest>,
    at: usize,
    builder: TickBatchBuilder,
    table: SymbolTable,
}

impl Digests {
    fn new(partition: u16, mut cuts: Vec<u64>) -> Self {
        cuts.sort_unstable();
        cuts.dedup();
        let (builder, table) = (TickBatchBuilder::new(partition), SymbolTable::default());
        Self { cuts, sums: BTreeMap::new(), at: 0, builder, table }
    }

    /// The record at `offset` comes next.
    fn advance(&mut self, offset: u64) {
        while self.cuts.get(self.at + 1).is_some_and(|cut| *cut <= offset) {
            self.flush();
            self.at += 1;
        }
    }

    fn push(&mut self, seq: Seq, tick: &Tick) {
        let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| self.table.intern(symbol));
        self.builder.push(symbol, seq, tick);
        if self.builder.rows() >= DIGEST_ROWS {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for (day, batch) in self.builder.finish(&self.table) {
            let unit = Unit { day, kind: batch.kind() };
            self.sums.entry((unit, self.at)).or_default().add(batch.digest());
        }
    }

    /// Whether a stretch begins there, so that what lies from there on can be told from what lies before.
    pub(super) fn is_cut(&self, offset: u64) -> bool {
        self.cuts.binary_search(&offset).is_ok()
    }

    /// The units there are rows of.
    pub(super) fn units(&self) -> impl Iterator<Item = Unit> {
        self.sums.keys().map(|(unit, _)| *unit)
    }

    /// The digest of the unit's rows at `offsets`, which begin and end at cuts.
    pub(super) fn of(&self, unit: Unit, offsets: &Range<u64>) -> RowDigest {
        let mut digest = RowDigest::default();
        let stretches = self.sums.range((unit, 0)..=(unit, usize::MAX));
        for ((_, at), stretch) in stretches {
            if offsets.contains(&self.cuts[*at]) {
                digest.add(*stretch);
            }
        }
        digest
    }
}

/// What the log holds of one partition.
pub(super) struct LogRead {
    /// The offsets that were read and that warm has taken in.
    pub(super) offsets: Range<u64>,
    /// The offset after the log's last record.
    pub(super) next: u64,
    pub(super) digests: Digests,
    /// Ticks past the mark of warm, by unit.
    pub(super) pending: BTreeMap<Unit, u64>,
    /// Records that were read.
    pub(super) records: u64,
    /// Records of them that are repeats.
    pub(super) repeats: u64,
    /// The offsets of records that are not counted though nothing in the log repeats them.
    passed: HashSet<u64>,
    /// Where doubtful records are, by unit, and how many rows they have.
    pub(super) doubts: BTreeMap<Unit, (Range<u64>, u64)>,
}

impl LogRead {
    /// The units that the log has anything of, some more than once.
    pub(super) fn units(&self) -> impl Iterator<Item = Unit> {
        let others = self.pending.keys().chain(self.doubts.keys()).copied();
        self.digests.units().chain(others)
    }
}

/// Gaps that feeds announced, each once though it may stand in every partition.
#[derive(Default)]
pub(super) struct Gaps {
    pub(super) told: Vec<(TradingDay, Gap)>,
    known: HashSet<(i64, u8, String, u64, u64)>,
    pub(super) untold: u64,
}

impl Gaps {
    fn take(&mut self, gap: &Gap) {
        let key = (gap.ts.nanos(), gap.kind as u8, gap.source.to_string(), gap.first, gap.last);
        if self.known.contains(&key) {
            return;
        }
        if self.told.len() == GAPS_MAX {
            self.untold += 1;
            return;
        }
        self.known.insert(key);
        self.told.push((gap.ts.trading_day(), gap.clone()));
    }
}

/// What all partitions of the log add to.
#[derive(Default)]
pub(super) struct Feeds {
    pub(super) producers: Producers,
    pub(super) gaps: Gaps,
}

impl Auditor {
    /// Reads `partition`: `bounds` of it, up to `mark` as warm has taken it in, with the state that
    /// came with the mark from there on. Stretches end at `cuts` at least.
    pub(super) async fn read_log(
        &mut self,
        partition: u16,
        bounds: Bounds,
        mark: &Mark,
        cuts: &[u64],
        feeds: &mut Feeds,
    ) -> Result<LogRead, super::AuditError> {
        let mut first = bounds.first;
        let mut tries = 0;
        let told = (self.report.findings.len(), self.report.findings_untold);
        loop {
            let tail = PartitionState::restore(&mark.checkpoint).unwrap_or_else(|error| {
                self.report.find(Finding {
                    severity: Severity::Broken,
                    link: Link::LogWarm,
                    unit: None,
                    partition: Some(partition),
                    offsets: None,
                    what: format!("what warm keeps with the mark: {error}"),
                    next: "put warm back from a copy; a processor can't go on from there".to_owned(),
                });
                PartitionState::new()
            });
            let mark = mark.next_offset.clamp(first, bounds.next);
            let cuts = cuts.iter().copied().filter(|cut| (first..mark).contains(cut));
            let cuts = std::iter::once(first).chain(cuts).collect();
            let read = LogRead {
                offsets: first..mark,
                next: bounds.next,
                digests: Digests::new(partition, cuts),
                pending: BTreeMap::new(),
                records: 0,
                repeats: 0,
                passed: HashSet::new(),
                doubts: BTreeMap::new(),
            };
            let mut reading = Reading {
                read,
                partition,
                next: first,
                state: PartitionState::new(),
                tail: Some(tail),
                proven: HashSet::new(),
                asked: HashMap::new(),
            };
            match self.read_once(&mut reading, feeds).await {
                Err(BusError::Trimmed { first: later, .. }) if tries < TRIES_MAX => {
                    feeds.producers.restart_partition();
                    // What stands after the new beginning is found again.
                    self.report.findings.truncate(told.0);
                    self.report.findings_untold = told.1;
                    (first, tries) = (later.min(bounds.next), tries + 1);
                    continue;
                }
                // Damage, told with the place where the records end that can be read.
                Err(BusError::Failed { path, reason }) => {
                    let from = reading.next;
                    reading.read.offsets.end = reading.read.offsets.end.min(from);
                    self.report.find(Finding {
                        severity: Severity::Broken,
                        link: Link::Log,
                        unit: None,
                        partition: Some(partition),
                        offsets: Some(from..bounds.next),
                        what: format!("the log in {path} can't be read: {reason}"),
                        next:
                            "put the log back from a copy of the data directory; what warm holds is not lost"
                                .to_owned(),
                    });
                }
                Err(error) => return Err(error.into()),
                Ok(()) => {}
            }
            feeds.producers.end_partition();
            let mut read = reading.read;
            read.digests.flush();
            return Ok(read);
        }
    }

    async fn read_once(&mut self, reading: &mut Reading, feeds: &mut Feeds) -> Result<(), BusError> {
        let (partition, first, next) = (reading.partition, reading.read.offsets.start, reading.read.next);
        let bus = self.bus.clone();
        let mut walk = Walk::new(&*bus, partition, first..next).await?;
        loop {
            let records = walk.next().await?;
            for hole in walk.holes.drain(..) {
                self.report.find(Finding {
                    severity: Severity::Broken,
                    link: Link::Log,
                    unit: None,
                    partition: Some(partition),
                    offsets: Some(hole),
                    what: "the log has no records there, though it has some before and after".to_owned(),
                    next: "put the log back from a copy before anything is built from it".to_owned(),
                });
            }
            if records.is_empty() {
                return Ok(());
            }
            for record in &records {
                if record.offset >= reading.read.offsets.end
                    && let Some(tail) = reading.tail.take()
                {
                    reading.state = tail;
                }
                if let Err(error) = self.take(reading, record, feeds).await {
                    self.report.find(Finding {
                        severity: Severity::Broken,
                        link: Link::Log,
                        unit: None,
                        partition: Some(partition),
                        offsets: Some(record.offset..record.offset + 1),
                        what: error.to_string(),
                        next: "put the log back from a copy; a processor stops there".to_owned(),
                    });
                }
                reading.next = record.offset + 1;
            }
            (self.progress)(Event::Log { partition, offset: walk.next, next });
        }
    }

    async fn take(
        &mut self,
        reading: &mut Reading,
        record: &Record,
        feeds: &mut Feeds,
    ) -> Result<(), RecordError> {
        let (partition, offset) = (reading.partition, record.offset);
        reading.read.records += 1;
        let view = RecordView::parse(&record.bytes)?;
        let is_new = reading.state.admit(view.origin, view.checksum());
        let is_trimmed = reading.read.offsets.start > 0;
        if feeds.producers.take(view.origin, is_new, is_trimmed) {
            let Origin { producer, sequence } = view.origin;
            self.report.find(Finding {
                severity: Severity::Broken,
                link: Link::Feed,
                unit: None,
                partition: Some(partition),
                offsets: Some(offset..offset + 1),
                what: format!(
                    "batch {sequence} of producer {producer:016x} came after a later one: every reader drops it as \
                     a repeat, and it is none"
                ),
                next: "have the feed send these ticks again under a higher number".to_owned(),
            });
        }
        if !is_new {
            reading.read.repeats += 1;
            return Ok(());
        }
        let ticks: Vec<Tick> = view.ticks().map(|row| row.map(|(_, tick)| tick)).collect::<Result<_, _>>()?;
        for tick in &ticks {
            if let Tick::Gap(gap) = tick {
                feeds.gaps.take(gap);
            }
        }
        if offset >= reading.read.offsets.end {
            for tick in &ticks {
                *reading.read.pending.entry(unit_of(tick)).or_default() += 1;
            }
            return Ok(());
        }
        if is_trimmed && !reading.proven.contains(&view.origin.producer) {
            let standing = self.standing(reading, offset, view.origin, &ticks).await;
            if standing != Standing::Counts {
                reading.read.passed.insert(offset);
            }
            match standing {
                Standing::Counts => {}
                Standing::Repeats => {
                    reading.read.repeats += 1;
                    return Ok(());
                }
                Standing::Unknown => {
                    for tick in &ticks {
                        let doubt = reading.read.doubts.entry(unit_of(tick)).or_insert((offset..offset, 0));
                        (doubt.0.end, doubt.1) = (offset + 1, doubt.1 + 1);
                    }
                    return Ok(());
                }
            }
        }
        let read = &mut reading.read;
        read.digests.advance(offset);
        for (index, tick) in (0..).zip(&ticks) {
            read.digests.push(Seq { partition, offset, index }, tick);
        }
        Ok(())
    }

    /// What a record is whose producer may have sent it before the log's beginning. It counts where warm
    /// holds rows of it, or can't tell any more, or too many came before it.
    async fn standing(&self, reading: &mut Reading, offset: u64, origin: Origin, ticks: &[Tick]) -> Standing {
        let asked = reading.asked.entry(origin.producer).or_default();
        *asked += 1;
        if *asked > DOUBTFUL_RECORDS_MAX {
            reading.asked.remove(&origin.producer);
            reading.proven.insert(origin.producer);
            return Standing::Counts;
        }
        let offsets = of_partition(reading.partition, offset..offset + 1);
        let units: BTreeSet<Unit> = ticks.iter().map(unit_of).collect();
        let mut is_known = false;
        for unit in &units {
            if self.is_dropped(*unit, reading.partition, offset) {
                is_known = true;
                continue;
            }
            match self.warm.digest(*unit, &offsets).await {
                Ok(digest) if digest.rows == 0 => {}
                // What can't be read is told where the unit is compared.
                Ok(_) | Err(_) => {
                    reading.asked.remove(&origin.producer);
                    reading.proven.insert(origin.producer);
                    return Standing::Counts;
                }
            }
        }
        // An empty record takes nothing in, and rows that warm has dropped are held against the
        // archive alone, which can't be done with a part of them.
        if is_known || units.is_empty() || reading.read.passed.len() >= PASSED_MAX {
            return Standing::Counts;
        }
        let repeated = self.repeated(reading.partition, reading.read.offsets.start, ticks).await;
        repeated.unwrap_or(Standing::Unknown)
    }

    /// Whether warm holds rows like `ticks` in `partition` before the log's beginning, `first`: all of a
    /// record that is a repeat, whose first is there, and none of one that is not.
    async fn repeated(&self, partition: u16, first: u64, ticks: &[Tick]) -> Result<Standing, WarmError> {
        let (mut builder, mut table) = (TickBatchBuilder::new(partition), SymbolTable::default());
        for (index, tick) in (0..).zip(ticks) {
            let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
            builder.push(symbol, Seq { partition, offset: first, index }, tick);
        }
        let hash = |batch: &TickBatch, row: usize| batch.slice(row..row + 1).digest().sum;
        let (mut found, mut missing, mut is_dropped) = (0_u64, 0_u64, false);
        for (day, batch) in builder.finish(&table) {
            let unit = Unit { day, kind: batch.kind() };
            let mut wanted: HashMap<u64, u64> = HashMap::new();
            (0..batch.len()).for_each(|row| *wanted.entry(hash(&batch, row)).or_default() += 1);
            let of_unit = ticks.iter().filter(|tick| unit_of(tick) == unit);
            let symbols: Option<BTreeSet<_>> = of_unit.map(Tick::symbol).collect();
            let RowDigest { ts_min, ts_max, .. } = batch.digest();
            let range = TimeRange {
                from: Timestamp::from_nanos(ts_min),
                to: Timestamp::from_nanos(ts_max).saturating_add_nanos(1),
            };
            let symbols = symbols.map(|symbols| symbols.into_iter().collect());
            let mut scan = self.warm.scan(&Query::new(unit.kind, symbols, range)).await?;
            let dropped = scan.dropped.get(&day).map_or(0, |offsets| at(offsets, partition));
            is_dropped |= dropped > 0 && !scan.restored.contains(&day);
            while let Some(batch) = scan.rows.try_next().await? {
                let Ok(keys) = batch.keys() else { return Ok(Standing::Unknown) };
                let places = keys.partitions().iter().zip(keys.offsets());
                let before = places.enumerate().filter(|(_, at)| *at.0 == partition && *at.1 < first);
                for (row, _) in before {
                    if let Some(left) = wanted.get_mut(&hash(&batch, row)).filter(|left| **left > 0) {
                        (*left, found) = (*left - 1, found + 1);
                    }
                }
            }
            missing += wanted.values().sum::<u64>();
        }
        Ok(match (found, missing) {
            (_, 0) => Standing::Repeats,
            (0, _) if !is_dropped => Standing::Counts,
            _ => Standing::Unknown,
        })
    }

    /// Digests of a unit's rows in the stretches between `cuts`, of records that were read before as
    /// `read` says. None where the log no longer has them.
    pub(super) async fn log_digests(
        &self,
        partition: u16,
        read: &LogRead,
        unit: Unit,
        cuts: &[u64],
    ) -> Result<Option<Vec<RowDigest>>, BusError> {
        let Some((first, last)) = cuts.first().zip(cuts.last()) else { return Ok(None) };
        let mut digests = Digests::new(partition, cuts.to_vec());
        let mut state = PartitionState::new();
        let walk = async {
            // From the beginning, so that repeats are known.
            let mut walk = Walk::new(&*self.bus, partition, read.offsets.start..*last).await?;
            loop {
                let records = walk.next().await?;
                if records.is_empty() {
                    return Ok(());
                }
                for record in records {
                    let Ok(view) = RecordView::parse(&record.bytes) else { continue };
                    let is_passed = read.passed.contains(&record.offset);
                    if !state.admit(view.origin, view.checksum()) || is_passed || record.offset < *first {
                        continue;
                    }
                    digests.advance(record.offset);
                    for (index, row) in (0..).zip(view.ticks()) {
                        let Ok((_, tick)) = row else { break };
                        if unit_of(&tick) == unit {
                            digests.push(Seq { partition, offset: record.offset, index }, &tick);
                        }
                    }
                }
            }
        };
        match walk.await {
            Ok(()) => {}
            Err(BusError::Trimmed { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        digests.flush();
        Ok(Some(cuts.windows(2).map(|cut| digests.of(unit, &(cut[0]..cut[1]))).collect()))
    }

    /// Narrows `offsets`, at which warm does not hold what the log does, to the first and the last record
    /// that differ.
    pub(super) async fn narrow(
        &self,
        partition: u16,
        read: &LogRead,
        unit: Unit,
        offsets: Range<u64>,
    ) -> Result<Differing, super::AuditError> {
        let mut first = offsets.clone();
        while first.end - first.start > 1 {
            let Some(part) = self.differing(partition, read, unit, &first, false).await? else { break };
            first = part;
        }
        let mut last = first.start..offsets.end;
        while last.end - last.start > 1 {
            let Some(part) = self.differing(partition, read, unit, &last, true).await? else { break };
            last = part;
        }
        let offsets = first.start..last.end;
        let ends = [offsets.start, offsets.end];
        let log = self.log_digests(partition, read, unit, &ends).await?;
        let log = log.and_then(|digests| digests.first().copied());
        let warm = self.warm.digest(unit, &of_partition(partition, offsets.clone())).await?;
        Ok(Differing { offsets, log, warm })
    }

    /// The first or the last of some parts of `offsets` in which warm differs.
    async fn differing(
        &self,
        partition: u16,
        read: &LogRead,
        unit: Unit,
        offsets: &Range<u64>,
        from_end: bool,
    ) -> Result<Option<Range<u64>>, super::AuditError> {
        const PARTS: u64 = 16;
        let step = (offsets.end - offsets.start).div_ceil(PARTS).max(1);
        let mut cuts: Vec<u64> =
            (0..=PARTS).map(|part| (offsets.start + part * step).min(offsets.end)).collect();
        cuts.dedup();
        let Some(log) = self.log_digests(partition, read, unit, &cuts).await? else { return Ok(None) };
        let mut parts: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).zip(log).collect();
        if from_end {
            parts.reverse();
        }
        for (part, log) in parts {
            if self.warm.digest(unit, &of_partition(partition, part.clone())).await? != log {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }
}

/// What a record is, of which nobody knows whether its producer sent it before the log's beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is to be in warm.
    Counts,
    /// Warm took it in before, at an offset that the log has dropped.
    Repeats,
    /// Warm no longer has what would tell.
    Unknown,
}

/// A partition being read.
struct Reading {
    read: LogRead,
    partition: u16,
    /// The offset of the record that comes next.
    next: u64,
    state: PartitionState,
    /// The state from the mark of warm on, until it is reached.
    tail: Option<PartitionState>,
    /// Producers whose next record is known to be new.
    proven: HashSet<u64>,
    /// Of the other ones, how many records warm was asked about.
    asked: HashMap<u64, u64>,
}

/// Where warm does not hold what the log does.
pub(super) struct Differing {
    pub(super) offsets: Range<u64>,
    /// What the log holds there; none where it has been trimmed meanwhile.
    pub(super) log: Option<RowDigest>,
    pub(super) warm: RowDigest,
}

pub(super) fn unit_of(tick: &Tick) -> Unit {
    Unit { day: tick.ts().trading_day(), kind: tick.kind() }
}

/// `offsets` of that partition alone.
pub(super) fn of_partition(partition: u16, offsets: Range<u64>) -> Vec<Range<u64>> {
    let mut all = vec![0..0; usize::from(partition)];
    all.push(offsets);
    all
}
