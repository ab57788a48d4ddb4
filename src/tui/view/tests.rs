//! The board as it is drawn, at several sizes.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::*;
use crate::client::stream::Event;
use crate::tui::app;
use crate::tui::filter::Filter;
use crate::wire::json;

const NOW: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);

const MESSAGES: &str = r#"[
    {"T":"pc","S":"AAPL","p":189,"t":"2023-11-13T21:00:00Z"},
    {"T":"pc","S":"PENNY","p":0.52,"t":"2023-11-13T21:00:00Z"},
    {"T":"t","S":"AAPL","i":1,"x":"V","p":190.40,"s":100,"c":["@"],"t":"2023-11-14T22:13:18Z","z":"C"},
    {"T":"t","S":"AAPL","i":2,"x":"V","p":190.45,"s":1200000,"c":["@"],"t":"2023-11-14T22:13:19Z","z":"C"},
    {"T":"q","S":"AAPL","bx":"V","bp":190.44,"bs":200,"ax":"V","ap":190.46,"as":30000,"c":["R"],"t":"2023-11-14T22:13:19Z","z":"C"},
    {"T":"t","S":"PENNY","i":3,"x":"V","p":0.4999,"s":700,"c":["@"],"t":"2023-11-14T22:10:00Z","z":"C"},
    {"T":"q","S":"MSFT","bx":"V","bp":419.98,"bs":1,"ax":"V","ap":420.02,"as":2,"c":["R"],"t":"2023-11-14T22:13:20Z","z":"C"},
    {"T":"s","S":"MSFT","sc":"H","sm":"Halted","rc":"T1","rm":"News","t":"2023-11-14T22:13:20Z","z":"C"}
]"#;

fn board() -> Board {
    let mut board = Board::new("127.0.0.1:7878".to_owned(), &[], None, Filter::default(), NOW);
    board.apply(Event::Connected { resumed: false }, NOW);
    board.apply(Event::Messages(json::decode(MESSAGES.as_bytes(), NOW).unwrap(), NOW), NOW);
    board
}

fn drawn(board: &mut Board, width: u16, height: u16, colour: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    board.prepare(NOW, page(width, height));
    terminal.draw(|frame| draw(frame, board, &Theme::new(colour), NOW)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let cells: Vec<&str> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
    cells.chunks(width).map(|line| line.concat().trim_end().to_owned() + "\n").collect()
}

#[test]
fn wide_and_narrow_and_hardly_there() {
    let mut all = String::new();
    for (width, height) in [(120, 7), (80, 7), (40, 7), (24, 4), (10, 3)] {
        let shown = text(&drawn(&mut board(), width, height, true));
        assert!(shown.lines().all(|line| line.chars().count() <= usize::from(width)));
        all.push_str(&format!("== {width} by {height}\n{shown}"));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_lost_link_is_told_and_nothing_looks_live() {
    let mut board = board();
    let reason = "the server closed the connection".to_owned();
    board.apply(Event::Disconnected { reason, retry_in: Duration::from_secs(2) }, NOW);
    let lost = drawn(&mut board, 80, 7, false);
    insta::assert_snapshot!(text(&lost));
    let quiet = Theme::new(false).quiet.add_modifier;
    let prices =
        lost.content()[160..240].iter().filter(|cell| cell.symbol().chars().all(|c| c.is_ascii_digit()));
    assert!(prices.clone().count() > 5 && prices.clone().all(|cell| cell.modifier.contains(quiet)));
    board.apply(Event::Connected { resumed: true }, NOW);
    board.apply(Event::CaughtUp, NOW);
    assert!(text(&drawn(&mut board, 80, 7, false)).starts_with(" ● live"));
}

#[test]
fn a_replay_of_another_day_is_loud_and_its_ages_are_the_markets() {
    // The same ticks, nine years later.
    let now = NOW.saturating_add_nanos(9 * 365 * 86_400_000_000_000);
    let mut board = Board::new("127.0.0.1:7878".to_owned(), &[], None, Filter::default(), now);
    board.apply(Event::Connected { resumed: false }, now);
    board.apply(Event::Messages(json::decode(MESSAGES.as_bytes(), now).unwrap(), now), now);
    let mut all = String::new();
    for width in [120, 80, 40] {
        let mut terminal = Terminal::new(TestBackend::new(width, 6)).unwrap();
        board.prepare(now, page(width, 6));
        terminal.draw(|frame| draw(frame, &board, &Theme::new(true), now)).unwrap();
        let buffer = terminal.backend().buffer();
        assert_eq!(buffer[(3, 0)].fg, Theme::new(true).bad.fg.unwrap(), "it does not look live");
        all.push_str(&format!("== {width}\n{}", text(buffer)));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn gaps_lag_filter_help_and_emptiness_are_told() {
    let mut board = board();
    board.apply(Event::Gap("3 messages dropped".to_owned()), NOW);
    board.apply(Event::Lag { ms: 1_200 }, NOW);
    let shown = text(&drawn(&mut board, 120, 7, true));
    assert!(shown.contains("1 gap") && shown.contains("1.2 s behind"), "{shown}");
    let press = |board: &mut Board, key| app::press(board, &KeyEvent::new(key, KeyModifiers::NONE), NOW);
    for key in "/zz".chars() {
        press(&mut board, KeyCode::Char(key));
    }
    let shown = text(&drawn(&mut board, 80, 7, true));
    assert!(shown.contains("none of 3 passes \"zz\"") && shown.contains("\n/zz"), "{shown}");
    press(&mut board, KeyCode::Esc);
    press(&mut board, KeyCode::Char('?'));
    let shown = text(&drawn(&mut board, 80, 26, true));
    assert!(shown.contains("stk watch") && shown.contains("above, below the previous close"), "{shown}");
    let mut empty = Board::new("here:1".to_owned(), &[], None, Filter::default(), NOW);
    assert!(text(&drawn(&mut empty, 80, 7, true)).contains("waiting for the first price"));
}

#[test]
fn without_colour_no_colour_is_used_and_the_signs_stay() {
    let plain = drawn(&mut board(), 120, 7, false);
    assert!(plain.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let coloured = drawn(&mut board(), 120, 7, true);
    assert!(coloured.content().iter().any(|cell| cell.fg != Color::Reset));
    assert_eq!(text(&plain), text(&coloured), "nothing is told by colour alone");
    assert!(text(&plain).contains('▲') && text(&plain).contains('▼'));
}

fn key() -> impl Strategy<Value = KeyCode> {
    prop_oneof![
        prop::sample::select("qsSrjkgG?/ <>=%.5A".chars().collect::<Vec<_>>()).prop_map(KeyCode::Char),
        any::<char>().prop_map(KeyCode::Char),
        prop::sample::select(vec![
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::PageUp,
            KeyCode::PageDown,
            KeyCode::Home,
            KeyCode::End,
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Backspace,
            KeyCode::Tab,
        ]),
    ]
}

proptest! {
    #[test]
    fn no_key_and_no_size_is_too_much(
        steps in prop::collection::vec((key(), 1_u16..160, 1_u16..50), 1..40),
        colour: bool,
    ) {
        let mut board = board();
        for (key, width, height) in steps {
            app::press(&mut board, &KeyEvent::new(key, KeyModifiers::NONE), NOW);
            let buffer = drawn(&mut board, width, height, colour);
            prop_assert_eq!(buffer.content().len(), usize::from(width) * usize::from(height));
        }
    }
}

#[test]
fn numbers_fit_their_columns() {
    let price = |text: &str| text.parse::<Price>().unwrap();
    for (value, room, shown) in [
        ("190.45", 11, "190.45"),
        ("0.4999", 11, "0.4999"),
        ("123456789.125", 11, "123456789.1"),
        ("999999999.99", 8, "########"),
        ("-0.001", 10, "-0.0010"),
    ] {
        assert_eq!(fixed(price(value), room), shown, "{value}");
    }
    for (value, shown) in [(9_999, "9999"), (10_000, "10.0K"), (1_234_567, "1.23M"), (u64::MAX, "18446744T")]
    {
        assert_eq!(count(value), shown);
    }
    for (seconds, shown) in [
        (0, "0s"),
        (59, "59s"),
        (61, "1m"),
        (7_200, "2h"),
        (200_000, "2d"),
        (i64::MAX / 1_000_000_000, "old"),
    ] {
        assert_eq!(age(seconds * 1_000_000_000), shown);
    }
}
