//! How the board looks: draws what it knows into a frame, and changes nothing.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear};

use super::keymap::BINDINGS;
use super::market::{Told, time_of_day};
use super::state::{Board, Column, Link, Mode, Row, TREND_LEN};
use super::theme::Theme;
use crate::market::{Price, Timestamp};

/// Below this there is no board to speak of.
const WIDTH_MIN: u16 = 24;
const HEIGHT_MIN: u16 = 4;
/// Header, titles and footer.
const LINES_AROUND: u16 = 3;
/// What a row begins with: the mark of the selected one.
const MARK: usize = 2;
const BETWEEN: usize = 2;

/// A price that changed less long ago stands out.
const FLASH_NANOS: i64 = 500_000_000;
/// A price older than this does not look live.
const STALE_NANOS: i64 = 60_000_000_000;

/// What is not known.
const UNKNOWN: &str = "–";

/// Columns in the order in which a narrow terminal loses them.
const FIRST_TO_GO: &[Column] = &[
    Column::BidSize,
    Column::AskSize,
    Column::Trend,
    Column::Volume,
    Column::Change,
    Column::Bid,
    Column::Ask,
    Column::Age,
    Column::Percent,
];

/// How many rows a screen of that size has room for.
pub(super) fn page(width: u16, height: u16) -> usize {
    if too_small(width, height) { 0 } else { usize::from(height - LINES_AROUND) }
}

fn too_small(width: u16, height: u16) -> bool {
    width < WIDTH_MIN || height < HEIGHT_MIN
}

/// Draws the whole board as it is at `now`. [`Board::prepare`] comes before.
pub(super) fn draw(frame: &mut Frame, board: &Board, theme: &Theme, now: Timestamp) {
    let area = frame.area();
    if too_small(area.width, area.height) {
        let message = format!("{WIDTH_MIN}×{HEIGHT_MIN} needed");
        return put(frame, area, 0, Line::from(message));
    }
    let columns = columns(usize::from(area.width));
    let local = board.clock(now);
    let clocks = Clocks { local, market: board.market().clock(local) };
    put(frame, area, 0, header(board, theme, now, area.width));
    put(frame, area, 1, titles(board, theme, &columns));
    let page = page(area.width, area.height);
    for (at, row) in board.shown().enumerate().skip(board.offset).take(page) {
        let y = (at - board.offset) as u16 + 2;
        let selected = board.selected == Some(row.symbol);
        let live = board.link == Link::Live;
        put(frame, area, y, row_line(row, theme, &columns, clocks, selected, live));
    }
    if board.shown().len() == 0 && page > 0 {
        put(frame, area, 2, Line::styled(format!("  {}", nothing_shown(board)), theme.quiet));
    }
    footer(frame, area, board, theme);
    if board.mode == Mode::Help {
        help(frame, area, theme);
    }
}

/// Puts a line at row `y` of `area`; what does not fit is cut.
fn put(frame: &mut Frame, area: Rect, y: u16, line: Line) {
    let place = Rect { y: area.y.saturating_add(y), height: 1, ..area }.intersection(area);
    frame.render_widget(line, place);
}

fn nothing_shown(board: &Board) -> String {
    if board.len() == 0 {
        return "waiting for the first price".to_owned();
    }
    format!("none of {} passes \"{}\"; esc clears the filter", board.len(), board.filter.text())
}

// ---- columns

fn width(column: Column) -> usize {
    match column {
        Column::Last => 11,
        Column::Change | Column::Bid | Column::Ask => 10,
        Column::Symbol | Column::Percent => 8,
        Column::BidSize | Column::AskSize => 6,
        Column::Volume => 7,
        Column::Trend => TREND_LEN,
        Column::Age => 4,
    }
}

fn title(column: Column) -> &'static str {
    match column {
        Column::BidSize => "bsize",
        Column::AskSize => "asize",
        other => other.name(),
    }
}

/// The columns that `width` has room for, from left to right.
fn columns(total: usize) -> Vec<Column> {
    let mut columns = Column::ALL.to_vec();
    let needed = |columns: &[Column]| {
        MARK + columns.iter().map(|column| width(*column)).sum::<usize>() + BETWEEN * (columns.len() - 1)
    };
    for gone in FIRST_TO_GO {
        if needed(&columns) <= total {
            break;
        }
        // A bid without an offer says half of nothing: pairs go together.
        let pair = match gone {
            Column::BidSize => Column::AskSize,
            Column::Bid => Column::Ask,
            other => *other,
        };
        columns.retain(|column| column != gone && *column != pair);
    }
    columns
}

/// What stands before a column: `×` between the two sides of a quote.
fn gap_before(at: usize, columns: &[Column], between: &'static str) -> &'static str {
    match columns[..at].last() {
        None => "",
        Some(Column::Bid) if columns[at] == Column::Ask => between,
        Some(_) => "  ",
    }
}

fn is_left(column: Column) -> bool {
    matches!(column, Column::Symbol | Column::Trend)
}

fn titles(board: &Board, theme: &Theme, columns: &[Column]) -> Line<'static> {
    let mut line = Line::from("  ").style(theme.head);
    for (at, column) in columns.iter().enumerate() {
        line.push_span(gap_before(at, columns, "  "));
        let sorted = board.sort == *column;
        let arrow = match (sorted, board.descending) {
            (false, _) => "",
            (true, true) => "↓",
            (true, false) => "↑",
        };
        let text = format!("{}{arrow}", title(*column).to_uppercase());
        let space = " ".repeat(width(*column).saturating_sub(text.chars().count()));
        let style = if sorted { theme.sorted } else { Style::new() };
        let text = Span::styled(text, style);
        // The sign of a changing price stands after the last one: its title leaves that room too.
        match (is_left(*column), *column) {
            (true, _) => line.extend([text, Span::raw(space)]),
            (false, Column::Last) if !sorted => {
                line.extend([Span::raw(space[1..].to_owned()), text, Span::raw(" ")]);
            }
            (false, _) => line.extend([Span::raw(space), text]),
        }
    }
    line
}

// ---- rows

/// By this machine, by which prices flash, and by the market, by which they are old.
#[derive(Clone, Copy)]
struct Clocks {
    local: Timestamp,
    market: Timestamp,
}

fn row_line(
    row: &Row,
    theme: &Theme,
    columns: &[Column],
    clocks: Clocks,
    selected: bool,
    live: bool,
) -> Line<'static> {
    let mark = if selected { "▸ " } else { "  " };
    let mut line = Line::from(mark).style(if selected { theme.selected } else { Style::new() });
    for (at, column) in columns.iter().enumerate() {
        line.push_span(Span::styled(gap_before(at, columns, " ×"), theme.quiet));
        let (text, style) = cell(row, *column, theme, clocks, live);
        let width = width(*column);
        let text = if is_left(*column) {
            format!("{text:<width$.width$}")
        } else {
            format!("{text:>width$.width$}")
        };
        line.push_span(Span::styled(text, style));
    }
    line
}

/// The text of a cell, and how it is drawn.
fn cell(row: &Row, column: Column, theme: &Theme, clocks: Clocks, live: bool) -> (String, Style) {
    let plain = Style::new();
    let age_of = |ts: Timestamp| clocks.market.nanos_since(ts);
    let fresh = |ts: Option<Timestamp>| live && ts.is_some_and(|ts| age_of(ts) < STALE_NANOS);
    let traded = if fresh(row.traded_ts) { plain } else { theme.quiet };
    let quoted = if fresh(row.quoted_ts) { plain } else { theme.quiet };
    let unknown = || (UNKNOWN.to_owned(), theme.quiet);
    let towards = |sign: i64| match sign {
        0 => traded,
        1.. => traded.patch(theme.up),
        _ => traded.patch(theme.down),
    };
    let known = match column {
        Column::Symbol => {
            let halted = if row.halted { "‖" } else { "" };
            let room = width(column) - halted.chars().count();
            let name = shorten(row.symbol.as_str(), room);
            Some((format!("{name}{halted}"), if row.halted { theme.bad } else { plain }))
        }
        Column::Last => row.last.map(|price| {
            let text = fixed(price, width(column) - 1);
            let moved = fresh(row.traded_ts)
                && row.direction != 0
                && clocks.local.nanos_since(row.moved) < FLASH_NANOS;
            match (moved, row.direction) {
                (false, _) => (format!("{text} "), traded),
                (true, 1..) => (format!("{text}↑"), theme.up.patch(theme.flash)),
                (true, _) => (format!("{text}↓"), theme.down.patch(theme.flash)),
            }
        }),
        Column::Change => row.change().map(|change| {
            let magnitude = Price::from_nanos(change.nanos().abs()).unwrap_or_default();
            let sign = match change.nanos() {
                0 => " ",
                1.. => "▲",
                _ => "▼",
            };
            (format!("{sign}{}", change_of(magnitude, row, width(column) - 1)), towards(change.nanos()))
        }),
        Column::Percent => row.percent().map(|percent| {
            let text =
                if percent.abs() < 99_999.0 { format!("{percent:+.2}%") } else { ">99999%".to_owned() };
            (text, towards(row.change().unwrap_or_default().nanos()))
        }),
        Column::Bid => row.bid.map(|price| (fixed(price, width(column)), quoted)),
        Column::Ask => row.ask.map(|price| (fixed(price, width(column)), quoted)),
        Column::BidSize => row.bid.map(|_| (count(u64::from(row.bid_size)), quoted)),
        Column::AskSize => row.ask.map(|_| (count(u64::from(row.ask_size)), quoted)),
        Column::Volume => (row.volume > 0).then(|| (count(row.volume), traded)),
        Column::Trend => {
            let trend = row.trend();
            let rising = trend
                .first()
                .zip(trend.last())
                .map_or(0, |(first, last)| if last > first { 1 } else { -i64::from(last < first) });
            return (sparkline(trend), towards(rising));
        }
        Column::Age => row.priced_ts().map(|ts| {
            let fresh = fresh(Some(ts));
            (age(age_of(ts)), if fresh { plain } else { theme.quiet })
        }),
    };
    known.unwrap_or_else(unknown)
}

fn shorten(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// A price with two decimals, below one with four; fewer where there is no room for them.
fn fixed(price: Price, room: usize) -> String {
    let decimals = if price.nanos().abs() < 1_000_000_000 { 4 } else { 2 };
    rounded(price, decimals, room)
}

/// A change in the decimals of the price that changed.
fn change_of(change: Price, row: &Row, room: usize) -> String {
    let below_one = row.last.is_some_and(|last| last.nanos().abs() < 1_000_000_000);
    rounded(change, if below_one { 4 } else { 2 }, room)
}

fn rounded(price: Price, decimals: u32, room: usize) -> String {
    for decimals in (0..=decimals).rev() {
        let unit = 10_i64.pow(9 - decimals);
        // Half away from zero; the sum stays in range, since a price is below 10^18.
        let magnitude = (price.nanos().abs() + unit / 2) / unit;
        let sign = if price.nanos() < 0 && magnitude > 0 { "-" } else { "" };
        let scale = 10_i64.pow(decimals);
        let text = if decimals == 0 {
            format!("{sign}{magnitude}")
        } else {
            let places = decimals as usize;
            format!("{sign}{}.{:0places$}", magnitude / scale, magnitude % scale)
        };
        if text.len() <= room {
            return text;
        }
    }
    "#".repeat(room)
}

/// A count in at most six characters: 9999, 12.3K, 4.56M.
fn count(value: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")];
    for (unit, name) in UNITS {
        if value < unit || value < 10_000 {
            continue;
        }
        let whole = value / unit;
        return match whole {
            0..10 => format!("{whole}.{:02}{name}", value % unit * 100 / unit),
            10..100 => format!("{whole}.{}{name}", value % unit * 10 / unit),
            _ => format!("{whole}{name}"),
        };
    }
    value.to_string()
}

/// An age in at most four characters: 0s, 59s, 3m, 2h, 5d.
fn age(nanos: i64) -> String {
    let seconds = (nanos / 1_000_000_000).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        86_400..86_400_000 => format!("{}d", seconds / 86_400),
        _ => "old".to_owned(),
    }
}

/// Prices as blocks between their lowest and highest.
fn sparkline(prices: &[f32]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let low = prices.iter().copied().fold(f32::INFINITY, f32::min);
    let high = prices.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let line = prices.iter().map(|price| {
        let share = if high > low { (price - low) / (high - low) } else { 0.0 };
        BLOCKS[((share * 7.0).round() as usize).min(7)]
    });
    line.collect()
}

// ---- around

/// The link and the market's time, which are always told; then what there is room for.
fn header(board: &Board, theme: &Theme, now: Timestamp, width: u16) -> Line<'static> {
    let told = board.market().told(board.clock(now));
    let is_live = board.link == Link::Live && !matches!(told, Told::Delayed { .. });
    let mut line = Line::from(" ");
    line.push_span(Span::styled(link(board, told, now), if is_live { theme.good } else { theme.bad }));
    if let Some((time, style)) = market_time(told, theme, now) {
        line.extend([Span::raw("   "), Span::styled(time, style)]);
    }
    if board.paused() {
        line.push_span(Span::styled("  ‖ paused", theme.bad));
    }
    let shown = board.shown().len();
    let symbols = match board.len() {
        1 if shown == 1 => "1 symbol".to_owned(),
        all if all == shown => format!("{all} symbols"),
        all => format!("{shown} of {all} symbols"),
    };
    let filter = board.filter.text();
    let mut parts = vec![(board.server.clone(), theme.head), (symbols, theme.head)];
    if !filter.is_empty() {
        parts.push((format!("/{filter}"), theme.key));
    }
    if let Some(ms) = board.lag_ms {
        parts.push((format!("{} behind", duration(Duration::from_millis(ms))), theme.bad));
    }
    if board.gaps > 0 {
        parts.push((format!("{} {}", board.gaps, plural(board.gaps, "gap")), theme.bad));
    }
    parts.push((format!("{} msg/s", count(board.messages_per_s.round() as u64)), theme.head));
    if let Some(latency) = board.latency.filter(|_| is_live) {
        parts.push((format!("{} old on arrival", duration(latency)), theme.head));
    }
    if board.resumes > 0 {
        parts.push((format!("{} {}", board.resumes, plural(board.resumes, "resume")), theme.head));
    }
    for (text, style) in parts {
        if line.width() + text.chars().count() + 3 > usize::from(width) {
            continue;
        }
        line.push_span("   ");
        line.push_span(Span::styled(text, style));
    }
    line
}

/// The market's own time, loud where it is not of today.
fn market_time(told: Told, theme: &Theme, now: Timestamp) -> Option<(String, Style)> {
    match told {
        Told::Unknown => None,
        Told::Live(ts) => Some((time_of_day(ts), theme.head)),
        Told::Delayed { ts, .. } => Some((time_of_day(ts), theme.bad)),
        Told::Silent(ts) if ts.trading_day() == now.trading_day() => {
            Some((format!("last {}", time_of_day(ts)), theme.head))
        }
        Told::Silent(ts) => Some((format!("last {} {}", ts.trading_day(), time_of_day(ts)), theme.bad)),
    }
}

fn link(board: &Board, told: Told, now: Timestamp) -> String {
    match &board.link {
        Link::Live => match told {
            Told::Delayed { ts, by } if ts.trading_day() == now.trading_day() => {
                format!("● delayed {}", age(by))
            }
            Told::Delayed { ts, .. } => format!("● replay {}", ts.trading_day()),
            _ => "● live".to_owned(),
        },
        Link::CatchingUp => "◐ catching up".to_owned(),
        Link::Lost { since, retry_at, .. } => {
            let lost = age(now.nanos_since(*since));
            // Rounded up, so that it counts 2, 1 and then says that it tries.
            match retry_at.nanos_since(now).max(0).div_euclid(1_000_000_000) {
                0 => format!("○ no link for {lost}: reconnecting"),
                seconds => format!("○ no link for {lost}: reconnecting in {} s", seconds + 1),
            }
        }
    }
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

fn duration(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "<1 ms".to_owned(),
        ms @ 1..1_000 => format!("{ms} ms"),
        ms @ 1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        ms => age(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000)),
    }
}

/// The filter that is being written; else what went wrong; else what the keys do.
fn footer(frame: &mut Frame, area: Rect, board: &Board, theme: &Theme) {
    let y = area.height - 1;
    if let Mode::Filter { text, error, .. } = &board.mode {
        // The end of a long filter is where a person types.
        let room = usize::from(area.width).saturating_sub(3);
        let skipped = text.chars().count().saturating_sub(room);
        let end: String = text.chars().skip(skipped).collect();
        let mut line = Line::from(vec![Span::styled("/", theme.key), Span::raw(end)]);
        let x = area.x + (line.width() as u16).min(area.width - 1);
        frame.set_cursor_position((x, area.y + y));
        match error {
            Some(error) => line.push_span(Span::styled(format!("   {error}"), theme.bad)),
            None => {
                line.push_span(Span::styled(
                    "   enter keeps it, esc goes back: AA  last<=5  %>1",
                    theme.quiet,
                ));
            }
        }
        return put(frame, area, y, line);
    }
    if let Link::Lost { reason, .. } = &board.link {
        return put(frame, area, y, Line::styled(format!(" {reason}"), theme.bad));
    }
    let mut line = Line::from("");
    for binding in BINDINGS.iter().filter(|binding| !binding.short.is_empty()) {
        let len = binding.keys.chars().count() + binding.short.chars().count() + 3;
        if line.width() + len > usize::from(area.width) {
            break;
        }
        line.push_span(Span::styled(format!(" {}", binding.keys), theme.key));
        line.push_span(Span::styled(format!(" {} ", binding.short), theme.quiet));
    }
    if let Some(gap) = &board.last_gap {
        let text = format!("  last gap: {gap}");
        if line.width() + text.chars().count() <= usize::from(area.width) {
            line.push_span(Span::styled(text, theme.quiet));
        }
    }
    put(frame, area, y, line);
}

fn help(frame: &mut Frame, area: Rect, theme: &Theme) {
    const SIGNS: [&str; 5] = [
        "▲ ▼  above, below the previous close",
        "↑ ↓  the last trade moved the price up, down",
        "‖    trading is halted",
        "dim  older than a minute, or the link is gone",
        "age  of the last price, by the market's clock",
    ];
    let height = (BINDINGS.len() + SIGNS.len() + 3) as u16;
    let place = area.centered(
        ratatui::layout::Constraint::Length(62.min(area.width)),
        ratatui::layout::Constraint::Length(height.min(area.height)),
    );
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(" stk watch ").title_bottom(" any key goes back ");
    let inside = block.inner(place);
    frame.render_widget(block, place);
    let mut y = 0;
    for binding in BINDINGS {
        let keys = Span::styled(format!(" {:<7}", binding.keys), theme.key);
        put(frame, inside, y, Line::from(vec![keys, Span::raw(binding.what)]));
        y += 1;
    }
    for sign in SIGNS {
        y += 1;
        put(frame, inside, y, Line::styled(format!(" {sign}"), theme.quiet));
    }
}

#[cfg(test)]
mod tests;
