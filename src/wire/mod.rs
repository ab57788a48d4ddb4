//! A tick as bytes, and back.
//!
//! [`record`] is what stands in the log.

pub mod record;
