//! The signals that end a program in good order: INT, TERM and HUP.
//!
//! A closed terminal or ssh session sends HUP. A program that was started to ignore it (`nohup`) still
//! does.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals by which a person or a supervisor ends the program. One that arrives after
/// [`StopSignals::listen`] while nobody waits is returned to the next who does.
pub struct StopSignals(Option<Listeners>);

struct Listeners {
    interrupt: Signal,
    terminate: Signal,
    /// None if the program was started to ignore it.
    hang_up: Option<Signal>,
}

impl StopSignals {
    /// Listens from now on; these signals no longer end the program by themselves.
    pub fn listen() -> Self {
        let listeners = || {
            let hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
            Ok::<_, std::io::Error>(Listeners {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up,
            })
        };
        // Without handlers the system's own way of ending is left.
        Self(listeners().ok())
    }

    /// Waits for the next signal and returns its name. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        let Some(Listeners { interrupt, terminate, hang_up }) = &mut self.0 else {
            return std::future::pending().await;
        };
        let hung_up = async {
            match hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hung_up => "SIGHUP",
        }
    }

    /// Waits until somebody insists: INT or TERM. One closed terminal may send HUP more than once, so a
    /// second HUP means nothing. Cancel-safe.
    pub async fn insist(&mut self) -> &'static str {
        loop {
            match self.next().await {
                "SIGHUP" => {}
                name => return name,
            }
        }
    }
}

/// Whether the program was started to ignore HUP. A handler would undo that.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_while_nobody_waits_is_heard() {
        let mut signals = StopSignals::listen();
        let wait = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(wait, signals.next()).await.is_err(), "none has come");
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(signals.next().await, "SIGTERM");
        if !ignores_hang_up() {
            kill_process(getpid(), Signal::HUP).unwrap();
            assert_eq!(signals.next().await, "SIGHUP");
            kill_process(getpid(), Signal::HUP).unwrap();
            assert!(tokio::time::timeout(wait, signals.insist()).await.is_err(), "a second HUP is no demand");
        }
    }
}
