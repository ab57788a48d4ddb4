//! What a processor knows of one partition at one offset: which records are repeats, and the bars
//! that are still being formed. A pure function of the log, so that the processor, history and
//! gateways all derive the same from the same records.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::market::{Bar, Seq, Symbol, SymbolTable, Tick, TickBatch, TickBatchBuilder, Timeframe, Timestamp, TradingDay};
use crate::wire::record::Origin;

/// Why bytes are no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StateError(String);

/// Repeats and bars of one partition.
#[derive(Default)]
pub struct PartitionState {
    producers: BTreeMap<u64, u64>,
    bars: BTreeMap<(Symbol, Timestamp, Timeframe), (Seq, Bar)>,
    changed: BTreeSet<(Symbol, Timestamp, Timeframe)>,
    rebuilds: BTreeSet<(Symbol, TradingDay)>,
}

impl PartitionState {
    /// Reads what [`PartitionState::save`] wrote; nothing makes an empty state.
    pub fn restore(bytes: &[u8]) -> Result<Self, StateError> {
        let mut state = Self::default();
        if bytes.is_empty() {
            return Ok(state);
        }
        let (producers, bars) = bytes.split_at(8);
        let count = u64::from_le_bytes(producers.try_into().map_err(|_| StateError("short".to_owned()))?);
        let (pairs, ipc) = bars.split_at(count as usize * 16);
        for pair in pairs.as_chunks::<16>().0 {
            let (a, b) = pair.split_at(8);
            state.producers.insert(
                u64::from_le_bytes(a.try_into().unwrap_or_default()),
                u64::from_le_bytes(b.try_into().unwrap_or_default()),
            );
        }
        let reader = arrow_ipc::reader::StreamReader::try_new(ipc, None).map_err(|e| StateError(e.to_string()))?;
        for batch in reader {
            let batch = batch.map_err(|e| StateError(e.to_string()))?;
            let batch = TickBatch::from_record_batch(crate::market::Kind::Bar, batch)
                .map_err(|e| StateError(e.to_string()))?;
            let rows = batch.rows().map_err(|e| StateError(e.to_string()))?;
            for row in 0..batch.len() {
                let (seq, bar) = rows.bar(row).map_err(|e| StateError(e.to_string()))?;
                state.bars.insert((bar.symbol, bar.ts, bar.timeframe), (seq, bar));
            }
        }
        Ok(state)
    }

    /// The state as bytes.
    pub fn save(&self) -> Bytes {
        let mut out = (self.producers.len() as u64).to_le_bytes().to_vec();
        for (a, b) in &self.producers {
            out.extend_from_slice(&a.to_le_bytes());
            out.extend_from_slice(&b.to_le_bytes());
        }
        let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
        for (seq, bar) in self.bars.values() {
            builder.push_bar(table.intern(bar.symbol), *seq, bar);
        }
        let schema = TickBatch::schema(crate::market::Kind::Bar);
        if let Ok(mut writer) = arrow_ipc::writer::StreamWriter::try_new(&mut out, &schema) {
            for (_, batch) in builder.finish(&table) {
                let _ = writer.write(batch.record_batch());
            }
            let _ = writer.finish();
        }
        out.into()
    }

    /// Whether the record is new.
    pub fn admit(&mut self, origin: Origin) -> bool {
        match self.producers.get(&origin.producer) {
            Some(last) if origin.sequence <= *last => false,
            _ => {
                self.producers.insert(origin.producer, origin.sequence);
                true
            }
        }
    }

    /// Takes a tick in.
    pub fn apply(&mut self, seq: Seq, tick: &Tick) {
        match tick {
            Tick::Trade(trade) => {
                for timeframe in [Timeframe::MINUTE, Timeframe::Day] {
                    let empty = Bar::empty(trade.symbol, timeframe, trade.ts);
                    let key = (trade.symbol, empty.ts, timeframe);
                    let (last, bar) = self.bars.entry(key).or_insert((seq, empty));
                    if bar.add(trade) {
                        *last = seq;
                        self.changed.insert(key);
                    }
                }
            }
            Tick::Cancel(cancel) => {
                self.rebuilds.insert((cancel.symbol, cancel.ts.trading_day()));
            }
            _ => {}
        }
    }

    /// The bars that changed since the last call.
    pub fn take_changed_bars(&mut self) -> Vec<(Seq, Bar)> {
        std::mem::take(&mut self.changed).into_iter().filter_map(|key| self.bars.get(&key).copied()).collect()
    }

    /// What must be formed anew.
    pub fn take_rebuilds(&mut self) -> Vec<(Symbol, TradingDay)> {
        std::mem::take(&mut self.rebuilds).into_iter().collect()
    }

    /// Forms the bars of a day anew.
    pub fn rebuild(&mut self, symbol: Symbol, day: TradingDay, seq: Seq, ticks: &[(Seq, Tick)]) {
        let cancelled: BTreeSet<u64> = ticks
            .iter()
            .filter_map(|(_, tick)| match tick {
                Tick::Cancel(cancel) => Some(cancel.id),
                _ => None,
            })
            .collect();
        for (key, (last, bar)) in &mut self.bars {
            if key.0 == symbol && key.1.trading_day() == day {
                *bar = Bar::empty(symbol, key.2, key.1);
                *last = seq;
                self.changed.insert(*key);
            }
        }
        for (_, tick) in ticks {
            if matches!(tick, Tick::Trade(trade) if !cancelled.contains(&trade.id)) {
                self.apply(seq, tick);
            }
        }
    }
}
