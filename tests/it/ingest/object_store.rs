//! Consumers whose lake is on S3: two at a time write to the same tables, and are killed with -9.

use std::process::Command;

use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use object_store::path::Path;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use uptake_tests::binary::Running;
use uptake_tests::kafka::bootstrap;
use uptake_tests::object_store::shared;
use uptake_tests::wait::{eventually, until};

use super::kafka::{LONG, Place, seed};
use super::records::{check_each_once, schedule};

/// The members of the group. Static ones are taken back at once after a kill.
const MEMBERS: [&str; 2] = ["one", "two"];

fn member(name: &str) -> impl Fn(&mut Command) {
    move |command| {
        command.env("UPTAKE_KAFKA_GROUP_INSTANCE_ID", name);
    }
}

fn start(place: &Place, name: &str, life: usize) -> Running {
    let mut command = place.consume();
    member(name)(&mut command);
    Running::start(&mut command, &place.directory.path().join(format!("log-{name}-{life}")))
}

/// How many commits bronze `events` has.
async fn commits(place: &Place) -> usize {
    let log = Path::from("bronze/events/_delta_log");
    let store = place.lake().store();
    let found: Vec<_> = store.list(Some(&log)).try_collect().await.unwrap();
    found.iter().filter(|object| object.location.extension() == Some("json")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_killed_in_turn_leave_each_record_once_on_s3() {
    let seed = seed();
    println!("seed {seed} (UPTAKE_TEST_SEED)");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let place = Place::at(bootstrap(), "s3-killed", 4).await.in_a_bucket(shared());
    let records = schedule(seed, 12_000, 4);
    let mut produced = 1_000;
    place.produce(&records[..produced]);
    let mut members = MEMBERS.map(|name| start(&place, name, 0));
    for round in 1..=6 {
        let target = commits(&place).await + random.random_range(3..9);
        let now = eventually("commits go on", LONG, async || {
            for running in &mut members {
                assert!(running.is_running(), "uptake ended by itself: {}", running.said());
            }
            // There is always more to read, so that both are writing when one is killed.
            if produced + 100 <= records.len() {
                place.produce(&records[produced..produced + 100]);
                produced += 100;
            }
            let now = commits(&place).await;
            (now >= target).then_some(now)
        })
        .await;
        let which = random.random_range(0..MEMBERS.len());
        members[which].kill_hard();
        println!("round {round}: killed member {} after {now} commits", MEMBERS[which]);
        members[which] = start(&place, MEMBERS[which], round);
    }
    for running in &mut members {
        // Before it listens for signals, one would just end it.
        until("the member reads", LONG, || running.said().contains("\"reading\"").then_some(()));
        running.terminate();
        let status = running.wait(LONG);
        assert_eq!(status.code(), Some(0), "{}", running.said());
    }
    let (code, said) = place.to_the_end(member(MEMBERS[0]));
    assert_eq!(code, 0, "{said}");
    println!("{produced} records, {} commits", commits(&place).await);
    check_each_once(&place.lake(), &place.own(&records[..produced])).await;
}
