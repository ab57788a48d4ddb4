//! Who wants what: connections with the same wishes form a group, whose frames are built once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::budget::Budget;
use super::outbox::Outbox;
use super::protocol::{Encoding, FrameBuilder, Framing, control_frame};
use super::subscription::{Channel, Subscription};
use crate::market::{Bar, Symbol, Tick};
use crate::wire::BarChannel;
use crate::wire::token::Token;

/// How often a group that gets no data is told a token.
const TOKEN_PERIOD: Duration = Duration::from_millis(100);
/// The largest group that is parked: the frames of a larger one are built for so many that they cost little.
const PARKED_MEMBERS_MAX: usize = 8;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub(super) framing: Framing,
    pub(super) subscription: Subscription,
    /// Whether it is told tokens.
    pub(super) token: bool,
}

/// A parked connection's position.
pub(super) struct Parked {
    /// Everything before it was delivered.
    pub(super) token: Token,
    /// The group that still delivers its bars, if it subscribed to any.
    pub(super) group: Option<u32>,
}

struct Group {
    key: GroupKey,
    /// Bars are not in the log: a connection without anything else has nowhere to resume from.
    has_bars_only: bool,
    members: Vec<Arc<Outbox>>,
    builder: FrameBuilder,
    frames: Vec<Bytes>,
    messages: u64,
    /// Of its messages since the last delivery.
    bytes: usize,
    /// In the list of groups that have something to hand out this round.
    is_touched: bool,
    token_round: u64,
    token_at: Option<Instant>,
}

/// Who wants what.
#[derive(Default)]
pub(super) struct Fanout {
    groups: Vec<Option<Group>>,
    numbers: HashMap<GroupKey, u32>,
    by_symbol: BySymbol,
    /// Groups that want all symbols, by channel.
    by_channel: [Vec<u32>; Channel::COUNT],
    /// Groups that are told of gaps of no single symbol.
    gap_groups: Vec<u32>,
    touched: Vec<u32>,
    /// Groups all members of which were stalled at a delivery since the last [`Fanout::park_stalled`].
    stalled: Vec<u32>,
    /// Connections that were taken out of their groups, by the numbers of their outboxes.
    parked: HashMap<u64, Parked>,
    /// The most that waits to be delivered to one group.
    bytes_max: usize,
    /// What waits to be delivered to all groups together.
    bytes_total: usize,
    scratch: [Vec<u8>; Encoding::COUNT],
}

/// Groups by symbol, each with the mask of its channels.
pub(super) type BySymbol = HashMap<Symbol, Vec<(u32, u16)>>;

/// What one message is, for [`Fanout::emit`].
pub(super) enum Outgoing<'a> {
    Tick(&'a Tick),
    Bar(BarChannel, &'a Bar),
}

impl Fanout {
    /// How many groups there are.
    pub(super) fn group_count(&self) -> usize {
        self.numbers.len()
    }

    /// Lends the groups by symbol to who looks them up once for many ticks, and then has them put
    /// back by [`Fanout::give_back`]; nobody joins or leaves meanwhile.
    pub(super) fn lend_by_symbol(&mut self) -> BySymbol {
        std::mem::take(&mut self.by_symbol)
    }

    /// Takes back what was lent.
    pub(super) fn give_back(&mut self, by_symbol: BySymbol) {
        self.by_symbol = by_symbol;
    }

    /// How many bytes of messages wait for [`Fanout::deliver`], for the group with the most.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// How many bytes of messages wait for [`Fanout::deliver`], over all groups.
    pub(super) fn bytes_total(&self) -> usize {
        self.bytes_total
    }

    /// Adds `message` to the frames of those who want it; it is encoded once per encoding.
    pub(super) fn emit(
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
            group.bytes += scratch.len();
            self.bytes_max = self.bytes_max.max(group.bytes);
            self.bytes_total += scratch.len();
            if !std::mem::replace(&mut group.is_touched, true) {
                self.touched.push(number);
            }
        }
    }

    /// Adds a gap of no single symbol to the frames of those who are told of gaps.
    pub(super) fn emit_to_all(&mut self, gap: &Tick, token: impl Fn() -> String) {
        // Who wants all symbols is among the channel's groups already.
        let all = &self.by_channel[Channel::Gaps as usize];
        let named = self.gap_groups.iter().filter(|group| !all.contains(group));
        let named: Vec<(u32, u16)> = named.map(|&group| (group, Channel::Gaps.bit())).collect();
        self.emit(Channel::Gaps, &named, &Outgoing::Tick(gap), token);
    }

    /// Hands the frames of `round` out, held by `budget`; returns how many messages and bytes that were,
    /// over all connections.
    pub(super) fn deliver(&mut self, round: u64, budget: &Budget, token: impl Fn() -> String) -> (u64, u64) {
        let now = Instant::now();
        let (mut messages, mut bytes) = (0, 0);
        (self.bytes_max, self.bytes_total) = (0, 0);
        let mut shared_token = None;
        for number in self.touched.drain(..) {
            let Some(group) = self.groups[number as usize].as_mut() else { continue };
            (group.is_touched, group.bytes) = (false, 0);
            if group.builder.messages() > 0 {
                let token = group.key.token.then(|| &**shared_token.get_or_insert_with(&token));
                group.frames.push(group.builder.finish(group.key.framing, token));
                group.token_round = round;
            }
            let members = group.members.len() as u64;
            messages += members * std::mem::take(&mut group.messages);
            bytes += members * group.frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
            for frame in &mut group.frames {
                *frame = budget.hold(std::mem::take(frame));
            }
            for member in &group.members {
                member.push_data(&group.frames);
            }
            group.frames.clear();
            if group.is_stalled(now) {
                self.stalled.push(number);
            }
        }
        budget.enforce();
        (messages, bytes)
    }

    pub(super) fn join(&mut self, key: GroupKey, outbox: Arc<Outbox>) -> u32 {
        if let Some(&number) = self.numbers.get(&key) {
            if let Some(group) = self.groups[number as usize].as_mut() {
                group.members.push(outbox);
            }
            return number;
        }
        let number = self.groups.iter().position(Option::is_none).unwrap_or(self.groups.len());
        let group = Group {
            key: key.clone(),
            has_bars_only: key.subscription == key.subscription.bars(),
            members: vec![outbox],
            builder: FrameBuilder::default(),
            frames: Vec::new(),
            messages: 0,
            bytes: 0,
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

    pub(super) fn leave(&mut self, number: u32, outbox: &Arc<Outbox>) {
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

    /// Takes stalled connections out of the groups that have no others: no frames are built for them any
    /// more. `token` is the position up to which everything was delivered. Returns how many were parked.
    pub(super) fn park_stalled(&mut self, now: Instant, token: impl Fn() -> Token) -> u64 {
        let mut count = 0;
        for number in std::mem::take(&mut self.stalled) {
            let group = self.groups[number as usize].as_ref().filter(|group| group.is_stalled(now));
            let Some(group) = group else { continue };
            let (framing, subscription) = (group.key.framing, group.key.subscription.bars());
            // Its tokens would stand for what the connection has not been handed.
            let bars = (!subscription.is_empty()).then_some(GroupKey { framing, subscription, token: false });
            for member in group.members.clone() {
                if member.park(now) {
                    self.leave(number, &member);
                    let group = bars.clone().map(|bars| self.join(bars, member.clone()));
                    self.parked.insert(member.number(), Parked { token: token(), group });
                    count += 1;
                }
            }
        }
        count
    }

    /// Where a connection was parked, if it was; it will not be parked before [`Outbox::unpin`].
    pub(super) fn pin(&mut self, outbox: &Outbox) -> Option<Parked> {
        outbox.pin();
        self.parked.remove(&outbox.number())
    }

    /// Sends tokens to those who asked and got no data with one this round, at most ten a second, so
    /// that what they resume from does not grow old.
    pub(super) fn send_tokens(&mut self, round: u64, now: Instant, token: impl Fn() -> String) {
        let mut shared_token = None;
        for group in self.groups.iter_mut().flatten() {
            let is_due = group.token_at.is_none_or(|at| now.saturating_duration_since(at) >= TOKEN_PERIOD);
            if !group.key.token || group.token_round == round || !is_due {
                continue;
            }
            (group.token_round, group.token_at) = (round, Some(now));
            let token = shared_token.get_or_insert_with(&token);
            let frame = match group.key.framing {
                Framing::WebSocket(encoding) => encoding.control(&json!({ "T": "token", "token": token })),
                Framing::Sse => format!("id: {token}\n\n").into(),
            };
            group.tell(&frame);
        }
    }

    /// Tells those who asked that something is missing up to `last`.
    pub(super) fn tell_gap(&self, gap: &Value, last: &Token) {
        for group in self.groups.iter().flatten().filter(|group| group.key.subscription.gaps) {
            group.tell(&control_frame(group.key.framing, gap, Some(last)));
        }
    }
}

impl Group {
    /// Whether its frames are built for a few that take nothing.
    fn is_stalled(&self, now: Instant) -> bool {
        self.members.len() <= PARKED_MEMBERS_MAX
            && !self.has_bars_only
            && self.members.iter().all(|member| member.is_stalled(now))
    }

    fn tell(&self, frame: &Bytes) {
        self.members.iter().for_each(|member| member.push_data(std::slice::from_ref(frame)));
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
