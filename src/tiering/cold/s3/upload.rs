//! An object on its way into a bucket, in parts.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use super::S3Cold;
use crate::tiering::cold::{ColdError, Upload};

/// Bytes of a part; S3 takes ten thousand of them, which makes 58 GiB the largest object. All but
/// the last are of this size, as some stores want it.
const PART_BYTES: usize = 6 << 20;

/// Parts on their way at once, beside the one that is being filled.
const PARTS_MAX: usize = 2;

pub(super) struct S3Upload {
    cold: S3Cold,
    key: String,
    path: Path,
    /// Begun with the first whole part: a small object is put in one request.
    multipart: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<Result<(), Error>>,
    filling: Vec<Bytes>,
    filling_bytes: usize,
}

impl S3Upload {
    pub(super) fn new(cold: S3Cold, key: &str, path: Path) -> Self {
        let (parts, filling) = (JoinSet::new(), Vec::new());
        Self { cold, key: key.to_owned(), path, multipart: None, parts, filling, filling_bytes: 0 }
    }

    fn error(&self, error: &Error) -> ColdError {
        self.cold.error(&self.key, error)
    }

    /// Sends what is filled, once fewer than `parts_max` parts are on their way.
    async fn send_part(&mut self) -> Result<(), ColdError> {
        if self.multipart.is_none() {
            let begun = self.cold.0.store.put_multipart(&self.path).await;
            self.multipart = Some(begun.map_err(|error| self.error(&error))?);
        }
        self.wait(PARTS_MAX - 1).await?;
        let payload: PutPayload = std::mem::take(&mut self.filling).into_iter().collect();
        self.filling_bytes = 0;
        if let Some(multipart) = &mut self.multipart {
            let part = multipart.put_part(payload);
            self.parts.spawn(part);
        }
        Ok(())
    }

    /// Waits until at most `left` parts are on their way.
    async fn wait(&mut self, left: usize) -> Result<(), ColdError> {
        while self.parts.len() > left {
            match self.parts.join_next().await {
                Some(Ok(done)) => done.map_err(|error| self.error(&error))?,
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => break,
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), ColdError> {
        while self.filling_bytes + bytes.len() >= PART_BYTES {
            let rest = bytes.split_off(PART_BYTES - self.filling_bytes);
            self.filling_bytes += bytes.len();
            self.filling.push(std::mem::replace(&mut bytes, rest));
            self.send_part().await?;
        }
        if !bytes.is_empty() {
            self.filling_bytes += bytes.len();
            self.filling.push(bytes);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ColdError> {
        if self.multipart.is_none() {
            let payload: PutPayload = std::mem::take(&mut self.filling).into_iter().collect();
            let put = self.cold.0.store.put(&self.path, payload).await;
            return put.map(drop).map_err(|error| self.error(&error));
        }
        if self.filling_bytes > 0 {
            self.send_part().await?;
        }
        self.wait(0).await?;
        let Some(mut multipart) = self.multipart.take() else { return Ok(()) };
        let Err(error) = multipart.complete().await else { return Ok(()) };
        // The answer may have been lost, and a second try finds the upload gone. Keys of uploads are
        // never used twice, and parts are seen only whole: an object there is this one.
        match self.cold.0.store.head(&self.path).await {
            Ok(_) => Ok(()),
            Err(_) => match self.error(&error) {
                ColdError::NotFound { store, key } => {
                    Err(ColdError::Unknown { store, key, reason: "the upload is gone".to_owned() })
                }
                error => Err(error),
            },
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<(), ColdError> {
        self.parts.shutdown().await;
        match &mut self.multipart {
            Some(multipart) => match multipart.abort().await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.error(&error)),
            },
            None => Ok(()),
        }
    }
}
