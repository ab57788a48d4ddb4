//! Consumers for readers that catch up: few, reused, and taken from whom does not use his.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use tokio::sync::Notify;

use super::Shared;
use super::tail::{at_offsets, consumer_config};
use crate::bus::BusError;
use crate::kafka::{Aside, drop_aside};

/// Consumers kept for the next reader; what is more is ended when it comes back.
const SPARE_MAX: usize = 4;
/// How far a consumer fetches ahead of its reader.
const QUEUED_KBYTES_MAX: u32 = 4_096;

pub(super) type Client = StreamConsumer<Aside>;

/// What a reader has borrowed, if anything. Locked by the reader while it reads; who finds it
/// unlocked may take what is in it.
#[derive(Default)]
pub(super) struct Lease {
    pub(super) client: tokio::sync::Mutex<Option<Client>>,
    /// When it was used last, on the pool's clock.
    used: AtomicU64,
}

struct State {
    spare: Vec<Client>,
    /// All there are, borrowed and spare.
    count: usize,
    leases: Vec<Weak<Lease>>,
}

pub(super) struct Pool {
    client: ClientConfig,
    shared: Arc<Shared>,
    state: Mutex<State>,
    returned: Notify,
    clock: AtomicU64,
}

impl Pool {
    pub(super) fn new(client: ClientConfig, shared: Arc<Shared>) -> Self {
        let state = Mutex::new(State { spare: Vec::new(), count: 0, leases: Vec::new() });
        Self { client, shared, state, returned: Notify::new(), clock: AtomicU64::new(0) }
    }

    /// What clients are made of.
    pub(super) fn client_config(&self) -> &ClientConfig {
        &self.client
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a lease as used now.
    pub(super) fn touch(&self, lease: &Lease) {
        lease.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// A consumer that reads `partition` from `offset` on. It waits while all are in use.
    ///
    /// Cancel-safe: what was being made for a call that was dropped goes to the next.
    pub(super) async fn borrow(
        &self,
        lease: &Arc<Lease>,
        partition: u16,
        offset: u64,
    ) -> Result<Client, BusError> {
        let client = loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            if let Some(client) = self.take(lease)? {
                break client;
            }
            self.shared.metrics.catch_up_waits.inc();
            tokio::select! {
                () = returned => {}
                () = self.shared.closed.cancelled() => return Err(self.shared.ended()),
            }
        };
        let at = at_offsets(&self.shared.config.topic, [(partition, offset)]);
        match at.and_then(|at| client.assign(&at)) {
            Ok(()) => Ok(client),
            Err(error) => {
                self.give_back(client);
                Err(self.shared.error(&error))
            }
        }
    }

    /// A spare one, a new one, or the one idle for longest.
    fn take(&self, lease: &Arc<Lease>) -> Result<Option<Client>, BusError> {
        let mut state = self.state();
        state.leases.retain(|other| other.strong_count() > 0);
        if !state.leases.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(lease))) {
            state.leases.push(Arc::downgrade(lease));
        }
        if let Some(client) = state.spare.pop() {
            return Ok(Some(client));
        }
        if state.count < self.shared.config.catch_ups_max.max(1) {
            let client = self.make().map_err(|error| self.shared.error(&error))?;
            state.count += 1;
            self.shared.metrics.catch_up_consumers.set(state.count as i64);
            return Ok(Some(client));
        }
        let mut idle: Vec<Arc<Lease>> = state.leases.iter().filter_map(Weak::upgrade).collect();
        idle.sort_by_key(|lease| lease.used.load(Ordering::Relaxed));
        let stolen = idle.iter().find_map(|lease| lease.client.try_lock().ok()?.take());
        if stolen.is_some() {
            self.shared.metrics.catch_up_steals.inc();
        }
        Ok(stolen)
    }

    fn make(&self) -> Result<Client, KafkaError> {
        let mut config = consumer_config(&self.client, &self.shared.config.group, QUEUED_KBYTES_MAX);
        // A fetch that waits at a partition's end would hold up the next reader's first. Nobody
        // needs it: a reader that catches up knows that there is more.
        config.set("fetch.wait.max.ms", "20");
        // So that a reader learns of an end behind which only Kafka's own marks stand.
        config.set("enable.partition.eof", "true");
        config.create_with_context(Aside)
    }

    /// A reader has no more use for it.
    pub(super) fn give_back(&self, client: Client) {
        let is_clean = client.unassign().is_ok();
        let mut state = self.state();
        if is_clean && state.spare.len() < SPARE_MAX && !self.shared.closed.is_cancelled() {
            state.spare.push(client);
            drop(state);
            self.returned.notify_waiters();
        } else {
            drop(state);
            self.end([client]);
        }
    }

    /// Ends what a lease holds, which found all brokers away, and the spare clients, which did too.
    pub(super) fn forsake(&self, client: &mut Option<Client>) {
        let spare = std::mem::take(&mut self.state().spare);
        self.end(spare.into_iter().chain(client.take()));
    }

    fn end(&self, clients: impl IntoIterator<Item = Client>) {
        for client in clients {
            drop_aside(client);
            let mut state = self.state();
            state.count -= 1;
            self.shared.metrics.catch_up_consumers.set(state.count as i64);
        }
        self.returned.notify_waiters();
    }

    /// As [`Pool::give_back`], of what a lease holds.
    pub(super) fn give_back_of(&self, client: &mut Option<Client>) {
        if let Some(client) = client.take() {
            self.give_back(client);
        }
    }
}

/// A reader's read. When it ends, or is dropped half-way, what the reader keeps may be taken.
pub(super) struct Reading(pub(super) Arc<Pool>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.returned.notify_waiters();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for client in std::mem::take(&mut self.state().spare) {
            drop_aside(client);
        }
    }
}
