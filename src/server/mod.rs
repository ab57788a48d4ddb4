//! The server's roles: what runs in a process of `stk serve`.

pub mod admin;
pub mod archiver;
pub mod backup;
pub mod fault;
mod feeds;
pub mod gateway;
pub mod ingest;
pub mod intake;
pub mod metrics;
pub mod node;
pub mod operations;
pub mod processor;
pub mod producers;
pub mod refill;
pub mod standin;
mod standing;
pub mod stores;
