//! The writer: keeps Redis like the mirror, a pipeline a round.
//!
//! Everything it believes of Redis is checked there, by the scripts: a state is put only over the
//! one believed to be there, and a mark only over the one last written. So a Redis that has lost
//! data, wholly or its newest part (a restart, a fail-over, a `FLUSHALL`), is noticed within a
//! second even when nothing trades, and all symbols are compared and sent where they differ.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::aio::ConnectionManager;
use redis::{Pipeline, Value};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::memory::{Change, Version};
use super::{Away, CLOSE_MAX, SYMBOLS_PER_TRIP, Shared, WRITE_MAX, format};
use crate::backoff::{Backoff, jitter_seed};
use crate::fail;
use crate::market::{Symbol, Timestamp};
use crate::tiering::hot::timeline::Unfit;
use crate::tiering::hot::{HotError, RECENT_TICKS};
use crate::tiering::seam;

/// Bytes of one pipeline, and what its last symbol adds.
const TRIP_BYTES_MAX: usize = 1 << 20;
/// Pipelines under way at once: while Redis works on one, the next is made.
const TRIPS_MAX: usize = 4;
/// The longest rest after a round.
const REST_MAX: Duration = Duration::from_millis(250);
/// Symbols that are copied out of the mirror and encoded at once.
const SYMBOLS_AT_ONCE: usize = 16;
/// How often Redis is looked at when there is nothing to write.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The least time between two comparisons of a partition, and how often it is seen whether it has
/// passed.
const RECONCILE_PAUSE: Duration = Duration::from_secs(1);
const RECONCILE_POLL: Duration = Duration::from_millis(50);

const PUT: &str = include_str!("put.lua");
const MARK: &str = include_str!("mark.lua");

/// The fields of a mark that are read, in this order.
pub(super) const MARK_FIELDS: [&str; 6] =
    ["next_offset", "partitions", "log", "writer", "generation", "seam"];

/// How far a partition has come in Redis, and who said so.
pub(super) struct Mark {
    pub(super) next_offset: u64,
    partitions: Option<u16>,
    log: Option<String>,
    /// Another one with each mark that is written.
    pub(super) writer: Option<String>,
    /// The generation of the log that the writer read.
    pub(super) generation: Option<u64>,
    /// An offset and the checksum of the record before it, as a writer named them last. An earlier version of
    /// stk moves `next_offset` on and leaves them.
    pub(super) seam: Option<(u64, u64)>,
}

/// A log's name as it is written.
fn name(log: u64) -> String {
    format!("{log:016x}")
}

impl Mark {
    /// Whether it was written from this log, with as many partitions.
    pub(super) fn is_of(&self, shared: &Shared) -> bool {
        let log = shared.log();
        self.partitions == Some(shared.partitions())
            && self.log.is_some()
            && (self.log == Some(name(log.id)) || self.log == log.former.map(name))
    }

    /// The answer to a question for [`MARK_FIELDS`]; `None` where there is no mark.
    pub(super) fn read(shared: &Shared, reply: Value) -> Result<Option<Self>, HotError> {
        let values: [Option<String>; 6] = shared.read(reply)?;
        if values.iter().all(Option::is_none) {
            return Ok(None);
        }
        let [offset, partitions, log, writer, generation, seam] = values;
        Ok(Some(Self {
            next_offset: offset.and_then(|offset| offset.parse().ok()).unwrap_or(0),
            partitions: partitions.and_then(|count| count.parse().ok()),
            log,
            writer,
            generation: generation.and_then(|generation| generation.parse().ok()),
            seam: seam.and_then(|seam| read_seam(&seam)),
        }))
    }

    /// The process that wrote the mark, whichever of its marks it is.
    pub(super) fn writer_name(&self) -> &str {
        let writer = self.writer.as_deref().unwrap_or_default();
        writer.split_once(':').map_or(writer, |(nonce, _)| nonce)
    }
}

/// The record before `next_offset`, as a mark names it: it may be of another offset than the mark's.
fn seam_text(next_offset: u64, record: &[u8]) -> String {
    format!("{next_offset}:{:016x}", seam::of(record))
}

/// What [`seam_text`] wrote.
fn read_seam(text: &str) -> Option<(u64, u64)> {
    let (next_offset, seam) = text.split_once(':')?;
    Some((next_offset.parse().ok()?, u64::from_str_radix(seam, 16).ok()?))
}

pub(super) async fn read_mark(
    shared: &Shared,
    connection: &ConnectionManager,
    partition: u16,
) -> Result<Option<Mark>, HotError> {
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.cmd("HMGET").arg(shared.keys.mark(partition)).arg(&MARK_FIELDS);
    let mut replies = shared.query(connection, &pipeline, WRITE_MAX).await?;
    Mark::read(shared, replies.pop().unwrap_or(Value::Nil))
}

/// Makes sure that all of a partition in Redis was read from this timeline of the log: what `mark` tells of,
/// and what its writer had put there beyond it.
pub(super) async fn check(
    shared: &Shared,
    connection: &ConnectionManager,
    partition: u16,
    mark: &Mark,
) -> Result<(), Unfit> {
    shared.check_timeline(partition, mark).await?;
    let epoch = shared.bus.epoch();
    let Some(generation) = mark.generation.filter(|generation| *generation != epoch.log().generation) else {
        return Ok(());
    };
    let mut symbols = shared.symbols(connection, WRITE_MAX).await?;
    symbols.retain(|symbol| symbol.partition(shared.partitions()) == partition);
    for symbols in symbols.chunks(SYMBOLS_PER_TRIP) {
        let replies = shared.query(connection, &ask_versions(shared, symbols), WRITE_MAX).await?;
        for (_, version) in versions(shared, symbols, replies)? {
            let places = [version.seq, version.bars];
            let mut ends = places.into_iter().flatten().map(|seq| seq.offset + 1);
            if !ends.all(|end| epoch.has_in(partition, generation, end)) {
                return Err(Unfit::OtherTimeline("has ticks of records that the log has lost".to_owned()));
            }
        }
    }
    Ok(())
}

/// Asks how far each of `symbols` has come.
fn ask_versions(shared: &Shared, symbols: &[Symbol]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(symbols.len() + 1);
    for symbol in symbols {
        pipeline.cmd("HMGET").arg(shared.keys.hot(*symbol)).arg(&["seq", "bars_seq"]);
    }
    pipeline
}

/// The answers to [`ask_versions`].
fn versions(
    shared: &Shared,
    symbols: &[Symbol],
    replies: Vec<Value>,
) -> Result<Vec<(Symbol, Version)>, HotError> {
    let found = symbols.iter().zip(replies);
    found.map(|(symbol, reply)| Ok((*symbol, version(shared, *symbol, reply)?))).collect()
}

fn version(shared: &Shared, symbol: Symbol, reply: Value) -> Result<Version, HotError> {
    let found: [Option<String>; 2] = shared.read(reply)?;
    let place = |text: &Option<String>| format::read_place(text.as_deref().unwrap_or_default());
    let version = place(&found[0]).and_then(|seq| Ok(Version { seq, bars: place(&found[1])? }));
    version.map_err(|reason| shared.unreadable(&shared.keys.hot(symbol), &reason))
}

/// Removes all keys of a partition: they are of another log or timeline.
pub(super) async fn purge(
    shared: &Shared,
    connection: &ConnectionManager,
    partition: u16,
) -> Result<(), HotError> {
    let mut symbols = shared.symbols(connection, WRITE_MAX).await?;
    symbols.retain(|symbol| symbol.partition(shared.partitions()) == partition);
    for symbols in symbols.chunks(SYMBOLS_PER_TRIP) {
        let mut pipeline = Pipeline::with_capacity(symbols.len() + 1);
        for symbol in symbols {
            pipeline.cmd("UNLINK").arg(shared.keys.hot(*symbol)).arg(shared.keys.ticks(*symbol));
        }
        let names: Vec<&str> = symbols.iter().map(Symbol::as_str).collect();
        pipeline.cmd("SREM").arg(shared.keys.symbols()).arg(names);
        shared.query(connection, &pipeline, WRITE_MAX).await?;
    }
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.cmd("DEL").arg(shared.keys.mark(partition));
    shared.query(connection, &pipeline, WRITE_MAX).await?;
    shared.metrics.purges.inc();
    Ok(())
}

/// What a reply in a pipeline is of.
enum Expected {
    /// Nothing to be looked at.
    Done,
    Put {
        partition: u16,
        symbol: Symbol,
    },
    Mark {
        partition: u16,
        token: String,
        next_offset: u64,
    },
}

/// Commands to be sent together.
#[derive(Default)]
struct Trip {
    pipeline: Pipeline,
    expected: Vec<Expected>,
    bytes: usize,
}

/// A pipeline under way.
struct Sent {
    expected: Vec<Expected>,
    replies: JoinHandle<Result<Vec<Value>, HotError>>,
}

/// What is known of a partition in Redis.
struct Written {
    /// A symbol was not written in this round, and waits to be tried again.
    is_left: bool,
    /// Redis was compared with the mirror, and nothing has gone wrong since.
    is_compared: bool,
    compared_at: Option<Instant>,
    /// Counts marks: part of the token.
    marks: u64,
    /// The token of the mark in Redis.
    token: String,
    marked_at: Option<Instant>,
    /// Everything before it is in Redis for certain.
    next_offset: u64,
    /// The record before `next_offset`, as a mark names it; empty where it is not known.
    seam: String,
    /// What the mark says.
    marked_offset: u64,
}

/// When the next round is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// When there is something new.
    Heartbeat,
    /// At once: something is left.
    Now,
    /// A partition waits to be compared.
    Later,
}

struct Writer {
    shared: Arc<Shared>,
    connection: ConnectionManager,
    /// Tells this writer's marks from those of others.
    nonce: String,
    partitions: BTreeMap<u16, Written>,
    /// Of partitions whose keys are of another log or timeline, who wrote them last, and since when nobody
    /// has since.
    foreign: BTreeMap<u16, (Option<String>, Instant)>,
    /// The scripts' hashes, once Redis has been given them.
    scripts: Option<(String, String)>,
}

/// Writes until `stop`, and then what is left.
pub(super) async fn run(shared: Arc<Shared>, connection: ConnectionManager, stop: CancellationToken) {
    let mut backoff = Backoff::new(jitter_seed());
    let nonce = format!("{:016x}", jitter_seed());
    let mut writer = Writer {
        shared: shared.clone(),
        connection,
        nonce,
        partitions: BTreeMap::new(),
        foreign: BTreeMap::new(),
        scripts: None,
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        let began = Instant::now();
        let outcome = writer.round().await;
        let took = began.elapsed();
        writer.tell(&outcome, took);
        let rest = if let Ok(next) = outcome {
            backoff.reset();
            if next != Next::Heartbeat {
                shared.wake.notify_one();
            }
            let rest = took.min(REST_MAX).max(shared.config.round_interval);
            if next == Next::Later { rest.max(RECONCILE_POLL) } else { rest }
        } else {
            shared.wake.notify_one();
            backoff.next()
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(rest) => {}
        }
    }
    let last = tokio::time::timeout(CLOSE_MAX, async {
        // The second round writes the marks of the first.
        writer.round().await?;
        writer.round().await
    });
    match last.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "hot: not all is in redis; the next processor writes it"),
        Err(_) => tracing::warn!(address = shared.address, "hot: redis was too slow to take all at the end"),
    }
}

impl Writer {
    /// Notes how a round went.
    fn tell(&mut self, outcome: &Result<Next, HotError>, took: Duration) {
        let Shared { metrics, address, .. } = &*self.shared;
        metrics.round_us.set(took.as_micros() as i64);
        metrics.write_seconds.inc_by(took.as_secs_f64());
        let mut away = self.shared.away();
        match outcome {
            Ok(_) => {
                if let Some(Away { since, .. }) = away.take() {
                    metrics.writer_away.set(0);
                    tracing::info!(address, %since, "redis is back");
                }
            }
            Err(error) => {
                metrics.write_errors.inc();
                // What was under way may have arrived or not.
                self.partitions.values_mut().for_each(|written| written.is_compared = false);
                self.scripts = None;
                if away.is_none() {
                    tracing::warn!(%error, "hot: redis is away; what it misses is kept and sent later");
                    *away = Some(Away { since: Timestamp::now(), reason: error.reason.clone() });
                    metrics.writer_away.set(1);
                }
            }
        }
    }

    /// Sends all that has changed up to now.
    async fn round(&mut self) -> Result<Next, HotError> {
        let shared = self.shared.clone();
        let applied = shared.applied.load(Ordering::Acquire);
        let of_process: Vec<u16> = shared.written().iter().copied().collect();
        self.partitions.retain(|partition, _| of_process.contains(partition));
        if of_process.is_empty() {
            return Ok(Next::Heartbeat);
        }
        for &partition in &of_process {
            let written = self.partitions.entry(partition).or_insert_with(|| Written {
                is_left: false,
                is_compared: false,
                compared_at: None,
                marks: 0,
                token: String::new(),
                marked_at: None,
                next_offset: 0,
                seam: String::new(),
                marked_offset: 0,
            });
            written.is_left = false;
            if written.is_compared {
                continue;
            }
            if written.compared_at.is_none_or(|at| at.elapsed() >= RECONCILE_PAUSE) {
                self.compare(partition).await?;
            }
        }
        let mut trip = Trip::default();
        self.add_marks(&mut trip);
        let mut reached = Vec::new();
        let mut under_way = VecDeque::new();
        for &partition in &of_process {
            if !self.partitions.get(&partition).is_some_and(|written| written.is_compared) {
                continue;
            }
            // In this order: what is taken then has at least all before the offset.
            let next_offset = shared.mirror.next_offset(partition)?;
            let record = shared.records().get(&partition).cloned();
            let record = record.filter(|record| record.offset + 1 == next_offset);
            let mut left = shared.mirror.changes_len(partition)?;
            reached.push((partition, next_offset, record));
            while left > 0 {
                let count = left.min(SYMBOLS_AT_ONCE);
                left -= count;
                for change in shared.mirror.take_changes(partition, count)? {
                    self.add_put(&mut trip, partition, &change);
                }
                if trip.bytes >= TRIP_BYTES_MAX {
                    under_way.push_back(self.send(std::mem::take(&mut trip)));
                }
                if under_way.len() >= TRIPS_MAX
                    && let Some(sent) = under_way.pop_front()
                {
                    self.receive(sent).await?;
                }
                tokio::task::yield_now().await;
            }
        }
        if !trip.expected.is_empty() {
            under_way.push_back(self.send(trip));
        }
        while let Some(sent) = under_way.pop_front() {
            self.receive(sent).await?;
        }
        let (mut waiting, mut is_left, mut is_marked) = (0, false, true);
        for (partition, next_offset, record) in reached {
            waiting += shared.mirror.changes_len(partition)?;
            let Some(written) = self.partitions.get_mut(&partition) else { continue };
            // What came meanwhile is after the offset, but not what found another state in Redis.
            is_left |= written.is_left;
            if written.is_compared && !written.is_left && next_offset >= written.next_offset {
                written.next_offset = next_offset;
                written.seam =
                    record.map_or_else(String::new, |record| seam_text(next_offset, &record.bytes));
            }
            is_marked &= written.next_offset == written.marked_offset;
        }
        shared.metrics.waiting_symbols.set(waiting as i64);
        if self.partitions.values().any(|written| !written.is_compared) {
            return Ok(Next::Later);
        }
        if !is_left {
            shared.settled.send_replace(applied);
        }
        Ok(if waiting == 0 && is_marked { Next::Heartbeat } else { Next::Now })
    }

    /// Sees what Redis has of every symbol of a partition, so that what differs is sent.
    async fn compare(&mut self, partition: u16) -> Result<(), HotError> {
        let shared = self.shared.clone();
        let (put, mark) = (self.load(PUT).await?, self.load(MARK).await?);
        self.scripts = Some((put, mark));
        let mark = read_mark(&shared, &self.connection, partition).await?;
        if let Some(written) = self.partitions.get(&partition)
            && !written.token.is_empty()
        {
            // The reply to the last mark may have been lost, not the mark.
            let last = format!("{}:{}", self.nonce, written.marks);
            let found = mark.as_ref().and_then(|mark| mark.writer.as_ref());
            if found != Some(&written.token) && found != Some(&last) {
                shared.metrics.losses.inc();
                let reason = "redis lost data, or another processor writes: all symbols are compared";
                tracing::warn!(partition, address = shared.address, reason);
            }
        }
        if let Some(mark) = mark
            && let Some(refused) = self.refuse(partition, &mark).await?
        {
            // Two writers of one prefix would each remove what the other wrote, for ever: a state that
            // somebody writes stays.
            let (writer, since) =
                self.foreign.entry(partition).or_insert_with(|| (mark.writer.clone(), Instant::now()));
            if *writer != mark.writer {
                (*writer, *since) = (mark.writer, Instant::now());
            }
            if since.elapsed() < shared.config.foreign_rest {
                return Err(refused);
            }
            tracing::warn!(
                partition,
                reason = refused.reason,
                "redis has a state that nobody writes: it is removed"
            );
            purge(&shared, &self.connection, partition).await?;
        }
        self.foreign.remove(&partition);
        let mut from = 0;
        loop {
            let symbols = shared.mirror.symbols_from(partition, from, SYMBOLS_PER_TRIP)?;
            if symbols.is_empty() {
                break;
            }
            from += symbols.len();
            let mut pipeline = ask_versions(&shared, &symbols);
            let names: Vec<&str> = symbols.iter().map(Symbol::as_str).collect();
            pipeline.cmd("SADD").arg(shared.keys.symbols()).arg(names);
            let replies = shared.query(&self.connection, &pipeline, WRITE_MAX).await?;
            shared.mirror.settle(partition, versions(&shared, &symbols, replies)?)?;
            shared.metrics.trips.inc();
        }
        let Some(written) = self.partitions.get_mut(&partition) else { return Ok(()) };
        written.marks += 1;
        let token = format!("{}:{}", self.nonce, written.marks);
        // What the mark names is of this generation too, as it was compared.
        let generation = shared.bus.epoch().log().generation;
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline
            .cmd("HSET")
            .arg(shared.keys.mark(partition))
            .arg(&[("writer", &token), ("log", &name(shared.log().id))])
            .arg(&[("partitions", u64::from(shared.partitions())), ("generation", generation)]);
        shared.query(&self.connection, &pipeline, WRITE_MAX).await?;
        written.token = token;
        fail::point("hot.redis.compared");
        // The mark is to be written anew.
        (written.next_offset, written.marked_offset) = (0, 0);
        written.is_compared = true;
        written.compared_at = Some(Instant::now());
        shared.metrics.reconciles.inc();
        Ok(())
    }

    /// Why the keys of a partition with `mark` are not to be continued, if they are not. Those that this
    /// writer began are.
    ///
    /// Errors: the log can't be asked.
    async fn refuse(&self, partition: u16, mark: &Mark) -> Result<Option<HotError>, HotError> {
        let shared = &self.shared;
        if !mark.is_of(shared) {
            return Ok(Some(shared.foreign()));
        }
        if mark.writer_name() == self.nonce {
            return Ok(None);
        }
        match check(shared, &self.connection, partition, mark).await {
            Ok(()) => Ok(None),
            Err(unfit @ Unfit::OtherTimeline(_)) => Ok(Some(shared.unfit(unfit))),
            Err(Unfit::Unknown(error)) => Err(error),
        }
    }

    async fn load(&self, script: &str) -> Result<String, HotError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("SCRIPT").arg("LOAD").arg(script);
        let mut replies = self.shared.query(&self.connection, &pipeline, WRITE_MAX).await?;
        self.shared.read(replies.pop().unwrap_or(Value::Nil))
    }

    /// Adds the marks that are due: what the last round is known to have written, and a look at
    /// whether Redis still has what it had.
    fn add_marks(&mut self, trip: &mut Trip) {
        let Some((_, script)) = &self.scripts else { return };
        for (&partition, written) in &mut self.partitions {
            let is_due = written.next_offset > written.marked_offset
                || written.marked_at.is_none_or(|at| at.elapsed() >= HEARTBEAT);
            if !written.is_compared || !is_due {
                continue;
            }
            written.marks += 1;
            let token = format!("{}:{}", self.nonce, written.marks);
            let mark = trip.pipeline.cmd("EVALSHA").arg(script).arg(1).arg(self.shared.keys.mark(partition));
            mark.arg(&[&written.token, &token]).arg(written.next_offset).arg(Timestamp::now().to_string());
            mark.arg(&written.seam);
            trip.bytes += 200;
            trip.expected.push(Expected::Mark { partition, token, next_offset: written.next_offset });
        }
    }

    fn add_put(&self, trip: &mut Trip, partition: u16, change: &Change) {
        let Some((script, _)) = &self.scripts else { return };
        let Shared { keys, metrics, .. } = &*self.shared;
        let Change { symbol, base, ticks, .. } = change;
        if *base == Version::default() {
            trip.pipeline.cmd("SADD").arg(keys.symbols()).arg(symbol.as_str());
            trip.expected.push(Expected::Done);
        }
        let fields = format::fields(change);
        let put =
            trip.pipeline.cmd("EVALSHA").arg(script).arg(2).arg(keys.hot(*symbol)).arg(keys.ticks(*symbol));
        put.arg(&[format::place(base.seq), format::place(base.bars)]).arg(RECENT_TICKS).arg(fields.len());
        let mut bytes = 200;
        for (field, value) in &fields {
            put.arg(*field).arg(value);
            bytes += field.len() + value.len() + 20;
        }
        for (seq, tick) in ticks {
            let value = format::tick(*seq, tick);
            bytes += value.len() + 10;
            put.arg(value);
        }
        trip.bytes += bytes;
        trip.expected.push(Expected::Put { partition, symbol: *symbol });
        metrics.ticks.inc_by(ticks.len() as u64);
    }

    fn send(&self, trip: Trip) -> Sent {
        let Trip { pipeline, expected, bytes } = trip;
        self.shared.metrics.trips.inc();
        self.shared.metrics.sent_bytes.inc_by(bytes as u64);
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        let replies = tokio::spawn(async move { shared.query(&connection, &pipeline, WRITE_MAX).await });
        Sent { expected, replies }
    }

    async fn receive(&mut self, sent: Sent) -> Result<(), HotError> {
        let shared = self.shared.clone();
        let replies = sent.replies.await.map_err(|error| shared.error(&error))??;
        fail::point("hot.redis.written");
        let metrics = &shared.metrics;
        for (expected, reply) in sent.expected.into_iter().zip(replies) {
            match (expected, reply) {
                (Expected::Done, _) => {}
                (Expected::Put { .. }, Value::Nil) => {
                    metrics.puts.inc();
                }
                (Expected::Put { partition, symbol }, found) => {
                    metrics.conflicts.inc();
                    let version = version(&shared, symbol, found)?;
                    let is_left = shared.mirror.settle(partition, [(symbol, version)])? > 0;
                    if let Some(written) = self.partitions.get_mut(&partition) {
                        written.is_left |= is_left;
                    }
                }
                (Expected::Mark { partition, token, next_offset }, reply) => {
                    let Some(written) = self.partitions.get_mut(&partition) else { continue };
                    if reply == Value::Nil {
                        written.token = token;
                        written.marked_offset = next_offset;
                        written.marked_at = Some(Instant::now());
                        shared.marked.send_modify(|marked| {
                            marked.insert(partition, next_offset);
                        });
                        continue;
                    }
                    written.is_compared = false;
                }
            }
        }
        Ok(())
    }
}
