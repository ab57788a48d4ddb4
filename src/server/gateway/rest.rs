//! REST: the last of every symbol and history, as Alpaca answers them, and what Alpaca lacks.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;

use super::Shared;
use super::coverage;
use super::pages;
use super::parameters::{Parameters, shown, symbol as symbol_of};
use super::snapshot::{bare_bar, bare_tick, members};
use crate::market::{Kind, Symbol, Tick, TimeRange, Timestamp, parse_from, parse_to};
use crate::server::metrics::GatewayMetrics;
use crate::tiering::history::format::{Format, RowWriter};
use crate::tiering::history::{AmendedBatch, History, HistoryError, HistoryQuery};
use crate::tiering::hot::HotEntry;
use crate::tiering::warm::Query;

/// When to ask again for what a store that is away holds, in seconds.
const AWAY_RETRY_S: u32 = 5;

/// An error as Alpaca's clients read it.
#[derive(Debug)]
pub(in crate::server) struct ApiError {
    status: StatusCode,
    message: String,
    /// When to ask again, in seconds, where that helps.
    retry_after_s: Option<u32>,
}

impl ApiError {
    pub(in crate::server) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: None }
    }

    /// What was asked for can't be had now. Every client tries again after 429, some after nothing else.
    pub(super) fn busy(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// The same for WebSocket handshakes and operator commands. WebSocket clients that reconnect by themselves
    /// do so after 503 and give up after 429; and a balancer tries another server.
    pub(in crate::server) fn unavailable(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// What was asked for can't be.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
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

pub(super) type Answer = Result<Response, ApiError>;

pub(super) fn json_body(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// What a stored kind is called in paths and answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
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

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Trades => "trades",
            Self::Quotes => "quotes",
            Self::Bars => "bars",
        }
    }

    fn singular(self) -> &'static str {
        self.plural().trim_end_matches('s')
    }

    pub(super) const fn kind(self) -> Kind {
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
    if what == "snapshots" {
        return snapshots(&shared, &latest_symbols(&parameters)?).await;
    }
    let stored = Stored::parse(&what)?;
    parameters.only(&[&["symbols"], &pages::PARAMETERS[..]].concat())?;
    pages::page(&shared, stored, parameters.some_symbols()?, &parameters, None).await
}

/// `/v2/stocks/{bars,trades,quotes}/latest`, `/v2/stocks/{symbol}/{bars,trades,quotes,snapshot}`.
pub(super) async fn one_or_latest(
    State(shared): State<Arc<Shared>>,
    Path((first, second)): Path<(String, String)>,
    parameters: Parameters,
) -> Answer {
    if second == "latest" {
        let stored = Stored::parse(&first)?;
        let symbols = latest_symbols(&parameters)?;
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
        body.push(b'}');
        body.extend_from_slice(parameters.currency_member().as_bytes());
        body.push(b'}');
        return Ok(json_body(body));
    }
    let symbol = symbol_of(&first)?;
    if second == "snapshot" {
        parameters.only(&["feed", "currency"])?;
        parameters.alpacas()?;
        let entry = entries(&shared, &[symbol]).await?.pop().flatten().unwrap_or_default();
        let mut parts = Vec::new();
        members(&entry, &mut parts);
        let comma = if parts.is_empty() { "" } else { "," };
        let head = format!("{{\"symbol\":\"{symbol}\"{}{comma}", parameters.currency_member());
        return Ok(json_body([head.as_bytes(), &parts, b"}"].concat()));
    }
    let stored = Stored::parse(&second)?;
    parameters.only(&pages::PARAMETERS)?;
    pages::page(&shared, stored, vec![symbol], &parameters, Some(symbol)).await
}

/// `/v2/stocks/{symbol}/{bars,trades,quotes}/latest`.
pub(super) async fn one_latest(
    State(shared): State<Arc<Shared>>,
    Path((symbol, what)): Path<(String, String)>,
    parameters: Parameters,
) -> Answer {
    let (symbol, stored) = (symbol_of(&symbol)?, Stored::parse(&what)?);
    parameters.only(&["feed", "currency"])?;
    parameters.alpacas()?;
    let entry = entries(&shared, &[symbol]).await?.pop().flatten().unwrap_or_default();
    let mut body = format!("{{\"symbol\":\"{symbol}\",\"{}\":", stored.singular()).into_bytes();
    if !stored.latest(&entry, &mut body) {
        let message = format!("no {} found for {symbol}", stored.singular());
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    }
    body.extend_from_slice(parameters.currency_member().as_bytes());
    body.push(b'}');
    Ok(json_body(body))
}

/// The symbols of a question about the last of each.
fn latest_symbols(parameters: &Parameters) -> Result<Vec<Symbol>, ApiError> {
    parameters.only(&["symbols", "feed", "currency"])?;
    parameters.alpacas()?;
    parameters.some_symbols()
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

pub(super) fn history_of(shared: &Shared) -> Result<&History, ApiError> {
    let missing = || ApiError::new(StatusCode::NOT_IMPLEMENTED, "this server has no history");
    shared.history.as_ref().ok_or_else(missing)
}

pub(super) fn refused(shared: &Shared, error: &HistoryError) -> ApiError {
    if error.is_damage() {
        shared.metrics.history_damaged.inc();
    }
    if error.is_passing() {
        tracing::warn!(reason = %error, "a request can't be answered now");
        return ApiError::busy(error.to_string(), AWAY_RETRY_S);
    }
    ApiError::internal(error)
}

/// The rows of many symbols that a request asks for; `None` for any other, and for one that is refused.
pub(super) fn rows_asked(uri: &Uri) -> Option<Query> {
    let parameters = Parameters::of(uri).ok()?;
    if uri.path() == "/v1/history" {
        let HistoryQuery { symbols, kind, range, .. } = history_query(&parameters).ok()?;
        return Some(Query::new(kind, Some(symbols).filter(|symbols| !symbols.is_empty()), range));
    }
    let stored = Stored::parse(uri.path().strip_prefix("/v2/stocks/")?).ok()?;
    let range = pages::range_asked(&parameters).ok()?;
    Some(Query::new(stored.kind(), Some(parameters.symbols().ok()?), range))
}

/// `/v1/history`: rows in any format, streamed. What they cover is in a header, since it is known
/// before the first row.
pub(super) async fn history(State(shared): State<Arc<Shared>>, parameters: Parameters) -> Answer {
    parameters.only(&["symbols", "kind", "timeframe", "from", "to", "limit", "format"])?;
    let query = history_query(&parameters)?;
    let format = parameters.parsed::<Format>("format")?.unwrap_or(Format::Json);
    let kind = query.kind;
    let answer = history_of(&shared)?.query_amended(query).await.map_err(|error| refused(&shared, &error))?;
    let covered = coverage::short(&answer.coverage);
    let writer = RowWriter::new(format, kind, Vec::new()).map_err(|error| ApiError::internal(&error))?;
    let rows = written(writer, format, answer.rows, shared.metrics.clone());
    let headers = [(header::CONTENT_TYPE, format.content_type().to_owned()), (coverage::HEADER, covered)];
    Ok((headers, Body::from_stream(rows)).into_response())
}

/// A question about history, as `/v1/history` and `/v1/coverage` are asked.
pub(super) fn history_query(parameters: &Parameters) -> Result<HistoryQuery, ApiError> {
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
    Ok(HistoryQuery { symbols: parameters.symbols()?, kind, timeframe, range, limit })
}

/// How far an answer has come.
enum Written {
    /// More rows may follow.
    Open(RowWriter<Vec<u8>>),
    /// It broke off: the connection is to be aborted.
    Broken(HistoryError),
    /// It is whole.
    Ended,
}

/// Rows as bytes, batch by batch. Formatting is work for a thread of its own. An answer that breaks off
/// ends with an error, on which the connection is aborted, so that no client takes it for whole; NDJSON
/// gets a last line that says why.
fn written(
    writer: RowWriter<Vec<u8>>,
    format: Format,
    rows: BoxStream<'static, Result<AmendedBatch, HistoryError>>,
    metrics: GatewayMetrics,
) -> BoxStream<'static, Result<Vec<u8>, std::io::Error>> {
    stream::try_unfold(
        (Written::Open(writer), rows, metrics),
        move |(written, mut rows, metrics)| async move {
            let mut writer = match written {
                Written::Open(writer) => writer,
                Written::Broken(error) => return Err(std::io::Error::other(error)),
                Written::Ended => return Ok(None),
            };
            let batch = match rows.try_next().await {
                Ok(batch) => batch,
                Err(error) => {
                    if error.is_damage() {
                        metrics.history_damaged.inc();
                    }
                    tracing::error!(reason = %error, "an answer of history broke off after it had begun");
                    if format != Format::Ndjson {
                        return Err(std::io::Error::other(error));
                    }
                    let last = format!("{}\n", json!({ "error": error.to_string() })).into_bytes();
                    return Ok(Some((last, (Written::Broken(error), rows, metrics))));
                }
            };
            let formatted = tokio::task::spawn_blocking(move || match batch {
                Some(batch) => {
                    writer.write(&batch).map_err(std::io::Error::other)?;
                    let bytes = std::mem::take(writer.get_mut());
                    Ok::<_, std::io::Error>((bytes, Written::Open(writer)))
                }
                None => Ok((writer.finish().map_err(std::io::Error::other)?, Written::Ended)),
            });
            let (bytes, written) = formatted.await.map_err(std::io::Error::other)??;
            Ok(Some((bytes, (written, rows, metrics))))
        },
    )
    .boxed()
}

/// `/v1/symbols`: every symbol seen, in byte order.
pub(super) async fn symbols(State(shared): State<Arc<Shared>>, parameters: Parameters) -> Answer {
    parameters.only(&[])?;
    let symbols = shared.hot.symbols().await.map_err(|error| ApiError::internal(&error))?;
    Ok(Json(json!({ "symbols": symbols })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_tells_which_rows_it_may_read() {
        let asked = |path: &str| rows_asked(&path.parse().unwrap());
        let day = TimeRange {
            from: "2026-11-20T05:00:00Z".parse().unwrap(),
            to: "2026-11-21T05:00:00Z".parse().unwrap(),
        };
        for path in [
            "/v1/history?kind=quotes&symbols=A,B&symbols=C&from=2026-11-20&to=2026-11-20",
            "/v2/stocks/quotes?symbols=B,A,C&start=2026-11-20&end=2026-11-20",
        ] {
            let query = asked(path).unwrap();
            assert_eq!(
                (query.kind, query.symbols.map(|symbols| symbols.len())),
                (Kind::Quote, Some(3)),
                "{path}"
            );
            assert_eq!(query.range, day, "{path}");
        }
        let all = asked("/v1/history").unwrap();
        assert_eq!((all.kind, all.symbols, all.range.from), (Kind::Trade, None, Timestamp::MIN));
        // Where the page before it began is in the token.
        let page = asked("/v2/stocks/bars?timeframe=1Min&symbols=A,B&page_token=x").unwrap();
        assert_eq!((page.kind, page.range.from), (Kind::Bar, Timestamp::MIN));
        assert!(asked("/v2/stocks/bars?timeframe=1Min&symbols=A,B").unwrap().range.from > Timestamp::MIN);
        for other in
            ["/v2/stocks/AAPL/trades", "/v1/coverage", "/v1/history?kind=x", "/v2/stocks/bars?symbols=%20"]
        {
            assert!(asked(other).is_none(), "{other}");
        }
    }
}
