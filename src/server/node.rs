//! One process with every role: feeds, log, processor, hot, warm and gateway, put together, and
//! taken apart in the order that loses nothing.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bus::BusError;
use crate::bus::local::{Durability, LocalBus, LocalBusConfig, Retention};
use crate::config::Config;
use crate::feed::FeedError;
use crate::feed::source::{Source, SourceError};
use crate::tiering::warm::WarmError;

/// Why a server did not start, or did not end well. The message names what it is about.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another program listens there.
    #[error("{address} is in use by another program")]
    PortInUse {
        /// The address and port.
        address: SocketAddr,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {reason}")]
    Listen {
        /// The address and port.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// Another process has the data directory.
    #[error("{path} is open in another process")]
    DataInUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory can't be made or written.
    #[error("{path}: {reason}")]
    Data {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The disk is full.
    #[error(transparent)]
    DiskFull(BusError),
    /// The log can't be opened.
    #[error(transparent)]
    Bus(BusError),
    /// Warm can't be opened.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// A feed is not written as one.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A feed can't be started.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The processor failed.
    #[error("{0}")]
    Processor(String),
}

impl From<BusError> for NodeError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Full { .. } => Self::DiskFull(error),
            BusError::Locked { path } => Self::DataInUse { path: path.into() },
            other => Self::Bus(other),
        }
    }
}

/// The stores of a data directory, opened by one process at a time.
pub struct Stores {
    /// Held as long as the stores are open.
    _lock: File,
    /// The log.
    pub bus: Arc<LocalBus>,
}

/// Takes the data directory for this process, making it where it is missing.
fn lock(dir: &Path) -> Result<File, NodeError> {
    let failed = |error: std::io::Error| NodeError::Data { path: dir.to_owned(), reason: error.to_string() };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file = File::options().create(true).write(true).truncate(false).open(dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(NodeError::DataInUse { path: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => NodeError::PortInUse { address },
        _ => NodeError::Listen { address, reason: error.to_string() },
    })
}
