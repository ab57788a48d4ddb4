//! `stk` and brokers that want to know who asks.

use super::scaled::{until, ureq};
use super::support::{Home, OwnServices, Server, metric, service, tls_service};

const WRONG_PASSWORD: &str = "not-the-secret";

/// A configuration whose log is a topic that no other test has, on `brokers` with `properties`.
fn write_config(home: &Home, brokers: &str, properties: &[&str]) {
    let topic = format!("stk-secure-{}", stk::market::Timestamp::now().nanos());
    let data = home.path("data").display().to_string();
    let log = format!(
        "[data]\ndir = {data:?}\n[log]\npartitions = 2\nkafka_brokers = \"{brokers}\"\nkafka_topic = \"{topic}\"\nkafka_group = \"{topic}\"\n\
         kafka_properties = {properties:?}\n"
    );
    std::fs::write(home.path("stk.toml"), log).expect("written");
}

/// The arguments of a server with that configuration.
fn serve(home: &Home) -> std::process::Command {
    let listen = ["--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
    home.stk(&[&["serve", "--config", "stk.toml", "--feed", "sim:rate=5000"], &listen[..]].concat())
}

fn doctor(home: &Home) -> String {
    // Where nobody listens: this is of Kafka.
    home.run(&["doctor", "--config", "stk.toml", "--server", "127.0.0.1:1"])
}

/// Ticks get through the log, and `stk doctor` is content with it.
fn works(home: &Home, brokers: &str) {
    let told = doctor(home);
    assert!(told.contains(&format!("ok    Kafka at {brokers} serves this client")), "{told}");
    assert!(told.starts_with("exit: 0\n"), "{told}");
    let server = Server::run(serve(home), true);
    server.await_ready();
    while metric(&server.address, "processor_ticks_total") == 0.0 {}
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
}

#[test]
fn doctor_says_what_this_build_can_do() {
    let told = Home::new().run(&["doctor", "--server", "127.0.0.1:1"]);
    let expected = if cfg!(feature = "kafka-tls") {
        "ok    Kafka: this binary has SSL, SASL PLAIN, SASL SCRAM, SASL OAUTHBEARER\n"
    } else {
        "note  Kafka: this binary has SASL PLAIN, no SSL\n      \
         brokers that ask for TLS, SCRAM or OAUTHBEARER need one built with `--features kafka-tls`\n"
    };
    assert!(told.contains(expected), "{told}");
}

#[test]
fn a_login_opens_the_log_and_a_wrong_one_is_told_at_once() {
    let Some(brokers) = service("KAFKA_SASL") else { return };
    let (home, plain) = (Home::new(), ["security.protocol=SASL_PLAINTEXT", "sasl.mechanisms=PLAIN"]);
    let login = |password| [&plain[..], &["sasl.username=stk", password]].concat();
    write_config(&home, &brokers, &login("sasl.password=stk-secret"));
    works(&home, &brokers);

    write_config(&home, &brokers, &login(&format!("sasl.password={WRONG_PASSWORD}")));
    let served = home.shown(&mut serve(&home));
    let examined = doctor(&home);
    let shown = home.run(&["config", "show", "--config", "stk.toml"]);
    for told in [&served, &examined, &shown] {
        assert!(!told.contains(WRONG_PASSWORD), "{told}");
    }
    for told in [served, examined] {
        assert!(told.starts_with("exit: 1\n"), "{told}");
        assert!(told.contains("Authentication failed: Invalid username or password"), "{told}");
        assert!(told.contains("check `sasl.mechanisms`, `sasl.username` and `sasl.password`"), "{told}");
    }
}

/// Somebody changes the password, and sees what he has done.
#[tokio::test]
async fn a_login_that_is_refused_later_is_waited_out() {
    let Some(services) = OwnServices::up(&["kafka"]) else { return };
    let brokers = services.address("KAFKA_SASL").expect("it listens");
    let home = Home::new();
    let login = ["sasl.mechanisms=PLAIN", "sasl.username=stk", "sasl.password=stk-secret"];
    write_config(&home, &brokers, &[&["security.protocol=SASL_PLAINTEXT"], &login[..]].concat());
    let server = Server::run(serve(&home), true);
    let processed = || metric(&server.address, "processor_ticks_total");
    until("the first tick", async || processed() > 0.0).await;
    let restart_with = |from: &str, to: &str| {
        services.kill("kafka");
        services.edit(
            "kafka",
            "server.properties",
            &format!("user_stk=\"{from}\""),
            &format!("user_stk=\"{to}\""),
        );
        services.start("kafka");
    };
    restart_with("stk-secret", "another");
    until("the refusal", async || {
        let health = ureq(&server.address, "/readyz");
        health.contains("Authentication failed") && health.contains("check `sasl.mechanisms`")
    })
    .await;
    restart_with("another", "stk-secret");
    server.await_ready();
    let before = processed();
    until("a later tick", async || processed() > before).await;
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
}

#[test]
fn a_secret_is_not_told_with_what_is_wrong_beside_it() {
    let home = Home::new();
    for (properties, expected) in [
        (&["sasl.password=not-the-secret", "security.protocol"][..], "each property is `name=value`"),
        (&["security.protocol=SASL_PLAINTEXT,sasl.password=not-the-secret"], "security.protocol"),
    ] {
        write_config(&home, "127.0.0.1:1", properties);
        let told = home.shown(&mut serve(&home));
        assert!(!told.starts_with("exit: 0\n") && told.contains(expected), "{told}");
        assert!(!told.contains(WRONG_PASSWORD), "{told}");
    }
}

#[test]
fn tls_and_scram_open_the_log() {
    let Some(brokers) = tls_service("KAFKA_SASL_TLS") else { return };
    let authority = format!("ssl.ca.location={}/ca.pem", service("KAFKA_CERTS").expect("it is there"));
    let login =
        ["sasl.mechanisms=SCRAM-SHA-512", "sasl.username=stk", "sasl.password=stk-secret", &authority];
    let home = Home::new();
    write_config(&home, &brokers, &[&["security.protocol=SASL_SSL"], &login[..]].concat());
    works(&home, &brokers);
}
