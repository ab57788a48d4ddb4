//! What is where: every unit, in warm and in the archive.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::journal::{Journal, Step};
use super::manifest::Manifest;
use super::plan::{Moment, Waiting, archived_units, is_news, manifests};
use super::run::Archiver;
use super::store::Store;
use super::{ArchiveError, ArchiveMetrics};
use crate::tiering::cold::Cold;
use crate::tiering::parquet::{Footer, Window};
use crate::tiering::warm::Unit;

/// Where a unit stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Rows that warm holds.
    pub warm_rows: u64,
    /// Bytes that warm holds.
    pub warm_bytes: u64,
    /// Its manifests.
    pub manifests: Vec<Manifest>,
    /// The step its journal names, or `restored`, and when it came to the former; none without a journal.
    pub step: Option<(Cow<'static, str>, String)>,
    /// Why rows in warm are not archived yet, where it is not their turn.
    pub waiting: Option<Waiting>,
}

impl UnitStatus {
    /// Rows that the archive holds.
    pub fn archived_rows(&self) -> u64 {
        self.manifests.iter().map(|manifest| manifest.digest.rows).sum()
    }

    /// Bytes of the archive's data objects.
    pub fn archived_bytes(&self) -> u64 {
        self.manifests.iter().flat_map(|manifest| &manifest.files).map(|file| file.bytes).sum()
    }
}

impl Archiver {
    /// Every unit that warm or the archive has rows of, and `wanted` holds for.
    pub async fn status(
        &self,
        wanted: impl Fn(Unit) -> bool,
    ) -> Result<BTreeMap<Unit, UnitStatus>, ArchiveError> {
        let archived = all_manifests(&self.store, &wanted).await?;
        let status = |manifests| UnitStatus { manifests, ..UnitStatus::default() };
        let mut found: BTreeMap<Unit, UnitStatus> =
            archived.into_iter().map(|(unit, manifests)| (unit, status(manifests))).collect();
        let now = self.clock.now();
        for info in self.warm.units().await?.into_iter().filter(|info| wanted(info.unit)) {
            let of = found.entry(info.unit).or_default();
            (of.warm_rows, of.warm_bytes) = (info.rows, info.bytes);
            of.waiting =
                self.options.is_due(&info, now).err().filter(|_| is_news(&info, of.manifests.last()));
        }
        for (unit, of) in &mut found {
            if let Some(journal) = Journal::read(&self.store, *unit).await? {
                // The last note may not have been taken.
                let is_gone = journal.step == Step::Dropping && of.warm_rows == 0;
                let step = if is_gone { Step::Dropped.name() } else { journal.step.name() };
                // Rows that were dropped and are in warm again were restored, unless they came late.
                let is_back = of.warm_rows > 0 && matches!(journal.step, Step::Dropping | Step::Dropped);
                let is_restored = is_back && Moment::of(&*self.warm, *unit).await?.is_restored;
                let step = if is_restored { "restored" } else { step };
                of.step = Some((step.into(), journal.updated_at));
            }
        }
        Ok(found)
    }
}

/// The manifests of every archived unit that `wanted` holds for, in order.
pub async fn archived(
    cold: &Arc<dyn Cold>,
    wanted: impl Fn(Unit) -> bool,
) -> Result<BTreeMap<Unit, Vec<Manifest>>, ArchiveError> {
    all_manifests(&Store::new(cold.clone(), None, ArchiveMetrics::default()), &wanted).await
}

async fn all_manifests(
    store: &Store,
    wanted: &impl Fn(Unit) -> bool,
) -> Result<BTreeMap<Unit, Vec<Manifest>>, ArchiveError> {
    let mut found = BTreeMap::new();
    for unit in archived_units(store).await?.into_iter().filter(|unit| wanted(*unit)) {
        found.insert(unit, manifests(store, unit).await?);
    }
    Ok(found)
}

/// Bytes of each column in a manifest's objects, as their footers tell.
pub async fn column_bytes(
    cold: &Arc<dyn Cold>,
    unit: Unit,
    manifest: &Manifest,
) -> Result<Vec<(String, u64)>, ArchiveError> {
    let store = Store::new(cold.clone(), None, ArchiveMetrics::default());
    let mut sums: Vec<(String, u64)> = Vec::new();
    for file in &manifest.files {
        let key = &file.footer_key;
        let bytes = store.get(key).await?.ok_or_else(|| store.damaged(key, "it is missing"))?;
        let tail = Window { start: file.footer_at, bytes, file_bytes: file.bytes };
        let footer = Footer::parse(unit.kind, &tail).map_err(|error| store.damaged(key, error))?;
        for (name, bytes) in footer.column_bytes() {
            match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += bytes,
                None => sums.push((name, bytes)),
            }
        }
    }
    Ok(sums)
}
