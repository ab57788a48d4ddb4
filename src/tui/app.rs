//! What keys do to the board: pure, so that any row of keys can be tried without a terminal.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::filter::Filter;
use super::keymap::{Action, action};
use super::state::{Board, Mode};
use crate::market::Timestamp;

/// What the loop has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ignored,
    Redraw,
    Quit,
    Suspend,
}

/// The longest filter a person can type.
const FILTER_CHARS_MAX: usize = 64;

/// Changes the board as `key` says.
pub(super) fn press(board: &mut Board, key: &KeyEvent, now: Timestamp) -> Outcome {
    if key.kind == KeyEventKind::Release {
        return Outcome::Ignored;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if let (Mode::Filter { .. }, false) = (&board.mode, control) {
        return type_filter(board, key.code);
    }
    let Some(action) = action(key) else { return Outcome::Ignored };
    match action {
        Action::Quit => return Outcome::Quit,
        Action::Suspend => return Outcome::Suspend,
        // Any other key leaves the help page, and does nothing more.
        _ if board.mode == Mode::Help => board.mode = Mode::Rows,
        Action::Help => board.mode = Mode::Help,
        Action::Filter => {
            let before = board.filter.clone();
            board.mode = Mode::Filter { text: before.text().to_owned(), error: None, before };
        }
        Action::ClearFilter if board.filter.text().is_empty() => board.selected = None,
        Action::ClearFilter => board.set_filter(Filter::default()),
        Action::SortNext => board.sort_next(false),
        Action::SortBack => board.sort_next(true),
        Action::Reverse => board.reverse(),
        Action::Pause => board.pause(now),
        Action::Up => board.select(-1),
        Action::Down => board.select(1),
        Action::PageUp => board.select_page(-1),
        Action::PageDown => board.select_page(1),
        Action::First => board.select_end(false),
        Action::Last => board.select_end(true),
    }
    Outcome::Redraw
}

/// The rows follow the filter while it is typed; what is none yet leaves them as they are.
fn type_filter(board: &mut Board, code: KeyCode) -> Outcome {
    let Mode::Filter { text, error, before } = &mut board.mode else { return Outcome::Ignored };
    match code {
        KeyCode::Char(typed) if text.chars().count() < FILTER_CHARS_MAX => text.push(typed),
        KeyCode::Backspace if text.is_empty() => {
            board.mode = Mode::Rows;
            return Outcome::Redraw;
        }
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Enter if error.is_none() => {
            board.mode = Mode::Rows;
            return Outcome::Redraw;
        }
        KeyCode::Esc => {
            let before = std::mem::take(before);
            board.mode = Mode::Rows;
            board.set_filter(before);
            return Outcome::Redraw;
        }
        _ => return Outcome::Ignored,
    }
    match text.parse::<Filter>() {
        Ok(filter) => {
            *error = None;
            board.set_filter(filter);
        }
        Err(reason) => *error = Some(reason.to_string()),
    }
    Outcome::Redraw
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::state::Column;

    const NOW: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);

    fn board() -> Board {
        let symbols = ["AAPL", "MSFT", "TSLA"].map(|symbol| symbol.parse().unwrap());
        let mut board = Board::new("here:1".to_owned(), &symbols, None, Filter::default(), NOW);
        board.prepare(NOW, 10);
        board
    }

    fn code(board: &mut Board, code: KeyCode) -> Outcome {
        press(board, &KeyEvent::new(code, KeyModifiers::NONE), NOW)
    }

    fn text(board: &mut Board, text: &str) {
        text.chars().for_each(|c| assert_eq!(code(board, KeyCode::Char(c)), Outcome::Redraw, "{c}"));
    }

    fn symbols(board: &mut Board) -> String {
        board.prepare(NOW, 10);
        board.shown().map(|row| row.symbol.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_filter_is_typed_kept_and_taken_back() {
        let mut board = board();
        text(&mut board, "/sl");
        assert_eq!(symbols(&mut board), "TSLA");
        code(&mut board, KeyCode::Enter);
        assert_eq!((&board.mode, board.filter.text()), (&Mode::Rows, "sl"));
        text(&mut board, "/");
        code(&mut board, KeyCode::Backspace);
        code(&mut board, KeyCode::Backspace);
        text(&mut board, "aa<");
        assert!(matches!(&board.mode, Mode::Filter { error: Some(_), .. }));
        assert_eq!(code(&mut board, KeyCode::Enter), Outcome::Ignored, "what is no filter is not taken");
        assert_eq!(symbols(&mut board), "AAPL", "the last good one holds");
        code(&mut board, KeyCode::Esc);
        assert_eq!(symbols(&mut board), "TSLA", "the one before is back");
        code(&mut board, KeyCode::Esc);
        assert_eq!(symbols(&mut board), "AAPL MSFT TSLA");
        text(&mut board, "/q");
        assert_eq!(board.filter.text(), "q", "letters are no commands here");
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut board, &interrupt, NOW), Outcome::Quit);
    }

    #[test]
    fn keys_sort_select_and_leave() {
        let mut board = board();
        text(&mut board, "s");
        assert_eq!((board.sort, board.descending), (Column::Last, true));
        text(&mut board, "Sr");
        assert_eq!(symbols(&mut board), "TSLA MSFT AAPL");
        text(&mut board, "jj");
        assert_eq!(board.selected.unwrap().as_str(), "MSFT");
        text(&mut board, "?");
        text(&mut board, "s");
        assert_eq!((&board.mode, board.sort), (&Mode::Rows, Column::Symbol), "a key only leaves the help");
        code(&mut board, KeyCode::Esc);
        assert_eq!(board.selected, None);
        let suspend = KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut board, &suspend, NOW), Outcome::Suspend);
        let release = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(press(&mut board, &release, NOW), Outcome::Ignored);
        assert_eq!(code(&mut board, KeyCode::Char('q')), Outcome::Quit);
    }
}
