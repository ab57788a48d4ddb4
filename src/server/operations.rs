//! For whoever runs a process: is it alive, is it ready, what does it count. What every process
//! answers, whatever its roles; a gateway answers the same beside what it serves.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::admin::{self, Door};
use super::metrics;

/// What a process tells of itself.
#[derive(Clone)]
pub struct Operations {
    /// What carries out operator commands, if anything does.
    pub admin: Option<Arc<Door>>,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    /// Why parts of the process are not ready, if they are not; called by `/readyz`.
    pub not_ready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What is wrong though all is served, for people and monitors; called by `/readyz`.
    pub degraded: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What the parts add to `/v1/status`: an object.
    pub details: Arc<dyn Fn() -> Value + Send + Sync>,
}

impl Operations {
    /// The routes of operator commands.
    pub(super) fn admin_routes(&self) -> Router {
        self.admin.clone().map_or_else(Router::new, admin::http::router)
    }

    /// The answer of `/readyz`: 200, or 503 with the reasons, `more` among them. What is wrong though
    /// all is served stands under `degraded` and leaves the status as it is: a balancer that took this
    /// process out would take the others out for the same reason.
    pub(super) fn readyz(&self, more: Vec<String>) -> Response {
        let mut reasons = (self.not_ready)();
        reasons.extend(more);
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut body = json!({ "ready": reasons.is_empty(), "not_ready": reasons });
        let degraded = (self.degraded)();
        if !degraded.is_empty() {
            body["degraded"] = degraded.into();
        }
        (status, Json(body)).into_response()
    }

    /// The answer of `/metrics`, as Prometheus reads them.
    pub(super) fn metrics(&self) -> Response {
        metrics(&self.registry)
    }
}

/// What `registry` counts, as Prometheus reads it.
pub(super) fn metrics(registry: &Registry) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], metrics::text(registry)).into_response()
}

/// `/healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Serves these alone, for a process that is no gateway, until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    operations: Operations,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route(
            "/readyz",
            get(|State(operations): State<Operations>| async move { operations.readyz(Vec::new()) }),
        )
        .route("/metrics", get(|State(operations): State<Operations>| async move { operations.metrics() }))
        .route(
            "/v1/status",
            get(|State(operations): State<Operations>| async move {
                let mut status =
                    json!({ "version": env!("CARGO_PKG_VERSION"), "not_ready": (operations.not_ready)() });
                if let (Some(status), Value::Object(more)) = (status.as_object_mut(), (operations.details)())
                {
                    status.extend(more);
                }
                Json(status)
            }),
        )
        .fallback(|| async {
            let told = "this process is no gateway: it answers /healthz, /readyz, /metrics, /v1/status and /v1/admin\n";
            (StatusCode::NOT_FOUND, told)
        })
        .with_state(operations.clone())
        .merge(operations.admin_routes())
        .into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}
