//! The feed's file: where the messages are, what they are written in, and what of them is what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::avro::Avro;
use super::json::Json;
use super::map::{Envelope, Mapped, Mapping};
use super::protobuf::Protobuf;
use crate::feed::{BATCH_TICKS_MAX, FeedError};
use crate::market::Timestamp;

/// The most ticks of one message.
const MESSAGE_TICKS_MAX: usize = BATCH_TICKS_MAX / 4;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// `host:port`, separated by commas.
    pub(super) brokers: String,
    /// The topics to read.
    pub(super) topics: Vec<String>,
    /// Under which name the brokers keep how far it has read.
    pub(super) group: String,
    /// Where to begin in a partition that was never read.
    #[serde(default)]
    pub(super) start: Start,
    /// Which partitions of each topic to read; all of them where it is left out.
    pub(super) partitions: Option<Vec<u16>>,
    /// Where messages go that make no tick.
    pub(super) dead_letter_topic: String,
    /// Further properties of librdkafka.
    #[serde(default)]
    pub(super) properties: BTreeMap<String, String>,
    payload: Payload,
    map: toml::Table,
    sequence: Option<Sequence>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Start {
    /// With the oldest message.
    #[default]
    Earliest,
    /// With the next message.
    Latest,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "format", rename_all = "lowercase", deny_unknown_fields)]
enum Payload {
    Json {},
    Avro {
        /// A file; for data without a frame, or of any schema id that `schemas` does not name.
        schema: Option<PathBuf>,
        /// Files, by schema id.
        #[serde(default)]
        schemas: BTreeMap<String, PathBuf>,
        #[serde(default)]
        framing: Framing,
    },
    Protobuf {
        proto: PathBuf,
        /// Where imports are looked for; beside the file where it is left out.
        #[serde(default)]
        include: Vec<PathBuf>,
        message: String,
        #[serde(default)]
        framing: Framing,
    },
}

/// What stands before the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Framing {
    /// Nothing.
    #[default]
    None,
    /// A zero and the id of a schema, as Confluent's serializers write it.
    Confluent,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sequence {
    field: toml::Value,
    line: Option<toml::Value>,
    #[serde(default)]
    per: Per,
}

/// What is numbered apart. Numbers across partitions can't be followed: their messages come in no
/// order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Per {
    /// Each partition.
    #[default]
    Partition,
    /// Each symbol of a partition.
    Symbol,
}

#[derive(Debug)]
enum Format {
    Json(Json),
    Avro(Avro),
    Protobuf(Protobuf),
}

/// The file, checked, and all that it names read.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) file: File,
    /// None where nothing is numbered.
    pub(super) per: Option<Per>,
    mapping: Mapping,
    format: Format,
}

impl Config {
    /// Reads the file; what it names lies beside it, unless the paths are absolute.
    pub(super) fn read(path: &Path) -> Result<Self, FeedError> {
        let subject = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| FeedError::Io { subject: subject.clone(), source })?;
        let base = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, base).map_err(|reason| FeedError::Format { subject, reason })
    }

    fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{line}{}", error.message())
        })?;
        if file.topics.is_empty() {
            return Err("`topics` names none".to_owned());
        }
        if file.topics.contains(&file.dead_letter_topic) {
            return Err(format!(
                "`dead_letter_topic` is {}, which is read too: name another",
                file.dead_letter_topic
            ));
        }
        let sequence = file.sequence.as_ref().map(|sequence| (&sequence.field, sequence.line.as_ref()));
        let mapping = Mapping::new(&file.map, sequence)?;
        let format =
            file.payload.open(mapping.paths(), base).map_err(|reason| format!("payload: {reason}"))?;
        let per = file.sequence.as_ref().map(|sequence| sequence.per);
        Ok(Self { file, per, mapping, format })
    }

    /// What a message says.
    ///
    /// Errors: why it says nothing that is understood.
    pub(super) fn decode(
        &self,
        payload: &[u8],
        envelope: Envelope<'_>,
        recv_ts: Timestamp,
    ) -> Result<Vec<Mapped>, String> {
        let rows = match &self.format {
            Format::Json(json) => json.decode(payload)?,
            Format::Avro(avro) => avro.decode(payload)?,
            Format::Protobuf(protobuf) => protobuf.decode(payload)?,
        };
        // One message is never split: it stands in the log as a whole, once, gaps included.
        if rows.len() > MESSAGE_TICKS_MAX {
            return Err(format!("it holds {} ticks; at most {MESSAGE_TICKS_MAX} fit", rows.len()));
        }
        let is_many = rows.len() > 1;
        let tick = |(at, row): (usize, &Vec<_>)| {
            let mapped = self.mapping.tick(row, envelope, recv_ts);
            mapped.map_err(|reason| if is_many { format!("entry {at}: {reason}") } else { reason })
        };
        rows.iter().enumerate().map(tick).collect()
    }
}

impl Payload {
    fn open(&self, paths: &[String], base: &Path) -> Result<Format, String> {
        let read = |path: &PathBuf| {
            let path = base.join(path);
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        Ok(match self {
            Self::Json {} => Format::Json(Json::new(paths)),
            Self::Avro { schema, schemas, framing } => {
                let is_framed = *framing == Framing::Confluent;
                let mut texts = Vec::new();
                if let Some(schema) = schema {
                    texts.push((None, read(schema)?));
                }
                for (id, path) in schemas {
                    let id = id.parse().map_err(|_| format!("schemas.{id}: a schema's id is a number"))?;
                    texts.push((Some(id), read(path)?));
                }
                if texts.is_empty() || (!is_framed && schema.is_none()) {
                    return Err("Avro needs `schema`, a file".to_owned());
                }
                Format::Avro(Avro::new(paths, &texts, is_framed)?)
            }
            Self::Protobuf { proto, include, message, framing } => {
                let proto = base.join(proto);
                let beside = proto.parent().map(Path::to_owned).into_iter();
                let include: Vec<PathBuf> = if include.is_empty() {
                    beside.collect()
                } else {
                    include.iter().map(|path| base.join(path)).collect()
                };
                let is_framed = *framing == Framing::Confluent;
                Format::Protobuf(Protobuf::new(paths, &proto, &include, message, is_framed)?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        brokers = "localhost:9092"
        topics = ["trades"]
        group = "stk"
        dead_letter_topic = "trades-dead"
        [payload]
        format = "json"
        [map]
        kind = "prev_close"
        symbol = "s"
        ts = "t"
        price = "p"
    "#;

    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        Config::parse(&GOOD.replacen(from, to, 1), Path::new("/nowhere")).unwrap_err()
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        Config::parse(GOOD, Path::new("/nowhere")).unwrap();
        assert!(refusal("group = ", "grup = ").starts_with("line 4: unknown field `grup`"));
        assert!(refusal("\"trades-dead\"", "\"trades\"").contains("which is read too"));
        assert!(refusal("[\"trades\"]", "[]").contains("`topics` names none"));
        assert!(refusal("price = ", "prise = ").starts_with("`map.prise` is no field of a tick"));
        assert!(refusal("\"json\"", "\"xml\"").contains("unknown variant `xml`"));
        assert_eq!(refusal("\"json\"", "\"avro\""), "payload: Avro needs `schema`, a file");
        let error = refusal("\"json\"", "\"avro\"\nschema = \"none.avsc\"");
        assert!(error.starts_with("payload: /nowhere/none.avsc: "), "{error}");
        assert!(refusal("\"json\"", "\"json\"\nindent = 2").contains("unknown field `indent`"));
    }

    #[test]
    fn a_message_is_taken_whole_or_not_at_all() {
        let config = Config::parse(GOOD, Path::new("/nowhere")).unwrap();
        let decode = |payload: &str| config.decode(payload.as_bytes(), Envelope::default(), Timestamp::MIN);
        let entry = r#"{"s":"A","t":"2026-11-20T12:00:00Z","p":1}"#;
        assert_eq!(decode(&format!("[{entry},{entry}]")).unwrap().len(), 2);
        let error = decode(&format!("[{entry},{}]", entry.replace('A', "a b"))).unwrap_err();
        assert!(error.starts_with("entry 1: "), "{error}");
        let many = vec![entry; MESSAGE_TICKS_MAX + 1].join(",");
        assert_eq!(decode(&format!("[{many}]")).unwrap_err(), "it holds 1025 ticks; at most 1024 fit");
    }
}
