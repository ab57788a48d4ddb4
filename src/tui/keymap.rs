//! One table of keys: the dispatcher, the footer and the help page are all made from it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Help,
    Filter,
    ClearFilter,
    SortNext,
    SortBack,
    Reverse,
    Pause,
    Suspend,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

/// One line of the help page.
pub(super) struct Binding {
    pub(super) action: Action,
    /// The keys, as a person reads them.
    pub(super) keys: &'static str,
    codes: &'static [KeyCode],
    pub(super) what: &'static str,
    /// A word for the footer; empty: not there.
    pub(super) short: &'static str,
}

const fn binding(
    action: Action,
    keys: &'static str,
    codes: &'static [KeyCode],
    short: &'static str,
    what: &'static str,
) -> Binding {
    Binding { action, keys, codes, what, short }
}

/// Every binding, in the order of the help page.
pub(super) const BINDINGS: &[Binding] = &[
    binding(Action::Quit, "q", &[KeyCode::Char('q')], "quit", "quit, as Ctrl-C does; Ctrl-Z suspends"),
    binding(Action::Help, "?", &[KeyCode::Char('?'), KeyCode::Char('h'), KeyCode::F(1)], "help", "this page"),
    binding(
        Action::Filter,
        "/",
        &[KeyCode::Char('/')],
        "filter",
        "filter: a part of the symbol, last<=5, %>1",
    ),
    binding(Action::SortNext, "s", &[KeyCode::Char('s'), KeyCode::Right], "sort", "sort by the next column"),
    binding(Action::SortBack, "S", &[KeyCode::Char('S'), KeyCode::Left], "", "sort by the column before"),
    binding(Action::Reverse, "r", &[KeyCode::Char('r')], "reverse", "turn the order around"),
    binding(
        Action::Pause,
        "space",
        &[KeyCode::Char(' '), KeyCode::Char('p')],
        "pause",
        "freeze the board; nothing is lost",
    ),
    binding(Action::ClearFilter, "esc", &[KeyCode::Esc], "", "leave the help, clear the filter"),
    binding(Action::Up, "↑ k", &[KeyCode::Up, KeyCode::Char('k')], "", "select the row above"),
    binding(Action::Down, "↓ j", &[KeyCode::Down, KeyCode::Char('j')], "", "select the row below"),
    binding(Action::PageUp, "PgUp", &[KeyCode::PageUp], "", "a page up"),
    binding(Action::PageDown, "PgDn", &[KeyCode::PageDown], "", "a page down"),
    binding(Action::First, "Home g", &[KeyCode::Home, KeyCode::Char('g')], "", "the first row"),
    binding(Action::Last, "End G", &[KeyCode::End, KeyCode::Char('G')], "", "the last row"),
];

/// What `key` does.
pub(super) fn action(key: &KeyEvent) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('z') => Some(Action::Suspend),
            _ => None,
        };
    }
    BINDINGS.iter().find(|binding| binding.codes.contains(&key.code)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_does_two_things() {
        let codes: Vec<_> = BINDINGS.iter().flat_map(|binding| binding.codes).collect();
        for code in &codes {
            assert_eq!(codes.iter().filter(|other| other == &code).count(), 1, "{code:?}");
        }
    }
}
