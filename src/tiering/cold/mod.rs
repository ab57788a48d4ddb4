//! Cold: objects that are written once and kept for years.
//!
//! [`Cold`] is the seam between a directory (`dir`) and an object store (`s3`). What stands in the
//! objects is `archive`'s business.

#[cfg(test)]
pub(crate) mod conformance;
pub mod dir;
pub mod faulty;
mod lifecycle;
mod metrics;
pub mod ranges;
pub mod s3;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use self::metrics::ColdMetrics;
use crate::market::Timestamp;

/// Opens the store at `url`: a bucket (`s3://bucket/prefix`, at `endpoint` where it is not Amazon's)
/// or else a directory, which is made where it is missing. Blocking. A bucket is asked nothing yet.
pub fn open(
    url: &str,
    endpoint: Option<&str>,
    region: &str,
    metrics: &ColdMetrics,
) -> Result<Arc<dyn Cold>, ColdError> {
    if url.starts_with("s3://") {
        let config = s3::S3Config::parse(url, endpoint.map(str::to_owned), region.to_owned())?;
        return Ok(Arc::new(s3::S3Cold::open(config, metrics.clone())?));
    }
    // With one slash it is meant for a scheme as well.
    if let Some((scheme, _)) =
        url.split_once(":/").filter(|(scheme, _)| scheme.len() > 1 && !scheme.contains('/'))
    {
        return Err(ColdError::Refused {
            store: url.to_owned(),
            reason: format!("nothing is known of {scheme}: write a directory, or s3://bucket/prefix"),
        });
    }
    Ok(Arc::new(dir::DirCold::open(Path::new(url))?))
}

/// Where an object rests, by what it costs to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StorageClass {
    /// Read at once.
    Standard,
    /// Read at once, dearer to read and cheaper to keep.
    InfrequentAccess,
    /// Glacier Instant Retrieval: read at once.
    GlacierInstant,
    /// Glacier Flexible Retrieval: read after a restore of minutes to hours.
    Glacier,
    /// Glacier Deep Archive: read after a restore of hours to days.
    DeepArchive,
}

impl StorageClass {
    /// Its name, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::InfrequentAccess => "infrequent access",
            Self::GlacierInstant => "glacier instant",
            Self::Glacier => "glacier",
            Self::DeepArchive => "deep archive",
        }
    }
}

/// Whether an object can be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Now.
    Ready,
    /// Now, until the restored copy expires.
    Restored {
        /// When the copy goes, where the store tells.
        until: Option<Timestamp>,
    },
    /// Not yet: a restore is under way.
    Restoring,
    /// Not before a restore is asked for.
    Frozen,
}

/// How quickly archived objects are brought back, and at what price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreTier {
    /// Minutes. Not for Deep Archive.
    Expedited,
    /// Hours.
    Standard,
    /// Half a day to two days.
    Bulk,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key, relative to the store's root.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub modified: Timestamp,
}

/// From which age on the objects below a prefix rest in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Days since the object was written.
    pub days: u32,
    /// Where it goes then.
    pub class: StorageClass,
}

/// Why the store refused, by what it means to the caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ColdError {
    /// There is no such object.
    #[error("{store}: {key} is not there")]
    NotFound {
        /// The store.
        store: String,
        /// The object.
        key: String,
    },
    /// The object ends before the bytes that were asked for.
    #[error("{store}: {key} ends before the bytes that were asked for")]
    Short {
        /// The store.
        store: String,
        /// The object.
        key: String,
    },
    /// The object is archived: it can't be read before a restore.
    #[error("{store}: {key} is archived")]
    Frozen {
        /// The store.
        store: String,
        /// The object.
        key: String,
    },
    /// What was asked for is nothing that this store does (a directory has no storage classes).
    #[error("{store} has no {what}")]
    Unsupported {
        /// The store.
        store: String,
        /// What it lacks.
        what: &'static str,
    },
    /// The disk is full.
    #[error("{store}: the disk is full")]
    Full {
        /// The store.
        store: String,
    },
    /// The store could not be reached, or did not answer as it should: whether a write happened is
    /// not known. A later try may succeed.
    #[error("{store}: {key}: {reason}")]
    Unknown {
        /// The store.
        store: String,
        /// The object.
        key: String,
        /// What it said.
        reason: String,
    },
    /// The store refuses for good: keys, rights, a bucket that is not there.
    #[error("{store}: {reason}")]
    Refused {
        /// The store.
        store: String,
        /// What it said.
        reason: String,
    },
}

/// An object being written in parts; seen by nobody before it is finished.
#[async_trait::async_trait]
pub trait Upload: Send {
    /// Adds bytes at the end, in pieces of any size. Holds at most a few parts (about 16 MiB).
    async fn write(&mut self, bytes: Bytes) -> Result<(), ColdError>;

    /// Makes the object exist, durably. Not conditional: keys of uploads are never used twice.
    async fn finish(self: Box<Self>) -> Result<(), ColdError>;

    /// Gives up what was written.
    async fn abort(self: Box<Self>) -> Result<(), ColdError>;
}

/// A store of objects.
#[async_trait::async_trait]
pub trait Cold: Send + Sync + 'static {
    /// The store, as a person would name it: a directory, `s3://bucket/prefix`.
    fn name(&self) -> &str;

    /// Creates an object if there is none of that key: whether it did. On
    /// [`ColdError::Unknown`] the caller reads the object back.
    async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, ColdError>;

    /// Creates or replaces an object.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ColdError>;

    /// Begins an object of any size, of storage class [`StorageClass::Standard`].
    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>, ColdError>;

    /// The whole object.
    async fn get(&self, key: &str) -> Result<Bytes, ColdError>;

    /// Parts of an object, in the order asked for. Near ones are read in one request.
    async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ColdError>;

    /// The objects whose keys begin with `prefix` and are greater than `after`, in byte order.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError>;

    /// Removes an object; one that is not there is removed already.
    async fn delete(&self, key: &str) -> Result<(), ColdError>;

    /// The object's class, and whether it can be read.
    async fn state(&self, key: &str) -> Result<(StorageClass, Availability), ColdError>;

    /// Asks for a copy of an archived object that can be read for `days`. Asking again while it is
    /// under way changes nothing.
    async fn restore(&self, key: &str, days: u32, tier: RestoreTier) -> Result<(), ColdError>;

    /// The transitions of objects below `prefix`, in the order of their days.
    async fn lifecycle(&self, prefix: &str) -> Result<Vec<Transition>, ColdError>;

    /// Replaces the transitions of objects below `prefix`, and leaves every other rule as it is.
    async fn set_lifecycle(&self, prefix: &str, transitions: &[Transition]) -> Result<(), ColdError>;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_directory_is_a_cold_store() {
        let dirs = Mutex::new(Vec::new());
        let open = async |_| {
            let dir = tempfile::tempdir().unwrap();
            let store = open(&dir.path().display().to_string(), None, "", &ColdMetrics::default()).unwrap();
            dirs.lock().unwrap().push(dir);
            store
        };
        conformance::all(open).await;
        conformance::without_classes(open("").await).await;
    }

    #[test]
    fn a_store_that_nobody_knows_is_refused() {
        let refused = open("gs://bucket", None, "", &ColdMetrics::default()).err().unwrap();
        assert_eq!(
            refused.to_string(),
            "gs://bucket: nothing is known of gs: write a directory, or s3://bucket/prefix"
        );
        let dir = tempfile::tempdir().unwrap();
        let within = |name: &str| dir.path().join(name).display().to_string();
        assert!(open("s3:/bucket/prefix", None, "", &ColdMetrics::default()).is_err());
        assert!(open(&within("a:/b"), None, "", &ColdMetrics::default()).is_ok());
    }
}
