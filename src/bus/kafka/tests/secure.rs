//! The log on brokers that want to know who asks: SASL, TLS, certificates. `scripts/recipes.py` has
//! the listeners, the user and the authority.

use super::*;
use crate::testing::tls_service;

const PASSWORD: &str = "stk-secret";
const WRONG_PASSWORD: &str = "not-the-secret";

type Property = (&'static str, String);

/// With a patience that no test has, so that what ends sooner did not wait for it.
fn config_with(brokers: &str, properties: impl IntoIterator<Item = Property>) -> KafkaBusConfig {
    let properties = properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    KafkaBusConfig { properties, open_wait_max: Duration::from_hours(1), ..config(brokers) }
}

fn login(protocol: &str, mechanism: &str, password: &str) -> Vec<Property> {
    vec![
        ("security.protocol", protocol.to_owned()),
        ("sasl.mechanisms", mechanism.to_owned()),
        ("sasl.username", "stk".to_owned()),
        ("sasl.password", password.to_owned()),
    ]
}

/// A file that the broker's recipe made.
fn certificate(name: &str) -> String {
    format!("{}/{name}", service("KAFKA_CERTS").expect("it is where the listeners are"))
}

fn tls(protocol: &str) -> Vec<Property> {
    vec![("security.protocol", protocol.to_owned()), ("ssl.ca.location", certificate("ca.pem"))]
}

/// Every client that the log has does its part.
async fn works(config: KafkaBusConfig) {
    let bus = open(config.clone()).await;
    append(&*bus, 1, 0..10).await;
    assert_eq!(read_texts(&*bus, 1, 0).await.len(), 10);
    let (mut held, mut member) = (BTreeSet::new(), bus.join().await.unwrap());
    until(&mut *member, &mut held, usize::from(PARTITIONS)).await;
    bus.trim().await.unwrap();
    assert_eq!(bus.ready(), Ok(()));
    let other = open(config).await;
    let mut reader = other.reader(1, 10).await.unwrap();
    append(&*bus, 1, ["at the tail"]).await;
    assert_eq!(within("the tail", reader.next(100)).await.unwrap()[0].bytes, "at the tail");
}

/// What opening the log says where no broker ever will have it.
async fn refusal(config: KafkaBusConfig) -> String {
    let error = within("the refusal", KafkaBus::open(config)).await.err().unwrap();
    assert!(matches!(error, BusError::Failed { .. }), "{error}");
    let told = error.to_string();
    assert!(!told.contains(PASSWORD) && !told.contains(WRONG_PASSWORD), "{told}");
    told
}

/// What it says where there might be a listener of that kind some day.
async fn absence(mut config: KafkaBusConfig) -> String {
    config.open_wait_max = Duration::from_secs(1);
    loop {
        let error = within("the absence", KafkaBus::open(config.clone())).await.err().unwrap();
        assert!(matches!(error, BusError::Unavailable { .. }), "{error}");
        // A listener that takes long to hang up has said nothing by then.
        if !error.to_string().contains("do not answer") || 2 * config.open_wait_max > PATIENCE {
            return error.to_string();
        }
        config.open_wait_max *= 2;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_enough_for_any_build() {
    let Some(brokers) = service("KAFKA_SASL") else { return };
    works(config_with(&brokers, login("SASL_PLAINTEXT", "PLAIN", PASSWORD))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_at_once() {
    let Some(brokers) = service("KAFKA_SASL") else { return };
    let told = refusal(config_with(&brokers, login("SASL_PLAINTEXT", "PLAIN", WRONG_PASSWORD))).await;
    assert!(told.contains("Authentication failed: Invalid username or password"), "{told}");
    assert!(told.ends_with("check `sasl.mechanisms`, `sasl.username` and `sasl.password`"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_than_the_listeners_is_told() {
    let (Some(sasl), Some(tls)) = (service("KAFKA_SASL"), service("KAFKA_TLS")) else { return };
    for brokers in [sasl, tls] {
        let told = absence(config_with(&brokers, [])).await;
        assert!(told.contains("check the port and `security.protocol`"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_scram_carry_the_log() {
    let Some(brokers) = tls_service("KAFKA_SASL_TLS") else { return };
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let properties = [login("SASL_SSL", mechanism, PASSWORD), tls("SASL_SSL")].concat();
        works(config_with(&brokers, properties)).await;
    }
    let Some(brokers) = tls_service("KAFKA_SASL") else { return };
    works(config_with(&brokers, login("SASL_PLAINTEXT", "SCRAM-SHA-512", PASSWORD))).await;
    let Some(brokers) = tls_service("KAFKA_TLS") else { return };
    works(config_with(&brokers, tls("SSL"))).await;
    let Some(brokers) = tls_service("KAFKA_MUTUAL_TLS") else { return };
    let own = [
        ("ssl.certificate.location", certificate("client.crt")),
        ("ssl.key.location", certificate("client.key")),
    ];
    works(config_with(&brokers, tls("SSL").into_iter().chain(own))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_over_tls() {
    let Some(brokers) = tls_service("KAFKA_SASL_TLS") else { return };
    let properties = [login("SASL_SSL", "SCRAM-SHA-512", PASSWORD), tls("SASL_SSL")].concat();
    conformance::run(|| async { open(config_with(&brokers, properties.clone())).await as Arc<dyn Bus> })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tls_does_not_let_pass_is_told_at_once() {
    let Some(brokers) = tls_service("KAFKA_TLS") else { return };
    let (_, port) = brokers.split_once(':').unwrap();
    // Nobody that this machine trusts vouches for the broker.
    let unknown = refusal(config_with(&brokers, [("security.protocol", "SSL".to_owned())])).await;
    // Its certificate is for 127.0.0.1 alone.
    let other_name = refusal(config_with(&format!("localhost:{port}"), tls("SSL"))).await;
    for told in [unknown, other_name] {
        assert!(told.contains("certificate verify failed"), "{told}");
        let advice =
            "check `ssl.ca.location`, and that the broker's certificate is for the host by which it is named";
        assert!(told.ends_with(advice), "{told}");
    }
    let missing = [("security.protocol", "SSL".to_owned()), ("ssl.ca.location", "/no/such.pem".to_owned())];
    let told = refusal(config_with(&brokers, missing)).await;
    assert!(
        told.ends_with("`ssl.ca.location`: /no/such.pem: No such file or directory (os error 2)"),
        "{told}"
    );

    let Some(brokers) = tls_service("KAFKA_MUTUAL_TLS") else { return };
    let told = refusal(config_with(&brokers, tls("SSL"))).await;
    assert!(told.ends_with("check `ssl.certificate.location` and `ssl.key.location`"), "{told}");

    let Some(brokers) = tls_service("KAFKA_SASL_TLS") else { return };
    let wrong = [login("SASL_SSL", "SCRAM-SHA-512", WRONG_PASSWORD), tls("SASL_SSL")].concat();
    let told = refusal(config_with(&brokers, wrong)).await;
    assert!(told.contains("invalid credentials with SASL mechanism SCRAM-SHA-512"), "{told}");
    let other = [login("SASL_SSL", "PLAIN", PASSWORD), tls("SASL_SSL")].concat();
    let told = refusal(config_with(&brokers, other)).await;
    assert!(told.contains("broker's supported mechanisms: SCRAM-SHA-"), "{told}");

    let Some(brokers) = tls_service("KAFKA") else { return };
    let told = absence(config_with(&brokers, tls("SSL"))).await;
    assert!(told.contains("check the port and `security.protocol`"), "{told}");
}
