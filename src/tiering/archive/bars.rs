//! Whether archived bars are those that warm holds, though their revisions differ.
//!
//! Each block stores the bars that it moved as they are at its end. A processor that reads the log again,
//! after warm was lost or put back, cuts its blocks elsewhere, so it stores other revisions of the same
//! bars. What counts of a bar is its newest revision.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use xxhash_rust::xxh3::xxh3_64;

use super::ArchiveError;
use super::plan::{Moment, offsets};
use super::read::{ArchiveReader, SharedReadStats};
use crate::market::{Bar, Seq, Symbol, TickBatch, TimeRange, Timestamp};
use crate::tiering::cold::Cold;
use crate::tiering::tiers::{TiersError, merge_streams};
use crate::tiering::warm::{ArchiveSource, Unit};

/// [`are_left`] as warm stands now.
///
/// Errors: as [`are_left`].
pub(in crate::tiering) async fn are_same(
    cold: Arc<dyn Cold>,
    warm: &dyn ArchiveSource,
    unit: Unit,
    archived: &[u64],
) -> Result<Option<bool>, ArchiveError> {
    let moment = Moment::of(warm, unit).await?;
    are_left(cold, warm, unit, archived, &moment).await
}

/// Whether the newest revision of every bar of `unit` is the same now, in warm and in what of the archive
/// warm has dropped before, and in what is left once all below `archived` is dropped: the archive and warm's
/// later rows. `None` where objects must be restored from Glacier first.
///
/// Errors: warm or the archive can't be read.
pub(super) async fn are_left(
    cold: Arc<dyn Cold>,
    warm: &dyn ArchiveSource,
    unit: Unit,
    archived: &[u64],
    moment: &Moment,
) -> Result<Option<bool>, ArchiveError> {
    let compared = async {
        let reader = Arc::new(ArchiveReader::new(cold));
        let range = TimeRange { from: unit.day.start(), to: unit.day.end() };
        let stats = SharedReadStats::default();
        let snapshot = reader.snapshot(unit.kind, range).await?;
        let (ready, frozen) = reader.availability(snapshot.files(unit.day)?, &stats).await?;
        if !frozen.is_empty() {
            return Ok(None);
        }
        let read = |files| {
            reader.scan(unit.kind, files, None, range, stats.clone()).map_err(TiersError::from).boxed()
        };
        let late = warm.export(unit, &offsets(archived, &moment.next_offsets)).await?;
        let late = late.map_err(TiersError::from).boxed();
        let left = newest(merge_streams(unit.kind, vec![late, read(ready)])).await?;
        let held = warm.export(unit, &offsets(&[], &moment.next_offsets)).await?;
        let held = held.map_err(TiersError::from).boxed();
        let dropped = read(snapshot.files_below(unit.day, &moment.dropped)?);
        Ok(Some(left == newest(merge_streams(unit.kind, vec![held, dropped])).await?))
    };
    compared.await.map_err(|error: TiersError| ArchiveError::Warm {
        reason: error.to_string(),
        is_passing: error.is_passing(),
    })
}

/// How many bars there are, and the sum of the checksums of their newest revisions.
async fn newest(
    mut rows: BoxStream<'static, Result<TickBatch, TiersError>>,
) -> Result<(u64, u64), TiersError> {
    let (mut count, mut sum) = (0, 0_u64);
    let mut place: Option<(Option<Symbol>, Timestamp)> = None;
    // Of one symbol and time: one of each timeframe.
    let mut held: Vec<(Seq, Bar)> = Vec::new();
    let mut flush = |held: &mut Vec<(Seq, Bar)>| {
        for (_, bar) in held.drain(..) {
            count += 1;
            sum = sum.wrapping_add(xxh3_64(format!("{bar:?}").as_bytes()));
        }
    };
    while let Some(batch) = rows.try_next().await? {
        let view = batch.rows()?;
        for row in 0..batch.len() {
            let at = (view.symbol(row), view.ts(row));
            if place.replace(at) != Some(at) {
                flush(&mut held);
            }
            let (seq, bar) = view.bar(row)?;
            match held.iter_mut().find(|(_, other)| other.timeframe == bar.timeframe) {
                Some(other) if other.0 <= seq => *other = (seq, bar),
                Some(_) => {}
                None => held.push((seq, bar)),
            }
        }
    }
    flush(&mut held);
    Ok((count, sum))
}
