//! A block on its way into warm, while the worker fills the next one.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::task::JoinHandle;

use super::{ProcessorError, ProcessorMetrics, Shared};
use crate::bus::BusError;
use crate::fail;
use crate::market::{Symbol, SymbolTable, TickBatchBuilder};
use crate::tiering::warm::{Block, WarmError};

/// Rows that count as held for as long as this lives: until they are stored, or given up with the
/// worker that has them.
pub(super) struct HeldRows {
    gauge: Gauge<i64, AtomicI64>,
    rows: i64,
}

impl HeldRows {
    pub(super) fn none(metrics: &ProcessorMetrics) -> Self {
        Self { gauge: metrics.held_rows.clone(), rows: 0 }
    }

    pub(super) fn add(&mut self, rows: usize) {
        self.rows += rows as i64;
        self.gauge.inc_by(rows as i64);
    }
}

impl Drop for HeldRows {
    fn drop(&mut self) {
        self.gauge.dec_by(self.rows);
    }
}

/// What a block is made from. The builder goes back and forth, so that its memory is kept.
pub(super) struct Filled {
    pub(super) builder: TickBatchBuilder,
    /// Of the builder's rows.
    pub(super) held: HeldRows,
    /// Symbols that have got a number since the block before.
    pub(super) new_symbols: Vec<Symbol>,
    pub(super) first_offset: u64,
    pub(super) next_offset: u64,
    pub(super) checkpoint: Bytes,
    /// See [`Block::seam`].
    pub(super) seam: Option<u64>,
}

/// What comes back when a block is stored.
pub(super) struct Stored {
    pub(super) writer: Writer,
    pub(super) next_offset: u64,
    pub(super) rows: usize,
}

/// Makes blocks of one partition and stores them, one at a time.
pub(super) struct Writer {
    shared: Arc<Shared>,
    partition: u16,
    /// The state's symbols, by the same numbers.
    table: SymbolTable,
    /// What is to be filled next.
    pub(super) spare: TickBatchBuilder,
}

/// A block being stored.
pub(super) type Storing = JoinHandle<Result<Stored, ProcessorError>>;

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, partition: u16) -> Self {
        Self { shared, partition, table: SymbolTable::default(), spare: TickBatchBuilder::new(partition) }
    }

    /// Stores `filled` in the background.
    pub(super) fn store(mut self, filled: Filled) -> Storing {
        tokio::spawn(async move {
            let partition = self.partition;
            let Filled { mut builder, held, new_symbols, first_offset, next_offset, checkpoint, seam } =
                filled;
            let rows = builder.rows();
            let put_in_order = tokio::task::spawn_blocking(move || {
                for symbol in new_symbols {
                    self.table.intern(symbol);
                }
                let batches = builder.finish(&self.table);
                self.spare = builder;
                (self, batches)
            });
            let (writer, batches) = put_in_order.await.map_err(|error| ProcessorError::Worker {
                partition,
                what: format!("could not order a block: {error}"),
            })?;
            let block = Block { partition, first_offset, next_offset, batches, checkpoint, seam };
            writer.commit(block).await?;
            fail::point("processor.stored");
            let metrics = &writer.shared.metrics;
            metrics.blocks.inc();
            metrics.rows.inc_by(rows as u64);
            drop(held);
            writer.shared.stores.bus.release(partition, next_offset);
            Ok(Stored { writer, next_offset, rows })
        })
    }

    async fn commit(&self, block: Block) -> Result<(), ProcessorError> {
        let Block { partition, next_offset, .. } = block;
        let failed = |source| ProcessorError::Warm { partition, source };
        let mut attempt = 0;
        while let Err(source) = self.shared.log_is_durable().await {
            let passing = matches!(source, BusError::Full { .. });
            if !(passing && self.shared.may_retry(partition, attempt, &source).await) {
                return Err(ProcessorError::Bus { partition, source });
            }
            attempt += 1;
        }
        let warm = &self.shared.stores.warm;
        let mut attempt = 0;
        loop {
            let Err(source) = warm.commit(block.clone()).await else {
                self.shared.warm_is_back();
                return Ok(());
            };
            match source {
                // An attempt that seemed to fail had been stored.
                WarmError::NotNext { next_offset: mark, .. } if attempt > 0 && mark == next_offset => {
                    self.shared.warm_is_back();
                    return Ok(());
                }
                _ if self.shared.may_retry_warm(partition, attempt, &source).await => attempt += 1,
                _ => return Err(failed(source)),
            }
        }
    }
}
