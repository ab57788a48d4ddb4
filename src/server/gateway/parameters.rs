//! The query of an address: read once, and nothing of it dropped in silence.
//!
//! A parameter that an endpoint does not take is refused, and so is one that is given twice: a client
//! must not get an answer to another question than it asked.

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;

use super::rest::ApiError;
use super::subscription::Channel;
use crate::market::Symbol;

/// The most symbols of one request.
const SYMBOLS_MAX: usize = 10_000;

/// Parameters that show a key, where a client can't send headers. Every endpoint takes them.
const KEYS: [&str; 2] = ["key", "secret"];

/// The names of Alpaca's feeds, and this server's own. There is one log behind all of them.
const FEEDS: [&str; 7] = ["stk", "sip", "iex", "otc", "delayed_sip", "boats", "overnight"];

/// The query of an address.
#[derive(Debug, Default)]
pub(super) struct Parameters(pub(super) Vec<(String, String)>);

impl Parameters {
    /// Those of `uri`.
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let query = axum::extract::Query::try_from_uri(uri);
        query.map(|query| Self(query.0)).map_err(|error| ApiError::invalid(error.to_string()))
    }

    /// Checks that every parameter is one of `known`, or shows a key, and stands once. Lists of
    /// symbols may stand more than once and are joined.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        for (at, (name, _)) in self.0.iter().enumerate() {
            if !known.contains(&name.as_str()) && !KEYS.contains(&name.as_str()) {
                let takes = match known {
                    [] => "no parameters".to_owned(),
                    known => known.join(", "),
                };
                return Err(ApiError::invalid(format!(
                    "there is no parameter \"{}\" here; this endpoint takes {takes}",
                    shown(name)
                )));
            }
            if !is_list(name) && self.0[..at].iter().any(|(before, _)| before == name) {
                return Err(ApiError::invalid(format!("the parameter \"{name}\" stands twice")));
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// As [`Parameters::get`], where an empty value counts as none.
    pub(super) fn some(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
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

    /// The names in all lists called `name`; `None` where there is no such list.
    pub(super) fn list(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        self.get(name)?;
        let lists = self.0.iter().filter(move |(key, _)| key == name);
        Some(lists.flat_map(|(_, value)| value.split(',')).filter(|name| !name.is_empty()))
    }

    /// The symbols asked for, sorted, without repeats.
    pub(super) fn symbols(&self) -> Result<Vec<Symbol>, ApiError> {
        let names = self.list("symbols").into_iter().flatten();
        let mut symbols = names.map(symbol).collect::<Result<Vec<Symbol>, _>>()?;
        symbols.sort_unstable();
        symbols.dedup();
        if symbols.len() > SYMBOLS_MAX {
            return Err(ApiError::invalid(format!("{} symbols; at most {SYMBOLS_MAX} fit", symbols.len())));
        }
        Ok(symbols)
    }

    /// As [`Parameters::symbols`], of which there must be one at least.
    pub(super) fn some_symbols(&self) -> Result<Vec<Symbol>, ApiError> {
        match self.symbols()? {
            symbols if symbols.is_empty() => Err(ApiError::invalid("symbols is required")),
            symbols => Ok(symbols),
        }
    }

    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let value = self.some(name);
        value.map(str::parse).transpose().map_err(|error| ApiError::invalid(format!("{name}: {error}")))
    }

    /// Checks those of Alpaca's parameters that have one value here: prices are raw and in dollars,
    /// rows ascend, and symbols are those of the day the ticks are of.
    pub(super) fn alpacas(&self) -> Result<(), ApiError> {
        self.served("adjustment", &["raw"], "prices are served raw, as adjustment=raw")?;
        self.served("currency", &["USD"], "prices are served in US dollars, as currency=USD")?;
        self.served("sort", &["asc"], "rows are sorted asc")?;
        self.served("feed", &FEEDS, &format!("feeds are {}", FEEDS.join(", ")))?;
        // Alpaca maps a symbol to those that its company had before: nothing is mapped here.
        self.served("asof", &["-"], "symbols are those of the day of each row, as asof=-")
    }

    fn served(&self, name: &str, values: &[&str], otherwise: &str) -> Result<(), ApiError> {
        match self.some(name) {
            Some(value) if !values.contains(&value) => {
                Err(ApiError::invalid(format!("{name}=\"{}\" is not served; {otherwise}", shown(value))))
            }
            _ => Ok(()),
        }
    }

    /// The last member of an answer that names its currency, where that was asked for.
    pub(super) fn currency_member(&self) -> &'static str {
        if self.some("currency").is_some() { ",\"currency\":\"USD\"" } else { "" }
    }
}

fn is_list(name: &str) -> bool {
    name == "symbols" || Channel::NAMED.iter().any(|(_, channel)| *channel == name)
}

/// A symbol of an address.
pub(super) fn symbol(name: &str) -> Result<Symbol, ApiError> {
    name.parse().map_err(|error| {
        // "ACAQ " is most likely a plus that was not escaped, and never the symbol "ACAQ".
        let hint = if name.contains(' ') { "; write a plus as %2B, and no blanks" } else { "" };
        ApiError::invalid(format!("{error}{hint}"))
    })
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).collect::<String>().escape_debug().to_string()
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of(&parts.uri)
    }
}
