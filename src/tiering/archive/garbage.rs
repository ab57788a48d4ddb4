//! What a crash left: objects that no manifest names and no attempt at hand will.
//!
//! ```text
//! garbage.json   what is condemned, and since when
//! ```
//!
//! An object that has been there for longer than any upload may take, unnamed, is condemned first,
//! and removed by a run that comes later and finds it unnamed still.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journal::{JOURNAL_PREFIX, Journal};
use super::manifest::{DATA_PREFIX, MANIFEST_PREFIX, manifest_key, parse_manifest_key};
use super::probe::PROBE_PREFIX;
use super::store::Store;
use super::{ArchiveError, Clock};
use crate::fail;
use crate::market::Timestamp;
use crate::tiering::warm::Unit;

/// The key of the condemned.
pub const GARBAGE_KEY: &str = "garbage.json";

/// How long after it was condemned an object is removed: longer than any query runs that has seen
/// it.
pub const DELAY: Duration = Duration::from_hours(1);

/// Objects condemned at once; the rest is left to the next run.
const CONDEMNED_MAX: usize = 10_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Condemned {
    version: u32,
    /// When each was condemned, RFC 3339, by key.
    since: BTreeMap<String, String>,
}

fn age(now: Timestamp, then: Timestamp) -> Duration {
    Duration::from_nanos(u64::try_from(now.nanos_since(then)).unwrap_or(0))
}

/// Condemns and removes. How many objects it removed.
pub(super) async fn collect(store: &Store, clock: &Clock, grace: Duration) -> Result<u64, ArchiveError> {
    let now = clock.now();
    // What is listed before manifests and journals are read can't have been named since without
    // being seen.
    let mut unnamed: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut manifests = Vec::new();
    let mut there = HashSet::new();
    for prefix in [DATA_PREFIX, MANIFEST_PREFIX, PROBE_PREFIX] {
        for object in store.list(prefix, None).await? {
            if let Some((unit, number)) = parse_manifest_key(&object.key) {
                manifests.push((unit, number));
            } else {
                there.insert(object.key.clone());
                unnamed.insert(object.key, object.modified);
            }
        }
    }
    unnamed.retain(|_, modified| age(now, *modified) > grace);
    let condemned: Option<Condemned> = store.get_json(GARBAGE_KEY).await?;
    if unnamed.is_empty() && condemned.as_ref().is_none_or(|condemned| condemned.since.is_empty()) {
        return Ok(0);
    }
    let attempts = attempts(store).await?;
    unnamed.retain(|key, _| !attempts.iter().any(|attempt| key.contains(attempt.as_str())));
    let Some(named) = named(store, manifests, &there).await? else { return Ok(0) };
    unnamed.retain(|key, _| !named.contains(key));
    let before = condemned.clone().unwrap_or_default();
    let mut since = BTreeMap::new();
    let mut due = Vec::new();
    for key in unnamed.into_keys().take(CONDEMNED_MAX) {
        let condemned_at: Option<Timestamp> = before.since.get(&key).and_then(|at| at.parse().ok());
        if condemned_at.is_some_and(|at| age(now, at) > DELAY) {
            due.push(key.clone());
        }
        since.insert(key, condemned_at.unwrap_or(now).to_string());
    }
    let after = Condemned { version: 2, since };
    if Some(&after) != condemned.as_ref() {
        store.put_json(GARBAGE_KEY, &after).await?;
        fail::point("archive.condemned");
    }
    // Footers, which lie beside the manifests, go before their data.
    due.sort_by_key(|key| !key.starts_with(MANIFEST_PREFIX));
    for key in &due {
        store.delete(key).await?;
        store.metrics.objects_removed.inc();
        fail::point("archive.removed");
    }
    Ok(due.len() as u64)
}

/// Every attempt that may yet come to count.
async fn attempts(store: &Store) -> Result<HashSet<String>, ArchiveError> {
    let mut found = HashSet::new();
    for object in store.list(JOURNAL_PREFIX, None).await? {
        let journal: Option<Journal> = store.get_json(&object.key).await?;
        found.extend(journal.and_then(|journal| journal.step.attempt().map(str::to_owned)));
    }
    Ok(found)
}

/// Every object that a manifest names; `None` where one of them is not `there`, for then an object
/// without a name may be that one. A manifest that can't be read stops the collection.
async fn named(
    store: &Store,
    manifests: Vec<(Unit, u32)>,
    there: &HashSet<String>,
) -> Result<Option<HashSet<String>>, ArchiveError> {
    let mut found = HashSet::new();
    for (unit, number) in manifests {
        let damaged = |reason: String| store.damaged(&manifest_key(unit, number), reason);
        let manifest = store.manifest(unit, number).await?;
        let manifest = manifest.ok_or_else(|| damaged("it has gone".to_owned()))?;
        if let Some(fault) = manifest.fault(unit, number, None) {
            return Err(damaged(fault.to_owned()));
        }
        for key in manifest.files.into_iter().flat_map(|file| [file.key, file.footer_key]) {
            // One that was committed since is not in the listing, and its objects need not be.
            if !there.contains(&key) && store.availability(&key).await?.is_none() {
                let manifest = manifest_key(unit, number);
                tracing::warn!(
                    manifest,
                    key,
                    "a manifest names an object that is not there; nothing is removed"
                );
                return Ok(None);
            }
            found.insert(key);
        }
    }
    Ok(Some(found))
}
