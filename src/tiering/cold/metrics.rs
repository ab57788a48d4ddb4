//! What an object store is asked, as it is billed.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What goes to an object store and comes back.
#[derive(Clone, Debug, Default)]
pub struct ColdMetrics {
    /// Requests sent, retries among them, by method.
    pub requests: Family<Vec<(&'static str, String)>, Counter<u64, AtomicU64>>,
    /// Requests that got no answer, or one that says try again (429, 5xx).
    pub failures: Counter,
    /// Bytes of objects sent.
    pub bytes_sent: Counter,
    /// Bytes of answers.
    pub bytes_received: Counter,
}

impl ColdMetrics {
    /// Requests sent so far, of all methods.
    pub fn requests_sent(&self) -> u64 {
        let of = |method: &&str| self.requests.get_or_create(&vec![("method", (*method).to_owned())]).get();
        ["GET", "HEAD", "PUT", "POST", "DELETE"].iter().map(of).sum()
    }

    /// Adds all to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("cold_requests", "Requests to the object store, by method", self.requests.clone());
        let counters = [
            ("cold_failures", "Requests without an answer, or to be tried again", &self.failures),
            ("cold_sent_bytes", "Bytes sent to the object store", &self.bytes_sent),
            ("cold_received_bytes", "Bytes received from the object store", &self.bytes_received),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
