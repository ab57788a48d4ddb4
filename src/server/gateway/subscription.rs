//! What a connection asked for, and the key by which connections share their frames.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::market::{Kind, Symbol, Tick};

/// What a subscriber can choose, by Alpaca's names. Corrections and cancels follow trades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Channel {
    Trades = 0,
    Quotes = 1,
    Bars = 2,
    UpdatedBars = 3,
    DailyBars = 4,
    Statuses = 5,
    Lulds = 6,
    /// Extension: holes in what was received, for every symbol that is subscribed in any channel.
    Gaps = 7,
    /// Extension: previous closes, likewise.
    PrevCloses = 8,
}

impl Channel {
    pub(super) const COUNT: usize = 9;

    /// The channels that are subscribed by symbol, with Alpaca's names.
    pub(super) const NAMED: [(Self, &'static str); 7] = [
        (Self::Trades, "trades"),
        (Self::Quotes, "quotes"),
        (Self::Bars, "bars"),
        (Self::UpdatedBars, "updatedBars"),
        (Self::DailyBars, "dailyBars"),
        (Self::Statuses, "statuses"),
        (Self::Lulds, "lulds"),
    ];

    /// The channel's bit in a mask.
    pub(super) const fn bit(self) -> u16 {
        1 << self as u8
    }

    /// The channel a tick goes out on.
    pub(super) fn of(tick: &Tick) -> Self {
        match tick.kind() {
            Kind::Quote => Self::Quotes,
            Kind::Status => Self::Statuses,
            Kind::Gap => Self::Gaps,
            Kind::PrevClose => Self::PrevCloses,
            Kind::Trade | Kind::Cancel | Kind::Correction | Kind::Bar => Self::Trades,
        }
    }
}

/// Some symbols, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct SymbolSet {
    /// `*`.
    pub(super) all: bool,
    /// Those named, also beside `*`.
    pub(super) some: BTreeSet<Symbol>,
}

impl SymbolSet {
    pub(super) fn has(&self, symbol: Symbol) -> bool {
        self.all || self.some.contains(&symbol)
    }

    fn is_empty(&self) -> bool {
        !self.all && self.some.is_empty()
    }

    /// Reads a list of names as it stands in a request.
    pub(super) fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut set = Self::default();
        for name in names {
            if name == "*" {
                set.all = true;
            } else {
                set.some.insert(name.parse().map_err(|error| format!("{error}"))?);
            }
        }
        Ok(set)
    }

    fn names(&self) -> Value {
        let star = self.all.then_some("*");
        star.into_iter().chain(self.some.iter().map(Symbol::as_str)).collect()
    }
}

/// Everything a connection is subscribed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Subscription {
    pub(super) sets: [SymbolSet; Channel::NAMED.len()],
    /// Whether gaps are told.
    pub(super) gaps: bool,
    /// Whether previous closes are told.
    pub(super) prev_closes: bool,
}

impl Subscription {
    pub(super) fn set_mut(&mut self, channel: Channel) -> &mut SymbolSet {
        &mut self.sets[(channel as usize).min(Channel::NAMED.len() - 1)]
    }

    /// The sets of the channels that are subscribed by symbol.
    pub(super) fn sets(&self) -> impl Iterator<Item = (Channel, &SymbolSet)> {
        Channel::NAMED.iter().map(|&(channel, _)| channel).zip(&self.sets)
    }

    /// Adds what `other` has.
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.sets.iter_mut().zip(&other.sets) {
            mine.all |= theirs.all;
            mine.some.extend(&theirs.some);
        }
        self.gaps |= other.gaps;
        self.prev_closes |= other.prev_closes;
    }

    /// Takes away what `other` names.
    pub(super) fn remove(&mut self, other: &Self) {
        for (mine, theirs) in self.sets.iter_mut().zip(&other.sets) {
            mine.all &= !theirs.all;
            mine.some.retain(|symbol| !theirs.some.contains(symbol));
        }
        self.gaps &= !other.gaps;
        self.prev_closes &= !other.prev_closes;
    }

    /// The bar channels alone.
    pub(super) fn bars(&self) -> Self {
        let mut bars = Self::default();
        for channel in [Channel::Bars, Channel::UpdatedBars, Channel::DailyBars] {
            *bars.set_mut(channel) = self.sets[channel as usize].clone();
        }
        bars
    }

    /// Keeps of every set at most `only`: what the test feed serves.
    pub(super) fn restrict_to(&mut self, only: Symbol) {
        for set in &mut self.sets {
            let has = set.has(only);
            *set = SymbolSet { all: false, some: has.then_some(only).into_iter().collect() };
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.iter().all(SymbolSet::is_empty)
    }

    /// How many symbols are named, over all channels.
    pub(super) fn named_count(&self) -> usize {
        self.sets.iter().map(|set| set.some.len()).sum()
    }

    /// Whether any channel is subscribed for all symbols.
    pub(super) fn any_all(&self) -> bool {
        self.sets.iter().any(|set| set.all)
    }

    /// Every symbol named in any channel.
    pub(super) fn symbols(&self) -> BTreeSet<Symbol> {
        self.sets.iter().flat_map(|set| set.some.iter().copied()).collect()
    }

    /// Whether a message on `channel` for `symbol` is wanted; `None` stands for a gap of no single
    /// symbol.
    pub(super) fn wants(&self, channel: Channel, symbol: Option<Symbol>) -> bool {
        match (channel, symbol) {
            (Channel::Gaps, None) => self.gaps,
            (Channel::Gaps, Some(symbol)) => self.gaps && self.any_has(symbol),
            (Channel::PrevCloses, Some(symbol)) => self.prev_closes && self.any_has(symbol),
            (channel, Some(symbol)) => self.sets[channel as usize].has(symbol),
            (_, None) => false,
        }
    }

    /// Whether anything at all on `channel` is wanted.
    pub(super) fn wants_any(&self, channel: Channel) -> bool {
        match channel {
            Channel::Gaps => self.gaps,
            Channel::PrevCloses => self.prev_closes,
            channel => !self.sets[channel as usize].is_empty(),
        }
    }

    fn any_has(&self, symbol: Symbol) -> bool {
        self.sets.iter().any(|set| set.has(symbol))
    }

    /// The same wishes in the form that is equal for equal wishes: names beside `*` left out.
    pub(super) fn canonical(&self) -> Self {
        let mut canonical = self.clone();
        for set in &mut canonical.sets {
            if set.all {
                set.some.clear();
            }
        }
        canonical
    }

    /// The answer to every subscribe and unsubscribe: all that is subscribed.
    pub(super) fn answer(&self) -> Value {
        let mut answer = Map::new();
        answer.insert("T".to_owned(), json!("subscription"));
        for (at, (_, name)) in Channel::NAMED.iter().enumerate() {
            answer.insert((*name).to_owned(), self.sets[at].names());
        }
        let trades = self.sets[Channel::Trades as usize].names();
        answer.insert("corrections".to_owned(), trades.clone());
        answer.insert("cancelErrors".to_owned(), trades);
        Value::Object(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(channels: &[(Channel, &[&str])]) -> Subscription {
        let mut subscription = Subscription::default();
        for (channel, names) in channels {
            *subscription.set_mut(*channel) = SymbolSet::from_names(names.iter().copied()).unwrap();
        }
        subscription
    }

    fn symbol(name: &str) -> Option<Symbol> {
        name.parse().ok()
    }

    #[test]
    fn adding_again_changes_nothing_and_removing_leaves_the_rest() {
        let mut mine = of(&[(Channel::Trades, &["AAPL"]), (Channel::Quotes, &["*", "AAPL"])]);
        let before = mine.clone();
        mine.add(&before);
        assert_eq!(mine, before);
        mine.remove(&of(&[(Channel::Quotes, &["*"])]));
        assert!(mine.wants(Channel::Quotes, symbol("AAPL")) && !mine.wants(Channel::Quotes, symbol("TSLA")));
        assert_eq!(mine.named_count(), 2);
    }

    #[test]
    fn equal_wishes_share_a_key() {
        let star = of(&[(Channel::Quotes, &["*"])]);
        assert_eq!(of(&[(Channel::Quotes, &["*", "AAPL"])]).canonical(), star.canonical());
        assert_ne!(of(&[(Channel::Quotes, &["AAPL"])]).canonical(), star.canonical());
    }

    #[test]
    fn gaps_follow_any_channel_and_only_when_asked() {
        let mut mine = of(&[(Channel::Bars, &["AAPL"])]);
        assert!(!mine.wants(Channel::Gaps, symbol("AAPL")));
        mine.gaps = true;
        assert!(mine.wants(Channel::Gaps, symbol("AAPL")) && mine.wants(Channel::Gaps, None));
        assert!(!mine.wants(Channel::Gaps, symbol("TSLA")));
    }

    #[test]
    fn the_answer_lists_every_channel() {
        let answer = of(&[(Channel::Trades, &["AAPL"]), (Channel::Quotes, &["*"])]).answer();
        assert_eq!(answer["trades"], json!(["AAPL"]));
        assert_eq!(answer["corrections"], json!(["AAPL"]));
        assert_eq!(answer["quotes"], json!(["*"]));
        assert_eq!(answer["lulds"], json!([]));
    }

    #[test]
    fn a_bad_symbol_is_named() {
        let error = SymbolSet::from_names(["AAPL", "a b"].into_iter()).unwrap_err();
        assert!(error.contains("\"a b\""), "{error}");
    }
}
