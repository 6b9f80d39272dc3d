//! Replacing days: exactly, all together, and never over another writer's.

use futures::TryStreamExt;
use object_store::path::Path;
use uptake_model::tables::REJECTED;

use super::{DAY, range, rejected, request, stored};
use crate::Lake;
use crate::error::{Error, Kind};
use crate::request::{CommitRequest, Committed};

/// A replacement takes the named days (and slice) and nothing else; the same rows again write nothing.
pub async fn replace_is_exact(lake: &Lake) {
    let table = lake.table(&REJECTED).await.unwrap();
    let both = vec![rejected(0..5, "a", DAY), rejected(10..15, "a", DAY + 1)];
    table.replace(&[DAY, DAY + 1], None, request(both, "rejected/x/1", None, 1)).await.unwrap();
    assert_eq!(stored(&table).await, [range(0..5), range(10..15)].concat());

    let outside = table
        .replace(&[DAY], None, request(vec![rejected(0..1, "a", DAY + 1)], "rejected/x/1", Some(1), 2))
        .await
        .unwrap_err();
    assert_eq!(outside.kind(), Kind::Invalid, "{outside}");

    let one = request(vec![rejected(2..4, "b", DAY)], "rejected/x/1", Some(1), 2);
    assert!(table.replace(&[DAY], None, one.clone()).await.unwrap().is_written());
    assert!(!table.replace(&[DAY], None, one).await.unwrap().is_written(), "a rerun is a no-op");
    assert_eq!(stored(&table).await, [range(2..4), range(10..15)].concat());

    // The same rows under a new position: the position moves, the files stay.
    let files = table.files();
    let same = vec![rejected(2..3, "b", DAY), rejected(3..4, "b", DAY), rejected(10..15, "a", DAY + 1)];
    let moved = table.replace(&[DAY, DAY + 1], None, request(same.clone(), "rejected/x/1", Some(2), 3)).await;
    assert!(moved.unwrap().is_written());
    assert_eq!(table.files(), files, "the same rows in other batches are the same file");
    assert_eq!(table.position("rejected/x/1").await.unwrap(), Some(3));
    let version = table.version();
    let nothing = CommitRequest { batches: same, ..CommitRequest::default() };
    assert_eq!(table.replace(&[DAY, DAY + 1], None, nothing).await.unwrap(), Committed::AlreadyThere { version });

    // A day without rows becomes empty.
    table.replace(&[DAY], None, request(Vec::new(), "rejected/x/1", Some(3), 4)).await.unwrap();
    assert_eq!(stored(&table).await, range(10..15));
}

/// What is staged is seen by nobody until all of it is shown in one commit; what is discarded leaves no file.
pub async fn staged_days_are_shown_together(lake: &Lake) {
    let table = lake.table(&REJECTED).await.unwrap();
    table.replace(&[DAY], None, request(vec![rejected(0..5, "a", DAY)], "rejected/x/1", None, 1)).await.unwrap();
    let version = table.version();
    let first = table.stage(&[DAY], None, vec![rejected(0..2, "b", DAY)]).await.unwrap();
    let second = table.stage(&[DAY + 1], None, vec![rejected(10..12, "b", DAY + 1)]).await.unwrap();
    assert_eq!((table.refresh().await.unwrap(), stored(&table).await), (version, range(0..5)));
    let shown = table.replace_staged(vec![first, second], request(Vec::new(), "rejected/x/1", Some(1), 2)).await;
    assert_eq!(shown.unwrap(), Committed::Written { version: version + 1 });
    assert_eq!(stored(&table).await, [range(0..2), range(10..12)].concat());

    let names = async || {
        let listed = lake.store().list(Some(&Path::from(REJECTED.path()))).map_ok(|file| file.location.to_string());
        let mut names: Vec<String> = listed.try_collect().await.unwrap();
        names.sort();
        names
    };
    let before = names().await;
    let unwanted = table.stage(&[DAY], None, vec![rejected(0..9, "c", DAY)]).await.unwrap();
    assert_eq!(names().await.len(), before.len() + 1);
    table.discard(vec![unwanted]).await;
    assert_eq!(names().await, before);

    let twice = [
        table.stage(&[DAY], None, vec![rejected(0..9, "c", DAY)]).await.unwrap(),
        table.stage(&[DAY], None, vec![rejected(0..9, "d", DAY)]).await.unwrap(),
    ];
    let error = table.replace_staged(twice.into(), CommitRequest::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");

    // Another writer comes in between.
    let mine = table.stage(&[DAY], None, vec![rejected(0..9, "e", DAY)]).await.unwrap();
    let other = lake.table(&REJECTED).await.unwrap();
    other.replace(&[DAY], None, request(vec![rejected(3..4, "f", DAY)], "two", None, 1)).await.unwrap();
    let error = table.replace_staged(vec![mine], CommitRequest::default()).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    table.refresh().await.unwrap();
    assert_eq!(stored(&table).await, [range(3..4), range(10..12)].concat(), "nothing is lost");
}

/// A replacement computed before another writer changed the same days is refused; of other days it is not.
pub async fn replace_conflict_is_detected(lake: &Lake) {
    let (first, second) = (lake.table(&REJECTED).await.unwrap(), lake.table(&REJECTED).await.unwrap());
    first.replace(&[DAY], None, request(vec![rejected(0..5, "a", DAY)], "one", None, 1)).await.unwrap();
    let elsewhere = request(vec![rejected(20..25, "a", DAY + 1)], "two", None, 1);
    assert!(second.replace(&[DAY + 1], None, elsewhere).await.unwrap().is_written());
    first.replace(&[DAY], None, request(vec![rejected(0..3, "b", DAY)], "one", Some(1), 2)).await.unwrap();
    let error =
        second.replace(&[DAY], None, request(vec![rejected(0..9, "c", DAY)], "two", Some(1), 2)).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    assert_eq!(stored(&first).await, [range(0..3), range(20..25)].concat(), "nothing is lost");
    second.refresh().await.unwrap();
    let again = request(vec![rejected(0..9, "c", DAY)], "two", Some(1), 2);
    assert!(second.replace(&[DAY], None, again).await.unwrap().is_written());
}
