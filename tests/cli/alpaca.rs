//! alpaca-py, which nobody here wrote, against the real server.

use std::path::PathBuf;
use std::process::Command;

use super::serve::write_capture;
use super::support::{Home, Server};

/// The interpreter that `scripts/test` prepares.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/alpaca/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: scripts/test makes it", python.display());
    eprintln!("skipped: {} is missing; scripts/test makes it", python.display());
    None
}

#[test]
fn alpaca_py_works_unchanged() {
    let Some(python) = python() else { return };
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &["--feed", "sim:rate=2000,symbols=1"]);
    // More than one page of history, in a day of its own.
    let capture = write_capture(&home, 20_400).display().to_string();
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--ingest", &server.ingest]);
    assert!(replayed.starts_with("exit: 0\n"), "{replayed}");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/alpaca/client.py");
    let output = Command::new(python)
        .arg(script)
        .args([&server.address, "FAKEPACA", "AAPL"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let got: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected = serde_json::json!({
        "symbols": ["FAKEPACA"],
        "quotes": got["quotes"],
        "trades": got["trades"],
        "quotes_are_sound": true,
        "times_have_zones": true,
        "past": {
            "trades": 10_200,
            "first_trade_price": 190.45,
            "trade_ids_rise": true,
            "quotes": 10_200,
            "bars": 340,
            "bars_volume": 1_020_000.0,
            "latest_trade_id": 20_399,
            "latest_bid": 394.43,
            "snapshot_volume": 1_020_000.0,
        },
    });
    assert_eq!(got, expected, "{said}");
}
