//! The audit: whether each store holds what the one before it does, from the feeds' numbers to the
//! archive's manifests.
//!
//! ```text
//! feed ── numbers, gaps ──► log ── rows by day, kind, partition ──► warm ── rows of a manifest ──► cold
//! ```
//!
//! Each link is counted and digested by both sides, over the same offsets:
//!
//! - **feed → log**: the numbers of each producer's batches, records that readers drop and should not,
//!   and the gaps that feeds announced.
//! - **log → warm**: of each partition, the rows of each day and kind at the offsets that the log still
//!   has and warm has taken in. Bars are in no log: the processor makes them.
//! - **warm → cold**: of each manifest whose rows warm still holds, their digest; and that warm has dropped
//!   nothing that no manifest covers.
//! - **log → cold**: the digest of each manifest whose rows the log still holds, whoever dropped them.
//! - Where warm or the log has a part of a manifest's rows, that part is read from the archive and compared.
//! - **cold**: manifests that meet and add up, and name objects that are there. What all objects hold is
//!   for `archive::verify` to read.
//!
//! It reads, and writes nothing. Stores that are at work meanwhile are met: what is compared lies below
//! marks taken at the beginning, and a difference is believed once warm has dropped nothing in between.

mod archived;
mod log;
mod producers;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use self::log::{Differing, Feeds, LogRead, of_partition};
pub use self::producers::Producer;
pub use self::report::{
    Finding, Link, ManifestReport, PartitionReport, Report, Severity, UnitPartition, UnitReport, Verdict,
};
use self::report::{damaged, differs};
use crate::bus::epoch::Lost;
use crate::bus::{Bus, BusError};
use crate::market::{Kind, RowDigest, TimeRange, Timestamp, TradingDay};
use crate::tiering::archive::ArchiveError;
use crate::tiering::archive::chain::{Chain, Chains};
use crate::tiering::archive::manifest::Manifest;
use crate::tiering::archive::manifest::manifest_key;
use crate::tiering::archive::origin::{self, Beside};
use crate::tiering::cold::Cold;
use crate::tiering::history::lost_records;
use crate::tiering::seam::{self, SeamError};
use crate::tiering::warm::{ArchiveSource, Mark, Query, Removed, Unit, WarmError};

/// Units whose manifests are read at once.
const READS_MAX: usize = 8;

/// Differences whose first and last record are looked for: each takes the log to be read a dozen times.
const NARROWED_MAX: usize = 8;

/// How often a unit is compared anew because warm dropped rows of it meanwhile.
const TRIES_MAX: usize = 8;

/// Why an audit could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// The log refused.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Warm refused.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// The archive refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// What is audited.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// These kinds; all if none.
    pub kinds: Vec<Kind>,
    /// Days from this one on.
    pub from: Option<TradingDay>,
    /// Days up to this one.
    pub to: Option<TradingDay>,
}

impl Selection {
    /// Whether it selects the unit.
    pub fn takes(&self, unit: Unit) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&unit.kind)) && self.takes_day(unit.day)
    }

    fn takes_day(&self, day: TradingDay) -> bool {
        self.from.is_none_or(|from| from <= day) && self.to.is_none_or(|to| day <= to)
    }
}

/// What an audit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It reads the log.
    Log {
        /// The partition.
        partition: u16,
        /// The offset it has come to.
        offset: u64,
        /// Where the partition ends.
        next: u64,
    },
    /// It compares a unit.
    Unit(Unit),
}

/// Hears what an audit does.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// What warm says of a kind, beside its rows.
struct Facts {
    dropped: BTreeMap<TradingDay, Vec<u64>>,
    restored: BTreeSet<TradingDay>,
}

impl Facts {
    async fn of(warm: &dyn ArchiveSource, kind: Kind) -> Result<Self, WarmError> {
        let nothing = TimeRange { from: Timestamp::MIN, to: Timestamp::MIN };
        let scan = warm.scan(&Query::new(kind, Some(Vec::new()), nothing)).await?;
        Ok(Self { dropped: scan.dropped, restored: scan.restored })
    }

    /// The offset of `partition` below which rows of `day` are not in warm.
    fn gone(&self, day: TradingDay, partition: u16) -> u64 {
        if self.restored.contains(&day) {
            return 0;
        }
        self.dropped.get(&day).map_or(0, |offsets| at(offsets, partition))
    }
}

/// Audits the stores.
pub struct Auditor {
    bus: Arc<dyn Bus>,
    warm: Arc<dyn ArchiveSource>,
    cold: Arc<dyn Cold>,
    chains: Chains,
    selection: Selection,
    progress: Progress,
    facts: BTreeMap<Kind, Facts>,
    /// The unit of bars that was last compared with the archive in other revisions, and whether they are the same.
    bars: Option<(Unit, Option<bool>)>,
    /// Differences that were narrowed.
    narrowed: usize,
    report: Report,
}

fn at(offsets: &[u64], partition: u16) -> u64 {
    offsets.get(usize::from(partition)).copied().unwrap_or(0)
}

/// What warm said of a digest: damage is a finding, anything else ends the audit.
fn told(digest: Result<RowDigest, WarmError>) -> Result<Result<RowDigest, String>, WarmError> {
    match digest {
        Ok(digest) => Ok(Ok(digest)),
        Err(error @ WarmError::Damaged { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

impl Auditor {
    /// An audit of `selection` in the log, warm and the archive.
    pub fn new(
        bus: Arc<dyn Bus>,
        warm: Arc<dyn ArchiveSource>,
        cold: Arc<dyn Cold>,
        selection: Selection,
        progress: Progress,
    ) -> Self {
        let chains = Chains::new(cold.clone());
        let (facts, report) = (BTreeMap::new(), Report::default());
        Self { bus, warm, cold, chains, selection, progress, facts, bars: None, narrowed: 0, report }
    }

    /// Makes the audit.
    ///
    /// Errors: a store can't be asked, or the archive is another log's. What is damaged or missing is in
    /// the report.
    pub async fn run(mut self) -> Result<Report, AuditError> {
        origin::check_named(&*self.cold, &Beside::new(self.bus.clone())).await?;
        if let Some(damage) = self.bus.damage() {
            self.report.find(Finding {
                severity: Severity::Broken,
                link: Link::Log,
                unit: None,
                partition: None,
                offsets: None,
                what: damage.to_owned(),
                next: "do as it says, or put the log back from a copy; a server that starts goes on before the \
                       damage if nothing behind it is known to have been durable, and says what to do otherwise"
                    .to_owned(),
            });
        }
        self.check_log().await?;
        // The marks first: what lies below them is in warm and stays there until it is dropped.
        let mut marks = Vec::new();
        for partition in 0..self.bus.partitions() {
            marks.push(self.warm.mark(partition).await?);
        }
        for kind in Kind::ALL {
            self.facts.insert(kind, Facts::of(&*self.warm, kind).await?);
        }
        // After what warm has dropped, so that the manifests that cover it are among these.
        let reads = stream::iter(self.units().await?).map(|unit| {
            let chain = self.chains.read(unit);
            async move { Ok::<_, AuditError>((unit, chain.await?)) }
        });
        let mut chains: BTreeMap<Unit, Chain> = reads.buffered(READS_MAX).try_collect().await?;
        let mut feeds = Feeds::default();
        let mut logs = Vec::new();
        for (partition, mark) in (0_u16..).zip(&marks) {
            logs.push(self.partition(partition, mark, &chains, &mut feeds).await?);
        }
        for unit in logs.iter().flat_map(LogRead::units) {
            if self.selection.takes(unit) {
                chains.entry(unit).or_default();
            }
        }
        let given_up = chains.values().flat_map(|chain| &chain.manifests);
        self.report.lost.extend(given_up.flat_map(Manifest::lost_records));
        let marks: Vec<u64> = marks.iter().map(|mark| mark.next_offset).collect();
        for (unit, chain) in &chains {
            (self.progress)(Event::Unit(*unit));
            let report = self.unit(*unit, chain, &logs, &marks).await?;
            self.report.units.push(report);
        }
        let Feeds { producers, gaps } = feeds;
        self.report.producers_untold_records = producers.untold_records;
        self.report.producers = producers.finish();
        self.report.has_more_gaps = gaps.untold > 0;
        self.report.gaps = gaps.told;
        let selection = &self.selection;
        self.report.gaps.retain(|(day, _)| selection.takes_day(*day));
        self.report.gaps.sort_by_key(|(day, gap)| (*day, gap.ts));
        Ok(self.report)
    }

    /// Reports a warm store that names another log, or another timeline of this one.
    async fn check_log(&mut self) -> Result<(), AuditError> {
        let mut nexts = Vec::new();
        for partition in 0..self.bus.partitions() {
            nexts.push(self.bus.bounds(partition).await?.next);
        }
        let Selection { from, to, .. } = &self.selection;
        let range = TimeRange {
            from: from.map_or(Timestamp::MIN, TradingDay::start),
            to: to.map_or(Timestamp::MAX, TradingDay::end),
        };
        (self.report.lost, self.report.lost_untold) = lost_records(self.bus.epoch(), None, Vec::new(), range);
        let held = self.warm.held().await?;
        if let Err(misfit) = self.bus.epoch().fit(&nexts, &held) {
            self.report.find(Finding {
                severity: Severity::Broken,
                link: Link::LogWarm,
                unit: None,
                partition: None,
                offsets: None,
                what: misfit.to_string(),
                next: "put back the log that warm belongs to, or move the store away".to_owned(),
            });
        }
        Ok(())
    }

    /// The units that warm or the archive has, or had.
    async fn units(&self) -> Result<BTreeSet<Unit>, AuditError> {
        let mut units: BTreeSet<Unit> = self.chains.units(|unit| self.selection.takes(unit)).await?.collect();
        let stored = self.warm.units().await?.into_iter().map(|info| info.unit);
        let gone = self
            .facts
            .iter()
            .flat_map(|(kind, facts)| facts.dropped.keys().map(|day| Unit { day: *day, kind: *kind }));
        units.extend(stored.chain(gone).filter(|unit| self.selection.takes(*unit)));
        Ok(units)
    }

    fn is_dropped(&self, unit: Unit, partition: u16, offset: u64) -> bool {
        self.facts.get(&unit.kind).is_some_and(|facts| offset < facts.gone(unit.day, partition))
    }

    /// Reads a partition of the log, and says how it and warm meet.
    async fn partition(
        &mut self,
        partition: u16,
        mark: &Mark,
        chains: &BTreeMap<Unit, Chain>,
        feeds: &mut Feeds,
    ) -> Result<LogRead, AuditError> {
        let bounds = self.bus.bounds(partition).await?;
        let finding = |offsets: Range<u64>, what: String, next: &str| Finding {
            severity: Severity::Broken,
            link: Link::LogWarm,
            unit: None,
            partition: Some(partition),
            offsets: Some(offsets),
            what,
            next: next.to_owned(),
        };
        let stands = mark.next_offset;
        if seam::check(partition, stands, bounds.next).is_err() {
            self.report.find(finding(
                bounds.next..stands,
                format!("warm holds what the log, which ends at {}, never had or has lost", bounds.next),
                "name the log that warm was filled from, or begin with an empty warm store",
            ));
        } else if let Err(SeamError::OtherRecord { offset, .. }) =
            seam::check_record(&*self.bus, partition, bounds, mark).await
        {
            self.report.find(finding(
                offset..stands,
                "the log's record is not the one that warm took in there".to_owned(),
                "name the log that warm was filled from, or begin with an empty warm store",
            ));
        }
        // Retention may have gone on with the processor since the mark was taken.
        if stands < bounds.first && self.warm.mark(partition).await?.next_offset < bounds.first {
            self.report.find(finding(
                stands..bounds.first,
                "the log has dropped records that warm had not come to: their rows are in no store"
                    .to_owned(),
                "put the log back from a copy, or have the feed send them again; raise log.retention_hours",
            ));
        }
        let mut cuts = Vec::new();
        for (unit, chain) in chains {
            cuts.extend(self.facts.get(&unit.kind).map(|facts| facts.gone(unit.day, partition)));
            for manifest in &chain.manifests {
                cuts.extend([&manifest.first_offsets, &manifest.next_offsets].map(|of| at(of, partition)));
            }
        }
        let read = self.read_log(partition, bounds, mark, &cuts, feeds).await?;
        self.report.partitions.push(PartitionReport {
            partition,
            first: read.offsets.start,
            mark: stands,
            next: bounds.next,
            records: read.records,
            repeats: read.repeats,
        });
        Ok(read)
    }

    async fn unit(
        &mut self,
        unit: Unit,
        chain: &Chain,
        logs: &[LogRead],
        marks: &[u64],
    ) -> Result<UnitReport, AuditError> {
        let known = self.report.findings.len();
        let untold = self.report.findings_untold;
        let mut partitions = Vec::new();
        if unit.kind != Kind::Bar {
            let is_in_log = logs.iter().any(|log| log.digests.units().any(|of| of == unit));
            for (partition, log) in (0_u16..).zip(logs) {
                let found = self.log_to_warm(unit, chain, partition, log, is_in_log).await?;
                partitions.extend(found);
            }
            if !is_in_log {
                self.not_in_log(unit, logs).await?;
            }
        }
        self.chain_faults(unit, chain);
        let mut manifests = Vec::new();
        for manifest in &chain.manifests {
            manifests.push(self.manifest(unit, manifest, chain, logs, marks).await?);
        }
        // Rows that warm has dropped are held against the archive alone.
        for of in partitions.iter_mut().filter(|of| of.verdict == Verdict::Alone && of.log_rows > 0) {
            if let Some(found) = manifests.iter().filter_map(|manifest| manifest.log).min() {
                of.verdict = if found { Verdict::Holds } else { Verdict::Broken };
            }
        }
        self.dropped(unit, chain).await?;
        if self.report.findings.len() == known && self.report.findings_untold == untold {
            // Otherwise the log or the archive has told more.
            self.lost_from_warm(unit, marks).await?;
        }
        let warm = self.all_of_warm(unit, chain, &partitions, &manifests, marks).await?;
        let facts = &self.facts[&unit.kind];
        let findings = self.report.findings[known..].iter().map(|finding| finding.severity.verdict());
        let found = findings.max().max((self.report.findings_untold > untold).then_some(Verdict::Broken));
        let compared = partitions.iter().any(|of| of.verdict > Verdict::Alone)
            || manifests.iter().any(|of| of.warm.is_some() || of.log.is_some());
        Ok(UnitReport {
            unit,
            partitions,
            warm,
            dropped: facts.dropped.get(&unit.day).cloned().unwrap_or_default(),
            is_restored: facts.restored.contains(&unit.day),
            manifests,
            verdict: found.unwrap_or(if compared { Verdict::Holds } else { Verdict::Alone }),
        })
    }

    /// Asks warm anew what it has dropped. Whether it is more than it was.
    async fn has_moved(&mut self, unit: Unit) -> Result<bool, AuditError> {
        let facts = Facts::of(&*self.warm, unit.kind).await?;
        let stands =
            |facts: &Facts| (facts.dropped.get(&unit.day).cloned(), facts.restored.contains(&unit.day));
        let moved = stands(&facts) != stands(&self.facts[&unit.kind]);
        self.facts.insert(unit.kind, facts);
        Ok(moved)
    }

    /// Compares the unit's rows of a partition in the log with those in warm. None where there are none.
    async fn log_to_warm(
        &mut self,
        unit: Unit,
        chain: &Chain,
        partition: u16,
        log: &LogRead,
        is_in_log: bool,
    ) -> Result<Option<UnitPartition>, AuditError> {
        let pending = log.pending.get(&unit).copied().unwrap_or(0);
        let doubt = log.doubts.get(&unit);
        if !is_in_log && pending == 0 && doubt.is_none() {
            return Ok(None);
        }
        let mut tries = 0;
        let (offsets, held, warm, differing) = loop {
            let gone = self.facts[&unit.kind].gone(unit.day, partition);
            let offsets = gone.clamp(log.offsets.start, log.offsets.end)..log.offsets.end;
            let mut held = log.digests.of(unit, &offsets);
            let warm = if offsets.is_empty() {
                Ok(RowDigest::default())
            } else {
                told(self.warm.digest(unit, &of_partition(partition, offsets.clone())).await)?
            };
            tries += 1;
            // Where warm has dropped rows since the log was read, there was no reason to cut it there.
            let mut severity = Severity::Broken;
            if warm.as_ref().is_ok_and(|warm| *warm != held) && !log.digests.is_cut(offsets.start) {
                let ends = [offsets.start, offsets.end];
                match self.log_digests(partition, log, unit, &ends).await? {
                    Some(digests) => held = digests.first().copied().unwrap_or_default(),
                    None => severity = Severity::Unknown,
                }
            }
            let is_equal = warm.as_ref().is_ok_and(|warm| *warm == held);
            if is_equal {
                break (offsets, held, warm, None);
            }
            if tries < TRIES_MAX && self.has_moved(unit).await? {
                continue;
            }
            let Ok(whole) = &warm else { break (offsets, held, warm, None) };
            if self.narrowed == NARROWED_MAX {
                let differing = Differing { offsets: offsets.clone(), log: Some(held), warm: *whole };
                break (offsets, held, warm, Some((severity, differing)));
            }
            let differing = self.narrow(partition, log, unit, offsets.clone()).await?;
            if tries < TRIES_MAX && self.has_moved(unit).await? {
                continue;
            }
            if differing.log == Some(differing.warm) {
                // Looked at again, it is equal.
                break (offsets, held, Ok(held), None);
            }
            self.narrowed += 1;
            break (offsets, held, warm, Some((severity, differing)));
        };
        let log_rows = log.digests.of(unit, &log.offsets).rows;
        if log_rows == 0 && pending == 0 && doubt.is_none() && warm.as_ref().is_ok_and(|warm| warm.rows == 0)
        {
            return Ok(None);
        }
        let mut verdict = if offsets.is_empty() { Verdict::Alone } else { Verdict::Holds };
        if let Some((doubtful, rows)) = doubt {
            verdict = Verdict::Unknown;
            self.report.find(Finding {
                severity: Severity::Unknown,
                link: Link::LogWarm,
                unit: Some(unit),
                partition: Some(partition),
                offsets: Some(doubtful.clone()),
                what: format!(
                    "{rows} rows of records that may repeat ones which the log has dropped: warm holds none of them, \
                     and no longer all that came before them"
                ),
                next: "nothing, if a feed sent batches again at that time; the log can't tell any more".to_owned(),
            });
        }
        if let Some((severity, differing)) = differing {
            verdict = verdict.max(severity.verdict());
            self.report.find(Finding { severity, ..differs(unit, chain, partition, differing) });
        }
        if let Err(reason) = &warm {
            verdict = Verdict::Broken;
            self.report.find(damaged(unit, Some(partition), reason));
        }
        Ok(Some(UnitPartition { partition, log_rows, offsets, log: held, warm: warm.ok(), pending, verdict }))
    }

    /// A unit that the log has no rows of: warm must have none at the log's offsets either.
    async fn not_in_log(&mut self, unit: Unit, logs: &[LogRead]) -> Result<(), AuditError> {
        let mut tries = 0;
        let warm = loop {
            let facts = &self.facts[&unit.kind];
            let offsets: Vec<_> = (0_u16..)
                .zip(logs)
                .map(|(partition, log)| {
                    let gone = facts.gone(unit.day, partition);
                    gone.clamp(log.offsets.start, log.offsets.end)..log.offsets.end
                })
                .collect();
            if offsets.iter().all(Range::is_empty) {
                return Ok(());
            }
            let warm = told(self.warm.digest(unit, &offsets).await)?;
            tries += 1;
            if warm.as_ref().is_ok_and(|warm| warm.rows == 0)
                || tries == TRIES_MAX
                || !self.has_moved(unit).await?
            {
                break warm;
            }
        };
        match warm {
            Ok(RowDigest { rows: 0, .. }) => {}
            Ok(warm) => self.report.find(Finding {
                severity: Severity::Broken,
                link: Link::LogWarm,
                unit: Some(unit),
                partition: None,
                offsets: None,
                what: format!("warm holds {} rows at offsets at which the log has none", warm.rows),
                next: "name the log that warm was filled from".to_owned(),
            }),
            Err(reason) => self.report.find(damaged(unit, None, &reason)),
        }
        Ok(())
    }

    /// Rows that warm's own books list, and warm no longer has: the log may have dropped them long ago.
    async fn lost_from_warm(&mut self, unit: Unit, marks: &[u64]) -> Result<(), AuditError> {
        let offsets: Vec<_> = marks.iter().map(|next| 0..*next).collect();
        let mut tries = 0;
        let lost = loop {
            let lost = self.warm.rows_lost(unit, &offsets).await?;
            tries += 1;
            if lost.is_none() || tries == TRIES_MAX || !self.has_moved(unit).await? {
                break lost;
            }
        };
        if let Some(Removed { rows, next }) = lost {
            self.report.find(Finding {
                severity: Severity::Broken,
                link: Link::Warm,
                unit: Some(unit),
                partition: None,
                offsets: None,
                what: format!("{rows} rows that were stored in warm are no longer there"),
                next,
            });
        }
        Ok(())
    }

    fn chain_faults(&mut self, unit: Unit, chain: &Chain) {
        for fault in &chain.faults {
            self.report.find(Finding {
                severity: Severity::Broken,
                link: Link::Cold,
                unit: Some(unit),
                partition: None,
                offsets: None,
                what: format!("{}: {}", fault.key, fault.reason),
                next: "put it back from a copy or an older version of the object; let nothing be dropped from warm \
                       meanwhile (archive.every_minutes = 0)"
                    .to_owned(),
            });
        }
    }

    /// Whether a manifest has rows of a lost timeline at offsets that the log skipped, or gives its rows up. The
    /// log and warm have only a part of its rows, so that there is nothing to compare it with.
    fn is_of_lost(&self, manifest: &Manifest) -> bool {
        if manifest.is_lost {
            return true;
        }
        let epoch = self.bus.epoch();
        let generation = manifest.generation.as_ref().and_then(|generation| generation.parse().ok());
        let is_own = generation.is_some_and(|generation| epoch.has(generation, &manifest.next_offsets));
        let offsets = manifest.offsets();
        let is_skipped = |lost: &Lost| {
            let skipped = lost.from.iter().zip(&lost.to);
            let mut pairs = offsets.iter().zip(skipped);
            pairs.any(|(held, (from, to))| held.start.max(*from) < held.end.min(*to))
        };
        !is_own && epoch.lost().iter().any(is_skipped)
    }

    /// Warm must not have dropped what no manifest covers.
    async fn dropped(&mut self, unit: Unit, chain: &Chain) -> Result<(), AuditError> {
        let facts = &self.facts[&unit.kind];
        let dropped = facts.dropped.get(&unit.day).map_or(0, Vec::len);
        let lost: Vec<_> = (0..dropped as u16)
            .map(|partition| {
                (partition, at(chain.next_offsets(), partition)..facts.gone(unit.day, partition))
            })
            .filter(|(_, offsets)| !offsets.is_empty())
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        // What was dropped since the chain was read is covered by a manifest of since then.
        let now = self.chains.read(unit).await?;
        for (partition, offsets) in lost {
            if offsets.end > at(now.next_offsets(), partition) {
                self.report.find(Finding {
                    severity: Severity::Broken,
                    link: Link::Cold,
                    unit: Some(unit),
                    partition: Some(partition),
                    offsets: Some(offsets),
                    what: "warm has dropped rows that no manifest covers".to_owned(),
                    next: format!(
                        "set archive.url to where the day went, or put {} back from a copy",
                        manifest_key(unit, now.manifests.len() as u32)
                    ),
                });
            }
        }
        Ok(())
    }

    /// All that warm holds of the unit: what was digested already is not read again.
    async fn all_of_warm(
        &mut self,
        unit: Unit,
        chain: &Chain,
        partitions: &[UnitPartition],
        manifests: &[ManifestReport],
        marks: &[u64],
    ) -> Result<Option<RowDigest>, AuditError> {
        let mut sum = RowDigest::default();
        let mut first = Vec::new();
        // Of bars, one that was revised counts once in all and once in each manifest.
        if unit.kind != Kind::Bar && !manifests.is_empty() && manifests.iter().all(|of| of.warm == Some(true))
        {
            manifests.iter().for_each(|manifest| sum.add(manifest.digest));
            first = chain.next_offsets().to_vec();
        } else if !partitions.is_empty() && partitions.len() == marks.len() {
            let is_whole = |of: &UnitPartition| of.offsets == (0..at(marks, of.partition));
            if partitions.iter().all(is_whole) {
                return Ok(partitions.iter().try_fold(sum, |mut sum, of| {
                    sum.add(of.warm?);
                    Some(sum)
                }));
            }
        }
        let offsets: Vec<_> =
            (0_u16..).zip(marks).map(|(partition, mark)| at(&first, partition).min(*mark)..*mark).collect();
        if offsets.iter().all(Range::is_empty) {
            return Ok(Some(sum));
        }
        match told(self.warm.digest(unit, &offsets).await)? {
            Ok(digest) => {
                sum.add(digest);
                Ok(Some(sum))
            }
            Err(reason) => {
                self.report.find(damaged(unit, None, &reason));
                Ok(None)
            }
        }
    }
}
