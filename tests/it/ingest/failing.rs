//! A consumer over a store that loses requests and answers.

use std::sync::Arc;
use std::time::Duration;

use uptake_ingest::bronze::Retries;
use uptake_ingest::consume::Consumer;
use uptake_ingest::mock::MockBroker;
use uptake_lake::Lake;
use uptake_lake::lossy::{LossyStore, Odds};

use super::consumer::{LONG, options};
use super::records::{MESSAGES, REACTIONS, check_each_once, produce, schedule};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_once_over_a_store_that_loses() {
    let broker = MockBroker::start(&[MESSAGES, REACTIONS], 2).unwrap();
    let records = schedule(21, 1_500, 2);
    produce(&broker.bootstrap(), &records);
    let store = LossyStore::new(Arc::new(object_store::memory::InMemory::new()), 21, Odds::BAD);
    let lake = Lake::with_store(Arc::new(store.clone()), "memory:///lake/".parse().unwrap()).unwrap();
    let mut options = options(&broker.bootstrap(), "lossy");
    options.until_end = true;
    options.flush.rows = 40;
    options.retries = Retries { attempts: 4, pause: Duration::from_millis(1), longest_pause: Duration::from_millis(5) };
    let mut lives = 0;
    loop {
        lives += 1;
        assert!(lives < 100, "never gets to the end");
        let Ok(consumer) = Consumer::start(options.clone(), &lake).await else { continue };
        let ended = tokio::time::timeout(LONG, consumer.run()).await.expect("in time");
        match ended {
            Ok(_) => break,
            Err(error) => println!("life {lives} ended: {error}"),
        }
    }
    println!("{} faults, {lives} lives", store.faults());
    store.calm(true);
    check_each_once(&lake, &records).await;
}
