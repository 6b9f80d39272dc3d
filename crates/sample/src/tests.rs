//! A log is what its oracle says, and a seed is a log.

use std::collections::{BTreeMap, HashMap, HashSet};

use uptake_model::decode::{Edge, Outcome, Record as Incoming, decode};
use uptake_model::labels::Kind;
use uptake_model::time::DAY_MICROS;
use uptake_model::{Pepper, facts};

use super::*;

fn edge() -> Edge {
    Edge {
        pepper: Pepper::new("0123456789abcdef").unwrap(),
        max_record_bytes: 1 << 20,
        pipeline_version: "test".to_owned(),
    }
}

fn log(seed: u64, conversations: usize) -> Log {
    generate(&Plan::new(seed, conversations)).unwrap()
}

/// What the decoder makes of a log: distinct events by topic, and refusals by topic and class.
struct Decoded {
    outcomes: Vec<Outcome>,
    counts: BTreeMap<&'static str, TopicCount>,
}

fn decoded(log: &Log) -> Decoded {
    let (edge, now) = (edge(), log.records.iter().map(|record| record.arrives).max().unwrap() + DAY_MICROS);
    let contracts: HashMap<&str, Contract> = TOPICS.into_iter().collect();
    let mut counts: BTreeMap<&'static str, TopicCount> = BTreeMap::new();
    let mut hashes: HashMap<String, String> = HashMap::new();
    let mut outcomes = Vec::new();
    for (offset, record) in log.records.iter().enumerate() {
        let incoming = Incoming {
            topic: record.topic,
            partition: 0,
            offset: i64::try_from(offset).unwrap(),
            key: Some(record.key.as_bytes()),
            payload: record.payload.as_deref(),
            headers: Vec::new(),
            broker_time: Some(record.arrives),
        };
        let outcome = decode(&incoming, contracts[record.topic], &edge, now);
        let count = counts.entry(record.topic).or_default();
        count.records += 1;
        match &outcome {
            Outcome::Tombstone => count.tombstones += 1,
            Outcome::Letter(letter) => *count.refused.entry(letter.class).or_default() += 1,
            Outcome::Event(row) => match hashes.get(&row.event_id) {
                Some(hash) if *hash == row.content_hash => count.repeats += 1,
                Some(_) => count.reused_ids += 1,
                None => {
                    let _ = hashes.insert(row.event_id.clone(), row.content_hash.clone());
                    count.events += 1;
                    count.skewed += usize::from(row.clock_skew.is_some());
                }
            },
        }
        outcomes.push(outcome);
    }
    Decoded { outcomes, counts }
}

#[test]
fn the_decoder_finds_what_the_oracle_says() {
    for seed in [1, 42] {
        let log = log(seed, 300);
        assert_eq!(decoded(&log).counts, log.oracle.topics, "seed {seed}");
    }
}

#[test]
fn a_seed_is_a_log() {
    let (one, two, other) = (log(7, 120), log(7, 120), log(8, 120));
    assert!(one.records == two.records && one.oracle.follow_ups == two.oracle.follow_ups);
    assert!(one.records != other.records);
}

#[test]
fn a_conversation_draws_from_a_stream_of_its_own() {
    let texts = conversation::Texts::load(|_| true).unwrap();
    let (plan, people) = (Plan::new(7, 100), people::people(7, 100));
    let alone = conversation::talk(&plan, 3, &texts, &people);
    let _ = conversation::talk(&plan, 2, &texts, &people);
    let after_another = conversation::talk(&plan, 3, &texts, &people);
    assert_eq!(format!("{alone:?}"), format!("{after_another:?}"));
}

#[test]
fn rates_are_those_of_real_logs() {
    let log = log(42, 1_000);
    let users = decoded(&log)
        .outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Event(row) if row.payload.contains("\"role\":\"user\"")))
        .count() as f64;
    let with = |kind: Kind| {
        let carries = |follow_up: &&FollowUp| follow_up.labels.iter().any(|label| label.kind() == kind);
        log.oracle.follow_ups.iter().filter(carries).count() as f64 / users
    };
    let (sat, dsat) = (with(Kind::Satisfaction), with(Kind::Dissatisfaction));
    assert!((0.01..0.06).contains(&sat), "satisfied {sat:.3}");
    assert!((0.025..0.055).contains(&dsat), "dissatisfied {dsat:.3}");
    let answers = log.records.iter().filter(|record| contains(record, "\"role\":\"assistant\"")).count() as f64;
    // Without the script that loves everything.
    let loves = log
        .records
        .iter()
        .filter(|record| contains(record, "\"kind\":\"love\"") && !contains(record, &log.oracle.user_ids[0]));
    let share = loves.count() as f64 / answers;
    assert!((0.002..0.015).contains(&share), "loved {share:.4}");
}

fn contains(record: &Record, text: &str) -> bool {
    record.payload.as_ref().is_some_and(|bytes| String::from_utf8_lossy(bytes).contains(text))
}

#[test]
fn everything_that_goes_wrong_is_there() {
    let log = log(42, 1_000);
    let total = log.oracle.total();
    assert!(total.repeats > 0 && total.reused_ids > 0 && total.tombstones > 0 && total.skewed > 0, "{total:?}");
    assert!(total.refused.len() >= 12, "{:?}", total.refused);
    assert!(log.oracle.early_reactions > 0 && log.oracle.late_reactions > 5 && log.oracle.reactions_to_nothing > 0);
    assert!(!log.oracle.denied.is_empty());
    for rule in ["repair", "regenerate", "edit", "choice"] {
        let planned = log.oracle.pairs.iter().filter(|pair| pair.rule == rule).count();
        assert!(planned >= 5, "{rule}: {planned}");
    }
    assert_eq!(log.oracle.conversations.values().sum::<usize>(), 1_000);
    assert!(log.oracle.conversations.values().all(|count| *count > 100), "{:?}", log.oracle.conversations);
}

#[test]
fn follow_ups_are_turns_of_the_log() {
    let log = log(42, 300);
    let mut turns = HashSet::new();
    for outcome in decoded(&log).outcomes {
        if let Outcome::Event(row) = outcome {
            let facts = facts::turns_of(row.kind, &row.payload, row.event_time, row.subject_key.as_deref()).unwrap();
            turns.extend(facts.into_iter().filter(|turn| turn.role == "user").map(|turn| turn.turn_id));
        }
    }
    assert!(log.oracle.follow_ups.len() > 250);
    for follow_up in &log.oracle.follow_ups {
        assert!(turns.contains(&follow_up.turn_id), "{follow_up:?}");
    }
}

#[test]
fn no_user_id_survives_decoding() {
    for outcome in decoded(&log(42, 200)).outcomes {
        let shown = match outcome {
            Outcome::Event(row) => row.payload,
            Outcome::Letter(letter) => String::from_utf8_lossy(&letter.payload.unwrap_or_default()).into_owned(),
            Outcome::Tombstone => continue,
        };
        assert!(!shown.contains("@example.org"), "{shown}");
    }
}

#[test]
fn a_filter_that_leaves_nothing_is_an_error() {
    let plan = Plan { usable: |_| false, ..Plan::new(1, 10) };
    assert!(matches!(generate(&plan), Err(Error::NothingUsable(_))));
}
