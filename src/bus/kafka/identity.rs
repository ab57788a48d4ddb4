//! Whether the topic is still the one that was opened.
//!
//! A topic that is deleted and made again gives its offsets to other records. Clients of Kafka follow its
//! name, so readers and producers would continue in the new topic without noticing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rdkafka::types::RDKafkaErrorCode;

use super::{Shared, Turns};
use crate::kafka::code_of;

/// How many answers in a row have to say that there is no such topic before it counts as deleted. A broker that
/// has just started may not know its topics yet.
const ABSENT_ANSWERS: u32 = 2;

/// Asks for the topic's id every `identity_interval`, until the log is closed. If it is another than `id`, the
/// log ends. While the topic is gone, the log is not ready and says so. The same topic may come back with
/// brokers that are put back from a copy.
pub(super) fn start(shared: &Arc<Shared>, id: u128) {
    let mut turns = Turns::of(shared, shared.config.identity_interval);
    tokio::spawn(async move {
        let mut absent = 0;
        while let Some(shared) = turns.next().await {
            match shared.admin.topic_id().await {
                Ok(Some(found)) if found != id => {
                    tracing::error!(log = shared.name, "the topic was deleted and made again");
                    shared.end_replaced();
                    return;
                }
                Ok(_) => absent = 0,
                Err(error) if code_of(&error).is_some_and(is_absent) => absent += 1,
                // The brokers are away: the last answer counts.
                Err(_) => continue,
            }
            let is_absent = absent >= ABSENT_ANSWERS;
            if shared.is_absent.swap(is_absent, Ordering::AcqRel) != is_absent {
                if is_absent {
                    tracing::error!(log = shared.name, "the topic was deleted");
                } else {
                    tracing::info!(log = shared.name, "the topic is there again");
                }
            }
        }
    });
}

fn is_absent(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)
}
