//! The one client of a server: its stream, its REST, and the ingest endpoint.
//!
//! Everything that talks to a server (the board, `history`, `replay`, `symbols`, `doctor`) does so
//! through here. Knows nothing of how a server is built.

pub mod ingest;
pub mod rest;
pub mod stream;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Where a server is: `host:port`, or that as an `http://` or `ws://` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    authority: String,
}

/// Why a text is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no address of a server: {reason}")]
pub struct EndpointError {
    text: String,
    reason: &'static str,
}

impl Endpoint {
    /// The address of `path` over HTTP; `path` begins with a slash.
    pub fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }

    /// The address of `path` over WebSocket; `path` begins with a slash.
    pub fn ws(&self, path: &str) -> String {
        format!("ws://{}{path}", self.authority)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |reason| EndpointError { text: text.escape_debug().to_string(), reason };
        let authority = match text.split_once("://") {
            Some(("http" | "ws", rest)) => rest,
            Some(("https" | "wss", _)) => {
                return Err(refused("TLS is not spoken; put a proxy that does before it"));
            }
            Some(_) => return Err(refused("write host:port, http://host:port or ws://host:port")),
            None => text,
        };
        let authority = authority.trim_end_matches('/');
        let port = authority.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        match port.map(str::parse::<u16>) {
            Some(Ok(_)) if !authority.contains(['/', ' ', '@']) => {
                Ok(Self { authority: authority.to_owned() })
            }
            _ => Err(refused("write host:port, such as 127.0.0.1:7878")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

/// The key a client shows.
#[derive(Clone)]
pub struct Key {
    /// Who it is.
    pub id: String,
    /// What only they know.
    pub secret: String,
}

/// How long to wait before one more try: doubles from a quarter of a second to eight seconds, each
/// spread over a half to the whole, so that a crowd of clients does not come back at one instant.
pub(crate) struct Backoff {
    tries: u32,
    random: SplitMix64,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    const DOUBLINGS_MAX: u32 = 5;

    pub(crate) fn new(seed: u64) -> Self {
        Self { tries: 0, random: SplitMix64::seed_from_u64(seed) }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let whole = Self::FIRST * 2_u32.pow(self.tries.min(Self::DOUBLINGS_MAX));
        self.tries += 1;
        let share = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        whole.mul_f64(0.5 + share / 2.0)
    }

    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// A seed that differs between processes and moments: for jitter, not for secrets.
pub(crate) fn jitter_seed() -> u64 {
    crate::market::Timestamp::now().nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused_by_name() {
        let of = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.ws("/v2/stk"));
        for text in ["127.0.0.1:7878", "http://127.0.0.1:7878", "ws://127.0.0.1:7878/"] {
            assert_eq!(of(text).unwrap(), "ws://127.0.0.1:7878/v2/stk");
        }
        for text in ["", "localhost", ":1", "host:99999", "ftp://host:1", "host:1/path", "https://host:1"] {
            let message = of(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("\"{text}\" is no address of a server: ")), "{message}");
        }
    }

    #[test]
    fn waits_grow_spread_and_stay_bounded() {
        let mut backoff = Backoff::new(1);
        let waits: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        assert!(waits[0] >= Duration::from_millis(125) && waits[0] <= Duration::from_millis(250));
        assert!(waits[6..].iter().all(|wait| (4.0..=8.0).contains(&wait.as_secs_f64())), "{waits:?}");
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(250));
    }
}
