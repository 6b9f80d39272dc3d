//! Members come, go and lose their session, in every protocol of the group: each record stays once.

use std::time::Duration;

use uptake_ingest::consume::Handle;
use uptake_ingest::mock::MockBroker;
use uptake_ingest::options::ConsumeOptions;
use uptake_lake::Lake;
use uptake_tests::wait::eventually;

use super::consumer::{LONG, options, start};
use super::records::{MESSAGES, REACTIONS, Sent, check_each_once, produce, schedule};

const PARTITIONS: i32 = 4;

/// Offsets go on where the first batch ended, so both are one schedule cut in two.
fn halves(seed: u64) -> (Vec<Sent>, Vec<Sent>, Vec<Sent>, Vec<Sent>) {
    let all = schedule(seed, 1_200, PARTITIONS);
    (all[..400].to_vec(), all[400..800].to_vec(), all[800..].to_vec(), all)
}

fn held(handle: &Handle) -> usize {
    handle.health().partitions()
}

/// One member, a second joins in the middle, the first leaves; records flow all the while.
async fn two_members(name: &str, seed: u64, change: impl Fn(&mut ConsumeOptions)) {
    let broker = MockBroker::start(&[MESSAGES, REACTIONS], PARTITIONS).unwrap();
    let lake = Lake::in_memory().unwrap();
    let mut options = options(&broker.bootstrap(), name);
    change(&mut options);
    let (first, second, third, all) = halves(seed);
    produce(&broker.bootstrap(), &first);
    let (one, one_running) = start(options.clone(), &lake).await;
    eventually("the first member reads", LONG, async || (one.summary().consumed >= 100).then_some(())).await;
    let (two, two_running) = start(options, &lake).await;
    produce(&broker.bootstrap(), &second);
    let all_partitions = 2 * usize::try_from(PARTITIONS).unwrap();
    eventually("the second member is given partitions", LONG, async || {
        (held(&two) > 0 && held(&one) + held(&two) == all_partitions).then_some(())
    })
    .await;
    one.stop();
    one_running.await.unwrap().unwrap();
    produce(&broker.bootstrap(), &third);
    eventually("the second member has all partitions", LONG, async || (held(&two) == all_partitions).then_some(()))
        .await;
    let ends = ends(&all);
    eventually("all is committed", LONG, async || {
        let mut positions = one.summary().positions;
        for (source, next) in two.summary().positions {
            let position = positions.entry(source).or_insert(next);
            *position = (*position).max(next);
        }
        (positions == ends).then_some(())
    })
    .await;
    two.stop();
    two_running.await.unwrap().unwrap();
    check_each_once(&lake, &all).await;
}

fn ends(records: &[Sent]) -> std::collections::BTreeMap<uptake_model::SourcePartition, uptake_model::Next> {
    let mut ends = std::collections::BTreeMap::new();
    for ((topic, partition, offset), _) in super::records::placed(records) {
        ends.insert(uptake_model::SourcePartition::new(topic, partition), uptake_model::Next(offset + 1));
    }
    ends
}

fn set(options: &mut ConsumeOptions, key: &str, value: &str) {
    options.kafka.insert(key.to_owned(), value.to_owned());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eager() {
    two_members("eager", 31, |options| set(options, "partition.assignment.strategy", "range")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cooperative() {
    two_members("cooperative", 32, |options| set(options, "partition.assignment.strategy", "cooperative-sticky")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assigned_by_the_broker() {
    two_members("kip-848", 33, |options| {
        set(options, "group.protocol", "consumer");
        options.kafka.remove("session.timeout.ms");
        options.kafka.remove("heartbeat.interval.ms");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_is_written_before_a_revoke_is_answered() {
    let broker = MockBroker::start(&[MESSAGES, REACTIONS], PARTITIONS).unwrap();
    let lake = Lake::in_memory().unwrap();
    let mut options = options(&broker.bootstrap(), "barrier");
    set(&mut options, "partition.assignment.strategy", "range");
    // Nothing is flushed by itself: only the revoke can have written what the second member starts from.
    options.flush.rows = 1_000_000;
    options.flush.age = Duration::from_hours(1);
    let records = schedule(34, 400, PARTITIONS);
    produce(&broker.bootstrap(), &records);
    let (one, one_running) = start(options.clone(), &lake).await;
    eventually("all is held", LONG, async || (one.summary().consumed >= 400).then_some(())).await;
    assert_eq!(one.summary().flushes, 0);
    let (two, two_running) = start(options, &lake).await;
    eventually("the second member is given partitions", LONG, async || (held(&two) > 0).then_some(())).await;
    assert!(one.summary().flushes > 0, "the revoke was answered before the rows were written");
    one.stop();
    two.stop();
    one_running.await.unwrap().unwrap();
    let second = two_running.await.unwrap().unwrap();
    assert_eq!(second.consumed, 0, "the second member read again what the first had written");
    check_each_once(&lake, &records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_drops_what_is_held_and_reads_it_again() {
    let broker = MockBroker::start(&[MESSAGES, REACTIONS], 2).unwrap();
    let lake = Lake::in_memory().unwrap();
    let mut options = options(&broker.bootstrap(), "lost");
    set(&mut options, "partition.assignment.strategy", "range");
    options.flush.rows = 1_000_000;
    options.flush.age = Duration::from_hours(1);
    let records = schedule(35, 200, 2);
    produce(&broker.bootstrap(), &records);
    let (handle, running) = start(options, &lake).await;
    eventually("all is held", LONG, async || (handle.summary().consumed >= 200).then_some(())).await;
    broker.go_down().unwrap();
    eventually("the session is over", LONG, async || (held(&handle) == 0).then_some(())).await;
    assert_eq!(handle.summary().flushes, 0, "lost partitions must not be flushed");
    assert_eq!(handle.memory().used(), 0);
    broker.come_up().unwrap();
    eventually("all is held again", LONG, async || (handle.summary().consumed >= 400).then_some(())).await;
    handle.stop();
    running.await.unwrap().unwrap();
    check_each_once(&lake, &records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_members_than_partitions_is_no_error() {
    let broker = MockBroker::start(&[MESSAGES, REACTIONS], 1).unwrap();
    let lake = Lake::in_memory().unwrap();
    let mut options = options(&broker.bootstrap(), "idle");
    set(&mut options, "partition.assignment.strategy", "range");
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(start(options.clone(), &lake).await);
    }
    eventually("every member is placed", LONG, async || {
        members.iter().all(|(handle, _)| handle.health().ready()).then_some(())
    })
    .await;
    eventually("each partition has one member", LONG, async || {
        (members.iter().map(|(handle, _)| held(handle)).sum::<usize>() == 2).then_some(())
    })
    .await;
    let records = schedule(36, 100, 1);
    produce(&broker.bootstrap(), &records);
    eventually("all is committed", LONG, async || {
        let done: u64 = members.iter().map(|(handle, _)| handle.summary().consumed).sum();
        (done >= 100).then_some(())
    })
    .await;
    for (handle, running) in members {
        handle.stop();
        running.await.unwrap().unwrap();
    }
    check_each_once(&lake, &records).await;
}
