//! A tick as bytes, and back.
//!
//! [`record`] is what stands in the log. [`json`], [`msgpack`] and [`cbor`] are Alpaca's stream
//! messages, laid out once in `message.rs`; [`protobuf`] is the published schema. Every encoding
//! has the same functions: `encode_tick`, `encode_bar`, `join` and `decode`.

pub mod cbor;
pub mod json;
mod message;
pub mod msgpack;
pub mod protobuf;
pub mod record;
pub mod token;

#[cfg(test)]
mod tests;

pub use message::{BarChannel, Message, WireError};
