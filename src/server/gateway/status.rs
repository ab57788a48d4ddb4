//! For whoever runs the server: is it alive, is it ready, what does it do.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use super::Shared;
use crate::server::metrics;

/// `/healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

fn reasons(shared: &Shared) -> Vec<String> {
    let mut reasons = (shared.not_ready)();
    reasons.extend(
        shared.hub.failure().map(|failure| format!("the gateway does not follow the log: {failure}")),
    );
    if shared.stop.is_cancelled() {
        reasons.push("the server stops".to_owned());
    }
    reasons
}

/// `/readyz`: 200, or 503 with the reasons. What is wrong though all is served stands under
/// `degraded` and leaves the status as it is: a balancer that took this gateway out would take the
/// others out for the same reason.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let reasons = reasons(&shared);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = json!({ "ready": reasons.is_empty(), "not_ready": reasons });
    let degraded = (shared.degraded)();
    if !degraded.is_empty() {
        body["degraded"] = degraded.into();
    }
    (status, Json(body)).into_response()
}

/// `/metrics`, as Prometheus reads them.
pub(super) async fn prometheus(State(shared): State<Arc<Shared>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], metrics::text(&shared.registry)).into_response()
}

/// `/v1/status`.
pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let mut partitions = Vec::new();
    for (number, position) in (0..).zip(shared.hub.positions()) {
        let bounds = shared.hub.bus.bounds_seen(number).await;
        let (first, next) = bounds.map_or((None, None), |bounds| (Some(bounds.first), Some(bounds.next)));
        partitions.push(json!({
            "partition": number,
            "log_first_offset": first,
            "log_next_offset": next,
            "gateway_next_offset": position,
        }));
    }
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": shared.started_at.elapsed().as_secs(),
        "feeds": shared.feeds,
        "partitions": partitions,
        "token": shared.hub.token().to_string(),
        "market_time": shared.hub.market_time().map(|ts| ts.to_string()),
        "connections": {
            "websocket": shared.metrics.websockets.get(),
            "sse": shared.metrics.event_streams.get(),
            "max": shared.config.connections_max,
            "groups": shared.hub.group_count(),
        },
        "not_ready": reasons(&shared),
    });
    let more = (shared.details)();
    if let (Some(status), Value::Object(more)) = (status.as_object_mut(), more) {
        status.extend(more);
    }
    Json(status)
}

/// `/`: a table of prices that a browser keeps up to date by itself.
pub(super) async fn board() -> Html<&'static str> {
    Html(include_str!("board.html"))
}
