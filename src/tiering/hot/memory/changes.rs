//! What has changed since it was last taken away: how a store elsewhere is kept like this one.
//!
//! Of every symbol it is known what that store has ([`Version`]) and which parts have changed
//! since. However long nobody takes anything away, what waits is one place in a queue for each
//! symbol: the state itself is in memory anyway.

use std::collections::VecDeque;
use std::ops::{BitOr, BitOrAssign};

use super::{Entry, MemoryHot, SYMBOLS_PER_LOCK, error};
use crate::market::{Bar, PrevClose, Quote, Seq, Status, Symbol, Tick, Trade};
use crate::tiering::hot::{HotError, RECENT_TICKS};

/// Parts of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts(u8);

impl Parts {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The last trade.
    pub const TRADE: Self = Self(1);
    /// The last quote.
    pub const QUOTE: Self = Self(2);
    /// The three bars.
    pub const BARS: Self = Self(4);
    /// Status and previous close.
    pub const REST: Self = Self(8);
    /// Everything.
    pub const ALL: Self = Self(15);

    /// Whether any of `other` is among them.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Parts {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Parts {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How far a symbol's state has come. A later one is greater: an entry is a function of the log up
/// to its last tick, and its bars are of the place of the last tick or revision in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The last tick applied.
    pub seq: Option<Seq>,
    /// The latest place of its bars.
    pub bars: Option<Seq>,
}

/// One symbol's state, as it is to be sent.
#[derive(Clone, Debug)]
pub struct Change {
    /// Whose.
    pub symbol: Symbol,
    /// What the other store is believed to have.
    pub base: Version,
    /// What it has then.
    pub version: Version,
    /// What of the following has changed.
    pub parts: Parts,
    /// The last trade.
    pub trade: Option<(Seq, Trade)>,
    /// The last quote.
    pub quote: Option<(Seq, Quote)>,
    /// The bar of the last minute with a trade.
    pub minute_bar: Option<(Seq, Bar)>,
    /// The bar of the last day with a trade.
    pub daily_bar: Option<(Seq, Bar)>,
    /// The bar of the day before.
    pub prev_daily_bar: Option<(Seq, Bar)>,
    /// The previous session's close.
    pub prev_close: Option<(Seq, PrevClose)>,
    /// The trading status last told.
    pub status: Option<(Seq, Status)>,
    /// The ticks after `base`, oldest first, at most [`RECENT_TICKS`].
    pub ticks: Vec<(Seq, Tick)>,
}

/// What is known of the other store's copy of an entry.
#[derive(Default)]
pub(super) struct Sent {
    base: Version,
    /// What has changed since.
    pub(super) changed: Parts,
    is_queued: bool,
}

/// Numbers of entries that have changed, each once.
#[derive(Default)]
pub(super) struct ChangeQueue(VecDeque<u32>);

impl ChangeQueue {
    #[inline]
    pub(super) fn push(&mut self, number: u32, sent: &mut Sent) {
        if !sent.is_queued && sent.changed != Parts::NONE {
            sent.is_queued = true;
            self.0.push_back(number);
        }
    }
}

impl Entry {
    fn version(&self) -> Version {
        let bars = [self.bars.minute, self.bars.daily, self.bars.prev_daily];
        Version { seq: self.seq, bars: bars.into_iter().flatten().map(|(place, _)| place).max() }
    }

    /// What has changed, which from now on counts as sent. `None` when the other store is as far or
    /// further.
    fn take_change(&mut self, partition: u16) -> Option<Change> {
        self.sent.is_queued = false;
        let (base, version) = (self.sent.base, self.version());
        if version < base || self.sent.changed == Parts::NONE {
            return None;
        }
        self.sent.base = version;
        Some(Change {
            symbol: self.symbol,
            base,
            version,
            parts: std::mem::take(&mut self.sent.changed),
            trade: self.trade,
            quote: self.quote,
            minute_bar: self.bars.minute,
            daily_bar: self.bars.daily,
            prev_daily_bar: self.bars.prev_daily,
            prev_close: self.prev_close.as_deref().copied(),
            status: self.status.as_deref().cloned(),
            ticks: self.recent(partition, base.seq, RECENT_TICKS),
        })
    }
}

impl MemoryHot {
    /// An empty store for a log of `partitions` that keeps account of what changes.
    pub fn watched(partitions: u16) -> Self {
        let watched = Self::new(partitions);
        for shard in &watched.shards {
            let mut shard = shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            shard.changes = Some(ChangeQueue::default());
        }
        watched
    }

    /// Forgets a partition.
    pub fn clear(&self, partition: u16) -> Result<(), HotError> {
        let mut shard = self.shard(partition)?;
        *shard = shard.emptied();
        Ok(())
    }

    /// The offset after the last tick applied to `partition`.
    pub fn next_offset(&self, partition: u16) -> Result<u64, HotError> {
        Ok(self.shard(partition)?.next_offset)
    }

    /// How many symbols wait to be taken away.
    pub fn changes_len(&self, partition: u16) -> Result<usize, HotError> {
        Ok(self.shard(partition)?.changes.as_ref().map_or(0, |changes| changes.0.len()))
    }

    /// Takes away what has changed of at most `symbols_max` symbols, fewer where one lock would be
    /// held for too long. What was taken counts as sent; [`MemoryHot::settle`] corrects that.
    pub fn take_changes(&self, partition: u16, symbols_max: usize) -> Result<Vec<Change>, HotError> {
        let mut shard = self.shard(partition)?;
        let super::Shard { entries, changes: Some(changes), .. } = &mut *shard else {
            return Err(error("nobody keeps account of what changes".to_owned()));
        };
        let count = changes.0.len().min(symbols_max).min(SYMBOLS_PER_LOCK);
        let numbers = changes.0.drain(..count);
        Ok(numbers.filter_map(|number| entries[number as usize].take_change(partition)).collect())
    }

    /// Tells what the other store was found to have of each symbol. Where it is behind, all of the
    /// entry waits to be sent; where it is ahead, nothing does before this one has come further.
    /// Returns of how many it is behind.
    pub fn settle(
        &self,
        partition: u16,
        found: impl IntoIterator<Item = (Symbol, Version)>,
    ) -> Result<usize, HotError> {
        let mut shard = self.shard(partition)?;
        let super::Shard { numbers, entries, changes: Some(changes), .. } = &mut *shard else {
            return Err(error("nobody keeps account of what changes".to_owned()));
        };
        let mut behind = 0;
        for (symbol, base) in found {
            let Some(&number) = numbers.get(&symbol) else { continue };
            let entry = &mut entries[number as usize];
            entry.sent.base = base;
            let version = entry.version();
            entry.sent.changed = if version == base { Parts::NONE } else { Parts::ALL };
            if version > base {
                behind += 1;
                changes.push(number, &mut entry.sent);
            }
        }
        Ok(behind)
    }

    /// At most `symbols_max` symbols in the order in which they came, from the `from`-th on.
    pub fn symbols_from(
        &self,
        partition: u16,
        from: usize,
        symbols_max: usize,
    ) -> Result<Vec<Symbol>, HotError> {
        let shard = self.shard(partition)?;
        Ok(shard.entries.iter().skip(from).take(symbols_max).map(|entry| entry.symbol).collect())
    }

    /// Adds what another store knows of `symbol` to what is known here, whichever is newer: ticks
    /// with their places, the last trade, quote and so on among them, and bars.
    pub fn merge(
        &self,
        partition: u16,
        symbol: Symbol,
        ticks: Vec<(Seq, Tick)>,
        bars: &[(Seq, Bar)],
    ) -> Result<(), HotError> {
        let mut shard = self.shard(partition)?;
        let number = shard.number(symbol);
        let held = &mut shard.entries[number as usize];
        let mut all = held.stored(partition);
        all.extend(ticks);
        // What is held stands before what is told, so that of two it stays.
        all.sort_by_key(|(seq, _)| *seq);
        all.dedup_by_key(|(seq, _)| *seq);
        let until = self.horizon.end();
        let mut merged = Entry::new(symbol);
        all.iter().for_each(|(seq, tick)| merged.apply(*seq, tick, until));
        let bars_held = [held.bars.prev_daily, held.bars.daily, held.bars.minute];
        for (seq, bar) in bars.iter().copied().chain(bars_held.into_iter().flatten()) {
            merged.apply_bar(seq, bar, until);
        }
        let sent = std::mem::take(&mut held.sent);
        merged.sent = Sent { changed: merged.sent.changed | sent.changed, ..sent };
        *held = merged;
        let last = all.last().map_or(0, |(seq, _)| seq.offset + 1);
        shard.next_offset = shard.next_offset.max(last);
        let super::Shard { entries, changes, .. } = &mut *shard;
        if let Some(changes) = changes {
            changes.push(number, &mut entries[number as usize].sent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tiering::hot::conformance::{self, PARTITIONS, is_as_told, steps, ticks};
    use crate::tiering::hot::{Hot, HotUpdates};

    fn tell(hot: &MemoryHot, ticks: &[(Seq, Tick)]) {
        for (seq, tick) in ticks {
            let updates = HotUpdates { ticks: vec![(*seq, tick.clone())], ..HotUpdates::default() };
            hot.take_in(seq.partition, &updates).unwrap();
        }
    }

    /// What a copy elsewhere has: of each symbol its version, and its last ticks.
    type Copies = std::collections::BTreeMap<Symbol, (Version, Vec<(Seq, Tick)>)>;

    /// Sends as a writer does: what does not fit the copy is settled and tried again.
    fn send(hot: &MemoryHot, copies: &mut Copies) {
        for partition in 0..PARTITIONS {
            while hot.changes_len(partition).unwrap() > 0 {
                for change in hot.take_changes(partition, 3).unwrap() {
                    let copy = copies.entry(change.symbol).or_default();
                    if copy.0 != change.base {
                        hot.settle(partition, [(change.symbol, copy.0)]).unwrap();
                        continue;
                    }
                    copy.0 = change.version;
                    copy.1.extend(change.ticks);
                    copy.1.drain(..copy.1.len().saturating_sub(RECENT_TICKS));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_copy_stays_as_the_store_is(steps in steps(300), cuts in prop::collection::vec(0_usize..300, 0..6)) {
            let ticks = ticks(&steps);
            let (hot, mut copies) = (MemoryHot::watched(PARTITIONS), Copies::new());
            for (at, placed) in ticks.iter().enumerate() {
                tell(&hot, std::slice::from_ref(placed));
                if cuts.contains(&at) {
                    send(&hot, &mut copies);
                }
            }
            // One that loses a symbol, and one that begins again behind the copy, come to the same.
            copies.pop_first();
            let symbols = hot.symbols_from(0, 0, 9).unwrap();
            let found = |symbol: &Symbol| (*symbol, copies.get(symbol).map_or(Version::default(), |copy| copy.0));
            hot.settle(0, symbols.iter().map(found)).unwrap();
            hot.settle(1, hot.symbols_from(1, 0, 9).unwrap().iter().map(found)).unwrap();
            send(&hot, &mut copies);
            let again = MemoryHot::watched(PARTITIONS);
            tell(&again, &ticks[..ticks.len() / 2]);
            send(&again, &mut copies);
            tell(&again, &ticks);
            send(&again, &mut copies);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for (symbol, (version, recent)) in copies {
                let entry = runtime.block_on(hot.get(&[symbol])).unwrap().remove(0).unwrap();
                prop_assert_eq!(version.seq, Some(entry.seq));
                prop_assert_eq!(recent, runtime.block_on(hot.recent(symbol)).unwrap());
            }
        }

        #[test]
        fn merged_stores_know_what_both_do(steps in steps(150), cut in any::<prop::sample::Index>()) {
            let ticks = ticks(&steps);
            let cut = cut.index(ticks.len() + 1);
            let (older, newer) = (MemoryHot::new(PARTITIONS), MemoryHot::new(PARTITIONS));
            tell(&older, &ticks[..cut]);
            tell(&newer, &ticks[cut.saturating_sub(5)..]);
            for symbol in conformance::symbols() {
                let partition = symbol.partition(PARTITIONS);
                let Some(stored) = older.shard(partition).unwrap().get(symbol).map(|entry| entry.stored(partition))
                else { continue };
                newer.merge(partition, symbol, stored, &[]).unwrap();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(is_as_told(&newer, &ticks))?;
        }
    }
}
