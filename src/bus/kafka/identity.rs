//! Whether the topic is still the one that was opened.
//!
//! A topic that is deleted and made again gives its offsets to other records. Clients of Kafka follow its
//! name, so readers and producers would continue in the new topic without noticing.

use std::sync::Arc;

use super::Shared;

/// Asks for the topic's id every `identity_interval`, until the log is closed. If the id is not `id` any
/// more, the log ends.
pub(super) fn start(shared: &Arc<Shared>, id: u128) {
    let (closed, interval) = (shared.closed.clone(), shared.config.identity_interval);
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        let mut clock = tokio::time::interval(interval);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = closed.cancelled() => return,
                _ = clock.tick() => {}
            }
            let Some(shared) = shared.upgrade() else { return };
            // No answer, or no such topic: it may be the same one when it is back.
            if let Ok(Some(found)) = shared.admin.topic_id().await
                && found != id
            {
                tracing::error!(log = shared.name, "the topic was deleted and made again");
                shared.end_replaced();
                return;
            }
        }
    });
}
