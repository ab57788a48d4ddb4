//! What goes to stderr: talk to a person, and logs, in lowercase, a line an event. Metrics are the
//! server's.
//!
//! Nobody may be reading it any more: no reason to end, least of all while a server drains. So all
//! talk goes through [`say`], and logs that can't be written are dropped.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::text::printable_lines;

/// Tells a person: `text` and the end of a line on stderr, where somebody reads it.
///
/// Parts of it may come from feeds, files or servers: escape sequences in it are shown, not obeyed.
pub fn say(text: impl Display) {
    let text = text.to_string();
    let _ = writeln!(std::io::stderr().lock(), "{}", printable_lines(&text));
}

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
            let wanted = wanted.escape_debug();
            say(format_args!("warning: STK_LOG is \"{wanted}\": {error}; logging at {default}"));
            EnvFilter::new(default)
        })
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would tell of a closed stderr on stderr, which panics.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(colour && std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first.
    let _ = subscriber.try_init();
}
