//! A gateway's hot: Redis first, and this gateway's own memory while Redis is away.
//!
//! The own memory is filled from the log's tail, which the gateway reads anyway, and once with all
//! that Redis has. So a gateway that loses Redis answers as before; only who changed last is then
//! its own finding. A watcher asks Redis every second whether it answers, so that requests do not
//! wait to find out, and `/readyz` tells without any. A Redis that another installation writes, or that
//! no processor writes any more, counts as away too.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::memory::MemoryHot;
use super::redis::{Away, RedisHot};
use super::{Hot, HotEntry, HotError, HotUpdates};
use crate::backoff::{Backoff, jitter_seed};
use crate::market::{Seq, Symbol, Tick, Timestamp};

/// How often Redis is asked whether it answers.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// How long no processor may have written before what Redis holds counts as old. A processor writes
/// about once a second, also when nothing trades.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Redis, or what this gateway knows by itself.
pub struct FallbackHot {
    redis: Arc<RedisHot>,
    own: Arc<MemoryHot>,
    /// Whether the own memory is to be filled with what Redis has.
    is_copied: bool,
    away: Mutex<Option<Away>>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl FallbackHot {
    /// For a gateway beside the processor of all partitions: its memory is the processor's. To be
    /// called within a Tokio runtime.
    pub fn beside_processor(redis: Arc<RedisHot>) -> Arc<Self> {
        let own = redis.mirror();
        Self::start(redis, own, false)
    }

    /// For a gateway alone, which tells what it reads from a log of `partitions` to
    /// [`FallbackHot::own`]. To be called within a Tokio runtime.
    pub fn alone(redis: Arc<RedisHot>, partitions: u16) -> Arc<Self> {
        let own = MemoryHot::new(partitions).with_horizon(redis.horizon());
        Self::start(redis, Arc::new(own), true)
    }

    fn start(redis: Arc<RedisHot>, own: Arc<MemoryHot>, is_copied: bool) -> Arc<Self> {
        let stop = CancellationToken::new();
        let hot = Arc::new(Self {
            redis,
            own,
            is_copied,
            away: Mutex::default(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        });
        tokio::spawn(watch(Arc::downgrade(&hot), hot.stop.clone()));
        hot
    }

    /// The own memory.
    pub fn own(&self) -> Arc<MemoryHot> {
        self.own.clone()
    }

    /// What is wrong, for `/readyz`: the gateway serves all the same.
    pub fn degraded(&self) -> Option<String> {
        let Away { since, reason } = self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(format!("hot: {reason} (away since {since}); serving from this gateway's memory"))
    }

    fn is_away(&self) -> bool {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn went_away(&self, error: &HotError) {
        self.redis.metrics().read_errors.inc();
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if away.is_none() {
            tracing::warn!(%error, "hot: redis is away; serving from this gateway's memory");
            self.redis.metrics().reader_away.set(1);
            *away = Some(Away { since: Timestamp::now(), reason: error.reason.clone() });
        }
    }

    fn came_back(&self) {
        if let Some(Away { since, .. }) = self.away.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::info!(address = self.redis.address(), %since, "hot: redis is back");
            self.redis.metrics().reader_away.set(0);
        }
    }

    /// Fills the own memory with what Redis has.
    async fn copy(&self) -> Result<(), HotError> {
        let symbols = self.redis.copy_all_to(&self.own).await?;
        tracing::info!(symbols, "hot: this gateway's memory has all that redis has");
        Ok(())
    }

    /// An answer of Redis; `None` when it is away.
    async fn ask<T>(&self, answer: impl Future<Output = Result<T, HotError>>) -> Option<T> {
        if !self.is_away() {
            match answer.await {
                Ok(answer) => return Some(answer),
                Err(error) => self.went_away(&error),
            }
        }
        self.redis.metrics().fallbacks.inc();
        None
    }
}

/// Looks after Redis as long as there is somebody to be told.
async fn watch(hot: Weak<FallbackHot>, stop: CancellationToken) {
    let mut backoff = Backoff::new(jitter_seed());
    let mut is_copied = false;
    let mut written: Option<(Vec<Option<String>>, Instant)> = None;
    loop {
        let Some(hot) = hot.upgrade() else { return };
        let asked = tokio::select! {
            asked = hot.redis.writers() => asked,
            () = stop.cancelled() => return,
        };
        let asked = asked.and_then(|writers| {
            let is_written = writers.iter().any(Option::is_some);
            match &written {
                Some((before, since)) if *before == writers => {
                    if is_written && since.elapsed() > SILENCE_MAX && is_copied >= hot.is_copied {
                        let silent = since.elapsed().as_secs();
                        let reason =
                            format!("redis {}: no processor has written for {silent} s", hot.redis.address());
                        return Err(HotError { reason });
                    }
                }
                _ => written = Some((writers, Instant::now())),
            }
            Ok(())
        });
        let wait = match asked {
            Ok(()) => {
                backoff.reset();
                hot.came_back();
                WATCH_PERIOD
            }
            Err(error) => {
                hot.went_away(&error);
                backoff.next()
            }
        };
        // What was missed at the start, or while Redis was away, is in the log's tail since; only
        // what is older has to be copied, once.
        if hot.is_copied && !is_copied && !hot.is_away() {
            let copied = tokio::select! {
                copied = hot.copy() => copied,
                () = stop.cancelled() => return,
            };
            match copied {
                Ok(()) => is_copied = true,
                Err(error) => hot.went_away(&error),
            }
        }
        drop(hot);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[async_trait::async_trait]
impl Hot for FallbackHot {
    /// Goes to the own memory: Redis is written by the processor alone.
    async fn apply(&self, partition: u16, updates: &HotUpdates) -> Result<(), HotError> {
        self.own.take_in(partition, updates)
    }

    async fn get(&self, symbols: &[Symbol]) -> Result<Vec<Option<HotEntry>>, HotError> {
        let Some(mut found) = self.ask(self.redis.get(symbols)).await else {
            return self.own.get(symbols).await;
        };
        // A Redis that has lost its data answers before it is filled again.
        if found.iter().any(Option::is_none) {
            for (found, own) in found.iter_mut().zip(self.own.get(symbols).await?) {
                *found = found.take().or(own);
            }
        }
        Ok(found)
    }

    async fn recent(&self, symbol: Symbol) -> Result<Vec<(Seq, Tick)>, HotError> {
        match self.ask(self.redis.recent(symbol)).await {
            Some(recent) if !recent.is_empty() => Ok(recent),
            _ => self.own.recent(symbol).await,
        }
    }

    async fn symbols(&self) -> Result<Vec<Symbol>, HotError> {
        let own = self.own.symbols().await?;
        let Some(mut symbols) = self.ask(self.redis.symbols()).await else { return Ok(own) };
        symbols.extend(own);
        symbols.sort_unstable();
        symbols.dedup();
        Ok(symbols)
    }
}
