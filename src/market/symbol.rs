//! Symbols: the name a venue trades something under.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// A ticker symbol: 1 to 16 bytes of `A-Z 0-9 . - / _ + = ^ # * $ % ! @ ~`, stored inline. The last six
/// stand for a kind of security after its root (Nasdaq's INET symbology: `*` called, `$` when
/// distributed, `%` convertible, `!` emerging company, `@` partly paid, `~` test), never in front, so
/// that `*` alone stays free for "all symbols".
///
/// Sixteen bytes, zero-padded, so that a symbol is `Copy`, compares as two machine words and
/// sorts in byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Symbol([u8; Symbol::LEN_MAX]);

/// Why a text is no symbol. Its message shows the input, escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SymbolError {
    /// Nothing was given.
    #[error("a symbol is empty; it takes 1 to 16 of A-Z 0-9 . - / _ + = ^ # * $ % ! @ ~")]
    Empty,
    /// More than [`Symbol::LEN_MAX`] bytes.
    #[error("symbol \"{0}\" is longer than 16 bytes")]
    TooLong(String),
    /// A byte outside the alphabet.
    #[error("symbol \"{text}\" has {found:?}; it takes 1 to 16 of A-Z 0-9 . - / _ + = ^ # * $ % ! @ ~")]
    BadByte {
        /// The whole input, escaped.
        text: String,
        /// The first character outside the alphabet.
        found: char,
    },
    /// A suffix without a root.
    #[error("symbol \"{text}\" begins with {found:?}, which only follows a root such as ABC")]
    NoRoot {
        /// The whole input.
        text: String,
        /// The character it begins with.
        found: char,
    },
}

const fn is_symbol_byte(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'/' | b'_' | b'+' | b'=' | b'^' | b'#')
        || is_suffix_byte(byte)
}

const fn is_suffix_byte(byte: u8) -> bool {
    matches!(byte, b'*' | b'$' | b'%' | b'!' | b'@' | b'~')
}

impl Symbol {
    /// The longest symbol, in bytes.
    pub const LEN_MAX: usize = 16;

    /// Reads a symbol from its ASCII bytes, without padding.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SymbolError> {
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).escape_debug().to_string();
        if bytes.is_empty() {
            return Err(SymbolError::Empty);
        }
        if bytes.len() > Self::LEN_MAX {
            return Err(SymbolError::TooLong(shown()));
        }
        if !bytes.iter().all(|&byte| is_symbol_byte(byte)) {
            let text = String::from_utf8_lossy(bytes);
            let found = text
                .chars()
                .find(|c| !u8::try_from(*c).is_ok_and(is_symbol_byte))
                .unwrap_or(char::REPLACEMENT_CHARACTER);
            return Err(SymbolError::BadByte { text: shown(), found });
        }
        if is_suffix_byte(bytes[0]) {
            return Err(SymbolError::NoRoot { text: shown(), found: char::from(bytes[0]) });
        }
        let mut inline = [0; Self::LEN_MAX];
        inline[..bytes.len()].copy_from_slice(bytes);
        Ok(Self(inline))
    }

    /// The symbol's bytes, without padding.
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(Self::LEN_MAX);
        &self.0[..len]
    }

    /// The symbol as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The partition this symbol's ticks go to, in `0..partitions`.
    ///
    /// FNV-1a over the unpadded bytes: part of the log's format, since a symbol must hash to one
    /// partition for ever. Golden values are in the tests.
    pub fn partition(&self, partitions: u16) -> u16 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for &byte in self.as_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // FNV's low bits are its weak ones: fold the high half in.
        ((hash ^ (hash >> 32)) % u64::from(partitions.max(1))) as u16
    }

    fn words(&self) -> [u64; 2] {
        let mut words = [0; 2];
        for (word, chunk) in words.iter_mut().zip(self.0.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        words
    }
}

impl Hash for Symbol {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [low, high] = self.words();
        state.write_u64(low);
        state.write_u64(high);
    }
}

impl FromStr for Symbol {
    type Err = SymbolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for Symbol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Symbol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_with_the_input_shown() {
        let refused = |text: &str| text.parse::<Symbol>().unwrap_err().to_string();
        assert_eq!(refused(""), "a symbol is empty; it takes 1 to 16 of A-Z 0-9 . - / _ + = ^ # * $ % ! @ ~");
        assert!(refused("aapl").starts_with("symbol \"aapl\" has 'a'"));
        assert!(refused("A\u{1b}[2J").contains("\\u{1b}"));
        assert!(refused("A\0").contains("'\\0'"));
        assert_eq!(refused("*"), "symbol \"*\" begins with '*', which only follows a root such as ABC");
        assert!(refused("ABCDEFGHIJKLMNOPQ").contains("longer than 16 bytes"));
    }

    #[test]
    fn partitions_never_change() {
        // Golden: a changed value would scatter a symbol's history over two partitions.
        let of = |text: &str| text.parse::<Symbol>().unwrap().partition(4);
        assert_eq!([of("AAPL"), of("TSLA"), of("MSFT"), of("BRK.B"), of("FAKEPACA")], GOLDEN);
    }

    const GOLDEN: [u16; 5] = [0, 1, 0, 2, 2];

    proptest! {
        #[test]
        fn parse_and_print_are_inverse(text in "[A-Z0-9./_+=^#-][A-Z0-9./_+=^#*$%!@~-]{0,15}") {
            let symbol: Symbol = text.parse().unwrap();
            prop_assert_eq!(symbol.to_string(), text.clone());
            prop_assert_eq!(symbol.as_bytes(), text.as_bytes());
            prop_assert!(symbol.partition(7) < 7);
        }

        #[test]
        fn order_is_byte_order(a in "[A-Z0-9./_+=^#-]{1,16}", b in "[A-Z0-9./_+=^#-]{1,16}") {
            let (left, right): (Symbol, Symbol) = (a.parse().unwrap(), b.parse().unwrap());
            prop_assert_eq!(left.cmp(&right), a.as_bytes().cmp(b.as_bytes()));
        }

        #[test]
        fn anything_else_is_refused(text in "\\PC{0,20}") {
            let fits = (1..=16).contains(&text.len())
                && text.bytes().all(is_symbol_byte)
                && !text.bytes().next().is_some_and(is_suffix_byte);
            prop_assert_eq!(text.parse::<Symbol>().is_ok(), fits);
        }
    }
}
