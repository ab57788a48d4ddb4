//! Live bars anew from their trades, after a late, broken or amended one.
//!
//! Whose bars of which day can't be told from what the hub has at hand is marked by the same code as
//! in the processor, and rebuilt by the same code here: from what history holds of the day up to
//! where the hub was, and from what the hub has taken in since. So each gateway tells the right bars
//! by itself, wherever the processor runs, and goes on from them. Beside the path of live ticks: one
//! partition at a time, one symbol's trades in memory at a time, for a tenth of the time at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::hub::Hub;
use crate::market::{Kind, Seq, Symbol, Tick, TimeRange, TradingDay};
use crate::tiering::history::{History, HistoryError, HistoryQuery};

/// The least time between two rounds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The same after a round that failed.
const PAUSE_FAILED: Duration = Duration::from_secs(10);
/// Symbols of one question to history.
const SYMBOLS_MAX: usize = 256;
/// Ticks that are kept of marked symbols while history is asked; past it they are asked for again.
const MEANWHILE_MAX: usize = 100_000;

/// What amends bars of marked symbols and has come since history was asked for the rest.
pub(super) struct Meanwhile {
    ticks: HashMap<Symbol, Vec<(Seq, Tick)>>,
    count: usize,
}

impl Meanwhile {
    pub(super) fn new(symbols: impl Iterator<Item = Symbol>) -> Self {
        Self { ticks: symbols.map(|symbol| (symbol, Vec::new())).collect(), count: 0 }
    }

    pub(super) fn take(&mut self, seq: Seq, tick: &Tick) {
        let (Tick::Trade(_) | Tick::Cancel(_) | Tick::Correction(_)) = tick else { return };
        let Some(ticks) = tick.symbol().and_then(|symbol| self.ticks.get_mut(&symbol)) else { return };
        self.count += 1;
        if self.count > MEANWHILE_MAX {
            self.ticks = HashMap::new();
        } else {
            ticks.push((seq, tick.clone()));
        }
    }

    /// Whether more has come than is kept.
    pub(super) fn is_over(&self) -> bool {
        self.count > MEANWHILE_MAX
    }

    /// What has come of `symbol`; `None` where it was too much.
    pub(super) fn of(&self, symbol: Symbol) -> Option<&[(Seq, Tick)]> {
        self.ticks.get(&symbol).map(Vec::as_slice)
    }
}

/// Rebuilds what `hub` marks, until `stop`.
pub(super) async fn run(hub: Arc<Hub>, history: History, stop: CancellationToken) {
    let rounds = async {
        loop {
            hub.marked().await;
            let began = Instant::now();
            let mut pause = PAUSE_MIN;
            for partition in 0..hub.bus.partitions() {
                if let Err(reason) = rebuild(&hub, &history, partition).await {
                    warn!(partition, %reason, "live bars can't be rebuilt; they are tried again");
                    pause = PAUSE_FAILED;
                }
            }
            tokio::time::sleep(pause.max(began.elapsed() * 9)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = rounds => {}
    }
}

async fn rebuild(hub: &Hub, history: &History, partition: u16) -> Result<(), HistoryError> {
    let Some((marked, before)) = hub.begin_rebuild(partition) else { return Ok(()) };
    let mut days: BTreeMap<TradingDay, Vec<Symbol>> = BTreeMap::new();
    for (symbol, day) in marked {
        days.entry(day).or_default().push(symbol);
    }
    let mut done = Ok(());
    for (day, symbols) in &days {
        for symbols in symbols.chunks(SYMBOLS_MAX) {
            let range = TimeRange { from: day.start(), to: day.end() };
            let mut days_rows = Rows { history, partition, before, range, symbols };
            if done.is_ok() {
                done = rebuild_day(hub, &mut days_rows, *day).await;
            }
        }
    }
    hub.end_rebuild(partition, done.is_ok());
    done
}

/// Rebuilds `day` for symbols that ascend.
async fn rebuild_day(hub: &Hub, rows: &mut Rows<'_>, day: TradingDay) -> Result<(), HistoryError> {
    let mut amending: HashMap<Symbol, Vec<(Seq, Tick)>> = HashMap::new();
    for kind in [Kind::Cancel, Kind::Correction] {
        let take = |symbol, seq, tick| amending.entry(symbol).or_default().push((seq, tick));
        if !rows.each(kind, take).await? {
            return Ok(());
        }
    }
    let mut left = rows.symbols.iter().copied().peekable();
    let mut held: Vec<(Seq, Tick)> = Vec::new();
    let partition = rows.partition;
    let mut rebuild = |symbol: Symbol, trades: &mut Vec<(Seq, Tick)>| {
        trades.extend(amending.remove(&symbol).unwrap_or_default());
        // In the order in which they count: little is left to do while the hub waits.
        trades.sort_unstable_by_key(|(seq, _)| *seq);
        hub.rebuild(partition, symbol, day, trades);
        trades.clear();
    };
    let is_whole = rows
        .each(Kind::Trade, |symbol, seq, tick| {
            while let Some(done) = left.next_if(|next| *next < symbol) {
                rebuild(done, &mut held);
            }
            held.push((seq, tick));
        })
        .await?;
    if is_whole {
        left.for_each(|symbol| rebuild(symbol, &mut held));
    }
    Ok(())
}

/// What history holds of some symbols in one partition before an offset.
struct Rows<'a> {
    history: &'a History,
    partition: u16,
    before: u64,
    range: TimeRange,
    symbols: &'a [Symbol],
}

impl Rows<'_> {
    /// Calls `take` with each row, by symbol; false, and none, where rows of the partition are missing
    /// or archived where they can't be read: bars from the rest would be no better than those there
    /// are.
    async fn each(&self, kind: Kind, mut take: impl FnMut(Symbol, Seq, Tick)) -> Result<bool, HistoryError> {
        let symbols = self.symbols.to_vec();
        let query = HistoryQuery { symbols, kind, timeframe: None, range: self.range, limit: None };
        let mut answer = self.history.query(query).await?;
        let is_missing = answer.coverage.missing.iter().any(|missing| missing.partition == self.partition);
        let archived = &answer.coverage.archived;
        // Of other kinds none is needed here.
        let is_frozen = archived.frozen_not_listed > 0 || archived.frozen.iter().any(|of| of.kind == kind);
        if is_missing || is_frozen {
            return Ok(false);
        }
        while let Some(batch) = answer.rows.next().await {
            let batch = batch?;
            let rows = batch.rows()?;
            for row in 0..batch.len() {
                let seq = rows.seq(row);
                if let Some(symbol) = rows.symbol(row)
                    && seq.partition == self.partition
                    && seq.offset < self.before
                {
                    take(symbol, seq, rows.tick(row)?);
                }
            }
        }
        Ok(true)
    }
}
