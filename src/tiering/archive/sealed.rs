//! JSON objects that hold their own checksum, so that a flipped digit is no other number.
//!
//! `checksum` is the XXH3-64 of the object without it, as compact JSON with its keys in order.
//! Objects of version 1 were written without one.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

const FIELD: &str = "checksum";

/// The first version of objects that have a checksum.
const VERSION_MIN: u64 = 2;

fn checksum(value: &Value) -> String {
    format!("{:016x}", xxh3_64(value.to_string().as_bytes()))
}

/// `object`, which becomes a JSON object with a version, with its checksum.
pub(crate) fn seal<T: Serialize>(object: &T) -> Bytes {
    let mut value = serde_json::to_value(object).expect("what is stored has only string keys");
    if let Value::Object(fields) = &mut value {
        fields.remove(FIELD);
    }
    let checksum = checksum(&value);
    if let Value::Object(fields) = &mut value {
        fields.insert(FIELD.to_owned(), Value::String(checksum));
    }
    let mut bytes = serde_json::to_vec_pretty(&value).expect("what is stored has only string keys");
    bytes.push(b'\n');
    bytes.into()
}

/// The object in `bytes`, or what is wrong with them.
pub(crate) fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let stored = value.as_object_mut().and_then(|fields| fields.remove(FIELD));
    match stored {
        Some(stored) if stored.as_str() == Some(&checksum(&value)) => {}
        Some(_) => return Err("it does not match its checksum".to_owned()),
        None if value["version"].as_u64().is_none_or(|version| version < VERSION_MIN) => {}
        None => return Err("it lacks its checksum".to_owned()),
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Object {
        version: u32,
        offsets: Vec<u64>,
        name: Option<String>,
    }

    #[test]
    fn no_flipped_bit_reads_as_another_object() {
        let object = Object { version: 2, offsets: vec![1, u64::MAX], name: Some("A".to_owned()) };
        let sealed = seal(&object);
        assert_eq!(open::<Object>(&sealed).unwrap(), object);
        for (at, bit) in (0..sealed.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = sealed.to_vec();
            flipped[at] ^= 1 << bit;
            if let Ok(read) = open::<Object>(&flipped) {
                assert_eq!(read, object, "byte {at} bit {bit}");
            }
        }
        for len in 0..sealed.len() - 1 {
            assert!(open::<Object>(&sealed[..len]).is_err(), "cut at {len}");
        }
        let first = br#"{"version": 1, "offsets": [3], "name": null}"#;
        assert_eq!(open::<Object>(first).unwrap().offsets, [3], "a first version has no checksum");
    }
}
