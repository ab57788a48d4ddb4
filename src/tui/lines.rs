//! The stream as lines: where there is no terminal, or where a program reads.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::client::stream::{Event, Stream, SymbolSnapshot};
use crate::market::{Bar, Price, Symbol, Tick, Timestamp};
use crate::text::{printable, printable_lines};
use crate::wire::{BarChannel, Message, json};

/// How a message becomes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line, as Alpaca's stream has them.
    Json,
    /// Comma-separated values with a header. Times in UTC, prices exact.
    Csv,
    /// For people: times of New York, what is known at the beginning first.
    Line,
}

/// Why there are no more lines.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// They can't be written; a reader that went away is a broken pipe.
    #[error("writing lines: {0}")]
    Write(#[source] io::Error),
    /// The stream ended by itself, which it never does but by a fault of this program.
    #[error("the stream of prices ended")]
    StreamEnded,
}

/// The columns of [`Format::Csv`].
const CSV_HEADER: &str = "type,symbol,time,price,size,exchange,conditions,id,bid,bid_size,ask,ask_size,\
    open,high,low,close,volume,trades,vwap,text\n";
/// Events taken in before they are written.
const EVENTS_AT_ONCE_MAX: usize = 64;

/// stdout, written without holding up the signals that end a program.
pub fn stdout() -> io::Result<tokio::fs::File> {
    Ok(tokio::fs::File::from_std(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
}

/// Writes what `stream` tells to `out`, a line a message, until `until` is done; gives its result.
/// What is no data (a link lost, a gap of the connection) goes to stderr.
///
/// On a terminal, JSON and CSV are escaped too, so that nothing from a feed steers it; programs get
/// the bytes as they are.
///
/// A reader that is slow makes the stream wait; the server then sees a slow client.
pub async fn run<T>(
    mut stream: Stream,
    format: Format,
    mut out: impl AsyncWrite + Unpin,
    is_terminal: bool,
    until: impl Future<Output = T>,
) -> Result<T, LinesError> {
    let mut lines = Vec::with_capacity(16 << 10);
    if format == Format::Csv {
        lines.extend_from_slice(CSV_HEADER.as_bytes());
    }
    let writing = async {
        loop {
            if is_terminal && let Cow::Owned(safe) = printable_lines(&String::from_utf8_lossy(&lines)) {
                lines = safe.into_bytes();
            }
            out.write_all(&lines).await.map_err(LinesError::Write)?;
            out.flush().await.map_err(LinesError::Write)?;
            lines.clear();
            let event = stream.next().await.ok_or(LinesError::StreamEnded)?;
            tell(&event, format, &mut lines);
            for _ in 1..EVENTS_AT_ONCE_MAX {
                match stream.try_next() {
                    Some(event) => tell(&event, format, &mut lines),
                    None => break,
                }
            }
        }
    };
    tokio::select! {
        biased;
        result = until => Ok(result),
        failed = writing => failed,
    }
}

fn tell(event: &Event, format: Format, out: &mut Vec<u8>) {
    match event {
        Event::Messages(messages, _) => messages.iter().for_each(|message| line(message, format, out)),
        Event::Snapshot(snapshot) if format == Format::Line => snapshot_line(snapshot, out),
        Event::Disconnected { reason, retry_in } => {
            talk(&format!("no link: {reason}; trying again in {:.1} s", retry_in.as_secs_f64()));
        }
        Event::Connected { resumed: true } => talk("connected again: what was missed follows"),
        Event::CaughtUp => talk("caught up"),
        Event::Gap(what) => talk(&format!("gap: {what}")),
        Event::Lag { ms } => talk(&format!("{ms} ms behind")),
        Event::Connected { resumed: false } | Event::Snapshot(_) | Event::Heartbeat => {}
    }
}

/// Talk is lost where nobody listens to stderr: no reason to end a stream of data.
fn talk(text: &str) {
    let _ = writeln!(io::stderr().lock(), "stk: {}", printable(text));
}

/// Appends `message` with its line's end; what is no data makes no line.
fn line(message: &Message, format: Format, out: &mut Vec<u8>) {
    match (message, format) {
        (Message::Control(_), _) => {}
        (Message::Tick(tick), Format::Json) => {
            json::encode_tick(tick, out);
            out.push(b'\n');
        }
        (Message::Bar(channel, bar), Format::Json) => {
            json::encode_bar(*channel, bar, out);
            out.push(b'\n');
        }
        (Message::Tick(tick), Format::Csv) => csv_tick(tick).write(out),
        (Message::Bar(channel, bar), Format::Csv) => csv_bar(*channel, bar).write(out),
        (message, Format::Line) => {
            if let Some(text) = in_words(message) {
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// A row of [`CSV_HEADER`]'s columns; what a message does not have stays empty.
#[derive(Default)]
struct CsvRow {
    kind: &'static str,
    symbol: Option<Symbol>,
    ts: Timestamp,
    price: String,
    size: String,
    exchange: String,
    conditions: String,
    id: String,
    quote: [String; 4],
    bar: [String; 7],
    text: String,
}

impl CsvRow {
    fn write(self, out: &mut Vec<u8>) {
        let symbol = self.symbol.map(|symbol| symbol.to_string()).unwrap_or_default();
        let ts = self.ts.to_string();
        let first =
            [self.kind, &symbol, &ts, &self.price, &self.size, &self.exchange, &self.conditions, &self.id];
        let rest = self.quote.iter().chain(&self.bar).chain([&self.text]).map(String::as_str);
        for (at, field) in first.into_iter().chain(rest).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            // RFC 4180: quotes around what would break the row, doubled inside.
            if field.contains([',', '"', '\n', '\r']) {
                out.extend_from_slice(format!("\"{}\"", field.replace('"', "\"\"")).as_bytes());
            } else {
                out.extend_from_slice(field.as_bytes());
            }
        }
        out.push(b'\n');
    }
}

fn csv_tick(tick: &Tick) -> CsvRow {
    let row = CsvRow { symbol: tick.symbol(), ts: tick.ts(), kind: tick.kind().name(), ..CsvRow::default() };
    match tick {
        Tick::Trade(trade) => CsvRow {
            price: trade.price.to_string(),
            size: trade.size.to_string(),
            exchange: trade.exchange.to_string(),
            conditions: trade.conditions.to_string(),
            id: trade.id.to_string(),
            ..row
        },
        Tick::Quote(quote) => {
            let quote_columns = [
                quote.bid.to_string(),
                quote.bid_size.to_string(),
                quote.ask.to_string(),
                quote.ask_size.to_string(),
            ];
            CsvRow { conditions: quote.conditions.to_string(), quote: quote_columns, ..row }
        }
        Tick::Cancel(cancel) => CsvRow {
            price: cancel.price.to_string(),
            size: cancel.size.to_string(),
            exchange: cancel.exchange.to_string(),
            id: cancel.id.to_string(),
            ..row
        },
        Tick::Correction(correction) => CsvRow {
            price: correction.corrected.price.to_string(),
            size: correction.corrected.size.to_string(),
            exchange: correction.exchange.to_string(),
            conditions: correction.corrected.conditions.to_string(),
            id: correction.corrected.id.to_string(),
            text: format!("corrects {}", correction.original.id),
            ..row
        },
        Tick::Status(status) => CsvRow { text: format!("{} {}", status.code, status.message), ..row },
        Tick::Gap(gap) => {
            let text = format!("{} {} {}-{}", gap.source, gap.kind.name(), gap.first, gap.last);
            CsvRow { text, ..row }
        }
        Tick::PrevClose(close) => CsvRow { price: close.price.to_string(), ..row },
    }
}

fn csv_bar(channel: BarChannel, bar: &Bar) -> CsvRow {
    let columns = [
        bar.open.to_string(),
        bar.high.to_string(),
        bar.low.to_string(),
        bar.close.to_string(),
        bar.volume.to_string(),
        bar.trade_count.to_string(),
        bar.vwap().to_string(),
    ];
    CsvRow {
        kind: bar_name(channel),
        symbol: Some(bar.symbol),
        ts: bar.ts,
        bar: columns,
        ..CsvRow::default()
    }
}

fn bar_name(channel: BarChannel) -> &'static str {
    match channel {
        BarChannel::Minute => "bar",
        BarChannel::Updated => "updated_bar",
        BarChannel::Daily => "daily_bar",
    }
}

/// A line for people; none for what has its place on the board only.
fn in_words(message: &Message) -> Option<String> {
    let (ts, symbol, what) = match message {
        Message::Tick(tick) => {
            let symbol = tick.symbol().map(|symbol| symbol.to_string()).unwrap_or_default();
            let what = match tick {
                Tick::Trade(trade) => {
                    let trade_words = trade_words(trade.price, trade.size);
                    format!("{trade_words}  {} {}", trade.exchange, trade.conditions)
                }
                Tick::Quote(quote) => quote_words(quote.bid, quote.bid_size, quote.ask, quote.ask_size),
                Tick::Status(status) => {
                    format!("status  {} {} {}", status.code, status.message, status.reason_message)
                }
                Tick::Cancel(cancel) => {
                    format!("cancel  {:.2} × {}  trade {}", cancel.price, cancel.size, cancel.id)
                }
                Tick::Correction(correction) => {
                    let (from, to) = (correction.original, correction.corrected);
                    format!("correct {:.2} × {} to {:.2} × {}", from.price, from.size, to.price, to.size)
                }
                Tick::Gap(gap) => {
                    format!("gap     {} {} {}-{}", gap.source, gap.kind.name(), gap.first, gap.last)
                }
                Tick::PrevClose(close) => format!("close   {:.2} before", close.price),
            };
            (tick.ts(), symbol, what)
        }
        Message::Bar(channel, bar) => {
            let Bar { open, high, low, close, volume, .. } = bar;
            let name = bar_name(*channel);
            let what = format!("{name} o {open:.2} h {high:.2} l {low:.2} c {close:.2} v {volume}");
            (bar.ts, bar.symbol.to_string(), what)
        }
        Message::Control(_) => return None,
    };
    Some(format!("{}  {symbol:<8} {}\n", clock(ts), printable(what.trim_end())))
}

fn trade_words(price: Price, size: u32) -> String {
    format!("trade   {price:>10.2} × {size}")
}

fn quote_words(bid: Price, bid_size: u32, ask: Price, ask_size: u32) -> String {
    format!("quote   {bid:>10.2} × {ask:<10.2}  {bid_size} × {ask_size}")
}

fn snapshot_line(snapshot: &SymbolSnapshot, out: &mut Vec<u8>) {
    let mut text = String::new();
    if let Some((price, size, ts)) = snapshot.trade {
        let words = trade_words(price, size);
        let _ = writeln!(text, "{}  {:<8} {words}  before", clock(ts), snapshot.symbol.as_str());
    }
    if let Some((bid, bid_size, ask, ask_size, ts)) = snapshot.quote {
        let words = quote_words(bid, bid_size, ask, ask_size);
        let _ = writeln!(text, "{}  {:<8} {words}  before", clock(ts), snapshot.symbol.as_str());
    }
    out.extend_from_slice(text.as_bytes());
}

/// The time of day in New York, to the millisecond.
fn clock(ts: Timestamp) -> String {
    let civil = ts.civil_in_new_york();
    let (hour, minute, second) = (civil.hour(), civil.minute(), civil.second());
    format!("{hour:02}:{minute:02}:{second:02}.{:03}", civil.millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &str = r#"[
        {"T":"t","S":"AAPL","i":7,"x":"V","p":190.4,"s":100,"c":["@","T"],"t":"2026-11-20T14:30:00.25Z","z":"C"},
        {"T":"q","S":"AAPL","bx":"V","bp":190.39,"bs":200,"ax":"V","ap":190.41,"as":300,"c":["R"],"t":"2026-11-20T14:30:01Z","z":"C"},
        {"T":"s","S":"AAPL","sc":"H","sm":"Halted, \"news\"","rc":"","rm":"","t":"2026-11-20T14:30:02Z","z":"C"},
        {"T":"c","S":"AAPL","x":"V","oi":7,"op":190.4,"os":100,"oc":["@"],"ci":9,"cp":190.5,"cs":90,"cc":["@"],"t":"2026-11-20T14:30:03Z","z":"C"},
        {"T":"x","S":"AAPL","i":9,"x":"V","p":190.5,"s":90,"a":"C","t":"2026-11-20T14:30:04Z","z":"C"},
        {"T":"gap","kind":"missed","source":"iex/1","first":4,"last":6,"t":"2026-11-20T14:30:05Z"},
        {"T":"pc","S":"AAPL","p":189,"t":"2026-11-20T14:30:06Z"},
        {"T":"d","S":"AAPL","o":190,"h":192,"l":189.5,"c":191,"v":1000,"n":10,"vw":190.75,"t":"2026-11-20T05:00:00Z"},
        {"T":"heartbeat","n":1}
    ]"#;

    fn shown(format: Format) -> String {
        let mut out = Vec::new();
        for message in json::decode(FRAME.as_bytes(), Timestamp::MIN).unwrap() {
            line(&message, format, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_lines_are_the_messages_themselves() {
        let lines = shown(Format::Json);
        assert_eq!(lines.lines().count(), 8, "a heartbeat is no data");
        let frame = format!("[{}]", lines.trim_end().replace('\n', ","));
        let before = json::decode(FRAME.as_bytes(), Timestamp::MIN).unwrap();
        assert_eq!(json::decode(frame.as_bytes(), Timestamp::MIN).unwrap(), before[..8]);
    }

    #[test]
    fn csv_rows_have_every_column_and_are_quoted() {
        let lines = shown(Format::Csv);
        insta::assert_snapshot!(lines);
        let columns = CSV_HEADER.split(',').count();
        for line in lines.lines().filter(|line| !line.contains('"')) {
            assert_eq!(line.split(',').count(), columns, "{line}");
        }
    }

    #[test]
    fn nothing_from_the_wire_steers_a_terminal() {
        let frame = r#"[{"T":"s","S":"AAPL","sc":"H","sm":"\u001b[2J\u009bred\nX","rc":"","rm":"","t":"2026-11-20T14:30:02Z","z":"C"}]"#;
        let mut out = Vec::new();
        for message in json::decode(frame.as_bytes(), Timestamp::MIN).unwrap() {
            line(&message, Format::Line, &mut out);
        }
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "09:30:02.000  AAPL     status  H \\u001b[2J\\u009bred\\nX\n");
    }

    #[test]
    fn people_read_times_of_new_york() {
        insta::assert_snapshot!(shown(Format::Line));
        let snapshot = SymbolSnapshot {
            symbol: "AAPL".parse().unwrap(),
            trade: Some(("190.5".parse().unwrap(), 10, "2026-11-20T15:00:00Z".parse().unwrap())),
            quote: None,
            volume: None,
            prev_close: None,
            status: None,
        };
        let mut out = Vec::new();
        tell(&Event::Snapshot(Box::new(snapshot)), Format::Line, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "10:00:00.000  AAPL     trade       190.50 × 10  before\n");
    }
}
