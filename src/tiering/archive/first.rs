//! Manifests of version 1 have no checksum. They are held against what else is stored of their unit:
//! the copies of footers, which tell what their objects span, and the journal, which has the offsets.

use super::journal::{Journal, Step, journal_key};
use super::manifest::{Manifest, ManifestFile};
use super::plan::is_same;
use super::sealed;
use crate::tiering::cold::{Cold, ColdError};
use crate::tiering::parquet::{Index, Window};
use crate::tiering::warm::Unit;

/// What does not fit in a manifest of version 1. What can't be read says nothing.
pub(super) async fn fault(
    cold: &dyn Cold,
    unit: Unit,
    manifest: &Manifest,
) -> Result<Option<String>, ColdError> {
    for file in &manifest.files {
        match cold.get(&file.footer_key).await {
            Ok(bytes) => {
                let window = Window { start: file.footer_at, bytes, file_bytes: file.bytes };
                let Ok(span) = Index::span(unit.kind, &window) else { continue };
                let ends = [span.symbols.first(), span.symbols.last()]
                    .map(|symbol| symbol.copied().flatten().map(|symbol| symbol.to_string()));
                let digest = &file.digest;
                if (span.rows, span.ts_min, span.ts_max) != (digest.rows, digest.ts_min, digest.ts_max)
                    || ends != [file.symbol_min.clone(), file.symbol_max.clone()]
                {
                    return Ok(Some(differs(file)));
                }
            }
            Err(ColdError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let journal = match cold.get(&journal_key(unit)).await {
        Ok(bytes) => sealed::open::<Journal>(&bytes).ok(),
        Err(ColdError::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    let fits = journal.is_none_or(|journal| match journal.step {
        Step::Committed | Step::Dropping | Step::Dropped if journal.number == manifest.number => {
            is_same(&journal.next_offsets, &manifest.next_offsets)
        }
        _ if journal.number == manifest.number + 1 => is_same(&journal.first_offsets, &manifest.next_offsets),
        _ => true,
    });
    Ok((!fits).then(|| format!("its offsets are not those of {}", journal_key(unit))))
}

fn differs(file: &ManifestFile) -> String {
    format!("what it says of {} is not what {} does", file.key, file.footer_key)
}
