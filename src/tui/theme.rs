//! Colours, and what stands for them where there are none: nothing is told by colour alone.

use ratatui::style::{Color, Modifier, Style};

/// How each part of the board is drawn.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    pub(super) up: Style,
    pub(super) down: Style,
    /// Added to a price that has just changed.
    pub(super) flash: Style,
    /// What is old, unknown or of no account.
    pub(super) quiet: Style,
    pub(super) head: Style,
    pub(super) sorted: Style,
    pub(super) selected: Style,
    pub(super) good: Style,
    pub(super) bad: Style,
    pub(super) key: Style,
}

impl Theme {
    pub(super) fn new(colour: bool) -> Self {
        if colour { Self::coloured() } else { Self::monochrome() }
    }

    /// Blue and orange for up and down, which every common kind of colour blindness tells apart; of
    /// the 256 colours, which more terminals have than any others.
    fn coloured() -> Self {
        let plain = Style::new();
        Self {
            up: plain.fg(Color::Indexed(74)),
            down: plain.fg(Color::Indexed(215)),
            flash: plain.add_modifier(Modifier::BOLD),
            quiet: plain.fg(Color::Indexed(244)),
            head: plain.fg(Color::Indexed(248)),
            sorted: plain.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            selected: plain.bg(Color::Indexed(237)),
            good: plain.fg(Color::Green),
            bad: plain.fg(Color::Red).add_modifier(Modifier::BOLD),
            key: plain.fg(Color::Cyan),
        }
    }

    /// Modifiers alone, for `NO_COLOR`.
    fn monochrome() -> Self {
        let plain = Style::new();
        Self {
            up: plain,
            down: plain,
            flash: plain.add_modifier(Modifier::BOLD),
            quiet: plain.add_modifier(Modifier::DIM),
            head: plain.add_modifier(Modifier::DIM),
            sorted: plain.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            selected: plain.add_modifier(Modifier::REVERSED),
            good: plain,
            bad: plain.add_modifier(Modifier::BOLD),
            key: plain.add_modifier(Modifier::BOLD),
        }
    }
}
