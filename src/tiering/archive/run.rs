//! A run: every unit that is due goes through its steps. Crash-only: what a run that ended anyhow
//! left is where the next one goes on.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::journal::{Journal, Step};
use super::lease::Lease;
use super::manifest::{MANIFEST_VERSION, Manifest, ManifestFile, manifest_key};
use super::plan::{
    Action, Looked, Moment, Planned, Waiting, covers, is_same, last_numbers, manifests, offsets,
};
use super::read_back::read_back;
use super::sealed::seal;
use super::store::{Created, Store};
use super::verify::{SCRUB_KEY, Scrub};
use super::{
    ArchiveError, ArchiveMetrics, ArchiveOptions, Clock, Event, Progress, bars, garbage, object, origin,
    probe,
};
use crate::bus::epoch::Gone;
use crate::fail;
use crate::market::{Kind, RowDigest, TimeRange, Timestamp};
use crate::tiering::cold::Cold;
use crate::tiering::warm::{ArchiveSource, Query, Removed, Unit};

/// Times a unit is begun in a run, at most.
const TRIES_MAX: usize = 3;

/// Units whose manifests are read at once.
const READS_MAX: usize = 8;

/// Moves days from a warm store into a cold one.
pub struct Archiver {
    pub(super) store: Store,
    pub(super) warm: Arc<dyn ArchiveSource>,
    pub(super) options: ArchiveOptions,
    pub(super) clock: Clock,
    /// Of units that warm has dropped, the number of the last manifest and the offsets that it reaches.
    reached: Mutex<BTreeMap<Unit, (u32, Vec<u64>)>>,
    /// Units whose manifests reach offsets that the log skipped, as they were compared last.
    looked: Mutex<BTreeMap<Unit, Looked>>,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Manifests committed.
    pub commits: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of their data objects.
    pub bytes: u64,
    /// Units dropped from warm.
    pub drops: u64,
    /// Units whose rows could not all be dropped yet.
    pub drops_pending: u64,
    /// Objects removed that nothing named.
    pub objects_removed: u64,
    /// Units that could not be done, and why.
    pub failures: Vec<(Unit, ArchiveError)>,
    /// Units with rows that are not archived and not due yet, and why.
    pub waiting: Vec<(Unit, Waiting)>,
}

/// How a copy of a unit came about.
enum Copied {
    /// From what warm holds now.
    Whole,
    /// From objects that an earlier run left: warm may hold later rows.
    TakenUp,
}

impl Archiver {
    /// An archiver of `warm` into `cold`.
    pub fn new(
        cold: Arc<dyn Cold>,
        warm: Arc<dyn ArchiveSource>,
        options: ArchiveOptions,
        clock: Clock,
        metrics: ArchiveMetrics,
    ) -> Self {
        let store = Store::new(cold, options.bandwidth, metrics);
        Self { store, warm, options, clock, reached: Mutex::default(), looked: Mutex::default() }
    }

    /// Does all that is due, unit by unit. What fails for one unit is in the summary, and the rest
    /// is done; an error ends the run.
    pub async fn run(&self, progress: &Progress) -> Result<Summary, ArchiveError> {
        self.store.metrics.runs.inc();
        let lease = Lease::take(&self.store, &self.clock, self.options.lease).await?;
        let done = self.run_leased(&lease, progress).await;
        // A lease that can't be given back runs out.
        if let Err(error) = lease.release().await
            && done.is_ok()
        {
            tracing::warn!(%error, "the archive's lease could not be given back");
        }
        let summary = done?;
        if summary.failures.is_empty() {
            self.store.metrics.last_success_seconds.set(self.clock.now().nanos() / 1_000_000_000);
        }
        Ok(summary)
    }

    /// Takes the lease alone, so that nothing is archived or dropped while it is held.
    pub async fn hold(&self) -> Result<Lease, ArchiveError> {
        Lease::take(&self.store, &self.clock, self.options.lease).await
    }

    async fn run_leased(&self, lease: &Lease, progress: &Progress) -> Result<Summary, ArchiveError> {
        probe::probe(&self.store, &fresh_id(self.clock.now())).await?;
        if let Some(log) = &self.options.log {
            origin::claim(&self.store, log).await?;
            log.check_source(&*self.warm).await?;
        }
        let mut summary = Summary::default();
        for (unit, _) in self.dropped_elsewhere().await? {
            let error = self.not_here(unit);
            progress(Event::Failed { unit, reason: error.to_string() });
            summary.failures.push((unit, error));
        }
        let mut units;
        (units, summary.waiting) = self.plan().await?;
        if !summary.failures.is_empty() {
            // If it is the wrong archive, the right one and warm still have everything together.
            units.retain(|planned| planned.action != Action::Drop);
        }
        progress(Event::Planned { units: units.clone() });
        for planned in units {
            progress(Event::Begun { planned });
            match self.unit(lease, planned, &mut summary, progress).await {
                Ok(()) => progress(Event::Done { planned }),
                Err(error) if error.ends_run() => return Err(error),
                Err(error) => {
                    self.store.metrics.failures.inc();
                    progress(Event::Failed { unit: planned.unit, reason: error.to_string() });
                    summary.failures.push((planned.unit, error));
                }
            }
        }
        lease.check()?;
        self.settle(lease, summary.commits > 0).await?;
        let removed = garbage::collect(&self.store, &self.clock, self.options.grace).await?;
        summary.objects_removed = removed;
        if removed > 0 {
            progress(Event::Removed { objects: removed });
        }
        Ok(summary)
    }

    /// Has the archive name the days of rows that it may still lack, where that may have changed.
    async fn settle(&self, lease: &Lease, has_changed: bool) -> Result<(), ArchiveError> {
        let Some(log) = &self.options.log else { return Ok(()) };
        let named = origin::check_named(self.store.cold(), log).await?;
        if !has_changed && named.is_some_and(|held| held.gone != Gone::Unknown) {
            return Ok(());
        }
        match self.unarchived().await {
            Ok((unarchived, whole_offsets)) => {
                let gone = log.epoch().gone();
                // Rows that are gone are archived nowhere.
                let whole_offsets = if gone == Gone::Nothing { whole_offsets } else { Vec::new() };
                origin::settle(&self.store, lease, log, gone.and(unarchived), &whole_offsets).await
            }
            Err(error) if error.ends_run() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "it can't be told which days are not archived yet");
                Ok(())
            }
        }
    }

    /// The days of rows in warm that no manifest covers, and by partition an offset below which there are none.
    async fn unarchived(&self) -> Result<(Gone, Vec<u64>), ArchiveError> {
        // Asked first: what comes later lies behind these offsets.
        let nothing = TimeRange { from: Timestamp::MIN, to: Timestamp::MIN };
        let scan = self.warm.scan(&Query::new(Kind::Trade, Some(Vec::new()), nothing)).await?;
        let is_known = self.options.kinds.is_empty() && self.dropped_elsewhere().await?.is_empty();
        let mut whole_offsets = if is_known { scan.next_offsets.clone() } else { Vec::new() };
        let mut days = Vec::new();
        for info in self.warm.units().await? {
            let manifests = manifests(&self.store, info.unit).await?;
            let archived = manifests.last().map(|last| &last.next_offsets);
            let late = offsets(archived.map_or(&[], Vec::as_slice), &scan.next_offsets);
            let rows = match archived {
                None => info.rows,
                Some(_) if late.iter().all(std::ops::Range::is_empty) => 0,
                Some(_) => self.warm.digest(info.unit, &late).await?.rows,
            };
            if rows > 0 {
                days.push(info.unit.day);
                let first = self.warm.first_offsets(info.unit, &late).await?;
                whole_offsets.iter_mut().zip(first).for_each(|(whole, first)| *whole = first.min(*whole));
            }
        }
        Ok((Gone::of(days), whole_offsets))
    }

    fn not_here(&self, unit: Unit) -> ArchiveError {
        ArchiveError::NotHere { store: self.store.name().to_owned(), unit }
    }

    /// Refuses an archive that does not hold all the rows that warm has dropped.
    ///
    /// Errors: [`ArchiveError::NotHere`] of the first such unit; or a store can't be read.
    pub async fn check_dropped(&self) -> Result<(), ArchiveError> {
        match self.dropped_elsewhere().await?.first() {
            Some((unit, _)) => Err(self.not_here(*unit)),
            None => Ok(()),
        }
    }

    /// The units of which warm has dropped rows that this archive does not hold, and by partition the offsets below
    /// which it has: another archive has them, or its manifests are gone.
    pub(super) async fn dropped_elsewhere(&self) -> Result<Vec<(Unit, Vec<u64>)>, ArchiveError> {
        let mut dropped = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| self.options.takes_kind(*kind)) {
            let nothing = TimeRange { from: Timestamp::MIN, to: Timestamp::MIN };
            let scan = self.warm.scan(&Query::new(kind, Some(Vec::new()), nothing)).await?;
            let days = scan.dropped.into_iter().filter(|(day, _)| !scan.restored.contains(day));
            dropped.extend(days.map(|(day, offsets)| (Unit { day, kind }, offsets)));
        }
        if dropped.is_empty() {
            return Ok(Vec::new());
        }
        let numbers = last_numbers(&self.store).await?;
        let found = stream::iter(dropped.into_iter().map(|(unit, offsets)| {
            let number = numbers.get(&unit).copied();
            async move {
                let Some(number) = number else { return Ok(Some((unit, offsets))) };
                let known = self.reached().get(&unit).filter(|(of, _)| *of == number).cloned();
                let next_offsets = if let Some((_, next_offsets)) = known {
                    next_offsets
                } else {
                    let manifests = manifests(&self.store, unit).await?;
                    let next_offsets =
                        manifests.last().map_or_else(Vec::new, |last| last.next_offsets.clone());
                    self.reached().insert(unit, (number, next_offsets.clone()));
                    next_offsets
                };
                let is_elsewhere = !covers(&next_offsets, &offsets);
                Ok::<_, ArchiveError>(is_elsewhere.then_some((unit, offsets)))
            }
        }));
        let found: Vec<Option<(Unit, Vec<u64>)>> = found.buffered(READS_MAX).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    fn reached(&self) -> MutexGuard<'_, BTreeMap<Unit, (u32, Vec<u64>)>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn looked(&self) -> MutexGuard<'_, BTreeMap<Unit, Looked>> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn unit(
        &self,
        lease: &Lease,
        planned: Planned,
        summary: &mut Summary,
        progress: &Progress,
    ) -> Result<(), ArchiveError> {
        let mut tries = 0;
        loop {
            let done = match planned.action {
                // A drop of a unit whose copy failed finds no manifest and does nothing.
                Action::Drop => self.drop_unit(lease, planned.unit, summary, progress).await,
                Action::Copy | Action::Supplement(_) => {
                    match self.copy(lease, planned.unit, summary, progress).await {
                        // Rows that came since the attempt that was taken up.
                        Ok(Copied::TakenUp) => {
                            self.copy(lease, planned.unit, summary, progress).await.map(drop)
                        }
                        copied => copied.map(drop),
                    }
                }
            };
            tries += 1;
            match done {
                Err(error) if error.is_passing() && tries < TRIES_MAX => {
                    tracing::warn!(unit = %planned.unit, %error, "the unit is begun again");
                }
                done => return done,
            }
        }
    }

    async fn note(
        &self,
        lease: &Lease,
        unit: Unit,
        journal: &mut Journal,
        step: Step,
        progress: &Progress,
    ) -> Result<(), ArchiveError> {
        lease.check()?;
        journal.step = step;
        journal.write(&self.store, unit, &self.clock).await?;
        progress(Event::Step { unit, step: journal.step.name().into() });
        Ok(())
    }

    /// Commits what is not archived of a unit, if there is any.
    async fn copy(
        &self,
        lease: &Lease,
        unit: Unit,
        summary: &mut Summary,
        progress: &Progress,
    ) -> Result<Copied, ArchiveError> {
        let done = manifests(&self.store, unit).await?;
        let number = done.len() as u32;
        let first_offsets = done.last().map_or_else(Vec::new, |last| last.next_offsets.clone());
        let moment = Moment::of(&*self.warm, unit).await?;
        if !moment.is_restored && !covers(&first_offsets, &moment.dropped) {
            return Err(self.not_here(unit));
        }
        let known = Journal::read(&self.store, unit).await?;
        let known =
            known.filter(|known| known.number == number && is_same(&known.first_offsets, &first_offsets));
        let mut journal = Journal::new(unit, number, first_offsets);
        let mut copied = Copied::Whole;
        // What an earlier attempt has uploaded is taken up; what it left half-done is begun anew.
        if let Some(known) = known
            && let Step::Uploaded { files, digest, .. } | Step::Verified { files, digest, .. } = &known.step
            && self.are_there(files).await?
            // A warm store that was put back is to come to those offsets again, with other rows.
            && covers(&moment.next_offsets, &known.next_offsets)
            && self.holds(unit, &known, *digest).await?
        {
            journal = known;
            copied = Copied::TakenUp;
        } else {
            self.note(lease, unit, &mut journal, Step::Planned, progress).await?;
            fail::point("archive.planned");
            if !self.export(lease, unit, &mut journal, progress).await? {
                return Ok(copied);
            }
        }
        if let Step::Uploaded { attempt, digest, files } = journal.step.clone() {
            if let Err(error) = self.verify(unit, digest, &files, progress).await {
                if matches!(error, ArchiveError::Damaged { .. } | ArchiveError::Differs { .. }) {
                    // The next run begins anew instead of finding the same again.
                    self.note(lease, unit, &mut journal, Step::Sealed, progress).await?;
                }
                return Err(error);
            }
            self.note(lease, unit, &mut journal, Step::Verified { attempt, digest, files }, progress).await?;
            fail::point("archive.verified");
        }
        let Step::Verified { attempt, digest, files } = journal.step.clone() else { return Ok(copied) };
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        self.commit(lease, unit, &journal, attempt, digest, files).await?;
        summary.commits += 1;
        summary.rows += digest.rows;
        summary.bytes += bytes;
        self.store.metrics.commits.inc();
        self.store.metrics.rows.inc_by(digest.rows);
        // Whatever happens from here on, it is committed.
        let noted = async {
            // An archiver that has lost the lease may have replaced what was declared.
            self.declare(lease, &journal).await?;
            self.note(lease, unit, &mut journal, Step::Committed, progress).await
        };
        if let Err(error) = noted.await {
            if error.ends_run() {
                return Err(error);
            }
            tracing::warn!(%unit, %error, "the unit is committed, and its journal does not say so yet");
        }
        fail::point("archive.noted");
        Ok(copied)
    }

    /// Seals the unit and writes its rows into objects. Whether there are rows.
    async fn export(
        &self,
        lease: &Lease,
        unit: Unit,
        journal: &mut Journal,
        progress: &Progress,
    ) -> Result<bool, ArchiveError> {
        // Before the first row is read: what is stored from here on is late.
        let moment = Moment::of(&*self.warm, unit).await?;
        if moment.is_rebuilding {
            // A correction came meanwhile; a later run seals the bars that it makes.
            return Ok(false);
        }
        journal.next_offsets = moment.next_offsets;
        journal.first_offsets.resize(journal.next_offsets.len().max(journal.first_offsets.len()), 0);
        self.note(lease, unit, journal, Step::Sealed, progress).await?;
        fail::point("archive.sealed");
        let attempt = fresh_id(self.clock.now());
        let step = Step::Exporting { attempt: attempt.clone() };
        self.note(lease, unit, journal, step, progress).await?;
        fail::point("archive.exporting");
        let offsets = offsets(&journal.first_offsets, &journal.next_offsets);
        let source = async { self.warm.digest(unit, &offsets).await.map_err(ArchiveError::from) };
        let write = async {
            let rows = self.warm.export(unit, &offsets).await?;
            object::write(&self.store, unit, &attempt, &self.options, rows, progress).await
        };
        let (source, written) = if unit.kind == Kind::Bar {
            // Either merges all of the day's revisions of bars: side by side they take twice the memory.
            (source.await?, write.await?)
        } else {
            tokio::try_join!(source, write)?
        };
        if let Some(Removed { rows, next }) = self.warm.rows_lost(unit, &offsets).await? {
            return Err(ArchiveError::Lost { unit, rows, next });
        }
        if written.digest != source {
            return Err(ArchiveError::Differs {
                unit,
                what: "what was written is not what warm holds",
                found: written.digest,
                expected: source,
            });
        }
        if source.rows == 0 {
            return Ok(false);
        }
        let step = Step::Uploaded { attempt, digest: source, files: written.files };
        self.note(lease, unit, journal, step, progress).await?;
        fail::point("archive.uploaded");
        Ok(true)
    }

    /// Whether the rows that an earlier attempt uploaded are those that warm has at the same offsets. They
    /// are not where the log was put back from an older copy since: its offsets have other rows now.
    async fn holds(&self, unit: Unit, journal: &Journal, digest: RowDigest) -> Result<bool, ArchiveError> {
        let offsets = offsets(&journal.first_offsets, &journal.next_offsets);
        Ok(self.warm.digest(unit, &offsets).await? == digest)
    }

    async fn are_there(&self, files: &[ManifestFile]) -> Result<bool, ArchiveError> {
        for file in files {
            if self.store.availability(&file.key).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads every object again, and puts the copies of their footers.
    pub(super) async fn verify(
        &self,
        unit: Unit,
        digest: RowDigest,
        files: &[ManifestFile],
        progress: &Progress,
    ) -> Result<(), ArchiveError> {
        let mut found = RowDigest::default();
        for file in files {
            let footer = read_back(&self.store, unit.kind, file, progress).await?;
            self.store.put(&file.footer_key, footer).await?;
            fail::point("archive.footer");
            found.add(file.digest);
        }
        if found == digest {
            return Ok(());
        }
        let what = "what was read again is not what was written";
        Err(ArchiveError::Differs { unit, what, found, expected: digest })
    }

    async fn commit(
        &self,
        lease: &Lease,
        unit: Unit,
        journal: &Journal,
        attempt: String,
        digest: RowDigest,
        files: Vec<ManifestFile>,
    ) -> Result<(), ArchiveError> {
        let number = journal.number;
        // Nobody may have removed them meanwhile: an attempt may lie idle for longer than the grace.
        for file in &files {
            for key in [&file.key, &file.footer_key] {
                if self.store.availability(key).await?.is_none() {
                    return Err(self.store.damaged(key, "it was removed before it was committed"));
                }
            }
        }
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            date: unit.day,
            kind: unit.kind.name().to_owned(),
            number,
            nonce: attempt,
            committed_at: self.clock.now().to_string(),
            writer: format!("stk {}", env!("CARGO_PKG_VERSION")),
            generation: self.options.log.as_ref().map(|log| origin::generation(log, &journal.next_offsets)),
            first_offsets: journal.first_offsets.clone(),
            next_offsets: journal.next_offsets.clone(),
            is_lost: false,
            digest,
            files,
        };
        let is_own = |found: &[u8]| {
            serde_json::from_slice::<Manifest>(found).is_ok_and(|found| found.nonce == manifest.nonce)
        };
        if let Some(log) = &self.options.log {
            log.check_source(&*self.warm).await?;
        }
        self.declare(lease, journal).await?;
        lease.check()?;
        let created = self.store.create(&manifest_key(unit, number), seal(&manifest), is_own).await?;
        fail::point("archive.committed");
        match created {
            Created::Own => Ok(()),
            Created::Other(_) => Err(ArchiveError::Taken { unit, number }),
        }
    }

    async fn declare(&self, lease: &Lease, journal: &Journal) -> Result<(), ArchiveError> {
        match &self.options.log {
            Some(log) => origin::declare(&self.store, lease, log, &journal.next_offsets).await,
            None => Ok(()),
        }
    }

    /// Drops what the manifests of a unit cover, once more proven equal.
    async fn drop_unit(
        &self,
        lease: &Lease,
        unit: Unit,
        summary: &mut Summary,
        progress: &Progress,
    ) -> Result<(), ArchiveError> {
        let manifests = manifests(&self.store, unit).await?;
        let Some(last) = manifests.last() else { return Ok(()) };
        let moment = Moment::of(&*self.warm, unit).await?;
        if moment.is_restored {
            return Ok(());
        }
        let next_offsets = &last.next_offsets;
        let known = Journal::read(&self.store, unit).await?;
        let mut journal = Journal::new(unit, last.number, last.first_offsets.clone());
        journal.next_offsets.clone_from(next_offsets);
        // Once the source was found equal and its rows began to go, it never is again. That they did, this
        // source must say itself: the journal may be that of a later copy of it.
        let is_going = moment.has_dropped(next_offsets)
            && known.as_ref().is_some_and(|known| {
                known.step == Step::Dropping && is_same(&known.next_offsets, next_offsets)
            });
        if !is_going {
            let scrub: Option<Scrub> = self.store.get_json(SCRUB_KEY).await?;
            let scrub = scrub.unwrap_or_default();
            let mut differing = None;
            for manifest in &manifests {
                match self.check_covered(unit, manifest, &moment, &scrub).await {
                    Err(error @ ArchiveError::Differs { .. }) if unit.kind == Kind::Bar => {
                        differing = Some(error);
                    }
                    checked => checked?,
                }
            }
            if let Some(error) = differing {
                let cold = self.store.shared_cold();
                if bars::are_left(cold, &*self.warm, unit, next_offsets, &moment).await? != Some(true) {
                    return Err(error);
                }
                tracing::info!(%unit, "warm has other revisions than the archive, of the same bars");
            }
            self.note(lease, unit, &mut journal, Step::Dropping, progress).await?;
            fail::point("archive.dropping");
        }
        if let Some(log) = &self.options.log {
            // It may be another store than the one that was looked at: a server is exchanged while this runs.
            log.check_source(&*self.warm).await?;
        }
        lease.check()?;
        let left = self.warm.drop_rows(unit, next_offsets).await?;
        fail::point("archive.rows_dropped");
        if left > 0 {
            // They share a file with rows that stay: the next run tries again.
            summary.drops_pending += 1;
            return Ok(());
        }
        self.note(lease, unit, &mut journal, Step::Dropped, progress).await?;
        fail::point("archive.dropped");
        summary.drops += 1;
        self.store.metrics.units_dropped.inc();
        Ok(())
    }

    /// Whether the source still holds what a manifest says, or has dropped it already, and whether
    /// the manifest's objects are there, with no fault that a scrub has found.
    async fn check_covered(
        &self,
        unit: Unit,
        manifest: &Manifest,
        moment: &Moment,
        scrub: &Scrub,
    ) -> Result<(), ArchiveError> {
        let key = manifest_key(unit, manifest.number);
        match scrub.faults_untold() {
            0 => {}
            more => {
                let reason = format!("it may be: a scrub found {more} more faults than {SCRUB_KEY} names");
                return Err(self.store.damaged(&key, reason));
            }
        }
        let files = manifest.files.iter().flat_map(|file| [&file.key, &file.footer_key]);
        for key in std::iter::once(&key).chain(files) {
            if self.store.availability(key).await?.is_none() {
                return Err(self.store.damaged(key, "a manifest names it, and it is not there"));
            }
            if let Some(fault) = scrub.fault_of(key) {
                return Err(self.store.damaged(key, &fault.reason));
            }
        }
        if moment.has_dropped(&manifest.next_offsets) {
            return Ok(());
        }
        let found = self.warm.digest(unit, &manifest.offsets()).await?;
        if found == manifest.digest {
            return Ok(());
        }
        let what = "what warm holds is not what was archived";
        Err(ArchiveError::Differs { unit, what, found, expected: manifest.digest })
    }
}

/// A name that nothing had before, in the order of time: 26 digits, the first ten of them the
/// milliseconds since the epoch.
pub(super) fn fresh_id(now: Timestamp) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    // The keys of a hasher come from the system's randomness.
    let random = |salt: u8| RandomState::new().hash_one((std::process::id(), now.nanos(), salt));
    let millis = (now.nanos() / 1_000_000).max(0) as u128;
    let bits = millis << 80 | u128::from(random(0)) << 16 | u128::from(random(1) as u16);
    (0..26).rev().map(|place| char::from(DIGITS[(bits >> (5 * place)) as usize % 32])).collect()
}
