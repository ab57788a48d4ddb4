//! Avro payloads: one datum, plain or behind the five bytes of a schema registry.

use std::collections::BTreeMap;
use std::io::Cursor;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::RecordSchema;
use apache_avro::types::Value as AvroValue;

use super::value::Value;
use crate::market::Timestamp;

/// Which fields are wanted, and the schemas they may be written with.
#[derive(Debug)]
pub(super) struct Avro {
    paths: Vec<Vec<String>>,
    /// For data without a schema id, or with one that `by_id` need not name.
    default: Option<Written>,
    by_id: BTreeMap<u32, Written>,
    is_framed: bool,
}

/// A schema, and what of it the values do not say.
#[derive(Debug)]
struct Written {
    schema: Schema,
    /// By path, the scale of a decimal.
    scales: Vec<usize>,
}

impl Avro {
    /// For `paths` of names, joined by points. `schemas` are texts by the id in the frame, `None`
    /// for data of any other id, or without a frame.
    pub(super) fn new(
        paths: &[String],
        schemas: &[(Option<u32>, String)],
        is_framed: bool,
    ) -> Result<Self, String> {
        let paths: Vec<Vec<String>> =
            paths.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect();
        let mut avro = Self { paths, default: None, by_id: BTreeMap::new(), is_framed };
        for (id, text) in schemas {
            let schema = Schema::parse_str(text).map_err(|error| format!("no Avro schema: {error}"))?;
            let scales = avro.paths.iter().map(|path| scale(&schema, path)).collect::<Result<_, _>>()?;
            let written = Written { schema, scales };
            match id {
                Some(id) => drop(avro.by_id.insert(*id, written)),
                None => avro.default = Some(written),
            }
        }
        Ok(avro)
    }

    /// The wanted fields of the record, or of each where it is an array of records.
    pub(super) fn decode(&self, payload: &[u8]) -> Result<Vec<Vec<Option<Value<'static>>>>, String> {
        let (id, datum) = if self.is_framed {
            let (id, datum) = unframed(payload)?;
            (Some(id), datum)
        } else {
            (None, payload)
        };
        let written = id.and_then(|id| self.by_id.get(&id)).or(self.default.as_ref()).ok_or_else(|| {
            format!("it is written with schema {}, of which no file is configured", id.unwrap_or_default())
        })?;
        let mut input = Cursor::new(datum);
        let reader = GenericDatumReader::builder(&written.schema).build();
        let value = reader
            .and_then(|reader| reader.read_value(&mut input))
            .map_err(|error| format!("no datum of the schema: {error}"))?;
        if (input.position() as usize) < datum.len() {
            let left = datum.len() - input.position() as usize;
            return Err(format!("no datum of the schema: {left} bytes are left over"));
        }
        let row = |record: &AvroValue| {
            self.paths.iter().zip(&written.scales).map(|(path, scale)| find(record, path, *scale)).collect()
        };
        Ok(match &value {
            AvroValue::Array(records) => records.iter().map(row).collect(),
            record => vec![row(record)],
        })
    }
}

/// What stands behind the frame of a schema registry, and the schema's id.
pub(super) fn unframed(payload: &[u8]) -> Result<(u32, &[u8]), String> {
    match payload {
        [0, a, b, c, d, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), rest)),
        [] => Err("it is empty".to_owned()),
        [magic, ..] => Err(format!(
            "it does not begin with a schema id (0 and four bytes) but with {magic:#04x}: is framing = \"none\" meant?"
        )),
    }
}

/// The scale of the decimal at `path`; an error where the schema has no such field.
fn scale(schema: &Schema, path: &[String]) -> Result<usize, String> {
    match schema {
        Schema::Decimal(decimal) if path.is_empty() => Ok(decimal.scale),
        Schema::Array(array) => scale(&array.items, path),
        Schema::Union(union) => {
            let found: Vec<_> = union.variants().iter().map(|variant| scale(variant, path)).collect();
            let best = found.iter().find(|found| matches!(found, Ok(scale) if *scale > 0));
            let any = best.or_else(|| found.iter().find(|found| found.is_ok())).or(found.last());
            any.cloned().unwrap_or(Ok(0))
        }
        _ if path.is_empty() => Ok(0),
        Schema::Map(map) => scale(&map.types, &path[1..]),
        Schema::Record(RecordSchema { fields, name, .. }) => {
            let field = fields.iter().find(|field| field.name == path[0]);
            let field = field.ok_or_else(|| {
                let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
                format!("the schema {} has no field `{}`; it has {}", name.name(), path[0], names.join(", "))
            })?;
            scale(&field.schema, &path[1..])
        }
        // A name defined elsewhere in the schema: its fields are looked for when data come.
        Schema::Ref { .. } => Ok(0),
        _ => Err(format!("the schema has no record in which `{}` could be", path[0])),
    }
}

fn find(value: &AvroValue, path: &[String], scale: usize) -> Option<Value<'static>> {
    match value {
        AvroValue::Union(_, value) => find(value, path, scale),
        _ if path.is_empty() => plain(value, scale),
        AvroValue::Record(fields) => {
            let (_, value) = fields.iter().find(|(name, _)| *name == path[0])?;
            find(value, &path[1..], scale)
        }
        AvroValue::Map(fields) => find(fields.get(&path[0])?, &path[1..], scale),
        _ => None,
    }
}

fn plain(value: &AvroValue, scale: usize) -> Option<Value<'static>> {
    let instant = |units: i64, nanos: i64| {
        let nanos = units.checked_mul(nanos).map(Timestamp::from_nanos);
        nanos.map_or(Value::Other("a time out of range"), Value::Instant)
    };
    Some(match value {
        AvroValue::Null => return None,
        AvroValue::Boolean(truth) => Value::Bool(*truth),
        AvroValue::Int(number) => Value::integer(*number),
        AvroValue::Long(number) => Value::integer(*number),
        AvroValue::Float(number) => Value::Float(number.to_string()),
        AvroValue::Double(number) => Value::float(*number),
        AvroValue::String(text) | AvroValue::Enum(_, text) => Value::Text(text.clone().into()),
        AvroValue::Bytes(bytes) | AvroValue::Fixed(_, bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.trim_end_matches('\0').to_owned().into()),
            Err(_) => Value::Other("bytes that are no text"),
        },
        AvroValue::Decimal(decimal) => match Vec::try_from(decimal).ok().and_then(|bytes| unscaled(&bytes)) {
            Some(unscaled) => Value::scaled(unscaled, scale),
            None => Value::Other("a decimal of more than 16 bytes"),
        },
        AvroValue::BigDecimal(decimal) => Value::Decimal(decimal.to_string().into()),
        AvroValue::TimestampMillis(ms) => instant(*ms, 1_000_000),
        AvroValue::TimestampMicros(us) => instant(*us, 1_000),
        AvroValue::TimestampNanos(ns) => instant(*ns, 1),
        AvroValue::Uuid(uuid) => Value::Text(uuid.to_string().into()),
        AvroValue::Array(values) => {
            Value::List(values.iter().filter_map(|value| find(value, &[], scale)).collect())
        }
        AvroValue::Union(_, value) => return plain(value, scale),
        AvroValue::Map(_) | AvroValue::Record(_) => Value::Other("a record"),
        AvroValue::Date(_)
        | AvroValue::TimeMillis(_)
        | AvroValue::TimeMicros(_)
        | AvroValue::LocalTimestampMillis(_)
        | AvroValue::LocalTimestampMicros(_)
        | AvroValue::LocalTimestampNanos(_)
        | AvroValue::Duration(_) => Value::Other("a time without a zone"),
    })
}

/// A big-endian two's complement number.
fn unscaled(bytes: &[u8]) -> Option<i128> {
    let is_negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let mut number: i128 = if is_negative { -1 } else { 0 };
    if bytes.len() > 16 {
        return None;
    }
    for byte in bytes {
        number = (number << 8) | i128::from(*byte);
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use apache_avro::types::Record;
    use apache_avro::writer::datum::GenericDatumWriter;

    use super::*;

    const SCHEMA: &str = r#"{"type":"record","name":"Trade","fields":[
        {"name":"s","type":"string"},
        {"name":"p","type":["null",{"type":"bytes","logicalType":"decimal","precision":18,"scale":4}]},
        {"name":"t","type":{"type":"long","logicalType":"timestamp-micros"}},
        {"name":"n","type":{"type":"record","name":"More","fields":[{"name":"x","type":"double"}]}}]}"#;

    fn datum(unscaled: i64) -> Vec<u8> {
        let schema = Schema::parse_str(SCHEMA).unwrap();
        let mut record = Record::new(&schema).unwrap();
        record.put("s", "AAPL");
        let decimal = AvroValue::Decimal(unscaled.to_be_bytes().as_slice().into());
        record.put("p", AvroValue::Union(1, Box::new(decimal)));
        record.put("t", AvroValue::TimestampMicros(1_000_001));
        record.put("n", AvroValue::Record(vec![("x".to_owned(), AvroValue::Double(0.1))]));
        GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(record).unwrap()
    }

    fn avro(paths: &[&str], is_framed: bool, id: Option<u32>) -> Result<Avro, String> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        Avro::new(&paths, &[(id, SCHEMA.to_owned())], is_framed)
    }

    #[test]
    fn logical_types_are_exact() {
        let rows = avro(&["s", "p", "t", "n.x"], false, None).unwrap().decode(&datum(-1_904_500)).unwrap();
        let expected = [
            Some(Value::Text("AAPL".into())),
            Some(Value::Decimal("-190.4500".into())),
            Some(Value::Instant(Timestamp::from_nanos(1_000_001_000))),
            Some(Value::Float("0.1".to_owned())),
        ];
        assert_eq!(rows, [expected]);
    }

    #[test]
    fn the_frame_names_the_schema() {
        let framed = |id: u8| [&[0, 0, 0, 0, id], &datum(1)[..]].concat();
        let of_seven = avro(&["s"], true, Some(7)).unwrap();
        assert!(of_seven.decode(&framed(7)).is_ok());
        let error = of_seven.decode(&framed(8)).unwrap_err();
        assert_eq!(error, "it is written with schema 8, of which no file is configured");
        assert!(avro(&["s"], true, None).unwrap().decode(&framed(8)).is_ok());
        let error = of_seven.decode(b"\x08AAPL").unwrap_err();
        assert!(error.contains("but with 0x08: is framing = \"none\" meant?"), "{error}");
    }

    #[test]
    fn what_is_not_in_the_schema_is_named_at_the_start() {
        let error = avro(&["symbol"], false, None).unwrap_err();
        assert_eq!(error, "the schema Trade has no field `symbol`; it has s, p, t, n");
        let error = avro(&["s.x"], false, None).unwrap_err();
        assert_eq!(error, "the schema has no record in which `x` could be");
        let error = avro(&["s"], false, None).unwrap().decode(&[datum(1), vec![0]].concat()).unwrap_err();
        assert_eq!(error, "no datum of the schema: 1 bytes are left over");
        assert!(avro(&["s"], false, None).unwrap().decode(&datum(1)[..5]).is_err());
    }
}
