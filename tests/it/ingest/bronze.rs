//! The bronze writer on a store that loses requests and answers, killed at any moment, with a twin that writes too.

use std::sync::Arc;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use uptake_ingest::bronze::{Bronze, Resume, Retries};
use uptake_ingest::buffer::{Buffer, Pass};
use uptake_lake::Lake;
use uptake_lake::lossy::{Fault, LossyStore, Odds};
use uptake_model::contract::{Contract, ErrorClass};
use uptake_model::decode::{Outcome, Record, decode, refuse};
use uptake_model::{Next, Offset, SourcePartition, tables};
use uptake_tests::tables::places;

use super::records::{edge, message};

const NOW: i64 = 1_770_000_000_000_000;

fn source() -> SourcePartition {
    SourcePartition::new("chat", 0)
}

fn retries() -> Retries {
    Retries { attempts: 30, pause: Duration::from_millis(1), longest_pause: Duration::from_millis(4) }
}

/// What a record becomes; `moody` records are good or bad as the process that reads them feels, as reused ids are.
fn outcome(offset: i64, mood: bool) -> Outcome {
    let payload = message(&format!("e-{offset}"), "hello");
    let record = Record {
        topic: "chat",
        partition: 0,
        offset,
        key: None,
        payload: Some(&payload),
        headers: Vec::new(),
        broker_time: None,
    };
    let bad = offset % 7 == 3 || (offset % 5 == 1 && mood);
    if bad {
        let letter = refuse(&record, ErrorClass::InvalidValue, "bad".to_owned(), &edge(), NOW);
        return Outcome::Letter(Box::new(letter));
    }
    decode(&record, Contract::Messages, &edge(), NOW)
}

fn fill(from: i64, to: i64, mood: bool) -> Buffer {
    let mut buffer = Buffer::new();
    for offset in from..to {
        if offset % 11 == 0 {
            buffer.pass(&source(), None, Offset(offset), Pass::Tombstone);
        } else {
            buffer.add(&source(), None, Offset(offset), outcome(offset, mood), 100);
        }
    }
    buffer
}

async fn check_each_once(lake: &Lake, end: i64) {
    let mut found: Vec<i64> = places(lake, &tables::EVENTS).await.into_iter().map(|(_, _, offset)| offset).collect();
    found.extend(places(lake, &tables::DEAD_LETTERS).await.into_iter().map(|(_, _, offset)| offset));
    found.sort_unstable();
    let expected: Vec<i64> = (0..end).filter(|offset| offset % 11 != 0).collect();
    assert_eq!(found, expected);
}

fn lossy(seed: u64, odds: Odds) -> (Lake, LossyStore) {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let store = LossyStore::new(memory, seed, odds);
    let lake = Lake::with_store(Arc::new(store.clone()), "memory:///lake/".parse().unwrap()).unwrap();
    (lake, store)
}

/// One life of a writer: reads on from where the tables stand, flushes now and then, and may be killed in a flush.
async fn live(lake: &Lake, end: i64, random: &mut ChaCha8Rng) -> bool {
    let mood = random.random_bool(0.5);
    let said = |error: &uptake_ingest::Error| {
        println!("a life ends: {error}: {:?}", std::error::Error::source(error).map(ToString::to_string));
    };
    let mut bronze = match Bronze::open_with(lake, "test", retries()).await {
        Ok(bronze) => bronze,
        Err(error) => {
            said(&error);
            return false;
        }
    };
    let next = match bronze.resume(&source()).await {
        Ok(Resume { next, .. }) => next,
        Err(error) => {
            said(&error);
            return false;
        }
    };
    let mut at = next.map_or(0, |next| next.0);
    while at < end {
        let to = end.min(at + random.random_range(1..40));
        let buffer = fill(at, to, mood);
        let mut flush = tokio::spawn(async move {
            let flushed = bronze.flush(buffer).await;
            (bronze, flushed)
        });
        if random.random_bool(0.3) {
            for _ in 0..random.random_range(0..400) {
                tokio::task::yield_now().await;
            }
            flush.abort();
        }
        let Ok((back, flushed)) = (&mut flush).await else { return false };
        bronze = back;
        if let Err(error) = flushed {
            said(&error);
            return false;
        }
        at = to;
    }
    true
}

#[tokio::test]
async fn each_record_once_on_a_store_that_loses_and_a_writer_that_dies() {
    for seed in 0..4 {
        println!("seed {seed}");
        let (lake, store) = lossy(seed, Odds::BAD);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let end = 300;
        let mut lives = 0;
        while !live(&lake, end, &mut random).await {
            lives += 1;
            assert!(lives < 500, "the writer never gets to the end");
        }
        store.calm(true);
        check_each_once(&lake, end).await;
    }
}

#[tokio::test]
async fn a_twin_that_writes_the_same_span_adds_nothing() {
    for seed in 0..3 {
        println!("seed {seed}");
        let (lake, store) = lossy(seed, Odds::BAD);
        let end = 200;
        // Two processes that both believe to own the partition, as after a session that timed out.
        let twins = (0..2).map(|twin| {
            let lake = lake.clone();
            tokio::spawn(async move {
                let mut random = ChaCha8Rng::seed_from_u64(seed * 2 + twin);
                for _ in 0..200 {
                    if live(&lake, end, &mut random).await {
                        return;
                    }
                }
                panic!("a twin never gets to the end");
            })
        });
        for twin in twins.collect::<Vec<_>>() {
            twin.await.unwrap();
        }
        store.calm(true);
        let mut events: Vec<i64> =
            places(&lake, &tables::EVENTS).await.into_iter().map(|(_, _, offset)| offset).collect();
        let before = events.len();
        events.dedup();
        assert_eq!(events.len(), before, "an event twice");
        check_each_once(&lake, end).await;
    }
}

#[tokio::test]
async fn letters_of_a_flush_that_was_cut_off_stay_letters() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let store = LossyStore::scripted(memory);
    let lake = Lake::with_store(Arc::new(store.clone()), "memory:///lake/".parse().unwrap()).unwrap();
    let mut bronze = Bronze::open_with(&lake, "test", Retries { attempts: 1, ..retries() }).await.unwrap();
    assert_eq!(bronze.resume(&source()).await.unwrap(), Resume::default());
    store.next_put("bronze/events", Fault::Denied);
    let error = bronze.flush(fill(0, 30, true)).await.unwrap_err();
    assert_eq!(error.kind(), uptake_ingest::ErrorKind::Invalid, "{error}");
    drop(bronze);
    // The next process judges the moody records otherwise; those that are letters already stay letters.
    let mut bronze = Bronze::open(&lake, "test").await.unwrap();
    let resume = bronze.resume(&source()).await.unwrap();
    assert_eq!((resume.next, resume.letters_next), (None, Some(Next(30))));
    bronze.flush(fill(0, 20, false)).await.unwrap();
    bronze.flush(fill(20, 50, false)).await.unwrap();
    check_each_once(&lake, 50).await;
    let resume = Bronze::open(&lake, "test").await.unwrap().resume(&source()).await.unwrap();
    assert_eq!(resume.next, Some(Next(50)));
}

#[tokio::test]
async fn a_full_disk_is_tried_again_and_then_said_with_positions_unmoved() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let store = LossyStore::scripted(memory);
    let lake = Lake::with_store(Arc::new(store.clone()), "memory:///lake/".parse().unwrap()).unwrap();
    let mut bronze = Bronze::open_with(&lake, "test", Retries { attempts: 3, ..retries() }).await.unwrap();
    for _ in 0..2 {
        store.next_put("bronze/events", Fault::Full);
    }
    bronze.flush(fill(0, 3, false)).await.expect("two refusals pass");
    for _ in 0..3 {
        store.next_put("bronze/events", Fault::Full);
    }
    let error = bronze.flush(fill(3, 10, false)).await.unwrap_err();
    assert_eq!(error.kind(), uptake_ingest::ErrorKind::Retry);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("no space is left") && cause.contains("free some"), "{cause}");
    let mut bronze = Bronze::open(&lake, "test").await.unwrap();
    assert_eq!(bronze.resume(&source()).await.unwrap().next, Some(Next(3)));
    bronze.flush(fill(3, 10, false)).await.unwrap();
    check_each_once(&lake, 10).await;
}

#[tokio::test]
async fn tombstones_alone_move_the_position_and_an_end_is_noted_as_idle() {
    let lake = Lake::in_memory().unwrap();
    let mut bronze = Bronze::open(&lake, "test").await.unwrap();
    let mut buffer = Buffer::new();
    buffer.pass(&source(), None, Offset(0), Pass::Tombstone);
    bronze.flush(buffer).await.unwrap();
    assert_eq!(bronze.resume(&source()).await.unwrap().next, Some(Next(1)));
    bronze.flush(fill(1, 9, false)).await.unwrap();
    let before = lake.watermark().await.unwrap().expect("a watermark");
    let mut buffer = Buffer::new();
    buffer.set_idle(&source(), None, Next(9));
    bronze.flush(buffer).await.unwrap();
    assert_eq!(lake.watermark().await.unwrap(), Some(before), "idle: the greatest of all idle ones");
    assert_eq!(bronze.resume(&source()).await.unwrap().next, Some(Next(9)));
}
