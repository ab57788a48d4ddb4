//! Revisions of bars: of each symbol, time and timeframe the one at the highest place in the log
//! stays.

use std::ops::Range;

use crate::market::{BatchError, RowKeys, TickBatch, Timeframe};

/// Drops the revisions of bars that a later one supersedes, out of rows that come in order.
#[derive(Default)]
pub(super) struct BarRevisions {
    /// Rows of the last symbol and time so far: more revisions of them may come.
    open: Option<TickBatch>,
}

impl BarRevisions {
    /// Takes the next rows; gives out those that are decided.
    pub(super) fn push(&mut self, rows: TickBatch) -> Result<Option<TickBatch>, BatchError> {
        let rows = match self.open.take() {
            None => rows,
            Some(open) => {
                let parts = [(0, 0..open.len()), (1, 0..rows.len())];
                TickBatch::concat(rows.kind(), &[open, rows], &parts)
            }
        };
        let keys = rows.keys()?;
        let Some(last) = keys.len().checked_sub(1) else { return Ok(None) };
        let start = (0..last).rev().find(|&row| !is_same(&keys, row, last)).map_or(0, |row| row + 1);
        self.open = Some(rows.slice(start..rows.len()));
        latest(&rows.slice(0..start))
    }

    /// The rest.
    pub(super) fn finish(self) -> Result<Option<TickBatch>, BatchError> {
        self.open.map_or(Ok(None), |open| latest(&open))
    }
}

fn is_same(keys: &RowKeys, row: usize, other: usize) -> bool {
    keys.symbol(row) == keys.symbol(other) && keys.ts_nanos()[row] == keys.ts_nanos()[other]
}

/// The rows of whole symbols and times that no later one supersedes.
fn latest(rows: &TickBatch) -> Result<Option<TickBatch>, BatchError> {
    let (keys, view) = (rows.keys()?, rows.rows()?);
    let mut kept: Vec<usize> = Vec::new();
    // The last row so far of each timeframe, of the symbol and time at hand.
    let mut open: Vec<(Timeframe, usize)> = Vec::new();
    let mut close = |open: &mut Vec<(Timeframe, usize)>| {
        open.sort_unstable_by_key(|(_, row)| *row);
        kept.extend(open.drain(..).map(|(_, row)| row));
    };
    for row in 0..keys.len() {
        if row > 0 && !is_same(&keys, row - 1, row) {
            close(&mut open);
        }
        let timeframe = view.bar(row)?.1.timeframe;
        match open.iter_mut().find(|(other, _)| *other == timeframe) {
            // Rows of one symbol and time come in the order of their places.
            Some((_, last)) => *last = row,
            None => open.push((timeframe, row)),
        }
    }
    close(&mut open);
    if kept.is_empty() {
        return Ok(None);
    }
    let mut parts: Vec<(usize, Range<usize>)> = Vec::new();
    for row in kept {
        match parts.last_mut() {
            Some((_, range)) if range.end == row => range.end += 1,
            _ => parts.push((0, row..row + 1)),
        }
    }
    Ok(Some(TickBatch::concat(rows.kind(), std::slice::from_ref(rows), &parts)))
}
