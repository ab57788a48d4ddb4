//! What the log in Kafka and the feed out of Kafka share: how a client of librdkafka is made, what
//! this build of it can do, whether its brokers answer, and what its errors mean.
//!
//! No topic is known here, and no record.

mod health;
mod settings;

use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use self::health::{
    Aside, Health, Kept, MeetError, Orphaned, Trouble, Watch, drop_aside, keep_brokers, meet, take_in,
};
pub use self::settings::{SettingsError, client_config, features};

/// A topic to create, with `copies` replicas of each partition, from which Kafka drops nothing by itself.
pub fn lasting_topic(name: &str, partitions: u16, copies: u16) -> NewTopic<'_> {
    // With three copies, one broker may be away and every record is still on two.
    let in_sync_min = if copies >= 3 { "2" } else { "1" };
    NewTopic::new(name, i32::from(partitions), TopicReplication::Fixed(i32::from(copies)))
        .set("cleanup.policy", "delete")
        .set("retention.ms", "-1")
        .set("retention.bytes", "-1")
        .set("min.insync.replicas", in_sync_min)
        .set("unclean.leader.election.enable", "false")
}

/// The code of an error, where it has one.
pub fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Whether the offset asked for is not, or no longer, in the topic.
pub fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code_of(error), Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset))
}

/// Whether trying again can't help: the brokers answered, and the answer is no. A login that fails
/// later than at the first contact is none of that: with one broker of many, or until somebody has
/// mended it there, it is waited out as an absence is.
pub fn is_final(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::InvalidTopic
            | Code::InvalidConfig
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::PolicyViolation
            | Code::InvalidArgument
            | Code::Fatal
            | Code::GaplessGuarantee
            | Code::Fenced
    )
}
