//! Which faults pass while the process runs, so that a server opens its stores again instead of ending.

use super::node::NodeError;
use super::processor::ProcessorError;
use crate::bus::BusError;
use crate::tiering::cold::ColdError;
use crate::tiering::seam::SeamError;
use crate::tiering::warm::WarmError;

/// How a fault of a server may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// When somebody frees space.
    DiskFull,
    /// A store that is opened again may work.
    Passing,
    /// Not by itself: the stores do not fit together, a file is damaged, or a setting is wrong.
    Lasting,
}

fn of_log(error: &BusError) -> Fault {
    match error {
        BusError::Full { .. } | BusError::FilledUp { .. } => Fault::DiskFull,
        BusError::Failed { .. }
        | BusError::Locked { .. }
        | BusError::Unavailable { .. }
        | BusError::Closed => Fault::Passing,
        BusError::Trimmed { .. }
        | BusError::NoPartition { .. }
        | BusError::Missing { .. }
        | BusError::TooLarge { .. }
        | BusError::Misfit(_) => Fault::Lasting,
    }
}

fn of_warm(error: &WarmError) -> Fault {
    match error {
        WarmError::Full { .. } => Fault::DiskFull,
        error => passing_if(error.is_passing()),
    }
}

impl ProcessorError {
    /// How this fault of the processor may end.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Bus { source, .. }
            | Self::Membership { source }
            | Self::Seam(SeamError::Bus { source, .. }) => of_log(source),
            Self::Warm { source, .. } => of_warm(source),
            Self::Hot { .. } => Fault::Passing,
            Self::Archive { source, .. } => passing_if(source.is_passing()),
            Self::Record { .. }
            | Self::Hole { .. }
            | Self::Moved { .. }
            | Self::State { .. }
            | Self::Seam(_)
            | Self::Expired { .. }
            | Self::Worker { .. } => Fault::Lasting,
        }
    }
}

impl NodeError {
    /// How this fault of a server may end.
    pub fn fault(&self) -> Fault {
        match self {
            _ if self.is_disk_full() => Fault::DiskFull,
            Self::Bus(error) | Self::Seam(SeamError::Bus { source: error, .. }) => of_log(error),
            Self::Warm(error) => of_warm(error),
            Self::Processor(error) => error.fault(),
            Self::Cold(error) => {
                passing_if(matches!(error, ColdError::Unknown { .. } | ColdError::Full { .. }))
            }
            Self::Archive(error) => passing_if(error.is_passing()),
            // The address and the directory were this process's own a moment before.
            Self::PortInUse { .. }
            | Self::Listen { .. }
            | Self::DataInUse { .. }
            | Self::Data { .. }
            | Self::LogAway { .. }
            | Self::NewLog { .. }
            | Self::Hot(_)
            | Self::Feed(_) => Fault::Passing,
            Self::NoStore { .. }
            | Self::Roles { .. }
            | Self::Source(_)
            | Self::FeedRun(_)
            | Self::History(_)
            | Self::Seam(_)
            | Self::Gateway(_) => Fault::Lasting,
        }
    }
}

fn passing_if(is_passing: bool) -> Fault {
    if is_passing { Fault::Passing } else { Fault::Lasting }
}
