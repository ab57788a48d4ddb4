//! REST: the last of every symbol and history, as Alpaca answers them, and what Alpaca lacks.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::Shared;
use super::snapshot::{bare_bar, bare_tick, members};
use crate::market::{
    Kind, Seq, Symbol, Tick, TickBatch, TimeRange, Timeframe, Timestamp, parse_from, parse_to,
};
use crate::tiering::history::format::{Format, RowWriter};
use crate::tiering::history::{ArchivedCoverage, Coverage, History, HistoryError, HistoryQuery};
use crate::tiering::hot::HotEntry;

/// The most symbols of one request.
const SYMBOLS_MAX: usize = 10_000;
const LIMIT_MAX: usize = 10_000;
/// When to ask again for what a store that is away holds, in seconds.
const AWAY_RETRY_S: u32 = 5;
/// The header that says what an answer covers, as JSON.
const COVERAGE: header::HeaderName = header::HeaderName::from_static("stk-coverage");
/// Objects that can't be read now that the header with the coverage lists; the rest is counted.
const HEADER_FROZEN_MAX: usize = 8;
/// Faults of the stores that the header with the coverage lists.
const HEADER_BROKEN_MAX: usize = 2;
/// Gaps that the header with the coverage lists; the rest is counted.
const HEADER_GAPS_MAX: usize = 16;

/// An error as Alpaca's clients read it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    /// When to ask again, in seconds, where that helps.
    retry_after_s: Option<u32>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: None }
    }

    /// What was asked for can't be had now. Every client tries again after 429, some after nothing else.
    pub(super) fn busy(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// What was asked for can't be.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(reason = %error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // Alpaca's codes are the status and four digits more.
        let code = u32::from(self.status.as_u16()) * 100_000 + 10_000;
        let retry_after = self.retry_after_s.map(|seconds| [(header::RETRY_AFTER, seconds.to_string())]);
        let body = Json(json!({ "code": code, "message": self.message }));
        match retry_after {
            Some(retry_after) => (self.status, retry_after, body).into_response(),
            None => (self.status, body).into_response(),
        }
    }
}

/// The query of an address.
#[derive(Debug, Default)]
pub(super) struct Parameters(pub(super) Vec<(String, String)>);

impl Parameters {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(other) => {
                Err(ApiError::invalid(format!("{name}=\"{}\" is not true or false", shown(other))))
            }
        }
    }

    fn symbols(&self) -> Result<Vec<Symbol>, ApiError> {
        let names = self.get("symbols").unwrap_or_default().split(',').filter(|name| !name.is_empty());
        let symbols: Result<Vec<Symbol>, _> = names.map(|name| name.trim().parse()).collect();
        let mut symbols = symbols.map_err(|error| ApiError::invalid(format!("{error}")))?;
        symbols.sort_unstable();
        symbols.dedup();
        if symbols.len() > SYMBOLS_MAX {
            return Err(ApiError::invalid(format!("{} symbols; at most {SYMBOLS_MAX} fit", symbols.len())));
        }
        Ok(symbols)
    }

    fn some_symbols(&self) -> Result<Vec<Symbol>, ApiError> {
        match self.symbols()? {
            symbols if symbols.is_empty() => Err(ApiError::invalid("symbols is required")),
            symbols => Ok(symbols),
        }
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let value = self.get(name).filter(|value| !value.is_empty());
        value.map(str::parse).transpose().map_err(|error| ApiError::invalid(format!("{name}: {error}")))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect::<String>().escape_debug().to_string()
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|error| ApiError::invalid(error.to_string()))
    }
}

type Answer = Result<Response, ApiError>;

fn json_body(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// What a stored kind is called in paths and answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    Trades,
    Quotes,
    Bars,
}

impl Stored {
    fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "trades" => Ok(Self::Trades),
            "quotes" => Ok(Self::Quotes),
            "bars" => Ok(Self::Bars),
            _ => Err(not_found()),
        }
    }

    const fn plural(self) -> &'static str {
        match self {
            Self::Trades => "trades",
            Self::Quotes => "quotes",
            Self::Bars => "bars",
        }
    }

    fn singular(self) -> &'static str {
        self.plural().trim_end_matches('s')
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Trades => Kind::Trade,
            Self::Quotes => Kind::Quote,
            Self::Bars => Kind::Bar,
        }
    }

    /// The last one in an entry, appended; whether there is one.
    fn latest(self, entry: &HotEntry, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Trades => entry.trade.map(|trade| bare_tick(&Tick::Trade(trade), out)).is_some(),
            Self::Quotes => entry.quote.map(|quote| bare_tick(&Tick::Quote(quote), out)).is_some(),
            Self::Bars => entry
                .minute_bar
                .filter(crate::market::Bar::has_price)
                .map(|bar| bare_bar(&bar, out))
                .is_some(),
        }
    }
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "endpoint not found")
}

/// Anything else.
pub(super) async fn fallback() -> ApiError {
    not_found()
}

async fn entries(shared: &Shared, symbols: &[Symbol]) -> Result<Vec<Option<HotEntry>>, ApiError> {
    shared.hot.get(symbols).await.map_err(|error| ApiError::internal(&error))
}

/// `/v2/stocks/{bars,trades,quotes,snapshots}`.
pub(super) async fn many(
    State(shared): State<Arc<Shared>>,
    Path(what): Path<String>,
    parameters: Parameters,
) -> Answer {
    let symbols = parameters.some_symbols()?;
    if what == "snapshots" {
        return snapshots(&shared, &symbols).await;
    }
    pages(&shared, Stored::parse(&what)?, symbols, &parameters, None).await
}

/// `/v2/stocks/{bars,trades,quotes}/latest`, `/v2/stocks/{symbol}/{bars,trades,quotes,snapshot}`.
pub(super) async fn one_or_latest(
    State(shared): State<Arc<Shared>>,
    Path((first, second)): Path<(String, String)>,
    parameters: Parameters,
) -> Answer {
    if second == "latest" {
        let stored = Stored::parse(&first)?;
        let symbols = parameters.some_symbols()?;
        let found = entries(&shared, &symbols).await?;
        let mut body = format!("{{\"{}\":{{", stored.plural()).into_bytes();
        let mut is_first = true;
        for (symbol, entry) in symbols.iter().zip(found) {
            let mut last = Vec::new();
            if stored.latest(&entry.unwrap_or_default(), &mut last) {
                let comma = if std::mem::take(&mut is_first) { "" } else { "," };
                body.extend_from_slice(format!("{comma}\"{symbol}\":").as_bytes());
                body.extend_from_slice(&last);
            }
        }
        body.extend_from_slice(b"}}");
        return Ok(json_body(body));
    }
    let symbol = symbol_of(&first)?;
    if second == "snapshot" {
        let entry = entries(&shared, &[symbol]).await?.pop().flatten().unwrap_or_default();
        let mut parts = Vec::new();
        members(&entry, &mut parts);
        let comma = if parts.is_empty() { "" } else { "," };
        return Ok(json_body(
            [format!("{{\"symbol\":\"{symbol}\"{comma}").as_bytes(), &parts, b"}"].concat(),
        ));
    }
    pages(&shared, Stored::parse(&second)?, vec![symbol], &parameters, Some(symbol)).await
}

/// `/v2/stocks/{symbol}/{bars,trades,quotes}/latest`.
pub(super) async fn one_latest(
    State(shared): State<Arc<Shared>>,
    Path((symbol, what)): Path<(String, String)>,
) -> Answer {
    let (symbol, stored) = (symbol_of(&symbol)?, Stored::parse(&what)?);
    let entry = entries(&shared, &[symbol]).await?.pop().flatten().unwrap_or_default();
    let mut body = format!("{{\"symbol\":\"{symbol}\",\"{}\":", stored.singular()).into_bytes();
    if !stored.latest(&entry, &mut body) {
        let message = format!("no {} found for {symbol}", stored.singular());
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    }
    body.push(b'}');
    Ok(json_body(body))
}

fn symbol_of(text: &str) -> Result<Symbol, ApiError> {
    text.parse().map_err(|error| ApiError::invalid(format!("{error}")))
}

async fn snapshots(shared: &Shared, symbols: &[Symbol]) -> Answer {
    let mut body = vec![b'{'];
    for (symbol, entry) in symbols.iter().zip(entries(shared, symbols).await?) {
        let Some(entry) = entry else { continue };
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(format!("\"{symbol}\":{{").as_bytes());
        members(&entry, &mut body);
        body.push(b'}');
    }
    body.push(b'}');
    Ok(json_body(body))
}

/// Where a page begins: printed as `1.ts.partition.offset.index.symbol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageToken {
    symbol: Symbol,
    ts: Timestamp,
    seq: Seq,
}

impl PageToken {
    fn print(&self) -> String {
        let Self { symbol, ts, seq } = self;
        format!("1.{}.{}.{}.{}.{symbol}", ts.nanos(), seq.partition, seq.offset, seq.index)
    }

    fn parse(text: &str) -> Result<Self, ApiError> {
        let mut parts = text.splitn(6, '.');
        let mut part = || parts.next().unwrap_or_default();
        let token = (part() == "1").then(|| {
            let ts = Timestamp::from_nanos(part().parse().ok()?);
            let seq = Seq {
                partition: part().parse().ok()?,
                offset: part().parse().ok()?,
                index: part().parse().ok()?,
            };
            Some(Self { ts, seq, symbol: part().parse().ok()? })
        });
        token.flatten().ok_or_else(|| {
            ApiError::invalid(format!("page_token \"{}\" is none of this server's", shown(text)))
        })
    }
}

fn history_of(shared: &Shared) -> Result<&History, ApiError> {
    let missing = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "this server has no history");
    shared.history.as_ref().ok_or_else(missing)
}

fn refused(error: &HistoryError) -> ApiError {
    if error.is_passing() {
        tracing::warn!(reason = %error, "a request can't be answered now");
        return ApiError::busy(error.to_string(), AWAY_RETRY_S);
    }
    ApiError::internal(error)
}

/// A page of Alpaca's history; `single` is the symbol of a path that names one.
async fn pages(
    shared: &Shared,
    stored: Stored,
    symbols: Vec<Symbol>,
    parameters: &Parameters,
    single: Option<Symbol>,
) -> Answer {
    if let Some(sort) = parameters.get("sort").filter(|sort| *sort != "asc") {
        return Err(ApiError::invalid(format!(
            "sort=\"{}\" is not served; rows are sorted asc",
            shown(sort)
        )));
    }
    let limit = parameters.parsed::<usize>("limit")?.unwrap_or(LIMIT_MAX);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!("limit={limit} is not within 1 to {LIMIT_MAX}")));
    }
    let timeframe = match stored {
        Stored::Bars => Some(
            parameters
                .parsed::<Timeframe>("timeframe")?
                .ok_or_else(|| ApiError::invalid("timeframe is required"))?,
        ),
        _ => None,
    };
    let range = alpaca_range(parameters)?;
    let token = parameters.get("page_token").filter(|token| !token.is_empty());
    let token = token.map(PageToken::parse).transpose()?;
    let history = history_of(shared)?;
    let query = |symbols: Vec<Symbol>, range: TimeRange| HistoryQuery {
        symbols,
        kind: stored.kind(),
        timeframe,
        range,
        limit: None,
    };
    let mut queries = Vec::new();
    let rest: Vec<Symbol> =
        symbols.into_iter().filter(|symbol| token.is_none_or(|token| *symbol > token.symbol)).collect();
    if let Some(token) = token {
        queries.push(query(vec![token.symbol], TimeRange { from: token.ts.max(range.from), ..range }));
    }
    if !rest.is_empty() {
        queries.push(query(rest, range));
    }
    let mut page = Page { stored, single, body: Vec::new(), symbol: None, rows: 0, next: None };
    let mut covered = Coverage::default();
    'queries: for query in queries {
        let answer = history.query(query).await.map_err(|error| refused(&error))?;
        covered.add(answer.coverage);
        let mut rows = answer.rows;
        while let Some(batch) = rows.try_next().await.map_err(|error| refused(&error))? {
            page.add(&batch, limit, token).map_err(|error| ApiError::internal(&error))?;
            if page.next.is_some() {
                break 'queries;
            }
        }
    }
    let headers = [(COVERAGE, coverage_json(&covered).to_string())];
    Ok((headers, json_body(page.finish())).into_response())
}

fn alpaca_range(parameters: &Parameters) -> Result<TimeRange, ApiError> {
    let time = |name: &str, parse: fn(&str) -> Result<Timestamp, crate::market::TimeError>| {
        let text = parameters.get(name).filter(|text| !text.is_empty());
        text.map(parse).transpose().map_err(|error| ApiError::invalid(format!("{name}: {error}")))
    };
    let from = time("start", parse_from)?.unwrap_or_else(|| Timestamp::now().trading_day().start());
    // Alpaca's end belongs to the range; a bare day is whole.
    let is_day = parameters.get("end").is_some_and(|end| end.len() == 10);
    let to = time("end", parse_to)?.map(|to| if is_day { to } else { to.saturating_add_nanos(1) });
    let range = TimeRange { from, to: to.unwrap_or(Timestamp::MAX) };
    if range.is_empty() {
        let end = parameters.get("end").unwrap_or_default();
        return Err(ApiError::invalid(format!("start={from} is after end={}", shown(end))));
    }
    Ok(range)
}

/// A page under way.
struct Page {
    stored: Stored,
    single: Option<Symbol>,
    body: Vec<u8>,
    /// Whose rows are being written.
    symbol: Option<Symbol>,
    rows: usize,
    next: Option<PageToken>,
}

impl Page {
    fn add(
        &mut self,
        batch: &TickBatch,
        limit: usize,
        from: Option<PageToken>,
    ) -> Result<(), crate::market::BatchError> {
        let rows = batch.rows()?;
        for row in 0..batch.len() {
            let (Some(symbol), ts, seq) = (rows.symbol(row), rows.ts(row), rows.seq(row)) else { continue };
            let is_before = self.stored != Stored::Bars
                && from.is_some_and(|from| symbol == from.symbol && (ts, seq) < (from.ts, from.seq));
            if is_before {
                continue;
            }
            let bar = match self.stored {
                Stored::Bars => Some(rows.bar(row)?.1).filter(crate::market::Bar::has_price),
                _ => None,
            };
            if self.stored == Stored::Bars && bar.is_none() {
                continue;
            }
            if self.rows == limit {
                self.next = Some(PageToken { symbol, ts, seq });
                return Ok(());
            }
            self.begin(symbol);
            match bar {
                Some(bar) => bare_bar(&bar, &mut self.body),
                None => bare_tick(&rows.tick(row)?, &mut self.body),
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// Makes ready for a row of `symbol`.
    fn begin(&mut self, symbol: Symbol) {
        let is_same = self.symbol == Some(symbol);
        if is_same {
            self.body.push(b',');
        } else {
            let end = if self.symbol.is_some() { "]," } else { "" };
            let start = if self.single.is_some() { String::new() } else { format!("{end}\"{symbol}\":[") };
            self.body.extend_from_slice(start.as_bytes());
            self.symbol = Some(symbol);
        }
    }

    fn finish(self) -> Vec<u8> {
        let name = self.stored.plural();
        let next = self.next.map_or(Value::Null, |next| next.print().into());
        let (head, tail) = if let Some(symbol) = self.single {
            let tail = format!("],\"symbol\":\"{symbol}\",\"next_page_token\":{next}}}");
            (format!("{{\"{name}\":["), tail)
        } else {
            let end = if self.symbol.is_some() { "]" } else { "" };
            (format!("{{\"{name}\":{{"), format!("{end}}},\"next_page_token\":{next}}}"))
        };
        [head.as_bytes(), &self.body, tail.as_bytes()].concat()
    }
}

/// `/v1/history`: rows in any format, streamed. What they cover stands in the header
/// `stk-coverage`, as JSON, since it is known before the first row.
pub(super) async fn history(State(shared): State<Arc<Shared>>, parameters: Parameters) -> Answer {
    const KNOWN: [&str; 9] =
        ["symbols", "kind", "timeframe", "from", "to", "limit", "format", "key", "secret"];
    if let Some((name, _)) = parameters.0.iter().find(|(name, _)| !KNOWN.contains(&name.as_str())) {
        return Err(ApiError::invalid(format!("there is no parameter \"{}\"", shown(name))));
    }
    let kind = parameters.get("kind").unwrap_or("trades");
    let known = Kind::from_name(kind).or_else(|| Kind::from_name(kind.strip_suffix('s')?));
    let kind = known.ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        ApiError::invalid(format!("kind \"{}\" is none of {}", shown(kind), names.join(", ")))
    })?;
    let timeframe = parameters.parsed("timeframe")?;
    if timeframe.is_some() && kind != Kind::Bar {
        return Err(ApiError::invalid("timeframe is for bars alone"));
    }
    let format = parameters.parsed::<Format>("format")?.unwrap_or(Format::Json);
    let time = |name: &str, parse: fn(&str) -> Result<Timestamp, crate::market::TimeError>| {
        parameters
            .get(name)
            .map(parse)
            .transpose()
            .map_err(|error| ApiError::invalid(format!("{name}: {error}")))
    };
    let from = time("from", parse_from)?.unwrap_or(Timestamp::MIN);
    let to = time("to", parse_to)?.unwrap_or(Timestamp::MAX);
    let range = TimeRange { from, to };
    if range.is_empty() {
        return Err(ApiError::invalid(format!("from={from} is not before to={to}")));
    }
    let limit = parameters.parsed("limit")?;
    let symbols = parameters.symbols()?;
    let query = HistoryQuery { symbols, kind, timeframe, range, limit };
    let answer = history_of(&shared)?.query(query).await.map_err(|error| refused(&error))?;
    let coverage = coverage_json(&answer.coverage).to_string();
    let writer = RowWriter::new(format, kind, Vec::new()).map_err(|error| ApiError::internal(&error))?;
    let rows = written(writer, answer.rows);
    let headers = [(header::CONTENT_TYPE, format.content_type().to_owned()), (COVERAGE, coverage)];
    Ok((headers, Body::from_stream(rows)).into_response())
}

/// What an answer covers.
fn coverage_json(coverage: &Coverage) -> Value {
    let partitions: Vec<Value> = coverage
        .partitions
        .iter()
        .map(|part| {
            json!({
                "partition": part.partition,
                "warm_next_offset": part.warm_next_offset,
                "log_next_offset": part.log_next_offset,
            })
        })
        .collect();
    let missing: Vec<Value> = coverage
        .missing
        .iter()
        .map(|part| {
            json!({
                "partition": part.partition,
                "first_offset": part.first_offset,
                "next_offset": part.next_offset,
            })
        })
        .collect();
    let listed = coverage.gaps.len().min(HEADER_GAPS_MAX);
    let gaps: Vec<Value> = coverage.gaps[..listed]
        .iter()
        .map(|gap| {
            json!({
                "symbol": gap.symbol,
                // Headers are ASCII.
                "source": gap.source.escape_default().to_string(),
                "kind": gap.kind.name(),
                "first": gap.first,
                "last": gap.last,
                "ts": gap.ts.to_string(),
            })
        })
        .collect();
    let not_listed = coverage.gaps_not_listed + (coverage.gaps.len() - listed) as u64;
    let mut covered = json!({
        "partitions": partitions,
        "missing": missing,
        "gaps": gaps,
        "gaps_not_listed": not_listed,
        "archived": archived_json(&coverage.archived),
    });
    if !coverage.broken.is_empty() {
        // Headers are ASCII.
        let broken = coverage.broken.iter().take(HEADER_BROKEN_MAX);
        covered["broken"] = broken.map(|broken| broken.escape_default().to_string()).collect();
    }
    covered
}

/// What of an answer came from the archive, and what could not.
fn archived_json(archived: &ArchivedCoverage) -> Value {
    let listed = archived.frozen.len().min(HEADER_FROZEN_MAX);
    let frozen: Vec<Value> = archived.frozen[..listed]
        .iter()
        .map(|frozen| {
            json!({
                "kind": frozen.kind.name(),
                "date": frozen.day.to_string(),
                // Headers are ASCII.
                "key": frozen.key.escape_default().to_string(),
                "bytes": frozen.bytes,
                "class": frozen.class.name(),
                "restoring": frozen.restoring,
            })
        })
        .collect();
    let not_listed = archived.frozen_not_listed + (archived.frozen.len() - listed) as u64;
    json!({
        "days": archived.days.len(),
        "first_day": archived.days.first().map(ToString::to_string),
        "last_day": archived.days.last().map(ToString::to_string),
        "files": archived.files,
        "frozen": frozen,
        "frozen_not_listed": not_listed,
        "restore": archived.restore_commands(),
        "unasked": archived.unasked.as_ref().map(|reason| reason.escape_default().to_string()),
    })
}

/// Rows as bytes, batch by batch. Formatting is work for a thread of its own.
fn written(
    writer: RowWriter<Vec<u8>>,
    rows: BoxStream<'static, Result<TickBatch, HistoryError>>,
) -> BoxStream<'static, Result<Vec<u8>, std::io::Error>> {
    stream::try_unfold((Some(writer), rows), |(writer, mut rows)| async move {
        let Some(mut writer) = writer else { return Ok(None) };
        let batch = rows.try_next().await.map_err(std::io::Error::other)?;
        let formatted = tokio::task::spawn_blocking(move || match batch {
            Some(batch) => {
                writer.write(&batch).map_err(std::io::Error::other)?;
                let bytes = std::mem::take(writer.get_mut());
                Ok::<_, std::io::Error>((bytes, Some(writer)))
            }
            None => Ok((writer.finish().map_err(std::io::Error::other)?, None)),
        });
        let (bytes, writer) = formatted.await.map_err(std::io::Error::other)??;
        Ok(Some((bytes, (writer, rows))))
    })
    .boxed()
}

/// `/v1/symbols`: every symbol seen, in byte order.
pub(super) async fn symbols(State(shared): State<Arc<Shared>>) -> Answer {
    let symbols = shared.hot.symbols().await.map_err(|error| ApiError::internal(&error))?;
    Ok(Json(json!({ "symbols": symbols })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens_come_back_as_they_went() {
        for symbol in ["AAPL", "BRK.B", "A.B.C"] {
            let seq = Seq { partition: 3, offset: 1 << 40, index: 4095 };
            let token = PageToken { symbol: symbol.parse().unwrap(), ts: Timestamp::from_nanos(-5), seq };
            assert_eq!(PageToken::parse(&token.print()).unwrap(), token);
        }
        for text in ["", "1", "2.0.0.0.0.A", "1.0.0.0.0.", "1.x.0.0.0.A"] {
            assert!(PageToken::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_page_is_an_empty_map_and_null() {
        let page = |single| Page {
            stored: Stored::Trades,
            single,
            body: Vec::new(),
            symbol: None,
            rows: 0,
            next: None,
        };
        assert_eq!(page(None).finish(), br#"{"trades":{},"next_page_token":null}"#);
        let single = page(Some("AAPL".parse().unwrap())).finish();
        assert_eq!(single, br#"{"trades":[],"symbol":"AAPL","next_page_token":null}"#);
    }
}
