//! The real binary on a real Kafka: killed with -9, stopped with SIGTERM, and faced with topics that are not what they were.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use uptake_ingest::mock::{Produce, TestProducer};
use uptake_ingest::testing::Admin;
use uptake_lake::Lake;
use uptake_model::{Next, SourcePartition, tables};
use uptake_tests::binary::{Running, command, command_in};
use uptake_tests::kafka::bootstrap;
use uptake_tests::object_store::S3;
use uptake_tests::tables::places;
use uptake_tests::wait::{eventually, until};

use super::records::{Fate, MESSAGES, PEPPER, REACTIONS, Sent, check_each_once, message, produce, schedule};

pub(super) const LONG: Duration = Duration::from_mins(2);

/// A directory, a lake, and topics of this test's own.
pub(super) struct Place {
    pub(super) directory: tempfile::TempDir,
    pub(super) messages: String,
    reactions: String,
    admin: Admin,
    /// Where records are produced.
    broker: String,
    /// Where the consumer reads; the same, unless a test says otherwise.
    pub(super) brokers: String,
    /// The lake's name: a directory, or a prefix of a bucket.
    lake: String,
    /// What leads to it.
    environment: Vec<(String, String)>,
}

impl Place {
    async fn new(name: &str, partitions: i32) -> Self {
        Self::at(bootstrap(), name, partitions).await
    }

    /// A place on this broker.
    pub(super) async fn at(broker: &str, name: &str, partitions: i32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lake = directory.path().join("lake").to_str().unwrap().to_owned();
        let place = Self {
            directory,
            messages: format!("{name}.{MESSAGES}"),
            reactions: format!("{name}.{REACTIONS}"),
            admin: Admin::connect(broker).unwrap(),
            broker: broker.to_owned(),
            brokers: broker.to_owned(),
            lake,
            environment: Vec::new(),
        };
        for topic in [&place.messages, &place.reactions] {
            eventually("the broker makes a topic", LONG, async || {
                match place.admin.create_topic(topic, partitions).await {
                    Ok(()) => Some(()),
                    Err(error) => {
                        println!("not yet: {error}");
                        None
                    }
                }
            })
            .await;
        }
        place
    }

    /// The same place with its lake in a bucket.
    pub(super) fn in_a_bucket(mut self, s3: &S3) -> Self {
        self.lake = s3.name(&self.messages);
        self.environment = s3.environment();
        self
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("lake")
    }

    pub(super) fn lake(&self) -> Lake {
        Lake::open_with(&self.lake, self.environment.clone()).unwrap()
    }

    /// `uptake consume` on this place's topics, flushing often.
    pub(super) fn consume(&self) -> Command {
        let mut command = command_in(self.directory.path(), &self.lake);
        command
            .envs(self.environment.iter().cloned())
            .args(["consume", "--brokers", &self.brokers, "--group", &format!("group-of-{}", self.messages)])
            .args([
                "--topic",
                &format!("messages={}", self.messages),
                "--topic",
                &format!("reactions={}", self.reactions),
            ])
            .env("UPTAKE_SUBJECT_PEPPER", PEPPER)
            .env("UPTAKE_INGEST_FLUSH_AGE", "100ms")
            .env("UPTAKE_INGEST_FLUSH_ROWS", "60")
            .env("UPTAKE_INGEST_MAX_BAD_SHARE", "0.9")
            .env("UPTAKE_INGEST_DRAIN_DEADLINE", "5s")
            .env("UPTAKE_KAFKA_SESSION_TIMEOUT_MS", "6000")
            .env("UPTAKE_KAFKA_HEARTBEAT_INTERVAL_MS", "500");
        command
    }

    /// Runs to the ends; the exit code and what was said.
    pub(super) fn to_the_end(&self, change: impl FnOnce(&mut Command)) -> (i32, String) {
        let mut command = self.consume();
        command.arg("--until-end");
        change(&mut command);
        let mut running = Running::start(&mut command, &self.directory.path().join("log"));
        let status = running.wait(LONG);
        (status.code().unwrap_or(-1), running.said())
    }

    /// The records of a schedule under this place's topics.
    pub(super) fn produce(&self, records: &[Sent]) {
        produce(&self.broker, &self.own(records));
    }

    pub(super) fn own(&self, records: &[Sent]) -> Vec<Sent> {
        let topic = |sent: &Sent| if sent.topic == MESSAGES { &self.messages } else { &self.reactions };
        records.iter().map(|sent| Sent { topic: leak(topic(sent)), ..sent.clone() }).collect()
    }
}

/// Topics are few and live as long as the test binary.
fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// How many commits a table of this lake has.
fn commits(lake: &Path, table: &str) -> usize {
    let is_commit = |path: PathBuf| path.extension().is_some_and(|kind| kind == "json");
    let entries = std::fs::read_dir(lake.join("bronze").join(table).join("_delta_log"));
    entries.map_or(0, |entries| entries.flatten().filter(|entry| is_commit(entry.path())).count())
}

pub(super) fn seed() -> u64 {
    std::env::var("UPTAKE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_9_again_and_again_each_record_is_there_once() {
    let seed = seed();
    println!("seed {seed} (UPTAKE_TEST_SEED)");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let place = Place::new("killed", 3).await;
    let records = schedule(seed, 20_000, 3);
    let mut produced = 0;
    let mut produce_more = |count: usize| {
        place.produce(&records[produced..produced + count]);
        produced += count;
        produced
    };
    produce_more(1_500);
    for round in 0..8 {
        // A static member is taken back at once after a kill; a dynamic one has to wait for its predecessor's session.
        let is_static = round % 4 != 3;
        let mut command = place.consume();
        if is_static {
            command.env("UPTAKE_KAFKA_GROUP_INSTANCE_ID", "the-one");
        }
        let mut running = Running::start(&mut command, &place.directory.path().join(format!("log-{round}")));
        // After so many more commits of one of the tables, at once: also between letters and events.
        let table = if random.random_bool(0.6) { "dead_letters" } else { "events" };
        let path = place.path();
        let target = commits(&path, table) + random.random_range(2..6);
        let mut fed = commits(&path, "events");
        produce_more(200);
        let killed_after = until("commits go on", LONG, || {
            assert!(running.is_running(), "uptake ended by itself: {}", running.said());
            let now = commits(&path, table);
            if now >= target {
                return Some(now);
            }
            // Each commit is answered with more records, so that there is always a next one.
            if commits(&path, "events") > fed {
                fed = commits(&path, "events");
                produce_more(200);
            }
            None
        });
        running.kill_hard();
        let cut_off = running.said().matches("a flush was cut off").count();
        println!(
            "round {round}: killed after {killed_after} commits of {table}; {cut_off} partitions found letters ahead of events"
        );
    }
    let produced = produce_more(0);
    let (code, said) = place.to_the_end(|command| {
        command.env("UPTAKE_KAFKA_GROUP_INSTANCE_ID", "the-one");
    });
    assert_eq!(code, 0, "{said}");
    println!("{produced} records");
    check_each_once(&place.lake(), &place.own(&records[..produced])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_writes_what_is_held_tells_the_group_and_exits_with_zero() {
    let place = Place::new("sigterm", 1).await;
    let records: Vec<Sent> = (0..500)
        .map(|number| Sent {
            topic: MESSAGES,
            partition: 0,
            payload: Some(message(&format!("s-{number}"), "hello")),
            fate: Fate::Event,
        })
        .collect();
    place.produce(&records);
    let mut command = place.consume();
    // 150 rows make a flush, the rest of 500 waits for an hour.
    command.env("UPTAKE_INGEST_FLUSH_AGE", "1h").env("UPTAKE_INGEST_FLUSH_ROWS", "150");
    let mut running = Running::start(&mut command, &place.directory.path().join("log"));
    let lake = place.lake();
    eventually("a first flush", LONG, async || (places(&lake, &tables::EVENTS).await.len() >= 150).then_some(())).await;
    let started = std::time::Instant::now();
    running.terminate();
    let status = running.wait(Duration::from_secs(20));
    println!("stopped in {:?}", started.elapsed());
    assert_eq!(status.code(), Some(0), "{}", running.said());
    let stored = places(&lake, &tables::EVENTS).await.len();
    let source = SourcePartition::new(place.messages.clone(), 0);
    let committed = place.admin.committed(&format!("group-of-{}", place.messages), &[source]).unwrap();
    assert_eq!(committed, [Some(i64::try_from(stored).unwrap())], "the group is told the next offset");
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 0, "{said}");
    check_each_once(&lake, &place.own(&records)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_read_that_is_stopped_before_the_ends_says_so() {
    let place = Place::new("cut-short", 1).await;
    let records: Vec<Sent> = (0..20_000)
        .map(|number| Sent {
            topic: MESSAGES,
            partition: 0,
            payload: Some(message(&format!("c-{number}"), "hello")),
            fate: Fate::Event,
        })
        .collect();
    place.produce(&records);
    let mut command = place.consume();
    command.arg("--until-end");
    let mut running = Running::start(&mut command, &place.directory.path().join("log"));
    let path = place.path();
    until("a first commit", LONG, || (commits(&path, "events") > 2).then_some(()));
    running.terminate();
    let status = running.wait(LONG);
    assert_eq!(status.code(), Some(4), "{}", running.said());
    assert!(running.said().contains("stopped by a signal before the ends"), "{}", running.said());
    let (code, said) = place.to_the_end(|command| {
        command.env("UPTAKE_INGEST_FLUSH_ROWS", "5000");
    });
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("the ends are reached"), "{said}");
    check_each_once(&place.lake(), &place.own(&records)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_again_with_lower_offsets_is_refused() {
    let place = Place::new("recreated", 1).await;
    let records = schedule(41, 80, 1);
    place.produce(&records);
    assert_eq!(place.to_the_end(|_| {}).0, 0);
    let before = places(&place.lake(), &tables::EVENTS).await;
    place.admin.delete_topic(&place.messages).await.unwrap();
    eventually("the topic is made again", LONG, async || place.admin.create_topic(&place.messages, 1).await.ok()).await;
    let anew = |number: i32| Sent {
        topic: MESSAGES,
        partition: 0,
        payload: Some(message(&format!("new-{number}"), "hello")),
        fate: Fate::Event,
    };
    place.produce(&[anew(0)]);
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("recreated or truncated") && said.contains("pipeline"), "{said}");
    assert_eq!(places(&place.lake(), &tables::EVENTS).await, before, "nothing was added or taken away");
    // Also when the new topic has grown past the old position, where the offsets alone look right.
    place.produce(&(1..200).map(anew).collect::<Vec<_>>());
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("deleted and made again") && said.contains("pipeline"), "{said}");
    let (code, said) = place.to_the_end(|command| {
        command.args(["--pipeline", "second"]);
    });
    assert_eq!(code, 0, "another pipeline reads it from its start: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_retention_deleted_are_refused_until_allowed() {
    let place = Place::new("retention", 1).await;
    let text = |number: i32| Sent {
        topic: MESSAGES,
        partition: 0,
        payload: Some(message(&format!("r-{number}"), "hello")),
        fate: Fate::Event,
    };
    let records: Vec<Sent> = (0..60).map(text).collect();
    place.produce(&records[..20]);
    assert_eq!(place.to_the_end(|_| {}).0, 0);
    place.produce(&records[20..]);
    let source = SourcePartition::new(place.messages.clone(), 0);
    place.admin.delete_records(&source, Next(45)).await.unwrap();
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("skip-lost-records"), "{said}");
    let (code, said) = place.to_the_end(|command| {
        command.arg("--skip-lost-records");
    });
    assert_eq!(code, 0, "{said}");
    let offsets: Vec<i64> =
        places(&place.lake(), &tables::EVENTS).await.into_iter().map(|(_, _, offset)| offset).collect();
    let expected: Vec<i64> = (0..20).chain(45..60).collect();
    assert_eq!(offsets, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_read_when_committed_and_their_markers_are_passed() {
    let place = Place::new("transactions", 1).await;
    let producer = TestProducer::transactional(bootstrap(), "uptake-test").unwrap();
    let mut offset = 0;
    let mut expected = Vec::new();
    for (round, commit) in [true, false, true, false].into_iter().enumerate() {
        producer.begin().unwrap();
        for number in 0..10 {
            let payload = message(&format!("t-{round}-{number}"), "hello");
            let record =
                Produce { topic: &place.messages, partition: Some(0), payload: Some(&payload), ..Produce::default() };
            producer.produce(&record).unwrap();
            if commit {
                expected.push(offset);
            }
            offset += 1;
        }
        producer.end(commit).unwrap();
        // Each end of a transaction takes an offset too.
        offset += 1;
    }
    let (code, said) = place.to_the_end(|_| {});
    assert_eq!(code, 0, "{said}");
    let offsets: Vec<i64> =
        places(&place.lake(), &tables::EVENTS).await.into_iter().map(|(_, _, offset)| offset).collect();
    assert_eq!(offsets, expected);
    let source = SourcePartition::new(place.messages.clone(), 0);
    let committed = place.admin.committed(&format!("group-of-{}", place.messages), &[source]).unwrap();
    assert_eq!(committed, [Some(offset)], "the position has passed the aborted records and the markers at the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_own_assignor_and_new_partitions() {
    let place = Place::new("kip848", 1).await;
    let mut command = place.consume();
    command
        .env_remove("UPTAKE_KAFKA_SESSION_TIMEOUT_MS")
        .env_remove("UPTAKE_KAFKA_HEARTBEAT_INTERVAL_MS")
        .env("UPTAKE_KAFKA_GROUP_PROTOCOL", "consumer")
        .env("UPTAKE_KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS", "1000");
    let mut running = Running::start(&mut command, &place.directory.path().join("log"));
    let first = schedule(51, 200, 1);
    place.produce(&first);
    let lake = place.lake();
    let events = |records: &[Sent]| records.iter().filter(|sent| sent.fate == Fate::Event).count();
    eventually("the first records are stored", LONG, async || {
        (places(&lake, &tables::EVENTS).await.len() >= events(&first)).then_some(())
    })
    .await;
    place.admin.grow_topic(&place.messages, 2).await.unwrap();
    let second: Vec<Sent> = (0..50)
        .map(|number| Sent {
            topic: MESSAGES,
            partition: 1,
            payload: Some(message(&format!("n-{number}"), "hello")),
            fate: Fate::Event,
        })
        .collect();
    eventually("the broker knows the new partition", LONG, async || {
        (place.admin.partitions(&place.messages).unwrap() == 2).then_some(())
    })
    .await;
    place.produce(&second);
    eventually("the new partition is read from its start", LONG, async || {
        let stored = places(&lake, &tables::EVENTS).await;
        assert!(running.is_running(), "uptake ended by itself: {}", running.said());
        (stored.iter().filter(|(_, partition, _)| *partition == 1).count() >= 50).then_some(())
    })
    .await;
    running.terminate();
    assert_eq!(running.wait(Duration::from_secs(20)).code(), Some(0), "{}", running.said());
    check_each_once(&lake, &place.own(&[first, second].concat())).await;
}

#[test]
fn consume_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let check = |change: &dyn Fn(&mut Command), expect: &str| {
        let mut command = command(&directory.path().join("lake"));
        command.arg("consume");
        change(&mut command);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expect), "{said}");
    };
    let complete = ["--topic", "messages=chat", "--brokers", "localhost:1"];
    let with_pepper = |command: &mut Command| {
        command.env("UPTAKE_SUBJECT_PEPPER", PEPPER);
    };
    check(
        &|command| {
            command.args(complete);
        },
        "openssl rand -hex 32",
    );
    check(&|command| with_pepper(command), "--topic");
    check(
        &|command| {
            with_pepper(command);
            command.args(["--topic", "messages=chat"]);
        },
        "--brokers",
    );
    check(
        &|command| {
            with_pepper(command);
            command.args(complete).env("UPTAKE_KAFKA_ENABLE_AUTO_COMMIT", "true");
        },
        "enable.auto.commit",
    );
    check(
        &|command| {
            with_pepper(command);
            command.args(complete).env("UPTAKE_KAFKA_SECURITY_PROTOCOL", "carrier-pigeon");
        },
        "security.protocol",
    );
    check(
        &|command| {
            command.args(["--topic", "gossip=chat"]);
        },
        "is no contract",
    );
}
