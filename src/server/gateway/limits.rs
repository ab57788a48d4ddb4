//! Who may connect: keys, and how often.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use base64::prelude::{BASE64_STANDARD, Engine};
use foldhash::HashMap;
use tokio::time::Instant;

/// Addresses that are remembered at once; past it those at rest are forgotten.
const ADDRESSES_MAX: usize = 16_384;

/// A key and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKey {
    /// What Alpaca calls the key.
    pub id: String,
    /// What Alpaca calls the secret.
    pub secret: String,
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientKey({})", self.id)
    }
}

/// Whether `shown` is one of `keys`; without keys anybody's is. Takes as long for every wrong one.
pub(super) fn is_allowed(keys: &[ClientKey], shown: &ClientKey) -> bool {
    let same = |a: &str, b: &str| {
        let differing = a.bytes().zip(b.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
        a.len() == b.len() && differing == 0
    };
    let found = keys.iter().filter(|key| same(&key.id, &shown.id) & same(&key.secret, &shown.secret)).count();
    keys.is_empty() || found > 0
}

/// The key a request shows: in Alpaca's headers, as Basic auth, or, for programs that can set no
/// headers, as `key` and `secret` in the query.
pub(super) fn shown_key(headers: &HeaderMap, query: &[(String, String)]) -> Option<ClientKey> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(id) = text("apca-api-key-id") {
        return Some(ClientKey { id, secret: text("apca-api-secret-key").unwrap_or_default() });
    }
    if let Some(basic) = text("authorization").as_deref().and_then(|value| value.strip_prefix("Basic ")) {
        let decoded = String::from_utf8(BASE64_STANDARD.decode(basic).ok()?).ok()?;
        let (id, secret) = decoded.split_once(':')?;
        return Some(ClientKey { id: id.to_owned(), secret: secret.to_owned() });
    }
    let parameter = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    parameter("key").map(|id| ClientKey { id, secret: parameter("secret").unwrap_or_default() })
}

/// How many handshakes an address may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeLimit {
    /// So many at once.
    pub burst: u32,
    /// And one more each of these.
    pub period: Duration,
}

/// Counts handshakes by address. One with a wrong key costs as much as [`Handshakes::WRONG_COST`].
pub(super) struct Handshakes {
    limit: HandshakeLimit,
    /// When each address will be at rest again.
    rest_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl Handshakes {
    /// What a wrong key costs, in handshakes.
    const WRONG_COST: u32 = 20;

    pub(super) fn new(limit: HandshakeLimit) -> Self {
        Self { limit, rest_at: Mutex::default() }
    }

    fn take(&self, address: IpAddr, cost: u32) -> bool {
        let now = Instant::now();
        let mut rest_at = self.rest_at.lock().unwrap_or_else(PoisonError::into_inner);
        if rest_at.len() >= ADDRESSES_MAX {
            rest_at.retain(|_, at| *at > now);
            if rest_at.len() >= ADDRESSES_MAX {
                return true;
            }
        }
        let entry = rest_at.entry(address).or_insert(now);
        let filled = (*entry).max(now) + self.limit.period * cost;
        let is_within = filled <= now + self.limit.period * self.limit.burst;
        if is_within || cost > 1 {
            *entry = filled.min(now + self.limit.period * self.limit.burst);
        }
        is_within
    }

    /// Whether one more handshake is within the limit.
    pub(super) fn allow(&self, address: IpAddr) -> bool {
        self.take(address, 1)
    }

    /// Tells that a handshake showed a wrong key.
    pub(super) fn wrong_key(&self, address: IpAddr) {
        self.take(address, Self::WRONG_COST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, secret: &str) -> ClientKey {
        ClientKey { id: id.to_owned(), secret: secret.to_owned() }
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
        handshakes.wrong_key(other);
        assert!(!handshakes.allow(other));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(handshakes.allow(other));
    }
}
