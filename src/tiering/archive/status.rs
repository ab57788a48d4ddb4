//! What is where: every unit, in warm and in the archive.

use std::collections::BTreeMap;

use super::ArchiveError;
use super::journal::{Journal, Step};
use super::manifest::Manifest;
use super::plan::{archived_units, manifests};
use super::run::Archiver;
use super::store::Store;
use crate::tiering::warm::Unit;

/// Where a unit stands.
#[derive(Clone, Debug, Default)]
pub struct UnitStatus {
    /// Rows that warm holds.
    pub warm_rows: u64,
    /// Bytes that warm holds.
    pub warm_bytes: u64,
    /// Its manifests.
    pub manifests: Vec<Manifest>,
    /// The step its journal names, and when it came to it; none without a journal.
    pub step: Option<(&'static str, String)>,
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
        let mut found: BTreeMap<Unit, UnitStatus> = archived(&self.store, &wanted).await?;
        for info in self.warm.units().await?.into_iter().filter(|info| wanted(info.unit)) {
            let of = found.entry(info.unit).or_default();
            (of.warm_rows, of.warm_bytes) = (info.rows, info.bytes);
        }
        for (unit, of) in &mut found {
            if let Some(journal) = Journal::read(&self.store, *unit).await? {
                // The last note may not have been taken.
                let is_gone = journal.step == Step::Dropping && of.warm_rows == 0;
                let step = if is_gone { Step::Dropped.name() } else { journal.step.name() };
                of.step = Some((step, journal.updated_at));
            }
        }
        Ok(found)
    }
}

async fn archived(
    store: &Store,
    wanted: &impl Fn(Unit) -> bool,
) -> Result<BTreeMap<Unit, UnitStatus>, ArchiveError> {
    let mut found = BTreeMap::new();
    for unit in archived_units(store).await?.into_iter().filter(|unit| wanted(*unit)) {
        found.insert(unit, UnitStatus { manifests: manifests(store, unit).await?, ..UnitStatus::default() });
    }
    Ok(found)
}
