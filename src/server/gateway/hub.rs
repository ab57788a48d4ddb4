//! The hub: reads the log's tail, encodes what somebody wants once per encoding, and hands every
//! connection the frames of its subscription.
//!
//! Connections with the same wishes form a group, and a group's frame is built once a round: its
//! members are handed the same bytes. A round is what the log had at hand, so that at a low rate
//! every tick goes out at once and at a high rate in batches, without a timer or a setting.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::bars::LiveBars;
use super::outbox::Outbox;
use super::protocol::{Encoding, FrameBuilder, Framing, control_frame};
use super::replay::Replay;
use super::subscription::{Channel, Subscription};
use crate::bus::{Bus, BusError, BusReader, Record};
use crate::market::{Bar, Quote, Seq, Status, Symbol, Tick, Timestamp, Trade};
use crate::server::metrics::GatewayMetrics;
use crate::tiering::hot::HotEntry;
use crate::tiering::state::PartitionState;
use crate::tiering::warm::Warm;
use crate::wire::BarChannel;
use crate::wire::record::RecordView;
use crate::wire::token::{Position, Token};

/// How much of one partition is read at a time: bounds how long a round holds the lock.
const READ_BYTES_MAX: usize = 64 * 1024;
/// What a replay may still have before it when it is finished under the lock.
const JOIN_BYTES_MAX: usize = 64 * 1024;
/// How often bars and tokens are looked after.
const CLOCK_PERIOD: Duration = Duration::from_millis(100);
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
    metrics: GatewayMetrics,
    ring_bytes_max: usize,
}

struct State {
    partitions: Vec<Partition>,
    slot_numbers: HashMap<Symbol, u32>,
    slots: Vec<Slot>,
    fanout: Fanout,
    bars: LiveBars,
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
}

/// The last of one symbol at the hub's position.
#[derive(Default)]
struct Slot {
    trade: Option<Trade>,
    /// The id of a trade broken after it became the last.
    broken: Option<u64>,
    quote: Option<Quote>,
    status: Option<Status>,
    seq: Seq,
    /// The latest time of the venue, and when it was seen.
    last: Option<(Timestamp, Instant)>,
}

impl Slot {
    fn apply(&mut self, seq: Seq, tick: &Tick, now: Instant) {
        self.seq = seq;
        let ts = tick.ts();
        if self.last.is_none_or(|(last, _)| ts > last) {
            self.last = Some((ts, now));
        }
        match tick {
            Tick::Trade(trade) => (self.trade, self.broken) = (Some(*trade), None),
            Tick::Quote(quote) => self.quote = Some(*quote),
            Tick::Status(status) => self.status = Some((**status).clone()),
            Tick::Cancel(cancel) => {
                self.broken = Some(cancel.id);
                self.trade = self.trade.filter(|trade| trade.id != cancel.id);
            }
            Tick::Correction(correction) => {
                if let Some(trade) = self.trade.as_mut().filter(|trade| trade.id == correction.original.id) {
                    let terms = correction.corrected;
                    (trade.id, trade.price) = (terms.id, terms.price);
                    (trade.size, trade.conditions) = (terms.size, terms.conditions);
                }
            }
            Tick::Gap(_) | Tick::PrevClose(_) => {}
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct GroupKey {
    framing: Framing,
    subscription: Subscription,
    token: bool,
}

struct Group {
    key: GroupKey,
    members: Vec<Arc<Outbox>>,
    builder: FrameBuilder,
    frames: Vec<Bytes>,
    messages: u64,
    /// In the list of groups that have something to hand out this round.
    is_touched: bool,
    token_round: u64,
    token_at: Option<Instant>,
}

/// Who wants what.
#[derive(Default)]
struct Fanout {
    groups: Vec<Option<Group>>,
    numbers: HashMap<GroupKey, u32>,
    /// Groups by symbol, each with the mask of its channels.
    by_symbol: HashMap<Symbol, Vec<(u32, u16)>>,
    /// Groups that want all symbols, by channel.
    by_channel: [Vec<u32>; Channel::COUNT],
    /// Groups that are told of gaps of no single symbol.
    gap_groups: Vec<u32>,
    touched: Vec<u32>,
    scratch: [Vec<u8>; Encoding::COUNT],
}

/// What one message is, for [`Fanout::emit`].
enum Outgoing<'a> {
    Tick(&'a Tick),
    Bar(BarChannel, &'a Bar),
}

impl Fanout {
    fn is_idle(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Adds `message` to the frames of those who want it; it is encoded once per encoding.
    fn emit(
        &mut self,
        channel: Channel,
        named: &[(u32, u16)],
        message: &Outgoing<'_>,
        token: impl Fn() -> String,
    ) {
        let mut is_encoded = [false; Encoding::COUNT];
        let named = named.iter().filter(|(_, mask)| mask & channel.bit() != 0).map(|(group, _)| group);
        for &number in named.chain(&self.by_channel[channel as usize]) {
            let Some(group) = self.groups[number as usize].as_mut() else { continue };
            let framing = group.key.framing;
            let encoding = framing.encoding();
            let scratch = &mut self.scratch[encoding as usize];
            if !std::mem::replace(&mut is_encoded[encoding as usize], true) {
                scratch.clear();
                match message {
                    Outgoing::Tick(tick) => encoding.tick(tick, scratch),
                    Outgoing::Bar(channel, bar) => encoding.bar(*channel, bar, scratch),
                }
            }
            if group.builder.is_full_for(scratch.len()) {
                let token = group.key.token.then(&token);
                group.frames.push(group.builder.finish(framing, token.as_deref()));
            }
            group.builder.push(encoding, scratch);
            group.messages += 1;
            if !std::mem::replace(&mut group.is_touched, true) {
                self.touched.push(number);
            }
        }
    }

    /// Hands the frames of `round` out; returns how many messages and bytes that were, over all
    /// connections.
    fn deliver(&mut self, round: u64, token: impl Fn() -> String) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        let mut shared_token = None;
        for number in self.touched.drain(..) {
            let Some(group) = self.groups[number as usize].as_mut() else { continue };
            group.is_touched = false;
            if group.builder.messages() > 0 {
                let token = group.key.token.then(|| &**shared_token.get_or_insert_with(&token));
                group.frames.push(group.builder.finish(group.key.framing, token));
                group.token_round = round;
            }
            let members = group.members.len() as u64;
            messages += members * std::mem::take(&mut group.messages);
            bytes += members * group.frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
            for member in &group.members {
                member.push_data(&group.frames);
            }
            group.frames.clear();
        }
        (messages, bytes)
    }

    fn join(&mut self, key: GroupKey, outbox: Arc<Outbox>) -> u32 {
        if let Some(&number) = self.numbers.get(&key) {
            if let Some(group) = self.groups[number as usize].as_mut() {
                group.members.push(outbox);
            }
            return number;
        }
        let number = self.groups.iter().position(Option::is_none).unwrap_or(self.groups.len());
        let group = Group {
            key: key.clone(),
            members: vec![outbox],
            builder: FrameBuilder::default(),
            frames: Vec::new(),
            messages: 0,
            is_touched: false,
            token_round: 0,
            token_at: None,
        };
        if number == self.groups.len() {
            self.groups.push(Some(group));
        } else {
            self.groups[number] = Some(group);
        }
        let number = number as u32;
        for (channel, named) in masks(&key.subscription) {
            match named {
                None => self.by_channel[channel as usize].push(number),
                Some(symbol) => {
                    let groups = self.by_symbol.entry(symbol).or_default();
                    match groups.iter_mut().find(|(group, _)| *group == number) {
                        Some((_, mask)) => *mask |= channel.bit(),
                        None => groups.push((number, channel.bit())),
                    }
                }
            }
        }
        if key.subscription.gaps {
            self.gap_groups.push(number);
        }
        self.numbers.insert(key, number);
        number
    }

    fn leave(&mut self, number: u32, outbox: &Arc<Outbox>) {
        let Some(group) = self.groups[number as usize].as_mut() else { return };
        if let Some(at) = group.members.iter().position(|member| Arc::ptr_eq(member, outbox)) {
            group.members.swap_remove(at);
        }
        if !group.members.is_empty() {
            return;
        }
        let Some(group) = self.groups[number as usize].take() else { return };
        self.numbers.remove(&group.key);
        for groups in self.by_channel.iter_mut().chain([&mut self.gap_groups, &mut self.touched]) {
            groups.retain(|&other| other != number);
        }
        for symbol in group.key.subscription.symbols() {
            if let Some(groups) = self.by_symbol.get_mut(&symbol) {
                groups.retain(|&(other, _)| other != number);
                if groups.is_empty() {
                    self.by_symbol.remove(&symbol);
                }
            }
        }
    }
}

/// What a subscription is entered under: each channel with a symbol, or with `None` for all.
fn masks(subscription: &Subscription) -> Vec<(Channel, Option<Symbol>)> {
    let mut masks = Vec::new();
    for (channel, set) in subscription.sets() {
        if set.all {
            masks.push((channel, None));
        } else {
            masks.extend(set.some.iter().map(|&symbol| (channel, Some(symbol))));
        }
    }
    let extensions = [(Channel::Gaps, subscription.gaps), (Channel::PrevCloses, subscription.prev_closes)];
    for (channel, _) in extensions.into_iter().filter(|(_, is_on)| *is_on) {
        if subscription.any_all() {
            masks.push((channel, None));
        } else {
            masks.extend(subscription.symbols().into_iter().map(|symbol| (channel, Some(symbol))));
        }
    }
    masks
}

/// A token for a hub's positions, `at` in place of its partition's.
fn token_of(partitions: &[Partition], at: Option<Seq>) -> Token {
    let positions = partitions.iter().enumerate().map(|(number, partition)| match at {
        Some(seq) if usize::from(seq.partition) == number => {
            Position { offset: seq.offset, index: seq.index }
        }
        _ => Position { offset: partition.next, index: 0 },
    });
    Token::new(positions.collect())
}

impl State {
    /// Takes in records of one partition.
    fn round(&mut self, number: u16, records: Vec<Record>, ring_bytes_max: usize, metrics: &GatewayMetrics) {
        let now = Instant::now();
        for record in records {
            self.record(number, &record, now, metrics);
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
    }

    fn record(&mut self, number: u16, record: &Record, now: Instant, metrics: &GatewayMetrics) {
        let State { partitions, slot_numbers, slots, fanout, .. } = self;
        let view = match RecordView::parse(&record.bytes) {
            Ok(view) => view,
            Err(reason) => {
                metrics.records_unreadable.inc();
                warn!(partition = number, offset = record.offset, %reason, "a log record can't be read");
                return;
            }
        };
        let partition = &mut partitions[usize::from(number)];
        if !partition.derived.admit(view.origin) {
            metrics.records_repeated.inc();
            if partition.repeats.len() == REPEATS_MAX {
                partition.repeats.pop_first();
            }
            partition.repeats.insert(record.offset);
            return;
        }
        let numbers: Vec<u32> = view
            .symbols()
            .iter()
            .map(|symbol| {
                *slot_numbers.entry(*symbol).or_insert_with(|| {
                    slots.push(Slot::default());
                    (slots.len() - 1) as u32
                })
            })
            .collect();
        // One look-up per symbol of the record, not per tick.
        let is_idle = fanout.is_idle();
        let named: Vec<Vec<(u32, u16)>> = if is_idle {
            Vec::new()
        } else {
            let groups = |symbol| fanout.by_symbol.get(symbol).cloned().unwrap_or_default();
            view.symbols().iter().map(groups).collect()
        };
        for (index, row) in view.ticks().enumerate() {
            let (symbol, tick) = match row {
                Ok(row) => row,
                Err(reason) => {
                    metrics.records_unreadable.inc();
                    warn!(partition = number, offset = record.offset, %reason, "a log record can't be read");
                    return;
                }
            };
            let seq = Seq { partition: number, offset: record.offset, index: index as u32 };
            partitions[usize::from(number)].derived.apply(seq, &tick);
            if let Some(symbol) = symbol {
                slots[numbers[symbol as usize] as usize].apply(seq, &tick, now);
            }
            if is_idle {
                continue;
            }
            let channel = Channel::of(&tick);
            let token = || token_of(partitions, Some(seq)).to_string();
            match symbol {
                Some(symbol) => {
                    fanout.emit(channel, &named[symbol as usize], &Outgoing::Tick(&tick), token);
                }
                // It stands in every partition, for whoever reads one alone.
                None if number != 0 => {}
                None => {
                    let everybody: Vec<(u32, u16)> = fanout
                        .gap_groups
                        .iter()
                        .filter(|group| !fanout.by_channel[Channel::Gaps as usize].contains(group))
                        .map(|&group| (group, Channel::Gaps.bit()))
                        .collect();
                    fanout.emit(channel, &everybody, &Outgoing::Tick(&tick), token);
                }
            }
        }
    }

    /// Sends the bars that are due.
    fn send_bars(&mut self, now: Instant) {
        for partition in &mut self.partitions {
            for (_, bar) in partition.derived.take_changed_bars() {
                self.bars.change(bar);
            }
        }
        let State { partitions, slot_numbers, slots, fanout, bars, .. } = self;
        let clock = |symbol: Symbol| {
            let slot = &slots[*slot_numbers.get(&symbol)? as usize];
            let (ts, at) = slot.last?;
            let since = i64::try_from(now.saturating_duration_since(at).as_nanos()).unwrap_or(i64::MAX);
            Some(ts.saturating_add_nanos(since))
        };
        for (channel, bar) in bars.due(clock) {
            let (way, name) = match channel {
                BarChannel::Minute => (Channel::Bars, BarChannel::Minute),
                BarChannel::Updated => (Channel::UpdatedBars, BarChannel::Updated),
                BarChannel::Daily => (Channel::DailyBars, BarChannel::Daily),
            };
            let named = fanout.by_symbol.get(&bar.symbol).cloned().unwrap_or_default();
            fanout.emit(way, &named, &Outgoing::Bar(name, &bar), || token_of(partitions, None).to_string());
        }
    }

    /// Sends tokens to those who asked and got no data with one this round, at most ten a second, so
    /// that what they resume from does not grow old.
    fn send_tokens(&mut self, round: u64, now: Instant) {
        let mut token = None;
        for group in self.fanout.groups.iter_mut().flatten() {
            let is_due = group.token_at.is_none_or(|at| now.saturating_duration_since(at) >= CLOCK_PERIOD);
            if !group.key.token || group.token_round == round || !is_due {
                continue;
            }
            (group.token_round, group.token_at) = (round, Some(now));
            let token = token.get_or_insert_with(|| token_of(&self.partitions, None).to_string());
            let frame = match group.key.framing {
                Framing::WebSocket(encoding) => encoding.control(&json!({ "T": "token", "token": token })),
                Framing::Sse => format!("id: {token}\n\n").into(),
            };
            for member in &group.members {
                member.push_data(std::slice::from_ref(&frame));
            }
        }
    }
}

impl Hub {
    /// Reads what the log holds after the processor's last checkpoint (or from the log's end,
    /// without one) up to now, and then waits to be [`Hub::run`].
    pub(super) async fn start(
        bus: Arc<dyn Bus>,
        warm: Option<Arc<dyn Warm>>,
        ring_bytes_max: usize,
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
            });
        }
        let state = State {
            partitions,
            slot_numbers: HashMap::new(),
            slots: Vec::new(),
            fanout: Fanout::default(),
            bars: LiveBars::default(),
            failure: None,
        };
        let rounds = tokio::sync::watch::Sender::new(0);
        let ring_bytes_max = ring_bytes_max / usize::from(bus.partitions().max(1));
        let hub = Arc::new(Self { bus, state: Mutex::new(state), rounds, metrics, ring_bytes_max });
        for (number, (reader, target)) in readers.iter_mut().zip(targets).enumerate() {
            while reader.offset() < target {
                let records = reader.next(READ_BYTES_MAX).await?;
                hub.state().round(number as u16, records, ring_bytes_max, &hub.metrics);
                tokio::task::yield_now().await;
            }
        }
        // Bars of the past were sent by whoever ran then.
        hub.state().send_bars(Instant::now());
        Ok((hub, readers))
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
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = clock.tick() => {
                    let now = Instant::now();
                    let mut state = self.state();
                    state.send_bars(now);
                    let round = *self.rounds.borrow();
                    self.deliver(&mut state, round);
                    state.send_tokens(round, now);
                    continue;
                }
                Some(first) = reads.next() => first,
            };
            // What the other partitions have at hand goes into the same round and the same flush.
            let mut batches = vec![first];
            while let Some(Some(more)) = reads.next().now_or_never() {
                batches.push(more);
            }
            {
                let mut state = self.state();
                for (number, reader, result) in batches {
                    match result {
                        Ok(records) => {
                            state.round(number, records, self.ring_bytes_max, &self.metrics);
                            reads.push(read(number, reader));
                        }
                        Err(BusError::Trimmed { partition, first, .. }) => {
                            self.skip(&mut state, partition, first);
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
                let round = *self.rounds.borrow() + 1;
                self.deliver(&mut state, round);
                state.send_tokens(round, Instant::now());
                self.rounds.send_replace(round);
            }
            // The connections write this round before the next one is made.
            tokio::task::yield_now().await;
        }
    }

    fn deliver(&self, state: &mut State, round: u64) {
        let State { partitions, fanout, .. } = state;
        let (messages, bytes) = fanout.deliver(round, || token_of(partitions, None).to_string());
        self.metrics.messages.inc_by(messages);
        self.metrics.message_bytes.inc_by(bytes);
    }

    /// Goes on behind what retention took away, and says so to everybody.
    fn skip(&self, state: &mut State, number: u16, first: u64) {
        let before = token_of(&state.partitions, None);
        let partition = &mut state.partitions[usize::from(number)];
        let count = first - partition.next;
        (partition.next, partition.ring_first, partition.ring_bytes) = (first, first, 0);
        partition.ring.clear();
        let after = token_of(&state.partitions, None);
        warn!(partition = number, records = count, "the log was trimmed before the gateway had read it");
        self.metrics.records_trimmed.inc_by(count);
        self.deliver(state, *self.rounds.borrow());
        let gap = json!({
            "T": "gap", "kind": "trimmed", "first_token": before.to_string(), "last_token": after.to_string(),
        });
        for group in state.fanout.groups.iter().flatten().filter(|group| group.key.subscription.gaps) {
            let frame = control_frame(group.key.framing, &gap, Some(&after));
            group.members.iter().for_each(|member| member.push_data(std::slice::from_ref(&frame)));
        }
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

    /// Whether a replay from `token` can be: it is of this log, and not of its future.
    pub(super) fn check(&self, token: &Token) -> Result<(), String> {
        let positions = self.positions();
        let theirs = token.positions();
        if theirs.len() != positions.len() {
            return Err(format!(
                "the token has {} partitions, the log {}: it is of another log",
                theirs.len(),
                positions.len()
            ));
        }
        let is_future = |(their, mine): (&Position, &u64)| {
            their.offset > *mine || their.offset == *mine && their.index > 0
        };
        if theirs.iter().zip(&positions).any(is_future) {
            return Err("the token is ahead of the log: it is of another log".to_owned());
        }
        Ok(())
    }

    /// The token of now.
    pub(super) fn token(&self) -> Token {
        token_of(&self.state().partitions, None)
    }

    /// How many groups there are, each with a frame of its own.
    pub(super) fn group_count(&self) -> usize {
        self.state().fanout.numbers.len()
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
            entry.trade = slot
                .trade
                .or_else(|| entry.trade.take().filter(|trade| slot.broken.is_none_or(|id| id != trade.id)));
            entry.quote = slot.quote.or(entry.quote.take());
            entry.status = slot.status.clone().or(entry.status.take());
            entry.seq = slot.seq;
        }
        token_of(&state.partitions, None)
    }

    /// Every symbol the hub has seen.
    pub(super) fn symbols(&self) -> Vec<Symbol> {
        self.state().slot_numbers.keys().copied().collect()
    }
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
    /// These records, from the ring.
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

    /// From now on the connection gets what `subscription` says, with tokens or without.
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
    }

    /// Goes live with `subscription` if `replay` has come up to the hub, or up to so little that
    /// it can be done at once; otherwise tells what is ahead of it.
    pub(super) fn go_live(&mut self, subscription: &Subscription, token: bool, replay: &mut Replay) -> Ahead {
        let hub = self.hub.clone();
        let mut state = hub.state();
        let mut records = Vec::new();
        let mut bytes = 0;
        for (number, partition) in state.partitions.iter().enumerate() {
            let from = replay.position(number).offset;
            if from >= partition.next {
                continue;
            }
            if from < partition.ring_first {
                return Ahead::Log;
            }
            let at = partition.ring.partition_point(|record| record.offset < from);
            for record in partition.ring.range(at..) {
                bytes += record.bytes.len();
                records.push((number as u16, record.clone()));
            }
        }
        if bytes > JOIN_BYTES_MAX {
            return Ahead::Records(records);
        }
        for (partition, record) in &records {
            replay.record(*partition, record);
        }
        for (number, partition) in state.partitions.iter().enumerate() {
            replay.advance(number, partition.next);
        }
        self.outbox.push_data(&replay.take_frames());
        if let Some(caught_up) = replay.caught_up() {
            self.outbox.push_data(&[caught_up]);
        }
        self.set_in(&mut state, subscription, token);
        Ahead::Nothing
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            self.hub.state().fanout.leave(group, &self.outbox);
        }
    }
}
