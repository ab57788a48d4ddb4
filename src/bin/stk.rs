//! The program: hands over to the command line. No logic.

fn main() {}
