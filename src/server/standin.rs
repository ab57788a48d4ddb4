//! What answers at a server's address while its stores are closed after a fault, until they can be opened
//! again: `/healthz`, `/readyz` and `/metrics`. Everything else is answered with 503, so that clients and
//! balancers try again later.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::{metrics, operations};

/// How long a request that is being answered may hold up the server that comes back.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// When a client is asked to try again, in seconds.
const RETRY_AFTER: &str = "5";

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
    let refused = move || {
        let head: [(HeaderName, &str); 1] = [(header::RETRY_AFTER, RETRY_AFTER)];
        let message = json!({ "message": format!("the stores are closed: {reason}") });
        (StatusCode::SERVICE_UNAVAILABLE, head, Json(message)).into_response()
    };
    let router = Router::new()
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(async move || (StatusCode::SERVICE_UNAVAILABLE, Json(told))))
        .route("/metrics", get(async move || operations::metrics(&registry)))
        .fallback(async move || refused())
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
