//! The program: parse, set up telemetry, dispatch. No logic.

fn main() {}
