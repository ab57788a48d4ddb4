//! What the archive holds at one moment: every manifest of the days asked for.
//!
//! A manifest never changes and is never removed, so that a snapshot that was taken stays true, and
//! can only be too old: whoever reads warm beside it sees by what warm has dropped whether it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::cache::Cache;
use super::first;
use super::manifest::{Manifest, ManifestFile, manifest_prefix};
use super::plan::covers;
use super::store::mend;
use crate::bus::epoch::LogEpoch;
use crate::market::{Kind, Symbol, TimeRange, Timestamp, TradingDay};
use crate::tiering::cold::{Cold, ColdError};
use crate::tiering::warm::Unit;

/// Days up to which each is listed by itself; of more, all from the first on are listed.
const DAYS_ALONE_MAX: i32 = 3;

/// Manifests read at once.
const READS_MAX: usize = 8;

/// Why the archive can't be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The store refused.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// The manifests of a unit, or one of them, are not as they must be.
    #[error("the archive of {unit} in {store}: {reason}")]
    Manifest {
        /// The store.
        store: String,
        /// The unit.
        unit: Unit,
        /// What is wrong.
        reason: String,
    },
    /// The store is a copy of an archive that was interrupted.
    #[error(
        "{store} is an unfinished copy of {copy_of}: finish it with `stk archive copy {copy_of} {store}`"
    )]
    Unfinished {
        /// The store.
        store: String,
        /// The archive that was copied.
        copy_of: String,
    },
    /// A data object or its footer is not what its manifest says.
    #[error("{store}: {key} is damaged: {reason}")]
    Damaged {
        /// The store.
        store: String,
        /// The object.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

impl ReadError {
    /// Whether a later try may succeed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Cold(ColdError::Unknown { .. } | ColdError::Full { .. }))
    }
}

/// A data object that counts.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// The unit its rows are of.
    pub unit: Unit,
    /// What the manifest knows of it.
    pub file: ManifestFile,
    pub(super) symbol_min: Option<Symbol>,
    pub(super) symbol_max: Option<Symbol>,
}

/// The manifests of one unit, in the order of their numbers.
#[derive(Clone, Debug, Default)]
struct Chain(Vec<Arc<Manifest>>);

impl Chain {
    /// Of each partition the offset below which the archive holds every row.
    fn next_offsets(&self) -> &[u64] {
        self.0.last().map_or(&[], |last| &last.next_offsets)
    }
}

/// The archive of one kind and some days, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    kind: Kind,
    units: BTreeMap<TradingDay, Chain>,
}

impl Snapshot {
    /// The kind of its rows.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The days that are archived, with the offsets (by partition) below which every row is.
    pub fn days(&self) -> impl Iterator<Item = (TradingDay, &[u64])> {
        self.units.iter().map(|(day, chain)| (*day, chain.next_offsets()))
    }

    /// Of each partition the offset below which the archive holds every row of `day`.
    pub fn next_offsets(&self, day: TradingDay) -> &[u64] {
        self.units.get(&day).map_or(&[], Chain::next_offsets)
    }

    /// Whether the archive holds every row of `day` below `offsets`.
    pub fn covers(&self, day: TradingDay, offsets: &[u64]) -> bool {
        let held = self.next_offsets(day);
        offsets.iter().enumerate().all(|(at, offset)| held.get(at).copied().unwrap_or(0) >= *offset)
    }

    /// The data objects of `day`.
    pub fn files(&self, day: TradingDay) -> Result<Vec<DataFile>, ReadError> {
        self.files_from(day, &[])
    }

    /// The data objects of `day` that may hold rows at `first_offsets`, by partition, or after.
    pub fn files_from(&self, day: TradingDay, first_offsets: &[u64]) -> Result<Vec<DataFile>, ReadError> {
        self.files_of(day, |manifest| reaches(&manifest.next_offsets, first_offsets))
    }

    /// The data objects of `day` all of whose rows are below `next_offsets`, by partition.
    pub(super) fn files_below(
        &self,
        day: TradingDay,
        next_offsets: &[u64],
    ) -> Result<Vec<DataFile>, ReadError> {
        self.files_of(day, |manifest| covers(next_offsets, &manifest.next_offsets))
    }

    fn files_of(
        &self,
        day: TradingDay,
        is_asked: impl Fn(&Manifest) -> bool,
    ) -> Result<Vec<DataFile>, ReadError> {
        let unit = Unit { day, kind: self.kind };
        let chain = self.manifests(day).filter(|manifest| is_asked(manifest));
        let files = chain.flat_map(|manifest| &manifest.files).map(|file| {
            let parsed = |name: &Option<String>| name.as_deref().map(str::parse::<Symbol>).transpose();
            let symbols = parsed(&file.symbol_min).and_then(|min| Ok((min, parsed(&file.symbol_max)?)));
            let (symbol_min, symbol_max) = symbols.map_err(|error| ReadError::Damaged {
                store: "a manifest".to_owned(),
                key: file.key.clone(),
                reason: error.to_string(),
            })?;
            Ok(DataFile { unit, file: file.clone(), symbol_min, symbol_max })
        });
        files.collect()
    }

    /// The same without the manifests of other timelines than that of `epoch`, which parted from the archive's
    /// at `parted_at`, and what follows them.
    pub(super) fn own(mut self, epoch: &LogEpoch, parted_at: &[u64]) -> Self {
        let is_own = |manifest: &Arc<Manifest>| manifest.is_of(epoch, parted_at);
        for chain in self.units.values_mut() {
            let own = chain.0.iter().take_while(|manifest| is_own(manifest)).count();
            chain.0.truncate(own);
        }
        self.units.retain(|_, chain| !chain.0.is_empty());
        self
    }

    /// The manifests of `day`, in the order of their numbers.
    pub fn manifests(&self, day: TradingDay) -> impl Iterator<Item = &Arc<Manifest>> {
        self.units.get(&day).into_iter().flat_map(|chain| &chain.0)
    }
}

/// Whether rows below `next_offsets` may lie at `first_offsets` or after; by partition, both.
pub(in crate::tiering) fn reaches(next_offsets: &[u64], first_offsets: &[u64]) -> bool {
    let first = |partition: usize| first_offsets.get(partition).copied().unwrap_or(0);
    next_offsets.iter().enumerate().any(|(partition, next)| *next > first(partition))
}

/// The days that rows of `range` are of.
fn days_of(range: TimeRange) -> std::ops::RangeInclusive<TradingDay> {
    let last = if range.to == Timestamp::MAX { range.to } else { range.to.saturating_add_nanos(-1) };
    range.from.trading_day()..=last.trading_day()
}

/// Reads the manifests of `kind` for the days of `range`.
pub(super) async fn take(
    cold: &dyn Cold,
    cache: &Cache<Manifest>,
    kind: Kind,
    range: TimeRange,
) -> Result<Snapshot, ReadError> {
    let mut units: BTreeMap<TradingDay, BTreeMap<u32, String>> = BTreeMap::new();
    if range.is_empty() {
        return Ok(Snapshot { kind, units: BTreeMap::new() });
    }
    let days = days_of(range);
    for key in list(cold, kind, &days).await? {
        if let Some((unit, number)) = parse_key(&key)
            && unit.kind == kind
            && days.contains(&unit.day)
        {
            units.entry(unit.day).or_default().insert(number, key);
        }
    }
    let chains = stream::iter(units.into_iter().map(|(day, keys)| async move {
        let chain = read_chain(cold, cache, Unit { day, kind }, keys).await?;
        Ok::<_, ReadError>((day, chain))
    }));
    let units = chains.buffered(READS_MAX).try_collect().await?;
    Ok(Snapshot { kind, units })
}

async fn list(
    cold: &dyn Cold,
    kind: Kind,
    days: &std::ops::RangeInclusive<TradingDay>,
) -> Result<Vec<String>, ReadError> {
    let (first, last) = (*days.start(), *days.end());
    let mut keys = Vec::new();
    if last.days_since_epoch().saturating_sub(first.days_since_epoch()) < DAYS_ALONE_MAX {
        let mut day = first;
        while day <= last {
            let prefix = manifest_prefix(Unit { day, kind });
            keys.extend(cold.list(&prefix, None).await?.into_iter().map(|object| object.key));
            day = day.next();
        }
        return Ok(keys);
    }
    // A day's prefix is the same but for its end, where the date and a slash are.
    let first = manifest_prefix(Unit { day: first, kind });
    let Some((prefix, _)) = first.split_once("date=") else { return Ok(keys) };
    let objects = cold.list(prefix, Some(first.trim_end_matches('/'))).await?;
    keys.extend(objects.into_iter().map(|object| object.key));
    Ok(keys)
}

/// The unit and number of a manifest's key; `None` for the key of something else.
fn parse_key(key: &str) -> Option<(Unit, u32)> {
    let rest = key.strip_prefix("manifest/kind=")?;
    let (kind, rest) = rest.split_once("/date=")?;
    let (day, file) = rest.split_once('/')?;
    let unit = Unit { day: day.parse().ok()?, kind: Kind::from_name(kind)? };
    let number = file.strip_suffix(".json")?.parse().ok()?;
    Some((unit, number))
}

async fn read_chain(
    cold: &dyn Cold,
    cache: &Cache<Manifest>,
    unit: Unit,
    keys: BTreeMap<u32, String>,
) -> Result<Chain, ReadError> {
    let wrong = |reason: String| ReadError::Manifest { store: cold.name().to_owned(), unit, reason };
    let mut chain = Chain::default();
    for (expected, (number, key)) in (0_u32..).zip(keys) {
        if number != expected {
            return Err(wrong(format!("manifest {expected:04} is missing, though there is {number:04}")));
        }
        let damaged = |reason: String| wrong(format!("{key} is damaged: {reason}{}", mend(&key)));
        let manifest = if let Some(manifest) = cache.get(&key) {
            manifest
        } else {
            let bytes = cold.get(&key).await?;
            let manifest = Arc::new(Manifest::parse(&bytes).map_err(damaged)?);
            if manifest.version == 1
                && let Some(fault) = first::fault(cold, unit, &manifest).await?
            {
                return Err(damaged(fault));
            }
            cache.insert(&key, manifest.clone(), bytes.len());
            manifest
        };
        let first = chain.0.last().map_or(&[][..], |before| &before.next_offsets);
        if let Some(fault) = manifest.fault(unit, number, Some(first)) {
            return Err(damaged(fault.to_owned()));
        }
        chain.0.push(manifest);
    }
    Ok(chain)
}
