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

/// One position for each partition of the log. Printed as `1.` and, joined by `_`, the positions as
/// `offset` or `offset-index`: safe in a URL and in an SSE id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    positions: Vec<Position>,
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no resume token: give one as the stream sent it, or an instant such as 2025-01-31T14:30:00Z"
)]
pub struct TokenError(String);

/// The most partitions a log has.
const PARTITIONS_MAX: usize = 64;

impl Token {
    /// A token of one position for each partition, in their order.
    pub fn new(positions: Vec<Position>) -> Self {
        Self { positions }
    }

    /// The positions, by partition.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1.")?;
        for (at, position) in self.positions.iter().enumerate() {
            let separator = if at > 0 { "_" } else { "" };
            write!(f, "{separator}{}", position.offset)?;
            if position.index > 0 {
                write!(f, "-{}", position.index)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || TokenError(text.chars().take(64).collect::<String>().escape_debug().to_string());
        let parts = text.strip_prefix("1.").ok_or_else(refused)?;
        let mut positions = Vec::new();
        for part in parts.split('_') {
            let (offset, index) = part.split_once('-').unwrap_or((part, "0"));
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if positions.len() == PARTITIONS_MAX || !digits(offset) || !digits(index) {
                return Err(refused());
            }
            let offset = offset.parse().map_err(|_| refused())?;
            let index = index.parse().map_err(|_| refused())?;
            positions.push(Position { offset, index });
        }
        Ok(Self { positions })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_short() {
        let token = Token::new(vec![Position { offset: 12, index: 0 }, Position { offset: 345, index: 7 }]);
        assert_eq!(token.to_string(), "1.12_345-7");
        for text in ["", "1.", "2.1", "1.a", "1.1__2", "1.-1", "1.1-", "1.+1", "1.99999999999999999999"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parse_and_print_are_inverse(positions in prop::collection::vec((any::<u64>(), any::<u32>()), 1..=64)) {
            let token = Token::new(positions.into_iter().map(|(offset, index)| Position { offset, index }).collect());
            prop_assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Token>();
        }
    }
}
