//! The archive: closed days move from warm to cold, proven equal, each row once at every moment.

mod cache;
pub mod manifest;
pub mod read;
pub mod restore;
pub mod snapshot;
