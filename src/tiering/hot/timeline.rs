//! Whether a hot store was filled from this timeline of the log.
//!
//! A log that was put back from an older copy gives its offsets to other records, and nobody can tell by
//! offsets alone once it has grown past where the store ends. So a store names the log's generation and
//! the last record that it took in.

use super::HotError;
use crate::bus::Bus;
use crate::tiering::seam::{self, SeamError};
use crate::tiering::warm::Mark;

/// The last record that a store took in, and the generation of the log at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The offset after the record.
    pub(crate) next_offset: u64,
    /// The generation; `None` where the store does not name one.
    pub(crate) generation: Option<u64>,
    /// The record's checksum (see [`crate::tiering::seam`]); `None` where it is not known.
    pub(crate) seam: Option<u64>,
}

/// Why a store can't be used as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// It was filled from another timeline of the log: why that is known, with the store as the subject.
    #[error("it {0}")]
    OtherTimeline(String),
    /// The log or the store can't be asked.
    #[error(transparent)]
    Unknown(#[from] HotError),
}

impl From<SeamError> for Unfit {
    fn from(error: SeamError) -> Self {
        match error {
            SeamError::Ahead(ahead) => Self::OtherTimeline(format!(
                "reaches offset {} of the log, which ends at {}",
                ahead.warm_offset, ahead.log_offset
            )),
            SeamError::OtherRecord { offset, .. } => {
                Self::OtherTimeline(format!("ends with another record than the log has at offset {offset}"))
            }
            error @ SeamError::Bus { .. } => Self::Unknown(HotError { reason: error.to_string() }),
        }
    }
}

/// Makes sure that all records of `partition` before `place` are records of `bus`.
pub(crate) async fn check(bus: &dyn Bus, partition: u16, place: Place) -> Result<(), Unfit> {
    let Place { next_offset, generation, seam } = place;
    if generation.is_some_and(|generation| !bus.epoch().has_in(partition, generation, next_offset)) {
        return Err(Unfit::OtherTimeline("is of another timeline of the log".to_owned()));
    }
    let bounds = bus.bounds(partition).await;
    let bounds = bounds.map_err(|source| SeamError::Bus { partition, source })?;
    let mark = Mark { next_offset, seam, ..Mark::default() };
    Ok(seam::check_record(bus, partition, bounds, &mark).await?)
}
