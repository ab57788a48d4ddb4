//! Records that the log dropped before warm took them in: retention that Kafka does by itself, or a warm
//! store that was lost, or put back to before them.
//!
//! A processor refuses to go on behind them, since nothing would say that they are missing. Told to skip
//! them, it names them in a gap, has history read from the archive what went there, and goes on.

use futures_util::StreamExt;

use super::worker::asked;
use super::{ProcessorError, Shared};
use crate::bus::Bounds;
use crate::bus::epoch::Relation;
use crate::market::{
    Gap, GapKind, Kind, NO_SYMBOL, Seq, Symbol, SymbolTable, Tick, TickBatchBuilder, TimeRange, Timestamp,
    TradingDay,
};
use crate::tiering::state::PartitionState;
use crate::tiering::tiers::TiersError;
use crate::tiering::warm::{Block, Mark, Unit};

/// The source of the gap.
const SOURCE: &str = "log";

/// Moves `mark` to where the log begins.
///
/// Errors: the processor is not told to skip what expired, as [`ProcessorError::Expired`]; warm or the
/// archive refuses.
pub(super) async fn skip(
    shared: &Shared,
    partition: u16,
    mark: Mark,
    bounds: Bounds,
) -> Result<Mark, ProcessorError> {
    let (offset, first) = (mark.next_offset, bounds.first);
    if !shared.config.skips_expired {
        return Err(ProcessorError::Expired { partition, offset, first });
    }
    let restored = PartitionState::restore(&mark.checkpoint);
    let mut state = restored.map_err(|source| ProcessorError::State { partition, source })?;
    let at = Seq { partition, offset: first - 1, index: u32::MAX };
    let archived = leave_to_archive(shared, partition, offset).await?;
    // The state knows nothing of the bars of a day that warm has lost: they are rebuilt from its trades.
    let newest = state.newest_day(shared.config.horizon.end().trading_day());
    if let Some(day) = archived.filter(|day| newest.is_none_or(|newest| newest < *day)) {
        for symbol in symbols_of(shared, partition, day).await? {
            state.mark_rebuild(symbol, day, at);
        }
    }
    let now = Timestamp::now();
    let gap = Gap {
        symbol: None,
        ts: now,
        recv_ts: now,
        kind: GapKind::Missed,
        source: SOURCE.into(),
        first: offset,
        last: first - 1,
    };
    let mut builder = TickBatchBuilder::new(partition);
    builder.push(NO_SYMBOL, at, &Tick::Gap(Box::new(gap)));
    let block = Block {
        partition,
        first_offset: offset,
        next_offset: first,
        batches: builder.finish(&SymbolTable::default()),
        checkpoint: state.save(),
        seam: None,
    };
    asked(shared, partition, || shared.stores.warm.commit(block.clone())).await?;
    shared.metrics.expired_records.inc_by(first - offset);
    tracing::warn!(
        partition,
        offset,
        log_first = first,
        "records expired before they were processed: processing goes on behind them, and a gap names them"
    );
    Ok(Mark { next_offset: first, checkpoint: block.checkpoint, seam: None })
}

/// Has history read from the archive what it holds of `partition` from `offset` on. The newest day of
/// which it has trades.
async fn leave_to_archive(
    shared: &Shared,
    partition: u16,
    offset: u64,
) -> Result<Option<TradingDay>, ProcessorError> {
    let failed = |source| ProcessorError::Archive { partition, source };
    let Some(archive) = &shared.stores.archive else { return Ok(None) };
    if archive.standing().await.map_err(|error| failed(error.into()))? == Relation::OtherLog {
        return Ok(None);
    }
    let mut newest = None;
    for kind in Kind::ALL {
        let snapshot = archive.snapshot(kind, TimeRange::ALL).await;
        for (day, offsets) in snapshot.map_err(|error| failed(error.into()))?.days() {
            let archived = offsets.get(usize::from(partition)).copied().unwrap_or(0);
            if archived <= offset {
                continue;
            }
            let mut next_offsets = vec![0; usize::from(partition)];
            next_offsets.push(archived);
            let unit = Unit { day, kind };
            asked(shared, partition, || shared.stores.warm.leave_to_archive(unit, &next_offsets)).await?;
            if kind == Kind::Trade {
                newest = newest.max(Some(day));
            }
        }
    }
    Ok(newest)
}

/// The symbols of `partition` that have bars of `day`, which may be in the archive.
async fn symbols_of(shared: &Shared, partition: u16, day: TradingDay) -> Result<Vec<Symbol>, ProcessorError> {
    let failed = |source: TiersError| ProcessorError::Archive { partition, source };
    let range = TimeRange { from: day.start(), to: day.end() };
    let mut rows = shared.stores.tiers().scan(Kind::Bar, None, range).await.map_err(failed)?.rows;
    let mut symbols = Vec::new();
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(failed)?;
        let view = batch.rows().map_err(|error| failed(error.into()))?;
        for row in 0..batch.len() {
            let symbol = view.symbol(row).filter(|_| view.seq(row).partition == partition);
            // Rows come by symbol.
            symbols.extend(symbol.filter(|symbol| symbols.last() != Some(symbol)));
        }
    }
    Ok(symbols)
}
