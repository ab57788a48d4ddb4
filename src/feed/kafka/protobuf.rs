//! Protobuf payloads: one message of a `.proto` that is compiled at the start.

use std::borrow::Cow;
use std::path::Path;

use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value as ProtoValue,
};

use super::avro::unframed;
use super::value::Value;
use crate::market::Timestamp;

const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// Which fields are wanted, and of which message.
#[derive(Debug)]
pub(super) struct Protobuf {
    message: MessageDescriptor,
    paths: Vec<Vec<String>>,
    is_framed: bool,
}

impl Protobuf {
    /// For `paths` of names, joined by points, in `message` of the file `proto`, whose imports are
    /// looked for in `include`.
    pub(super) fn new(
        paths: &[String],
        proto: &Path,
        include: &[impl AsRef<Path>],
        message: &str,
        is_framed: bool,
    ) -> Result<Self, String> {
        let files = protox::compile([proto], include).map_err(|error| format!("no .proto: {error:?}"))?;
        let pool = DescriptorPool::from_file_descriptor_set(files).map_err(|error| error.to_string())?;
        let descriptor = pool.get_message_by_name(message).ok_or_else(|| {
            let names: Vec<_> = pool.all_messages().map(|message| message.full_name().to_owned()).collect();
            format!("there is no message `{message}`; there are {}", names.join(", "))
        })?;
        let paths: Vec<Vec<String>> =
            paths.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect();
        for path in &paths {
            check(&descriptor, path)?;
        }
        Ok(Self { message: descriptor, paths, is_framed })
    }

    /// The wanted fields of the message.
    pub(super) fn decode(&self, payload: &[u8]) -> Result<Vec<Vec<Option<Value<'static>>>>, String> {
        let body = if self.is_framed { without_indexes(unframed(payload)?.1)? } else { payload };
        let message = DynamicMessage::decode(self.message.clone(), body)
            .map_err(|error| format!("no {}: {error}", self.message.full_name()))?;
        Ok(vec![self.paths.iter().map(|path| find(&message, path)).collect()])
    }
}

/// A registry's frame names the message within its file: a count and that many indexes, as zigzag
/// varints; one zero stands for the first message.
fn without_indexes(mut bytes: &[u8]) -> Result<&[u8], String> {
    const INDEXES_MAX: u64 = 16;
    let cut = || "it ends within the message's indexes".to_owned();
    let count = varint(&mut bytes).ok_or_else(cut)? >> 1;
    if count > INDEXES_MAX {
        return Err(format!("its message is nested {count} deep: is it framed by a schema registry?"));
    }
    for _ in 0..count {
        varint(&mut bytes).ok_or_else(cut)?;
    }
    Ok(bytes)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn check(message: &MessageDescriptor, path: &[String]) -> Result<(), String> {
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    let field = message.get_field_by_name(name).ok_or_else(|| {
        let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
        format!("the message {} has no field `{name}`; it has {}", message.full_name(), names.join(", "))
    })?;
    match field.kind() {
        _ if rest.is_empty() => Ok(()),
        Kind::Message(below) if !field.is_list() && !field.is_map() => check(&below, rest),
        _ => Err(format!("the field `{name}` of {} has no fields of its own", message.full_name())),
    }
}

fn find(message: &DynamicMessage, path: &[String]) -> Option<Value<'static>> {
    let (name, rest) = path.split_first()?;
    let field = message.descriptor().get_field_by_name(name)?;
    // A field that knows whether it was set and was not is absent; another has its default.
    if field.supports_presence() && !message.has_field(&field) {
        return None;
    }
    let value: Cow<'_, ProtoValue> = message.get_field(&field);
    match (&*value, rest) {
        (ProtoValue::Message(below), [_, ..]) => find(below, rest),
        (value, []) => Some(plain(value, &field.kind())),
        _ => None,
    }
}

fn plain(value: &ProtoValue, kind: &Kind) -> Value<'static> {
    match value {
        ProtoValue::Bool(truth) => Value::Bool(*truth),
        ProtoValue::I32(number) => Value::integer(*number),
        ProtoValue::I64(number) => Value::integer(*number),
        ProtoValue::U32(number) => Value::integer(*number),
        ProtoValue::U64(number) => Value::integer(*number),
        ProtoValue::F32(number) => Value::Float(number.to_string()),
        ProtoValue::F64(number) => Value::float(*number),
        ProtoValue::String(text) => Value::Text(text.clone().into()),
        ProtoValue::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned().into()),
            Err(_) => Value::Other("bytes that are no text"),
        },
        ProtoValue::EnumNumber(number) => match kind {
            Kind::Enum(of) => match of.get_value(*number) {
                Some(value) => Value::Text(value.name().to_owned().into()),
                None => Value::Text(number.to_string().into()),
            },
            _ => Value::integer(*number),
        },
        ProtoValue::Message(message) if message.descriptor().full_name() == TIMESTAMP => instant(message),
        ProtoValue::Message(_) => Value::Other("a message"),
        ProtoValue::List(values) => Value::List(values.iter().map(|value| plain(value, kind)).collect()),
        ProtoValue::Map(_) => Value::Other("a map"),
    }
}

fn instant(message: &DynamicMessage) -> Value<'static> {
    let part = |name: &str| {
        let value = message.get_field_by_name(name);
        value.and_then(|value| value.as_i64().or_else(|| value.as_i32().map(i64::from))).unwrap_or(0)
    };
    let nanos = part("seconds").checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(part("nanos")));
    nanos.map_or(Value::Other("a time out of range"), |nanos| Value::Instant(Timestamp::from_nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = r#"
        syntax = "proto3";
        package feed;
        import "google/protobuf/timestamp.proto";
        enum Side { NONE = 0; BUY = 1; }
        message Trade {
          string s = 1; sint64 p = 2; optional uint32 size = 3;
          google.protobuf.Timestamp t = 4; Side side = 5; repeated string c = 6; More more = 7;
        }
        message More { double x = 1; }
    "#;

    fn protobuf(paths: &[&str], message: &str, is_framed: bool) -> Result<Protobuf, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("feed.proto");
        std::fs::write(&file, PROTO).unwrap();
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        Protobuf::new(&paths, &file, &[dir.path()], message, is_framed)
    }

    /// `s` = `AAPL`, `p` = 1904500, `t` = 2.5 s, `side` = BUY, `c` = `@`, `T`, `more.x` = 0.5.
    const TRADE: &[u8] =
        b"\x0a\x04AAPL\x10\xe8\xbd\xe8\x01\x22\x08\x08\x02\x10\x80\xca\xb5\xee\x01\x28\x01\x32\x01@\x32\x01T\x3a\x09\x09\0\0\0\0\0\0\xe0\x3f";

    #[test]
    fn fields_are_found_by_name_and_timestamps_are_exact() {
        let paths = ["s", "p", "size", "t", "side", "c", "more.x", "more"];
        let rows = protobuf(&paths, "feed.Trade", false).unwrap().decode(TRADE).unwrap();
        let expected = [
            Some(Value::Text("AAPL".into())),
            Some(Value::Decimal("1904500".into())),
            None,
            Some(Value::Instant(Timestamp::from_nanos(2_500_000_000))),
            Some(Value::Text("BUY".into())),
            Some(Value::List(vec![Value::Text("@".into()), Value::Text("T".into())])),
            Some(Value::Float("0.5".to_owned())),
            Some(Value::Other("a message")),
        ];
        assert_eq!(rows, [expected]);
    }

    #[test]
    fn the_frame_is_taken_off() {
        let framed = protobuf(&["s"], "feed.Trade", true).unwrap();
        for indexes in [&b"\x00"[..], b"\x02\x00", b"\x04\x02\x00"] {
            let payload = [&[0, 0, 0, 0, 9][..], indexes, TRADE].concat();
            assert_eq!(framed.decode(&payload).unwrap()[0][0], Some(Value::Text("AAPL".into())));
        }
        assert!(framed.decode(&[0, 0, 0, 0, 9, 0x80]).unwrap_err().contains("ends within"));
        assert!(framed.decode(TRADE).unwrap_err().contains("but with 0x0a"));
    }

    #[test]
    fn what_is_not_in_the_proto_is_named_at_the_start() {
        let error = protobuf(&["s"], "feed.Quote", false).unwrap_err();
        assert!(error.starts_with("there is no message `feed.Quote`; there are "), "{error}");
        let error = protobuf(&["price"], "feed.Trade", false).unwrap_err();
        assert!(
            error.starts_with("the message feed.Trade has no field `price`; it has s, p, size"),
            "{error}"
        );
        let error = protobuf(&["s.x"], "feed.Trade", false).unwrap_err();
        assert_eq!(error, "the field `s` of feed.Trade has no fields of its own");
        let error = protobuf(&["s"], "feed.Trade", false).unwrap().decode(b"\xff\xff").unwrap_err();
        assert!(error.starts_with("no feed.Trade: "), "{error}");
    }
}
