//! Ordered streams of batches as one.
//!
//! Knows nothing of where batches come from: it says which input it needs next and is given that,
//! so that files, the log's tail and streams of streams are merged by the same code.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::{BatchError, Kind, RowKey, RowKeys, TickBatch};

/// What a [`Merge`] says when asked to go on.
#[derive(Debug)]
pub enum Merged {
    /// The input of this number must be fed before the merge can go on.
    Need(usize),
    /// The next rows, in order.
    Rows(TickBatch),
    /// All inputs have ended.
    End,
}

/// Merges inputs that are each ordered by [`RowKey`] into one such stream.
///
/// An input is not asked for before the merge has reached its lower bound, so that of many files
/// only those are open whose rows are due. Of rows with equal keys, the input with the lower
/// number goes first.
pub struct Merge {
    kind: Kind,
    rows_max: usize,
    inputs: Vec<Option<Input>>,
    /// The next key of each input that has not ended: a row's, or a lower bound of what it will
    /// be fed.
    heap: BinaryHeap<Reverse<(RowKey, usize)>>,
    /// Batches that hold rows which are due, and which of their rows.
    due_batches: Vec<TickBatch>,
    due: Vec<(usize, Range<usize>)>,
    due_rows: usize,
}

struct Input {
    batch: TickBatch,
    /// Its number in `due_batches`, once rows of it are due.
    due: Option<usize>,
    keys: RowKeys,
    row: usize,
}

impl Merge {
    /// A merge of as many inputs as there are `bounds`: keys that none of the input's rows comes
    /// before. Gives out batches of at most `rows_max` rows.
    pub fn new(kind: Kind, rows_max: usize, bounds: impl IntoIterator<Item = RowKey>) -> Self {
        let heap: BinaryHeap<_> =
            bounds.into_iter().enumerate().map(|(input, bound)| Reverse((bound, input))).collect();
        let inputs = heap.iter().map(|_| None).collect();
        Self {
            kind,
            rows_max: rows_max.max(1),
            inputs,
            heap,
            due_batches: Vec::new(),
            due: Vec::new(),
            due_rows: 0,
        }
    }

    /// Gives `input` its next batch; `None` ends it.
    pub fn feed(&mut self, input: usize, batch: Option<TickBatch>) -> Result<(), BatchError> {
        let Some(batch) = batch else {
            self.heap.retain(|Reverse((_, other))| *other != input);
            return Ok(());
        };
        if batch.is_empty() {
            return Ok(());
        }
        let keys = batch.keys()?;
        self.heap.retain(|Reverse((_, other))| *other != input);
        self.heap.push(Reverse((keys.get(0), input)));
        self.inputs[input] = Some(Input { batch, due: None, keys, row: 0 });
        Ok(())
    }

    /// Goes on as far as what was fed allows.
    pub fn advance(&mut self) -> Merged {
        loop {
            if self.due_rows >= self.rows_max {
                return Merged::Rows(self.take_due());
            }
            let Some(&Reverse((_, at))) = self.heap.peek() else {
                return if self.due_rows > 0 { Merged::Rows(self.take_due()) } else { Merged::End };
            };
            let Some(input) = self.inputs[at].as_mut() else { return Merged::Need(at) };
            let Some(Reverse((first, _))) = self.heap.pop() else { continue };
            let limit = self.heap.peek().map(|Reverse(next)| *next);
            let start = input.row;
            let end_max = input.keys.len().min(start + self.rows_max - self.due_rows);
            let before = |row: usize| limit.is_none_or(|limit| (input.keys.get(row), at) < limit);
            let end = run_end(start, end_max, before);
            let batch = *input.due.get_or_insert_with(|| {
                self.due_batches.push(input.batch.clone());
                self.due_batches.len() - 1
            });
            self.due.push((batch, start..end));
            self.due_rows += end - start;
            input.row = end;
            if end < input.keys.len() {
                self.heap.push(Reverse((input.keys.get(end), at)));
            } else {
                // What comes next from this input is not known, only that it does not come before
                // what went.
                let last = input.keys.get(end - 1);
                debug_assert!(first <= last, "an input is not in order");
                self.heap.push(Reverse((last, at)));
                self.inputs[at] = None;
            }
        }
    }

    fn take_due(&mut self) -> TickBatch {
        self.due_rows = 0;
        self.inputs.iter_mut().flatten().for_each(|input| input.due = None);
        let (batches, parts) = (std::mem::take(&mut self.due_batches), std::mem::take(&mut self.due));
        match &parts[..] {
            [(only, range)] => batches[*only].slice(range.clone()),
            parts => TickBatch::concat(self.kind, &batches, parts),
        }
    }
}

/// The end of the run of rows from `start` that `before` holds for; it holds for `start`.
fn run_end(start: usize, end_max: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut step) = (start + 1, 1);
    let mut high = loop {
        let probe = low + step - 1;
        if probe >= end_max {
            break end_max;
        }
        if !before(probe) {
            break probe;
        }
        low = probe + 1;
        step *= 2;
    };
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::{NO_SYMBOL, Seq, SymbolTable, Tick, TickBatchBuilder, arbitrary};

    fn batch(ticks: &[(Seq, Tick)]) -> Option<TickBatch> {
        let (mut builder, mut table) = (TickBatchBuilder::new(0), SymbolTable::default());
        for (seq, tick) in ticks {
            let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
            builder.push(symbol, *seq, tick);
        }
        let mut batches = builder.finish(&table);
        assert!(batches.len() <= 1);
        batches.pop().map(|(_, batch)| batch)
    }

    proptest! {
        #[test]
        fn merged_inputs_are_the_sorted_whole(
            trades in prop::collection::vec((arbitrary::trade(), 0_usize..5), 0..80),
            rows_max in 1_usize..20,
            cut in 1_usize..10,
        ) {
            let mut inputs: Vec<Vec<(Seq, Tick)>> = vec![Vec::new(); 5];
            for (offset, (mut trade, input)) in trades.into_iter().enumerate() {
                // One trading day, so that the builder makes one batch.
                trade.ts = crate::market::Timestamp::from_nanos(1_499_693_400_000_000_000 + trade.ts.nanos() % 7);
                inputs[input].push((Seq { partition: 0, offset: offset as u64, index: 0 }, Tick::Trade(trade)));
            }
            let key = |(seq, tick): &(Seq, Tick)| RowKey { symbol: tick.symbol(), ts: tick.ts(), seq: *seq };
            let mut expected: Vec<_> = inputs.iter().flatten().cloned().collect();
            expected.sort_by_key(key);
            for input in &mut inputs {
                input.sort_by_key(key);
            }
            let bound = RowKey { symbol: None, ts: crate::market::Timestamp::MIN, seq: Seq::default() };
            let bounds = inputs.iter().map(|input| input.first().map_or(bound, key)).collect::<Vec<_>>();
            let mut merge = Merge::new(Kind::Trade, rows_max, bounds);
            let mut found = Vec::new();
            loop {
                match merge.advance() {
                    Merged::Need(input) => {
                        let len = cut.min(inputs[input].len());
                        let rest = inputs[input].split_off(len);
                        let next = std::mem::replace(&mut inputs[input], rest);
                        merge.feed(input, batch(&next)).unwrap();
                    }
                    Merged::Rows(rows) => {
                        prop_assert!(!rows.is_empty() && rows.len() <= rows_max);
                        let len = rows.len();
                        let rows = rows.rows().unwrap();
                        (0..len).for_each(|row| found.push((rows.seq(row), rows.tick(row).unwrap())));
                    }
                    Merged::End => break,
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
