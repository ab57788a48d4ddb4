//! Compaction: many small segments of one partition, kind and day become one.
//!
//! Size-tiered: as soon as [`FAN_IN`] segments of one level are there they are merged into one of
//! the next, so that each row is rewritten once per level and a group holds fewer than `FAN_IN`
//! segments a level. Segments that are large already stay as they are.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::manifest::Archived;
use super::read::{Cursor, Within};
use super::revisions::BarRevisions;
use super::segment::{RESTORED_LEVEL, ROW_GROUP_ROWS, SegmentInfo, SegmentWriter};
use super::{Live, Segment, Shared, files::damaged};
use crate::market::{Kind, Merge, Merged, RowKey, Seq, TickBatch, Timestamp};
use crate::tiering::warm::WarmError;

/// Segments of one level that are merged into one.
pub(super) const FAN_IN: usize = 16;

/// The same once a later day has begun: little more will come, so what is left is put together.
pub(super) const FAN_IN_CLOSED: usize = 4;

/// Rows of a merged segment, at most.
pub(super) const ROWS_MAX: u64 = 16 << 20;

/// Rows from which on a segment is large enough to stay as it is.
pub(super) const ROWS_LARGE: u64 = ROWS_MAX / 4;

/// Segments of a group from which on compaction no longer waits for commits.
pub(super) const GROUP_SEGMENTS_URGENT: usize = 64;

/// What to merge.
pub(super) struct Plan {
    inputs: Vec<Arc<Segment>>,
    /// Whether the group has so many segments that this cannot wait.
    urgent: bool,
}

/// The most useful merge, if one is due: of the group with the most segments.
pub(super) fn plan(live: &Live) -> Option<Plan> {
    let newest = live.segments.keys().map(|group| group.day).max()?;
    let due = live.segments.values().filter_map(|segments| {
        let fan_in = if segments[0].info.day < newest { FAN_IN_CLOSED } else { FAN_IN };
        due(segments, live.archived.get(&segments[0].info.unit()), fan_in)
            .map(|inputs| (segments.len(), inputs))
    });
    let (count, inputs) = due.max_by_key(|(count, _)| *count)?;
    Some(Plan { inputs, urgent: count >= GROUP_SEGMENTS_URGENT })
}

fn due(segments: &[Arc<Segment>], archived: Option<&Archived>, fan_in: usize) -> Option<Vec<Arc<Segment>>> {
    // What was sealed together goes into the archive, and out of here, together.
    let stretch = |info: &SegmentInfo| archived.map_or(Some(0), |archived| archived.stretch(info));
    let merged = segments
        .iter()
        .filter(|segment| segment.info.level != RESTORED_LEVEL && stretch(&segment.info).is_some());
    let levels = merged.clone().map(|segment| segment.info.level).max()?;
    (0..=levels).find_map(|level| {
        let small =
            merged.clone().filter(|segment| segment.info.level == level && segment.info.rows < ROWS_LARGE);
        let (mut inputs, mut rows): (Vec<Arc<Segment>>, _) = (Vec::new(), 0);
        for segment in small {
            if inputs.first().is_some_and(|first| stretch(&first.info) != stretch(&segment.info)) {
                if inputs.len() >= fan_in {
                    break;
                }
                (inputs, rows) = (Vec::new(), 0);
            }
            if inputs.len() == FAN_IN || rows + segment.info.rows > ROWS_MAX {
                break;
            }
            rows += segment.info.rows;
            inputs.push(segment.clone());
        }
        (inputs.len() >= fan_in).then_some(inputs)
    })
}

/// Why a merge ended early.
pub(super) enum Stopped {
    Failed(WarmError),
    /// The store is being closed.
    Closed,
}

impl From<WarmError> for Stopped {
    fn from(error: WarmError) -> Self {
        Self::Failed(error)
    }
}

impl Shared {
    /// Writes the merged segment. What is left to do is to swap it in.
    pub(super) fn merge(&self, plan: &Plan, id: u64) -> Result<SegmentInfo, Stopped> {
        let first = &plan.inputs[0].info;
        let info = SegmentInfo {
            id,
            level: plan.inputs.iter().map(|input| input.info.level).max().unwrap_or(0) + 1,
            first_offset: plan.inputs.iter().map(|input| input.info.first_offset).min().unwrap_or(0),
            next_offset: plan.inputs.iter().map(|input| input.info.next_offset).max().unwrap_or(0),
            written_at: plan.inputs.iter().map(|input| input.info.written_at).max().unwrap_or(0),
            ..first.clone()
        };
        let kind = first.kind;
        let bounds = plan.inputs.iter().map(|input| RowKey {
            symbol: input.info.symbol_min,
            ts: Timestamp::from_nanos(input.info.ts_min),
            seq: Seq::default(),
        });
        let mut merge = Merge::new(kind, super::scan::BATCH_ROWS, bounds);
        let mut cursors: Vec<Option<Cursor>> = Vec::new();
        for input in &plan.inputs {
            let stats = Arc::default();
            let rows = super::scan::BATCH_ROWS;
            cursors.push(Cursor::open(input, &self.cache, stats, &None, Within::ALL, rows)?);
        }
        let mut writer = SegmentWriter::create(&self.root, info, ROW_GROUP_ROWS)?;
        let mut bars = BarRevisions::default();
        loop {
            match merge.advance() {
                Merged::Need(at) => {
                    let batch = cursors[at].as_mut().map_or(Ok(None), Cursor::next)?;
                    merge.feed(at, batch).map_err(|error| damaged(&plan.inputs[at].path, error))?;
                }
                Merged::Rows(rows) => {
                    self.pause(plan.urgent)?;
                    let rows = if kind == Kind::Bar { bars.push(rows) } else { Ok(Some(rows)) };
                    if let Some(rows) = rows.map_err(|error| damaged(&plan.inputs[0].path, error))? {
                        write(&mut writer, &rows)?;
                    }
                }
                Merged::End => break,
            }
        }
        let rest = bars.finish().map_err(|error| damaged(&plan.inputs[0].path, error))?;
        if let Some(rows) = rest {
            write(&mut writer, &rows)?;
        }
        Ok(writer.finish()?)
    }

    /// Lets commits go first, and ends when the store is being closed.
    fn pause(&self, urgent: bool) -> Result<(), Stopped> {
        let mut wait = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while !urgent && self.commits.load(Ordering::Acquire) > 0 && !self.closing.load(Ordering::Acquire) {
            wait = self.wake.wait(wait).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if self.closing.load(Ordering::Acquire) { Err(Stopped::Closed) } else { Ok(()) }
    }
}

impl Plan {
    /// Whether a seal now runs between the inputs.
    pub(super) fn is_sealed_apart(&self, archived: Option<&Archived>) -> bool {
        let stretch =
            |input: &Arc<Segment>| archived.map_or(Some(0), |archived| archived.stretch(&input.info));
        let first = self.inputs.first().and_then(stretch);
        first.is_none() || self.inputs.iter().any(|input| stretch(input) != first)
    }

    pub(super) fn inputs(&self) -> &[Arc<Segment>] {
        &self.inputs
    }
}

fn write(writer: &mut SegmentWriter, rows: &TickBatch) -> Result<(), WarmError> {
    let keys = rows.keys().map_err(|error| damaged(std::path::Path::new("merged rows"), error))?;
    writer.write_part(rows, &keys)
}
