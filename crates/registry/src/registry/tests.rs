use std::sync::Arc;

use tempfile::TempDir;

use super::*;

const NOON: Micros = 1_768_046_400_000_000;

fn model(auroc: f64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
    write("tagger.json", "{}".to_owned());
    write("metrics.json", format!(r#"{{"test":{{"auroc":{{"value":{auroc},"low":0.1,"high":1.0}}}}}}"#));
    std::fs::create_dir(directory.path().join("weights")).unwrap();
    write("weights/a.bin", "weights ".repeat(1_000));
    directory
}

fn gates() -> Vec<Gate> {
    let gate = |at_least, most_below_production| Gate {
        kind: Kind::Tagger,
        figure: "test.auroc".to_owned(),
        at_least,
        at_most: None,
        most_below_production,
        most_above_production: None,
    };
    vec![gate(Some(0.8), None), gate(None, Some(0.01))]
}

fn registry() -> Registry {
    Registry::new(Lake::in_memory().unwrap(), gates()).unwrap()
}

async fn added(registry: &Registry, auroc: f64) -> Entry {
    let directory = model(auroc);
    let extra = Added { name: Some(format!("t{auroc}")), ..Added::default() };
    registry.add(directory.path(), &extra, NOON).await.unwrap().0
}

fn change() -> Change {
    Change { by: "ann".to_owned(), at: NOON, ..Change::default() }
}

#[tokio::test]
async fn a_model_comes_back_as_it_was_added() {
    let registry = registry();
    let directory = model(0.9);
    let named = Added { name: Some("first".to_owned()), ..Added::default() };
    let (entry, new) = registry.add(directory.path(), &named, NOON).await.unwrap();
    assert!(new && entry.id == format!("first/{}", entry.version));
    let (again, new) = registry.add(directory.path(), &named, NOON + 1).await.unwrap();
    assert_eq!((&again, new), (&entry, false));
    assert_eq!(registry.list().await.unwrap(), std::slice::from_ref(&entry));
    assert_eq!(registry.show(&entry.version[..10]).await.unwrap(), entry);
    let cache = tempfile::tempdir().unwrap();
    let fetched = registry.fetch(&entry, cache.path()).await.unwrap();
    assert_eq!(describe(&fetched).unwrap().files, entry.files);
    assert_eq!(registry.fetch(&entry, cache.path()).await.unwrap(), fetched);
    let error = registry.show("nobody").await.unwrap_err().to_string();
    assert!(error.contains(&entry.id), "{error}");
    for wrong in ["history", "a/b", "", "..", "ä"] {
        let named = Added { name: Some(wrong.to_owned()), ..Added::default() };
        assert!(registry.add(directory.path(), &named, NOON).await.is_err(), "{wrong}");
    }
    let orphan = Added { name: Some("o".to_owned()), parents: vec!["nobody".to_owned()], ..Added::default() };
    assert!(registry.add(model(0.7).path(), &orphan, NOON).await.is_err());
}

#[tokio::test]
async fn a_file_that_was_changed_is_found() {
    let registry = registry();
    let entry = added(&registry, 0.9).await;
    let spoiled = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(spoiled.path(), "other").unwrap();
    let path = format!("models/{}/weights/a.bin", entry.id);
    let _ = registry.lake.upload_object(spoiled.path(), &path).await.unwrap();
    let cache = tempfile::tempdir().unwrap();
    let error = registry.fetch(&entry, cache.path()).await.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Corrupt, "{error}");
    let left: Vec<_> = std::fs::read_dir(cache.path().join(&entry.name)).unwrap().collect();
    assert!(left.is_empty() && !cache.path().join(&entry.id).exists(), "nothing half-fetched stays: {left:?}");
}

#[tokio::test]
async fn gates_decide_and_whoever_insists_says_why() {
    let registry = registry();
    let (weak, good, near) = (added(&registry, 0.7).await, added(&registry, 0.9).await, added(&registry, 0.88).await);
    assert_eq!(weak.decision.outcome, Outcome::Refused);
    let error = registry.promote(&weak, &change()).await.unwrap_err().to_string();
    assert!(error.contains("0.7000 is below 0.8"), "{error}");
    assert_eq!(registry.production(Kind::Tagger).await.unwrap(), None);
    assert_eq!(near.decision.outcome, Outcome::Passed, "nothing was in use when it was added");
    let event = registry.promote(&good, &change()).await.unwrap();
    assert_eq!((event.number, event.forced, event.previous), (1, false, None));
    assert_eq!(registry.production(Kind::Tagger).await.unwrap().as_ref(), Some(&good));
    let error = registry.promote(&near, &change()).await.unwrap_err().to_string();
    assert!(error.contains("the model in use"), "{error}");
    let silent = Change { force: true, ..change() };
    assert!(registry.promote(&near, &silent).await.unwrap_err().to_string().contains("says why"));
    let insisted = Change { reason: Some("faster".to_owned()), ..silent };
    let event = registry.promote(&near, &insisted).await.unwrap();
    assert!(event.forced && event.decision.unwrap().outcome == Outcome::Refused);
    assert!(registry.promote(&near, &insisted).await.unwrap_err().to_string().contains("in use already"));
    assert_eq!(registry.production(Kind::Reward).await.unwrap(), None);
}

#[tokio::test]
async fn rolling_back_goes_step_by_step_and_is_written_down() {
    let registry = registry();
    let (first, second) = (added(&registry, 0.85).await, added(&registry, 0.9).await);
    assert!(registry.roll_back(Kind::Tagger, &change()).await.is_err());
    registry.promote(&first, &change()).await.unwrap();
    registry.promote(&second, &change()).await.unwrap();
    assert_eq!(registry.roll_back(Kind::Tagger, &change()).await.unwrap().model, Some(first.id.clone()));
    assert_eq!(registry.production(Kind::Tagger).await.unwrap().unwrap().id, first.id);
    assert_eq!(registry.roll_back(Kind::Tagger, &change()).await.unwrap().model, None);
    assert_eq!(registry.production(Kind::Tagger).await.unwrap(), None);
    assert!(registry.roll_back(Kind::Tagger, &change()).await.is_err());
    let numbers: Vec<u64> = registry.history(Kind::Tagger).await.unwrap().iter().map(|event| event.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

/// Of many who promote at once, each sees either its own line or a conflict, and the history has no gap and no double.
#[tokio::test]
async fn two_at_once_cannot_both_have_the_next_number() {
    let registry = Arc::new(Registry::new(Lake::in_memory().unwrap(), Vec::new()).unwrap());
    let (a, b) = (added(&registry, 0.85).await, added(&registry, 0.9).await);
    let mut tasks = Vec::new();
    for number in 0..16 {
        let (registry, entry) = (Arc::clone(&registry), if number % 2 == 0 { a.clone() } else { b.clone() });
        let change = Change { by: format!("p{number}"), reason: Some("race".to_owned()), force: true, ..change() };
        tasks.push(tokio::spawn(async move { (change.by.clone(), registry.promote(&entry, &change).await) }));
    }
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (by, Ok(event)) => winners.push((event.number, by)),
            (_, Err(Error::Conflict(_) | Error::Invalid(_))) => {}
            (_, Err(error)) => panic!("{error}"),
        }
    }
    winners.sort();
    let written = registry.history(Kind::Tagger).await.unwrap();
    let written: Vec<_> = written.into_iter().map(|event| (event.number, event.by)).collect();
    assert!(!winners.is_empty() && winners == written, "{winners:?} against {written:?}");
    assert!(written.iter().enumerate().all(|(at, (number, _))| *number == at as u64 + 1));
}

#[test]
fn a_gate_that_bounds_nothing_is_refused() {
    let empty = Gate { at_least: None, most_below_production: None, ..gates().remove(0) };
    assert!(Registry::new(Lake::in_memory().unwrap(), vec![empty]).is_err());
}
