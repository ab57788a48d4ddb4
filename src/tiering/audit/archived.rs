//! The archive's side of an audit: manifests, held against warm and against the log over the same offsets.
//!
//! Where warm or the log has all rows of a manifest, the digest that it names is compared. Where they have a
//! part of them, that part is read from the archived objects and compared.

use std::ops::Range;
use std::sync::Arc;

use futures_util::TryStreamExt;

use super::log::{LogRead, of_partition};
use super::report::{Compared, damaged, part_differs, unequal};
use super::{AuditError, Auditor, Finding, Link, ManifestReport, Severity, TRIES_MAX, at, told};
use crate::market::{Kind, RowDigest, TimeRange};
use crate::tiering::archive::chain::Chain;
use crate::tiering::archive::manifest::Manifest;
use crate::tiering::archive::read::{ArchiveReader, SharedReadStats};
use crate::tiering::archive::snapshot::ReadError;
use crate::tiering::archive::{ArchiveError, bars};
use crate::tiering::warm::Unit;

impl Auditor {
    /// Holds a manifest of `chain` against warm and against the log, where they still have its rows.
    pub(super) async fn manifest(
        &mut self,
        unit: Unit,
        manifest: &Manifest,
        chain: &Chain,
        logs: &[LogRead],
        marks: &[u64],
    ) -> Result<ManifestReport, AuditError> {
        let mut report =
            ManifestReport { number: manifest.number, digest: manifest.digest, warm: None, log: None };
        if self.is_of_lost(manifest) {
            return Ok(report);
        }
        let offsets = manifest.offsets();
        let mut of_partitions = (0_u16..).zip(&offsets).filter(|(_, offsets)| !offsets.is_empty());
        for (partition, beyond) in
            of_partitions.clone().filter(|(partition, offsets)| offsets.end > at(marks, *partition))
        {
            // Warm may have gone on since the marks were taken, and an archiver after it.
            if self.warm.mark(partition).await?.next_offset >= beyond.end {
                continue;
            }
            self.report.find(Finding {
                severity: Severity::Unknown,
                link: Link::Cold,
                unit: Some(unit),
                partition: Some(partition),
                offsets: Some(at(marks, partition)..beyond.end),
                what: format!("manifest {:04} holds rows that warm has not come to", manifest.number),
                next: "nothing, if warm was made again beside an older archive: the processor fills it from the \
                       log; where the log no longer has them, start it once with processor.expired=skip"
                    .to_owned(),
            });
            return Ok(report);
        }
        let (mut tries, mut in_warm) = (0, None);
        while of_partitions
            .clone()
            .all(|(partition, offsets)| self.facts[&unit.kind].gone(unit.day, partition) <= offsets.start)
        {
            let warm = told(self.warm.digest(unit, &offsets).await)?;
            tries += 1;
            let is_equal = warm.as_ref().is_ok_and(|warm| *warm == manifest.digest);
            if !is_equal && tries < TRIES_MAX && self.has_moved(unit).await? {
                continue;
            }
            report.warm = Some(is_equal);
            match warm {
                // Made again from the log, warm has other revisions.
                Ok(_) if !is_equal && unit.kind == Kind::Bar => {
                    report.warm = self.are_same_bars(unit, chain).await?;
                    in_warm = warm.ok().filter(|_| report.warm == Some(false));
                }
                Ok(warm) => in_warm = Some(warm),
                Err(reason) => self.report.find(damaged(unit, None, &reason)),
            }
            break;
        }
        let is_in_log = unit.kind != Kind::Bar
            && of_partitions.all(|(partition, offsets)| {
                logs.get(usize::from(partition)).is_some_and(|log| {
                    let has_all = log.offsets.start <= offsets.start && offsets.end <= log.offsets.end;
                    has_all && !log.doubts.contains_key(&unit)
                })
            });
        let mut in_log = None;
        if is_in_log {
            let mut log = RowDigest::default();
            logs.iter().zip(&offsets).for_each(|(read, offsets)| log.add(read.digests.of(unit, offsets)));
            report.log = Some(log == manifest.digest);
            in_log = Some(log);
        }
        let compared = Compared { archived: manifest.digest, warm: in_warm, log: in_log };
        for (store, found) in [("warm", in_warm), ("the log", in_log)] {
            if let Some(found) = found.filter(|found| *found != manifest.digest) {
                self.report.find(unequal(unit, manifest, store, found, &compared));
            }
        }
        self.parts(unit, manifest, logs, &report).await?;
        Ok(report)
    }

    /// Whether warm and the archive have the same bars, in whatever revisions; told once where that can't be seen.
    async fn are_same_bars(&mut self, unit: Unit, chain: &Chain) -> Result<Option<bool>, AuditError> {
        if let Some((_, are_same)) = self.bars.filter(|(of, _)| *of == unit) {
            return Ok(are_same);
        }
        let compared = bars::are_same(self.cold.clone(), &*self.warm, unit, chain.next_offsets()).await;
        let (are_same, unseen) = match compared {
            Ok(None) => (None, Some("objects must be restored from Glacier first".to_owned())),
            Err(error) if !error.is_passing() => (None, Some(error.to_string())),
            compared => (compared?, None),
        };
        self.bars = Some((unit, are_same));
        if let Some(reason) = unseen {
            self.report.find(Finding {
                severity: Severity::Unknown,
                link: Link::Cold,
                unit: Some(unit),
                partition: None,
                offsets: None,
                what: format!("warm has other revisions of bars than the archive, and whether they are the same \
                     bars can't be told: {reason}"),
                next: "`stk archive restore` brings objects back from Glacier; `stk archive verify` names damaged ones"
                    .to_owned(),
            });
        }
        Ok(are_same)
    }

    /// Compares the part of a manifest's rows that warm or the log has, where it does not have all.
    async fn parts(
        &mut self,
        unit: Unit,
        manifest: &Manifest,
        logs: &[LogRead],
        report: &ManifestReport,
    ) -> Result<(), AuditError> {
        // Of bars a part may be other revisions than the whole.
        if unit.kind == Kind::Bar {
            return Ok(());
        }
        let facts = &self.facts[&unit.kind];
        let mut parts: Vec<(bool, u16, Range<u64>)> = Vec::new();
        for (partition, offsets) in (0_u16..).zip(manifest.offsets()) {
            let gone = facts.gone(unit.day, partition);
            if report.warm.is_none() && gone < offsets.end {
                parts.push((true, partition, gone.max(offsets.start)..offsets.end));
            }
            if let Some(log) = logs.get(usize::from(partition)).filter(|log| !log.doubts.contains_key(&unit))
                && report.log.is_none()
            {
                let part = log.offsets.start.max(offsets.start)..log.offsets.end.min(offsets.end);
                parts.push((false, partition, part));
            }
        }
        parts.retain(|(_, _, offsets)| !offsets.is_empty());
        if parts.is_empty() {
            return Ok(());
        }
        let ranges: Vec<(u16, Range<u64>)> =
            parts.iter().map(|(_, partition, offsets)| (*partition, offsets.clone())).collect();
        let Some(archived) = self.archived(unit, manifest, &ranges).await? else { return Ok(()) };
        for ((is_warm, partition, offsets), archived) in parts.into_iter().zip(archived) {
            let warm = told(self.warm.digest(unit, &of_partition(partition, offsets.clone())).await)?;
            let is_gone = self.facts[&unit.kind].gone(unit.day, partition) > offsets.start;
            // What was damaged is told where all of warm is compared.
            let warm = warm.ok().filter(|_| !is_gone);
            let log = logs
                .get(usize::from(partition))
                .filter(|log| log.offsets.start <= offsets.start && offsets.end <= log.offsets.end)
                .filter(|log| log.digests.is_cut(offsets.start))
                .map(|log| log.digests.of(unit, &offsets));
            let found = if is_warm { warm } else { log };
            let Some(found) = found.filter(|found| *found != archived) else { continue };
            if self.has_moved(unit).await? {
                continue;
            }
            let compared = Compared { archived, warm, log };
            let store = if is_warm { "warm" } else { "the log" };
            let mut finding = part_differs(unit, manifest, partition, offsets, store, found, &compared);
            if !is_warm && is_gone {
                // The first records of a log that lost its beginning may repeat ones that it dropped.
                finding.severity = Severity::Unknown;
            }
            self.report.find(finding);
        }
        Ok(())
    }

    /// The digests of a manifest's rows at each of `ranges`, read from its objects. None where they can't be
    /// read now.
    async fn archived(
        &mut self,
        unit: Unit,
        manifest: &Manifest,
        ranges: &[(u16, Range<u64>)],
    ) -> Result<Option<Vec<RowDigest>>, AuditError> {
        match self.read_archived(unit, manifest, ranges).await {
            Ok(digests) => Ok(digests),
            // The manifests' own faults are told as such.
            Err(ReadError::Manifest { .. }) => Ok(None),
            Err(ReadError::Damaged { key, reason, .. }) => {
                self.report.find(Finding {
                    severity: Severity::Broken,
                    link: Link::Cold,
                    unit: Some(unit),
                    partition: None,
                    offsets: None,
                    what: format!("{key} is damaged: {reason}"),
                    next: "`stk audit --repair` rebuilds it, if warm or the log has its rows".to_owned(),
                });
                Ok(None)
            }
            Err(error) => Err(ArchiveError::from(error).into()),
        }
    }

    async fn read_archived(
        &self,
        unit: Unit,
        manifest: &Manifest,
        ranges: &[(u16, Range<u64>)],
    ) -> Result<Option<Vec<RowDigest>>, ReadError> {
        let reader = Arc::new(ArchiveReader::new(self.cold.clone()));
        let range = TimeRange { from: unit.day.start(), to: unit.day.end() };
        let mut files = reader.snapshot(unit.kind, range).await?.files(unit.day)?;
        files.retain(|file| manifest.files.iter().any(|named| named.key == file.file.key));
        let (files, frozen) = reader.availability(files, &SharedReadStats::default()).await?;
        if !frozen.is_empty() {
            return Ok(None);
        }
        let mut digests = vec![RowDigest::default(); ranges.len()];
        let mut rows = reader.scan(unit.kind, files, None, TimeRange::ALL, SharedReadStats::default());
        while let Some(batch) = rows.try_next().await? {
            for (digest, (partition, offsets)) in digests.iter_mut().zip(ranges) {
                let part = batch.at_offsets(&of_partition(*partition, offsets.clone()));
                let part = part.map_err(|error| ReadError::Manifest {
                    store: self.cold.name().to_owned(),
                    unit,
                    reason: error.to_string(),
                })?;
                digest.add(part.digest());
            }
        }
        Ok(Some(digests))
    }
}
