//! A store whose calls fail on demand: before they happen, or after, so that only the answer is
//! lost. For tests and the crash matrix.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::{Availability, Cold, ColdError, ObjectInfo, RestoreTier, StorageClass, Transition, Upload};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not reach the store.
    Lost,
    /// It happens, and the answer is lost.
    ReplyLost,
    /// It is never answered.
    Silent,
    /// It happens after a while.
    Late(Duration),
}

/// A store around another, of which the `n`-th call ends in [`ColdError::Unknown`], or not at all.
pub struct FaultyCold {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn Cold>,
    fault: Fault,
    /// Calls so far; each write and the end of an upload is one too.
    calls: AtomicU64,
    /// The first call that fails, from 1.
    first: u64,
    /// How many fail from there on.
    count: u64,
}

impl FaultyCold {
    /// Of the calls to `inner`, `count` from the `first` on (from 1) end in `fault`.
    pub fn new(inner: Arc<dyn Cold>, fault: Fault, first: u64, count: u64) -> Self {
        Self { shared: Arc::new(Shared { inner, fault, calls: AtomicU64::new(0), first, count }) }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Acquire)
    }
}

impl Shared {
    async fn call<T>(
        &self,
        key: &str,
        work: impl Future<Output = Result<T, ColdError>> + Send,
    ) -> Result<T, ColdError> {
        let call = self.calls.fetch_add(1, Ordering::AcqRel) + 1;
        if call < self.first || call - self.first >= self.count {
            return work.await;
        }
        match self.fault {
            Fault::Lost => {}
            Fault::ReplyLost => {
                // Whether it went well is what the caller can't know.
                let _ = work.await;
            }
            Fault::Silent => std::future::pending().await,
            Fault::Late(wait) => {
                tokio::time::sleep(wait).await;
                return work.await;
            }
        }
        let (store, key) = (self.inner.name().to_owned(), key.to_owned());
        Err(ColdError::Unknown { store, key, reason: format!("call {call} was made to fail") })
    }
}

struct FaultyUpload {
    shared: Arc<Shared>,
    key: String,
    inner: Box<dyn Upload>,
}

#[async_trait::async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ColdError> {
        let Self { shared, key, inner } = self;
        shared.call(key, inner.write(bytes)).await
    }

    async fn finish(self: Box<Self>) -> Result<(), ColdError> {
        let Self { shared, key, inner } = *self;
        shared.call(&key, inner.finish()).await
    }

    async fn abort(self: Box<Self>) -> Result<(), ColdError> {
        let Self { shared, key, inner } = *self;
        shared.call(&key, inner.abort()).await
    }
}

#[async_trait::async_trait]
impl Cold for FaultyCold {
    fn name(&self) -> &str {
        self.shared.inner.name()
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, ColdError> {
        self.shared.call(key, self.shared.inner.create(key, bytes)).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ColdError> {
        self.shared.call(key, self.shared.inner.put(key, bytes)).await
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>, ColdError> {
        let inner = self.shared.call(key, self.shared.inner.upload(key)).await?;
        Ok(Box::new(FaultyUpload { shared: self.shared.clone(), key: key.to_owned(), inner }))
    }

    async fn get(&self, key: &str) -> Result<Bytes, ColdError> {
        self.shared.call(key, self.shared.inner.get(key)).await
    }

    async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ColdError> {
        self.shared.call(key, self.shared.inner.get_ranges(key, ranges)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError> {
        self.shared.call(prefix, self.shared.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ColdError> {
        self.shared.call(key, self.shared.inner.delete(key)).await
    }

    async fn state(&self, key: &str) -> Result<(StorageClass, Availability), ColdError> {
        self.shared.call(key, self.shared.inner.state(key)).await
    }

    async fn restore(&self, key: &str, days: u32, tier: RestoreTier) -> Result<(), ColdError> {
        self.shared.call(key, self.shared.inner.restore(key, days, tier)).await
    }

    async fn lifecycle(&self, prefix: &str) -> Result<Vec<Transition>, ColdError> {
        self.shared.call(prefix, self.shared.inner.lifecycle(prefix)).await
    }

    async fn set_lifecycle(&self, prefix: &str, transitions: &[Transition]) -> Result<(), ColdError> {
        self.shared.call(prefix, self.shared.inner.set_lifecycle(prefix, transitions)).await
    }
}
