//! JSON payloads: an object, or an array of them. Numbers keep the text they were written in.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::value::Value;

/// Which fields are wanted, by the path to them.
#[derive(Debug, Default)]
pub(super) struct Json {
    root: Node,
    slots: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// Where the value goes, if it is wanted itself.
    slot: Option<usize>,
    below: BTreeMap<String, Node>,
}

impl Json {
    /// For `paths` of names, joined by points.
    pub(super) fn new(paths: &[String]) -> Self {
        let mut root = Node::default();
        for (slot, path) in paths.iter().enumerate() {
            let mut node = &mut root;
            for name in path.split('.') {
                node = node.below.entry(name.to_owned()).or_default();
            }
            node.slot = Some(slot);
        }
        Self { root, slots: paths.len() }
    }

    /// The wanted fields of each object.
    pub(super) fn decode<'a>(&self, payload: &'a [u8]) -> Result<Vec<Vec<Option<Value<'a>>>>, String> {
        let mut rows = Vec::new();
        let mut json = serde_json::Deserializer::from_slice(payload);
        let read = Rows { wanted: self, rows: &mut rows }.deserialize(&mut json).and_then(|()| json.end());
        read.map_err(|error| format!("no JSON that is expected: {error}"))?;
        Ok(rows)
    }
}

/// An object, or an array of them.
struct Rows<'w, 'a> {
    wanted: &'w Json,
    rows: &'w mut Vec<Vec<Option<Value<'a>>>>,
}

impl<'a> DeserializeSeed<'a> for Rows<'_, 'a> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Rows<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or an array of objects")
    }

    fn visit_map<M: MapAccess<'a>>(self, map: M) -> Result<(), M::Error> {
        let mut row = vec![None; self.wanted.slots];
        Object { node: &self.wanted.root, row: &mut row }.visit_map(map)?;
        self.rows.push(row);
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut seq: S) -> Result<(), S::Error> {
        let mut row = vec![None; self.wanted.slots];
        while seq.next_element_seed(Object { node: &self.wanted.root, row: &mut row })?.is_some() {
            self.rows.push(std::mem::replace(&mut row, vec![None; self.wanted.slots]));
        }
        Ok(())
    }
}

/// One object's wanted fields.
struct Object<'w, 'a> {
    node: &'w Node,
    row: &'w mut [Option<Value<'a>>],
}

impl<'a> DeserializeSeed<'a> for Object<'_, 'a> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<std::borrow::Cow<'a, str>>()? {
            match self.node.below.get(name.as_ref()) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(node) => {
                    let raw: &'a RawValue = map.next_value()?;
                    take(node, raw, self.row).map_err(M::Error::custom)?;
                }
            }
        }
        Ok(())
    }
}

fn take<'a>(node: &Node, raw: &'a RawValue, row: &mut [Option<Value<'a>>]) -> Result<(), serde_json::Error> {
    if let Some(slot) = node.slot {
        row[slot] = value(raw)?;
    }
    // What is no object has no fields: they stay absent.
    if !node.below.is_empty() && raw.get().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(raw.get());
        Object { node, row }.deserialize(&mut json)?;
    }
    Ok(())
}

fn value(raw: &RawValue) -> Result<Option<Value<'_>>, serde_json::Error> {
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'n') => None,
        Some(b't' | b'f') => Some(Value::Bool(text == "true")),
        Some(b'"') => Some(Value::Text(match serde_json::from_str::<&str>(text) {
            Ok(plain) => plain.into(),
            // It has escapes.
            Err(_) => serde_json::from_str::<String>(text)?.into(),
        })),
        Some(b'[') => {
            let values: Vec<&RawValue> = serde_json::from_str(text)?;
            let values: Result<Vec<_>, _> = values.into_iter().map(value).collect();
            Some(Value::List(values?.into_iter().flatten().collect()))
        }
        Some(b'{') => Some(Value::Other("an object")),
        _ => Some(Value::Decimal(text.into())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(paths: &[&str], payload: &str) -> Result<Vec<Vec<String>>, String> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let rows = Json::new(&paths).decode(payload.as_bytes())?;
        let shown = |value: &Option<Value<'_>>| value.as_ref().map_or("-".to_owned(), Value::shown);
        Ok(rows.iter().map(|row| row.iter().map(shown).collect()).collect())
    }

    #[test]
    fn numbers_keep_every_digit() {
        let payload =
            r#"{"p":190.450000000000000000001,"q":{"s":12345678901234567890,"x":[1,{"y":2}]},"n":null}"#;
        let row = decode(&["p", "q.s", "n", "q.z", "absent"], payload).unwrap();
        assert_eq!(row, [["190.450000000000000000001", "12345678901234567890", "-", "-", "-"]]);
    }

    #[test]
    fn arrays_are_several_rows_and_escapes_are_undone() {
        let payload = r#"[{"s":"BRK\u002eA","c":["@","T"]},{"s":"A","c":[],"more":true}]"#;
        let rows = decode(&["s", "c", "more"], payload).unwrap();
        assert_eq!(rows, [["\"BRK.A\"", "a list of 2", "-"], ["\"A\"", "a list of 0", "true"]]);
        assert_eq!(decode(&["s"], "[]").unwrap(), [[""; 0]; 0]);
    }

    #[test]
    fn what_is_no_json_is_told() {
        for (payload, told) in [
            ("", "EOF while parsing"),
            ("17", "expected an object, or an array of objects"),
            (r#"{"s":"A""#, "EOF while parsing"),
            (r#"{"s":1}{"s":2}"#, "trailing characters"),
            ("[1]", "expected an object"),
        ] {
            let error = decode(&["s"], payload).unwrap_err();
            assert!(error.contains(told), "{payload}: {error}");
        }
    }
}
