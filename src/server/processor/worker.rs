//! A partition's worker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::block::{Filled, HeldRows, Stored, Storing, Writer};
use super::members::Goal;
use super::{ProcessorError, Shared, Status, Stores, expired, restore};
use crate::bus::{Bounds, BusError, Record};
use crate::fail;
use crate::market::{
    Bar, Kind, NO_SYMBOL, Seq, Symbol, TickBatchBuilder, TimeRange, Timeframe, Timestamp, TradingDay,
};
use crate::tiering::archive::read::SharedReadStats;
use crate::tiering::archive::snapshot::ReadError;
use crate::tiering::hot::HotUpdates;
use crate::tiering::hot::memory::HotPlace;
use crate::tiering::seam;
use crate::tiering::state::PartitionState;
use crate::tiering::warm::{Mark, Origin, WarmError};
use crate::wire::record::RecordView;

/// Whose bar of which span.
type BarKey = (Symbol, Timeframe, Timestamp);

/// Takes one partition's records in until told to stop.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) partition: u16,
    pub(super) state: PartitionState,
    /// The offset of the record to be taken in next.
    pub(super) next: u64,
    goal: watch::Receiver<Goal>,
    /// Before it everything is in warm.
    pub(super) stored: u64,
    /// Records from `stored` on that were dropped as repeats.
    pub(super) repeats: VecDeque<u64>,
    /// When the last rebuild ended, and how long it took.
    pub(super) rebuilt: Option<(Instant, Duration)>,
    /// Days with marked bars of which archived objects must be restored first, and until when they
    /// are not asked for again.
    pub(super) frozen_days: BTreeMap<TradingDay, Instant>,
    /// What hot has not been told yet.
    updates: HotUpdates,
    /// The block being filled.
    builder: TickBatchBuilder,
    held: HeldRows,
    block_first: u64,
    /// The seam at `block_first`.
    seam: Option<u64>,
    /// The last record of the block, once there is one.
    last_record: Option<Bytes>,
    /// When its first record came.
    block_since: Option<Instant>,
    /// The bars it moved, as they stand.
    block_bars: HashMap<BarKey, (Seq, Bar)>,
    /// The block being stored, or who will store the next.
    storing: Option<Storing>,
    writer: Option<Writer>,
    /// Symbols of the state that the writer knows.
    symbols_told: usize,
    producers_retired: u64,
    checkpointed_at: Instant,
    /// When warm's mark was last compared with `stored`.
    looked_at: Instant,
    /// By index in a record, its symbols' numbers.
    numbers: Vec<u32>,
    labels: Vec<(&'static str, String)>,
}

/// The life of a worker, its outcome told to all.
pub(super) async fn run(
    shared: Arc<Shared>,
    partition: u16,
    goal: watch::Receiver<Goal>,
) -> Result<(), ProcessorError> {
    let mut reverts = 0;
    let outcome = loop {
        let outcome = live(shared.clone(), partition, goal.clone(), &mut reverts).await;
        shared.stores.hot.end(partition).await;
        match &outcome {
            Err(error) if error.is_reverted() && reverts < shared.config.retries_max => {
                tracing::warn!(partition, %error, "the partition is claimed again, and the log is read from there");
                shared.metrics.reverts.inc();
                shared.set_status(partition, Status::Restoring);
                // A store that loses each block at once is not asked without a rest.
                shared.wait_to_retry(partition, reverts, error).await;
                reverts += 1;
            }
            _ => break outcome,
        }
    };
    match &outcome {
        Ok(()) => shared.set_status(partition, Status::Stopped),
        Err(error) if error.is_fenced() => {
            tracing::warn!(partition, %error, "the partition is processed elsewhere");
            shared.set_status(partition, Status::Failed(error.to_string()));
            // Nobody hears it once the processor stops.
            let _ = shared.fenced.try_send(partition);
            return Ok(());
        }
        Err(error) => {
            tracing::error!(partition, %error, "the processor's partition has stopped");
            shared.set_status(partition, Status::Failed(error.to_string()));
            shared.failed.cancel();
        }
    }
    outcome
}

async fn live(
    shared: Arc<Shared>,
    partition: u16,
    mut goal: watch::Receiver<Goal>,
    reverts: &mut u32,
) -> Result<(), ProcessorError> {
    // A claim that comes late would fence the rightful owner.
    let claimed = tokio::select! {
        biased;
        _ = goal.wait_for(|goal| matches!(goal, Goal::HandOver | Goal::Abandon)) => return Ok(()),
        claimed = claim(&shared, partition) => claimed?,
    };
    let (mut mark, bounds) = claimed;
    fail::point("processor.claimed");
    if mark.next_offset < bounds.first {
        mark = expired::skip(&shared, partition, mark, bounds).await?;
    }
    let state = PartitionState::restore(&mark.checkpoint)
        .map_err(|source| ProcessorError::State { partition, source })?;
    shared.stores.bus.release(partition, mark.next_offset);
    tokio::select! {
        restored = restore::hot(&shared, partition, bounds, mark.next_offset, &state) => restored?,
        // There is nothing yet to be stored.
        _ = goal.wait_for(|goal| matches!(goal, Goal::HandOver | Goal::Abandon)) => return Ok(()),
    }
    fail::point("processor.restored");
    shared.set_status(partition, Status::Running);
    tracing::info!(partition, offset = mark.next_offset, log_next = bounds.next, "processing");
    let mut worker = Worker::new(shared, partition, goal, state, &mark);
    let outcome = worker.run().await;
    if worker.stored > mark.next_offset {
        // The store kept blocks since: what comes next is another event.
        *reverts = 0;
    }
    outcome
}

/// Claims the partition in warm, once the log is known to be the one that warm was filled from: a
/// processor of another log must not fence the rightful one, nor have warm name that log. Where warm ends,
/// and what the log holds.
async fn claim(shared: &Shared, partition: u16) -> Result<(Mark, Bounds), ProcessorError> {
    let Stores { bus, warm, .. } = &shared.stores;
    let origin = Origin::of(&**bus);
    let is_named = asked(shared, partition, || warm.check_origin(&origin)).await?;
    let before = asked(shared, partition, || warm.mark(partition)).await?;
    let bounds = check_seam(shared, partition, &before).await?;
    if !is_named {
        // Every partition has to fit: one that warm has no rows of fits to any log.
        for other in (0..bus.partitions()).filter(|other| *other != partition) {
            let mark = asked(shared, partition, || warm.mark(other)).await?;
            check_seam(shared, other, &mark).await?;
        }
        asked(shared, partition, || warm.adopt_origin(&origin)).await?;
    }
    let mark = asked(shared, partition, || warm.claim(partition)).await?;
    if (mark.next_offset, mark.seam) == (before.next_offset, before.seam) {
        return Ok((mark, bounds));
    }
    let bounds = check_seam(shared, partition, &mark).await?;
    Ok((mark, bounds))
}

/// Makes sure that the log goes on at `mark`: what it holds.
async fn check_seam(shared: &Shared, partition: u16, mark: &Mark) -> Result<Bounds, ProcessorError> {
    let bus = &*shared.stores.bus;
    let bounds = bus.bounds(partition).await;
    let bounds = bounds.map_err(|source| ProcessorError::Bus { partition, source })?;
    seam::check_record(bus, partition, bounds, mark).await?;
    Ok(bounds)
}

/// Asks warm, which may be away for a while.
pub(super) async fn asked<T>(
    shared: &Shared,
    partition: u16,
    ask: impl AsyncFn() -> Result<T, WarmError>,
) -> Result<T, ProcessorError> {
    let mut attempt = 0;
    loop {
        match ask().await {
            Ok(answer) => {
                shared.warm_is_back();
                return Ok(answer);
            }
            Err(error) if shared.may_retry_warm(partition, attempt, &error).await => attempt += 1,
            Err(source) => return Err(ProcessorError::Warm { partition, source }),
        }
    }
}

impl Worker {
    fn new(
        shared: Arc<Shared>,
        partition: u16,
        goal: watch::Receiver<Goal>,
        state: PartitionState,
        mark: &Mark,
    ) -> Self {
        let next = mark.next_offset;
        Self {
            writer: Some(Writer::new(shared.clone(), partition)),
            held: HeldRows::none(&shared.metrics),
            shared,
            partition,
            state,
            next,
            goal,
            stored: next,
            repeats: VecDeque::new(),
            rebuilt: None,
            frozen_days: BTreeMap::new(),
            updates: HotUpdates::default(),
            builder: TickBatchBuilder::new(partition),
            block_first: next,
            seam: mark.seam,
            last_record: None,
            block_since: None,
            block_bars: HashMap::new(),
            storing: None,
            symbols_told: 0,
            producers_retired: 0,
            checkpointed_at: Instant::now(),
            looked_at: Instant::now(),
            numbers: Vec::new(),
            labels: vec![("partition", partition.to_string())],
        }
    }

    async fn run(&mut self) -> Result<(), ProcessorError> {
        let outcome = self.work().await;
        if let Some(storing) = self.storing.take() {
            // The block under way is whole, whatever came after it.
            let _ = storing.await;
        }
        outcome
    }

    async fn work(&mut self) -> Result<(), ProcessorError> {
        let shared = self.shared.clone();
        let bus = &shared.stores.bus;
        self.skip_lost().await?;
        let mut reader =
            bus.reader(self.partition, self.next).await.map_err(|error| self.bus_error(error))?;
        let mut until = None;
        while until.is_none_or(|until| self.next < until) {
            let cut_at = self.block_since.map(|since| since + shared.config.block_age_max);
            let rebuild_at = self.rebuild_at();
            let is_idle = self.block_since.is_none() && self.storing.is_none();
            let look_at = self.looked_at + shared.config.mark_check_interval;
            tokio::select! {
                biased;
                goal = told(&mut self.goal), if until.is_none() => {
                    match goal {
                        Goal::Abandon => return Ok(()),
                        Goal::HandOver => until = Some(self.next),
                        Goal::Run | Goal::Drain => {
                            let bounds = bus.bounds(self.partition).await;
                            until = Some(bounds.map_err(|error| self.bus_error(error))?.next);
                        }
                    }
                }
                // A block is cut only once the one before it is stored. Until then it grows, so that hot hears of new
                // ticks while warm is away.
                () = tokio::time::sleep_until(cut_at.unwrap_or_else(Instant::now)),
                    if cut_at.is_some() && self.storing.is_none() =>
                {
                    self.cut().await?;
                }
                () = tokio::time::sleep_until(rebuild_at.unwrap_or_else(Instant::now)), if rebuild_at.is_some() => {
                    self.rebuild().await?;
                    self.tell_hot().await?;
                    if !self.block_bars.is_empty() {
                        // They go to warm though no record may come for long.
                        self.block_since.get_or_insert_with(Instant::now);
                    }
                }
                stored = finished(self.partition, &mut self.storing), if self.storing.is_some() => self.stored(stored)?,
                () = tokio::time::sleep_until(look_at), if is_idle => self.look_at_mark().await?,
                records = reader.next(shared.config.read_bytes_max) => {
                    let records = records.map_err(|error| self.bus_error(error))?;
                    reader.check_follows(self.next, &records).map_err(ProcessorError::hole(self.partition))?;
                    if records.is_empty() {
                        self.skip_lost().await?;
                    }
                    self.take(&records).await?;
                }
            }
        }
        // Who takes over finds the marks in the state.
        if self.state.needs_rebuild() && *self.goal.borrow() != Goal::HandOver {
            self.rebuild().await?;
        }
        self.cut().await?;
        self.wait_stored().await?;
        fail::point("processor.drained");
        self.checkpoint_hot().await
    }

    /// Makes sure that warm has not been put back to an earlier state. A commit notices that by itself, but none
    /// may come for longer than the log keeps what warm has lost.
    async fn look_at_mark(&mut self) -> Result<(), ProcessorError> {
        self.looked_at = Instant::now();
        let partition = self.partition;
        // A server that is away is asked again later. One that lost the database says so for good.
        let mark = match self.shared.stores.warm.mark(partition).await {
            Ok(mark) => mark,
            Err(error) if error.is_passing() => return Ok(()),
            Err(source) => return Err(ProcessorError::Warm { partition, source }),
        };
        if mark.next_offset >= self.stored {
            return Ok(());
        }
        let (path, found) = ("warm".to_owned(), format!("offset {}", mark.next_offset));
        let source = WarmError::Reverted { partition, path, found, next_offset: self.stored };
        Err(ProcessorError::Warm { partition, source })
    }

    /// Passes the offsets that the log skipped because other stores hold rows with them. Days of which the
    /// archive has such rows get bars of these and of all others.
    async fn skip_lost(&mut self) -> Result<(), ProcessorError> {
        let shared = self.shared.clone();
        let epoch = shared.stores.bus.epoch();
        while let Some(skipped) = epoch.skipped(self.partition, self.next) {
            let marked = self.mark_archived(skipped.clone()).await?;
            tracing::info!(
                partition = self.partition,
                from = skipped.start,
                to = skipped.end,
                marked,
                "passing offsets that the log skipped"
            );
            if marked > 0 {
                tracing::warn!(
                    partition = self.partition,
                    "the archive has trades that the log lost, and stk no longer knows which batches they came in: a \
                     producer that sends them again, such as a capture that is replayed, has them stored twice"
                );
            }
            self.next = skipped.end;
            // The log has no record before the mark that the block moves to.
            (self.seam, self.last_record) = (None, None);
            self.block_since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Marks the bars of every symbol and day of which the archive holds trades at `offsets`: how many.
    async fn mark_archived(&mut self, offsets: std::ops::Range<u64>) -> Result<usize, ProcessorError> {
        let Some(archive) = self.shared.stores.archive.clone() else { return Ok(0) };
        let partition = self.partition;
        let failed = |error: ReadError| ProcessorError::Archive { partition, source: error.into() };
        let snapshot = archive.snapshot(Kind::Trade, TimeRange::ALL).await.map_err(failed)?;
        let mut first_offsets = vec![u64::MAX; usize::from(self.shared.stores.bus.partitions())];
        first_offsets[usize::from(self.partition)] = offsets.start;
        let mut marks = std::collections::BTreeSet::new();
        let days: Vec<_> = snapshot.days().map(|(day, _)| day).collect();
        for day in days {
            let files = snapshot.files_from(day, &first_offsets).map_err(failed)?;
            let stats = SharedReadStats::default();
            let (files, frozen) = archive.availability(files, &stats).await.map_err(failed)?;
            if !frozen.is_empty() {
                tracing::error!(
                    %day, objects = frozen.len(),
                    "bars of this day may lack trades whose objects must be restored from Glacier first"
                );
            }
            let mut rows = archive.scan(Kind::Trade, files, None, TimeRange::ALL, stats);
            while let Some(batch) = rows.next().await {
                let batch = batch.map_err(failed)?;
                let keys = batch
                    .rows()
                    .map_err(|error| ProcessorError::Archive { partition, source: error.into() })?;
                for row in 0..batch.len() {
                    let seq = keys.seq(row);
                    if seq.partition == self.partition && offsets.contains(&seq.offset) {
                        marks.extend(keys.symbol(row).map(|symbol| (symbol, day)));
                    }
                }
            }
        }
        let seq = Seq { partition: self.partition, offset: offsets.end - 1, index: 0 };
        marks.iter().for_each(|(symbol, day)| self.state.mark_rebuild(*symbol, *day, seq));
        Ok(marks.len())
    }

    /// When marked bars are to be rebuilt, if there are any. A mark outlives a block: it is saved
    /// with the state.
    fn rebuild_at(&self) -> Option<Instant> {
        let interval = self.shared.config.rebuild_interval;
        let at = || self.rebuilt.map_or_else(Instant::now, |(ended, took)| ended + interval.max(took * 9));
        self.state.needs_rebuild().then(at)
    }

    pub(super) fn bus_error(&self, source: BusError) -> ProcessorError {
        ProcessorError::Bus { partition: self.partition, source }
    }

    /// Takes in records that follow on each other and on `next`, which is the caller's to check.
    async fn take(&mut self, records: &[Record]) -> Result<(), ProcessorError> {
        let rows_max = self.shared.block_rows_max();
        for record in records {
            self.take_record(record)?;
            self.next = record.offset + 1;
            self.last_record = Some(record.bytes.clone());
            self.block_since.get_or_insert_with(Instant::now);
            if self.builder.rows() >= rows_max || self.builder.bytes() >= self.shared.config.block_bytes_max {
                self.cut().await?;
            }
        }
        self.tell_hot().await?;
        if self.checkpointed_at.elapsed() >= self.shared.config.hot_checkpoint_interval {
            self.checkpoint_hot().await?;
        }
        let bounds = self.shared.stores.bus.bounds_seen(self.partition).await;
        let bounds = bounds.map_err(|error| self.bus_error(error))?;
        let metrics = &self.shared.metrics;
        metrics.lag_records.get_or_create(&self.labels).set(bounds.next.saturating_sub(self.next) as i64);
        let retired = self.state.producers().retirements();
        metrics.producers_retired.inc_by(retired - std::mem::replace(&mut self.producers_retired, retired));
        Ok(())
    }

    fn take_record(&mut self, record: &Record) -> Result<(), ProcessorError> {
        let (partition, offset) = (self.partition, record.offset);
        let damaged = |source| ProcessorError::Record { partition, offset, source };
        let metrics = &self.shared.metrics;
        let view = RecordView::parse(&record.bytes).map_err(damaged)?;
        metrics.records.inc();
        if !self.state.admit(view.origin, view.checksum()) {
            metrics.repeats.inc();
            self.repeats.push_back(offset);
            return Ok(());
        }
        let known = self.state.symbols().symbols().len();
        self.numbers.clear();
        self.numbers.extend(view.symbols().iter().map(|symbol| self.state.number(*symbol)));
        let new = view.symbols().iter().zip(&self.numbers).filter(|(_, number)| **number as usize >= known);
        let partitions = self.shared.stores.bus.partitions();
        for (&symbol, _) in new {
            let belongs = symbol.partition(partitions);
            if belongs != partition {
                return Err(ProcessorError::Moved { partition, offset, symbol, belongs, partitions });
            }
        }
        for (index, row) in (0..).zip(view.ticks()) {
            let (symbol, tick) = row.map_err(damaged)?;
            let seq = Seq { partition, offset, index };
            let number = symbol.map_or(NO_SYMBOL, |symbol| self.numbers[symbol as usize]);
            if number != NO_SYMBOL {
                self.state.apply_numbered(number, seq, &tick);
            }
            self.builder.push(number, seq, &tick);
            self.updates.ticks.push((seq, tick));
        }
        if view.ticks > 0 {
            self.updates.record = Some(record.clone());
        }
        metrics.ticks.inc_by(u64::from(view.ticks));
        self.held.add(view.ticks as usize);
        Ok(())
    }

    /// Tells hot what has been taken in, and keeps the bars for the block.
    async fn tell_hot(&mut self) -> Result<(), ProcessorError> {
        self.updates.bars = self.state.take_changed_bars();
        if let Some((_, tick)) = self.updates.ticks.last() {
            let lag_ms = Timestamp::now().nanos_since(tick.recv_ts()) / 1_000_000;
            self.shared.metrics.lag_ms.get_or_create(&self.labels).set(lag_ms);
        } else if self.updates.bars.is_empty() {
            return Ok(());
        }
        for (seq, bar) in &self.updates.bars {
            self.block_bars.insert((bar.symbol, bar.timeframe, bar.ts), (*seq, *bar));
        }
        let mut attempt = 0;
        while let Err(source) = self.shared.stores.hot.apply(self.partition, &self.updates).await {
            if !self.shared.may_retry(self.partition, attempt, &source).await {
                return Err(ProcessorError::Hot { partition: self.partition, source });
            }
            attempt += 1;
        }
        self.updates.ticks.clear();
        self.updates.bars.clear();
        self.updates.record = None;
        Ok(())
    }

    /// Ends the block and has it stored, once the one before it is.
    async fn cut(&mut self) -> Result<(), ProcessorError> {
        self.tell_hot().await?;
        self.block_since = None;
        if self.next == self.block_first && self.block_bars.is_empty() {
            return Ok(());
        }
        let bars = self.block_bars.len();
        for (_, (seq, bar)) in self.block_bars.drain() {
            let number = self.state.number(bar.symbol);
            self.builder.push_bar(number, seq, &bar);
        }
        self.shared.metrics.bars.inc_by(bars as u64);
        self.held.add(bars);
        let checkpoint = self.state.save();
        if let Some(record) = self.last_record.take() {
            self.seam = Some(seam::of(&record));
        }
        self.wait_stored().await?;
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let spare = std::mem::replace(&mut writer.spare, TickBatchBuilder::new(self.partition));
        let symbols = self.state.symbols().symbols();
        let new_symbols = symbols[self.symbols_told..].to_vec();
        self.symbols_told = symbols.len();
        self.storing = Some(writer.store(Filled {
            builder: std::mem::replace(&mut self.builder, spare),
            held: std::mem::replace(&mut self.held, HeldRows::none(&self.shared.metrics)),
            new_symbols,
            first_offset: self.block_first,
            next_offset: self.next,
            checkpoint,
            seam: self.seam,
        }));
        self.block_first = self.next;
        Ok(())
    }

    /// Waits until no block is being stored.
    pub(super) async fn wait_stored(&mut self) -> Result<(), ProcessorError> {
        if self.storing.is_some() {
            let stored = finished(self.partition, &mut self.storing).await;
            self.stored(stored)?;
        }
        Ok(())
    }

    fn stored(&mut self, stored: Result<Stored, ProcessorError>) -> Result<(), ProcessorError> {
        self.storing = None;
        let Stored { writer, next_offset, rows } = stored?;
        tracing::debug!(partition = self.partition, next_offset, rows, "block stored");
        self.writer = Some(writer);
        self.stored = next_offset;
        while self.repeats.front().is_some_and(|offset| *offset < next_offset) {
            self.repeats.pop_front();
        }
        Ok(())
    }

    /// Writes a checkpoint of hot, where it is kept in memory. One that can't be written is told
    /// and tried again later: the log has all that is in it.
    async fn checkpoint_hot(&mut self) -> Result<(), ProcessorError> {
        self.checkpointed_at = Instant::now();
        let Some((hot, dir)) = self.shared.stores.hot_files.clone() else { return Ok(()) };
        self.tell_hot().await?;
        let (partition, next) = (self.partition, self.next);
        let state = self.state.save();
        let place = HotPlace {
            log: self.shared.stores.bus.epoch().log(),
            seam: self.last_record.as_deref().map(seam::of).or(self.seam),
        };
        if let Err(error) = self.shared.log_is_durable().await {
            tracing::warn!(partition, %error, "no checkpoint of hot: the log is not durable");
            return Ok(());
        }
        let saved = tokio::task::spawn_blocking(move || hot.save(&dir, partition, place, next, &state)).await;
        match saved {
            Ok(Ok(bytes)) => tracing::debug!(partition, next, bytes, "hot checkpointed"),
            Ok(Err(error)) => tracing::warn!(partition, %error, "no checkpoint of hot"),
            Err(error) => tracing::warn!(partition, %error, "no checkpoint of hot"),
        }
        Ok(())
    }
}

/// Waits until a worker is told to end, and how. Where nobody is left to tell: as at a stop. Cancel-safe.
async fn told(goal: &mut watch::Receiver<Goal>) -> Goal {
    goal.wait_for(|goal| *goal != Goal::Run).await.map_or(Goal::Drain, |goal| *goal)
}

/// What came of the block being stored, there being one. Cancel-safe.
async fn finished(partition: u16, storing: &mut Option<Storing>) -> Result<Stored, ProcessorError> {
    match storing {
        Some(storing) => storing.await.unwrap_or_else(|error| {
            let what = format!("could not store a block: {error}");
            Err(ProcessorError::Worker { partition, what })
        }),
        None => std::future::pending().await,
    }
}
