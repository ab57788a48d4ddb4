//! What answers at a server's address while its stores are closed after a fault, until they can be opened
//! again: `/healthz`, `/readyz` and `/metrics`. Everything else is refused, so that clients and balancers try
//! again later.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::{gateway, metrics, operations};

/// How long a request that is being answered may hold up the server that comes back.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// When a client is asked to try again, in seconds.
const RETRY_AFTER_S: u32 = 5;

/// Counts how often a process opened its stores again. Lasts longer than any of its servers.
#[derive(Clone, Debug, Default)]
pub struct ReopenMetrics {
    /// Times that the stores were closed to be opened again.
    pub reopens: Counter,
    /// Times that they could not be opened again yet.
    pub failures: Counter,
}

impl ReopenMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "server_reopens",
            "Times the stores were closed to be opened again, mostly after a fault",
            self.reopens.clone(),
        );
        registry.register(
            "server_reopen_failures",
            "Times the stores could not be opened again yet",
            self.failures.clone(),
        );
    }
}

/// Answers at `address` until `until`, with `reason` why nothing is served. An address that can't be had is
/// left alone.
pub async fn serve<T>(
    address: SocketAddr,
    reason: String,
    metrics: &ReopenMetrics,
    until: impl Future<Output = T>,
) -> T {
    let listener = match super::node::bound(address) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%address, %error, "nothing answers until the stores are open again");
            return until.await;
        }
    };
    let mut registry = metrics::registry();
    metrics.register(&mut registry);
    let registry = Arc::new(registry);
    let told = json!({ "ready": false, "not_ready": [&reason] });
    // Connections are closed with their answers: the next request is for the server that comes back.
    let close = async |response: Response| ([(header::CONNECTION, "close")], response).into_response();
    let reason = format!("the stores are closed: {reason}");
    let router = Router::new()
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(async move || (StatusCode::SERVICE_UNAVAILABLE, Json(told))))
        .route("/metrics", get(async move || operations::metrics(&registry)))
        .fallback(async move |request: Request| gateway::closed(&request, &reason, RETRY_AFTER_S))
        .layer(axum::middleware::map_response(close));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async {
        // Both mean the end.
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serving.into_future());
    let done = until.await;
    drop(stop);
    if tokio::time::timeout(LINGER_MAX, serving).await.is_err() {
        tracing::debug!("a request was still being answered");
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::address::OwnAddress;

    /// The status of the answer, when to ask again, and its body.
    async fn answer(request: reqwest::RequestBuilder) -> (u16, Option<String>, String) {
        let response = request.send().await.unwrap();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|seconds| seconds.to_str().unwrap().to_owned());
        (response.status().as_u16(), retry_after, response.text().await.unwrap())
    }

    /// alpaca-py asks again after 429 and 504 alone, Alpaca's client for Go after 429 and 500, and an
    /// `EventSource` ends for good with any status but 200.
    #[tokio::test]
    async fn every_kind_of_client_comes_back_to_a_server_whose_stores_are_closed() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = OwnAddress::new();
        let (done, until) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn({
            let address = address.parse().unwrap();
            async move { serve(address, "the disk is full".to_owned(), &ReopenMetrics::default(), until).await }
        });
        let http = reqwest::Client::new();
        let get = |path: &str| http.get(format!("http://{}{path}", &*address));
        while get("/healthz").send().await.is_err() {
            tokio::task::yield_now().await;
        }
        let told = "the stores are closed: the disk is full";
        for path in
            ["/v2/stocks/AAPL/bars?timeframe=1Min", "/v2/stocks/snapshots?symbols=A", "/v1/history?x=y"]
        {
            let (status, retry_after, body) = answer(get(path)).await;
            assert_eq!((status, retry_after.as_deref()), (429, Some("5")), "{path}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body, json!({ "code": 42_910_000, "message": told }), "{path}");
        }
        let upgrade = get("/v2/stk").header("connection", "upgrade").header("upgrade", "websocket");
        for request in [upgrade, http.post(format!("http://{}/v1/admin", &*address))] {
            let (status, retry_after, body) = answer(request).await;
            assert_eq!((status, retry_after.as_deref()), (503, Some("5")), "{body}");
            assert!(body.contains(told), "{body}");
        }
        let (status, _, body) = answer(get("/v2/stk/sse?trades=AAPL")).await;
        assert!(status == 200 && body.starts_with("retry: ") && body.contains(told), "{status} {body}");
        assert_eq!(answer(get("/readyz")).await.0, 503);
        drop(done);
        serving.await.unwrap().unwrap_err();
    }
}
