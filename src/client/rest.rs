//! The client of a server's REST.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Endpoint, Key, KeyRefused};
use crate::market::Symbol;

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may pause before it counts as broken off.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// No server answers there.
    #[error("no server at {endpoint}: {reason}")]
    Unreachable {
        /// The address.
        endpoint: Endpoint,
        /// What the last layer said.
        reason: String,
    },
    /// The server wants a key, or another one.
    #[error(transparent)]
    Key(#[from] KeyRefused),
    /// The server does not let this client do it.
    #[error("{endpoint}: {message}")]
    Denied {
        /// The address.
        endpoint: Endpoint,
        /// The server's words.
        message: String,
    },
    /// The server can't take the request now.
    #[error("{endpoint}: {message}")]
    Busy {
        /// The address.
        endpoint: Endpoint,
        /// The server's words.
        message: String,
    },
    /// The server does not take the request.
    #[error("{message}")]
    Refused {
        /// The server's words.
        message: String,
    },
    /// The answer broke off or is not what was asked for.
    #[error("the answer of {endpoint} broke off: {reason}")]
    Broken {
        /// The address.
        endpoint: Endpoint,
        /// What went wrong.
        reason: String,
    },
}

/// A client of one server.
pub struct RestClient {
    endpoint: Endpoint,
    key: Option<Key>,
    http: reqwest::Client,
}

/// An answer whose rows stream in.
pub struct StreamedAnswer {
    /// What the server says of the answer before it begins, from the header `stk-coverage`: short, with
    /// the first few of each list. [`RestClient::coverage`] has the whole.
    pub coverage: Option<Value>,
    response: reqwest::Response,
    endpoint: Endpoint,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl RestClient {
    /// A client of the server at `endpoint`, which shows `key` if there is one.
    pub fn new(endpoint: Endpoint, key: Option<Key>) -> Result<Self, RestError> {
        // Asked for though nothing here speaks TLS. A second one in a process keeps the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().connect_timeout(CONNECT_MAX).read_timeout(SILENCE_MAX).build();
        match http {
            Ok(http) => Ok(Self { endpoint, key, http }),
            Err(error) => Err(RestError::Unreachable { endpoint, reason: reason_of(&error) }),
        }
    }

    /// What the server says of itself: version, feeds, offsets, connections.
    pub async fn status(&self) -> Result<Value, RestError> {
        self.json("/v1/status", &[]).await
    }

    /// Every symbol the server has seen, in byte order.
    pub async fn symbols(&self) -> Result<Vec<Symbol>, RestError> {
        let answer = self.json("/v1/symbols", &[]).await?;
        serde_json::from_value(answer.get("symbols").cloned().unwrap_or_default())
            .map_err(|error| self.broken(&error))
    }

    /// History as `query` asks for it (names and values of `/v1/history`), in the form it names.
    pub async fn history(&self, query: &[(&str, String)]) -> Result<StreamedAnswer, RestError> {
        let response = self.get("/v1/history", query).await?;
        let header = response.headers().get("stk-coverage").and_then(|value| value.to_str().ok());
        let coverage = header.and_then(|text| serde_json::from_str(text).ok());
        Ok(StreamedAnswer { coverage, response, endpoint: self.endpoint.clone() })
    }

    /// All that the server says of what an answer to `query` covers (names and values of
    /// `/v1/coverage`).
    pub async fn coverage(&self, query: &[(&str, String)]) -> Result<Value, RestError> {
        self.json("/v1/coverage", query).await
    }

    /// Posts `body` as JSON to `path`; the response is a value of JSON per line, as they arrive.
    pub async fn post_lines<T: DeserializeOwned, B: Serialize>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<impl Stream<Item = Result<T, RestError>> + use<T, B>, RestError> {
        let request = self.http.post(self.endpoint.http(path)).json(body);
        let response = self.send(request).await?;
        let endpoint = self.endpoint.clone();
        let lines = Lines { response, endpoint, received: BytesMut::new(), is_over: false };
        Ok(futures_util::stream::try_unfold(lines, |mut lines| async move {
            Ok(lines.next().await?.map(|line| (line, lines)))
        }))
    }

    async fn json(&self, path: &str, query: &[(&str, String)]) -> Result<Value, RestError> {
        self.get(path, query).await?.json().await.map_err(|error| self.broken(&error))
    }

    async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<reqwest::Response, RestError> {
        self.send(self.http.get(self.endpoint.http(path)).query(query)).await
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Result<reqwest::Response, RestError> {
        if let Some(key) = &self.key {
            request = request.header("APCA-API-KEY-ID", &key.id).header("APCA-API-SECRET-KEY", &key.secret);
        }
        let response = request.send().await.map_err(|error| RestError::Unreachable {
            endpoint: self.endpoint.clone(),
            reason: reason_of(&error),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let message = serde_json::from_slice::<Refusal>(&body)
            .map_or_else(|_| format!("{} answers {status}", self.endpoint), |refusal| refusal.message);
        Err(match status.as_u16() {
            401 => KeyRefused { endpoint: self.endpoint.clone(), was_shown: self.key.is_some() }.into(),
            403 => RestError::Denied { endpoint: self.endpoint.clone(), message },
            429 | 503 => RestError::Busy { endpoint: self.endpoint.clone(), message },
            _ => RestError::Refused { message },
        })
    }

    fn broken(&self, error: &dyn std::error::Error) -> RestError {
        RestError::Broken { endpoint: self.endpoint.clone(), reason: reason_of(error) }
    }
}

impl StreamedAnswer {
    /// The answer's bytes as they come.
    pub fn bytes(self) -> impl Stream<Item = Result<Bytes, RestError>> {
        let endpoint = self.endpoint;
        self.response.bytes_stream().map(move |chunk| {
            chunk.map_err(|error| RestError::Broken { endpoint: endpoint.clone(), reason: reason_of(&error) })
        })
    }
}

/// The most bytes of a line: the manifests of some 100,000 days.
const LINE_BYTES_MAX: usize = 256 << 20;

/// A response of lines.
struct Lines {
    response: reqwest::Response,
    endpoint: Endpoint,
    /// What has arrived of the next line, and after it.
    received: BytesMut,
    is_over: bool,
}

impl Lines {
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, RestError> {
        let broken =
            |endpoint: &Endpoint, reason: String| RestError::Broken { endpoint: endpoint.clone(), reason };
        let mut searched = 0;
        loop {
            if let Some(at) = self.received[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.received.split_to(searched + at + 1);
                let value = serde_json::from_slice(&line);
                return value.map(Some).map_err(|error| broken(&self.endpoint, error.to_string()));
            }
            searched = self.received.len();
            if self.is_over {
                return match searched {
                    0 => Ok(None),
                    _ => Err(broken(&self.endpoint, "it ends within a line".to_owned())),
                };
            }
            if searched > LINE_BYTES_MAX {
                return Err(broken(&self.endpoint, format!("a line is over {LINE_BYTES_MAX} bytes long")));
            }
            let chunk = self.response.chunk().await;
            match chunk.map_err(|error| broken(&self.endpoint, reason_of(&error)))? {
                Some(chunk) => self.received.extend_from_slice(&chunk),
                None => self.is_over = true,
            }
        }
    }
}

/// The innermost reason: `connection refused` says more than `error sending request`.
fn reason_of(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string().to_lowercase()
}
