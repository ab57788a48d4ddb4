//! Hot in Redis: one copy for all gateways, and for other programs (`docs/redis.md`).
//!
//! The processor keeps the state of its partitions in memory, as where there is no Redis, and
//! `writer` keeps Redis like it: what has changed goes there in one pipeline a round, however many
//! batches came meanwhile. So a batch never waits for Redis, what is owed to it is bounded by the
//! symbols there are, and whatever Redis loses is there to be sent again.
//!
//! Nothing goes backwards: a symbol's state is a function of the log up to its last tick, and is
//! written only over the one it continues. A processor that was replaced, one that replays, and a
//! pipeline whose reply was lost all find another state there than they believed, and write nothing.
//!
//! State that was written from another log, or from another timeline of this one, is wrong rather than old.
//! So a mark names the log, its generation and the last record. A processor that takes a partition over, and
//! each gateway, compare these with the log first.

mod format;
mod metrics;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, Pipeline, RedisError, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::format::{FIELDS, Keys, Stored};
pub use self::metrics::RedisHotMetrics;
use super::memory::MemoryHot;
use super::timeline::{self, Place, Unfit};
use super::{Hot, HotEntry, HotError, HotUpdates, RECENT_TICKS};
use crate::bus::epoch::LogName;
use crate::bus::{Bus, Record};
use crate::market::{Horizon, Seq, Symbol, Tick, Timestamp};
use crate::secret::Secret;

/// How long the writer waits for the replies of a pipeline.
const WRITE_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(2);
const RECONNECTS_MAX: usize = 3;
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(1);
/// Symbols asked for in one pipeline.
const SYMBOLS_PER_TRIP: usize = 256;
/// Symbols whose ticks are asked for in one pipeline: about 20 KB each.
const RECENT_PER_TRIP: usize = 32;
/// How long a stop waits for what has not been written.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Where Redis is, and how it is asked.
#[derive(Clone, Debug)]
pub struct RedisHotConfig {
    /// `redis://[user:password@]host:port/db`, or `rediss://` for TLS.
    pub url: Secret,
    /// What the names of all keys begin with.
    pub prefix: String,
    /// How long nobody must have written the keys of another log or timeline before they are removed: 10 s
    /// by default. A writer that is alive writes about once a second.
    pub foreign_rest: Duration,
    /// The least time between two rounds of the writer. A round that took longer is followed by a
    /// rest as long, of a quarter of a second at most, so that Redis has time for others.
    pub round_interval: Duration,
    /// How long a gateway waits for an answer before it answers from its own memory.
    pub read_wait_max: Duration,
    /// What is beyond it is nobody's latest, though it may be in Redis.
    pub horizon: Horizon,
}

impl RedisHotConfig {
    /// With the default interval and wait.
    pub fn new(url: String, prefix: String) -> Self {
        Self {
            url: Secret::url(url),
            prefix,
            foreign_rest: Duration::from_secs(10),
            round_interval: Duration::from_millis(5),
            read_wait_max: Duration::from_millis(500),
            horizon: Horizon::UNLIMITED,
        }
    }
}

/// Since when Redis does not answer, and why.
#[derive(Clone, Debug)]
pub(super) struct Away {
    pub(super) since: Timestamp,
    pub(super) reason: String,
}

/// What the store and its writer share.
struct Shared {
    config: RedisHotConfig,
    /// The log whose state is in Redis. An offset of another log means another record.
    bus: Arc<dyn Bus>,
    /// Host and port, without the password.
    address: String,
    keys: Keys,
    /// The state of the partitions that this process processes.
    mirror: Arc<MemoryHot>,
    metrics: RedisHotMetrics,
    /// The partitions that are written.
    written: Mutex<BTreeSet<u16>>,
    /// By partition, the record that its last tick came in.
    records: Mutex<BTreeMap<u16, Record>>,
    /// By partition, the writer whose mark was compared with the log.
    compared: tokio::sync::Mutex<BTreeMap<u16, String>>,
    /// Batches applied.
    applied: AtomicU64,
    /// Batches that are in Redis whole.
    settled: watch::Sender<u64>,
    /// What the mark of each partition says.
    marked: watch::Sender<BTreeMap<u16, u64>>,
    /// Told of every batch.
    wake: Notify,
    away: Mutex<Option<Away>>,
}

impl Shared {
    fn error(&self, reason: &dyn std::fmt::Display) -> HotError {
        HotError { reason: format!("redis {}: {reason}", self.address) }
    }

    fn away(&self) -> MutexGuard<'_, Option<Away>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a pipeline and returns its replies, one for each command, none of them an error.
    async fn query(
        &self,
        connection: &ConnectionManager,
        pipeline: &Pipeline,
        wait_max: Duration,
    ) -> Result<Vec<Value>, HotError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = connection.clone();
        let asking = async {
            match connection.send_packed_commands(pipeline, 0, pipeline.len()).await {
                // A connection that was idle may have been closed long ago, which nobody was told.
                // All that is sent can be sent twice: what is written is compared before.
                Err(error) if error.is_connection_dropped() => {
                    connection.send_packed_commands(pipeline, 0, pipeline.len()).await
                }
                answer => answer,
            }
        };
        let replies = within(wait_max, asking).await.map_err(|reason| self.error(&reason))?;
        for reply in &replies {
            if let Value::ServerError(refused) = reply {
                let details = refused.details().unwrap_or_default();
                return Err(self.error(&format_args!("{} {details}", refused.code())));
            }
        }
        Ok(replies)
    }

    fn partitions(&self) -> u16 {
        self.bus.partitions()
    }

    fn log(&self) -> LogName {
        self.bus.epoch().name()
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<u16, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is stored of each of `symbols`, in their order.
    async fn stored(
        &self,
        connection: &ConnectionManager,
        symbols: &[Symbol],
        wait_max: Duration,
    ) -> Result<Vec<Option<Stored>>, HotError> {
        let mut found = Vec::with_capacity(symbols.len());
        for symbols in symbols.chunks(SYMBOLS_PER_TRIP) {
            let mut pipeline = Pipeline::with_capacity(symbols.len() + 1);
            let marks = self.ask_marks(&mut pipeline, symbols);
            for symbol in symbols {
                pipeline.cmd("HMGET").arg(self.keys.hot(*symbol)).arg(&FIELDS);
            }
            let mut replies = self.query(connection, &pipeline, wait_max).await?;
            self.check_marks(&marks, replies.drain(..marks.len()), wait_max).await?;
            for (symbol, reply) in symbols.iter().zip(replies) {
                let values: Vec<Option<Vec<u8>>> = self.read(reply)?;
                let read = format::read_fields(&values);
                found.push(read.map_err(|reason| self.unreadable(&self.keys.hot(*symbol), &reason))?);
            }
        }
        Ok(found)
    }

    /// The last ticks of each of `symbols`, in their order, oldest first.
    async fn recent(
        &self,
        connection: &ConnectionManager,
        symbols: &[Symbol],
        wait_max: Duration,
    ) -> Result<Vec<Vec<(Seq, Tick)>>, HotError> {
        let mut pipeline = Pipeline::with_capacity(symbols.len() + 1);
        let marks = self.ask_marks(&mut pipeline, symbols);
        for symbol in symbols {
            let from = -(RECENT_TICKS as i64);
            pipeline.cmd("LRANGE").arg(self.keys.ticks(*symbol)).arg(from).arg(-1);
        }
        let mut replies = self.query(connection, &pipeline, wait_max).await?;
        self.check_marks(&marks, replies.drain(..marks.len()), wait_max).await?;
        let mut found = Vec::with_capacity(symbols.len());
        for (symbol, reply) in symbols.iter().zip(replies) {
            let values: Vec<Vec<u8>> = self.read(reply)?;
            let ticks: Result<Vec<_>, String> = values.iter().map(|value| format::read_tick(value)).collect();
            found.push(ticks.map_err(|reason| self.unreadable(&self.keys.ticks(*symbol), &reason))?);
        }
        Ok(found)
    }

    async fn symbols(
        &self,
        connection: &ConnectionManager,
        wait_max: Duration,
    ) -> Result<Vec<Symbol>, HotError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("SMEMBERS").arg(self.keys.symbols());
        let mut replies = self.query(connection, &pipeline, wait_max).await?;
        let names: Vec<String> = self.read(replies.pop().unwrap_or(Value::Nil))?;
        let symbols: Result<Vec<Symbol>, _> = names.iter().map(|name| name.parse::<Symbol>()).collect();
        let mut symbols = symbols.map_err(|reason| self.unreadable(&self.keys.symbols(), &reason))?;
        symbols.sort_unstable();
        Ok(symbols)
    }

    /// Adds the questions for the marks of the partitions of `symbols`: which partitions.
    fn ask_marks(&self, pipeline: &mut Pipeline, symbols: &[Symbol]) -> BTreeSet<u16> {
        let partition = |symbol: &Symbol| symbol.partition(self.partitions());
        let partitions: BTreeSet<u16> = symbols.iter().map(partition).collect();
        for partition in &partitions {
            pipeline.cmd("HMGET").arg(self.keys.mark(*partition)).arg(&writer::MARK_FIELDS);
        }
        partitions
    }

    /// Refuses what is of another log or timeline; by the answers to [`Shared::ask_marks`].
    async fn check_marks(
        &self,
        partitions: &BTreeSet<u16>,
        replies: impl IntoIterator<Item = Value>,
        wait_max: Duration,
    ) -> Result<(), HotError> {
        for (&partition, reply) in partitions.iter().zip(replies) {
            let Some(mark) = writer::Mark::read(self, reply)? else { continue };
            if !mark.is_of(self) {
                return Err(self.foreign());
            }
            let comparing = async {
                let mut compared = self.compared.lock().await;
                // A writer has compared what it found. That of one that came since is compared by whoever
                // looks after the store.
                if compared.contains_key(&partition) {
                    return Ok(());
                }
                self.compare(partition, &mark, &mut compared).await
            };
            let comparing = tokio::time::timeout(wait_max, comparing).await;
            comparing.map_err(|_| self.error(&"the log does not say whether it is the one in redis"))??;
        }
        Ok(())
    }

    /// Makes sure that `mark` is of this timeline of the log, unless its writer is known to be.
    async fn compare(
        &self,
        partition: u16,
        mark: &writer::Mark,
        compared: &mut BTreeMap<u16, String>,
    ) -> Result<(), HotError> {
        let writer = mark.writer_name().to_owned();
        if compared.get(&partition) == Some(&writer) {
            return Ok(());
        }
        compared.remove(&partition);
        self.check_timeline(partition, mark).await.map_err(|unfit| self.unfit(unfit))?;
        compared.insert(partition, writer);
        Ok(())
    }

    /// Checks that the state up to `mark` was read from this timeline of the log.
    async fn check_timeline(&self, partition: u16, mark: &writer::Mark) -> Result<(), Unfit> {
        let end = Place { next_offset: mark.next_offset, generation: None, seam: None };
        timeline::check(&*self.bus, partition, end).await?;
        // An earlier version of stk moves the mark on without naming a record. What it continued is compared.
        let Some((next_offset, seam)) = mark.seam else { return Ok(()) };
        let last = Place { next_offset, generation: mark.generation, seam: Some(seam) };
        timeline::check(&*self.bus, partition, last).await
    }

    /// Another installation uses the same keys.
    fn foreign(&self) -> HotError {
        self.error(&format_args!(
            "the keys that begin with \"{}\" are of another log; set hot.redis_prefix to a prefix that no other \
             installation has",
            self.config.prefix
        ))
    }

    /// The keys are of another timeline of the log: one that was put back, or that another installation
    /// continues.
    fn unfit(&self, unfit: Unfit) -> HotError {
        match unfit {
            Unfit::OtherTimeline(reason) => self.error(&format_args!(
                "the keys that begin with \"{}\" are of another timeline of the log: what redis holds {reason}; \
                 unless another installation writes them, a processor replaces them",
                self.config.prefix
            )),
            Unfit::Unknown(error) => error,
        }
    }

    fn read<T: redis::FromRedisValue>(&self, reply: Value) -> Result<T, HotError> {
        redis::from_redis_value(reply).map_err(|reason| self.error(&reason))
    }

    fn unreadable(&self, key: &str, reason: &dyn std::fmt::Display) -> HotError {
        self.error(&format_args!("key {key} can't be read: {reason}; delete it to have it written anew"))
    }

    /// Adds what Redis has of `symbols` to `memory`, and returns how far each had come.
    async fn copy_to(
        &self,
        connection: &ConnectionManager,
        symbols: &[Symbol],
        memory: &MemoryHot,
    ) -> Result<(), HotError> {
        for symbols in symbols.chunks(RECENT_PER_TRIP) {
            let stored = self.stored(connection, symbols, WRITE_MAX).await?;
            let recent = self.recent(connection, symbols, WRITE_MAX).await?;
            for ((symbol, stored), mut ticks) in symbols.iter().zip(stored).zip(recent) {
                let Some(Stored { ticks: pinned, bars, .. }) = stored else { continue };
                ticks.extend(pinned);
                memory.merge(symbol.partition(memory.partitions()), *symbol, ticks, &bars)?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// Awaits `answer` for no longer than `wait_max`; an error as text.
async fn within<T>(
    wait_max: Duration,
    answer: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, String> {
    match tokio::time::timeout(wait_max, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", wait_max.as_millis())),
    }
}

/// The last of every symbol, in Redis.
pub struct RedisHot {
    shared: Arc<Shared>,
    /// For questions.
    reader: ConnectionManager,
    /// For what is long: the writer's pipelines, copies.
    writer: ConnectionManager,
    task: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl RedisHot {
    /// Connects, to tell of `bus`. To be called within a Tokio runtime, on which the writer runs.
    ///
    /// A Redis that can't be reached is no error: it is waited for. Errors: a URL that is none, or a
    /// Redis that refuses this client.
    pub async fn connect(config: RedisHotConfig, bus: Arc<dyn Bus>) -> Result<Arc<Self>, HotError> {
        let bad = |reason: &dyn std::fmt::Display| HotError {
            reason: format!("redis: the URL in hot.redis_url is not usable: {reason}"),
        };
        let client = Client::open(config.url.expose()).map_err(|error| bad(&error))?;
        let address = client.get_connection_info().addr().to_string();
        let manager = |response_max| {
            let settings = ConnectionManagerConfig::new()
                .set_number_of_retries(RECONNECTS_MAX)
                .set_min_delay(RECONNECT_WAIT_MIN)
                .set_max_delay(RECONNECT_WAIT_MAX)
                .set_connection_timeout(Some(CONNECT_MAX))
                .set_response_timeout(Some(response_max));
            client.get_connection_manager_lazy(settings).map_err(|error| bad(&error))
        };
        let (reader, writer) = (manager(config.read_wait_max)?, manager(WRITE_MAX)?);
        let shared = Arc::new(Shared {
            address,
            keys: Keys { prefix: config.prefix.clone() },
            mirror: Arc::new(MemoryHot::watched(bus.partitions()).with_horizon(config.horizon)),
            metrics: RedisHotMetrics::default(),
            written: Mutex::default(),
            records: Mutex::default(),
            compared: tokio::sync::Mutex::default(),
            applied: AtomicU64::new(0),
            settled: watch::Sender::new(0),
            marked: watch::Sender::default(),
            wake: Notify::new(),
            away: Mutex::default(),
            bus,
            config,
        });
        match tokio::time::timeout(CONNECT_MAX, Cmd::ping().query_async::<()>(&mut writer.clone())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if is_refusal(&error) => {
                let remedy = "check the user, the password and the rights in hot.redis_url";
                return Err(shared.error(&format_args!("{error}; {remedy}")));
            }
            Ok(Err(error)) => {
                tracing::warn!(address = shared.address, %error, "redis can't be reached; it is waited for");
            }
            Err(_) => tracing::warn!(address = shared.address, "redis does not answer; it is waited for"),
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(writer::run(shared.clone(), writer.clone(), stop.clone()));
        let task = Mutex::new(Some(task));
        Ok(Arc::new(Self { shared, reader, writer, task, _stop_on_drop: stop.clone().drop_guard(), stop }))
    }

    /// What is counted.
    pub fn metrics(&self) -> &RedisHotMetrics {
        &self.shared.metrics
    }

    /// What this process's processor has told, in memory: what its checkpoints are made of, and what
    /// a gateway of the same process falls back on.
    pub fn mirror(&self) -> Arc<MemoryHot> {
        self.shared.mirror.clone()
    }

    /// What is beyond it is nobody's latest.
    pub(super) fn horizon(&self) -> Horizon {
        self.shared.config.horizon
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// What is wrong with writing, for `/readyz`; the processor goes on all the same.
    pub fn degraded(&self) -> Option<String> {
        let Away { since, reason } = self.shared.away().clone()?;
        let waiting = self.shared.metrics.waiting_symbols.get();
        Some(format!("hot: {reason} (away since {since}); {waiting} symbols wait to be written"))
    }

    /// Waits until all that was applied before is in Redis; as long as it takes.
    pub async fn settled(&self) {
        let applied = self.shared.applied.load(Ordering::Acquire);
        let mut settled = self.shared.settled.subscribe();
        // The sender lives as long as `self`.
        let _ = settled.wait_for(|settled| *settled >= applied).await;
    }

    /// Waits until the mark says that all applied before of a partition is in Redis.
    async fn marked(&self, partition: u16) {
        let Ok(next_offset) = self.shared.mirror.next_offset(partition) else { return };
        let is_marked =
            |marked: &BTreeMap<u16, u64>| marked.get(&partition).is_some_and(|marked| *marked >= next_offset);
        self.settled().await;
        let _ = self.shared.marked.subscribe().wait_for(is_marked).await;
    }

    /// Removes all keys, as a Redis does that starts anew.
    #[cfg(test)]
    pub(crate) async fn erase(&self) {
        for partition in 0..self.shared.partitions() {
            writer::purge(&self.shared, &self.writer, partition).await.expect("removed");
        }
    }

    /// Writes what is left, for no longer than a few seconds, and ends the writer.
    pub async fn close(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    /// Asks whether Redis answers, and what it holds is this log's: who wrote last of each partition that
    /// was written, which changes about once a second.
    pub(super) async fn writers(&self) -> Result<Vec<Option<String>>, HotError> {
        let shared = &self.shared;
        let mut pipeline = Pipeline::with_capacity(usize::from(shared.partitions()));
        for partition in 0..shared.partitions() {
            pipeline.cmd("HMGET").arg(shared.keys.mark(partition)).arg(&writer::MARK_FIELDS);
        }
        let replies = shared.query(&self.reader, &pipeline, shared.config.read_wait_max).await?;
        let mut writers = Vec::with_capacity(replies.len());
        let mut compared = shared.compared.lock().await;
        for (partition, reply) in (0..).zip(replies) {
            let mark = writer::Mark::read(shared, reply)?;
            if let Some(mark) = &mark {
                if !mark.is_of(shared) {
                    return Err(shared.foreign());
                }
                shared.compare(partition, mark, &mut compared).await?;
            }
            writers.push(mark.and_then(|mark| mark.writer));
        }
        Ok(writers)
    }

    /// Adds all that Redis knows to `memory`.
    pub(super) async fn copy_all_to(&self, memory: &MemoryHot) -> Result<usize, HotError> {
        let symbols = self.shared.symbols(&self.writer, WRITE_MAX).await?;
        self.shared.copy_to(&self.writer, &symbols, memory).await?;
        Ok(symbols.len())
    }

    /// Whether Redis stands at `to` or further: its state is then in the mirror.
    async fn take_over(&self, partition: u16, to: u64) -> Result<bool, HotError> {
        let shared = &self.shared;
        let mark = writer::read_mark(shared, &self.writer, partition).await?;
        let Some(mark) = mark else { return Ok(false) };
        // The writer removes what does not fit, if nobody writes it any more.
        if !mark.is_of(shared) {
            return Err(shared.foreign());
        }
        writer::check(shared, &self.writer, partition, &mark).await.map_err(|unfit| shared.unfit(unfit))?;
        if mark.seam.is_none() {
            tracing::info!(partition, "hot: redis does not name the last record and is taken for this log's");
        }
        if mark.next_offset < to {
            let (redis_next, warm_next) = (mark.next_offset, to);
            tracing::info!(
                partition,
                redis_next,
                warm_next,
                "hot: redis is behind; it is brought up to date"
            );
            return Ok(false);
        }
        let mut symbols = shared.symbols(&self.writer, WRITE_MAX).await?;
        symbols.retain(|symbol| symbol.partition(shared.partitions()) == partition);
        shared.copy_to(&self.writer, &symbols, &shared.mirror).await?;
        tracing::info!(
            partition,
            symbols = symbols.len(),
            next_offset = mark.next_offset,
            "hot: taken over from redis"
        );
        Ok(true)
    }

    fn write(&self, partition: u16) {
        self.shared.written().insert(partition);
        self.shared.wake.notify_one();
    }
}

/// Whether trying again can't help.
fn is_refusal(error: &RedisError) -> bool {
    let codes = ["NOAUTH", "WRONGPASS", "NOPERM", "MOVED", "CLUSTERDOWN"];
    let kinds = [ErrorKind::AuthenticationFailed, ErrorKind::InvalidClientConfig];
    kinds.contains(&error.kind()) || error.code().is_some_and(|code| codes.contains(&code))
}

#[async_trait::async_trait]
impl Hot for RedisHot {
    /// In memory at once, and in Redis with the writer's next round ([`RedisHot::settled`]).
    ///
    /// Errors: there is no such partition.
    async fn apply(&self, partition: u16, updates: &HotUpdates) -> Result<(), HotError> {
        self.shared.mirror.take_in(partition, updates)?;
        if let Some(record) = &updates.record {
            self.shared.records().insert(partition, record.clone());
        }
        self.shared.applied.fetch_add(1, Ordering::AcqRel);
        self.write(partition);
        Ok(())
    }

    async fn get(&self, symbols: &[Symbol]) -> Result<Vec<Option<HotEntry>>, HotError> {
        let stored = self.shared.stored(&self.reader, symbols, self.shared.config.read_wait_max).await?;
        let until = self.shared.config.horizon.end();
        Ok(stored.into_iter().map(|stored| stored.map(|stored| stored.entry.up_to(until))).collect())
    }

    async fn recent(&self, symbol: Symbol) -> Result<Vec<(Seq, Tick)>, HotError> {
        let wait_max = self.shared.config.read_wait_max;
        Ok(self.shared.recent(&self.reader, &[symbol], wait_max).await?.pop().unwrap_or_default())
    }

    async fn symbols(&self) -> Result<Vec<Symbol>, HotError> {
        // Whether they are this log's.
        self.writers().await?;
        self.shared.symbols(&self.reader, self.shared.config.read_wait_max).await
    }

    async fn begin(&self, partition: u16, to: u64) -> Result<bool, HotError> {
        let taken = self.take_over(partition, to).await;
        self.write(partition);
        // Redis may come later than the processor: the log and warm have all of it.
        Ok(taken.unwrap_or_else(|error| {
            tracing::warn!(partition, %error, "hot: nothing is taken over from redis");
            false
        }))
    }

    async fn end(&self, partition: u16) {
        if self.shared.away().is_none() {
            let _ = tokio::time::timeout(CLOSE_MAX, self.marked(partition)).await;
        }
        self.shared.written().remove(&partition);
        self.shared.records().remove(&partition);
        if let Err(error) = self.shared.mirror.clear(partition) {
            tracing::warn!(partition, %error, "hot: the partition is not forgotten");
        }
    }
}
