//! The tiers a tick rests in: hot (the last of every symbol), warm (days), and the history that
//! reads warm and the log as one ordered stream.

mod codec;
#[cfg(test)]
mod golden;
pub mod history;
pub mod hot;
pub mod state;
pub mod warm;
