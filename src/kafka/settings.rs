//! How a client is made: what properties of librdkafka it takes, and which this build can't do.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

/// What this build of librdkafka can do: `ssl`, `sasl_plain`, `sasl_scram`, `zstd` and so on.
pub fn features() -> Vec<String> {
    let native = ClientConfig::new().create_native_config();
    let features = native.and_then(|native| native.get("builtin.features")).unwrap_or_default();
    features
        .split(',')
        .map(|feature| feature.trim().to_owned())
        .filter(|feature| !feature.is_empty())
        .collect()
}

/// Why a client can't be made of these settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The build lacks what a property needs.
    #[error("`{property}` needs {feature}, which this binary lacks: build it with `--features kafka-tls`")]
    Feature {
        /// The property, with its value where that is what needs it.
        property: String,
        /// What it needs.
        feature: &'static str,
    },
    /// A property that `stk` sets itself, since a promise hangs on it.
    #[error("`{property}` is not to be set: stk sets it itself, to keep its promises")]
    Reserved {
        /// The property.
        property: String,
    },
    /// librdkafka refuses the property.
    #[error("`{property}`: {reason}")]
    Refused {
        /// The property, or `librdkafka` where it names none.
        property: String,
        /// What librdkafka says.
        reason: String,
    },
}

impl From<KafkaError> for SettingsError {
    fn from(error: KafkaError) -> Self {
        match error {
            KafkaError::ClientConfig(_, reason, property, value) => {
                let is_shown = is_word(&value) && !is_secret(&property);
                let reason = if is_shown { reason } else { reason.replace(&value, "…") };
                Self::Refused { property, reason }
            }
            KafkaError::ClientCreation(reason) => Self::Refused { property: "librdkafka".to_owned(), reason },
            other => Self::Refused { property: "librdkafka".to_owned(), reason: other.to_string() },
        }
    }
}

/// Whether the property holds a secret, by its name.
fn is_secret(property: &str) -> bool {
    ["password", "secret", "token", "key", "jaas", "oauthbearer.config"]
        .iter()
        .any(|part| property.contains(part))
}

/// Whether a value may be shown: one that is more than a word can have a password in it, of
/// properties that were run together.
fn is_word(value: &str) -> bool {
    value.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_'))
}

/// What no property may change.
const RESERVED: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "builtin.features",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "request.required.acks",
    "transactional.id",
];

/// What every client is made with: `brokers` (`host:port`, separated by commas), and further
/// `properties` of librdkafka, which are checked against what this build can do.
pub fn client_config(brokers: &str, properties: &[(String, String)]) -> Result<ClientConfig, SettingsError> {
    check(properties, &features())?;
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "stk")
        .set("reconnect.backoff.max.ms", "2000")
        .set("topic.metadata.refresh.interval.ms", "60000")
        .set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in properties {
        config.set(name, value);
    }
    config.create_native_config()?;
    // librdkafka says of a file only that OpenSSL could not read it.
    for (name, path) in properties.iter().filter(|(name, path)| is_file(name) && path != "probe") {
        std::fs::metadata(path).map_err(|error| SettingsError::Refused {
            property: name.clone(),
            reason: format!("{path}: {error}"),
        })?;
    }
    Ok(config)
}

/// Whether a property names a file, or a directory of them.
fn is_file(property: &str) -> bool {
    property.starts_with("ssl.") && property.ends_with(".location") && property != "ssl.engine.location"
}

/// Refuses what is reserved, and what needs more than `features`.
fn check(properties: &[(String, String)], features: &[String]) -> Result<(), SettingsError> {
    let needs = |property: String, feature: &'static str| {
        let has = features.iter().any(|has| has == feature);
        if has { Ok(()) } else { Err(SettingsError::Feature { property, feature }) }
    };
    let value_of = |names: &[&str]| {
        properties.iter().rfind(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value.as_str())
    };
    for (name, value) in properties {
        let lower = value.to_ascii_lowercase();
        let value = if is_word(value) { value } else { "…" };
        match name.as_str() {
            reserved if RESERVED.contains(&reserved) => {
                return Err(SettingsError::Reserved { property: name.clone() });
            }
            "security.protocol" => {
                if lower.contains("ssl") {
                    needs(format!("{name}={value}"), "ssl")?;
                }
                if lower.starts_with("sasl") && value_of(&["sasl.mechanism", "sasl.mechanisms"]).is_none() {
                    // What librdkafka takes when it is not told.
                    needs(format!("{name}={value} without sasl.mechanism"), "sasl_gssapi")?;
                }
            }
            "sasl.mechanism" | "sasl.mechanisms" => {
                let feature = match lower.as_str() {
                    "plain" => "sasl_plain",
                    "gssapi" => "sasl_gssapi",
                    "oauthbearer" => "sasl_oauthbearer",
                    _ if lower.starts_with("scram-") => "sasl_scram",
                    _ => "sasl",
                };
                needs(format!("{name}={value}"), feature)?;
            }
            _ if name.starts_with("ssl.") || name == "enable.ssl.certificate.verification" => {
                needs(name.clone(), "ssl")?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(properties: &[(&str, &str)], features: &[&str]) -> String {
        let properties: Vec<_> =
            properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let features: Vec<_> = features.iter().map(|feature| (*feature).to_owned()).collect();
        check(&properties, &features).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_the_build_lacks_is_named() {
        let plain = ["sasl", "sasl_plain", "zstd"];
        assert_eq!(
            refusal(&[("security.protocol", "SASL_SSL")], &plain),
            "`security.protocol=SASL_SSL` needs ssl, which this binary lacks: build it with `--features kafka-tls`"
        );
        assert!(refusal(&[("sasl.mechanism", "SCRAM-SHA-512")], &plain).contains("needs sasl_scram"));
        assert!(refusal(&[("sasl.mechanisms", "OAUTHBEARER")], &plain).contains("needs sasl_oauthbearer"));
        assert!(refusal(&[("ssl.ca.location", "/ca.pem")], &plain).contains("`ssl.ca.location` needs ssl"));
        assert!(refusal(&[("security.protocol", "sasl_plaintext")], &plain).contains("needs sasl_gssapi"));
        let with_password = [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "PLAIN")];
        assert_eq!(refusal(&with_password, &plain), "");
        assert_eq!(refusal(&[("security.protocol", "ssl"), ("ssl.ca.location", "x")], &["ssl"]), "");
    }

    #[test]
    fn what_a_promise_hangs_on_is_not_to_be_set() {
        for (name, value) in [("acks", "1"), ("enable.idempotence", "false"), ("message.timeout.ms", "1")] {
            assert!(refusal(&[(name, value)], &[]).contains(&format!("`{name}` is not to be set")));
        }
        assert_eq!(refusal(&[("compression.codec", "zstd")], &[]), "");
    }

    #[test]
    fn a_property_that_librdkafka_lacks_is_refused_by_name() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let error = client_config("b:1", &[pair("no.such", "1")]).unwrap_err();
        assert!(error.to_string().starts_with("`no.such`: "), "{error}");
        let error = client_config("b:1", &[pair("linger.ms", "soon")]).unwrap_err();
        assert!(error.to_string().starts_with("`linger.ms`: "), "{error}");
    }

    #[test]
    fn what_was_run_together_with_a_password_is_not_shown() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for (name, value) in [
            ("security.protocol", "SASL_PLAINTEXT,sasl.password=hidden"),
            ("sasl.mechanisms", "PLAIN,sasl.password=hidden"),
            ("compression.codec", "zstd,sasl.password=hidden"),
        ] {
            let error = client_config("b:1", &[pair(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn this_build_says_what_it_has() {
        let features = features();
        assert_eq!(features.iter().any(|feature| feature == "ssl"), cfg!(feature = "kafka-tls"));
        for needed in ["lz4", "zstd"] {
            assert!(features.iter().any(|feature| feature == needed), "{features:?}");
        }
    }
}
