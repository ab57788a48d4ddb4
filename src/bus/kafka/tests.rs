//! The log in Kafka.
