//! The archive: closed days move from warm to cold, proven equal, each row once at every moment.

pub mod manifest;
