//! The server's roles: what runs in a process of `stk serve`.

pub mod intake;
pub mod processor;
