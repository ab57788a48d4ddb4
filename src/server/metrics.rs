//! The server's metrics: one registry, in which every part registers its own.

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// An empty registry whose names begin with `stk_`.
pub fn registry() -> Registry {
    Registry::with_prefix("stk")
}

/// The registry's content as Prometheus reads it.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}

/// What goes through gateways and the ingest endpoint.
#[derive(Clone, Debug, Default)]
pub struct GatewayMetrics {
    /// Open WebSocket connections.
    pub websockets: Gauge<i64, AtomicI64>,
    /// Open SSE connections.
    pub event_streams: Gauge<i64, AtomicI64>,
    /// Messages handed to connections, each counted once per connection.
    pub messages: Counter,
    /// Bytes of frames handed to connections.
    pub message_bytes: Counter,
    /// Connections closed since they fell too far behind.
    pub slow_clients: Counter,
    /// Bytes that wait to be sent to clients; a frame counts once, however many wait for it.
    pub queue_bytes: Gauge<i64, AtomicI64>,
    /// Bytes of answers other than history that wait to be sent to clients.
    pub answer_bytes: Gauge<i64, AtomicI64>,
    /// Clients closed as the slowest when all queues together had used up their budget.
    pub clients_evicted: Counter,
    /// How often a stalled client was parked: it gets nothing new before it has read what waits.
    pub clients_parked: Counter,
    /// HTTP connections closed since their peer took nothing of an answer for too long.
    pub stalled_readers: Counter,
    /// Queries of history that run.
    pub history_queries: Gauge<i64, AtomicI64>,
    /// Bytes of memory set aside for queries of history and what is left to send of their answers.
    pub history_bytes: Gauge<i64, AtomicI64>,
    /// Queries of history refused since too many ran.
    pub history_refused: Counter,
    /// Answers of history broken off since their reader took too little of them in time.
    pub history_slow_readers: Counter,
    /// Answers of history that ended, or were refused, because a stored file is damaged.
    pub history_damaged: Counter,
    /// Connections dropped since their peer went mute.
    pub mute_clients: Counter,
    /// Clients that showed a wrong key.
    pub auth_failures: Counter,
    /// Requests refused by the limit of handshakes.
    pub handshakes_limited: Counter,
    /// Requests refused since there were too many connections.
    pub connections_refused: Counter,
    /// Connections closed for what RFC 6455 or the stream's protocol does not allow.
    pub protocol_errors: Counter,
    /// Subscriptions that began with a snapshot or a replay.
    pub replays: Counter,
    /// Symbols and days whose live bars were rebuilt from their trades.
    pub bars_rebuilt: Counter,
    /// Records of the log that could not be read.
    pub records_unreadable: Counter,
    /// Records of the log that repeat earlier ones, and were passed over.
    pub records_repeated: Counter,
    /// Records that retention took before the hub had read them.
    pub records_trimmed: Counter,
    /// REST requests answered with an error.
    pub rest_errors: Counter,
    /// Batches taken by the ingest endpoint.
    pub ingest_batches: Counter,
    /// Batches refused by the ingest endpoint.
    pub ingest_refusals: Counter,
}

impl GatewayMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let gauges = [
            ("gateway_websockets", "Open WebSocket connections", &self.websockets),
            ("gateway_event_streams", "Open SSE connections", &self.event_streams),
            ("gateway_queue_bytes", "Bytes of streams that wait to be sent to clients", &self.queue_bytes),
            (
                "gateway_answer_bytes",
                "Bytes of answers other than history that wait to be sent",
                &self.answer_bytes,
            ),
            ("history_queries", "Queries of history that run", &self.history_queries),
            (
                "history_bytes",
                "Bytes set aside for queries of history and their answers",
                &self.history_bytes,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let counters = [
            ("gateway_messages", "Messages handed to connections", &self.messages),
            ("gateway_message_bytes", "Bytes of frames handed to connections", &self.message_bytes),
            ("gateway_slow_clients", "Connections closed since they fell too far behind", &self.slow_clients),
            (
                "gateway_clients_evicted",
                "Slowest clients closed for the budget of all",
                &self.clients_evicted,
            ),
            ("gateway_clients_parked", "Stalled clients that were parked", &self.clients_parked),
            ("gateway_stalled_readers", "Connections whose reader took nothing", &self.stalled_readers),
            ("history_refused", "Queries of history refused since too many ran", &self.history_refused),
            (
                "history_slow_readers",
                "Answers of history whose reader took too little in time",
                &self.history_slow_readers,
            ),
            ("history_damaged", "Answers of history that met a damaged file", &self.history_damaged),
            ("gateway_mute_clients", "Connections dropped since their peer went mute", &self.mute_clients),
            ("gateway_auth_failures", "Clients that showed a wrong key", &self.auth_failures),
            ("gateway_handshakes_limited", "Requests over the limit of handshakes", &self.handshakes_limited),
            ("gateway_connections_refused", "Connections over the limit", &self.connections_refused),
            ("gateway_protocol_errors", "Connections closed for a breach of protocol", &self.protocol_errors),
            ("gateway_replays", "Subscriptions that began with a snapshot or a replay", &self.replays),
            ("gateway_bars_rebuilt", "Symbol days whose live bars were rebuilt", &self.bars_rebuilt),
            ("gateway_records_unreadable", "Log records that could not be read", &self.records_unreadable),
            ("gateway_records_repeated", "Log records that repeat earlier ones", &self.records_repeated),
            ("gateway_records_trimmed", "Log records trimmed before they were read", &self.records_trimmed),
            ("gateway_rest_errors", "REST requests answered with an error", &self.rest_errors),
            ("ingest_batches", "Batches taken by the ingest endpoint", &self.ingest_batches),
            ("ingest_refusals", "Batches refused by the ingest endpoint", &self.ingest_refusals),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_prefix_and_the_suffix() {
        let (mut registry, metrics) = (registry(), GatewayMetrics::default());
        metrics.register(&mut registry);
        metrics.slow_clients.inc();
        metrics.websockets.set(3);
        let text = text(&registry);
        assert!(text.contains("\nstk_gateway_slow_clients_total 1\n"), "{text}");
        assert!(text.contains("\nstk_gateway_websockets 3\n"), "{text}");
    }
}
