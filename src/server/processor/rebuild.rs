//! Bars anew from their trades, after a late, broken or amended one.

use std::collections::BTreeMap;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use futures_util::StreamExt;
use tokio::time::Instant;

use super::worker::Worker;
use super::{ProcessorError, Shared};
use crate::fail;
use crate::market::{Kind, Seq, Symbol, Tick, TickBatch, TimeRange, TradingDay};
use crate::tiering::tiers::{TierRows, TiersError};
use crate::tiering::warm::WarmError;
use crate::wire::record::RecordView;

/// How long a day of which objects must be restored first is not asked for again.
const FROZEN_PAUSE: Duration = Duration::from_mins(10);

/// The least time between two rounds where there are such days alone.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// Ticks with their places, by symbol.
type Rows = HashMap<Symbol, Vec<(Seq, Tick)>>;

impl Worker {
    /// Rebuilds all bars that are marked, from the rows in warm, in the archive, and those that only
    /// the log has.
    pub(super) async fn rebuild(&mut self) -> Result<(), ProcessorError> {
        let now = Instant::now();
        self.frozen_days.retain(|_, until| *until > now);
        let (kept_back, marked): (Vec<_>, Vec<_>) =
            self.state.take_rebuilds().into_iter().partition(|(_, day)| self.frozen_days.contains_key(day));
        kept_back.into_iter().for_each(|(symbol, day)| self.state.postpone(symbol, day));
        if marked.is_empty() {
            self.rebuilt = Some((now + IDLE_PAUSE, Duration::ZERO));
            return Ok(());
        }
        // Rows are in warm or after `stored`, never in between.
        self.wait_stored().await?;
        let shared = self.shared.clone();
        let _turn = shared.rebuilding.lock().await;
        let began = Instant::now();
        let mut days: BTreeMap<TradingDay, Vec<Symbol>> = BTreeMap::new();
        for (symbol, day) in &marked {
            days.entry(*day).or_default().push(*symbol);
        }
        let mut log = self.rows_in_log(&marked).await?;
        for (day, symbols) in days {
            let mut attempt = 0;
            loop {
                let rebuilt = self.rebuild_day(day, &symbols, &mut log).await;
                if !matches!(rebuilt, Err(Failed::Warm(_))) {
                    // The next block may be long in coming.
                    self.shared.warm_is_back();
                }
                match rebuilt {
                    Ok(()) => {
                        self.shared.metrics.rebuilds.inc_by(symbols.len() as u64);
                        break;
                    }
                    Err(Failed::Warm(source)) => {
                        let again = self.shared.may_retry_warm(self.partition, attempt, &source).await;
                        if !again {
                            return Err(ProcessorError::Warm { partition: self.partition, source });
                        }
                        attempt += 1;
                    }
                    Err(Failed::Frozen) => {
                        tracing::warn!(
                            %day,
                            symbols = symbols.len(),
                            "ticks came for a day whose trades must be restored from the archive first; its \
                             bars stay as they are until then"
                        );
                        self.shared.metrics.rebuilds_kept_back.inc_by(symbols.len() as u64);
                        symbols.iter().for_each(|symbol| self.state.postpone(*symbol, day));
                        self.frozen_days.insert(day, Instant::now() + FROZEN_PAUSE);
                        break;
                    }
                    // What is stored goes on without them; the marks stay.
                    Err(Failed::Unreadable(error)) => {
                        tracing::warn!(%day, %error, "trades can't be read; the bars are to be rebuilt later");
                        self.shared.metrics.rebuilds_kept_back.inc_by(symbols.len() as u64);
                        symbols.iter().for_each(|symbol| self.state.postpone(*symbol, day));
                        break;
                    }
                }
            }
        }
        // Whoever goes on finds the marks in the state of the last block stored.
        fail::point("processor.rebuilt");
        self.rebuilt = Some((Instant::now(), began.elapsed()));
        Ok(())
    }

    /// Rebuilds `day` for `symbols`, which ascend. One symbol's trades are held at a time.
    async fn rebuild_day(
        &mut self,
        day: TradingDay,
        symbols: &[Symbol],
        log: &mut Rows,
    ) -> Result<(), Failed> {
        let shared = self.shared.clone();
        // After every tick taken in and before all that follow, so that no stored revision stands at
        // the same place.
        let at = Seq { partition: self.partition, offset: self.next.saturating_sub(1), index: u32::MAX };
        let next = self.next;
        let mut amending: Rows = HashMap::new();
        for kind in [Kind::Cancel, Kind::Correction] {
            let mut rows = scan(&shared, kind, day, symbols).await?;
            while let Some(batch) = rows.next().await {
                for_rows(&batch?, |symbol, seq, tick| {
                    if seq.offset < next {
                        amending.entry(symbol).or_default().push((seq, tick));
                    }
                })?;
            }
        }
        let mut left = symbols.iter().copied().peekable();
        let mut held: Vec<(Seq, Tick)> = Vec::new();
        let mut rebuild = |symbol: Symbol, trades: &mut Vec<(Seq, Tick)>| {
            trades.extend(amending.remove(&symbol).unwrap_or_default());
            trades.extend(log.get(&symbol).into_iter().flatten().cloned());
            self.state.rebuild(symbol, day, at, trades);
            trades.clear();
        };
        let mut trades = scan(&shared, Kind::Trade, day, symbols).await?;
        while let Some(batch) = trades.next().await {
            for_rows(&batch?, |symbol, seq, tick| {
                while let Some(done) = left.next_if(|next| *next < symbol) {
                    rebuild(done, &mut held);
                }
                // What the archive has of records that are still to be taken in comes with them.
                if seq.offset < next {
                    held.push((seq, tick));
                }
            })?;
        }
        left.for_each(|symbol| rebuild(symbol, &mut held));
        Ok(())
    }

    /// Trades and what amends them of the marked symbols, out of the records not yet in warm.
    async fn rows_in_log(&self, marked: &[(Symbol, TradingDay)]) -> Result<Rows, ProcessorError> {
        let mut rows: Rows = marked.iter().map(|(symbol, _)| (*symbol, Vec::new())).collect();
        if self.stored == self.next {
            return Ok(rows);
        }
        let shared = &self.shared;
        let reader = shared.stores.bus.reader(self.partition, self.stored).await;
        let mut reader = reader.map_err(|error| self.bus_error(error))?;
        while reader.offset() < self.next {
            let next = reader.offset();
            let records = reader.next(shared.config.read_bytes_max).await;
            let records = records.map_err(|error| self.bus_error(error))?;
            reader.check_follows(next, &records).map_err(ProcessorError::hole(self.partition))?;
            for record in records {
                if record.offset >= self.next {
                    break;
                }
                if self.repeats.binary_search(&record.offset).is_ok() {
                    continue;
                }
                let damaged = |source| ProcessorError::Record {
                    partition: self.partition,
                    offset: record.offset,
                    source,
                };
                let view = RecordView::parse(&record.bytes).map_err(damaged)?;
                if !view.symbols().iter().any(|symbol| rows.contains_key(symbol)) {
                    continue;
                }
                for (index, row) in (0..).zip(view.ticks()) {
                    let (_, tick) = row.map_err(damaged)?;
                    let (Tick::Trade(_) | Tick::Cancel(_) | Tick::Correction(_)) = tick else { continue };
                    if let Some(rows) = tick.symbol().and_then(|symbol| rows.get_mut(&symbol)) {
                        rows.push((Seq { partition: self.partition, offset: record.offset, index }, tick));
                    }
                }
            }
        }
        Ok(rows)
    }
}

/// Why a day could not be rebuilt.
enum Failed {
    /// Warm refuses.
    Warm(WarmError),
    /// The archive can't be read now, or warm lacks rows of the day. Other days are not affected.
    Unreadable(TiersError),
    /// The trades are in objects that must be restored first.
    Frozen,
}

impl From<WarmError> for Failed {
    fn from(error: WarmError) -> Self {
        match error {
            WarmError::Damaged { .. } => Self::Unreadable(TiersError::Warm(error)),
            error => Self::Warm(error),
        }
    }
}

impl From<TiersError> for Failed {
    fn from(error: TiersError) -> Self {
        match error {
            TiersError::Warm(error) => error.into(),
            error => Self::Unreadable(error),
        }
    }
}

async fn scan(shared: &Shared, kind: Kind, day: TradingDay, symbols: &[Symbol]) -> Result<TierRows, Failed> {
    let range = TimeRange { from: day.start(), to: day.end() };
    let scan = shared.stores.tiers().scan(kind, Some(symbols), range).await?;
    if scan.archived.frozen.is_empty() { Ok(scan.rows) } else { Err(Failed::Frozen) }
}

/// Calls `take` with each row of a symbol.
pub(super) fn for_rows(batch: &TickBatch, mut take: impl FnMut(Symbol, Seq, Tick)) -> Result<(), WarmError> {
    let damaged = |error: crate::market::BatchError| WarmError::Damaged {
        path: format!("{} rows of warm", batch.kind().name()),
        reason: error.to_string(),
    };
    let rows = batch.rows().map_err(damaged)?;
    for row in 0..batch.len() {
        if let Some(symbol) = rows.symbol(row) {
            take(symbol, rows.seq(row), rows.tick(row).map_err(damaged)?);
        }
    }
    Ok(())
}
