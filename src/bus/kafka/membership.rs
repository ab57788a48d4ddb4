//! Who processes which partition: a consumer group that fetches nothing.
//!
//! The group's protocol (cooperative sticky) hands out partitions, and takes them away one by one:
//! what a member keeps goes on undisturbed. A partition that is taken away is let go of only when
//! [`Membership::released`] says so, or when patience is at its end.
//!
//! Membership is dynamic, not static (`group.instance.id`): a process that ends gives its
//! partitions up at once instead of after a session, and there is no name to be kept unique among
//! processes. The price is a rebalance when a process is restarted, which cooperative assignment
//! makes cheap.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::tail::at_offsets;
use super::{KafkaBusMetrics, Shared};
use crate::bus::{Assignment, BusError, Membership};
use crate::fail;
use crate::kafka::{Kept, code_of, drop_aside, is_final, keep_brokers};

/// How many changes may wait to be asked for; who is that far behind is no member any more.
const CHANGES_MAX: usize = 1024;
/// How long letting go of partitions waits for how far they were released to be committed.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(1);

/// What has happened, and what is held.
#[derive(Default)]
struct State {
    changes: VecDeque<Assignment>,
    held: BTreeSet<u16>,
    /// Revoked and not yet released, with the end of patience.
    revoked: Option<Revoked>,
    failure: Option<BusError>,
    is_closing: bool,
}

struct Revoked {
    /// All that was named.
    partitions: Vec<u16>,
    /// What is still processed of it.
    left: BTreeSet<u16>,
    patience: Instant,
}

/// What the group's consumer calls back.
struct Context {
    name: String,
    topic: String,
    metrics: KafkaBusMetrics,
    revoke_wait_max: Duration,
    state: Mutex<State>,
    changed: Notify,
    /// Wakes the task, for the end of patience.
    revoked: Notify,
    kept: Kept,
}

impl Context {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &mut State, change: Assignment) {
        tracing::info!(log = self.name, ?change, "the partitions to process change");
        self.metrics.rebalances.inc();
        if state.changes.len() >= CHANGES_MAX {
            let reason = "nobody takes note of what this process is to process".to_owned();
            state.failure = Some(BusError::Failed { path: self.name.clone(), reason });
        } else {
            state.changes.push_back(change);
        }
        self.changed.notify_one();
    }

    fn fail(&self, error: BusError) {
        self.state().failure = Some(error);
        self.changed.notify_one();
    }

    fn gained(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // From the end, and paused at once: it is a member, not a reader.
        let mut at_end = partitions.clone();
        at_end.set_all_offsets(Offset::End)?;
        consumer.incremental_assign(&at_end)?;
        consumer.pause(&at_end)?;
        let gained = numbers(partitions);
        let mut state = self.state();
        state.held.extend(&gained);
        if !gained.is_empty() {
            self.tell(&mut state, Assignment::Gained(gained));
        }
        Ok(())
    }

    fn taken(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> KafkaResult<()> {
        let taken = numbers(partitions);
        let is_lost = consumer.assignment_lost();
        let mut state = self.state();
        if taken.is_empty() || is_lost || state.is_closing {
            state.held.retain(|partition| !taken.contains(partition));
            if is_lost && !taken.is_empty() {
                self.metrics.lost_partitions.inc_by(taken.len() as u64);
                self.tell(&mut state, Assignment::Lost(taken));
            }
            drop(state);
            return consumer.incremental_unassign(partitions);
        }
        // The group waits until this consumer lets go.
        state.revoked = Some(Revoked {
            partitions: taken.clone(),
            left: taken.iter().copied().collect(),
            patience: Instant::now() + self.revoke_wait_max,
        });
        self.tell(&mut state, Assignment::Revoked(taken));
        self.revoked.notify_one();
        Ok(())
    }

    /// Lets go of what was revoked, if nothing of it is processed any more or `is_late`.
    fn let_go(&self, consumer: &impl Consumer<Self>, is_late: bool) {
        let mut state = self.state();
        if !state.revoked.as_ref().is_some_and(|revoked| is_late || revoked.left.is_empty()) {
            return;
        }
        let Some(Revoked { partitions, left, .. }) = state.revoked.take() else { return };
        state.held.retain(|partition| !partitions.contains(partition));
        if !left.is_empty() {
            self.metrics.lost_partitions.inc_by(left.len() as u64);
            self.tell(&mut state, Assignment::Lost(left.into_iter().collect()));
        }
        drop(state);
        let list = at_offsets(&self.topic, partitions.into_iter().map(|partition| (partition, 0)));
        if let Err(error) = list.and_then(|list| consumer.incremental_unassign(&list)) {
            // A session that ended meanwhile has taken all of it away already.
            tracing::debug!(log = self.name, %error, "partitions were gone before they were let go of");
        }
    }
}

fn numbers(partitions: &TopicPartitionList) -> Vec<u16> {
    partitions.elements().iter().map(|element| element.partition() as u16).collect()
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.kept.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.kept.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.kept.error(error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let outcome = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.gained(consumer, partitions),
            _ => self.taken(consumer, partitions),
        };
        if let Err(error) = outcome {
            let reason = format!("the group {error}");
            self.fail(BusError::Failed { path: self.name.clone(), reason });
        }
    }
}

/// A process's consumer in the group.
pub(super) struct Member {
    consumer: StreamConsumer<Context>,
    /// Whether a commit is waited for.
    committing: AtomicBool,
}

impl Drop for Member {
    fn drop(&mut self) {
        // Leaving waits until everything is let go of, and nobody is left to say so.
        self.context().state().is_closing = true;
        self.context().let_go(&self.consumer, true);
    }
}

impl Member {
    fn context(&self) -> &Context {
        self.consumer.client().context()
    }

    /// Commits how far what is held has been released, for those who look at the group's lag; what is
    /// returned ends when that is done. On a thread of its own, which waits for the brokers' answer:
    /// librdkafka tells nobody of that to a commit that is not waited for.
    pub(super) fn commit(self: &Arc<Self>, shared: &Shared) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        // While the brokers are away one waits for them, not one of each round.
        if self.committing.swap(true, Ordering::AcqRel) {
            return ended;
        }
        let held: Vec<u16> = self.context().state().held.iter().copied().collect();
        let released = held.into_iter().filter_map(|partition| {
            let released = shared.marks[usize::from(partition)].released.load(Ordering::Acquire);
            (released > 0).then_some((partition, released))
        });
        let offsets = at_offsets(&shared.config.topic, released);
        let member = self.clone();
        let commit = move || {
            let committed = offsets.and_then(|offsets| match offsets.count() {
                0 => Ok(()),
                _ => member.consumer.commit(&offsets, CommitMode::Sync).map(|()| {
                    fail::point("log.kafka.committed");
                }),
            });
            if let Err(error) = committed {
                let context = member.context();
                context.metrics.commit_failures.inc();
                tracing::debug!(log = context.name, %error, "the group's offsets were not committed");
            }
            member.committing.store(false, Ordering::Release);
            // Whoever waits goes on when this is gone.
            drop(end);
        };
        if let Err(error) = std::thread::Builder::new().name("stk-commit".into()).spawn(commit) {
            self.committing.store(false, Ordering::Release);
            tracing::debug!(log = self.context().name, %error, "the group's offsets were not committed");
        }
        ended
    }
}

/// A process's part in processing.
pub(super) struct KafkaMembership {
    member: Arc<Member>,
    shared: Arc<Shared>,
    /// Ends the task.
    _ends: DropGuard,
}

impl KafkaMembership {
    pub(super) fn join(client: ClientConfig, shared: Arc<Shared>) -> Result<Self, BusError> {
        let mut config = client.clone();
        config
            .set("group.id", &shared.config.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest")
            .set("queued.min.messages", "1")
            .set("statistics.interval.ms", "1000");
        for (name, value) in [("session.timeout.ms", "10000"), ("heartbeat.interval.ms", "1000")] {
            if client.get(name).is_none() {
                config.set(name, value);
            }
        }
        let context = Context {
            name: shared.name.clone(),
            topic: shared.config.topic.clone(),
            metrics: shared.metrics.clone(),
            revoke_wait_max: shared.config.revoke_wait_max,
            state: Mutex::default(),
            changed: Notify::new(),
            revoked: Notify::new(),
            kept: Kept::default(),
        };
        let consumer: StreamConsumer<Context> =
            config.create_with_context(context).map_err(|error| shared.error(&error))?;
        consumer.subscribe(&[&shared.config.topic]).map_err(|error| shared.error(&error))?;
        let member = Arc::new(Member { consumer, committing: AtomicBool::new(false) });
        shared.members.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&member));
        let ended = CancellationToken::new();
        tokio::spawn(keep_brokers(
            Arc::downgrade(&member),
            |member| member.consumer.client(),
            member.context().kept.orphaned.clone(),
            shared.config.brokers.clone(),
            shared.metrics.retries.clone(),
        ));
        tokio::spawn(drive(member.clone(), ended.clone(), shared.closed.clone()));
        Ok(Self { member, shared, _ends: ended.drop_guard() })
    }
}

/// Serves the group until told to stop, then leaves it.
async fn drive(member: Arc<Member>, ended: CancellationToken, closed: CancellationToken) {
    loop {
        let context = member.context();
        let patience = context.state().revoked.as_ref().map(|revoked| revoked.patience);
        tokio::select! {
            biased;
            () = ended.cancelled() => break,
            () = closed.cancelled() => {
                context.fail(BusError::Closed);
                break;
            }
            () = context.revoked.notified() => {}
            () = tokio::time::sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                context.let_go(&member.consumer, true);
            }
            received = member.consumer.recv() => match received {
                // It was on its way before the pause: who reads is somebody else.
                Ok(_) => {}
                Err(error) if code_of(&error).is_some_and(is_final) => {
                    context.fail(super::meaning(&context.name, &error));
                    break;
                }
                Err(error) => tracing::debug!(log = context.name, %error, "in the group"),
            },
        }
    }
    drop_aside(member);
}

#[async_trait::async_trait]
impl Membership for KafkaMembership {
    async fn next(&mut self) -> Result<Assignment, BusError> {
        let context = self.member.context();
        loop {
            let changed = context.changed.notified();
            {
                let mut state = context.state();
                if let Some(change) = state.changes.pop_front() {
                    return Ok(change);
                }
                if let Some(error) = &state.failure {
                    return Err(error.clone());
                }
            }
            changed.await;
        }
    }

    async fn released(&mut self, partitions: &[u16]) {
        let context = self.member.context();
        if let Some(revoked) = &mut context.state().revoked {
            revoked.left.retain(|partition| !partitions.contains(partition));
        }
        // What was released of them is told before they are another's.
        let _ = tokio::time::timeout(COMMIT_WAIT_MAX, self.member.commit(&self.shared)).await;
        context.let_go(&self.member.consumer, false);
    }
}
