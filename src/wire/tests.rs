//! What every encoding must do: carry any tick, keep its golden bytes for ever, survive damage.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::record::{Origin, RecordEncoder, RecordView};
use super::{BarChannel, Message, cbor, json, msgpack, protobuf};
use crate::market::{
    Bar, Cancel, Conditions, Correction, Exchange, Gap, GapKind, PrevClose, Price, Quote, Status, Tape, Tick,
    Timeframe, Timestamp, Trade, TradeTerms, arbitrary,
};

const RECEIVED: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_007);

type Encode = fn(&Tick, &mut Vec<u8>);
type EncodeBar = fn(BarChannel, &Bar, &mut Vec<u8>);
type Decode = fn(&[u8]) -> Result<Vec<Message>, super::WireError>;

/// Name, encoders and decoder of every encoding of the stream.
const ENCODINGS: [(&str, Encode, EncodeBar, Decode); 4] = [
    ("json", json::encode_tick, json::encode_bar, |bytes| json::decode(bytes, RECEIVED)),
    ("msgpack", msgpack::encode_tick, msgpack::encode_bar, |bytes| msgpack::decode(bytes, RECEIVED)),
    ("cbor", cbor::encode_tick, cbor::encode_bar, |bytes| cbor::decode(bytes, RECEIVED)),
    ("protobuf", protobuf::encode_tick, protobuf::encode_bar, protobuf::decode),
];

/// The tick as a float's wire carries it: no more than fifteen digits in a price.
fn within_floats(tick: &Tick) -> Tick {
    let cut = |price: &mut Price| *price = Price::from_ten_thousandths(price.nanos() / 100_000).unwrap();
    let mut tick = tick.clone();
    match &mut tick {
        Tick::Trade(t) => cut(&mut t.price),
        Tick::Quote(q) => [&mut q.bid, &mut q.ask].into_iter().for_each(cut),
        Tick::Cancel(c) => cut(&mut c.price),
        Tick::Correction(c) => [&mut c.original.price, &mut c.corrected.price].into_iter().for_each(cut),
        Tick::PrevClose(p) => cut(&mut p.price),
        Tick::Status(_) | Tick::Gap(_) => {}
    }
    tick
}

/// The tick as it comes back from a wire without a time of receipt.
fn received(mut tick: Tick) -> Tick {
    tick.set_recv_ts(RECEIVED);
    tick
}

fn ticks_of(messages: Vec<Message>) -> Vec<Tick> {
    let tick = |message| match message {
        Message::Tick(tick) => tick,
        other => panic!("not a tick: {other:?}"),
    };
    messages.into_iter().map(tick).collect()
}

proptest! {
    #[test]
    fn any_tick_survives_json_exactly(ticks in prop::collection::vec(arbitrary::tick(), 0..6)) {
        let messages: Vec<_> = ticks.iter().map(|tick| { let mut out = Vec::new(); json::encode_tick(tick, &mut out); out }).collect();
        let mut frame = Vec::new();
        json::join(messages.iter().map(Vec::as_slice), &mut frame);
        let back = ticks_of(json::decode(&frame, RECEIVED).unwrap());
        prop_assert_eq!(back, ticks.into_iter().map(received).collect::<Vec<_>>());
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&frame).is_ok());
    }

    #[test]
    fn any_tick_survives_msgpack_and_cbor(ticks in prop::collection::vec(arbitrary::tick(), 0..6)) {
        let ticks: Vec<_> = ticks.iter().map(within_floats).collect();
        let (mut packed, mut tagged) = (Vec::new(), Vec::new());
        let encoded = |encode: Encode| ticks.iter().map(|tick| { let mut out = Vec::new(); encode(tick, &mut out); out }).collect::<Vec<_>>();
        msgpack::join(encoded(msgpack::encode_tick).iter().map(Vec::as_slice), &mut packed);
        cbor::join(encoded(cbor::encode_tick).iter().map(Vec::as_slice), &mut tagged);
        let expected: Vec<_> = ticks.iter().cloned().map(received).collect();
        prop_assert_eq!(ticks_of(msgpack::decode(&packed, RECEIVED).unwrap()), expected.clone());
        prop_assert_eq!(ticks_of(cbor::decode(&tagged, RECEIVED).unwrap()), expected);
    }

    #[test]
    fn any_tick_survives_protobuf_whole(ticks in prop::collection::vec(arbitrary::tick(), 0..6)) {
        let mut frame = Vec::new();
        ticks.iter().for_each(|tick| protobuf::encode_tick(tick, &mut frame));
        prop_assert_eq!(ticks_of(protobuf::decode(&frame).unwrap()), ticks);
    }

    #[test]
    fn a_bar_survives_as_what_is_on_the_wire(bar in arbitrary::bar()) {
        for (name, _, encode, decode) in ENCODINGS.into_iter().filter(|(name, ..)| matches!(*name, "json" | "protobuf")) {
            let channel = if bar.timeframe == Timeframe::Day { BarChannel::Daily } else { BarChannel::Updated };
            let mut out = Vec::new();
            encode(channel, &bar, &mut out);
            let Message::Bar(back_channel, back) = decode(&out).unwrap().remove(0) else { panic!("{name}: not a bar") };
            prop_assert_eq!(back_channel, channel);
            prop_assert_eq!((back.open, back.high, back.low, back.close), (bar.open, bar.high, bar.low, bar.close));
            prop_assert_eq!((back.ts, back.volume, back.trade_count, back.vwap()), (bar.ts, bar.volume, bar.trade_count, bar.vwap()));
        }
    }

    #[test]
    fn damage_is_an_error_not_a_panic(
        tick in arbitrary::tick(), at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<prop::sample::Index>(),
    ) {
        for (_, encode, _, decode) in ENCODINGS {
            let mut out = Vec::new();
            encode(&tick, &mut out);
            let _ = decode(&out[..cut.index(out.len())]);
            let at = at.index(out.len());
            out[at] ^= flip;
            let _ = decode(&out);
        }
    }

    #[test]
    fn noise_is_an_error_not_a_panic(noise in prop::collection::vec(any::<u8>(), 0..300), text in "[\\[\\]{}\":,a-z0-9. \\\\-]{0,60}") {
        for (.., decode) in ENCODINGS {
            let _ = decode(&noise);
            let _ = decode(text.as_bytes());
        }
    }
}

#[test]
fn what_alpaca_really_sends_is_read() {
    let frame = br#"[{"T":"t","i":96921,"S":"AAPL","x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208Z","c":["@","I"],"z":"C"},
        {"T":"q","S":"AMD","bx":"U","bp":87.66,"bs":1,"ax":"","ap":0,"as":0,"t":"2021-02-22T15:51:45.335689322Z","c":[" "],"z":"C"},
        {"T":"success","msg":"authenticated"}, {"T":"new","x":[1,-2.5e3,null,true,{"y":"\u00e9\n"}]}]"#;
    let messages = json::decode(frame, RECEIVED).unwrap();
    let Message::Tick(Tick::Trade(trade)) = &messages[0] else { panic!("{messages:?}") };
    assert_eq!((trade.price.to_string().as_str(), trade.conditions.as_str()), ("126.55", "@I"));
    let Message::Tick(Tick::Quote(quote)) = &messages[1] else { panic!("{messages:?}") };
    assert_eq!((quote.ask_exchange, quote.ask), (Exchange::NONE, Price::ZERO));
    assert_eq!(messages[2], Message::Control(serde_json::json!({"T": "success", "msg": "authenticated"})));
    assert_eq!(
        messages[3],
        Message::Control(serde_json::json!({"T": "new", "x": [1, -2.5e3, null, true, {"y": "é\n"}]}))
    );
}

#[test]
fn what_is_wrong_is_named() {
    let error = |text: &str| json::decode(text.as_bytes(), RECEIVED).unwrap_err().to_string();
    assert_eq!(error("[{]"), "not JSON: no text at byte 2");
    assert_eq!(error("[1] 2"), "not JSON: something after the end at byte 4");
    assert_eq!(
        error(r#"[{"T":"pc","S":"AAPL","t":"2021-02-22T15:51:44Z"}]"#),
        "a \"pc\" message: `p` is missing or of the wrong type"
    );
    assert!(
        error(r#"[{"T":"pc","S":"aapl","p":1,"t":"2021-02-22T15:51:44Z"}]"#)
            .contains("symbol \"aapl\" has 'a'")
    );
    assert!(
        error(r#"[{"T":"pc","S":"AAPL","p":0.0000000001,"t":"2021-02-22T15:51:44Z"}]"#)
            .contains("more than 9 decimals")
    );
    assert!(error(&"[".repeat(100)).contains("nested too deep"));
    for ts in [i64::MIN, i64::MAX] {
        let tick = protobuf::v1::Tick { ts, ..(&specimens()[0]).into() };
        let error = Tick::try_from(&tick).unwrap_err().to_string();
        assert!(error.contains("`ts` ") && error.contains("not within 1900 to 2261"), "{error}");
    }
}

/// One tick of every kind, with what is awkward to carry.
fn specimens() -> Vec<Tick> {
    let (symbol, ts) = ("BRK.B".parse().unwrap(), "2026-11-24T14:30:00.123456789Z".parse().unwrap());
    let recv_ts: Timestamp = "2026-11-24T14:30:00.124Z".parse().unwrap();
    let price = |text: &str| text.parse::<Price>().unwrap();
    let codes = |text: &str| Conditions::from_codes(text.as_bytes()).unwrap();
    let terms = |id, size, text| TradeTerms { id, price: price(text), size, conditions: codes("@I") };
    vec![
        Tick::Trade(Trade {
            symbol,
            ts,
            recv_ts,
            price: price("478.2551"),
            size: 37,
            exchange: Exchange::IEX,
            conditions: codes("@I"),
            id: u64::MAX,
            tape: Tape::A,
        }),
        Tick::Quote(Quote {
            symbol,
            ts,
            recv_ts,
            bid: price("478.25"),
            ask: Price::ZERO,
            bid_size: 100,
            ask_size: 0,
            bid_exchange: Exchange::IEX,
            ask_exchange: Exchange::NONE,
            conditions: codes("R"),
            tape: Tape::A,
        }),
        Tick::Status(Box::new(Status {
            symbol,
            ts,
            recv_ts,
            code: "H".into(),
            message: "Trading \"Halt\"".into(),
            reason_code: "T1".into(),
            reason_message: "Halt – News Pending".into(),
            tape: Tape::A,
        })),
        Tick::Cancel(Box::new(Cancel {
            symbol,
            ts,
            recv_ts,
            id: 7,
            price: price("0.0001"),
            size: 1,
            exchange: Exchange::IEX,
            action: b'C',
            tape: Tape::B,
        })),
        Tick::Correction(Box::new(Correction {
            symbol,
            ts,
            recv_ts,
            exchange: Exchange::IEX,
            original: terms(7, 100, "478.25"),
            corrected: terms(8, 10, "47.825"),
            tape: Tape::C,
        })),
        Tick::Gap(Box::new(Gap {
            symbol: None,
            ts,
            recv_ts,
            kind: GapKind::Missed,
            source: "iex/1150681088".into(),
            first: 5,
            last: 9,
        })),
        Tick::PrevClose(PrevClose { symbol, ts, recv_ts, price: price("477.9") }),
    ]
}

fn specimen_bar() -> Bar {
    let mut bar = None;
    for tick in specimens() {
        if let Tick::Trade(mut trade) = tick {
            trade.conditions = Conditions::NONE;
            bar.get_or_insert(Bar::empty(trade.symbol, Timeframe::MINUTE, trade.ts)).add(&trade);
        }
    }
    bar.unwrap()
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire").join(name)
}

/// Bytes as a person can read and compare them, and the way back.
fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The golden text of `name`; written first when `STK_UPDATE` is set.
fn golden_text(name: &str, current: &str) -> String {
    if std::env::var_os("STK_UPDATE").is_some() {
        fs::create_dir_all(golden("")).unwrap();
        fs::write(golden(name), current).unwrap();
    }
    fs::read_to_string(golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn messages_keep_their_golden_bytes() {
    for (name, encode, encode_bar, decode) in ENCODINGS {
        let mut text = String::new();
        for tick in specimens() {
            let mut out = Vec::new();
            encode(&tick, &mut out);
            let back = ticks_of(decode(&out).unwrap()).remove(0);
            assert_eq!(back, if name == "protobuf" { tick } else { received(tick) }, "{name}");
            text += &if name == "json" { String::from_utf8(out).unwrap() + "\n" } else { hex(&out) + "\n" };
        }
        for channel in [BarChannel::Minute, BarChannel::Updated, BarChannel::Daily] {
            let mut out = Vec::new();
            encode_bar(channel, &specimen_bar(), &mut out);
            text += &if name == "json" { String::from_utf8(out).unwrap() + "\n" } else { hex(&out) + "\n" };
        }
        assert_eq!(
            text,
            golden_text(&format!("messages-{name}.txt"), &text),
            "{name}: the wire's bytes have changed"
        );
    }
}

#[test]
fn records_of_version_1_are_readable_for_ever() {
    let mut encoder = RecordEncoder::new();
    specimens().iter().chain(&specimens()).for_each(|tick| encoder.push(tick));
    let origin = Origin { producer: 0x1122_3344_5566_7788, sequence: 42 };
    let bytes = encoder.finish(origin);
    let stored = unhex(&golden_text("record-v1.txt", &hex(&bytes)));
    assert_eq!(stored, bytes, "the bytes of version 1 have changed: that takes a version 2");
    let view = RecordView::parse(&stored).unwrap();
    assert_eq!(view.origin, origin);
    let ticks: Vec<_> = view.ticks().map(|row| row.unwrap().1).collect();
    assert_eq!(ticks, [specimens(), specimens()].concat());
}
