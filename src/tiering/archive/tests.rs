//! Tests of the archive.
