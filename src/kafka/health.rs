//! Whether brokers answer a client, and if not, why: out of what librdkafka calls back.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{SettingsError, code_of};

/// What librdkafka says where a listener has hung up: which of them, hangs on whether it was about to
/// read or to write then.
const HUNG_UP: [&str; 3] = ["Disconnected", "Receive failed", "Send failed"];

/// Why brokers do not serve a client, out of what it calls back.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    /// What happened last, with what to do about it where that is known.
    reason: Option<String>,
    /// Whether only other settings, here or there, can mend that.
    is_refusal: bool,
    /// Whether it happened with every broker.
    of_all: bool,
}

impl Trouble {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened last.
    pub fn reason(&self) -> Option<String> {
        self.told().reason.clone()
    }

    /// Forgets it: a broker served the client.
    pub fn clear(&self) {
        *self.told() = Told::default();
    }

    /// Takes note of what a client logs: each connection that fails is, before an error is told, and
    /// some without one.
    pub fn logged(&self, facility: &str, message: &str) {
        if facility != "FAIL" {
            return;
        }
        // It begins with the thread.
        let reason = message.rsplit_once("]: ").map_or(message, |(_, reason)| reason);
        let mut told = self.told();
        // A broker's own words in the TLS protocol: its only reason is who the client is.
        told.is_refusal = reason.contains("SSL alert number");
        let advice = if told.is_refusal {
            "; the broker does not take this client's certificate, or that it has none: check \
             `ssl.certificate.location` and `ssl.key.location`"
        } else if HUNG_UP.iter().any(|words| reason.contains(words)) {
            "; if that goes on, check the port and `security.protocol`: listeners of another protocol hang up"
        } else {
            ""
        };
        told.reason = Some(format!("{reason}{advice}"));
    }

    /// Takes note of an error: whether it means that no broker serves the client.
    pub fn noted(&self, error: &KafkaError, reason: &str) -> bool {
        let mut told = self.told();
        let advice = match code_of(error) {
            Some(RDKafkaErrorCode::Authentication) => {
                "check `sasl.mechanisms`, `sasl.username` and `sasl.password`"
            }
            Some(RDKafkaErrorCode::SSL) => {
                "check `ssl.ca.location`, and that the broker's certificate is for the host by which it is named"
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                told.of_all = true;
                told.reason.get_or_insert_with(|| reason.to_owned());
                return true;
            }
            _ => return false,
        };
        told.is_refusal = true;
        told.reason = Some(format!("{reason}; {advice}"));
        true
    }
}

impl ClientContext for Trouble {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.logged(facility, message);
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.noted(&error, reason);
        Aside.error(error, reason);
    }
}

impl ConsumerContext for Trouble {}

/// Takes in what an idle client has to call back after a question that failed: nobody else polls it.
/// Blocks, for a moment.
pub fn take_in<C: ConsumerContext>(asker: &BaseConsumer<C>) {
    // A wait of nothing would end with the first line that it logs.
    while asker.poll(Duration::from_millis(10)).is_some() {}
}

/// Why no broker serves a client at the first contact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeetError {
    /// Only other settings, here or there, can help.
    #[error("{0}")]
    Refused(String),
    /// No broker has answered yet.
    #[error("{0}")]
    Away(String),
}

/// The longest wait for an answer, after which a client is asked again.
const MEET_STEP_MAX: Duration = Duration::from_secs(2);

/// Waits until a broker serves a client made of `config`, for at most `wait_max`. It asks for
/// `topic`, which need not be there.
///
/// Errors: why none does; at once where every broker refuses the client, since a login or a
/// certificate is not mended by waiting.
pub async fn meet(config: &ClientConfig, topic: &str, wait_max: Duration) -> Result<(), MeetError> {
    let until = Instant::now() + wait_max;
    let trouble = Trouble::default();
    let asker: BaseConsumer<Trouble> = config
        .create_with_context(trouble.clone())
        .map_err(|error| MeetError::Refused(SettingsError::from(error).to_string()))?;
    let asker = Arc::new(asker);
    let mut step = MEET_STEP_MAX / 16;
    let met = loop {
        let (asker, topic) = (asker.clone(), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let is_served = asker.fetch_metadata(Some(&topic), step).is_ok();
            take_in(&asker);
            is_served
        });
        if asked.await.unwrap_or(false) {
            break Ok(());
        }
        let told = trouble.told();
        let reason = told.reason.clone().unwrap_or_else(|| "its brokers do not answer".to_owned());
        if told.is_refusal && told.of_all {
            break Err(MeetError::Refused(reason));
        }
        if Instant::now() >= until {
            break Err(MeetError::Away(reason));
        }
        step = (step * 2).min(MEET_STEP_MAX);
    };
    drop_aside(asker);
    met
}

/// Whether the brokers answer, as far as a client has noticed.
#[derive(Debug, Default)]
pub struct Health {
    /// Why not, as the client said last.
    down: watch::Sender<Option<String>>,
    /// Brokers with an open connection.
    up: Gauge<i64, AtomicI64>,
    /// The last report had brokers with an open connection, and nothing has failed since.
    is_up: AtomicBool,
    /// Whether the client has lost all its brokers.
    orphaned: Orphaned,
    trouble: Trouble,
}

impl Health {
    /// Why the brokers can't be reached, if that is so.
    pub fn down(&self) -> Option<String> {
        self.down.borrow().clone()
    }

    /// Follows [`Health::down`].
    pub fn changes(&self) -> watch::Receiver<Option<String>> {
        self.down.subscribe()
    }

    /// Brokers with an open connection, as a metric.
    pub fn brokers_up(&self) -> Gauge<i64, AtomicI64> {
        self.up.clone()
    }

    /// Whether the client has lost all its brokers, for [`keep_brokers`].
    pub fn orphaned(&self) -> Orphaned {
        self.orphaned.clone()
    }

    /// Takes note of a report's open connections. The first since a failure may have been made before
    /// it and come after it; the next one is of a later second.
    fn connected(&self, brokers: i64) {
        self.up.set(brokers);
        if self.is_up.swap(brokers > 0, Ordering::AcqRel) && brokers > 0 {
            self.answered();
        }
    }

    /// Takes note of an answer.
    pub fn answered(&self) {
        self.down.send_if_modified(|down| {
            let before = down.take();
            if let Some(reason) = &before {
                self.trouble.clear();
                tracing::info!(reason, "Kafka answers again");
            }
            before.is_some()
        });
    }

    /// Takes note of what a client could not do.
    pub fn failed(&self, reason: String) {
        self.is_up.store(false, Ordering::Release);
        if self.down.send_replace(Some(reason.clone())).is_none() {
            tracing::warn!(reason, "Kafka does not answer; what needs it waits");
        }
    }
}

/// What librdkafka logs of any client.
fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    // Producer and consumer get the same properties, and each says which are not for it.
    if facility == "CONFWARN" {
        return tracing::trace!(target: "librdkafka", facility, "{message}");
    }
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        // A broker that is away is told of once, by `Health`, not with every attempt.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        _ => tracing::trace!(target: "librdkafka", facility, "{message}"),
    }
}

/// Whether a client knew no broker any more at its last report. librdkafka forgets those that an answer
/// about the cluster does not name (confluentinc/librdkafka#5301). A lone broker that hung for a while names
/// none, not even itself. The client then asks nobody, and waits for ever.
#[derive(Clone, Debug, Default)]
pub struct Orphaned(Arc<AtomicBool>);

impl Orphaned {
    /// Takes note of a report: whether it names no broker.
    fn reported(&self, statistics: &Statistics) -> bool {
        // A group's coordinator stands for itself too, which answers nothing about the cluster.
        let mut sources = statistics.brokers.values().map(|broker| broker.source.as_str());
        let is_orphaned = sources.all(|source| matches!(source, "internal" | "logical"));
        self.0.store(is_orphaned, Ordering::Release);
        is_orphaned
    }

    /// Whether the last report named no broker.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How often it is looked whether a client knows a broker. Reports come every second.
const ORPHANED_LOOK: Duration = Duration::from_secs(10);

/// Gives a client its first `brokers` again whenever it has lost all, until it is gone. It is one that is
/// polled all the time, and makes statistics; `of` finds it in its owner. Each time is counted in `retries`.
pub async fn keep_brokers<T: Send + Sync + 'static, C: ClientContext + 'static>(
    owner: Weak<T>,
    of: impl Fn(&T) -> &Client<C>,
    orphaned: Orphaned,
    brokers: String,
    retries: Counter,
) {
    let mut clock = tokio::time::interval(ORPHANED_LOOK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let Some(owner) = owner.upgrade() else { return };
        if orphaned.get() {
            tracing::warn!(brokers, "a client of Kafka has lost all brokers; it asks the first ones again");
            retries.inc();
            if let Err(error) = stk_topic_id::bootstrap_again(of(&owner), &brokers) {
                tracing::error!(brokers, %error, "a client of Kafka can't be given its brokers again");
            }
        }
        // It may have become the last one to own the client.
        drop_aside(owner);
    }
}

/// Ends a client where it may block.
pub fn drop_aside<T: Send + 'static>(client: T) {
    // Without a runtime the process is about to end, and nobody waits for this thread.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        drop(runtime.spawn_blocking(move || drop(client)));
    }
}

/// What librdkafka calls back about the one client of a cluster that tells whether its brokers
/// answer: one that is polled all the time, and makes statistics.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// What it learns.
    pub health: Arc<Health>,
}

impl Watch {
    /// One that counts brokers with an open connection in `brokers_up`.
    pub fn counting(brokers_up: Gauge<i64, AtomicI64>) -> Self {
        Self { health: Arc::new(Health { up: brokers_up, ..Health::default() }) }
    }
}

/// What librdkafka calls back about any other client: it is only logged. One that is polled now and
/// then tells of an outage when it is next polled, long after the brokers are back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aside;

impl ClientContext for Aside {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Aside {}

/// As [`Aside`], about a client that is polled all the time, makes statistics and lives as long as the
/// process.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// For [`keep_brokers`].
    pub orphaned: Orphaned,
}

impl ClientContext for Kept {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.orphaned.reported(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Aside.error(error, reason);
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.health.trouble.logged(facility, message);
        log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        let up = statistics.brokers.values().filter(|broker| broker.state == "UP" && broker.nodeid >= 0);
        self.health.connected(up.count() as i64);
        if self.health.orphaned.reported(&statistics) {
            self.health.failed("an answer about the cluster named no broker".to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let trouble = &self.health.trouble;
        if trouble.noted(&error, reason) {
            self.health.failed(trouble.reason().unwrap_or_else(|| reason.to_owned()));
        } else {
            tracing::debug!(target: "librdkafka", %error, "{reason}");
        }
    }
}

impl ConsumerContext for Watch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_from_before_a_failure_does_not_end_it() {
        let health = Health::default();
        health.connected(1);
        health.connected(1);
        health.failed("all brokers are down".to_owned());
        // Made before, told after.
        health.connected(1);
        assert_eq!(health.down().as_deref(), Some("all brokers are down"));
        health.connected(0);
        health.connected(1);
        assert!(health.down().is_some());
        health.connected(1);
        assert_eq!(health.down(), None);
    }

    #[test]
    fn a_client_without_any_broker_is_noticed_until_it_knows_one() {
        let watch = Watch::default();
        let report = |sources: &[&str]| {
            let broker = |source: &&str| {
                let source = (*source).to_owned();
                (source.clone(), rdkafka::statistics::Broker { source, ..Default::default() })
            };
            watch
                .stats(Statistics { brokers: sources.iter().map(broker).collect(), ..Statistics::default() });
            watch.health.orphaned.get()
        };
        assert!(!watch.health.orphaned.get(), "before the first report");
        assert!(report(&["internal"]));
        assert_eq!(watch.health.down().as_deref(), Some("an answer about the cluster named no broker"));
        assert!(!report(&["internal", "configured"]) && !report(&["internal", "learned"]));
        assert!(report(&["internal", "logical"]));
    }

    #[test]
    fn trouble_is_told_with_what_to_do() {
        use RDKafkaErrorCode as Code;
        let trouble = Trouble::default();
        let told = || (trouble.reason().unwrap_or_default(), trouble.told().is_refusal);
        trouble.logged("CONNECT", "[thrd:b:1/1]: b:1/1: connected");
        assert_eq!(told(), (String::new(), false));
        assert!(trouble.noted(&KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down"));
        assert_eq!(told(), ("1/1 brokers are down".to_owned(), false), "nothing better is known");
        trouble.logged("FAIL", "[thrd:b:1/1]: b:1/1: Connect to ipv4#b:1 failed: Connection refused");
        assert_eq!(told(), ("b:1/1: Connect to ipv4#b:1 failed: Connection refused".to_owned(), false));
        assert!(!trouble.noted(&KafkaError::Global(Code::BrokerTransportFailure), "refused"));
        assert!(trouble.noted(&KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down"));
        assert!(told().0.ends_with("Connection refused"), "it says more than that all are down");
        trouble.logged("FAIL", "[thrd:b:1/1]: b:1/1: SASL authentication error: no");
        assert!(trouble.noted(&KafkaError::Global(Code::Authentication), "b:1/1: no"));
        let advice = "b:1/1: no; check `sasl.mechanisms`, `sasl.username` and `sasl.password`";
        assert_eq!(told(), (advice.to_owned(), true));
        trouble.logged("FAIL", "[thrd:b:1/1]: b:1/1: Connect to ipv4#b:1 failed: Connection refused");
        assert!(!told().1, "it may be back with another login");
        for hung_up in [
            "Disconnected: connection closed by peer",
            "Receive failed: Connection reset by peer",
            "Send failed: Broken pipe (after 0ms in state UP)",
        ] {
            trouble.logged("FAIL", &format!("[thrd:b:1/1]: b:1/1: {hung_up}"));
            assert!(told().0.contains("check the port and `security.protocol`"), "{hung_up}");
        }
        trouble.logged("FAIL", "[thrd:b:1/1]: b:1/1: Receive failed: bad certificate: SSL alert number 42");
        assert!(told().0.contains("`ssl.certificate.location`") && told().1);
        trouble.clear();
        assert_eq!(told(), (String::new(), false));
    }

    #[test]
    fn an_answer_ends_an_outage() {
        let watch = Watch::default();
        watch.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "3/3 brokers are down");
        assert_eq!(watch.health.down().as_deref(), Some("3/3 brokers are down"));
        watch.stats(Statistics::default());
        assert!(watch.health.down().is_some(), "no broker is up");
        watch.log(RDKafkaLogLevel::Error, "FAIL", "[thrd:b:1/1]: b:1/1: Connection refused");
        watch.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "3/3 brokers are down");
        assert_eq!(watch.health.down().as_deref(), Some("b:1/1: Connection refused"));
        watch.health.answered();
        assert_eq!(watch.health.down(), None);
    }
}
