//! Addresses for servers that tests start.

use std::fs::File;
use std::net::TcpListener;

/// An address of a test's own, also while nobody listens there: a server that was killed finds it
/// free again. No other test has it as long as this lives.
pub(crate) struct OwnAddress {
    address: String,
    _claim: File,
}

impl OwnAddress {
    pub(crate) fn new() -> Self {
        // Below the ports that the kernel gives to clients, above those of `scripts/services`.
        for port in 32_000..32_768 {
            let claim = std::env::temp_dir().join(format!("stk-test-port-{port}"));
            let Ok(claim) = File::create(claim) else { continue };
            if claim.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Self { address: format!("127.0.0.1:{port}"), _claim: claim };
            }
        }
        panic!("no port from 32000 to 32767 is free");
    }
}

impl std::ops::Deref for OwnAddress {
    type Target = str;

    fn deref(&self) -> &str {
        &self.address
    }
}
