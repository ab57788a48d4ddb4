//! The one client of a server: its stream, its REST, and the ingest endpoint.
//!
//! Everything that talks to a server (the board, `history`, `replay`, `symbols`, `doctor`) does so
//! through here. Knows nothing of how a server is built.

pub mod ingest;
pub mod rest;
pub mod stream;

use std::fmt;
use std::str::FromStr;

use crate::secret::Secret;

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
        let refused = |reason| {
            // It may have been written with a password.
            let text = Secret::url(text).to_string();
            EndpointError { text: text.escape_debug().to_string(), reason }
        };
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

/// A server wants a key, or another one than it was shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint} {}", if *.was_shown { "refused the key" } else { "needs a key" })]
pub struct KeyRefused {
    /// The server.
    pub endpoint: Endpoint,
    /// Whether a key was shown.
    pub was_shown: bool,
}

/// The key a client shows.
#[derive(Clone)]
pub struct Key {
    /// Who it is.
    pub id: String,
    /// What only they know.
    pub secret: String,
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
        let message = of("http://me:sesame@host:1").unwrap_err().to_string();
        assert!(
            message.starts_with("\"http://…@host:1\" is no address") && !message.contains("sesame"),
            "{message}"
        );
    }
}
