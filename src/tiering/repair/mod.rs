//! Repair: what is damaged or missing in warm or the archive is built again from another tier.
//!
//! A plan comes first ([`Repairer::plan`]): of each damaged part the tier that still has its rows. Then each
//! step is done by itself ([`Repairer::run`]), warm before the archive, since warm is a source for the archive:
//!
//! - a segment of local warm is replaced by a file with the same rows, from the log or the archive;
//! - a manifest of the archive is replaced by one whose objects hold the same rows, from warm or the log;
//! - a manifest that is damaged or missing itself is made again from its objects, proven by warm, the log or
//!   that no other attempt left objects;
//! - a day of which warm holds other rows than the archive, and the log does not contradict the archive, is
//!   restored from the archive.
//!
//! Every step compares digests before anything counts, keeps what it replaces, and leaves the store as it
//! was if it fails or is killed. A part that no other tier has is named with what is lost.

mod scratch;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::scratch::Scratch;
use crate::bus::epoch::Relation;
use crate::bus::{Bounds, Bus, BusError};
use crate::market::{BatchError, Kind, TimeRange, Timestamp};
use crate::tiering::archive::lease::Lease;
use crate::tiering::archive::manifest::Manifest;
use crate::tiering::archive::read::{ArchiveReader, SharedReadStats};
use crate::tiering::archive::rebuild::{Damaged, KEPT_PREFIX};
use crate::tiering::archive::remade::Remade;
use crate::tiering::archive::restore::{self, RestoreError};
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::snapshot::{ReadError, Snapshot};
use crate::tiering::archive::{self, ArchiveError};
use crate::tiering::audit::{AuditError, Auditor, Progress, Report, Selection, UnitReport};
use crate::tiering::warm::local::{LocalWarm, SegmentInfo};
use crate::tiering::warm::{ArchiveSource, Query, Unit, WarmError};

/// The directory of the data directory that holds what repairs replaced.
pub const KEPT_DIR: &str = "kept";

/// Where rows are put in order on their way.
const SCRATCH_DIR: &str = "scratch";

/// Why a repair could not be planned or done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RepairError {
    /// The stores could not be compared.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The log refused.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Warm refused.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// The archive refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A day could not be restored into warm.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A record of the log can't be read.
    #[error("partition {partition}, offset {offset} of the log: {reason}")]
    Log {
        /// The partition.
        partition: u16,
        /// The record's offset.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// Stored rows can't be decoded.
    #[error("rows can't be decoded: {reason}")]
    Rows {
        /// What is wrong.
        reason: String,
    },
    /// The rows are in objects that can't be read now.
    #[error("{unit}: {objects} of its objects must be restored from Glacier first")]
    Frozen {
        /// The unit.
        unit: Unit,
        /// How many.
        objects: u64,
    },
}

impl RepairError {
    fn rows(error: BatchError) -> Self {
        Self::Rows { reason: error.to_string() }
    }
}

/// The tier that has the rows of a damaged part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The log.
    Log,
    /// Warm.
    Warm,
    /// The archive.
    Archive,
    /// The log for the later rows, the archive for the earlier ones.
    LogAndArchive,
    /// The object that the damaged one is a copy of.
    Original,
    /// The objects that the damaged manifest named.
    Objects,
}

impl Source {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "the log",
            Self::Warm => "warm",
            Self::Archive => "the archive",
            Self::LogAndArchive => "the archive and the log",
            Self::Original => "its object",
            Self::Objects => "its objects",
        }
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The rows that are concerned.
    pub unit: Unit,
    /// The file or object, or the tier.
    pub part: String,
    /// What is wrong with it.
    pub fault: String,
    /// From where it is built again; none where no other tier has its rows.
    pub source: Option<Source>,
    /// Rows that are built again, or lost. 0 where it is not known.
    pub rows: u64,
    /// Where what is replaced is kept; none where nothing is replaced.
    pub kept: Option<String>,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The step.
    pub step: Step,
    /// Why it failed, if it did. The store is then as it was.
    pub failed: Option<String>,
}

/// What a step works on.
enum Work {
    Segment(SegmentInfo),
    Objects(Box<Damaged>),
    Manifest(Box<Remade>, Proof),
    IntoWarm(Unit),
    Nothing,
}

/// What proves which of the candidates a lost manifest was.
enum Proof {
    /// It is this one.
    Found(Box<Manifest>),
    /// The one with the rows that the log has at its offsets.
    InLog,
}

/// Plans and makes repairs of stores that are open.
pub struct Repairer {
    /// The log.
    pub bus: Arc<dyn Bus>,
    /// Warm.
    pub warm: Arc<dyn ArchiveSource>,
    /// Warm, where it is in the data directory.
    pub local: Option<Arc<LocalWarm>>,
    /// The archive, as it is read.
    pub reader: Arc<ArchiveReader>,
    /// The archive, as it is written.
    pub archiver: Archiver,
    /// The data directory.
    pub dir: PathBuf,
    /// The days and kinds that are looked at.
    pub selection: Selection,
}

/// The name of what a repair that begins now keeps.
pub fn kept_name(now: Timestamp) -> String {
    let text = now.to_string();
    let digits = text.split('.').next().unwrap_or_default();
    format!("{}Z", digits.replace(['-', ':', 'Z'], ""))
}

fn at(offsets: &[u64], partition: u16) -> u64 {
    offsets.get(usize::from(partition)).copied().unwrap_or(0)
}

impl Repairer {
    /// Says what would be done now. Reads every segment and every object of the selection.
    ///
    /// Errors: a store can't be read, or the archive is of another log.
    pub async fn plan(&self, progress: &Progress) -> Result<Vec<Step>, RepairError> {
        let kept = kept_name(Timestamp::now());
        Ok(self.look(&kept, progress).await?.into_iter().map(|(step, _)| step).collect())
    }

    /// Does all that can be done. Calls `done` after each step.
    ///
    /// Errors: a store can't be read, or another archiver holds the lease. What fails of one step is told
    /// with it, and the next is done.
    pub async fn run(
        &self,
        progress: &Progress,
        mut done: impl FnMut(&Done) + Send,
    ) -> Result<Vec<Done>, RepairError> {
        let lease = self.archiver.hold().await?;
        let worked = async {
            let kept = kept_name(Timestamp::now());
            let mut all = Vec::new();
            for (step, work) in self.look(&kept, progress).await? {
                let worked = self.work(&step, work, &lease, &kept).await;
                let failed = worked.err().map(|error| error.to_string());
                all.push(Done { step, failed });
                all.last().into_iter().for_each(&mut done);
            }
            Ok::<_, RepairError>(all)
        };
        let worked = worked.await;
        self.reader.forget_manifests();
        let released = lease.release().await;
        let worked = worked?;
        released?;
        Ok(worked)
    }

    /// What is to be done: warm first.
    async fn look(&self, kept: &str, progress: &Progress) -> Result<Vec<(Step, Work)>, RepairError> {
        let cold = self.reader.cold().clone();
        let auditor =
            Auditor::new(self.bus.clone(), self.warm.clone(), cold, self.selection.clone(), progress.clone());
        let report = auditor.run().await?;
        let quiet: archive::Progress = Arc::new(|_| {});
        let archived = self.archiver.find_damaged(|unit| self.selection.takes(unit), &quiet).await?;
        let mut bounds = Vec::new();
        for partition in 0..self.bus.partitions() {
            bounds.push(self.bus.bounds(partition).await?);
        }
        let mut steps = Vec::new();
        let mut lost = Vec::new();
        let segments = match &self.local {
            Some(local) => local.damaged_segments(|unit| self.selection.takes(unit)).await?,
            None => Vec::new(),
        };
        for (info, fault) in &segments {
            let source = self.source_of(info, &bounds, &archived.damaged).await?;
            if source.is_none() {
                lost.push(info.clone());
            }
            let kept =
                format!("{}/warm/{}", self.dir.join(KEPT_DIR).join(kept).display(), info.path().display());
            let step = Step {
                unit: info.unit(),
                part: format!("{}/warm/{}", self.dir.display(), info.path().display()),
                fault: short(fault),
                source,
                rows: info.rows,
                kept: source.map(|_| kept),
            };
            steps.push((step, if source.is_some() { Work::Segment(info.clone()) } else { Work::Nothing }));
        }
        for unit in differing(&report) {
            let is_damaged = segments.iter().any(|(info, _)| info.unit() == unit)
                || archived.damaged.iter().any(|damaged| damaged.unit == unit);
            if is_damaged {
                continue;
            }
            let step = Step {
                unit,
                part: "warm".to_owned(),
                fault: "its rows are not the archived ones, which the log does not contradict".to_owned(),
                source: Some(Source::Archive),
                rows: report.units.iter().find(|of| of.unit == unit).map_or(0, UnitReport::archived_rows),
                kept: Some(format!("{}: {}", self.reader.cold().name(), kept_rows(kept))),
            };
            steps.push((step, Work::IntoWarm(unit)));
        }
        for damaged in archived.damaged {
            let source = if damaged.is_footers_only {
                Some(Source::Original)
            } else {
                self.source_of_objects(&damaged, &bounds, &lost).await?
            };
            let keys: Vec<&str> = damaged.faults.iter().map(|fault| fault.key.as_str()).collect();
            let step = Step {
                unit: damaged.unit,
                part: format!("{}: {}", self.reader.cold().name(), keys.join(", ")),
                fault: damaged.faults.first().map(|fault| short(&fault.reason)).unwrap_or_default(),
                source,
                rows: if damaged.is_footers_only { 0 } else { damaged.manifest.digest.rows },
                kept: source.map(|_| format!("{}: {KEPT_PREFIX}{kept}/", self.reader.cold().name())),
            };
            let work = if source.is_some() { Work::Objects(Box::new(damaged)) } else { Work::Nothing };
            steps.push((step, work));
        }
        for remade in archived.remade {
            let proof = self.proof(&remade, &bounds, &lost).await?;
            let rows = match (&proof, remade.candidates.first()) {
                (Some(Proof::Found(manifest)), _) => manifest.digest.rows,
                (_, Some(candidate)) => candidate.digest.rows,
                _ => 0,
            };
            let step = Step {
                unit: remade.unit,
                part: format!("{}: {}", self.reader.cold().name(), remade.fault.key),
                fault: short(&remade.fault.reason),
                source: proof.is_some().then_some(Source::Objects),
                rows,
                kept: proof.is_some().then(|| format!("{}: {KEPT_PREFIX}{kept}/", self.reader.cold().name())),
            };
            let work = proof.map_or(Work::Nothing, |proof| Work::Manifest(Box::new(remade), proof));
            steps.push((step, work));
        }
        for (unit, fault) in archived.faults {
            let step = Step {
                unit,
                part: format!("{}: {}", self.reader.cold().name(), fault.key),
                fault: short(&fault.reason),
                source: None,
                rows: 0,
                kept: None,
            };
            steps.push((step, Work::Nothing));
        }
        Ok(steps)
    }

    /// The tier that has all rows of a segment.
    async fn source_of(
        &self,
        info: &SegmentInfo,
        bounds: &[Bounds],
        damaged: &[Damaged],
    ) -> Result<Option<Source>, RepairError> {
        let Some(log) = bounds.get(usize::from(info.partition)) else { return Ok(None) };
        // Bars are made from all trades since the log's beginning.
        let log_from = if info.kind == Kind::Bar && log.first > 0 { u64::MAX } else { log.first };
        let is_in_log = log_from <= info.first_offset && info.next_offset <= log.next;
        // Bars in the archive are the very rows; those made from the log may be other revisions. The first
        // records of a log that lost its beginning may repeat ones that it dropped.
        if is_in_log && info.kind != Kind::Bar && log.first == 0 {
            return Ok(Some(Source::Log));
        }
        let archived = self.archived(info, damaged).await?;
        if archived.is_some_and(|archived| info.next_offset <= archived) {
            return Ok(Some(Source::Archive));
        }
        if is_in_log {
            return Ok(Some(Source::Log));
        }
        let both = archived.is_some_and(|archived| log_from <= archived && info.next_offset <= log.next);
        Ok(both.then_some(Source::LogAndArchive))
    }

    /// The offset below which the archive holds all rows of the segment's unit and partition, and they can be
    /// read. None where it can't be asked for them.
    async fn archived(&self, info: &SegmentInfo, damaged: &[Damaged]) -> Result<Option<u64>, RepairError> {
        let unit = info.unit();
        let is_damaged = damaged.iter().any(|damaged| damaged.unit == unit && !damaged.is_footers_only);
        if is_damaged || self.reader.standing().await? != Relation::Own {
            return Ok(None);
        }
        let snapshot = match self.snapshot(unit).await {
            Ok(snapshot) => snapshot,
            // Its manifests are damaged.
            Err(ReadError::Manifest { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let files = snapshot.files(unit.day)?;
        let (_, frozen) = self.reader.availability(files, &SharedReadStats::default()).await?;
        let next = at(snapshot.next_offsets(unit.day), info.partition);
        Ok((frozen.is_empty() && next > 0).then_some(next))
    }

    async fn snapshot(&self, unit: Unit) -> Result<Snapshot, ReadError> {
        let range = TimeRange { from: unit.day.start(), to: unit.day.end() };
        self.reader.snapshot(unit.kind, range).await
    }

    /// The tier that has all rows of a manifest.
    async fn source_of_objects(
        &self,
        damaged: &Damaged,
        bounds: &[Bounds],
        lost: &[SegmentInfo],
    ) -> Result<Option<Source>, RepairError> {
        let Damaged { unit, manifest, .. } = damaged;
        let offsets: Vec<(u16, Range<u64>)> =
            (0..).zip(manifest.offsets()).filter(|(_, offsets)| !offsets.is_empty()).collect();
        let is_lost = |partition: u16, offsets: &Range<u64>| {
            lost.iter().any(|info| {
                let overlaps = info.first_offset < offsets.end && offsets.start < info.next_offset;
                (info.unit(), info.partition) == (*unit, partition) && overlaps
            })
        };
        let gone = self.gone(*unit).await?;
        let mut is_in_warm = true;
        for (partition, offsets) in &offsets {
            let has_come = self.warm.mark(*partition).await?.next_offset >= offsets.end;
            is_in_warm &= has_come && at(&gone, *partition) <= offsets.start && !is_lost(*partition, offsets);
        }
        if is_in_warm {
            return Ok(Some(Source::Warm));
        }
        let is_in_log = unit.kind != Kind::Bar
            && offsets.iter().all(|(partition, offsets)| {
                let bounds = bounds.get(usize::from(*partition));
                bounds.is_some_and(|bounds| bounds.first <= offsets.start && offsets.end <= bounds.next)
            });
        Ok(is_in_log.then_some(Source::Log))
    }

    /// What proves which candidate a lost manifest was: the rows in warm, or in the log, or that only one attempt
    /// left objects. `None` where nothing proves it.
    async fn proof(
        &self,
        remade: &Remade,
        bounds: &[Bounds],
        lost: &[SegmentInfo],
    ) -> Result<Option<Proof>, RepairError> {
        let Some(first) = remade.candidates.first() else { return Ok(None) };
        // All have the same offsets.
        let of_offsets = Damaged {
            unit: remade.unit,
            manifest: first.clone(),
            faults: Vec::new(),
            is_footers_only: false,
        };
        let source = self.source_of_objects(&of_offsets, bounds, lost).await?;
        if source == Some(Source::Warm) {
            let held = self.warm.digest(remade.unit, &first.offsets()).await?;
            if let Some(found) = remade.candidates.iter().find(|candidate| candidate.digest == held) {
                return Ok(Some(Proof::Found(Box::new(found.clone()))));
            }
            // Of bars warm may hold other revisions.
            if remade.unit.kind != Kind::Bar {
                return Ok(None);
            }
        }
        if remade.is_proven {
            return Ok(Some(Proof::Found(Box::new(first.clone()))));
        }
        Ok((source == Some(Source::Log)).then_some(Proof::InLog))
    }

    /// Puts a lost manifest back.
    async fn manifest(
        &self,
        remade: &Remade,
        proof: Proof,
        lease: &Lease,
        kept: &str,
    ) -> Result<(), RepairError> {
        let unit = remade.unit;
        let manifest = match proof {
            Proof::Found(manifest) => *manifest,
            Proof::InLog => {
                let Some(first) = remade.candidates.first() else { return Ok(()) };
                let (scratch, offsets) = (self.scratch(unit)?, first.offsets());
                for (partition, offsets) in (0..).zip(&offsets).filter(|(_, offsets)| !offsets.is_empty()) {
                    scratch.take_logged(&*self.bus, partition, offsets.clone()).await?;
                }
                let logged = scratch.digest(&offsets).await?;
                let found = remade.candidates.iter().find(|candidate| candidate.digest == logged);
                let what = "what the log holds is in none of the objects that no manifest names";
                let (found_digest, expected) = (logged, first.digest);
                let differs = ArchiveError::Differs { unit, what, found: found_digest, expected };
                found.ok_or(differs)?.clone()
            }
        };
        let kept = format!("{KEPT_PREFIX}{kept}/");
        Ok(self.archiver.put_remade(lease, unit, &manifest, &kept).await?)
    }

    /// By partition, the offset below which warm has dropped rows of the unit.
    async fn gone(&self, unit: Unit) -> Result<Vec<u64>, RepairError> {
        let nothing = TimeRange { from: Timestamp::MIN, to: Timestamp::MIN };
        let scan = self.warm.scan(&Query::new(unit.kind, Some(Vec::new()), nothing)).await?;
        let is_restored = scan.restored.contains(&unit.day);
        let dropped = scan.dropped.get(&unit.day).filter(|_| !is_restored);
        Ok(dropped.cloned().unwrap_or_default())
    }

    async fn work(&self, step: &Step, work: Work, lease: &Lease, kept: &str) -> Result<(), RepairError> {
        lease.check()?;
        match (work, step.source) {
            (Work::Segment(info), Some(source)) => self.segment(&info, source, kept).await,
            (Work::Objects(damaged), Some(source)) => self.objects(&damaged, source, lease, kept).await,
            (Work::Manifest(remade, proof), _) => self.manifest(&remade, proof, lease, kept).await,
            (Work::IntoWarm(unit), _) => {
                let snapshot = self.snapshot(unit).await?;
                let offsets: Vec<_> = snapshot.next_offsets(unit.day).iter().map(|next| 0..*next).collect();
                let replaced = self.warm.export(unit, &offsets).await?;
                let quiet: archive::Progress = Arc::new(|_| {});
                self.archiver.keep_rows(lease, unit, &kept_rows(kept), replaced, &quiet).await?;
                restore::into_warm(&self.reader, &snapshot, &*self.warm, unit).await?;
                Ok(())
            }
            (Work::Nothing | Work::Segment(_) | Work::Objects(_), _) => Ok(()),
        }
    }

    fn scratch(&self, unit: Unit) -> Result<Scratch, RepairError> {
        Ok(Scratch::create(&self.dir.join(KEPT_DIR).join(SCRATCH_DIR), unit)?)
    }

    async fn segment(&self, info: &SegmentInfo, source: Source, kept: &str) -> Result<(), RepairError> {
        let Some(local) = &self.local else { return Ok(()) };
        let (unit, partition) = (info.unit(), info.partition);
        let scratch = self.scratch(unit)?;
        let offsets = of_partition(partition, info.first_offset..info.next_offset);
        let mut log_from = info.first_offset;
        if matches!(source, Source::Archive | Source::LogAndArchive) {
            let snapshot = self.snapshot(unit).await?;
            let next = at(snapshot.next_offsets(unit.day), partition).min(info.next_offset);
            let archived = of_partition(partition, info.first_offset..next);
            scratch.take_archived(&self.reader, &snapshot, &archived).await?;
            log_from = next.max(info.first_offset);
        }
        if log_from < info.next_offset {
            scratch.take_logged(&*self.bus, partition, log_from..info.next_offset).await?;
        }
        let expected = scratch.digest(&offsets).await?;
        let rows = scratch.rows(&offsets).await?;
        let kept = self.dir.join(KEPT_DIR).join(kept).join("warm");
        let found = local.replace_segment(info.id, &kept, rows).await?;
        if found == expected {
            return Ok(());
        }
        let reason = format!("{found} were written, but the source has {expected}");
        Err(WarmError::Damaged { path: info.path().display().to_string(), reason }.into())
    }

    async fn objects(
        &self,
        damaged: &Damaged,
        source: Source,
        lease: &Lease,
        kept: &str,
    ) -> Result<(), RepairError> {
        let quiet: archive::Progress = Arc::new(|_| {});
        let kept = format!("{KEPT_PREFIX}{kept}/");
        let Damaged { unit, manifest, .. } = damaged;
        if source == Source::Original {
            return Ok(self.archiver.rebuild_footers(lease, damaged, &kept, &quiet).await?);
        }
        let offsets = manifest.offsets();
        let differs =
            |what, found| ArchiveError::Differs { unit: *unit, what, found, expected: manifest.digest };
        if source == Source::Warm {
            let found = self.warm.digest(*unit, &offsets).await?;
            if found != manifest.digest {
                return Err(differs("what warm holds is not what was archived", found).into());
            }
            let rows = self.warm.export(*unit, &offsets).await?;
            return Ok(self.archiver.rebuild(lease, damaged, &kept, rows, &quiet).await?);
        }
        let scratch = self.scratch(*unit)?;
        for (partition, offsets) in (0..).zip(&offsets).filter(|(_, offsets)| !offsets.is_empty()) {
            scratch.take_logged(&*self.bus, partition, offsets.clone()).await?;
        }
        let found = scratch.digest(&offsets).await?;
        if found != manifest.digest {
            return Err(differs("what the log holds is not what was archived", found).into());
        }
        let rows = scratch.rows(&offsets).await?;
        Ok(self.archiver.rebuild(lease, damaged, &kept, rows, &quiet).await?)
    }
}

/// The units of which warm holds other rows than the archive, and the log does not contradict the archive. Of bars
/// other revisions are no other rows.
fn differing(report: &Report) -> Vec<Unit> {
    let is_wrong = |unit: &&UnitReport| {
        let manifests = &unit.manifests;
        manifests.iter().any(|manifest| manifest.warm == Some(false))
            && manifests.iter().all(|manifest| manifest.log != Some(false))
    };
    report.units.iter().filter(is_wrong).map(|unit| unit.unit).collect()
}

fn of_partition(partition: u16, offsets: Range<u64>) -> Vec<Range<u64>> {
    let mut all = vec![0..0; usize::from(partition)];
    all.push(offsets);
    all
}

/// Where in the archive the rows are kept that a day in warm had before it was restored.
fn kept_rows(kept: &str) -> String {
    format!("{KEPT_PREFIX}{kept}/warm/")
}

/// A fault without the advice that follows it: the plan says what is done.
fn short(fault: &str) -> String {
    fault.split(';').next().unwrap_or_default().to_owned()
}
