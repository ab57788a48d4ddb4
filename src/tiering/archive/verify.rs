//! A scrub: what is archived is read again, bit by bit over many calls, and held against its
//! manifests.
//!
//! ```text
//! scrub.json   how far it has come, and what it found
//! ```

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::manifest::{MANIFEST_PREFIX, Manifest, manifest_key, parse_manifest_key};
use super::read_back::read_back;
use super::store::Store;
use super::{ArchiveError, ArchiveMetrics, Clock, Progress};
use crate::fail;
use crate::tiering::cold::{Availability, Cold};
use crate::tiering::warm::Unit;

/// The key of a scrub's progress.
pub const SCRUB_KEY: &str = "scrub.json";

/// Faults that are kept; more are counted.
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
    /// 1.
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
    /// Faults found.
    pub faults_found: u64,
    /// The first of them.
    pub faults: Vec<Fault>,
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
        let known = self.progress().await?.filter(|known| !known.is_finished && !anew);
        let mut scrub = known.unwrap_or_else(|| Scrub {
            version: 1,
            began_at: self.clock.now().to_string(),
            ..Scrub::default()
        });
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
                    self.fault(&mut scrub, error)?;
                    (scrub.after, scrub.files_done) = (Some(key), 0);
                    continue;
                }
            };
            for file in manifest.files.iter().skip(scrub.files_done) {
                if is_spent(&scrub) {
                    return self.save(scrub).await;
                }
                if let Err(error) = self.file(&mut scrub, unit, file, progress).await {
                    self.fault(&mut scrub, error)?;
                }
                scrub.files_done += 1;
                self.save(scrub.clone()).await?;
                fail::point("archive.scrubbed");
            }
            scrub.manifests += 1;
            (scrub.after, scrub.files_done) = (Some(key), 0);
        }
        scrub.is_finished = true;
        self.save(scrub).await
    }

    async fn save(&self, mut scrub: Scrub) -> Result<Scrub, ArchiveError> {
        scrub.updated_at = self.clock.now().to_string();
        self.store.put_json(SCRUB_KEY, &scrub).await?;
        Ok(scrub)
    }

    fn fault(&self, scrub: &mut Scrub, error: ArchiveError) -> Result<(), ArchiveError> {
        let ArchiveError::Damaged { key, reason, .. } = error else { return Err(error) };
        self.store.metrics.faults.inc();
        scrub.faults_found += 1;
        if scrub.faults.len() < FAULTS_MAX {
            scrub.faults.push(Fault { key, reason });
        }
        Ok(())
    }

    async fn read(&self, unit: Unit, number: u32) -> Result<Manifest, ArchiveError> {
        let key = manifest_key(unit, number);
        let manifest: Option<Manifest> = self.store.get_json(&key).await?;
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

    async fn file(
        &self,
        scrub: &mut Scrub,
        unit: Unit,
        file: &super::manifest::ManifestFile,
        progress: &Progress,
    ) -> Result<(), ArchiveError> {
        match self.store.availability(&file.key).await? {
            None => return Err(self.store.damaged(&file.key, "it is missing")),
            Some(Availability::Frozen | Availability::Restoring) => {
                scrub.frozen += 1;
                return Ok(());
            }
            Some(Availability::Ready | Availability::Restored { .. }) => {}
        }
        scrub.files += 1;
        scrub.bytes += file.bytes;
        scrub.rows += file.digest.rows;
        let footer = read_back(&self.store, unit.kind, file, progress).await?;
        match self.store.get(&file.footer_key).await? {
            Some(copy) if copy == footer => Ok(()),
            Some(_) => Err(self.store.damaged(&file.footer_key, "it is no copy of its object's footer")),
            None => Err(self.store.damaged(&file.footer_key, "it is missing")),
        }
    }
}
