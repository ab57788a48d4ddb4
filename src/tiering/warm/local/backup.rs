//! The files of a store that a copy needs, as its manifest names them at one moment.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::io_error;
use super::manifest;
use crate::tiering::warm::WarmError;

/// What of a store is copied, by paths below its directory.
#[derive(Debug)]
pub struct WarmFiles {
    /// The manifest.
    pub manifest: PathBuf,
    /// What it held, up to its last whole line.
    pub bytes: Vec<u8>,
    /// Segments and checkpoints that it names. Each stays as it is until it is removed.
    pub files: Vec<PathBuf>,
}

/// The files of the store in `dir`, which another process may be writing. `None` where there is none yet.
///
/// Errors: the manifest can't be read, is damaged, or was replaced meanwhile: try again.
pub fn files(dir: &Path) -> Result<Option<WarmFiles>, WarmError> {
    if !manifest::is_there(dir)? {
        return Ok(None);
    }
    let path = manifest::path(dir)?;
    let mut bytes = fs::read(&path).map_err(|error| io_error(&path, &error))?;
    // A line that is being appended is not a step yet.
    bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
    let state = manifest::parse_state(&path, &bytes)?;
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    Ok(Some(WarmFiles { manifest: name, bytes, files: state.files().collect() }))
}
