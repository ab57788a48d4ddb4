//! The resume token: where a whole connection stands, all symbols and channels.

use std::fmt;
use std::str::FromStr;

/// Where to go on in one partition: the first tick not yet seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The record's offset.
    pub offset: u64,
    /// The tick's index in the record.
    pub index: u32,
}

/// Which log a token is of, and which generation of it: what was handed out and not yet durable when
/// one ended may be gone in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogId {
    /// Of the log; no other has it.
    pub id: u64,
    /// A random number of its own, at least 2^32. Those of logs made before this was so count from 0.
    pub generation: u64,
}

/// The newest record that was read for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Its partition.
    pub partition: u16,
    /// Its offset.
    pub offset: u64,
    /// Its [`checksum`](super::record::checksum).
    pub checksum: u32,
}

/// One position for each partition of a log. Printed as `2.`, the log's id in hexadecimal, `.`, the
/// generation, `.` and, joined by `_`, the positions as `offset` or `offset-index`: safe in a URL
/// and in an SSE id.
///
/// In a log without generations nothing but its records tells that it was put back from a copy. A token of such
/// a log names the newest record too: it begins with `3.` and ends with `.`, the record's partition, `-`, its
/// offset, `-` and its checksum in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    log: LogId,
    positions: Vec<Position>,
    newest: Option<Newest>,
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It never was one.
    #[error(
        "\"{0}\" is no resume token: give one as the stream sent it, or an instant such as 2025-01-31T14:30:00Z"
    )]
    NoToken(String),
    /// It is from before tokens told which log they are of.
    #[error(
        "\"{0}\" is a resume token of version 1, which does not tell its log: begin anew with a snapshot, or give an instant such as 2025-01-31T14:30:00Z"
    )]
    Version1(String),
}

/// The most partitions a log has.
const PARTITIONS_MAX: usize = 64;
const ID_DIGITS_MAX: usize = 16;

impl Token {
    /// A token of `log` with one position for each partition, in their order.
    pub fn new(log: LogId, positions: Vec<Position>) -> Self {
        Self { log, positions, newest: None }
    }

    /// The same, which names the newest record that was read for it.
    #[must_use]
    pub fn naming(self, newest: Option<Newest>) -> Self {
        Self { newest, ..self }
    }

    /// Which log it is of.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// The positions, by partition.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// The newest record that was read for it, if it names one.
    pub fn newest(&self) -> Option<Newest> {
        self.newest
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.newest.is_some() { 3 } else { 2 };
        write!(f, "{version}.{:x}.{}.", self.log.id, self.log.generation)?;
        for (at, position) in self.positions.iter().enumerate() {
            let separator = if at > 0 { "_" } else { "" };
            write!(f, "{separator}{}", position.offset)?;
            if position.index > 0 {
                write!(f, "-{}", position.index)?;
            }
        }
        if let Some(Newest { partition, offset, checksum }) = self.newest {
            write!(f, ".{partition}-{offset}-{checksum:x}")?;
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(64).collect::<String>().escape_debug().to_string();
        let parsed = match text.split_once('.') {
            Some(("1", rest)) if positions(rest).is_some() => return Err(TokenError::Version1(shown())),
            Some(("2", rest)) => version_2(rest),
            Some(("3", rest)) => version_3(rest),
            _ => None,
        };
        parsed.ok_or_else(|| TokenError::NoToken(shown()))
    }
}

fn version_2(text: &str) -> Option<Token> {
    let (id, rest) = text.split_once('.')?;
    let (generation, rest) = rest.split_once('.')?;
    let log = LogId { id: hexadecimal(id)?, generation: number(generation)? };
    Some(Token::new(log, positions(rest)?))
}

fn version_3(text: &str) -> Option<Token> {
    let (text, newest) = text.rsplit_once('.')?;
    let mut parts = newest.splitn(3, '-');
    let newest = Newest {
        partition: number(parts.next()?)?,
        offset: number(parts.next()?)?,
        checksum: hexadecimal(parts.next()?)?.try_into().ok()?,
    };
    let token = version_2(text)?;
    let is_there = usize::from(newest.partition) < token.positions.len();
    is_there.then(|| token.naming(Some(newest)))
}

fn positions(text: &str) -> Option<Vec<Position>> {
    let mut positions = Vec::new();
    for part in text.split('_') {
        if positions.len() == PARTITIONS_MAX {
            return None;
        }
        let (offset, index) = part.split_once('-').unwrap_or((part, "0"));
        positions.push(Position { offset: number(offset)?, index: number(index)? });
    }
    Some(positions)
}

/// As [`number`], in hexadecimal.
fn hexadecimal(text: &str) -> Option<u64> {
    let is_number =
        (1..=ID_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number.then(|| u64::from_str_radix(text, 16).ok())?
}

/// Of digits alone: the standard's own parsing takes a sign too.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_short() {
        let positions = vec![Position { offset: 12, index: 0 }, Position { offset: 345, index: 7 }];
        let token = Token::new(LogId { id: 0xbeef, generation: 3 }, positions);
        assert_eq!(token.to_string(), "2.beef.3.12_345-7");
        let naming = token.naming(Some(Newest { partition: 1, offset: 345, checksum: 0x00c0_ffee }));
        assert_eq!(naming.to_string(), "3.beef.3.12_345-7.1-345-c0ffee");
        for text in [
            "",
            "2.",
            "2.1",
            "2.1.0",
            "2.1.0.",
            "2..0.1",
            "2.1..1",
            "2.1.0.1.0-0-1",
            "3.1.0.1",
            "3.1.0.1.",
            "3.1.0.1.0",
            "3.1.0.1.0-0",
            "3.1.0.1.0-0-",
            "3.1.0.1.0-0-1-1",
            "3.1.0.1.0-0-g",
            "3.1.0.1.0-0-100000000",
            "3.1.0.1.1-0-1",
            "4.1.0.1",
            "2.g.0.1",
            "2.+1.0.1",
            "2.1.+0.1",
            "2.1.0.a",
            "2.1.0.1__2",
            "2.1.0.-1",
            "2.1.0.1-",
            "2.1.0.+1",
            "2.1.0.99999999999999999999",
            "2.1.18446744073709551616.1",
            "2.00000000000000001.0.1",
            "1.",
            "1.a",
        ] {
            assert_eq!(text.parse::<Token>(), Err(TokenError::NoToken(text.to_owned())));
        }
    }

    #[test]
    fn a_token_of_version_1_is_told_from_what_is_none() {
        let error = "1.12_345-7".parse::<Token>().unwrap_err();
        assert_eq!(error, TokenError::Version1("1.12_345-7".to_owned()));
        assert!(error.to_string().contains("begin anew with a snapshot"), "{error}");
    }

    proptest! {
        #[test]
        fn parse_and_print_are_inverse(
            id in any::<u64>(), generation in any::<u64>(),
            positions in prop::collection::vec((any::<u64>(), any::<u32>()), 1..=64),
            newest in prop::option::of((0..1_u16, any::<u64>(), any::<u32>())),
        ) {
            let positions = positions.into_iter().map(|(offset, index)| Position { offset, index });
            let newest = newest.map(|(partition, offset, checksum)| Newest { partition, offset, checksum });
            let token = Token::new(LogId { id, generation }, positions.collect()).naming(newest);
            prop_assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        }

        #[test]
        fn never_panics(text in "[123]?\\.?\\PC{0,40}") {
            let _ = text.parse::<Token>();
        }
    }
}
