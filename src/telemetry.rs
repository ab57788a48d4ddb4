//! Logs: to stderr, in lowercase, a line an event. Metrics are the server's.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging to stderr at `default` (`warn`, `info`, …), or as `STK_LOG` says.
///
/// A filter that can't be read is reported and the default used, since a log is no reason to not
/// start.
pub fn init(default: &str, colour: bool) {
    let wanted = std::env::var("STK_LOG").unwrap_or_default();
    let filter = if wanted.is_empty() {
        EnvFilter::new(default)
    } else {
        EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
            eprintln!("warning: STK_LOG is \"{}\": {error}; logging at {default}", wanted.escape_debug());
            EnvFilter::new(default)
        })
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colour && std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first.
    let _ = subscriber.try_init();
}
