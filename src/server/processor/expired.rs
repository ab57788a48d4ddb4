//! Records that the log dropped before warm took them in: retention that Kafka does by itself, or a warm
//! store that was lost, or put back to before them.
//!
//! Where the archive is known to hold every row of theirs, a processor has history read it from there and goes
//! on behind them. Otherwise it refuses, since nothing would say that they are missing. Told to skip them, it
//! names them in a gap, has history read from the archive what went there, and goes on.

use std::collections::BTreeMap;

use futures_util::StreamExt;

use super::worker::asked;
use super::{ProcessorError, Shared};
use crate::bus::Bounds;
use crate::bus::epoch::Relation;
use crate::market::{
    Gap, GapKind, Kind, NO_SYMBOL, Seq, Symbol, SymbolTable, Tick, TickBatchBuilder, TimeRange, Timestamp,
    TradingDay,
};
use crate::tiering::archive::snapshot::ReadError;
use crate::tiering::archive::verify;
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
    let are_archived = shared.config.expired_are_archived || is_whole(shared, partition, first).await?;
    if !shared.config.skips_expired && !are_archived {
        return Err(ProcessorError::Expired { partition, offset, first });
    }
    let restored = PartitionState::restore(&mark.checkpoint);
    let mut state = restored.map_err(|source| ProcessorError::State { partition, source })?;
    let at = Seq { partition, offset: first - 1, index: u32::MAX };
    let archived = leave_to_archive(shared, partition, offset).await?;
    // Of a day that warm has lost rows of the state knows a part of the bars, or nothing: they are rebuilt from
    // the day's trades. Those that it knows,
    let known: Vec<_> = state.bars().map(|(_, bar)| (bar.symbol, bar.ts.trading_day())).collect();
    for (symbol, day) in known.into_iter().filter(|(_, day)| archived.contains_key(day)) {
        state.mark_rebuild(symbol, day, at);
    }
    // and all of the days that the log has rows of, or that still go on: a trade of any other is late, and
    // told from the first of its day by the newer days that the state has by then.
    let newest = archived.keys().next_back().copied();
    for (day, _) in archived.into_iter().filter(|(day, next)| *next > first || Some(*day) == newest) {
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
    if !are_archived {
        builder.push(NO_SYMBOL, at, &Tick::Gap(Box::new(gap)));
    }
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
    let what = if are_archived {
        "the archive holds all of their rows, and history has them from there"
    } else {
        "a gap names them"
    };
    tracing::warn!(
        partition,
        offset,
        log_first = first,
        "warm lacks records that the log no longer has: processing goes on behind them, and {what}"
    );
    Ok(Mark { next_offset: first, checkpoint: block.checkpoint, seam: None })
}

/// Whether the archive holds every row of `partition` below `offset`.
async fn is_whole(shared: &Shared, partition: u16, offset: u64) -> Result<bool, ProcessorError> {
    let Some(archive) = &shared.stores.archive else { return Ok(false) };
    let whole_offsets = archive.whole_offsets().await;
    let whole_offsets =
        whole_offsets.map_err(|error| ProcessorError::Archive { partition, source: error.into() })?;
    Ok(whole_offsets.get(usize::from(partition)).is_some_and(|whole| *whole >= offset))
}

/// Has history read from the archive what it holds of `partition` from `offset` on: all of the partition's
/// rows of each such day, warm's own too. The days of which it has trades, and the offsets below which it has them.
///
/// Errors: an object of such a day is not there or known to be damaged; the archive or warm refuses.
async fn leave_to_archive(
    shared: &Shared,
    partition: u16,
    offset: u64,
) -> Result<BTreeMap<TradingDay, u64>, ProcessorError> {
    let failed = |source| ProcessorError::Archive { partition, source };
    let Some(archive) = &shared.stores.archive else { return Ok(BTreeMap::new()) };
    if archive.standing().await.map_err(|error| failed(error.into()))? == Relation::OtherLog {
        return Ok(BTreeMap::new());
    }
    let mut days = BTreeMap::new();
    for kind in Kind::ALL {
        let snapshot = archive.snapshot(kind, TimeRange::ALL).await;
        let snapshot = snapshot.map_err(|error| failed(error.into()))?;
        for (day, offsets) in snapshot.days() {
            let archived = offsets.get(usize::from(partition)).copied().unwrap_or(0);
            if archived <= offset {
                continue;
            }
            let mut next_offsets = vec![0; usize::from(partition)];
            next_offsets.push(archived);
            if offset > 0 {
                // Warm may have rows of the day, and gives them up.
                let sound = async { verify::check_sound(archive, snapshot.files(day)?).await };
                sound.await.map_err(|error: ReadError| failed(error.into()))?;
            }
            let unit = Unit { day, kind };
            asked(shared, partition, || shared.stores.warm.leave_to_archive(unit, &next_offsets)).await?;
            if kind == Kind::Trade {
                days.insert(day, archived);
            }
        }
    }
    Ok(days)
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
