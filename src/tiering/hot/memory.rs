//! Hot in this process's memory: one shard for each partition of the log, locked once a batch.
//!
//! Durable only as a checkpoint now and then, a file for each partition named by the offset it
//! covers; from there on it is the log that hot is rebuilt from.
//!
//! A store elsewhere is kept like this one by what `changes` tells to have changed.

mod changes;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use foldhash::HashMap;

pub use self::changes::{Change, Parts, Version};
use self::changes::{ChangeQueue, Sent};
use super::{Hot, HotEntry, HotError, HotUpdates, RECENT_TICKS};
use crate::disk::{create_dir, sync_dir};
use crate::fail;
use crate::market::{
    Bar, Cancel, Conditions, Exchange, Horizon, PrevClose, Price, Quote, Seq, Status, Symbol, Tape, Tick,
    Timeframe, Timestamp, Trade,
};
use crate::tiering::codec::{CodecError, Reader, Writer};
use crate::tiering::state::FinalTrades;
use crate::wire::record::{Origin, RecordEncoder, RecordView};
use crate::wire::token::LogId;

/// The version of the checkpoint that is written. Version 2, which does not name the log, is read too.
/// Version 1 kept the trade and quote that arrived last, not those of the latest market time: hot is rebuilt
/// from the log and warm instead.
pub const CHECKPOINT_VERSION: u8 = 3;

/// The oldest version that is read.
const CHECKPOINT_VERSION_MIN: u8 = 2;

/// Ticks of one chunk of a checkpoint.
const CHUNK_TICKS: usize = 16_384;
/// Trades kept of those that left a symbol's ring, the newest by market time: one of them becomes the
/// last trade once newer ones are broken.
pub(crate) const OLDER_TRADES: usize = 4;
/// Symbols that are copied out under one lock.
const SYMBOLS_PER_LOCK: usize = 64;

/// A trade or quote in a symbol's ring: 64 bytes, a cache line.
#[derive(Clone, Copy)]
struct Compact {
    offset: u64,
    ts: Timestamp,
    recv_ts: Timestamp,
    /// A trade's price, a quote's bid.
    price: Price,
    /// A trade's id, a quote's ask.
    other: u64,
    index: u32,
    size: u32,
    ask_size: u32,
    conditions: Conditions,
    exchange: Exchange,
    ask_exchange: Exchange,
    tape: Tape,
    is_trade: bool,
}

impl Compact {
    fn of_trade(seq: Seq, trade: &Trade) -> Self {
        Self {
            offset: seq.offset,
            ts: trade.ts,
            recv_ts: trade.recv_ts,
            price: trade.price,
            other: trade.id,
            index: seq.index,
            size: trade.size,
            ask_size: 0,
            conditions: trade.conditions,
            exchange: trade.exchange,
            ask_exchange: Exchange::NONE,
            tape: trade.tape,
            is_trade: true,
        }
    }

    fn of_quote(seq: Seq, quote: &Quote) -> Self {
        Self {
            offset: seq.offset,
            ts: quote.ts,
            recv_ts: quote.recv_ts,
            price: quote.bid,
            other: quote.ask.nanos() as u64,
            index: seq.index,
            size: quote.bid_size,
            ask_size: quote.ask_size,
            conditions: quote.conditions,
            exchange: quote.bid_exchange,
            ask_exchange: quote.ask_exchange,
            tape: quote.tape,
            is_trade: false,
        }
    }

    fn seq(&self, partition: u16) -> Seq {
        Seq { partition, offset: self.offset, index: self.index }
    }

    fn tick(&self, symbol: Symbol) -> Tick {
        let Self { ts, recv_ts, conditions, tape, .. } = *self;
        if self.is_trade {
            return Tick::Trade(Trade {
                symbol,
                ts,
                recv_ts,
                price: self.price,
                size: self.size,
                exchange: self.exchange,
                conditions,
                id: self.other,
                tape,
            });
        }
        Tick::Quote(Quote {
            symbol,
            ts,
            recv_ts,
            bid: self.price,
            ask: Price::from_nanos(self.other as i64).unwrap_or_default(),
            bid_size: self.size,
            ask_size: self.ask_size,
            bid_exchange: self.exchange,
            ask_exchange: self.ask_exchange,
            conditions,
            tape,
        })
    }
}

/// The last trades and quotes, growing to [`RECENT_TICKS`] and then turning.
#[derive(Default)]
struct Ring {
    slots: Vec<Compact>,
    /// The oldest slot, once all are taken.
    oldest: usize,
}

impl Ring {
    /// Returns what has no place any more.
    fn push(&mut self, compact: Compact) -> Option<Compact> {
        if self.slots.len() < RECENT_TICKS {
            if self.slots.len() == self.slots.capacity() {
                // Most symbols trade seldom: no more than twice what is needed, never past the end.
                let grown = (self.slots.len() * 2).clamp(4, RECENT_TICKS);
                self.slots.reserve_exact(grown - self.slots.len());
            }
            self.slots.push(compact);
            return None;
        }
        let out = std::mem::replace(&mut self.slots[self.oldest], compact);
        self.oldest = (self.oldest + 1) % RECENT_TICKS;
        Some(out)
    }

    fn oldest_first(&self) -> impl Iterator<Item = &Compact> {
        let (newer, older) = self.slots.split_at(self.oldest);
        older.iter().chain(newer)
    }
}

#[derive(Default)]
struct Bars {
    minute: Option<(Seq, Bar)>,
    daily: Option<(Seq, Bar)>,
    prev_daily: Option<(Seq, Bar)>,
}

struct Entry {
    symbol: Symbol,
    /// The last tick applied; `None` as long as only bars are known.
    seq: Option<Seq>,
    trade: Option<(Seq, Trade)>,
    quote: Option<(Seq, Quote)>,
    status: Option<Box<(Seq, Status)>>,
    prev_close: Option<Box<(Seq, PrevClose)>>,
    bars: Box<Bars>,
    ring: Ring,
    /// Trades that left the ring and were not broken, as amended: the [`OLDER_TRADES`] newest by
    /// market time, oldest first.
    older: VecDeque<(Seq, Trade)>,
    /// The last ticks that are neither trade nor quote, at most [`RECENT_TICKS`].
    others: VecDeque<(Seq, Tick)>,
    /// What a store elsewhere has of it.
    sent: Sent,
}

/// Whether a tick of `ts` replaces one of `last`: an older one never does, and of equal times the
/// last in the log does. One after `until` is too far ahead of the clock to be anybody's latest.
#[inline]
fn is_latest(last: Option<Timestamp>, ts: Timestamp, until: Timestamp) -> bool {
    ts <= until && last.is_none_or(|last| ts >= last)
}

impl Entry {
    fn new(symbol: Symbol) -> Self {
        Self {
            symbol,
            seq: None,
            trade: None,
            quote: None,
            status: None,
            prev_close: None,
            bars: Box::default(),
            ring: Ring::default(),
            older: VecDeque::new(),
            others: VecDeque::new(),
            sent: Sent::default(),
        }
    }

    /// Takes in a tick; `until` is the end of the store's [`Horizon`].
    #[inline]
    fn apply(&mut self, seq: Seq, tick: &Tick, until: Timestamp) {
        if self.seq.is_some_and(|last| seq <= last) {
            return;
        }
        self.seq = Some(seq);
        match tick {
            Tick::Trade(trade) => {
                if is_latest(self.trade.map(|(_, last)| last.ts), trade.ts, until) {
                    self.trade = Some((seq, *trade));
                }
                self.sent.changed |= Parts::TRADE;
                self.remember(seq.partition, Compact::of_trade(seq, trade), until);
            }
            Tick::Quote(quote) => {
                if is_latest(self.quote.map(|(_, last)| last.ts), quote.ts, until) {
                    self.quote = Some((seq, *quote));
                }
                self.sent.changed |= Parts::QUOTE;
                self.remember(seq.partition, Compact::of_quote(seq, quote), until);
            }
            other => self.apply_other(seq, other, until),
        }
    }

    #[inline]
    fn remember(&mut self, partition: u16, compact: Compact, until: Timestamp) {
        if let Some(out) = self.ring.push(compact)
            && out.ts <= until
            && let Tick::Trade(trade) = out.tick(self.symbol)
        {
            self.keep_older(out.seq(partition), trade);
        }
    }

    fn keep_older(&mut self, seq: Seq, mut trade: Trade) {
        for (_, other) in self.others.iter().filter(|(place, _)| *place > seq) {
            match other {
                Tick::Cancel(cancel) if trade.is_named(cancel.exchange, cancel.id) => return,
                Tick::Correction(correction)
                    if trade.is_named(correction.exchange, correction.original.id) =>
                {
                    trade.correct(&correction.corrected);
                }
                _ => {}
            }
        }
        let at = self.older.partition_point(|(place, older)| (older.ts, *place) < (trade.ts, seq));
        self.older.insert(at, (seq, trade));
        if self.older.len() > OLDER_TRADES {
            self.older.pop_front();
        }
    }

    /// Forgets the older trade that `cancel` breaks, unless it is about one in the ring.
    fn break_older(&mut self, cancel: &Cancel) {
        let is_meant = |trade: &Trade| {
            trade.is_named(cancel.exchange, cancel.id) && trade.ts.trading_day() == cancel.ts.trading_day()
        };
        let is_trade = |compact: &&Compact| compact.is_trade && compact.other == cancel.id;
        let in_ring =
            self.ring.slots.iter().filter(is_trade).any(|compact| match compact.tick(self.symbol) {
                Tick::Trade(trade) => is_meant(&trade),
                _ => false,
            });
        if !in_ring && let Some(at) = self.older.iter().rposition(|(_, trade)| is_meant(trade)) {
            self.older.remove(at);
        }
    }

    fn apply_other(&mut self, seq: Seq, tick: &Tick, until: Timestamp) {
        if self.others.len() == RECENT_TICKS {
            self.others.pop_front();
        }
        self.others.push_back((seq, tick.clone()));
        self.sent.changed |= Parts::TRADE | Parts::REST;
        match tick {
            Tick::Status(status) => {
                if is_latest(self.status.as_ref().map(|placed| placed.1.ts), status.ts, until) {
                    self.status = Some(Box::new((seq, (**status).clone())));
                }
            }
            Tick::PrevClose(close) => {
                if is_latest(self.prev_close.as_ref().map(|placed| placed.1.ts), close.ts, until) {
                    self.prev_close = Some(Box::new((seq, *close)));
                }
            }
            Tick::Cancel(cancel) => {
                self.break_older(cancel);
                if self.trade.is_some_and(|(_, trade)| trade.is_named(cancel.exchange, cancel.id)) {
                    self.trade = self.last_standing_trade(until);
                }
            }
            Tick::Correction(correction) => {
                let trades = self.trade.iter_mut().chain(&mut self.older);
                trades
                    .filter(|(_, trade)| trade.is_named(correction.exchange, correction.original.id))
                    .for_each(|(_, trade)| trade.correct(&correction.corrected));
            }
            Tick::Gap(_) | Tick::Trade(_) | Tick::Quote(_) => {}
        }
    }

    /// The trade of the latest market time among those in memory that no tick has broken, as amended.
    fn last_standing_trade(&self, until: Timestamp) -> Option<(Seq, Trade)> {
        let partition = self.seq?.partition;
        let recent = self.recent(partition, None, usize::MAX);
        let mut trades = FinalTrades::default();
        let mut places = Vec::new();
        for (seq, tick) in &recent {
            trades.apply(tick, false);
            if matches!(tick, Tick::Trade(_)) {
                places.push(*seq);
            }
        }
        let standing = trades.numbered().map(|(number, trade)| (places[number], *trade));
        let all = standing.chain(self.older.iter().copied()).filter(|(_, trade)| trade.ts <= until);
        all.max_by_key(|(seq, trade)| (trade.ts, *seq))
    }

    /// The last `ticks_max` ticks after `after`, oldest first.
    fn recent(&self, partition: u16, after: Option<Seq>, ticks_max: usize) -> Vec<(Seq, Tick)> {
        let is_wanted = |seq: Seq| after.is_none_or(|after| seq > after);
        let mut others = self.others.iter().filter(|(seq, _)| is_wanted(*seq)).peekable();
        let mut recent = Vec::new();
        for compact in self.ring.oldest_first() {
            let seq = compact.seq(partition);
            if !is_wanted(seq) {
                continue;
            }
            while let Some(other) = others.next_if(|(place, _)| *place < seq) {
                recent.push(other.clone());
            }
            recent.push((seq, compact.tick(self.symbol)));
        }
        recent.extend(others.cloned());
        recent.drain(..recent.len().saturating_sub(ticks_max));
        recent
    }

    /// All that makes this entry again when it is applied in order.
    fn stored(&self, partition: u16) -> Vec<(Seq, Tick)> {
        let mut ticks = self.recent(partition, None, usize::MAX);
        let oldest = ticks.first().map_or(Seq { offset: u64::MAX, ..Seq::default() }, |(seq, _)| *seq);
        let trade = self.trade.map(|(seq, trade)| (seq, Tick::Trade(trade)));
        let quote = self.quote.map(|(seq, quote)| (seq, Tick::Quote(quote)));
        let status = self.status.as_ref().map(|placed| (placed.0, Tick::Status(Box::new(placed.1.clone()))));
        let close = self.prev_close.as_ref().map(|placed| (placed.0, Tick::PrevClose(placed.1)));
        let older = self.older.iter().map(|(seq, trade)| (*seq, Tick::Trade(*trade)));
        let older = older.filter(|(seq, _)| self.trade.is_none_or(|(last, _)| last != *seq));
        let pinned = [trade, quote, status, close].into_iter().flatten().chain(older);
        ticks.extend(pinned.filter(|(seq, _)| {
            // What stands among the recent ones is there already.
            *seq < oldest || !self.recent_has(*seq)
        }));
        ticks.sort_by_key(|(seq, _)| *seq);
        ticks
    }

    fn recent_has(&self, seq: Seq) -> bool {
        self.ring.slots.iter().any(|compact| compact.seq(seq.partition) == seq)
            || self.others.iter().any(|(place, _)| *place == seq)
    }

    fn apply_bar(&mut self, seq: Seq, bar: Bar, until: Timestamp) {
        if bar.ts > until {
            return;
        }
        // Odd lots alone make no bar that anybody is shown: the one before it stays the last.
        let newer =
            |held: &Option<(Seq, Bar)>| bar.has_price() && held.is_none_or(|(_, held)| bar.ts > held.ts);
        let revises =
            |held: &Option<(Seq, Bar)>| held.is_some_and(|(place, held)| held.ts == bar.ts && seq >= place);
        let bars = &mut *self.bars;
        let placed = Some((seq, bar));
        let held = if bar.timeframe.stored() != Timeframe::Day {
            if !newer(&bars.minute) && !revises(&bars.minute) {
                return;
            }
            &mut bars.minute
        } else if newer(&bars.daily) {
            bars.prev_daily = bars.daily;
            &mut bars.daily
        } else if revises(&bars.daily) {
            &mut bars.daily
        } else if bars.daily.is_some_and(|(_, held)| bar.ts < held.ts)
            && (newer(&bars.prev_daily) || revises(&bars.prev_daily))
        {
            &mut bars.prev_daily
        } else {
            return;
        };
        if *held != placed {
            *held = placed;
            self.sent.changed |= Parts::BARS;
        }
    }

    fn shown(&self) -> HotEntry {
        HotEntry {
            trade: self.trade.map(|(_, trade)| trade),
            quote: self.quote.map(|(_, quote)| quote),
            minute_bar: self.bars.minute.map(|(_, bar)| bar),
            daily_bar: self.bars.daily.map(|(_, bar)| bar),
            prev_daily_bar: self.bars.prev_daily.map(|(_, bar)| bar),
            prev_close: self.prev_close.as_ref().map(|placed| placed.1),
            status: self.status.as_ref().map(|placed| placed.1.clone()),
            seq: self.seq.unwrap_or_default(),
        }
    }
}

#[derive(Default)]
struct Shard {
    numbers: HashMap<Symbol, u32>,
    entries: Vec<Entry>,
    /// The offset after the last tick applied.
    next_offset: u64,
    /// What has changed, where somebody asks.
    changes: Option<ChangeQueue>,
}

impl Shard {
    /// One that keeps the same account, of nothing.
    fn emptied(&self) -> Self {
        Self { changes: self.changes.as_ref().map(|_| ChangeQueue::default()), ..Self::default() }
    }

    #[inline]
    fn number(&mut self, symbol: Symbol) -> u32 {
        let entries = &mut self.entries;
        *self.numbers.entry(symbol).or_insert_with(|| {
            entries.push(Entry::new(symbol));
            (entries.len() - 1) as u32
        })
    }

    #[inline]
    fn apply(&mut self, seq: Seq, tick: &Tick, until: Timestamp) {
        self.next_offset = self.next_offset.max(seq.offset + 1);
        let Some(symbol) = tick.symbol() else { return };
        let number = self.number(symbol);
        let entry = &mut self.entries[number as usize];
        entry.apply(seq, tick, until);
        if let Some(changes) = &mut self.changes {
            changes.push(number, &mut entry.sent);
        }
    }

    fn apply_bar(&mut self, seq: Seq, bar: Bar, until: Timestamp) {
        let number = self.number(bar.symbol);
        let entry = &mut self.entries[number as usize];
        entry.apply_bar(seq, bar, until);
        if let Some(changes) = &mut self.changes {
            changes.push(number, &mut entry.sent);
        }
    }

    fn get(&self, symbol: Symbol) -> Option<&Entry> {
        self.numbers.get(&symbol).map(|&number| &self.entries[number as usize])
    }
}

/// The last of every symbol, in memory.
pub struct MemoryHot {
    shards: Vec<Mutex<Shard>>,
    horizon: Horizon,
}

/// The place in the log that a checkpoint was made at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotPlace {
    /// The log and its generation.
    pub log: LogId,
    /// The checksum of the record before the checkpoint's offset (see [`crate::tiering::seam`]); `None` where
    /// it was not known.
    pub seam: Option<u64>,
}

/// What a checkpoint covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotCheckpoint {
    /// The place; `None` in a checkpoint of version 2.
    pub place: Option<HotPlace>,
    /// The offset after the last one applied.
    pub next_offset: u64,
    /// What the processor gave along: its state at that offset.
    pub state: Bytes,
}

impl MemoryHot {
    /// An empty store for a log of `partitions`, of ticks of any time.
    pub fn new(partitions: u16) -> Self {
        let shards = (0..partitions.max(1)).map(|_| Mutex::default()).collect();
        Self { shards, horizon: Horizon::UNLIMITED }
    }

    /// The same, where ticks and bars beyond `horizon` are nobody's latest.
    pub fn with_horizon(self, horizon: Horizon) -> Self {
        Self { horizon, ..self }
    }

    /// How many partitions the log has.
    pub fn partitions(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Takes in what changed, as [`Hot::apply`] does, at once.
    pub fn take_in(&self, partition: u16, updates: &HotUpdates) -> Result<(), HotError> {
        let until = self.horizon.end();
        let mut shard = self.shard(partition)?;
        for (seq, tick) in &updates.ticks {
            shard.apply(*seq, tick, until);
        }
        for (seq, bar) in &updates.bars {
            shard.apply_bar(*seq, *bar, until);
        }
        Ok(())
    }

    fn shard(&self, partition: u16) -> Result<MutexGuard<'_, Shard>, HotError> {
        let shard = self
            .shards
            .get(usize::from(partition))
            .ok_or_else(|| error(format!("no partition {partition}; there are {}", self.shards.len())))?;
        // A panic leaves a shard whole: every tick is applied by moves that can't fail midway.
        Ok(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One partition as bytes, with `state` carried along. The one that applies to the partition
    /// calls it, so that nothing changes meanwhile; readers are held up for moments only.
    pub fn checkpoint(
        &self,
        partition: u16,
        place: HotPlace,
        next_offset: u64,
        state: &[u8],
    ) -> Result<Bytes, HotError> {
        let symbols = self.shard(partition)?.entries.len();
        let mut out = Writer::new(CHECKPOINT_VERSION, 64 + state.len() + symbols * 1024);
        out.varint(u64::from(partition));
        out.varint(place.log.id);
        out.varint(place.log.generation);
        // A seam is never 0.
        out.varint(place.seam.unwrap_or(0));
        out.varint(next_offset);
        out.bytes(state);
        let mut encoder = RecordEncoder::new();
        let mut places: Vec<Seq> = Vec::new();
        let mut flush = |encoder: &mut RecordEncoder, places: &mut Vec<Seq>| {
            out.varint(places.len() as u64);
            places.drain(..).for_each(|seq| out.place(seq));
            out.bytes(&encoder.finish(Origin { producer: 0, sequence: 0 }));
        };
        for start in (0..symbols).step_by(SYMBOLS_PER_LOCK) {
            let end = (start + SYMBOLS_PER_LOCK).min(symbols);
            let stored: Vec<_> = {
                let shard = self.shard(partition)?;
                shard.entries[start..end].iter().flat_map(|entry| entry.stored(partition)).collect()
            };
            for (seq, tick) in &stored {
                encoder.push(tick);
                places.push(*seq);
            }
            if places.len() >= CHUNK_TICKS {
                flush(&mut encoder, &mut places);
            }
        }
        if !places.is_empty() {
            flush(&mut encoder, &mut places);
        }
        out.varint(0);
        Ok(out.finish())
    }

    /// Fills one partition, which must be empty, from [`MemoryHot::checkpoint`]'s bytes. Bars are
    /// not in them: they come from the state.
    ///
    /// Errors: bytes that are damaged or of another version or partition; the partition is then
    /// left empty.
    pub fn restore(&self, partition: u16, bytes: &[u8]) -> Result<HotCheckpoint, HotError> {
        let until = self.horizon.end();
        let mut shard = self.shard(partition)?.emptied();
        let covered = read_checkpoint(partition, bytes, |seq, tick| shard.apply(seq, tick, until))?;
        *self.shard(partition)? = shard;
        Ok(covered)
    }

    /// Writes [`MemoryHot::checkpoint`] to a file in `dir` and removes the partition's older ones.
    /// Returns the bytes written. Blocking.
    pub fn save(
        &self,
        dir: &Path,
        partition: u16,
        place: HotPlace,
        next_offset: u64,
        state: &[u8],
    ) -> Result<u64, HotError> {
        let bytes = self.checkpoint(partition, place, next_offset, state)?;
        let path = dir.join(format!("{next_offset:020}-{partition}.hot"));
        let beside = path.with_extension("tmp");
        let write = || -> io::Result<()> {
            create_dir(dir)?;
            let mut file = fs::File::create(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            sync_dir(dir)?;
            fail::point("hot.memory.checkpoint");
            for older in checkpoints(dir, partition)?.into_iter().filter(|older| *older != path) {
                fs::remove_file(older)?;
            }
            Ok(())
        };
        write().map_err(|source| error(format!("{}: {source}", path.display())))?;
        Ok(bytes.len() as u64)
    }

    /// Fills one partition from its newest file in `dir`; `None` when there is none. Blocking.
    ///
    /// Errors: the file can't be read; it covers more than a log that ends at `log_next`; or as
    /// [`MemoryHot::restore`].
    pub fn load(&self, dir: &Path, partition: u16, log_next: u64) -> Result<Option<HotCheckpoint>, HotError> {
        let found = match checkpoints(dir, partition) {
            Ok(found) => found,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(error(format!("{}: {source}", dir.display()))),
        };
        let Some(path) = found.last() else { return Ok(None) };
        let named = |reason: &dyn std::fmt::Display| error(format!("{}: {reason}", path.display()));
        let bytes = fs::read(path).map_err(|source| named(&source))?;
        let covered = self.restore(partition, &bytes).map_err(|source| named(&source.reason))?;
        if covered.next_offset > log_next {
            self.clear(partition)?;
            return Err(named(&format_args!("it covers more than the log, which ends at {log_next}")));
        }
        Ok(Some(covered))
    }
}

/// A partition's checkpoint files, by rising offset.
fn checkpoints(dir: &Path, partition: u16) -> io::Result<Vec<PathBuf>> {
    let suffix = format!("-{partition}.hot");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(&suffix) {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn read_checkpoint(
    partition: u16,
    bytes: &[u8],
    mut apply: impl FnMut(Seq, &Tick),
) -> Result<HotCheckpoint, HotError> {
    let damaged = |source: CodecError| error(format!("a checkpoint of hot: {source}"));
    let versions = CHECKPOINT_VERSION_MIN..=CHECKPOINT_VERSION;
    let (version, mut input) = Reader::of_versions(bytes, versions).map_err(damaged)?;
    let found = input.varint().map_err(damaged)?;
    if found != u64::from(partition) {
        return Err(error(format!("a checkpoint of partition {found} stands for partition {partition}")));
    }
    let place = if version > CHECKPOINT_VERSION_MIN {
        let (id, generation) = (input.varint().map_err(damaged)?, input.varint().map_err(damaged)?);
        let seam = input.varint().map_err(damaged)?;
        Some(HotPlace { log: LogId { id, generation }, seam: Some(seam).filter(|seam| *seam > 0) })
    } else {
        None
    };
    let next_offset = input.varint().map_err(damaged)?;
    let state = Bytes::copy_from_slice(input.bytes().map_err(damaged)?);
    loop {
        let count = input.count(2).map_err(damaged)?;
        if count == 0 {
            break;
        }
        let places: Vec<Seq> =
            (0..count).map(|_| input.place(partition)).collect::<Result<_, _>>().map_err(damaged)?;
        let record = input.bytes().map_err(damaged)?;
        let view = RecordView::parse(record).map_err(|source| error(source.to_string()))?;
        if view.ticks as usize != places.len() {
            return Err(error("a checkpoint of hot: ticks and places differ in number".to_owned()));
        }
        for (seq, row) in places.into_iter().zip(view.ticks()) {
            let (_, tick) = row.map_err(|source| error(source.to_string()))?;
            apply(seq, &tick);
        }
    }
    input.end().map_err(damaged)?;
    Ok(HotCheckpoint { place, next_offset, state })
}

fn error(reason: String) -> HotError {
    HotError { reason }
}

#[async_trait::async_trait]
impl Hot for MemoryHot {
    async fn apply(&self, partition: u16, updates: &HotUpdates) -> Result<(), HotError> {
        self.take_in(partition, updates)
    }

    async fn get(&self, symbols: &[Symbol]) -> Result<Vec<Option<HotEntry>>, HotError> {
        let mut found = vec![None; symbols.len()];
        for partition in 0..self.partitions() {
            let mut of_partition = symbols
                .iter()
                .enumerate()
                .filter(|(_, symbol)| symbol.partition(self.partitions()) == partition)
                .peekable();
            if of_partition.peek().is_none() {
                continue;
            }
            let shard = self.shard(partition)?;
            for (at, symbol) in of_partition {
                found[at] = shard.get(*symbol).map(Entry::shown);
            }
        }
        Ok(found)
    }

    async fn recent(&self, symbol: Symbol) -> Result<Vec<(Seq, Tick)>, HotError> {
        let partition = symbol.partition(self.partitions());
        let shard = self.shard(partition)?;
        Ok(shard.get(symbol).map(|entry| entry.recent(partition, None, RECENT_TICKS)).unwrap_or_default())
    }

    async fn symbols(&self) -> Result<Vec<Symbol>, HotError> {
        let mut symbols = Vec::new();
        for partition in 0..self.partitions() {
            symbols.extend(self.shard(partition)?.entries.iter().map(|entry| entry.symbol));
        }
        symbols.sort_unstable();
        Ok(symbols)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::tiering::golden;
    use crate::tiering::hot::conformance::{self, PARTITIONS, is_as_told, steps, ticks};

    const PLACE: HotPlace = HotPlace { log: LogId { id: 0xfeed, generation: 1 << 40 }, seam: Some(7) };

    /// A checkpoint that names its log is written; one of version 2, which does not, is read for ever.
    #[test]
    fn checkpoints_of_every_version_are_read() {
        use conformance::Step;
        let ticks = ticks(&[(0, Step::Trade(1)), (0, Step::Quote(2)), (0, Step::Trade(3))]);
        let partition = ticks[0].0.partition;
        let hot = told(&ticks);
        let written = golden::check("hot-v3.txt", &hot.checkpoint(partition, PLACE, 5, b"state").unwrap());
        for (bytes, place) in [(written, Some(PLACE)), (golden::read("hot-v2.txt"), None)] {
            let restored = MemoryHot::new(PARTITIONS);
            let covered = restored.restore(partition, &bytes).unwrap();
            let state = Bytes::from_static(b"state");
            assert_eq!(covered, HotCheckpoint { place, next_offset: 5, state });
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(is_as_told(&restored, &ticks)).unwrap();
        }
    }

    #[test]
    fn conforms() {
        conformance::run(|| Arc::new(MemoryHot::new(PARTITIONS)));
    }

    fn told(ticks: &[(Seq, Tick)]) -> MemoryHot {
        let hot = MemoryHot::new(PARTITIONS);
        for (seq, tick) in ticks {
            let updates = HotUpdates { ticks: vec![(*seq, tick.clone())], ..HotUpdates::default() };
            futures_util::FutureExt::now_or_never(hot.apply(seq.partition, &updates)).unwrap().unwrap();
        }
        hot
    }

    proptest! {
        #[test]
        fn a_checkpoint_brings_all_of_it_back(steps in steps(400)) {
            let ticks = ticks(&steps);
            let (hot, restored) = (told(&ticks), MemoryHot::new(PARTITIONS));
            for partition in 0..PARTITIONS {
                let bytes = hot.checkpoint(partition, PLACE, 77, b"state").unwrap();
                let covered = restored.restore(partition, &bytes).unwrap();
                prop_assert_eq!((covered.next_offset, &covered.state[..]), (77, &b"state"[..]));
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(is_as_told(&restored, &ticks))?;
        }

        #[test]
        fn a_damaged_checkpoint_is_an_error(
            steps in steps(40),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
        ) {
            let hot = told(&ticks(&steps));
            let mut bytes = hot.checkpoint(0, PLACE, 1, b"").unwrap().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let restored = MemoryHot::new(PARTITIONS);
            prop_assert!(restored.restore(0, &bytes).is_err());
            prop_assert!(restored.restore(0, &bytes[..at]).is_err());
            prop_assert_eq!(restored.shard(0).unwrap().entries.len(), 0);
        }
    }

    #[test]
    fn the_trade_before_a_broken_one_is_known_though_quotes_drove_it_out() {
        use conformance::Step;
        let mut steps =
            vec![(0, Step::Trade(1)), (0, Step::Trade(2)), (0, Step::Correct(1, 3)), (0, Step::Trade(4))];
        steps.extend((0..2 * RECENT_TICKS as u16).map(|quote| (0, Step::Quote(quote + 1))));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..3 {
            // Another trade than the last: the last is broken, then the one before it, and so on.
            let ticks = ticks(&steps);
            let partition = ticks[0].0.partition;
            let (hot, restored) = (told(&ticks), MemoryHot::new(PARTITIONS));
            restored.restore(partition, &hot.checkpoint(partition, PLACE, 1, b"").unwrap()).unwrap();
            for hot in [hot, restored] {
                runtime.block_on(is_as_told(&hot, &ticks)).unwrap();
            }
            steps.push((0, Step::Cancel(steps.len() - 4 - 2 * RECENT_TICKS)));
        }
    }

    #[test]
    fn what_is_too_far_ahead_of_the_clock_is_nobodys_latest() {
        use conformance::Step;
        let mut ticks =
            ticks(&[(0, Step::Trade(1)), (0, Step::Quote(1)), (0, Step::Trade(2)), (0, Step::Quote(2))]);
        let partition = ticks[0].0.partition;
        let ahead = Timestamp::now().saturating_add_nanos(3 * 86_400_000_000_000);
        let Tick::Trade(trade) = &mut ticks[2].1 else { panic!() };
        trade.ts = ahead;
        let mut bar = Bar::empty(trade.symbol, Timeframe::MINUTE, ahead);
        bar.add(trade);
        let mut daily = Bar::empty(trade.symbol, Timeframe::Day, ahead);
        daily.add(trade);
        let symbol = trade.symbol;
        let Tick::Quote(quote) = &mut ticks[3].1 else { panic!() };
        quote.ts = ahead;
        let hot = MemoryHot::new(PARTITIONS)
            .with_horizon(Horizon::ahead_of_clock(std::time::Duration::from_mins(1)));
        let bars = vec![(ticks[2].0, bar), (ticks[2].0, daily)];
        hot.take_in(partition, &HotUpdates { ticks: ticks.clone(), bars, record: None }).unwrap();
        let shown = |hot: &MemoryHot| hot.shard(partition).unwrap().get(symbol).unwrap().shown();
        let entry = shown(&hot);
        let latest = (entry.trade.map(Tick::Trade), entry.quote.map(Tick::Quote));
        assert_eq!(latest, (Some(ticks[0].1.clone()), Some(ticks[1].1.clone())));
        assert_eq!((entry.minute_bar, entry.daily_bar, entry.seq), (None, None, ticks[3].0));
        // It is in the log all the same, and a checkpoint does not bring it back.
        let restored = MemoryHot::new(PARTITIONS).with_horizon(hot.horizon);
        restored.restore(partition, &hot.checkpoint(partition, PLACE, 1, b"").unwrap()).unwrap();
        assert_eq!(shown(&restored), entry);
        let recent = restored.shard(partition).unwrap().get(symbol).unwrap().recent(partition, None, 9);
        assert_eq!(recent, ticks);
    }

    #[test]
    fn of_the_files_the_newest_is_loaded_and_others_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ticks = ticks(&[(0, conformance::Step::Trade(5)), (0, conformance::Step::Quote(6))]);
        let partition = ticks[0].0.partition;
        let hot = told(&ticks);
        assert_eq!(hot.load(dir.path(), partition, 100).unwrap(), None);
        hot.save(dir.path(), partition, PLACE, 3, b"old").unwrap();
        hot.save(dir.path(), partition, PLACE, 12, b"new").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let restored = MemoryHot::new(PARTITIONS);
        let covered = restored.load(dir.path(), partition, 12).unwrap().unwrap();
        assert_eq!((covered.next_offset, &covered.state[..]), (12, &b"new"[..]));
        let refused = restored.load(dir.path(), partition, 11).unwrap_err().to_string();
        assert!(refused.ends_with("it covers more than the log, which ends at 11"), "{refused}");
        let other = MemoryHot::new(PARTITIONS)
            .restore(1 - partition, &hot.checkpoint(partition, PLACE, 1, b"").unwrap());
        assert!(other.unwrap_err().to_string().contains("stands for partition"));
    }
}
