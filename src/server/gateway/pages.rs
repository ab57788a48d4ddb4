//! Alpaca's history in pages: `/v2/stocks/{trades,quotes,bars}` and the same of one symbol.
//!
//! A page's token names the row that the next page begins with and carries a checksum over the whole
//! question, so that it is good for that question alone.

use axum::response::IntoResponse;
use futures_util::TryStreamExt;
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::Shared;
use super::coverage;
use super::parameters::{Parameters, shown};
use super::rest::{Answer, ApiError, Stored, history_of, json_body, refused};
use super::snapshot::{bare_bar, bare_tick};
use crate::market::{Seq, Symbol, TimeRange, Timeframe, Timestamp, parse_from, parse_to};
use crate::tiering::history::format::json_update;
use crate::tiering::history::{AmendedBatch, Coverage, HistoryQuery};

/// Rows of a page, at most, and where no limit is given.
const LIMIT_MAX: usize = 10_000;

/// The parameters of a question about history, beside `symbols`.
pub(super) const PARAMETERS: [&str; 11] = [
    "timeframe",
    "start",
    "end",
    "limit",
    "page_token",
    "adjustment",
    "asof",
    "feed",
    "currency",
    "sort",
    // Sent by Alpaca's client for JavaScript.
    "page_limit",
];

/// The question whose answer comes in pages.
struct Question {
    stored: Stored,
    timeframe: Option<Timeframe>,
    /// Sorted, without repeats.
    symbols: Vec<Symbol>,
    range: TimeRange,
}

/// The row that a page begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageToken {
    symbol: Symbol,
    ts: Timestamp,
    seq: Seq,
    /// Where the question's range begins: where no `start` is given it is that of the first page's day.
    from: Timestamp,
}

impl PageToken {
    /// Printed as `2.from.symbol.ts.partition.offset.index.checksum`, with the symbol's place in the
    /// list of those asked for.
    fn print(&self, question: &Question) -> String {
        let at = question.symbols.partition_point(|symbol| *symbol < self.symbol);
        let Self { ts, seq: Seq { partition, offset, index }, from, .. } = self;
        let text = format!("2.{}.{at}.{}.{partition}.{offset}.{index}", from.nanos(), ts.nanos());
        let checksum = question.checksum(&text);
        format!("{text}.{checksum:016x}")
    }

    /// Reads the token of a further page of `question`, and moves the beginning of its range to where
    /// the first page had it if `from` is not given.
    fn parse(text: &str, question: &mut Question, from_is_given: bool) -> Result<Self, ApiError> {
        if text.starts_with("1.") {
            return Err(ApiError::invalid(format!(
                "page_token \"{}\" is of an older version of this server; ask for the first page again",
                shown(text)
            )));
        }
        let token = Self::read(text, question, from_is_given);
        token.ok_or_else(|| {
            ApiError::invalid(format!(
                "page_token \"{}\" was not issued for this request; repeat symbols, start, end and timeframe \
                 of the first page, on the same path",
                shown(text)
            ))
        })
    }

    fn read(text: &str, question: &mut Question, from_is_given: bool) -> Option<Self> {
        let (checked, checksum) = text.rsplit_once('.')?;
        let mut parts = checked.strip_prefix("2.")?.split('.');
        let from = Timestamp::from_nanos(parts.next()?.parse().ok()?);
        if !from_is_given {
            question.range.from = from;
        }
        let symbol = *question.symbols.get(parts.next()?.parse::<usize>().ok()?)?;
        let ts = Timestamp::from_nanos(parts.next()?.parse().ok()?);
        let seq = Seq {
            partition: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            index: parts.next()?.parse().ok()?,
        };
        let is_good = parts.next().is_none() && format!("{:016x}", question.checksum(checked)) == checksum;
        is_good.then_some(Self { symbol, ts, seq, from })
    }
}

impl Question {
    /// Over all that a row of the answer depends on, and `token`.
    fn checksum(&self, token: &str) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(self.stored.plural().as_bytes());
        hash.update(self.timeframe.map(|timeframe| timeframe.to_string()).unwrap_or_default().as_bytes());
        for time in [self.range.from, self.range.to] {
            hash.update(&time.nanos().to_le_bytes());
        }
        for symbol in &self.symbols {
            hash.update(symbol.as_bytes());
            hash.update(b",");
        }
        hash.update(token.as_bytes());
        hash.digest()
    }

    /// The same, of `symbols` alone and of `range`.
    fn query(&self, symbols: &[Symbol], range: TimeRange) -> HistoryQuery {
        let (kind, timeframe) = (self.stored.kind(), self.timeframe);
        HistoryQuery { symbols: symbols.to_vec(), kind, timeframe, range, limit: None }
    }
}

/// Rows of a page that is asked for.
fn limit(parameters: &Parameters) -> Result<usize, ApiError> {
    let mut limit = LIMIT_MAX;
    for name in ["limit", "page_limit"] {
        if let Some(rows) = parameters.parsed::<usize>(name)? {
            if !(1..=LIMIT_MAX).contains(&rows) {
                return Err(ApiError::invalid(format!("{name}={rows} is not within 1 to {LIMIT_MAX}")));
            }
            limit = limit.min(rows);
        }
    }
    Ok(limit)
}

/// A page of Alpaca's history; `single` is the symbol of a path that names one.
pub(super) async fn page(
    shared: &Shared,
    stored: Stored,
    symbols: Vec<Symbol>,
    parameters: &Parameters,
    single: Option<Symbol>,
) -> Answer {
    parameters.alpacas()?;
    let limit = limit(parameters)?;
    let timeframe = parameters.parsed::<Timeframe>("timeframe")?;
    match (stored, timeframe) {
        (Stored::Bars, None) => return Err(ApiError::invalid("timeframe is required")),
        (Stored::Trades | Stored::Quotes, Some(_)) => {
            return Err(ApiError::invalid("timeframe is for bars alone"));
        }
        _ => {}
    }
    let mut question = Question { stored, timeframe, symbols, range: range(parameters)? };
    let from_is_given = parameters.some("start").is_some();
    let token = parameters
        .some("page_token")
        .map(|token| PageToken::parse(token, &mut question, from_is_given))
        .transpose()?;
    if question.range.is_empty() {
        let (from, end) = (question.range.from, parameters.get("end").unwrap_or_default());
        return Err(ApiError::invalid(format!("start={from} is after end={}", shown(end))));
    }
    let history = history_of(shared)?;
    let mut queries = Vec::new();
    let rest = question.symbols.partition_point(|symbol| token.is_some_and(|token| *symbol <= token.symbol));
    if let Some(token) = token {
        let range = TimeRange { from: token.ts.max(question.range.from), ..question.range };
        queries.push(question.query(&[token.symbol], range));
    }
    if rest < question.symbols.len() {
        queries.push(question.query(&question.symbols[rest..], question.range));
    }
    let mut page = Page {
        stored,
        single,
        from: question.range.from,
        body: Vec::new(),
        symbol: None,
        rows: 0,
        next: None,
    };
    let mut covered = Coverage::default();
    'queries: for query in queries {
        let answer = history.query_amended(query).await.map_err(|error| refused(shared, &error))?;
        covered.add(answer.coverage);
        let mut rows = answer.rows;
        while let Some(batch) = rows.try_next().await.map_err(|error| refused(shared, &error))? {
            page.add(&batch, limit, token).map_err(|error| ApiError::internal(&error))?;
            if page.next.is_some() {
                break 'queries;
            }
        }
    }
    let headers = [(coverage::HEADER, coverage::short(&covered))];
    let next = page.next.map(|next| next.print(&question));
    Ok((headers, json_body(page.finish(next, parameters.currency_member()))).into_response())
}

/// The range that is asked for, which may be empty; from the beginning of today where no start is given.
fn range(parameters: &Parameters) -> Result<TimeRange, ApiError> {
    let time = |name: &str, parse: fn(&str) -> Result<Timestamp, crate::market::TimeError>| {
        let text = parameters.get(name).filter(|text| !text.is_empty());
        text.map(parse).transpose().map_err(|error| ApiError::invalid(format!("{name}: {error}")))
    };
    let from = time("start", parse_from)?.unwrap_or_else(|| Timestamp::now().trading_day().start());
    // Alpaca's end belongs to the range; a bare day is whole.
    let is_day = parameters.get("end").is_some_and(|end| end.len() == 10);
    let to = time("end", parse_to)?.map(|to| if is_day { to } else { to.saturating_add_nanos(1) });
    Ok(TimeRange { from, to: to.unwrap_or(Timestamp::MAX) })
}

/// The range that is asked for; of a page that follows another, whatever its token may mean.
pub(super) fn range_asked(parameters: &Parameters) -> Result<TimeRange, ApiError> {
    let range = range(parameters)?;
    let is_of_token = parameters.some("page_token").is_some() && parameters.some("start").is_none();
    Ok(if is_of_token { TimeRange { from: Timestamp::MIN, ..range } } else { range })
}

/// A page under way.
struct Page {
    stored: Stored,
    single: Option<Symbol>,
    /// Where the question's range begins.
    from: Timestamp,
    body: Vec<u8>,
    /// Whose rows are being written.
    symbol: Option<Symbol>,
    rows: usize,
    next: Option<PageToken>,
}

impl Page {
    fn add(
        &mut self,
        batch: &AmendedBatch,
        limit: usize,
        from: Option<PageToken>,
    ) -> Result<(), crate::market::BatchError> {
        let rows = batch.rows.rows()?;
        for row in 0..batch.rows.len() {
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
                self.next = Some(PageToken { symbol, ts, seq, from: self.from });
                return Ok(());
            }
            self.begin(symbol);
            if let Some(bar) = bar {
                bare_bar(&bar, &mut self.body);
            } else {
                bare_tick(&rows.tick(row)?, &mut self.body);
                json_update(&mut self.body, batch.update(row));
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

    /// The whole page, with the token of the next one if there is one, and further members of the
    /// answer.
    fn finish(self, next: Option<String>, members: &str) -> Vec<u8> {
        let name = self.stored.plural();
        let next = next.map_or(Value::Null, Value::from);
        let (head, tail) = if let Some(symbol) = self.single {
            let tail = format!("],\"symbol\":\"{symbol}\",\"next_page_token\":{next}{members}}}");
            (format!("{{\"{name}\":["), tail)
        } else {
            let end = if self.symbol.is_some() { "]" } else { "" };
            (format!("{{\"{name}\":{{"), format!("{end}}},\"next_page_token\":{next}{members}}}"))
        };
        [head.as_bytes(), &self.body, tail.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(symbols: &[&str]) -> Question {
        let symbols = symbols.iter().map(|symbol| symbol.parse().unwrap()).collect();
        let range = TimeRange { from: Timestamp::from_nanos(7), to: Timestamp::MAX };
        Question { stored: Stored::Trades, timeframe: None, symbols, range }
    }

    #[test]
    fn a_page_token_is_good_for_its_question_alone() {
        let symbols = ["A.B.C", "AAPL", "ACAQ+", "BRK.B"];
        let others = [
            Question { stored: Stored::Quotes, ..question(&symbols) },
            Question { timeframe: Some(Timeframe::Day), ..question(&symbols) },
            Question { range: TimeRange { from: Timestamp::MIN, to: Timestamp::MAX }, ..question(&symbols) },
            Question {
                range: TimeRange { from: Timestamp::from_nanos(7), to: Timestamp::from_nanos(9) },
                ..question(&symbols)
            },
            question(&symbols[..3]),
            question(&[]),
        ];
        for symbol in symbols {
            let seq = Seq { partition: 3, offset: 1 << 40, index: 4095 };
            let (symbol, from) = (symbol.parse().unwrap(), Timestamp::from_nanos(7));
            let token = PageToken { symbol, ts: Timestamp::from_nanos(-5), seq, from };
            let mut own = question(&symbols);
            let text = token.print(&own);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)), "{text}");
            assert_eq!(PageToken::parse(&text, &mut own, true).unwrap(), token);
            for mut other in others.iter().map(|other| Question { symbols: other.symbols.clone(), ..*other })
            {
                assert!(PageToken::parse(&text, &mut other, true).is_err());
            }
            // A later page may be asked for on a later day than the first.
            let mut later = question(&symbols);
            later.range.from = Timestamp::from_nanos(8);
            assert_eq!(PageToken::parse(&text, &mut later, false).unwrap(), token);
            assert_eq!(later.range.from, from);
            let altered = text.replacen("4095", "4096", 1);
            assert!(PageToken::parse(&altered, &mut own, true).is_err());
        }
        for text in ["", "1", "1.0.0.0.0.A", "2.0.0.0.0.0.0", "2.x.0.0.0.0.0.0", "2.0.9.0.0.0.0.0", "3.0"] {
            assert!(PageToken::parse(text, &mut question(&symbols), true).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_page_is_an_empty_map_and_null() {
        let page = |single| Page {
            stored: Stored::Trades,
            single,
            from: Timestamp::MIN,
            body: Vec::new(),
            symbol: None,
            rows: 0,
            next: None,
        };
        assert_eq!(page(None).finish(None, ""), br#"{"trades":{},"next_page_token":null}"#);
        let single = page(Some("AAPL".parse().unwrap())).finish(None, ",\"currency\":\"USD\"");
        assert_eq!(single, br#"{"trades":[],"symbol":"AAPL","next_page_token":null,"currency":"USD"}"#);
    }
}
