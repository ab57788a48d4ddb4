//! Text from elsewhere on its way to a terminal: nothing in it may steer the terminal, or hide what
//! stands beside it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Whether a terminal acts on the character instead of showing it: controls (C0, DEL, C1), and the
/// marks that reorder or break lines.
fn steers(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with everything escaped that would steer a terminal: `\n`, `\u001b`. These escapes are
/// those of JSON, so JSON stays JSON.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, steers)
}

/// The same for several lines: line ends and tabs are kept.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| steers(letter) && !matches!(letter, '\n' | '\t'))
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            letter if !is_escaped(letter) => out.push(letter),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a string does not fail.
            letter => drop(write!(out, "\\u{:04x}", u32::from(letter))),
        }
    }
    Cow::Owned(out)
}

/// A writer to a terminal: everything that would steer it is escaped; line ends and tabs are kept.
pub struct PrintableWriter<W> {
    inner: W,
    /// The beginning of a character whose end has not been written yet.
    begun: Vec<u8>,
}

impl<W: Write> PrintableWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, begun: Vec::new() }
    }
}

impl<W: Write> Write for PrintableWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.begun) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.begun.len(),
        };
        let text: Vec<u8> = self.begun.drain(..whole).collect();
        self.inner.write_all(printable_lines(&String::from_utf8_lossy(&text)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_escapes_wherever_its_input_is_cut() {
        let text = "é\u{1b}[2J\u{9b}日\n";
        for at in 0..=text.len() {
            let mut writer = PrintableWriter::new(Vec::new());
            let (before, after) = text.as_bytes().split_at(at);
            writer.write_all(before).unwrap();
            writer.write_all(after).unwrap();
            assert_eq!(String::from_utf8(writer.inner).unwrap(), "é\\u001b[2J\\u009b日\n", "{at}");
        }
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        let red = "\u{1b}[31mred\u{7}\u{9b}0m \u{202e}abc\r\n\tend\u{7f}";
        assert_eq!(printable(red), "\\u001b[31mred\\u0007\\u009b0m \\u202eabc\\r\\n\\tend\\u007f");
        assert_eq!(printable_lines("a\n\tb\u{1b}c\r\n"), "a\n\tb\\u001bc\\r\n");
        for plain in ["", "Halted, \"news\" – 10 €", "日本"] {
            assert!(matches!(printable(plain), Cow::Borrowed(_)), "{plain}");
        }
        let json = serde_json::json!({ "text": "\u{9b}x\u{1b}" }).to_string();
        let read: serde_json::Value = serde_json::from_str(&printable(&json)).unwrap();
        assert_eq!(read["text"], "\u{9b}x\u{1b}", "JSON stays JSON");
    }
}
