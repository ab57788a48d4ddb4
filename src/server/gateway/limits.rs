//! Who may connect: keys, how often, and what those pay who show a wrong key.
//!
//! A wrong key is answered late, the later the more often it was shown: that is what slows a program
//! that tries again and again. Nobody else at its address notices, and a key that is right passes
//! whatever others did.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use base64::prelude::{BASE64_STANDARD, Engine};
use foldhash::HashMap;
use tokio::time::Instant;

use crate::secret::Secret;

/// Addresses that are remembered at once; past it those at rest are forgotten.
const ADDRESSES_MAX: usize = 16_384;

/// A key and its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// What Alpaca calls the key.
    pub id: String,
    /// What Alpaca calls the secret.
    pub secret: Secret,
}

/// Whether `shown` is one of `keys`; without keys anybody's is. Takes as long for every wrong one.
pub(in crate::server) fn is_allowed(keys: &[ClientKey], shown: &ClientKey) -> bool {
    let same = |a: &str, b: &str| {
        let differing = a.bytes().zip(b.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
        a.len() == b.len() && differing == 0
    };
    let found = keys
        .iter()
        .filter(|key| same(&key.id, &shown.id) & same(key.secret.expose(), shown.secret.expose()))
        .count();
    keys.is_empty() || found > 0
}

/// The key a request shows: in Alpaca's headers, as Basic auth, or, for programs that can set no
/// headers, as `key` and `secret` in the query.
pub(in crate::server) fn shown_key(headers: &HeaderMap, query: &[(String, String)]) -> Option<ClientKey> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(id) = text("apca-api-key-id") {
        return Some(ClientKey { id, secret: Secret::new(text("apca-api-secret-key").unwrap_or_default()) });
    }
    if let Some(basic) = text("authorization").as_deref().and_then(|value| value.strip_prefix("Basic ")) {
        let decoded = String::from_utf8(BASE64_STANDARD.decode(basic).ok()?).ok()?;
        let (id, secret) = decoded.split_once(':')?;
        return Some(ClientKey { id: id.to_owned(), secret: Secret::new(secret) });
    }
    let parameter = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    parameter("key").map(|id| ClientKey { id, secret: Secret::new(parameter("secret").unwrap_or_default()) })
}

/// How many handshakes an address may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeLimit {
    /// So many at once.
    pub burst: u32,
    /// And one more each of these.
    pub period: Duration,
}

/// Counts handshakes by address, where there are no keys to tell clients apart by.
pub(super) struct Handshakes {
    limit: HandshakeLimit,
    /// When each address will be at rest again.
    rest_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl Handshakes {
    pub(super) fn new(limit: HandshakeLimit) -> Self {
        Self { limit, rest_at: Mutex::default() }
    }

    /// Whether one more handshake is within the limit.
    pub(super) fn allow(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut rest_at = self.rest_at.lock().unwrap_or_else(PoisonError::into_inner);
        if rest_at.len() >= ADDRESSES_MAX {
            rest_at.retain(|_, at| *at > now);
            if rest_at.len() >= ADDRESSES_MAX {
                return true;
            }
        }
        let entry = rest_at.entry(address).or_insert(now);
        let filled = (*entry).max(now) + self.limit.period;
        let is_within = filled <= now + self.limit.period * self.limit.burst;
        if is_within {
            *entry = filled;
        }
        is_within
    }
}

/// Counts the connections of each address that have not shown a good key yet.
pub(super) struct Unproven {
    max: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// The place of a connection that has not shown a good key yet.
pub(super) struct UnprovenPlace {
    unproven: Arc<Unproven>,
    address: IpAddr,
}

impl Unproven {
    /// At most `max` at once from each address.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, by_address: Mutex::default() })
    }

    /// A place for one more, if the address has one left.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<UnprovenPlace> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(UnprovenPlace { unproven: self.clone(), address })
    }
}

impl Drop for UnprovenPlace {
    fn drop(&mut self) {
        let mut by_address = self.unproven.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Wrong keys that are remembered at once.
const FAILURES_MAX: usize = 16_384;
/// A wrong key that was not shown for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// What the second try waits; each further one waits twice as long.
const DELAY_FIRST: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(15);
/// Connections that wait for their refusal, with the same key from the same address.
const WAITING_MAX: u32 = 8;
/// And over all keys and addresses.
const WAITING_ALL_MAX: u32 = 256;

/// Remembers wrong keys, each by the address that showed it.
pub(in crate::server) struct Failures {
    hasher: foldhash::fast::RandomState,
    state: Mutex<FailureState>,
}

#[derive(Default)]
struct FailureState {
    /// By address and the hash of the key's id.
    failures: HashMap<(IpAddr, u64), Failure>,
    waiting: u32,
}

struct Failure {
    count: u32,
    last_at: Instant,
    waiting: u32,
}

/// A refusal that is to be told late.
pub(in crate::server) struct Refusal {
    /// How late.
    pub(in crate::server) delay: Duration,
    failures: Arc<Failures>,
    of: (IpAddr, u64),
}

impl Failures {
    pub(in crate::server) fn new() -> Arc<Self> {
        Arc::new(Self { hasher: foldhash::fast::RandomState::default(), state: Mutex::default() })
    }

    /// Counts a wrong key. `None` where so many wait for their refusal that this one is not told at all.
    pub(in crate::server) fn count(self: &Arc<Self>, address: IpAddr, key_id: &str) -> Option<Refusal> {
        let of = (address, self.hasher.hash_one(key_id));
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let is_old =
            |failure: &Failure| now.duration_since(failure.last_at) > FORGET_AFTER && failure.waiting == 0;
        if state.failures.len() >= FAILURES_MAX {
            state.failures.retain(|_, failure| !is_old(failure));
        }
        if state.waiting >= WAITING_ALL_MAX || state.failures.len() >= FAILURES_MAX {
            return None;
        }
        let failure = state.failures.entry(of).or_insert(Failure { count: 0, last_at: now, waiting: 0 });
        if is_old(failure) {
            failure.count = 0;
        }
        if failure.waiting >= WAITING_MAX {
            return None;
        }
        let delay = match failure.count {
            0 => Duration::ZERO,
            tries => (DELAY_FIRST * (1 << (tries - 1).min(10))).min(DELAY_MAX),
        };
        failure.count = failure.count.saturating_add(1);
        failure.last_at = now + delay;
        failure.waiting += 1;
        state.waiting += 1;
        Some(Refusal { delay, failures: self.clone(), of })
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        let mut state = self.failures.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        if let Some(failure) = state.failures.get_mut(&self.of) {
            failure.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, secret: &str) -> ClientKey {
        ClientKey { id: id.to_owned(), secret: Secret::new(secret) }
    }

    #[test]
    fn keys_are_found_wherever_clients_put_them() {
        let shown = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            shown_key(&headers, &[])
        };
        assert_eq!(shown("apca-api-key-id", "me"), Some(key("me", "")));
        assert_eq!(shown("authorization", "Basic bWU6cGFzcw=="), Some(key("me", "pass")));
        assert_eq!(shown("authorization", "Basic b!"), None);
        let query = [("key".to_owned(), "me".to_owned()), ("secret".to_owned(), "pass".to_owned())];
        assert_eq!(shown_key(&HeaderMap::new(), &query), Some(key("me", "pass")));
    }

    #[test]
    fn without_keys_anybody_is_allowed() {
        assert!(is_allowed(&[], &key("any", "thing")));
        let keys = [key("me", "pass")];
        assert!(is_allowed(&keys, &key("me", "pass")));
        for (id, secret) in [("me", "past"), ("me", ""), ("", ""), ("m", "epass"), ("me", "passs")] {
            assert!(!is_allowed(&keys, &key(id, secret)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_burst_and_then_one_a_period() {
        let handshakes = Handshakes::new(HandshakeLimit { burst: 3, period: Duration::from_secs(1) });
        let (mine, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert!((0..3).all(|_| handshakes.allow(mine)));
        assert!(!handshakes.allow(mine) && handshakes.allow(other));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(handshakes.allow(mine) && !handshakes.allow(mine));
    }

    #[test]
    fn an_address_has_only_so_many_connections_that_show_no_key() {
        let unproven = Unproven::new(2);
        let (mine, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = unproven.enter(mine).unwrap();
        let _second = unproven.enter(mine).unwrap();
        assert!(unproven.enter(mine).is_none() && unproven.enter(other).is_some());
        drop(first);
        assert!(unproven.enter(mine).is_some());
        assert_eq!(unproven.by_address.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_key_is_refused_later_each_time_and_no_other_is() {
        let failures = Failures::new();
        let (mine, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let ms = |address, id| failures.count(address, id).unwrap().delay.as_millis();
        let delays: Vec<_> = (0..9).map(|_| ms(mine, "old")).collect();
        assert_eq!(delays, [0, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
        assert_eq!((ms(mine, "new"), ms(other, "old")), (0, 0));
        tokio::time::advance(FORGET_AFTER + DELAY_MAX + DELAY_FIRST).await;
        assert_eq!(ms(mine, "old"), 0);
        let waiting: Vec<_> = (0..WAITING_MAX).map(|_| failures.count(mine, "old").unwrap()).collect();
        assert!(failures.count(mine, "old").is_none() && failures.count(mine, "new").is_some());
        drop(waiting);
        assert!(failures.count(mine, "old").is_some());
    }
}
