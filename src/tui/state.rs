//! What the board knows, and how it changes: pure, without a terminal or a clock of its own.

use std::cmp::Ordering;
use std::time::Duration;

use foldhash::HashMap;

use super::filter::Filter;
use super::market::MarketTime;
use crate::client::stream::{Event, SymbolSnapshot};
use crate::market::{
    BarEffect, Correction, Exchange, Price, Symbol, Tick, Timeframe, Timestamp, Trade, TradingDay,
};
use crate::wire::{BarChannel, Message};

/// A column of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Column {
    /// The symbol.
    Symbol,
    /// The last trade's price.
    Last,
    /// The change since the previous close.
    Change,
    /// The change in percent.
    Percent,
    /// The best bid.
    Bid,
    /// The best offer.
    Ask,
    /// Shares at the bid.
    BidSize,
    /// Shares at the offer.
    AskSize,
    /// Shares traded today.
    Volume,
    /// The last prices as a line.
    Trend,
    /// How old the last price is by the market's clock: of the last trade, or of the quote as long as
    /// there is none.
    Age,
}

impl Column {
    /// Every column, from left to right.
    pub const ALL: [Self; 11] = [
        Self::Symbol,
        Self::Last,
        Self::Change,
        Self::Percent,
        Self::Bid,
        Self::Ask,
        Self::BidSize,
        Self::AskSize,
        Self::Volume,
        Self::Trend,
        Self::Age,
    ];

    /// The name, as in `--sort` and in filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Symbol => "symbol",
            Self::Last => "last",
            Self::Change => "change",
            Self::Percent => "%",
            Self::Bid => "bid",
            Self::Ask => "ask",
            Self::BidSize => "bid_size",
            Self::AskSize => "ask_size",
            Self::Volume => "volume",
            Self::Trend => "trend",
            Self::Age => "age",
        }
    }

    /// The column of that name; `percent` is `%`.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "percent" { "%" } else { name };
        Self::ALL.into_iter().find(|column| column.name() == name && *column != Self::Trend)
    }
}

/// How many prices a trend line has.
pub(super) const TREND_LEN: usize = 16;
/// How long one of them stands for.
const TREND_STEP_NANOS: i64 = 2_000_000_000;
/// The most rows: far above the symbols of any market, so that only a server gone wrong meets it.
const ROWS_MAX: usize = 65_536;
/// New prices put the rows in another order at most so often: faster is no reading.
const ORDER_PERIOD_NANOS: i64 = 1_000_000_000;

/// Trades of each symbol that are remembered: one of them is the last once newer ones are broken.
const PRINTS_MAX: usize = 4;

/// A trade that may set the last price.
#[derive(Clone, Copy, Debug)]
struct Print {
    ts: Timestamp,
    price: Price,
    /// Exchange and id; a snapshot has none.
    name: Option<(Exchange, u64)>,
}

impl Print {
    fn is_named(&self, exchange: Exchange, id: u64) -> bool {
        self.name.is_some_and(|(of, named)| {
            named == id && (of == exchange || of == Exchange::NONE || exchange == Exchange::NONE)
        })
    }
}

/// One symbol.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) symbol: Symbol,
    pub(super) last: Option<Price>,
    /// Which way the last trade moved the price: -1, 0, 1.
    pub(super) direction: i8,
    /// When the last price changed, by the local clock.
    pub(super) moved: Timestamp,
    pub(super) prev_close: Option<Price>,
    pub(super) bid: Option<Price>,
    pub(super) ask: Option<Price>,
    pub(super) bid_size: u32,
    pub(super) ask_size: u32,
    /// Shares traded on `day`.
    pub(super) volume: u64,
    day: Option<TradingDay>,
    pub(super) halted: bool,
    /// The market times of the last trade and the last quote.
    pub(super) traded_ts: Option<Timestamp>,
    pub(super) quoted_ts: Option<Timestamp>,
    /// The newest trades by market time, oldest first: the last sets the price, whatever arrived last.
    prints: Vec<Print>,
    /// The market times of the previous close and the trading status, where they came over the stream.
    close_ts: Timestamp,
    status_ts: Timestamp,
    trend: [f32; TREND_LEN],
    trend_len: usize,
    trend_since: Timestamp,
}

impl Row {
    pub(super) fn new(symbol: Symbol) -> Self {
        Self {
            symbol,
            last: None,
            direction: 0,
            moved: Timestamp::MIN,
            prev_close: None,
            bid: None,
            ask: None,
            bid_size: 0,
            ask_size: 0,
            volume: 0,
            day: None,
            halted: false,
            traded_ts: None,
            quoted_ts: None,
            prints: Vec::new(),
            close_ts: Timestamp::MIN,
            status_ts: Timestamp::MIN,
            trend: [0.0; TREND_LEN],
            trend_len: 0,
            trend_since: Timestamp::MIN,
        }
    }

    pub(super) fn change(&self) -> Option<Price> {
        let close = self.prev_close.filter(|close| !close.is_zero())?;
        Price::from_nanos(self.last?.nanos() - close.nanos())
    }

    pub(super) fn percent(&self) -> Option<f64> {
        Some(self.change()?.to_f64() / self.prev_close?.to_f64() * 100.0)
    }

    /// The market time of the price that counts: the last trade's, or the quote's where there is none.
    pub(super) fn priced_ts(&self) -> Option<Timestamp> {
        self.traded_ts.or(self.quoted_ts)
    }

    /// The last prices, oldest first.
    pub(super) fn trend(&self) -> &[f32] {
        &self.trend[..self.trend_len]
    }

    /// What stands in a column, as a number; `now` is the market's clock.
    pub(super) fn number(&self, column: Column, now: Timestamp) -> Option<f64> {
        let price = |price: Option<Price>| price.map(Price::to_f64);
        match column {
            Column::Symbol | Column::Trend => None,
            Column::Last => price(self.last),
            Column::Change => price(self.change()),
            Column::Percent => self.percent(),
            Column::Bid => price(self.bid),
            Column::Ask => price(self.ask),
            Column::BidSize => self.bid.map(|_| f64::from(self.bid_size)),
            Column::AskSize => self.ask.map(|_| f64::from(self.ask_size)),
            Column::Volume => Some(self.volume as f64),
            Column::Age => self.priced_ts().map(|ts| now.nanos_since(ts).max(0) as f64 / 1e9),
        }
    }

    /// Takes a trade that may set the price, heard of at `at`.
    fn print(&mut self, print: Print, at: Timestamp) {
        let place = self.prints.partition_point(|other| other.ts <= print.ts);
        self.prints.insert(place, print);
        if self.prints.len() > PRINTS_MAX {
            self.prints.remove(0);
        }
        if self.prints.last().is_some_and(|last| last.ts == print.ts) {
            self.price(print, at);
        }
    }

    /// The last trade, heard of at `at`.
    fn price(&mut self, print: Print, at: Timestamp) {
        self.show(print, at);
        let value = print.price.to_f64() as f32;
        if self.trend_len > 0 && at.nanos_since(self.trend_since) < TREND_STEP_NANOS {
            self.trend[self.trend_len - 1] = value;
            return;
        }
        self.trend_since = at;
        if self.trend_len == TREND_LEN {
            self.trend.copy_within(1.., 0);
        } else {
            self.trend_len += 1;
        }
        self.trend[self.trend_len - 1] = value;
    }

    fn show(&mut self, Print { ts, price, .. }: Print, at: Timestamp) {
        if let Some(before) = self.last.filter(|before| *before != price) {
            self.direction = if price > before { 1 } else { -1 };
            self.moved = at;
        }
        (self.last, self.traded_ts) = (Some(price), Some(ts));
    }

    /// Shows the price of the last of the trades remembered, after one was broken or corrected.
    fn show_last(&mut self, now: Timestamp) {
        if let Some(last) = self.prints.last().copied() {
            self.show(last, now);
        } else {
            (self.last, self.traded_ts) = (None, None);
        }
    }

    /// A trade was broken.
    fn cancel(&mut self, exchange: Exchange, id: u64, now: Timestamp) {
        let count = self.prints.len();
        self.prints.retain(|print| !print.is_named(exchange, id));
        if self.prints.len() < count {
            self.show_last(now);
        }
    }

    fn correct(&mut self, correction: &Correction, now: Timestamp) {
        let (exchange, id) = (correction.exchange, correction.original.id);
        if let Some(print) = self.prints.iter_mut().find(|print| print.is_named(exchange, id)) {
            print.price = correction.corrected.price;
            print.name = print.name.map(|(exchange, _)| (exchange, correction.corrected.id));
            self.show_last(now);
        }
    }

    /// Whether `day` is the one whose shares are counted; a later one is from now on.
    fn counts_day(&mut self, day: TradingDay) -> bool {
        if self.day.is_none_or(|counted| day > counted) {
            (self.day, self.volume) = (Some(day), 0);
        }
        self.day == Some(day)
    }

    fn trade(&mut self, trade: &Trade, received: Timestamp) {
        let effect = BarEffect::of(trade.conditions, Timeframe::Minutes(1));
        if effect.open_close || self.last.is_none() {
            let Trade { ts, price, exchange, id, .. } = *trade;
            self.print(Print { ts, price, name: Some((exchange, id)) }, received);
        }
        if effect.volume && self.counts_day(trade.ts.trading_day()) {
            self.volume = self.volume.saturating_add(u64::from(trade.size));
        }
    }

    /// Takes a quote of market time `ts`; an older one than is shown changes nothing.
    fn quote(&mut self, (bid, bid_size): (Price, u32), (ask, ask_size): (Price, u32), ts: Timestamp) {
        if self.quoted_ts.is_some_and(|shown| ts < shown) {
            return;
        }
        self.quoted_ts = Some(ts);
        self.bid = Some(bid).filter(|price| !price.is_zero());
        self.ask = Some(ask).filter(|price| !price.is_zero());
        (self.bid_size, self.ask_size) = (bid_size, ask_size);
    }
}

/// The link to the server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Link {
    Live,
    /// Making up what was missed.
    CatchingUp,
    Lost {
        since: Timestamp,
        reason: String,
        retry_at: Timestamp,
    },
}

/// The part of the board that the keys act on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    Rows,
    Help,
    /// A filter is being written.
    Filter {
        /// What stands there.
        text: String,
        /// Why that is none.
        error: Option<String>,
        /// The one before, to go back to.
        before: Filter,
    },
}

/// Everything the board shows.
pub(super) struct Board {
    rows: Vec<Row>,
    by_symbol: HashMap<Symbol, u32>,
    /// The rows and the market's time as they stood when a person paused, and when that was.
    frozen: Option<(Vec<Row>, MarketTime, Timestamp)>,
    market: MarketTime,
    /// Rows that the filter admits, in their order.
    shown: Vec<u32>,
    /// A person changed the order, or there is a new row.
    order_now: bool,
    /// New prices may have changed the order.
    order_soon: bool,
    ordered: Timestamp,
    pub(super) sort: Column,
    pub(super) descending: bool,
    pub(super) filter: Filter,
    pub(super) selected: Option<Symbol>,
    /// The first row on the screen, and how many fit there.
    pub(super) offset: usize,
    page: usize,
    pub(super) mode: Mode,
    pub(super) link: Link,
    pub(super) server: String,
    messages: u64,
    pub(super) messages_per_s: f64,
    rated: (Timestamp, u64),
    pub(super) gaps: u64,
    pub(super) resumes: u64,
    pub(super) last_gap: Option<String>,
    pub(super) lag_ms: Option<u64>,
    /// How old the newest tick was on arrival.
    pub(super) latency: Option<Duration>,
}

impl Board {
    pub(super) fn new(
        server: String,
        symbols: &[Symbol],
        sort: Option<Column>,
        filter: Filter,
        now: Timestamp,
    ) -> Self {
        let sort = sort.unwrap_or(Column::Symbol);
        let mut board = Self {
            rows: Vec::new(),
            by_symbol: HashMap::default(),
            frozen: None,
            market: MarketTime::default(),
            shown: Vec::new(),
            order_now: true,
            order_soon: false,
            ordered: now,
            sort,
            descending: runs_down(sort),
            filter,
            selected: None,
            offset: 0,
            page: 0,
            mode: Mode::Rows,
            link: Link::Live,
            server,
            messages: 0,
            messages_per_s: 0.0,
            rated: (now, 0),
            gaps: 0,
            resumes: 0,
            last_gap: None,
            lag_ms: None,
            latency: None,
        };
        for symbol in symbols {
            board.with(*symbol, |_| ());
        }
        board
    }

    /// Changes the row of `symbol`, which is made where there is none and room for one.
    fn with(&mut self, symbol: Symbol, change: impl FnOnce(&mut Row)) {
        let at = match self.by_symbol.get(&symbol) {
            Some(at) => *at,
            None if self.rows.len() < ROWS_MAX => {
                let at = self.rows.len() as u32;
                self.rows.push(Row::new(symbol));
                self.by_symbol.insert(symbol, at);
                self.order_now = true;
                at
            }
            None => return,
        };
        change(&mut self.rows[at as usize]);
    }

    /// The rows a person sees, in no order: as they are, or as they were when paused.
    fn visible(&self) -> &[Row] {
        self.frozen.as_ref().map_or(&self.rows, |(rows, ..)| rows)
    }

    /// The rows to show, in order.
    pub(super) fn shown(&self) -> impl ExactSizeIterator<Item = &Row> {
        let rows = self.visible();
        self.shown.iter().map(|&at| &rows[at as usize])
    }

    /// How many rows there are, shown or not.
    pub(super) fn len(&self) -> usize {
        self.visible().len()
    }

    /// This machine's clock: now, or when a person paused.
    pub(super) fn clock(&self, now: Timestamp) -> Timestamp {
        self.frozen.as_ref().map_or(now, |(.., at)| *at)
    }

    /// The market's time, as it is or as it was when a person paused.
    pub(super) fn market(&self) -> &MarketTime {
        self.frozen.as_ref().map_or(&self.market, |(_, market, _)| market)
    }

    pub(super) fn paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// Freezes what is seen, or goes on; what comes meanwhile is taken in all the same.
    pub(super) fn pause(&mut self, now: Timestamp) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => Some((self.rows.clone(), self.market, now)),
        };
        self.order_now = true;
    }

    /// Where the selected row stands among those shown.
    pub(super) fn selected_at(&self) -> Option<usize> {
        let symbol = self.selected?;
        self.shown().position(|row| row.symbol == symbol)
    }

    /// Takes in what the stream told.
    pub(super) fn apply(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Connected { resumed } => {
                let again = matches!(self.link, Link::Lost { .. });
                self.resumes += u64::from(again);
                self.lag_ms = None;
                if !resumed {
                    self.market = MarketTime::default();
                }
                if again && !resumed {
                    self.gap("connected anew: what came between is missing".to_owned());
                }
                self.link = if resumed { Link::CatchingUp } else { Link::Live };
            }
            Event::Disconnected { reason, retry_in } => {
                let since = match self.link {
                    Link::Lost { since, .. } => since,
                    _ => now,
                };
                let nanos = i64::try_from(retry_in.as_nanos()).unwrap_or(i64::MAX);
                self.link = Link::Lost { since, reason, retry_at: now.saturating_add_nanos(nanos) };
            }
            Event::CaughtUp => self.link = Link::Live,
            Event::Heartbeat => self.lag_ms = None,
            Event::Lag { ms } => self.lag_ms = Some(ms),
            Event::Gap(what) => self.gap(what),
            Event::Snapshot(snapshot) => self.begin(&snapshot, now),
            Event::Messages(messages, received) => {
                self.messages += messages.len() as u64;
                for message in &messages {
                    self.message(message, received);
                }
                self.order_soon |= self.sort != Column::Symbol || !self.filter.text().is_empty();
            }
        }
    }

    fn gap(&mut self, what: String) {
        self.gaps += 1;
        self.last_gap = Some(what);
    }

    /// Begins a row with what the server knows, in place of what was known before.
    fn begin(&mut self, snapshot: &SymbolSnapshot, now: Timestamp) {
        let times = [snapshot.trade.map(|(.., ts)| ts), snapshot.quote.map(|(.., ts)| ts)];
        times.into_iter().flatten().for_each(|ts| self.market.know(ts, now));
        self.with(snapshot.symbol, |row| {
            row.prev_close = snapshot.prev_close.or(row.prev_close);
            row.prints.clear();
            (row.close_ts, row.status_ts) = (Timestamp::MIN, Timestamp::MIN);
            (row.bid, row.ask, row.quoted_ts) = (None, None, None);
            (row.day, row.volume) = (None, 0);
            if snapshot.trade.is_none() {
                (row.last, row.traded_ts) = (None, None);
            }
            if let Some((day, volume)) = snapshot.volume
                && row.counts_day(day)
            {
                row.volume = volume;
            }
            if let Some((_, _, ts)) = snapshot.trade {
                row.counts_day(ts.trading_day());
            }
            row.halted = snapshot.status.as_deref().is_some_and(is_halt);
            if let Some((bid, bid_size, ask, ask_size, ts)) = snapshot.quote {
                row.quote((bid, bid_size), (ask, ask_size), ts);
            }
            if let Some((price, _, ts)) = snapshot.trade {
                row.print(Print { ts, price, name: None }, ts.min(now));
            }
        });
        self.order_now = true;
    }

    fn message(&mut self, message: &Message, received: Timestamp) {
        if let Message::Tick(tick @ (Tick::Trade(_) | Tick::Quote(_))) = message {
            self.market.hear(tick.ts(), received, self.link == Link::Live);
        }
        match message {
            Message::Tick(Tick::Trade(trade)) => {
                self.latency = latency(trade.ts, received);
                self.with(trade.symbol, |row| row.trade(trade, received));
            }
            Message::Tick(Tick::Quote(quote)) => {
                self.latency = latency(quote.ts, received);
                let (bid, ask) = ((quote.bid, quote.bid_size), (quote.ask, quote.ask_size));
                self.with(quote.symbol, |row| row.quote(bid, ask, quote.ts));
            }
            Message::Tick(Tick::Status(status)) => {
                self.with(status.symbol, |row| {
                    if status.ts >= row.status_ts {
                        (row.halted, row.status_ts) = (is_halt(&status.code), status.ts);
                    }
                });
            }
            Message::Tick(Tick::PrevClose(close)) => {
                self.with(close.symbol, |row| {
                    if close.ts >= row.close_ts {
                        (row.prev_close, row.close_ts) = (Some(close.price), close.ts);
                    }
                });
            }
            Message::Tick(Tick::Cancel(cancel)) => {
                self.with(cancel.symbol, |row| {
                    row.cancel(cancel.exchange, cancel.id, received);
                    if row.counts_day(cancel.ts.trading_day()) {
                        row.volume = row.volume.saturating_sub(u64::from(cancel.size));
                    }
                });
            }
            Message::Tick(Tick::Gap(gap)) => self.gap(format!("{} {}", gap.source, gap.kind.name())),
            // The day's own sum is the truth: it holds what cancels and late trades changed.
            Message::Bar(BarChannel::Daily, bar) => self.with(bar.symbol, |row| {
                if row.counts_day(bar.ts.trading_day()) {
                    row.volume = bar.volume;
                }
            }),
            Message::Tick(Tick::Correction(correction)) => {
                self.with(correction.symbol, |row| row.correct(correction, received));
            }
            Message::Bar(..) | Message::Control(_) => {}
        }
    }

    /// Puts the rows in order where that may have changed, and counts messages a second. Called
    /// before a frame with room for `page` rows, not for each message.
    pub(super) fn prepare(&mut self, now: Timestamp, page: usize) {
        let elapsed = now.nanos_since(self.rated.0);
        if elapsed >= 1_000_000_000 {
            self.messages_per_s = (self.messages - self.rated.1) as f64 / (elapsed as f64 / 1e9);
            self.rated = (now, self.messages);
        }
        let due = self.order_soon && now.nanos_since(self.ordered) >= ORDER_PERIOD_NANOS;
        if self.order_now || due {
            (self.order_now, self.order_soon, self.ordered) = (false, false, now);
            self.order(now);
        }
        self.page = page;
        // The page follows the selected row, and never ends past the last one.
        if let Some(at) = self.selected_at() {
            self.offset = self.offset.min(at).max((at + 1).saturating_sub(page));
        }
        self.offset = self.offset.min(self.shown.len().saturating_sub(page));
    }

    fn order(&mut self, now: Timestamp) {
        let mut shown = std::mem::take(&mut self.shown);
        let (rows, clock) = (self.visible(), self.market().clock(self.clock(now)));
        shown.clear();
        shown.extend((0..rows.len() as u32).filter(|&at| self.filter.admits(&rows[at as usize], clock)));
        let (sort, descending) = (self.sort, self.descending);
        shown.sort_by(|&a, &b| {
            let (a, b) = (&rows[a as usize], &rows[b as usize]);
            let by_symbol = a.symbol.cmp(&b.symbol);
            let order = match (a.number(sort, clock), b.number(sort, clock)) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                // What is not known comes last, whichever way the order runs.
                (Some(_), None) => return Ordering::Less,
                (None, Some(_)) => return Ordering::Greater,
                (None, None) if sort == Column::Symbol => by_symbol,
                (None, None) => return by_symbol,
            };
            // Of equals the symbol decides, always the same way, so that rows do not jump.
            (if descending { order.reverse() } else { order }).then(by_symbol)
        });
        self.shown = shown;
    }

    /// Shows what `filter` admits.
    pub(super) fn set_filter(&mut self, filter: Filter) {
        self.filter = filter;
        self.order_now = true;
    }

    /// Sorts by the next column, or the one before.
    pub(super) fn sort_next(&mut self, back: bool) {
        let sortable: Vec<_> = Column::ALL.into_iter().filter(|column| *column != Column::Trend).collect();
        let at = sortable.iter().position(|column| *column == self.sort).unwrap_or(0);
        let step = if back { sortable.len() - 1 } else { 1 };
        self.sort = sortable[(at + step) % sortable.len()];
        self.descending = runs_down(self.sort);
        self.order_now = true;
    }

    /// Turns the order around.
    pub(super) fn reverse(&mut self) {
        self.descending = !self.descending;
        self.order_now = true;
    }

    /// Moves the selection by `rows`, held within what is shown.
    pub(super) fn select(&mut self, rows: isize) {
        let last = self.shown.len().saturating_sub(1);
        let at = match self.selected_at() {
            Some(at) => at.saturating_add_signed(rows).min(last),
            None => self.offset.min(last),
        };
        let selected = self.shown().nth(at).map(|row| row.symbol);
        self.selected = selected;
    }

    /// Moves the selection by whole pages.
    pub(super) fn select_page(&mut self, pages: isize) {
        self.select(pages * self.page.max(1) as isize);
    }

    /// Selects the first row, or the last.
    pub(super) fn select_end(&mut self, last: bool) {
        let at = if last { self.shown.len().saturating_sub(1) } else { 0 };
        let selected = self.shown().nth(at).map(|row| row.symbol);
        self.selected = selected;
    }
}

/// Numbers begin with the highest, names and ages with the lowest.
fn runs_down(sort: Column) -> bool {
    !matches!(sort, Column::Symbol | Column::Age)
}

fn is_halt(code: &str) -> bool {
    matches!(code, "H" | "P" | "2" | "3")
}

/// How old a tick was on arrival; nothing for one of another day, which is replayed, or for a clock
/// that is ahead.
fn latency(ts: Timestamp, received: Timestamp) -> Option<Duration> {
    const DAY_NANOS: u64 = 86_400_000_000_000;
    let nanos = u64::try_from(received.nanos_since(ts)).ok().filter(|nanos| *nanos < DAY_NANOS)?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json;

    const NOW: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);

    fn board() -> Board {
        Board::new("here:1".to_owned(), &[], None, Filter::default(), NOW)
    }

    fn tell(board: &mut Board, text: &str) {
        board.apply(Event::Messages(json::decode(text.as_bytes(), NOW).unwrap(), NOW), NOW);
    }

    fn trade(symbol: &str, price: &str, size: u32) -> String {
        format!(
            r#"{{"T":"t","S":"{symbol}","i":1,"x":"V","p":{price},"s":{size},"c":["@"],"t":"2023-11-14T22:13:19Z","z":"C"}}"#
        )
    }

    fn order(board: &mut Board) -> String {
        board.prepare(NOW, 10);
        board.shown().map(|row| row.symbol.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rows_follow_the_stream() {
        let mut board = board();
        tell(&mut board, &format!("[{},{}]", trade("AAPL", "190", 100), trade("AAPL", "191.5", 50)));
        tell(&mut board, r#"[{"T":"pc","S":"AAPL","p":190,"t":"2023-11-14T22:13:19Z"}]"#);
        board.prepare(NOW, 10);
        let row = board.shown().next().unwrap();
        assert_eq!((row.last.unwrap().to_string(), row.direction, row.volume), ("191.5".to_owned(), 1, 150));
        assert_eq!(row.change().unwrap().to_string(), "1.5");
        assert_eq!(board.latency, Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_late_trade_or_quote_changes_no_price() {
        let mut board = board();
        let shown = |board: &mut Board| {
            board.prepare(NOW, 10);
            let row = board.shown().next().unwrap();
            [row.last, row.bid].map(|price| price.map(|price| price.to_string()).unwrap_or_default())
        };
        let at = |ts: &str, id: u64, price: &str| {
            let trade = trade("A", price, 100).replace("2023-11-14T22:13:19", ts);
            trade.replace(r#""i":1"#, &format!(r#""i":{id}"#))
        };
        let quote = |ts: &str, bid: &str| {
            format!(
                r#"{{"T":"q","S":"A","bx":"V","bp":{bid},"bs":1,"ax":"V","ap":20,"as":1,"c":["R"],"t":"{ts}Z","z":"C"}}"#
            )
        };
        tell(
            &mut board,
            &format!("[{},{}]", at("2023-11-14T22:13:19", 1, "10"), quote("2023-11-14T22:13:19", "9")),
        );
        tell(
            &mut board,
            &format!("[{},{}]", at("2023-11-14T22:12:00", 2, "11"), quote("2023-11-14T22:12:00", "8")),
        );
        assert_eq!(shown(&mut board), ["10", "9"]);
        assert_eq!(board.shown().next().unwrap().volume, 200, "a late trade counts for the day");
        tell(
            &mut board,
            &format!("[{},{}]", at("2023-11-13T22:12:00", 3, "12"), quote("2023-11-14T22:13:19", "9.5")),
        );
        assert_eq!(shown(&mut board), ["10", "9.5"], "of equal times the last counts");
        assert_eq!(board.shown().next().unwrap().volume, 200, "a trade of the day before does not");
        let correction = r#"[{"T":"c","S":"A","x":"V","oi":2,"op":11,"os":100,"oc":["@"],"ci":4,"cp":11.5,"cs":100,"cc":["@"],"t":"2023-11-14T22:13:20Z","z":"C"}]"#;
        tell(&mut board, correction);
        assert_eq!(shown(&mut board), ["10", "9.5"]);
        tell(
            &mut board,
            r#"[{"T":"x","S":"A","i":1,"x":"V","p":10,"s":100,"a":"C","t":"2023-11-14T22:13:20Z","z":"C"}]"#,
        );
        assert_eq!(
            shown(&mut board),
            ["11.5", "9.5"],
            "the last was broken: the one before it, as corrected"
        );
    }

    #[test]
    fn sorting_is_stable_and_keeps_the_selection() {
        let mut board = board();
        tell(&mut board, &format!("[{},{},{}]", trade("B", "2", 1), trade("C", "2", 1), trade("A", "3", 1)));
        assert_eq!(order(&mut board), "A B C");
        board.select(0);
        board.select(1);
        assert_eq!(board.selected.unwrap().as_str(), "B");
        board.sort_next(false);
        assert_eq!((board.sort, board.descending), (Column::Last, true));
        assert_eq!(order(&mut board), "A B C", "equals stay in the order of their symbols");
        tell(&mut board, &format!("[{}]", trade("B", "9", 1)));
        board.ordered = Timestamp::MIN;
        assert_eq!(order(&mut board), "B A C");
        assert_eq!(board.selected_at(), Some(0), "the selected symbol is kept");
        board.reverse();
        assert_eq!(order(&mut board), "C A B");
        board.set_filter("last>2".parse().unwrap());
        assert_eq!(order(&mut board), "A B");
    }

    #[test]
    fn a_lost_link_keeps_its_beginning() {
        let mut board = board();
        let lost = |reason: &str| Event::Disconnected {
            reason: reason.to_owned(),
            retry_in: Duration::from_secs(1),
        };
        board.apply(lost("first"), NOW);
        board.apply(lost("second"), NOW.saturating_add_nanos(5));
        let retry_at = NOW.saturating_add_nanos(1_000_000_005);
        assert_eq!(board.link, Link::Lost { since: NOW, reason: "second".to_owned(), retry_at });
        board.apply(Event::Connected { resumed: true }, NOW);
        assert_eq!((&board.link, board.resumes), (&Link::CatchingUp, 1));
        board.apply(Event::CaughtUp, NOW);
        assert_eq!(board.link, Link::Live);
    }

    #[test]
    fn a_resume_goes_on_counting_and_a_new_beginning_is_a_gap() {
        let mut board = board();
        tell(&mut board, &format!("[{},{}]", trade("AAPL", "190", 100), trade("AAPL", "191", 50)));
        let lost = Event::Disconnected { reason: String::new(), retry_in: Duration::ZERO };
        board.apply(lost.clone(), NOW);
        board.apply(Event::Connected { resumed: true }, NOW);
        // At the same time as the last before the break: the server sends nothing twice.
        tell(&mut board, &format!("[{}]", trade("AAPL", "192", 7)));
        board.prepare(NOW, 10);
        assert_eq!(board.shown().next().unwrap().volume, 157);
        assert_eq!((board.gaps, board.resumes), (0, 1));
        board.apply(lost, NOW);
        board.apply(Event::Connected { resumed: false }, NOW);
        assert_eq!((board.gaps, &board.link), (1, &Link::Live), "what can't be resumed is a gap");
    }

    #[test]
    fn shares_are_those_of_the_last_day() {
        let mut board = board();
        let daily = |day: &str, volume| {
            format!(
                r#"[{{"T":"d","S":"A","o":1,"h":1,"l":1,"c":1,"v":{volume},"n":1,"vw":1,"t":"{day}T05:00:00Z"}}]"#
            )
        };
        let volume = |board: &mut Board| {
            board.prepare(NOW, 10);
            board.shown().next().unwrap().volume
        };
        tell(&mut board, &daily("2023-11-13", 9000));
        assert_eq!(volume(&mut board), 9000);
        // The first trade of the next day, though none of it makes a bar.
        tell(&mut board, &format!("[{}]", trade("A", "10", 100).replace("\"@\"", "\"T\"")));
        assert_eq!(volume(&mut board), 100);
        tell(&mut board, &daily("2023-11-13", 9001));
        assert_eq!(volume(&mut board), 100, "the day before is amended late");
    }

    #[test]
    fn sale_conditions_decide_what_a_trade_changes() {
        let mut board = board();
        tell(&mut board, &format!("[{}]", trade("A", "10", 100)));
        let with = |code: &str, price: &str| trade("A", price, 5).replace("\"@\"", &format!("\"{code}\""));
        tell(&mut board, &format!("[{},{}]", with("I", "11"), with("M", "12")));
        board.prepare(NOW, 10);
        let row = board.shown().next().unwrap();
        assert_eq!((row.last.unwrap().to_string().as_str(), row.volume), ("10", 105));
        tell(
            &mut board,
            r#"[{"T":"d","S":"A","o":1,"h":1,"l":1,"c":1,"v":9000,"n":1,"vw":1,"t":"2023-11-14T05:00:00Z"}]"#,
        );
        tell(
            &mut board,
            r#"[{"T":"b","S":"A","o":1,"h":1,"l":1,"c":1,"v":30,"n":1,"vw":1,"t":"2023-11-14T22:13:00Z"}]"#,
        );
        assert_eq!(board.shown().next().unwrap().volume, 9000, "the day's sum rules, a minute's does not");
    }

    #[test]
    fn paused_is_frozen_and_loses_nothing() {
        let mut board = board();
        tell(&mut board, &format!("[{}]", trade("A", "1", 1)));
        board.pause(NOW);
        tell(&mut board, &format!("[{},{}]", trade("A", "2", 1), trade("B", "5", 1)));
        assert_eq!(order(&mut board), "A");
        assert_eq!(board.shown().next().unwrap().last.unwrap().to_string(), "1");
        let later = NOW.saturating_add_nanos(9_000_000_000);
        assert_eq!(board.clock(later), NOW);
        board.pause(later);
        assert_eq!(order(&mut board), "A B");
        assert_eq!(board.shown().next().unwrap().last.unwrap().to_string(), "2");
    }

    #[test]
    fn new_prices_reorder_once_a_second_at_most() {
        let mut board = board();
        tell(&mut board, &format!("[{},{}]", trade("A", "1", 1), trade("B", "2", 1)));
        board.sort_next(false);
        assert_eq!(order(&mut board), "B A");
        tell(&mut board, &format!("[{}]", trade("A", "3", 1)));
        assert_eq!(order(&mut board), "B A");
        board.prepare(NOW.saturating_add_nanos(ORDER_PERIOD_NANOS), 10);
        assert_eq!(board.shown().next().unwrap().symbol.as_str(), "A");
        board.reverse();
        assert_eq!(order(&mut board), "B A", "a person's wish is done at once");
    }

    #[test]
    fn the_page_follows_the_selection() {
        let mut board = board();
        for at in 0..20 {
            tell(&mut board, &format!("[{}]", trade(&format!("S{at:02}"), "1", 1)));
        }
        board.prepare(NOW, 5);
        board.select_end(true);
        board.prepare(NOW, 5);
        assert_eq!((board.offset, board.selected_at()), (15, Some(19)));
        board.select_page(-1);
        board.prepare(NOW, 5);
        assert_eq!((board.offset, board.selected_at()), (14, Some(14)));
        board.prepare(NOW, 50);
        assert_eq!(board.offset, 0);
        board.select_end(false);
        assert_eq!(board.selected_at(), Some(0));
    }
}
