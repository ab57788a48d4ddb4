//! Stored bytes that must be read for ever, as text under `tests/golden/tiering`.

use std::fmt::Write;
use std::path::Path;

/// Compares `bytes` with the golden file `name` and returns the file's. `STK_UPDATE=1` writes it
/// anew.
pub(super) fn check(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiering").join(name);
    if std::env::var_os("STK_UPDATE").is_some() {
        let mut text = String::new();
        for line in bytes.chunks(32) {
            line.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a text takes all"));
            text.push('\n');
        }
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        std::fs::write(&path, text).expect("a file");
    }
    let stored = read(name);
    assert!(stored == bytes, "{} differs from what is written now", path.display());
    stored
}

/// The bytes of the golden file `name`, which an earlier version wrote.
pub(super) fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiering").join(name);
    let text = std::fs::read_to_string(&path).expect("a golden file");
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect()
}
