//! A Kafka topic's own id (KIP-516): what tells a topic from one that was deleted and made again under the
//! same name.
//!
//! librdkafka returns it since version 2.3, and the crate `rdkafka` has no call for it. This is that
//! call, in a crate of its own since it takes `unsafe`, which `stk` forbids itself. So does the call that gives
//! a client its first brokers again.

use std::ffi::CString;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{IsError, KafkaError, RDKafkaErrorCode};

/// Asks the brokers for the id of `topic`; `None` where they give topics none (before Kafka 2.8). Blocking.
///
/// Errors: the brokers do not answer within `wait_max`, there is no such topic, or they refuse.
pub fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    wait_max: Duration,
) -> Result<Option<u128>, KafkaError> {
    let refused = |code| Err(KafkaError::MetadataFetch(code));
    let Ok(name) = CString::new(topic) else { return refused(RDKafkaErrorCode::InvalidArgument) };
    let wait_ms = i32::try_from(wait_max.as_millis()).unwrap_or(i32::MAX - 1_000);
    let mut names = [name.as_ptr()];
    let mut problem = [0; 256];
    // SAFETY: every pointer is used between its creation and its destruction below, on this thread; the
    // client outlives the call. Results are borrowed from `event`, which is destroyed last. librdkafka
    // copies the topic's name, and keeps the queue for as long as the request needs it.
    unsafe {
        let rk = client.native_ptr();
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options =
            sys::rd_kafka_AdminOptions_new(rk, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, problem.as_mut_ptr(), problem.len());
        let queue = sys::rd_kafka_queue_new(rk);
        sys::rd_kafka_DescribeTopics(rk, topics, options, queue);
        // The request itself ends before.
        let event = sys::rd_kafka_queue_poll(queue, wait_ms.saturating_add(1_000));
        let found = read(event);
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(topics);
        found
    }
}

/// Has `client` know `brokers` (`host:port`, separated by commas) besides those that it learned, so that it asks
/// them where it has none left. Each call is remembered for as long as the client lives: it is for clients
/// that need it.
///
/// Errors: none of them is written as a broker.
pub fn bootstrap_again<C: ClientContext>(client: &Client<C>, brokers: &str) -> Result<(), KafkaError> {
    let refused = KafkaError::MetadataFetch(RDKafkaErrorCode::InvalidArgument);
    let Ok(brokers) = CString::new(brokers) else { return Err(refused) };
    // SAFETY: the client outlives the call, and librdkafka copies the text.
    let added = unsafe { sys::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
    if added > 0 { Ok(()) } else { Err(refused) }
}

/// # Safety
///
/// `event` is null, or a live event of librdkafka.
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> Result<Option<u128>, KafkaError> {
    let refused = |code| Err(KafkaError::MetadataFetch(code));
    if event.is_null() {
        return refused(RDKafkaErrorCode::OperationTimedOut);
    }
    // SAFETY: what is read belongs to `event`, which is live.
    unsafe {
        let code = sys::rd_kafka_event_error(event);
        if code.is_error() {
            return refused(code.into());
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return refused(RDKafkaErrorCode::Unknown);
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count != 1 {
            return refused(RDKafkaErrorCode::UnknownTopic);
        }
        let topic = *topics;
        let code = sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic));
        if code.is_error() {
            return refused(code.into());
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return Ok(None);
        }
        let high = sys::rd_kafka_Uuid_most_significant_bits(id) as u64;
        let low = sys::rd_kafka_Uuid_least_significant_bits(id) as u64;
        let id = u128::from(high) << 64 | u128::from(low);
        Ok((id != 0).then_some(id))
    }
}
