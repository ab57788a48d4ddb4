//! Refills local warm: a store that can't be opened, or whose processor can't continue, is moved aside, and an
//! empty one is filled from the log and the archive.
//!
//! This is done only if every row of the old store is in the log or in the archive. A refill that was killed
//! leaves an ordinary store that ends before the log does.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::node::NodeError;
use super::processor::ProcessorMetrics;
use super::stores::{self, Log, Stores, WARM_DIR, blocking, data_error, lock, lock_to_read};
use crate::bus::epoch::Relation;
use crate::bus::{Bounds, Bus};
use crate::config::Config;
use crate::disk::{create_dir, sync_dir};
use crate::fail;
use crate::market::{TimeRange, Timestamp};
use crate::tiering::archive::origin::Beside;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::cold::ColdMetrics;
use crate::tiering::repair::{KEPT_DIR, kept_name};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::local::{LocalWarm, segment_files};
use crate::tiering::warm::{Mark, Unit, Warm, WarmError};

/// What refilling warm takes.
#[derive(Clone, Debug)]
pub struct Refill {
    /// Why the old store can't be used.
    pub fault: String,
    /// The directory of warm.
    pub warm: PathBuf,
    /// Where the old store goes; none where warm is only to be filled.
    pub kept: Option<PathBuf>,
    /// Records that the log has.
    pub records: u64,
    /// Whether the archive is needed, because the log has dropped its beginning.
    pub uses_archive: bool,
    /// Rows that neither the log nor the archive has, in words. Nothing is done where there are any.
    pub lost: Vec<String>,
}

/// Says whether the local warm store of `config` must be refilled, and what that takes. Changes nothing.
///
/// Errors: another process has the data directory; the log or the archive can't be read.
pub async fn plan(config: &Config) -> Result<Option<Refill>, NodeError> {
    let warm = config.data_dir.join(WARM_DIR);
    if config.clickhouse.is_some() || !warm.is_dir() {
        return Ok(None);
    }
    let (dir, partitions) = (config.data_dir.clone(), config.partitions);
    let _lock = blocking(move || lock_to_read(&dir)).await?;
    let (fault, marks) = match marks(&warm, partitions).await {
        Ok(marks) => (None, marks),
        // A store of a newer version is not damaged.
        Err(WarmError::Damaged { path, reason }) if !reason.contains("newer stk") => {
            let reason = reason.split(';').next().unwrap_or_default().to_owned();
            (Some(format!("{path} is damaged: {reason}")), Vec::new())
        }
        Err(error) => return Err(error.into()),
    };
    let log = Log::open_to_ask(config).await?;
    let planned = plan_with(config, &warm, fault, &marks, log.bus()).await;
    log.close().await;
    planned
}

async fn plan_with(
    config: &Config,
    warm: &Path,
    fault: Option<String>,
    marks: &[Mark],
    bus: Arc<dyn Bus>,
) -> Result<Option<Refill>, NodeError> {
    let mut bounds = Vec::new();
    for partition in 0..bus.partitions() {
        bounds.push(bus.bounds(partition).await.map_err(NodeError::Bus)?);
    }
    let is_behind = marks.iter().zip(&bounds).any(|(mark, bounds)| mark.next_offset < bounds.first);
    let kept_dir = config.data_dir.join(KEPT_DIR);
    let (fault, kept, old) = match fault {
        Some(fault) => {
            let kept = kept_dir.join(kept_name(Timestamp::now())).join(WARM_DIR);
            (fault, Some(kept), Some(warm.to_owned()))
        }
        // A repair was killed after it had moved the old store.
        None if is_behind => {
            let Some(old) = newest_kept(&kept_dir) else { return Ok(None) };
            ("it has not come to where the log begins".to_owned(), None, Some(old))
        }
        None => return Ok(None),
    };
    let own = config.clone();
    let cold = blocking(move || Ok(stores::open_cold(&own, &ColdMetrics::default())?)).await?;
    let reader = Arc::new(ArchiveReader::new(cold).beside(Beside::new(bus.clone())));
    let mut lost = Vec::new();
    if let Some(damage) = bus.damage() {
        lost.push(format!("rows of the log: {damage}"));
    }
    if let Some(old) = &old {
        for (unit, partition, offsets) in segment_files(old)? {
            let Some(log) = bounds.get(usize::from(partition)) else { continue };
            lost.extend(not_held(&reader, unit, partition, offsets, *log).await?);
        }
    }
    lost.sort();
    lost.dedup();
    Ok(Some(Refill {
        fault,
        warm: warm.to_owned(),
        kept,
        records: bounds.iter().map(|bounds| bounds.next - bounds.first).sum(),
        uses_archive: bounds.iter().any(|bounds| bounds.first > 0),
        lost,
    }))
}

/// Where each partition of warm is, with a state that can be read.
async fn marks(dir: &Path, partitions: u16) -> Result<Vec<Mark>, WarmError> {
    let dir = dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || LocalWarm::open_read_only(&dir)).await;
    let warm = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let mut marks = Vec::new();
    for partition in 0..partitions {
        let mark = warm.mark(partition).await?;
        PartitionState::restore(&mark.checkpoint).map_err(|error| WarmError::Damaged {
            path: format!("the checkpoint of partition {partition}"),
            reason: error.to_string(),
        })?;
        marks.push(mark);
    }
    Ok(marks)
}

/// The newest warm store that a repair moved aside.
fn newest_kept(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?;
    let stores = entries.filter_map(|entry| Some(entry.ok()?.path().join(WARM_DIR)));
    stores.filter(|path| path.is_dir()).max()
}

/// What of a segment's rows neither the log nor the archive has, in words.
async fn not_held(
    reader: &ArchiveReader,
    unit: Unit,
    partition: u16,
    offsets: Range<u64>,
    log: Bounds,
) -> Result<Option<String>, NodeError> {
    if log.first <= offsets.start && offsets.end <= log.next {
        return Ok(None);
    }
    let range = TimeRange { from: unit.day.start(), to: unit.day.end() };
    let archived = match reader.standing().await? {
        Relation::Own => reader.snapshot(unit.kind, range).await?.next_offsets(unit.day).to_vec(),
        _ => Vec::new(),
    };
    let archived = archived.get(usize::from(partition)).copied().unwrap_or(0);
    // The archive has all rows before `archived`, the log those from `first` to `next`.
    let is_held =
        offsets.end <= archived || (log.first <= archived.max(offsets.start) && offsets.end <= log.next);
    Ok((!is_held).then(|| {
        format!("{unit}, partition {partition}: rows of offsets {} to {}", offsets.start, offsets.end - 1)
    }))
}

/// Moves the old store aside and fills an empty one from the log and the archive. Returns the rows stored.
///
/// Errors: the data directory is in use, a store refuses, or another process has a part of the log. The old store
/// stays where it was moved.
pub async fn make(config: &Config, refill: &Refill) -> Result<u64, NodeError> {
    let (dir, from) = (config.data_dir.clone(), refill.warm.clone());
    if let Some(to) = refill.kept.clone() {
        blocking(move || {
            let _lock = lock(&dir)?;
            let moved = (|| {
                let parent = to.parent().unwrap_or(&to);
                create_dir(parent)?;
                fs::rename(&from, &to)?;
                sync_dir(parent)?;
                sync_dir(&dir)
            })();
            moved.map_err(|error| data_error(&to, &error))
        })
        .await?;
        fail::point("repair.warm_moved");
    }
    let stores = Stores::open(config).await?;
    let metrics = ProcessorMetrics::default();
    let processor = stores.refill(config, metrics.clone());
    processor.restored().await;
    let has_all = processor.has_all();
    let drained = processor.stop().await;
    drop(processor);
    stores.close().await;
    drained?;
    if !has_all {
        let reason = "another process has a part of the log, which is not filled: this server fills it when the part is \
                      its own";
        return Err(NodeError::Data { path: refill.warm.clone(), reason: reason.to_owned() });
    }
    Ok(metrics.rows.get())
}
