//! Whether the topic is still the one that was opened, with all that it had.
//!
//! A topic that is deleted and made again gives its offsets to other records. Clients of Kafka follow its
//! name, so readers and producers would continue in the new topic without noticing. So does a topic that brokers put
//! back from an older copy: where nobody reads or writes, nobody else would notice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rdkafka::types::RDKafkaErrorCode;

use super::{FELL_BACK, REPLACED, Shared, Turns};
use crate::kafka::code_of;

/// How many answers in a row have to say that there is no such topic before it counts as deleted. A broker that
/// has just started may not know its topics yet.
const ABSENT_ANSWERS: u32 = 2;

/// Partitions whose ends are asked for in one turn.
const ENDS_PER_TURN: u16 = 16;

/// Asks for the topic's id every `identity_interval`, until the log is closed. If it is another than `id`, the
/// log ends. While the topic is gone, the log is not ready and says so. The same topic may come back with
/// brokers that are put back from a copy: if one of its partitions ends before records that this process knows of,
/// the log ends as well.
pub(super) fn start(shared: &Arc<Shared>, id: u128) {
    let mut turns = Turns::of(shared, shared.config.identity_interval);
    tokio::spawn(async move {
        let (mut absent, mut ends) = (0, Ends::default());
        while let Some(shared) = turns.next().await {
            match shared.admin.topic_id().await {
                Ok(Some(found)) if found != id => {
                    tracing::error!(log = shared.name, "the topic was deleted and made again");
                    return shared.end(REPLACED);
                }
                Ok(_) if ends.have_fallen_back(&shared).await => return shared.end(FELL_BACK),
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

/// Looks at where the partitions end, some of them each turn.
#[derive(Default)]
struct Ends {
    /// The partition that is looked at next.
    next: u16,
    /// It ended too early at the last look. A leader that has just started may not know all of its records yet.
    is_suspect: bool,
}

impl Ends {
    /// Whether a partition ended before a record that this process knows of, at two looks.
    async fn have_fallen_back(&mut self, shared: &Shared) -> bool {
        let partitions = shared.config.partitions;
        for _ in 0..ENDS_PER_TURN.min(partitions) {
            let partition = self.next;
            let known = shared.marks[usize::from(partition)].next.load(Ordering::Acquire);
            let Ok(bounds) = shared.admin.bounds(partition).await else { return false };
            if bounds.next < known {
                if self.is_suspect {
                    let next = bounds.next;
                    tracing::error!(log = shared.name, partition, next, known, "the topic fell back");
                    return true;
                }
                self.is_suspect = true;
                return false;
            }
            self.is_suspect = false;
            self.next = (partition + 1) % partitions;
        }
        false
    }
}

fn is_absent(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)
}
