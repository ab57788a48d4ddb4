//! The gateway over real sockets.

#[path = "gateway/support.rs"]
mod support;

#[path = "gateway/bars.rs"]
mod bars;
#[path = "gateway/bounds.rs"]
mod bounds;
#[path = "gateway/conversations.rs"]
mod conversations;
#[path = "gateway/ingest.rs"]
mod ingest;
#[path = "gateway/parked.rs"]
mod parked;
#[path = "gateway/rest.rs"]
mod rest;
#[path = "gateway/stream.rs"]
mod stream;
