//! The filter: one grammar for the board and the command line.
//!
//! Terms apart by spaces, all of which must hold: a part of the symbol (`AA`), or a comparison of a
//! column with a number (`last<=5`, `%>1`, `volume>=10000`).

use std::str::FromStr;

use super::state::{Column, Row};
use crate::market::Timestamp;

/// A filter of rows. The empty one lets everything through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Term {
    Part(String),
    Compare(Column, Comparison, f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{term}\" is no filter: {reason}")]
pub struct FilterError {
    term: String,
    reason: String,
}

impl Filter {
    /// The filter as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `row` is let through. A value that is not known yet fulfils no comparison.
    pub(super) fn admits(&self, row: &Row, now: Timestamp) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Part(part) => row.symbol.as_str().contains(part.as_str()),
            Term::Compare(column, comparison, bound) => {
                row.number(*column, now).is_some_and(|value| match comparison {
                    Comparison::Less => value < *bound,
                    Comparison::LessOrEqual => value <= *bound,
                    Comparison::More => value > *bound,
                    Comparison::MoreOrEqual => value >= *bound,
                    Comparison::Equal => (value - bound).abs() < 1e-9,
                })
            }
        })
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let terms = text.split_whitespace().map(term).collect::<Result<_, _>>()?;
        Ok(Self { terms, text: text.trim().to_owned() })
    }
}

fn term(text: &str) -> Result<Term, FilterError> {
    let refused = |reason: String| FilterError { term: text.escape_debug().to_string(), reason };
    let Some(at) = text.find(['<', '>', '=']) else { return Ok(Term::Part(text.to_uppercase())) };
    let rest = &text[at..];
    let (comparison, len) = match rest.as_bytes() {
        [b'<', b'=', ..] => (Comparison::LessOrEqual, 2),
        [b'>', b'=', ..] => (Comparison::MoreOrEqual, 2),
        [b'<', ..] => (Comparison::Less, 1),
        [b'>', ..] => (Comparison::More, 1),
        _ => (Comparison::Equal, 1),
    };
    let name = &text[..at];
    let column = Column::from_name(name).filter(|column| *column != Column::Symbol).ok_or_else(|| {
        let names: Vec<_> = Column::ALL[1..]
            .iter()
            .filter(|column| Column::from_name(column.name()).is_some())
            .map(|column| column.name())
            .collect();
        refused(format!("there is no number `{name}`; there are {}", names.join(", ")))
    })?;
    let number =
        rest[len..].parse().map_err(|_| refused(format!("write a number after `{}`", &rest[..len])))?;
    Ok(Term::Compare(column, comparison, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_all_hold() {
        let mut row = Row::new("AAPL".parse().unwrap());
        row.last = Some("190.45".parse().unwrap());
        row.prev_close = Some("180".parse().unwrap());
        let admits = |text: &str| text.parse::<Filter>().unwrap().admits(&row, Timestamp::MIN);
        for text in ["", "aa", "AAPL last>=190.45", "%>5 %<6", "change=10.45", "last>1 APL"] {
            assert!(admits(text), "{text}");
        }
        for text in ["MSFT", "last<190", "volume>0 TSLA", "bid>1", "aa %>6"] {
            assert!(!admits(text), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text: &str| text.parse::<Filter>().unwrap_err().to_string();
        assert_eq!(refused("AA last<"), "\"last<\" is no filter: write a number after `<`");
        assert!(
            refused("price>1")
                .starts_with("\"price>1\" is no filter: there is no number `price`; there are last, ")
        );
        assert!(refused("symbol=1").contains("there is no number `symbol`"));
    }
}
