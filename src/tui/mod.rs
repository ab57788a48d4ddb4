//! The board: live prices in the terminal.
//!
//! `state.rs` is what the board knows, `app.rs` what keys do to it, `view.rs` how it is drawn: all
//! three pure. Here is the one loop that waits for keys, events and frames; `terminal.rs` gives the
//! terminal back whatever happens; `lines.rs` is the same stream where there is no terminal. Does
//! not belong here: sockets.
//!
//! crossterm reads keys with its `use-dev-tty`, by `poll`: its other way (mio, edge-triggered) drops
//! the news of a key that comes together with a resize, and shows it with the next key only.

mod app;
mod filter;
mod frames;
mod keymap;
pub mod lines;
mod market;
mod state;
mod terminal;
mod theme;
mod view;

use std::io;
use std::time::Duration;

use crossterm::event::{Event as Input, EventStream};
use futures_util::StreamExt;
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use self::app::Outcome;
use self::frames::Frames;
use self::state::Board;
use self::terminal::Terminal;
use self::theme::Theme;
use crate::client::stream::Stream;
use crate::market::{Symbol, Timestamp};
use crate::signals::StopSignals;

pub use filter::{Filter, FilterError};
pub use state::Column;

/// How a board is begun.
#[derive(Clone, Debug, Default)]
pub struct BoardOptions {
    /// The server's name, for the header.
    pub server: String,
    /// Symbols to show from the beginning; others follow as they are heard of.
    pub symbols: Vec<Symbol>,
    /// The column to sort by; the symbol without.
    pub sort: Option<Column>,
    /// Which rows are shown.
    pub filter: Filter,
    /// Whether colours are used.
    pub colour: bool,
    /// Ends the board after so long.
    pub until: Option<Duration>,
}

/// Why a board or a stream of lines ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A person left, or the time was over.
    Done,
    /// A signal ended it: INT, TERM, HUP or QUIT.
    Interrupted,
}

/// Why a board ended badly.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The terminal can't be taken, read or written.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// The stream ended by itself, which it never does but by a fault of this program.
    #[error("the stream of prices ended")]
    StreamEnded,
}

/// Events taken in between two looks at keys and signals.
const EVENTS_AT_ONCE_MAX: usize = 64;

/// Shows what `stream` tells in the terminal until a person quits, a signal comes, or the time is
/// over. The terminal is as it was before on every way out.
///
/// Errors: no terminal, or one that is gone.
pub async fn run(mut stream: Stream, options: BoardOptions) -> Result<Ended, BoardError> {
    let BoardOptions { server, symbols, sort, filter, colour, until } = options;
    let mut signals = Signals::new()?;
    let mut board = Board::new(server, &symbols, sort, filter, Timestamp::now());
    let theme = Theme::new(colour);
    let mut terminal = Terminal::take()?;
    let mut inputs = EventStream::new();
    let mut frames = Frames::new();
    frames.input();
    // Ages and rates go on without news.
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let end = until.and_then(|until| Instant::now().checked_add(until));
    loop {
        tokio::select! {
            biased;
            () = signals.ends.any() => return Ok(Ended::Interrupted),
            () = sleep_until(end) => return Ok(Ended::Done),
            _ = signals.stop.recv() => {
                suspend(&mut terminal, &mut signals).await?;
                frames.input();
            }
            // Stopped by others and gone on: the shell had the terminal meanwhile.
            _ = signals.cont.recv() => {
                terminal.resume()?;
                frames.input();
            }
            input = inputs.next() => {
                let input = input.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
                let outcome = match input {
                    Input::Key(key) => app::press(&mut board, &key, Timestamp::now()),
                    Input::Resize(..) => Outcome::Redraw,
                    _ => Outcome::Ignored,
                };
                match outcome {
                    Outcome::Ignored => {}
                    Outcome::Redraw => frames.input(),
                    Outcome::Quit => return Ok(Ended::Done),
                    Outcome::Suspend => {
                        suspend(&mut terminal, &mut signals).await?;
                        frames.input();
                    }
                }
            }
            () = frames.due() => {
                let now = Timestamp::now();
                let (width, height) = terminal.size()?;
                board.prepare(now, view::page(width, height));
                terminal.draw(|frame| view::draw(frame, &board, &theme, now))?;
                frames.drawn();
            }
            event = stream.next() => {
                let now = Timestamp::now();
                board.apply(event.ok_or(BoardError::StreamEnded)?, now);
                for _ in 1..EVENTS_AT_ONCE_MAX {
                    match stream.try_next() {
                        Some(event) => board.apply(event, now),
                        None => break,
                    }
                }
                frames.data();
            }
            _ = seconds.tick() => frames.data(),
        }
    }
}

async fn sleep_until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Gives the terminal back, stops this process as the shell expects, and takes the terminal again
/// when the shell says to go on.
async fn suspend(terminal: &mut Terminal, signals: &mut Signals) -> io::Result<()> {
    Terminal::suspend();
    kill_process(getpid(), Signal::STOP)?;
    // Another thread may have taken the signal: this one waits for the way back all the same.
    signals.cont.recv().await;
    terminal.resume()
}

struct Signals {
    ends: Ends,
    stop: tokio::signal::unix::Signal,
    cont: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            ends: Ends::new()?,
            stop: signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?,
            cont: signal(SignalKind::from_raw(Signal::CONT.as_raw()))?,
        })
    }
}

/// The signals that end a board or a stream of lines in good order.
struct Ends {
    stop: StopSignals,
    quit: tokio::signal::unix::Signal,
}

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self { stop: StopSignals::listen(), quit: signal(SignalKind::quit())? })
    }

    /// Waits for one of them. Cancel-safe.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.stop.next() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Waits for INT, TERM, HUP or QUIT: what ends a stream of lines. Suspending stays the shell's.
///
/// Errors: the signals can't be listened to.
pub async fn interrupted() -> io::Result<()> {
    Ends::new()?.any().await;
    Ok(())
}
