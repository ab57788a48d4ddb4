//! The tiers a tick rests in: hot (the last of every symbol), warm (days), cold (years), the archive
//! that moves days from warm to cold, the history that reads all of it and the log as one ordered
//! stream, and the audit that holds each against the next.

pub mod archive;
pub mod audit;
mod codec;
pub mod cold;
#[cfg(test)]
mod golden;
pub mod history;
pub mod hot;
mod parquet;
pub mod producers;
pub mod repair;
pub mod seam;
pub mod state;
pub mod tiers;
pub mod warm;
