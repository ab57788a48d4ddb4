//! For whoever runs the server: is it alive, is it ready, what does it do.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{Html, Response};
use serde_json::{Value, json};

use super::Shared;
use super::parameters::Parameters;
use super::rest::ApiError;

/// Why the gateway itself is not ready.
fn reasons(shared: &Shared) -> Vec<String> {
    let failure = shared.hub.failure();
    let mut reasons: Vec<String> = failure
        .map(|failure| format!("the gateway does not follow the log: {failure}"))
        .into_iter()
        .collect();
    if shared.stop.is_cancelled() {
        reasons.push("the server stops".to_owned());
    }
    reasons
}

/// `/readyz`.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    shared.operations.readyz(reasons(&shared))
}

/// `/metrics`.
pub(super) async fn prometheus(State(shared): State<Arc<Shared>>) -> Response {
    shared.operations.metrics()
}

/// `/v1/status`.
pub(super) async fn status(
    State(shared): State<Arc<Shared>>,
    parameters: Parameters,
) -> Result<Json<Value>, ApiError> {
    parameters.only(&[])?;
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
    let mut not_ready = (shared.operations.not_ready)();
    not_ready.extend(reasons(&shared));
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
        "not_ready": not_ready,
    });
    let more = (shared.operations.details)();
    if let (Some(status), Value::Object(more)) = (status.as_object_mut(), more) {
        status.extend(more);
    }
    Ok(Json(status))
}

/// `/`: a table of prices that a browser keeps up to date by itself.
pub(super) async fn board() -> Html<&'static str> {
    Html(include_str!("board.html"))
}
