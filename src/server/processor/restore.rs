//! Hot at start: brought up to where warm ends, from what a shared store has, or else from this
//! process's checkpoint and the log.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use futures_util::StreamExt;

use super::rebuild::for_rows;
use super::{ProcessorError, Shared};
use crate::bus::{Bounds, Bus, BusError};
use crate::fail;
use crate::market::{Kind, Seq, Symbol, Tick, TimeRange, Timestamp};
use crate::tiering::hot::memory::{HotCheckpoint, HotPlace, OLDER_TRADES};
use crate::tiering::hot::timeline::{self, Place, Unfit};
use crate::tiering::hot::{HotUpdates, RECENT_TICKS};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::{Query, WarmError};
use crate::wire::record::RecordView;

/// Symbols that are read from warm at once.
const SYMBOLS_PER_SCAN: usize = 256;

/// Brings `partition` of hot up to `to`, where warm ends and `state` stands; the worker does the
/// rest.
pub(super) async fn hot(
    shared: &Arc<Shared>,
    partition: u16,
    bounds: Bounds,
    to: u64,
    state: &PartitionState,
) -> Result<(), ProcessorError> {
    let begun = shared.stores.hot.begin(partition, to).await;
    let has_all = begun.map_err(|source| ProcessorError::Hot { partition, source })?;
    let (mut from, mut earlier) =
        if has_all { (to, PartitionState::new()) } else { checkpoint(shared, partition, bounds).await };
    if let Some(first) = shared.stores.bus.epoch().whole_from(partition, from).filter(|first| *first <= to) {
        tracing::info!(partition, from, first, "hot: the log skipped offsets; reading warm");
        fill_from_warm(shared, partition, state).await?;
        from = first;
    }
    while from < to {
        tracing::info!(partition, from, to, "hot: reading the log");
        match replay(shared, partition, from, to, &mut earlier).await {
            Ok(()) => break,
            // Retention has taken them, or took them meanwhile; only what is in warm is ever trimmed.
            Err(ProcessorError::Bus { source: BusError::Trimmed { first, .. }, .. }) if first > from => {
                tracing::info!(partition, from, log_first = first, "hot: the log is trimmed; reading warm");
                fill_from_warm(shared, partition, state).await?;
                from = first;
            }
            Err(error) => return Err(error),
        }
    }
    apply(shared, partition, &HotUpdates { bars: state.bars().collect(), ..HotUpdates::default() }).await
}

/// Loads the checkpoint, where there is one: up to where hot then stands, and the state there.
async fn checkpoint(shared: &Arc<Shared>, partition: u16, bounds: Bounds) -> (u64, PartitionState) {
    let none = (0, PartitionState::new());
    let Some((hot, dir)) = shared.stores.hot_files.clone() else { return none };
    let own = hot.clone();
    let loaded = tokio::task::spawn_blocking(move || own.load(&dir, partition, bounds.next)).await;
    let reason = match loaded {
        Ok(Ok(Some(checkpoint))) => {
            let state = PartitionState::restore(&checkpoint.state).map_err(|error| error.to_string());
            match check_place(&*shared.stores.bus, partition, &checkpoint).await.and(state) {
                Ok(state) => return (checkpoint.next_offset, state),
                Err(reason) => match hot.clear(partition) {
                    Ok(()) => reason,
                    Err(error) => error.to_string(),
                },
            }
        }
        Ok(Ok(None)) => "there is none".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    if bounds.next > 0 {
        tracing::info!(partition, reason, "hot: no usable checkpoint; rebuilding from the log and warm");
    }
    none
}

/// Makes sure that `checkpoint` is of this timeline of the log; otherwise why not.
async fn check_place(bus: &dyn Bus, partition: u16, checkpoint: &HotCheckpoint) -> Result<(), String> {
    let Some(HotPlace { log, seam }) = checkpoint.place else {
        tracing::info!(partition, "hot: the checkpoint does not name its log and is taken for this one's");
        return Ok(());
    };
    if !bus.epoch().name().is(log.id) {
        return Err(format!("the checkpoint is of the log {:016x}", log.id));
    }
    let (next_offset, generation) = (checkpoint.next_offset, Some(log.generation));
    let checked = timeline::check(bus, partition, Place { next_offset, generation, seam }).await;
    checked.map_err(|unfit| match unfit {
        Unfit::OtherTimeline(reason) => format!("the checkpoint {reason}"),
        Unfit::Unknown(error) => error.reason,
    })
}

/// Applies the ticks of the log's records `from..to`, which follow on `state`.
///
/// Errors: the log has been trimmed beyond what is read next, as [`BusError::Trimmed`].
async fn replay(
    shared: &Arc<Shared>,
    partition: u16,
    from: u64,
    to: u64,
    state: &mut PartitionState,
) -> Result<(), ProcessorError> {
    let bus_error = |source| ProcessorError::Bus { partition, source };
    let mut reader = shared.stores.bus.reader(partition, from).await.map_err(bus_error)?;
    let mut updates = HotUpdates::default();
    while reader.offset() < to {
        let next = reader.offset();
        let records = reader.next(shared.config.read_bytes_max).await.map_err(bus_error)?;
        reader.check_follows(next, &records).map_err(ProcessorError::hole(partition))?;
        for record in records {
            if record.offset >= to {
                break;
            }
            let damaged = |source| ProcessorError::Record { partition, offset: record.offset, source };
            let view = RecordView::parse(&record.bytes).map_err(damaged)?;
            if !state.admit(view.origin, view.checksum()) {
                continue;
            }
            for (index, row) in (0..).zip(view.ticks()) {
                let seq = Seq { partition, offset: record.offset, index };
                updates.ticks.push((seq, row.map_err(damaged)?.1));
            }
            if view.ticks > 0 {
                updates.record = Some(record);
            }
        }
        apply(shared, partition, &updates).await?;
        fail::point("processor.replayed");
        updates.ticks.clear();
        updates.record = None;
    }
    Ok(())
}

/// Fills hot with the last ticks of the newest day in warm, and the latest by market time.
async fn fill_from_warm(
    shared: &Arc<Shared>,
    partition: u16,
    state: &PartitionState,
) -> Result<(), ProcessorError> {
    let warm_error = |source| ProcessorError::Warm { partition, source };
    let Some(day) = state.newest_day(shared.config.horizon.end().trading_day()) else { return Ok(()) };
    let mut symbols = state.symbols().symbols().to_vec();
    symbols.sort_unstable();
    for symbols in symbols.chunks(SYMBOLS_PER_SCAN) {
        let mut rows: HashMap<Symbol, Vec<(Seq, Tick)>> = HashMap::new();
        for kind in [Kind::Trade, Kind::Quote, Kind::Status, Kind::Cancel, Kind::Correction, Kind::PrevClose]
        {
            let range = TimeRange { from: day.start(), to: Timestamp::MAX };
            let query = Query::new(kind, Some(symbols.to_vec()), range);
            let mut batches = match shared.stores.warm.scan(&query).await {
                // Prices of live ticks are worth more than those of before.
                Err(error @ WarmError::Damaged { .. }) => {
                    tracing::warn!(partition, %day, %error, "hot begins without these rows");
                    continue;
                }
                scan => scan.map_err(warm_error)?.rows,
            };
            let mut of_kind: HashMap<Symbol, Vec<(Seq, Tick)>> = HashMap::new();
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(warm_error)?;
                for_rows(&batch, |symbol, seq, tick| {
                    let held = of_kind.entry(symbol).or_default();
                    held.push((seq, tick));
                    if held.len() == 2 * RECENT_TICKS {
                        keep_last(held);
                    }
                })
                .map_err(warm_error)?;
            }
            for (symbol, mut held) in of_kind {
                keep_last(&mut held);
                rows.entry(symbol).or_default().append(&mut held);
            }
        }
        let mut ticks: Vec<(Seq, Tick)> = rows.into_values().flatten().collect();
        ticks.sort_unstable_by_key(|(seq, _)| *seq);
        apply(shared, partition, &HotUpdates { ticks, ..HotUpdates::default() }).await?;
    }
    Ok(())
}

/// Keeps the last ticks in the log, and of those before them the latest by market time.
fn keep_last(held: &mut Vec<(Seq, Tick)>) {
    held.sort_unstable_by_key(|(seq, _)| *seq);
    let mut earlier = held.drain(..held.len().saturating_sub(RECENT_TICKS)).collect::<Vec<_>>();
    earlier.sort_unstable_by_key(|(seq, tick)| (tick.ts(), *seq));
    held.extend(earlier.drain(earlier.len().saturating_sub(OLDER_TRADES + 1)..));
}

async fn apply(shared: &Shared, partition: u16, updates: &HotUpdates) -> Result<(), ProcessorError> {
    let applied = shared.stores.hot.apply(partition, updates).await;
    applied.map_err(|source| ProcessorError::Hot { partition, source })
}
