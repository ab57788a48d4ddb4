//! Processor.
