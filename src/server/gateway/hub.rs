//! The hub: reads the log's tail, encodes what somebody wants once per encoding, and hands every
//! connection the frames of its subscription.
//!
//! A group's frame (`fanout.rs`) is built once a round: its members are handed the same bytes. A
//! round is what the log had at hand, so that at a low rate every tick goes out at once and at a high
//! rate in batches, without a timer or a setting. It ends early where much of a client's queue would
//! be filled at once: the connections write before the next one.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::amend::Meanwhile;
use super::bars::LiveBars;
use super::budget::Budget;
use super::fanout::{BySymbol, Fanout, GroupKey, Outgoing, Parked};
use super::outbox::Outbox;
use super::protocol::Framing;
use super::replay::Replay;
use super::subscription::{Channel, Subscription};
use crate::bus::epoch::Mismatch;
use crate::bus::{Bus, BusError, BusReader, Record};
use crate::market::{Bar, Exchange, Horizon, Quote, Seq, Status, Symbol, Tick, Timestamp, Trade, TradingDay};
use crate::server::metrics::GatewayMetrics;
use crate::tiering::hot::memory::MemoryHot;
use crate::tiering::hot::{HotEntry, HotUpdates};
use crate::tiering::seam;
use crate::tiering::state::PartitionState;
use crate::tiering::warm::Warm;
use crate::wire::BarChannel;
use crate::wire::record::{RecordError, RecordView, checksum};
use crate::wire::token::{LogId, Newest, Position, Token};

/// How much of one partition is read at a time: bounds how long a round holds the lock.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Partitions whose last record is read at once, at the start.
const READS_MAX: usize = 8;
/// What a replay may still have before it when it is finished under the lock: about so much over all partitions,
/// and at least so much of each.
const JOIN_BYTES_MAX: usize = 64 * 1024;
const JOIN_SHARE_MIN: usize = 8 * 1024;
/// How often bars and tokens are looked after.
const CLOCK_PERIOD: Duration = Duration::from_millis(100);
/// How long a round that follows a full one waits at most for clients to take that, and how often it looks.
const PACE_MAX: Duration = Duration::from_millis(100);
const PACE_PERIOD: Duration = Duration::from_millis(1);
/// The most repeats of records that are remembered per partition for replays.
const REPEATS_MAX: usize = 65_536;

/// Why a hub can't start.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The log can't be read.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The processor's state can't be read.
    #[error("the state to start from can't be read: {0}")]
    State(String),
}

pub(super) struct Hub {
    pub(super) bus: Arc<dyn Bus>,
    state: Mutex<State>,
    /// Counts rounds: changes whenever positions have moved.
    rounds: tokio::sync::watch::Sender<u64>,
    /// Bars are marked to be rebuilt.
    marked: tokio::sync::Notify,
    metrics: GatewayMetrics,
}

/// What a hub may hold and do at once.
#[derive(Clone, Copy)]
pub(super) struct HubLimits {
    /// Bytes of the log's tail that are kept in memory.
    pub(super) ring_bytes_max: usize,
    /// Bytes of messages that one connection gets in one round, and at most one record's more.
    pub(super) round_bytes_max: usize,
    /// The same over all connections, what several share counted once.
    pub(super) round_total_bytes_max: usize,
    /// Whether somebody rebuilds the bars that are marked; otherwise the marks are dropped.
    pub(super) rebuilds: bool,
    /// What is beyond it moves no clock and is nobody's latest.
    pub(super) horizon: Horizon,
}

/// What the tokens of a hub say beside its positions.
#[derive(Clone, Copy)]
struct Head {
    log: LogId,
    /// Whether they name the newest record: of a log without generations.
    names_newest: bool,
    newest: Option<Newest>,
}

struct State {
    head: Head,
    partitions: Vec<Partition>,
    slot_numbers: HashMap<Symbol, u32>,
    slots: Vec<Slot>,
    fanout: Fanout,
    bars: LiveBars,
    /// A hot store of this gateway's own, and what it is about to be told of one partition.
    own: Option<(Arc<MemoryHot>, HotUpdates)>,
    /// Bars that are due and wait for the next round.
    due_bars: VecDeque<(BarChannel, Bar)>,
    limits: HubLimits,
    budget: Arc<Budget>,
    /// Why the hub has stopped, if it has.
    failure: Option<String>,
}

struct Partition {
    /// The next record: everything before it was handed out.
    next: u64,
    /// The last records that are no repeats.
    ring: VecDeque<Record>,
    /// The ring holds everything from here to `next`.
    ring_first: u64,
    ring_bytes: usize,
    derived: PartitionState,
    /// Offsets of records that repeat earlier ones.
    repeats: BTreeSet<u64>,
    /// While bars are rebuilt.
    meanwhile: Option<Meanwhile>,
}

/// Cancels of one symbol that are remembered until the hot store has taken them in.
const CANCELS_MAX: usize = 8;

/// The last of one symbol at the hub's position, by market time as in the hot store.
#[derive(Default)]
struct Slot {
    trade: Option<Trade>,
    /// The latest cancels: the places in the log, and the exchange and id of each broken trade.
    broken: VecDeque<(Seq, Exchange, u64)>,
    quote: Option<Quote>,
    status: Option<Status>,
    seq: Seq,
    /// The latest time of the venue, and when it was seen.
    last: Option<(Timestamp, Instant)>,
}

impl Slot {
    /// Takes in a tick seen at `now`; `until` is the end of the hub's [`Horizon`].
    fn apply(&mut self, seq: Seq, tick: &Tick, now: Instant, until: Timestamp) {
        self.seq = seq;
        let ts = tick.ts();
        let is_ahead = ts > until;
        if !is_ahead && self.last.is_none_or(|(last, _)| ts > last) {
            self.last = Some((ts, now));
        }
        match tick {
            Tick::Trade(_) | Tick::Quote(_) | Tick::Status(_) if is_ahead => {}
            Tick::Trade(trade) if self.trade.is_none_or(|last| ts >= last.ts) => self.trade = Some(*trade),
            Tick::Quote(quote) if self.quote.is_none_or(|last| ts >= last.ts) => self.quote = Some(*quote),
            Tick::Status(status) if self.status.as_ref().is_none_or(|last| ts >= last.ts) => {
                self.status = Some((**status).clone());
            }
            Tick::Cancel(cancel) => {
                if self.broken.len() == CANCELS_MAX {
                    self.broken.pop_front();
                }
                self.broken.push_back((seq, cancel.exchange, cancel.id));
                self.trade = self.trade.filter(|trade| !trade.is_named(cancel.exchange, cancel.id));
            }
            Tick::Correction(correction) => {
                let (exchange, id) = (correction.exchange, correction.original.id);
                if let Some(trade) = self.trade.as_mut().filter(|trade| trade.is_named(exchange, id)) {
                    trade.correct(&correction.corrected);
                }
            }
            Tick::Trade(_) | Tick::Quote(_) | Tick::Status(_) | Tick::Gap(_) | Tick::PrevClose(_) => {}
        }
    }

    /// Brings what hot knows to this position, which is at or after `entry`'s.
    fn add_to(&self, entry: &mut HotEntry) {
        let is_broken = |trade: &Trade| {
            let since = self.broken.iter().filter(|(place, ..)| *place > entry.seq);
            since.into_iter().any(|(_, exchange, id)| trade.is_named(*exchange, *id))
        };
        let trade = entry.trade.filter(|trade| !is_broken(trade));
        // Of equal times this one is the last in the log: hot knows nothing that came after it.
        entry.trade = later(trade, self.trade, |trade| trade.ts);
        entry.quote = later(entry.quote.take(), self.quote, |quote| quote.ts);
        entry.status = later(entry.status.take(), self.status.clone(), |status| status.ts);
        entry.seq = self.seq;
    }
}

/// The later of the two by market time; of equal times the second.
fn later<T>(first: Option<T>, second: Option<T>, ts: impl Fn(&T) -> Timestamp) -> Option<T> {
    match (first, second) {
        (Some(first), Some(second)) => Some(if ts(&first) > ts(&second) { first } else { second }),
        (first, second) => second.or(first),
    }
}

/// A token for a hub's positions, `at` in place of its partition's.
fn token_of(head: Head, partitions: &[Partition], at: Option<Seq>) -> Token {
    let positions = partitions.iter().enumerate().map(|(number, partition)| match at {
        Some(seq) if usize::from(seq.partition) == number => {
            Position { offset: seq.offset, index: seq.index }
        }
        _ => Position { offset: partition.next, index: 0 },
    });
    Token::new(head.log, positions.collect()).naming(head.newest)
}

/// A record from which nothing, or nothing from a tick on, can be read.
struct Unreadable {
    from: Option<Seq>,
    reason: RecordError,
}

/// What is known of one of a record's symbols.
#[derive(Clone, Copy)]
struct Named<'a> {
    slot: u32,
    /// Its number in the partition's state.
    derived: u32,
    groups: &'a [(u32, u16)],
}

impl State {
    /// Takes in records of one partition, as part of `round`; returns those that did not fit in.
    fn take(
        &mut self,
        number: u16,
        records: Vec<Record>,
        round: u64,
        metrics: &GatewayMetrics,
    ) -> Vec<Record> {
        let now = (Instant::now(), self.limits.horizon.end());
        let ring_bytes_max = self.limits.ring_bytes_max / self.partitions.len();
        let mut records = records.into_iter();
        // Looked up once for each symbol of a record, not for each tick.
        let by_symbol = self.fanout.lend_by_symbol();
        while !self.is_full()
            && let Some(record) = records.next()
        {
            if let Err(Unreadable { from, reason }) = self.record(number, &record, &by_symbol, now, metrics) {
                metrics.records_unreadable.inc();
                warn!(partition = number, offset = record.offset, %reason, "a log record can't be read");
                self.gap("unreadable", from, (number, record.offset + 1), round, metrics);
            }
            let partition = &mut self.partitions[usize::from(number)];
            partition.next = record.offset + 1;
            if partition.repeats.contains(&record.offset) {
                continue;
            }
            partition.ring_bytes += record.bytes.len();
            partition.ring.push_back(record);
            while partition.ring_bytes > ring_bytes_max {
                let Some(dropped) = partition.ring.pop_front() else { break };
                partition.ring_bytes -= dropped.bytes.len();
                partition.ring_first = dropped.offset + 1;
            }
        }
        self.fanout.give_back(by_symbol);
        self.tell_own(number);
        records.collect()
    }

    /// Tells the own hot store what has gathered of a partition.
    fn tell_own(&mut self, number: u16) {
        let Some((own, updates)) = &mut self.own else { return };
        if let Err(reason) = own.take_in(number, updates) {
            warn!(partition = number, %reason, "this gateway's own hot store is not told");
        }
        updates.ticks.clear();
        updates.bars.clear();
    }

    /// Whether a round has as much for one connection, or for all, as it may.
    fn is_full(&self) -> bool {
        self.fanout.bytes_max() >= self.limits.round_bytes_max
            || self.fanout.bytes_total() >= self.limits.round_total_bytes_max
    }

    fn record(
        &mut self,
        number: u16,
        record: &Record,
        by_symbol: &BySymbol,
        (now, until): (Instant, Timestamp),
        metrics: &GatewayMetrics,
    ) -> Result<(), Unreadable> {
        let State { head, partitions, slot_numbers, slots, fanout, own, .. } = self;
        let view = RecordView::parse(&record.bytes).map_err(|reason| Unreadable { from: None, reason })?;
        let partition = &mut partitions[usize::from(number)];
        let checksum = view.checksum();
        if head.names_newest {
            head.newest = Some(Newest { partition: number, offset: record.offset, checksum });
        }
        let head = *head;
        if !partition.derived.admit(view.origin, checksum) {
            metrics.records_repeated.inc();
            if partition.repeats.len() == REPEATS_MAX {
                partition.repeats.pop_first();
            }
            partition.repeats.insert(record.offset);
            return Ok(());
        }
        let is_idle = fanout.group_count() == 0;
        let named: Vec<Named> = view
            .symbols()
            .iter()
            .map(|symbol| Named {
                slot: *slot_numbers.entry(*symbol).or_insert_with(|| {
                    slots.push(Slot::default());
                    (slots.len() - 1) as u32
                }),
                derived: partition.derived.number(*symbol),
                groups: by_symbol.get(symbol).map_or(&[], Vec::as_slice),
            })
            .collect();
        for (index, row) in (0..).zip(view.ticks()) {
            let seq = Seq { partition: number, offset: record.offset, index };
            let (symbol, tick) = row.map_err(|reason| Unreadable { from: Some(seq), reason })?;
            let channel = Channel::of(&tick);
            let Some(symbol) = symbol else {
                // It stands in every partition, for whoever reads one alone.
                if number == 0 {
                    fanout.emit_to_all(&tick, || token_of(head, partitions, Some(seq)).to_string());
                }
                continue;
            };
            let Named { slot, derived, groups } = named[symbol as usize];
            let partition = &mut partitions[usize::from(number)];
            partition.derived.apply_numbered(derived, seq, &tick);
            if let Some(meanwhile) = &mut partition.meanwhile {
                meanwhile.take(seq, &tick);
            }
            slots[slot as usize].apply(seq, &tick, now, until);
            if !is_idle {
                let token = || token_of(head, partitions, Some(seq)).to_string();
                fanout.emit(channel, groups, &Outgoing::Tick(&tick), token);
            }
            if let Some((_, updates)) = own {
                updates.ticks.push((seq, tick));
            }
        }
        Ok(())
    }

    /// Sends the bars that are due, as many as fit.
    fn send_bars(&mut self, now: Instant) {
        let until = self.limits.horizon.end();
        for number in 0..self.partitions.len() {
            let derived = &mut self.partitions[number].derived;
            let changed = derived.take_changed_bars();
            if !self.limits.rebuilds {
                // The marks would only pile up.
                drop(derived.take_rebuilds());
                derived.forget_rebuilds();
            }
            // A bar of days to come would go out unfinished.
            changed.iter().filter(|(_, bar)| bar.ts <= until).for_each(|(_, bar)| self.bars.change(*bar));
            if let Some((_, updates)) = &mut self.own {
                updates.bars = changed;
                self.tell_own(number as u16);
            }
        }
        let State { head, partitions, slot_numbers, slots, fanout, bars, due_bars, limits, .. } = self;
        let clock = |symbol: Symbol| {
            let slot = &slots[*slot_numbers.get(&symbol)? as usize];
            let (ts, at) = slot.last?;
            let since = i64::try_from(now.saturating_duration_since(at).as_nanos()).unwrap_or(i64::MAX);
            Some(ts.saturating_add_nanos(since))
        };
        let by_symbol = fanout.lend_by_symbol();
        due_bars.extend(bars.due(clock));
        while fanout.bytes_max() < limits.round_bytes_max
            && let Some((channel, bar)) = due_bars.pop_front()
        {
            let (way, name) = match channel {
                BarChannel::Minute => (Channel::Bars, BarChannel::Minute),
                BarChannel::Updated => (Channel::UpdatedBars, BarChannel::Updated),
                BarChannel::Daily => (Channel::DailyBars, BarChannel::Daily),
            };
            let named = by_symbol.get(&bar.symbol).map_or(&[][..], Vec::as_slice);
            let token = || token_of(*head, partitions, None).to_string();
            fanout.emit(way, named, &Outgoing::Bar(name, &bar), token);
        }
        fanout.give_back(by_symbol);
    }

    fn send_tokens(&mut self, round: u64, now: Instant) {
        let State { head, partitions, fanout, .. } = self;
        fanout.send_tokens(round, now, || token_of(*head, partitions, None).to_string());
    }

    /// Tells that what lies between here and `next` of a partition, or from `from` on where given, is
    /// missing. What was built before goes out first, with tokens from before.
    fn gap(
        &mut self,
        kind: &str,
        from: Option<Seq>,
        (number, next): (u16, u64),
        round: u64,
        metrics: &GatewayMetrics,
    ) {
        self.deliver(from, round, metrics);
        let before = token_of(self.head, &self.partitions, from);
        self.partitions[usize::from(number)].next = next;
        let after = token_of(self.head, &self.partitions, None);
        let (first_token, last_token) = (before.to_string(), after.to_string());
        let gap = json!({ "T": "gap", "kind": kind, "first_token": first_token, "last_token": last_token });
        self.fanout.tell_gap(&gap, &after);
    }

    /// Parks clients that stall, at the end of a round.
    fn park_stalled(&mut self, now: Instant, metrics: &GatewayMetrics) {
        let State { head, partitions, fanout, .. } = self;
        let count = fanout.park_stalled(now, || token_of(*head, partitions, None));
        metrics.clients_parked.inc_by(count);
    }

    /// Hands out what was built, `at` standing for where it ends within a record.
    fn deliver(&mut self, at: Option<Seq>, round: u64, metrics: &GatewayMetrics) {
        let State { head, partitions, fanout, budget, .. } = self;
        let (messages, bytes) = fanout.deliver(round, budget, || token_of(*head, partitions, at).to_string());
        metrics.messages.inc_by(messages);
        metrics.message_bytes.inc_by(bytes);
    }
}

impl Hub {
    /// Reads what the log holds after the processor's last checkpoint (or from the log's end,
    /// without one) up to now, and then waits to be [`Hub::run`]. What it reads is told to `own`,
    /// where there is one.
    pub(super) async fn start(
        bus: Arc<dyn Bus>,
        warm: Option<Arc<dyn Warm>>,
        own: Option<Arc<MemoryHot>>,
        limits: HubLimits,
        budget: Arc<Budget>,
        metrics: GatewayMetrics,
    ) -> Result<(Arc<Self>, Vec<Box<dyn BusReader>>), HubError> {
        let mut readers = Vec::new();
        let mut partitions = Vec::new();
        let mut targets = Vec::new();
        for number in 0..bus.partitions() {
            let bounds = bus.bounds(number).await?;
            let (from, derived) = match &warm {
                Some(warm) => {
                    let mark = warm.mark(number).await.map_err(|error| HubError::State(error.to_string()))?;
                    let derived = PartitionState::restore(&mark.checkpoint)
                        .map_err(|error| HubError::State(error.to_string()))?;
                    (mark.next_offset.clamp(bounds.first, bounds.next), derived)
                }
                None => (bounds.next, PartitionState::new()),
            };
            readers.push(bus.reader(number, from).await?);
            targets.push(bounds.next);
            partitions.push(Partition {
                next: from,
                ring: VecDeque::new(),
                ring_first: from,
                ring_bytes: 0,
                derived,
                repeats: BTreeSet::new(),
                meanwhile: None,
            });
        }
        let state = State {
            head: Head { log: bus.epoch().log(), names_newest: !bus.epoch().may_skip(), newest: None },
            partitions,
            slot_numbers: HashMap::new(),
            slots: Vec::new(),
            fanout: Fanout::default(),
            bars: LiveBars::default(),
            own: own.map(|own| (own, HotUpdates::default())),
            due_bars: VecDeque::new(),
            limits,
            budget,
            failure: None,
        };
        let rounds = tokio::sync::watch::Sender::new(0);
        let marked = tokio::sync::Notify::new();
        let hub = Arc::new(Self { bus, state: Mutex::new(state), rounds, marked, metrics });
        for (number, (reader, target)) in readers.iter_mut().zip(targets).enumerate() {
            while reader.offset() < target {
                let records = reader.next(READ_BYTES_MAX).await?;
                // Nobody is told yet: all of them fit.
                hub.state().take(number as u16, records, 0, &hub.metrics);
                tokio::task::yield_now().await;
            }
        }
        hub.name_newest().await?;
        // Bars of the past were sent by whoever ran then.
        hub.state().send_bars(Instant::now());
        Ok((hub, readers))
    }

    /// Finds the record that tokens name before the log has another: of those that end the partitions, the last
    /// that was received.
    async fn name_newest(&self) -> Result<(), BusError> {
        if !self.state().head.names_newest {
            return Ok(());
        }
        let lasts = stream::iter((0_u16..).zip(self.positions()).map(|(partition, next)| async move {
            let Some(bytes) = seam::record_before(&*self.bus, partition, next).await? else {
                return Ok(None);
            };
            let newest = Newest { partition, offset: next - 1, checksum: checksum(&bytes) };
            let received = RecordView::parse(&bytes).map_or(Timestamp::MIN, |view| view.received());
            Ok::<_, BusError>(Some((received, newest)))
        }));
        let lasts: Vec<_> = lasts.buffered(READS_MAX).try_collect().await?;
        let newest = lasts.into_iter().flatten().max_by_key(|(received, _)| *received);
        self.state().head.newest = newest.map(|(_, newest)| newest);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the log until `stop`.
    pub(super) async fn run(self: Arc<Self>, readers: Vec<Box<dyn BusReader>>, stop: CancellationToken) {
        let mut reads: FuturesUnordered<_> =
            readers.into_iter().enumerate().map(|(number, reader)| read(number as u16, reader)).collect();
        let mut clock = tokio::time::interval(CLOCK_PERIOD);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Read and not yet taken in: at most one batch of each partition.
        let mut waiting = VecDeque::new();
        let (budget, mut late) = (self.state().budget.clone(), HashSet::new());
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = clock.tick() => {
                    let now = Instant::now();
                    let mut state = self.state();
                    state.send_bars(now);
                    if state.limits.rebuilds && state.partitions.iter().any(|part| part.derived.needs_rebuild()) {
                        self.marked.notify_one();
                    }
                    let round = *self.rounds.borrow();
                    state.deliver(None, round, &self.metrics);
                    state.park_stalled(now, &self.metrics);
                    state.send_tokens(round, now);
                    continue;
                }
                () = std::future::ready(()), if !waiting.is_empty() => None,
                Some(first) = reads.next() => Some(first),
            };
            // What the other partitions have at hand goes into the same round and the same flush.
            waiting.extend(first);
            while let Some(Some(more)) = reads.next().now_or_never() {
                waiting.push_back(more);
            }
            let is_full = {
                let mut state = self.state();
                let round = *self.rounds.borrow() + 1;
                while !state.is_full()
                    && let Some((number, reader, result)) = waiting.pop_front()
                {
                    match result {
                        Ok(records) => {
                            let rest = state.take(number, records, round, &self.metrics);
                            if rest.is_empty() {
                                reads.push(read(number, reader));
                            } else {
                                waiting.push_back((number, reader, Ok(rest)));
                            }
                        }
                        Err(BusError::Trimmed { partition, first, .. }) => {
                            self.skip(&mut state, partition, first, round);
                            match self.bus.reader(partition, first).now_or_never() {
                                Some(Ok(reader)) => reads.push(read(number, reader)),
                                _ => state.failure = Some(format!("partition {partition} can't be read")),
                            }
                        }
                        Err(BusError::Closed) => state.failure = Some("the log is closed".to_owned()),
                        Err(reason) => {
                            error!(partition = number, %reason, "the gateway can't follow the log");
                            state.failure = Some(reason.to_string());
                        }
                    }
                }
                let (is_full, now) = (state.is_full(), Instant::now());
                state.deliver(None, round, &self.metrics);
                state.park_stalled(now, &self.metrics);
                state.send_tokens(round, now);
                self.rounds.send_replace(round);
                is_full
            };
            // The connections write this round before the next one is made.
            tokio::task::yield_now().await;
            late = if is_full { pace(budget.behind(), &late).await } else { HashSet::new() };
        }
    }

    /// Goes on behind what retention took away, and says so to everybody.
    fn skip(&self, state: &mut State, number: u16, first: u64, round: u64) {
        let count = first - state.partitions[usize::from(number)].next;
        warn!(partition = number, records = count, "the log was trimmed before the gateway had read it");
        self.metrics.records_trimmed.inc_by(count);
        state.gap("trimmed", None, (number, first), round, &self.metrics);
        let partition = &mut state.partitions[usize::from(number)];
        (partition.ring_first, partition.ring_bytes) = (first, 0);
        partition.ring.clear();
    }

    /// A place for a connection; it gets nothing before [`Attachment::set`].
    pub(super) fn attach(self: &Arc<Self>, outbox: Arc<Outbox>, framing: Framing) -> Attachment {
        Attachment { hub: self.clone(), outbox, framing, group: None }
    }

    /// Why the hub has stopped, if it has.
    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// The next offset of every partition.
    pub(super) fn positions(&self) -> Vec<u64> {
        self.state().partitions.iter().map(|partition| partition.next).collect()
    }

    /// Where the ring of every partition begins.
    pub(super) fn ring_starts(&self) -> Vec<u64> {
        self.state().partitions.iter().map(|partition| partition.ring_first).collect()
    }

    /// Whether a replay from `token` can be, else why not. Waits where the log has it and the hub is
    /// not there yet: the client comes from another gateway.
    pub(super) async fn check(&self, token: &Token) -> Result<Result<(), Mismatch>, BusError> {
        if let Err(mismatch) = self.bus.epoch().check(token, self.bus.partitions()) {
            return Ok(Err(mismatch));
        }
        let mut before = Vec::new();
        for (partition, position) in (0..).zip(token.positions()) {
            let end = Position { offset: self.bus.bounds(partition).await?.next, index: 0 };
            if *position > end {
                return Ok(Err(Mismatch::Lost));
            }
            // The last record of which the client has something.
            let behind =
                if position.index > 0 { Some(position.offset) } else { position.offset.checked_sub(1) };
            before.extend(behind.map(|offset| Seq { partition, offset, index: 0 }));
        }
        self.passed(&before).await;
        Ok(Ok(()))
    }

    /// Whether the record that a token names is the log's; `None` where memory no longer has it.
    pub(super) fn remembers(&self, newest: Newest) -> Option<bool> {
        let state = self.state();
        let ring = &state.partitions.get(usize::from(newest.partition))?.ring;
        let at = ring.binary_search_by_key(&newest.offset, |record| record.offset).ok()?;
        Some(checksum(&ring[at].bytes) == newest.checksum)
    }

    /// Whether the record that a token names is the log's, or may have been.
    pub(super) async fn has(&self, newest: Newest) -> Result<bool, BusError> {
        let Newest { partition, offset, checksum: named } = newest;
        let bounds = self.bus.bounds(partition).await?;
        if offset >= bounds.next {
            return Ok(false);
        }
        if offset < bounds.first {
            // Retention has dropped it: nothing is left to compare.
            return Ok(true);
        }
        match seam::record_at(&*self.bus, partition, offset).await {
            Ok(record) => Ok(record.is_some_and(|record| checksum(&record) == named)),
            Err(BusError::Trimmed { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Where to resume for the holder of `token`, which stands for records that the log has lost: at the
    /// record where the log and the token's timeline parted.
    pub(super) async fn parted(&self, token: &Token) -> Result<Token, BusError> {
        let epoch = self.bus.epoch();
        let mut positions = epoch.parted(token);
        for (partition, position) in (0..).zip(&mut positions) {
            let next = self.bus.bounds(partition).await?.next;
            *position = (*position).min(Position { offset: next, index: 0 });
        }
        Ok(Token::new(epoch.log(), positions))
    }

    /// The token of now.
    pub(super) fn token(&self) -> Token {
        let state = self.state();
        token_of(state.head, &state.partitions, None)
    }

    /// How many groups there are, each with a frame of its own.
    pub(super) fn group_count(&self) -> usize {
        self.state().fanout.group_count()
    }

    /// The latest time of the venue seen, over all symbols.
    pub(super) fn market_time(&self) -> Option<Timestamp> {
        self.state().slots.iter().filter_map(|slot| slot.last).map(|(ts, _)| ts).max()
    }

    /// Whether the record at this place repeats an earlier one.
    pub(super) fn is_repeat(&self, partition: u16, offset: u64) -> bool {
        self.state().partitions[usize::from(partition)].repeats.contains(&offset)
    }

    /// Waits until the hub has passed every one of `places`.
    pub(super) async fn passed(&self, places: &[Seq]) {
        let mut rounds = self.rounds.subscribe();
        let is_behind = || {
            let state = self.state();
            state.failure.is_none()
                && places.iter().any(|seq| {
                    state
                        .partitions
                        .get(usize::from(seq.partition))
                        .is_some_and(|partition| partition.next <= seq.offset)
                })
        };
        while is_behind() {
            if rounds.changed().await.is_err() {
                return;
            }
        }
    }

    /// Brings `entries` to the hub's position, all at the same, and returns that.
    pub(super) fn bring_up_to_date(&self, entries: &mut [(Symbol, HotEntry)]) -> Token {
        let state = self.state();
        for (symbol, entry) in entries {
            let Some(&number) = state.slot_numbers.get(symbol) else { continue };
            let slot = &state.slots[number as usize];
            if slot.seq < entry.seq {
                continue;
            }
            slot.add_to(entry);
        }
        token_of(state.head, &state.partitions, None)
    }

    /// Waits until bars are marked to be rebuilt. Cancel-safe.
    pub(super) async fn marked(&self) {
        self.marked.notified().await;
    }

    /// Begins to rebuild the bars that are marked in a partition: whose of which day, and the offset
    /// before which their ticks are to be given to [`Hub::rebuild`]. `None` where none are.
    pub(super) fn begin_rebuild(&self, number: u16) -> Option<(Vec<(Symbol, TradingDay)>, u64)> {
        let mut state = self.state();
        let partition = &mut state.partitions[usize::from(number)];
        let marked = partition.derived.take_rebuilds();
        if marked.is_empty() {
            return None;
        }
        partition.meanwhile = Some(Meanwhile::new(marked.iter().map(|(symbol, _)| *symbol)));
        Some((marked, partition.next))
    }

    /// Rebuilds the bars of `symbol` and `day` from `ticks` and what has come since
    /// [`Hub::begin_rebuild`]. Where that was too much, they stay marked.
    pub(super) fn rebuild(&self, number: u16, symbol: Symbol, day: TradingDay, ticks: &mut Vec<(Seq, Tick)>) {
        let mut state = self.state();
        let partition = &mut state.partitions[usize::from(number)];
        let since = partition.meanwhile.as_ref().and_then(|meanwhile| meanwhile.of(symbol));
        let Some(since) = since else { return };
        ticks.extend_from_slice(since);
        let at = Seq { partition: number, offset: partition.next.saturating_sub(1), index: u32::MAX };
        partition.derived.rebuild(symbol, day, at, ticks);
        self.metrics.bars_rebuilt.inc();
    }

    /// Ends what [`Hub::begin_rebuild`] began; what could not be rebuilt though all went well is
    /// given up, otherwise it stays marked.
    pub(super) fn end_rebuild(&self, number: u16, went_well: bool) {
        let mut state = self.state();
        let partition = &mut state.partitions[usize::from(number)];
        let was_enough = partition.meanwhile.take().is_some_and(|meanwhile| !meanwhile.is_over());
        if went_well && was_enough {
            partition.derived.forget_rebuilds();
        }
    }

    /// Every symbol the hub has seen.
    pub(super) fn symbols(&self) -> Vec<Symbol> {
        self.state().slot_numbers.keys().copied().collect()
    }
}

/// Waits until clients that are `behind` have caught up, so that none that reads is closed for what the log has at
/// once. Those that were `late` after the round before are not waited for again. Returns those that are late now, by
/// the numbers of their outboxes.
async fn pace(behind: Vec<Arc<Outbox>>, late: &HashSet<u64>) -> HashSet<u64> {
    let until = Instant::now() + PACE_MAX;
    let is_awaited = |outbox: &Arc<Outbox>| outbox.is_lagging() && !late.contains(&outbox.number());
    while behind.iter().any(is_awaited) && Instant::now() < until {
        tokio::time::sleep(PACE_PERIOD).await;
    }
    behind.iter().filter(|outbox| outbox.is_lagging()).map(|outbox| outbox.number()).collect()
}

async fn read(
    number: u16,
    mut reader: Box<dyn BusReader>,
) -> (u16, Box<dyn BusReader>, Result<Vec<Record>, BusError>) {
    let result = reader.next(READ_BYTES_MAX).await;
    (number, reader, result)
}

/// What a replay has before it.
pub(super) enum Ahead {
    /// It is live now: the hub goes on where the replay ended.
    Nothing,
    /// These records to begin with, from the ring.
    Records(Vec<(u16, Record)>),
    /// Records that are only in the log.
    Log,
}

/// A connection's place in the hub; leaving is dropping it.
pub(super) struct Attachment {
    hub: Arc<Hub>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) framing: Framing,
    group: Option<u32>,
}

impl Attachment {
    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Adds data of this connection alone to its queue.
    pub(super) fn push(&self, frames: Vec<Bytes>) {
        let budget = self.outbox.budget();
        let frames: Vec<Bytes> = frames.into_iter().map(|frame| budget.hold(frame)).collect();
        self.outbox.push_data(&frames);
        budget.enforce();
    }

    /// Has the hub leave this place as it is until [`Attachment::set`] or [`Outbox::unpin`]. Where the hub had
    /// parked the connection, returns the token of all that it was handed before.
    pub(super) fn pin(&mut self) -> Option<Token> {
        let hub = self.hub.clone();
        self.pin_in(&mut hub.state())
    }

    fn pin_in(&mut self, state: &mut State) -> Option<Token> {
        let Parked { token, group } = state.fanout.pin(&self.outbox)?;
        self.group = group;
        Some(token)
    }

    /// From now on the connection gets what `subscription` says, with tokens or without. It is not
    /// parked: see [`Attachment::pin`].
    pub(super) fn set(&mut self, subscription: &Subscription, token: bool) {
        let hub = self.hub.clone();
        self.set_in(&mut hub.state(), subscription, token);
    }

    fn set_in(&mut self, state: &mut State, subscription: &Subscription, token: bool) {
        if let Some(group) = self.group.take() {
            state.fanout.leave(group, &self.outbox);
        }
        if !subscription.is_empty() {
            let key = GroupKey { framing: self.framing, subscription: subscription.canonical(), token };
            self.group = Some(state.fanout.join(key, self.outbox.clone()));
        }
        self.outbox.unpin();
    }

    /// Goes live with `subscription` if `replay` has come up to the hub, or up to so little that
    /// it can be done at once; otherwise tells what is ahead of it.
    pub(super) fn go_live(&mut self, subscription: &Subscription, token: bool, replay: &mut Replay) -> Ahead {
        let hub = self.hub.clone();
        let mut state = hub.state();
        let mut partitions = state.partitions.iter().enumerate();
        if partitions.any(|(number, partition)| {
            let from = replay.position(number).offset;
            from < partition.next && from < partition.ring_first
        }) {
            return Ahead::Log;
        }
        let mut records = Vec::new();
        let mut is_all = true;
        // No more at a time, and of every partition: what is held for a slow client stays in memory beyond the
        // ring, and what waits longest leaves that first.
        let share = (JOIN_BYTES_MAX / state.partitions.len()).max(JOIN_SHARE_MIN);
        for (number, partition) in state.partitions.iter().enumerate() {
            let from = replay.position(number).offset;
            let mut bytes = 0;
            let at = partition.ring.partition_point(|record| record.offset < from);
            for record in partition.ring.range(at..) {
                if bytes > share {
                    is_all = false;
                    break;
                }
                bytes += record.bytes.len();
                records.push((number as u16, record.clone()));
            }
        }
        if !is_all {
            return Ahead::Records(records);
        }
        for (partition, record) in &records {
            replay.record(*partition, record);
        }
        for (number, partition) in state.partitions.iter().enumerate() {
            replay.advance(number, partition.next);
        }
        replay.newest = state.head.newest;
        self.push(replay.take_frames());
        if let Some(caught_up) = replay.caught_up() {
            self.push(vec![caught_up]);
        }
        self.set_in(&mut state, subscription, token);
        Ahead::Nothing
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let hub = self.hub.clone();
        let mut state = hub.state();
        self.pin_in(&mut state);
        if let Some(group) = self.group.take() {
            state.fanout.leave(group, &self.outbox);
        }
    }
}
