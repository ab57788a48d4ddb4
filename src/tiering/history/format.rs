//! Rows as people and programs take them: tables, CSV, JSON, Parquet, Arrow.
//!
//! Everything streams: a writer holds one batch at most, of Parquet one row group.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::AmendedBatch;
use crate::market::{
    Bar, BatchError, Kind, Rows, Seq, Symbol, Tape, Tick, TickBatch, Timeframe, TradeTerms, TradeUpdate,
};
use crate::text::printable;
use crate::wire::{BarChannel, json};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns for a person; times in UTC.
    Table,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// One array of Alpaca's messages.
    Json,
    /// One of Alpaca's messages a line.
    Ndjson,
    /// A Parquet file.
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

/// Why a text is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no format: write table, csv, json, ndjson, parquet or arrow")]
pub struct FormatError(String);

impl Format {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::Table, Self::Csv, Self::Json, Self::Ndjson, Self::Parquet, Self::Arrow];

    /// The name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }

    /// The media type for HTTP.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Table => "text/plain; charset=utf-8",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// Whether what is written is text.
    pub const fn is_text(self) -> bool {
        !matches!(self, Self::Parquet | Self::Arrow)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| FormatError(text.chars().take(32).collect::<String>().escape_debug().to_string()))
    }
}

/// Why rows could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The rows can't be read.
    #[error(transparent)]
    Rows(#[from] BatchError),
}

/// Writes rows of one kind to an output in a format.
pub struct RowWriter<W: Write + Send> {
    kind: Kind,
    rows: u64,
    sink: Sink<W>,
}

enum Sink<W: Write + Send> {
    Text { format: Format, out: W, cells: Vec<String>, line: Vec<u8> },
    Table(Table<W>),
    Parquet(Box<ArrowWriter<W>>),
    Arrow(Box<StreamWriter<W>>),
}

impl<W: Write + Send> RowWriter<W> {
    /// Begins an output of rows of `kind`.
    pub fn new(format: Format, kind: Kind, mut out: W) -> Result<Self, WriteError> {
        let schema = schema(kind);
        let sink = match format {
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(1 << 17));
                let writer = ArrowWriter::try_new(out, schema, Some(properties.build()));
                Sink::Parquet(Box::new(writer.map_err(io::Error::other)?))
            }
            Format::Arrow => {
                Sink::Arrow(Box::new(StreamWriter::try_new(out, &schema).map_err(io::Error::other)?))
            }
            Format::Table => Sink::Table(Table::new(kind, out)),
            _ => {
                let (columns, mut line) = (columns(kind), Vec::new());
                match format {
                    Format::Csv => csv_line(&mut line, columns.iter().map(|column| column.name.to_owned())),
                    Format::Json => line.push(b'['),
                    _ => {}
                }
                out.write_all(&line)?;
                let cells = vec![String::new(); columns.len()];
                Sink::Text { format, out, cells, line }
            }
        };
        Ok(Self { kind, rows: 0, sink })
    }

    /// Writes rows.
    pub fn write(&mut self, amended: &AmendedBatch) -> Result<(), WriteError> {
        let batch = &amended.rows;
        debug_assert_eq!(batch.kind(), self.kind);
        match &mut self.sink {
            Sink::Parquet(writer) => writer.write(&record_batch(amended)?).map_err(io::Error::other)?,
            Sink::Arrow(writer) => writer.write(&record_batch(amended)?).map_err(io::Error::other)?,
            Sink::Text { format, out, cells, line } => {
                line.clear();
                let view = batch.rows()?;
                for row in 0..batch.len() {
                    match format {
                        Format::Json | Format::Ndjson => {
                            if *format == Format::Json && self.rows + row as u64 > 0 {
                                line.extend_from_slice(b",\n");
                            }
                            json_row(line, self.kind, &view, row)?;
                            json_update(line, amended.update(row));
                            if *format == Format::Ndjson {
                                line.push(b'\n');
                            }
                        }
                        _ => {
                            fill(cells, self.kind, &view, row, amended.update(row))?;
                            csv_line(line, cells.iter());
                        }
                    }
                }
                out.write_all(line)?;
            }
            Sink::Table(table) => table.write(amended)?,
        }
        self.rows += batch.len() as u64;
        Ok(())
    }

    /// What was written so far and can be taken out of a buffer.
    pub fn get_mut(&mut self) -> &mut W {
        match &mut self.sink {
            Sink::Text { out, .. } => out,
            Sink::Table(table) => &mut table.out,
            Sink::Parquet(writer) => writer.inner_mut(),
            Sink::Arrow(writer) => writer.get_mut(),
        }
    }

    /// Ends the output. Without this a JSON, Parquet or Arrow output is not whole.
    pub fn finish(self) -> Result<W, WriteError> {
        let mut out = match self.sink {
            Sink::Parquet(writer) => writer.into_inner().map_err(io::Error::other)?,
            Sink::Arrow(writer) => writer.into_inner().map_err(io::Error::other)?,
            Sink::Table(mut table) => {
                table.head();
                table.out.write_all(&table.line)?;
                table.out
            }
            Sink::Text { format, mut out, .. } => {
                if format == Format::Json {
                    out.write_all(b"]\n")?;
                }
                out
            }
        };
        out.flush()?;
        Ok(out)
    }
}

/// Rows by which the columns of a table are made wide enough before its head is written. They grow
/// with later rows.
const ROWS_MEASURED: usize = 1000;

/// A table being written. Its columns are as wide as what is in them.
struct Table<W> {
    kind: Kind,
    out: W,
    columns: Vec<Column>,
    cells: Vec<String>,
    line: Vec<u8>,
    has_head: bool,
}

impl<W: Write> Table<W> {
    fn new(kind: Kind, out: W) -> Self {
        let columns = columns(kind);
        let cells = vec![String::new(); columns.len()];
        Self { kind, out, columns, cells, line: Vec::new(), has_head: false }
    }

    /// Adds the head to the line, unless it was written before.
    fn head(&mut self) {
        self.line.clear();
        if !std::mem::replace(&mut self.has_head, true) {
            table_line(&mut self.line, &self.columns, self.columns.iter().map(Column::title));
        }
    }

    fn write(&mut self, amended: &AmendedBatch) -> Result<(), WriteError> {
        let view = amended.rows.rows()?;
        if !self.has_head {
            for row in 0..amended.rows.len().min(ROWS_MEASURED) {
                self.fill(&view, row, amended.update(row))?;
            }
        }
        // Of an answer without rows it is all there is, at the end.
        if !amended.rows.is_empty() {
            self.head();
        }
        for row in 0..amended.rows.len() {
            self.fill(&view, row, amended.update(row))?;
            table_line(&mut self.line, &self.columns, self.cells.iter());
        }
        self.out.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }

    /// Takes a row into the cells, and makes their columns as wide.
    fn fill(&mut self, rows: &Rows<'_>, row: usize, update: Option<TradeUpdate>) -> Result<(), BatchError> {
        fill(&mut self.cells, self.kind, rows, row, update)?;
        for (column, cell) in self.columns.iter_mut().zip(&self.cells).filter(|(column, _)| column.width > 0)
        {
            column.width = column.width.max(printable(cell).chars().count());
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    /// Width in a table, at least; 0 leaves the column out.
    width: usize,
    right: bool,
}

impl Column {
    fn title(&self) -> String {
        self.name.to_uppercase()
    }
}

const fn left(name: &'static str, width: usize) -> Column {
    Column { name, width, right: false }
}

const fn right(name: &'static str, width: usize) -> Column {
    Column { name, width, right: true }
}

const fn hidden(name: &'static str) -> Column {
    Column { name, width: 0, right: false }
}

/// The columns of `kind`; [`fill`] gives the values in the same order.
fn columns(kind: Kind) -> Vec<Column> {
    let own: &[Column] = match kind {
        Kind::Trade => &[
            right("price", 12),
            right("size", 8),
            left("exchange", 8),
            left("conditions", 10),
            right("id", 12),
            left("tape", 4),
        ],
        Kind::Quote => &[
            right("bid", 12),
            right("bid_size", 8),
            left("bid_exchange", 12),
            right("ask", 12),
            right("ask_size", 8),
            left("ask_exchange", 12),
            left("conditions", 10),
            left("tape", 4),
        ],
        Kind::Status => &[
            left("code", 4),
            left("message", 24),
            left("reason_code", 11),
            left("reason_message", 24),
            left("tape", 4),
        ],
        Kind::Cancel => &[
            right("price", 12),
            right("size", 8),
            right("id", 12),
            left("exchange", 8),
            left("action", 6),
            left("tape", 4),
        ],
        Kind::Correction => &[
            right("original_price", 14),
            right("original_size", 13),
            left("original_conditions", 19),
            right("original_id", 12),
            right("corrected_price", 15),
            right("corrected_size", 14),
            left("corrected_conditions", 20),
            right("corrected_id", 12),
            left("exchange", 8),
            left("tape", 4),
        ],
        Kind::Gap => &[left("kind", 10), left("source", 24), right("first", 12), right("last", 12)],
        Kind::PrevClose => &[right("price", 12)],
        Kind::Bar => &[
            left("timeframe", 9),
            right("open", 12),
            right("high", 12),
            right("low", 12),
            right("close", 12),
            right("volume", 12),
            right("trade_count", 11),
            right("vwap", 18),
        ],
    };
    let mut columns = vec![left("symbol", 8), left("ts", 30)];
    columns.extend(own);
    columns.extend((kind != Kind::Bar).then_some(hidden("recv_ts")));
    columns.push(hidden("seq"));
    columns.extend((kind == Kind::Trade).then_some(left(UPDATE, 9)));
    columns
}

/// The column that says what became of a trade.
const UPDATE: &str = "update";

/// The columns of `kind` in Parquet and Arrow: those of [`TickBatch`], and what became of a trade.
fn schema(kind: Kind) -> SchemaRef {
    let schema = TickBatch::schema(kind);
    if kind != Kind::Trade {
        return schema;
    }
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(UPDATE, dictionary, true)));
    Arc::new(Schema::new(fields))
}

/// The columns of `amended`, as [`schema`] has them.
fn record_batch(amended: &AmendedBatch) -> io::Result<RecordBatch> {
    let rows = amended.rows.record_batch();
    if amended.rows.kind() != Kind::Trade {
        return Ok(rows.clone());
    }
    let updates = (0..rows.num_rows()).map(|row| amended.update(row).map(TradeUpdate::name));
    let updates: DictionaryArray<Int32Type> = updates.collect();
    let columns = rows.columns().iter().cloned().chain([Arc::new(updates) as ArrayRef]);
    RecordBatch::try_new(schema(Kind::Trade), columns.collect()).map_err(io::Error::other)
}

/// Writes values into cells, keeping their buffers.
struct Cells<'a> {
    cells: std::slice::IterMut<'a, String>,
}

impl Cells<'_> {
    fn put(&mut self, value: impl fmt::Display) {
        if let Some(cell) = self.cells.next() {
            cell.clear();
            let _ = write!(cell, "{value}");
        }
    }

    fn key(&mut self, symbol: Option<Symbol>, ts: impl fmt::Display) {
        match symbol {
            Some(symbol) => self.put(symbol),
            None => self.put(""),
        }
        self.put(ts);
    }

    fn terms(&mut self, terms: &TradeTerms) {
        self.put(terms.price);
        self.put(terms.size);
        self.put(terms.conditions);
        self.put(terms.id);
    }
}

fn letter(tape: Tape) -> char {
    tape.code() as char
}

fn fill(
    cells: &mut [String],
    kind: Kind,
    rows: &Rows<'_>,
    row: usize,
    update: Option<TradeUpdate>,
) -> Result<(), BatchError> {
    let mut to = Cells { cells: cells.iter_mut() };
    if kind == Kind::Bar {
        let (seq, bar) = rows.bar(row)?;
        fill_bar(&mut to, seq, &bar);
        return Ok(());
    }
    let tick = rows.tick(row)?;
    to.key(tick.symbol(), tick.ts());
    match &tick {
        Tick::Trade(t) => {
            to.put(t.price);
            to.put(t.size);
            to.put(t.exchange);
            to.put(t.conditions);
            to.put(t.id);
            to.put(letter(t.tape));
        }
        Tick::Quote(q) => {
            to.put(q.bid);
            to.put(q.bid_size);
            to.put(q.bid_exchange);
            to.put(q.ask);
            to.put(q.ask_size);
            to.put(q.ask_exchange);
            to.put(q.conditions);
            to.put(letter(q.tape));
        }
        Tick::Status(s) => {
            [&s.code, &s.message, &s.reason_code, &s.reason_message]
                .into_iter()
                .for_each(|text| to.put(text));
            to.put(letter(s.tape));
        }
        Tick::Cancel(c) => {
            to.put(c.price);
            to.put(c.size);
            to.put(c.id);
            to.put(c.exchange);
            to.put(c.action as char);
            to.put(letter(c.tape));
        }
        Tick::Correction(c) => {
            to.terms(&c.original);
            to.terms(&c.corrected);
            to.put(c.exchange);
            to.put(letter(c.tape));
        }
        Tick::Gap(g) => {
            to.put(g.kind.name());
            to.put(&g.source);
            to.put(g.first);
            to.put(g.last);
        }
        Tick::PrevClose(p) => to.put(p.price),
    }
    to.put(tick.recv_ts());
    to.put(rows.seq(row));
    // Trades alone have a cell for it.
    to.put(update.map_or("", TradeUpdate::name));
    Ok(())
}

fn fill_bar(to: &mut Cells<'_>, seq: Seq, bar: &Bar) {
    to.key(Some(bar.symbol), bar.ts);
    to.put(bar.timeframe);
    [bar.open, bar.high, bar.low, bar.close].into_iter().for_each(|price| to.put(price));
    to.put(bar.volume);
    to.put(bar.trade_count);
    to.put(bar.vwap());
    to.put(seq);
}

fn csv_line(line: &mut Vec<u8>, cells: impl Iterator<Item = impl AsRef<str>>) {
    for (number, cell) in cells.enumerate() {
        if number > 0 {
            line.push(b',');
        }
        let cell = cell.as_ref();
        if cell.contains([',', '"', '\n', '\r']) {
            line.push(b'"');
            line.extend_from_slice(cell.replace('"', "\"\"").as_bytes());
            line.push(b'"');
        } else {
            line.extend_from_slice(cell.as_bytes());
        }
    }
    line.extend_from_slice(b"\r\n");
}

fn table_line(line: &mut Vec<u8>, columns: &[Column], cells: impl Iterator<Item = impl AsRef<str>>) {
    let start = line.len();
    for (column, cell) in columns.iter().zip(cells).filter(|(column, _)| column.width > 0) {
        if line.len() > start {
            line.extend_from_slice(b"  ");
        }
        // Texts come from feeds: nothing of them may steer a terminal.
        let (cell, width) = (printable(cell.as_ref()), column.width);
        let _ = if column.right { write!(line, "{cell:>width$}") } else { write!(line, "{cell:<width$}") };
    }
    while line.len() > start && line.ends_with(b" ") {
        line.pop();
    }
    line.push(b'\n');
}

/// Adds what became of a trade to its message, which `line` ends with.
pub(crate) fn json_update(line: &mut Vec<u8>, update: Option<TradeUpdate>) {
    if let Some(update) = update
        && line.pop_if(|last| *last == b'}').is_some()
    {
        line.extend_from_slice(format!(",\"u\":\"{}\"}}", update.name()).as_bytes());
    }
}

fn json_row(line: &mut Vec<u8>, kind: Kind, rows: &Rows<'_>, row: usize) -> Result<(), BatchError> {
    if kind == Kind::Bar {
        let (_, bar) = rows.bar(row)?;
        let channel = match bar.timeframe.stored() {
            Timeframe::Day => BarChannel::Daily,
            _ => BarChannel::Minute,
        };
        json::encode_bar(channel, &bar, line);
    } else {
        json::encode_tick(&rows.tick(row)?, line);
    }
    Ok(())
}
