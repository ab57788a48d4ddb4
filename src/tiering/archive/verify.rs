//! A scrub: what is archived is read again, bit by bit over many calls, and held against its
//! manifests.
//!
//! ```text
//! scrub.json   how far it has come, and what it found
//! ```
//!
//! What was found stands, over as many scrubs as it takes, until the object was read again and is
//! sound: by this list a run of the archive knows which days it must not drop from warm.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::manifest::{
    MANIFEST_PREFIX, Manifest, data_prefix, manifest_key, manifest_prefix, parse_manifest_key,
};
use super::origin::{self, Unfinished};
use super::read::{ArchiveReader, SharedReadStats};
use super::read_back::read_back;
use super::sealed;
use super::snapshot::{DataFile, ReadError};
use super::store::{Store, mend};
use super::{ArchiveError, ArchiveMetrics, Clock, Progress};
use crate::fail;
use crate::tiering::cold::{Availability, Cold, ColdError};
use crate::tiering::warm::Unit;

/// The key of a scrub's progress.
pub const SCRUB_KEY: &str = "scrub.json";

/// Faults that are kept in either list; more are counted.
const FAULTS_MAX: usize = 1_000;

/// How much one call does: it ends with the object in which it passes either.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of objects read.
    pub bytes: u64,
    /// Time taken.
    pub time: Duration,
}

impl Bounds {
    /// The whole archive.
    pub const ALL: Self = Self { bytes: u64::MAX, time: Duration::MAX };
}

/// Something that is not as it was archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The object.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

/// How far a scrub has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// 2; 1 where an earlier version wrote it, without a checksum.
    pub version: u32,
    /// When it began, RFC 3339.
    pub began_at: String,
    /// When it last went on, RFC 3339.
    pub updated_at: String,
    /// Whether it has seen all; the next call then begins anew.
    pub is_finished: bool,
    /// The manifest after which it goes on; none at the beginning.
    pub after: Option<String>,
    /// How many objects of the manifest that follows it has seen.
    pub files_done: usize,
    /// Manifests seen.
    pub manifests: u64,
    /// Objects read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
    /// Objects that are frozen, and could not be read.
    pub frozen: u64,
    /// Faults found, and those known before of which it could not see whether they are mended.
    pub faults_found: u64,
    /// The first of them.
    pub faults: Vec<Fault>,
    /// Faults that earlier scrubs found, of objects to which this one has not come yet.
    #[serde(default)]
    pub known: Vec<Fault>,
    /// Faults of earlier scrubs that are not in `known`.
    #[serde(default)]
    pub known_more: u64,
}

impl Scrub {
    /// One that begins anew. What the one before it found stands until it was read again: whoever
    /// drops rows from warm must know of it.
    fn anew(before: Option<Self>, began_at: String) -> Self {
        let before = before.unwrap_or_default();
        let mut scrub = Self {
            version: 2,
            began_at,
            known_more: before.faults_untold(),
            known: before.faults,
            ..Self::default()
        };
        scrub.known.extend(before.known);
        let more = scrub.known.len().saturating_sub(FAULTS_MAX);
        scrub.known.truncate(FAULTS_MAX);
        scrub.known_more += more as u64;
        scrub
    }

    /// What is known to be wrong with an object.
    pub(super) fn fault_of(&self, key: &str) -> Option<&Fault> {
        self.faults.iter().chain(&self.known).find(|fault| fault.key == key)
    }

    /// Faults whose objects are not named.
    pub fn faults_untold(&self) -> u64 {
        self.known_more + self.faults_found.saturating_sub(self.faults.len() as u64)
    }

    fn add(&mut self, fault: Fault) {
        self.faults_found += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// Comes to the objects that `is_seen`: those known faults of theirs that still `stand` are found
    /// again, the others are no more.
    fn settle(&mut self, is_seen: impl Fn(&str) -> bool, stand: impl Fn(&str) -> bool) {
        let seen: Vec<Fault> = self.known.extract_if(.., |fault| is_seen(&fault.key)).collect();
        seen.into_iter().filter(|fault| stand(&fault.key)).for_each(|fault| self.add(fault));
    }
}

/// Reads archived objects again.
pub struct Scrubber {
    store: Store,
    clock: Clock,
}

impl Scrubber {
    /// A scrubber of `cold`, which reads at most `bandwidth` bytes a second.
    pub fn new(cold: Arc<dyn Cold>, bandwidth: Option<u64>, clock: Clock, metrics: ArchiveMetrics) -> Self {
        Self { store: Store::new(cold, bandwidth, metrics), clock }
    }

    /// How far it has come; `None` if there was no scrub.
    pub async fn progress(&self) -> Result<Option<Scrub>, ArchiveError> {
        self.store.get_json(SCRUB_KEY).await
    }

    /// Goes on where the last call ended, or `anew`, up to `bounds`. What is damaged is in the
    /// result; an error is a store that can't be read.
    pub async fn run(&self, bounds: Bounds, anew: bool, progress: &Progress) -> Result<Scrub, ArchiveError> {
        let began = Instant::now();
        if let Some(Unfinished { copy_of, .. }) = Unfinished::find(&self.store).await? {
            return Err(ArchiveError::Unfinished { store: self.store.name().to_owned(), copy_of });
        }
        let progress_before = self.progress().await?;
        let is_first = progress_before.is_none();
        let mut scrub = match progress_before {
            Some(known) if !known.is_finished && !anew => known,
            before => {
                let mut scrub = Scrub::anew(before, self.clock.now().to_string());
                for (key, reason) in origin::damaged_names(&self.store).await? {
                    self.fault(&mut scrub, self.store.damaged(key, reason))?;
                }
                scrub
            }
        };
        let from_bytes = scrub.bytes;
        let is_spent =
            |scrub: &Scrub| scrub.bytes - from_bytes >= bounds.bytes || began.elapsed() >= bounds.time;
        let objects = self.store.list(MANIFEST_PREFIX, scrub.after.as_deref()).await?;
        for key in objects.into_iter().map(|object| object.key) {
            let Some((unit, number)) = parse_manifest_key(&key) else { continue };
            if is_spent(&scrub) {
                return self.save(scrub).await;
            }
            let manifest = match self.manifest(unit, number).await {
                Ok(manifest) => manifest,
                Err(error) => {
                    let found = self.fault(&mut scrub, error)?;
                    // Which objects it names can't be told.
                    let unit = [data_prefix(unit), manifest_prefix(unit)];
                    let is_of_unit = |key: &str| unit.iter().any(|prefix| key.starts_with(prefix));
                    scrub.settle(is_of_unit, |key| key != found);
                    (scrub.after, scrub.files_done) = (Some(key), 0);
                    continue;
                }
            };
            scrub.settle(|seen| seen == key, |_| false);
            for file in manifest.files.iter().skip(scrub.files_done) {
                if is_spent(&scrub) {
                    return self.save(scrub).await;
                }
                let is_of_file = |key: &str| key == file.key || key == file.footer_key;
                match self.file(&mut scrub, unit, file, progress).await {
                    Ok(is_read) => scrub.settle(is_of_file, |_| !is_read),
                    Err(error) => {
                        let found = self.fault(&mut scrub, error)?;
                        // The footer's copy is read after an object that is sound.
                        let is_unread = |key: &str| found == file.key && key == file.footer_key;
                        scrub.settle(is_of_file, is_unread);
                    }
                }
                scrub.files_done += 1;
                self.save(scrub.clone()).await?;
                fail::point("archive.scrubbed");
            }
            scrub.manifests += 1;
            (scrub.after, scrub.files_done) = (Some(key), 0);
        }
        // What it did not come to, no manifest names any more.
        (scrub.known, scrub.known_more) = (Vec::new(), 0);
        scrub.is_finished = true;
        if is_first && scrub.manifests == 0 {
            // Nothing is archived, and nothing is created to say so.
            return Ok(scrub);
        }
        self.save(scrub).await
    }

    async fn save(&self, mut scrub: Scrub) -> Result<Scrub, ArchiveError> {
        scrub.updated_at = self.clock.now().to_string();
        self.store.put_json(SCRUB_KEY, &scrub).await?;
        Ok(scrub)
    }

    /// Adds what is damaged, and gives its key.
    fn fault(&self, scrub: &mut Scrub, error: ArchiveError) -> Result<String, ArchiveError> {
        let ArchiveError::Damaged { key, reason, .. } = error else { return Err(error) };
        self.store.metrics.faults.inc();
        scrub.add(Fault { key: key.clone(), reason });
        Ok(key)
    }

    async fn read(&self, unit: Unit, number: u32) -> Result<Manifest, ArchiveError> {
        let key = manifest_key(unit, number);
        let manifest = self.store.manifest(unit, number).await?;
        manifest.ok_or_else(|| self.store.damaged(&key, "it is missing"))
    }

    /// A manifest that follows on the one before it and adds up.
    async fn manifest(&self, unit: Unit, number: u32) -> Result<Manifest, ArchiveError> {
        let manifest = self.read(unit, number).await?;
        let first = if number == 0 { Vec::new() } else { self.read(unit, number - 1).await?.next_offsets };
        if let Some(reason) = manifest.fault(unit, number, Some(&first)) {
            return Err(self.store.damaged(&manifest_key(unit, number), reason));
        }
        Ok(manifest)
    }

    /// Reads an object and its footer's copy. Whether they could be read: what is frozen can't.
    async fn file(
        &self,
        scrub: &mut Scrub,
        unit: Unit,
        file: &super::manifest::ManifestFile,
        progress: &Progress,
    ) -> Result<bool, ArchiveError> {
        match self.store.availability(&file.key).await? {
            None => return Err(self.store.damaged(&file.key, "it is missing")),
            Some(Availability::Frozen | Availability::Restoring) => {
                scrub.frozen += 1;
                return Ok(false);
            }
            Some(Availability::Ready | Availability::Restored { .. }) => {}
        }
        scrub.files += 1;
        scrub.bytes += file.bytes;
        scrub.rows += file.digest.rows;
        let footer = read_back(&self.store, unit.kind, file, progress).await?;
        match self.store.get(&file.footer_key).await? {
            Some(copy) if copy == footer => Ok(true),
            Some(_) => Err(self.store.damaged(&file.footer_key, "it is no copy of its object's footer")),
            None => Err(self.store.damaged(&file.footer_key, "it is missing")),
        }
    }
}

/// Makes sure that the objects of `files` are there, and that no scrub has found a fault in one of them: only
/// then may a store leave its own copies of their rows to the archive.
///
/// Errors: one is not, as [`ReadError::Damaged`]; the store can't be read.
pub async fn check_sound(reader: &ArchiveReader, files: Vec<DataFile>) -> Result<(), ReadError> {
    let cold = reader.cold();
    let damaged = |key: &str, reason: String| {
        let (store, key) = (cold.name().to_owned(), key.to_owned());
        ReadError::Damaged { store, reason: format!("{reason}{}", mend(&key)), key }
    };
    let scrub: Scrub = match cold.get(SCRUB_KEY).await {
        Ok(bytes) => sealed::open(&bytes).map_err(|reason| damaged(SCRUB_KEY, reason))?,
        Err(ColdError::NotFound { .. }) => Scrub::default(),
        Err(error) => return Err(error.into()),
    };
    let more = scrub.faults_untold();
    for DataFile { unit, file, .. } in &files {
        if more > 0 {
            let reason = format!("a scrub found {more} more faults than it names, and one may be in {unit}");
            return Err(damaged(SCRUB_KEY, reason));
        }
        for key in [&file.key, &file.footer_key] {
            if let Some(fault) = scrub.fault_of(key) {
                return Err(damaged(key, fault.reason.clone()));
            }
        }
    }
    reader.availability(files, &SharedReadStats::default()).await?;
    Ok(())
}
