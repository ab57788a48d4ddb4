//! The terminal, taken and given back: on return, error and panic, and around a suspension.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute, queue};
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;

/// A frame of the largest terminals: written at once, so that it does not come in pieces.
const FRAME_BYTES: usize = 64 << 10;

type Backend = CrosstermBackend<BufWriter<Stdout>>;

/// Whether the terminal is ours; there is one terminal, whoever asks.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal in raw mode, on its other screen; given back when dropped.
pub(super) struct Terminal {
    inner: ratatui::Terminal<Backend>,
}

impl Terminal {
    pub(super) fn take() -> io::Result<Self> {
        restore_on_panic();
        enter()?;
        let backend = CrosstermBackend::new(BufWriter::with_capacity(FRAME_BYTES, io::stdout()));
        match ratatui::Terminal::new(backend) {
            Ok(inner) => Ok(Self { inner }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// Draws one frame; only what differs from the one before is written.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        queue!(self.inner.backend_mut(), BeginSynchronizedUpdate)?;
        self.inner.draw(draw)?;
        execute!(self.inner.backend_mut(), EndSynchronizedUpdate)
    }

    /// How many rows and columns there are: columns first.
    pub(super) fn size(&self) -> io::Result<(u16, u16)> {
        let size = self.inner.size()?;
        Ok((size.width, size.height))
    }

    /// Gives the terminal to the shell, until [`Terminal::resume`].
    pub(super) fn suspend() {
        give_back();
    }

    /// Takes the terminal again, after whatever a shell did to it; the next frame is drawn whole.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        enter()?;
        let size = self.inner.size()?;
        // Not `clear`: that asks the terminal where the cursor is, whose answer the keys' reader takes.
        self.inner.resize(Rect::new(0, 0, size.width, size.height))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> io::Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    // The mode is told to crossterm anew each time: a shell may have changed it in between.
    let _ = disable_raw_mode();
    let entered = enable_raw_mode().and_then(|()| execute!(io::stdout(), EnterAlternateScreen, cursor::Hide));
    if entered.is_err() {
        give_back();
    }
    entered
}

/// Every step is tried, whatever became of the one before: a terminal that is gone needs none.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), EndSynchronizedUpdate, LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

/// The message of a panic belongs on the screen a person sees afterwards.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use portable_pty::{CommandBuilder, PtySize, native_pty_system};

    use super::*;

    const PLAN: &str = "STK_TEST_PANIC";

    /// Runs itself in a terminal, takes that, and panics.
    #[test]
    fn a_panic_gives_the_terminal_back_before_it_says_why() {
        if std::env::var_os(PLAN).is_some() {
            let mut terminal = Terminal::take().unwrap();
            terminal.draw(|frame| frame.render_widget("drawn", frame.area())).unwrap();
            panic!("as planned");
        }
        let size = PtySize { rows: 20, cols: 80, pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
        let name = "tui::terminal::tests::a_panic_gives_the_terminal_back_before_it_says_why";
        command.args(["--exact", name, "--nocapture"]);
        command.env(PLAN, "1");
        command.env("RUST_BACKTRACE", "0");
        let mut child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let mut output = Vec::new();
        // The end of a terminal whose last program has gone is an error.
        let _ = pty.master.try_clone_reader().unwrap().read_to_end(&mut output);
        assert!(!child.wait().unwrap().success());
        let shown = String::from_utf8_lossy(&output);
        let at = |text: &str| shown.find(text).unwrap_or_else(|| panic!("no {text:?} in {shown:?}"));
        assert!(at("\u{1b}[?1049h") < at("drawn") && at("drawn") < at("\u{1b}[?1049l"), "{shown:?}");
        assert!(at("\u{1b}[?1049l") < at("as planned"), "{shown:?}");
        assert!(shown.rfind("\u{1b}[?25h") > shown.rfind("\u{1b}[?25l"), "the cursor is shown: {shown:?}");
        let modes = format!("{:?}", pty.master.get_termios().unwrap().local_flags);
        assert!(modes.contains("ECHO") && modes.contains("ICANON"), "{modes}");
    }
}
