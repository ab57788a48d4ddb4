//! The feed out of Kafka.
