//! Whether a store keeps its word on conditional creates.

use bytes::Bytes;

use super::ArchiveError;
use super::store::Store;
use crate::tiering::cold::ColdError;

/// Where the keys of probes lie: a run that was killed leaves one.
pub(super) const PROBE_PREFIX: &str = "probe/";

/// Tries of the second create, whose answer must be a plain one.
const TRIES_MAX: usize = 4;

/// Creates a fresh key twice: unless the second one is refused and the first one's bytes stay, the
/// store is refused. Some stores that speak S3 ignore `If-None-Match`.
pub(super) async fn probe(store: &Store, nonce: &str) -> Result<(), ArchiveError> {
    let key = format!("{PROBE_PREFIX}{nonce}");
    let refused = || ArchiveError::Unconditional { store: store.name().to_owned() };
    let first = Bytes::from(format!("first {nonce}"));
    store.create(&key, first.clone(), |found| found == first).await?;
    let mut unknown = None;
    for _ in 0..TRIES_MAX {
        match store.cold().create(&key, Bytes::from(format!("second {nonce}"))).await {
            Ok(false) => {
                unknown = None;
                break;
            }
            Ok(true) => return Err(refused()),
            Err(error @ ColdError::Unknown { .. }) => unknown = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(error) = unknown {
        return Err(error.into());
    }
    // It may have said no and written all the same.
    if store.get(&key).await?.is_none_or(|found| found != first) {
        return Err(refused());
    }
    store.delete(&key).await?;
    Ok(())
}
