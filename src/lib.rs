//! `stk`: real-time stock prices in one binary, from the feed to the eye, the log and the archive.

pub mod backoff;
pub mod bus;
pub mod cli;
pub mod client;
pub mod config;
mod disk;
pub mod fail;
pub mod feed;
pub mod kafka;
pub mod market;
pub mod secret;
pub mod server;
pub mod signals;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod tiering;
pub mod tui;
pub mod wire;
