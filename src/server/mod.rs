//! The server's roles: what runs in a process of `stk serve`.

pub mod gateway;
pub mod ingest;
pub mod intake;
pub mod metrics;
pub mod node;
pub mod processor;
mod producers;
