//! The proof by exhaustion of interleavings: a store, two writers, and everything that can go wrong between them.
//!
//! The model store is what object stores give: reads of the newest version, and one conditional put per version. A put
//! may be refused, may succeed, may succeed without an answer, or may arrive later (a zombie). Writers follow the same
//! steps as `lake` does: read, judge, put on the version after the one read, and on an unknown outcome read again.

use proptest::prelude::*;
use uptake_model::{Next, Offset};

use crate::{Claim, Observed, Tracker, Verdict, judge};

/// Records in the partition; a hole stands for what compaction and transaction markers leave.
const RECORDS: i64 = 40;

fn exists(offset: i64) -> bool {
    offset % 7 != 3
}

#[derive(Debug, Clone)]
struct Commit {
    claim: Claim,
    rows: Vec<i64>,
}

#[derive(Debug, Default)]
struct Store {
    log: Vec<Commit>,
    /// Puts on their way: the version they are for, and what they carry.
    late: Vec<(usize, Commit)>,
}

impl Store {
    fn position(&self) -> Option<i64> {
        self.log.last().map(|commit| commit.claim.to)
    }

    fn put(&mut self, version: usize, commit: &Commit) -> bool {
        let free = version == self.log.len();
        if free {
            self.log.push(commit.clone());
        }
        free
    }
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    LostAfterWrite,
    LostBeforeWrite,
    Late,
}

#[derive(Debug, Clone)]
enum Step {
    Assign(usize),
    Revoke(usize),
    Read(usize, usize),
    Flush(usize, Vec<Fate>),
    Crash(usize),
    Arrive,
}

#[derive(Debug, Default)]
struct Writer {
    reader: Option<(Tracker, Vec<i64>)>,
}

impl Writer {
    fn assign(&mut self, store: &Store) {
        let stored = store.position().map(Next);
        self.reader = Some((Tracker::new(stored, stored.unwrap_or(Next(0))), Vec::new()));
    }

    fn read(&mut self, count: usize) {
        let Some((tracker, rows)) = &mut self.reader else { return };
        for offset in (tracker.next().0..RECORDS).filter(|offset| exists(*offset)).take(count) {
            assert!(matches!(tracker.observe(Offset(offset)), Observed::Accepted { .. }));
            assert_eq!(tracker.observe(Offset(offset)), Observed::Repeated);
            rows.push(offset);
        }
    }

    /// Commits what is held; drops it all when another writer has been here or no attempt is left.
    fn flush(&mut self, store: &mut Store, fates: &[Fate]) {
        let Some((tracker, rows)) = &mut self.reader else { return };
        let Some(claim) = tracker.claim() else { return };
        let commit = Commit { claim, rows: rows.clone() };
        for fate in fates {
            let version = store.log.len();
            match judge(store.position(), claim.from, claim.to) {
                Verdict::AlreadyThere => {
                    tracker.flushed(Next(claim.to));
                    rows.clear();
                    return;
                }
                Verdict::Fenced { .. } => break,
                Verdict::Commit => match fate {
                    Fate::Answered => {
                        assert!(store.put(version, &commit), "nothing came between in this model");
                        tracker.flushed(Next(claim.to));
                        rows.clear();
                        return;
                    }
                    Fate::LostAfterWrite => assert!(store.put(version, &commit)),
                    Fate::LostBeforeWrite => {}
                    Fate::Late => store.late.push((version, commit.clone())),
                },
            }
        }
        self.reader = None;
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Answered),
        1 => Just(Fate::LostAfterWrite),
        1 => Just(Fate::LostBeforeWrite),
        1 => Just(Fate::Late),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..2_usize).prop_map(Step::Assign),
        1 => (0..2_usize).prop_map(Step::Revoke),
        4 => (0..2_usize, 1..6_usize).prop_map(|(writer, count)| Step::Read(writer, count)),
        4 => (0..2_usize, prop::collection::vec(fate(), 1..4)).prop_map(|(writer, fates)| Step::Flush(writer, fates)),
        1 => (0..2_usize).prop_map(Step::Crash),
        2 => Just(Step::Arrive),
    ]
}

/// Every existing offset below the position stands in the log once, in order, and none above it.
fn check(store: &Store) {
    let rows: Vec<i64> = store.log.iter().flat_map(|commit| commit.rows.iter().copied()).collect();
    let expected: Vec<i64> = (0..store.position().unwrap_or(0)).filter(|offset| exists(*offset)).collect();
    assert_eq!(rows, expected);
    let mut at = None;
    for commit in &store.log {
        assert_eq!(commit.claim.from, at, "spans meet");
        at = Some(commit.claim.to);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_gives_each_offset_once(steps in prop::collection::vec(step(), 1..60)) {
        let mut store = Store::default();
        let mut writers = [Writer::default(), Writer::default()];
        for step in steps {
            match step {
                Step::Assign(writer) => writers[writer].assign(&store),
                Step::Revoke(writer) => {
                    writers[writer].flush(&mut store, &[Fate::Answered]);
                    writers[writer].reader = None;
                }
                Step::Read(writer, count) => writers[writer].read(count),
                Step::Flush(writer, fates) => writers[writer].flush(&mut store, &fates),
                Step::Crash(writer) => writers[writer] = Writer::default(),
                Step::Arrive => {
                    if let Some((version, commit)) = store.late.pop() {
                        store.put(version, &commit);
                    }
                }
            }
            check(&store);
        }
        // Whatever happened, a fresh writer brings the partition to its end.
        writers[0].assign(&store);
        writers[0].read(usize::try_from(RECORDS).unwrap());
        writers[0].flush(&mut store, &[Fate::Answered]);
        check(&store);
        let last = (0..RECORDS).rfind(|offset| exists(*offset)).unwrap();
        prop_assert_eq!(store.position(), Some(last + 1));
    }
}

/// Without the comparison the same model loses: the check can fail.
#[test]
fn a_writer_that_does_not_compare_writes_twice() {
    let mut store = Store::default();
    let mut writer = Writer::default();
    writer.assign(&store);
    writer.read(3);
    let (tracker, rows) = writer.reader.as_ref().unwrap();
    let commit = Commit { claim: tracker.claim().unwrap(), rows: rows.clone() };
    assert!(store.put(0, &commit), "first attempt, answer lost");
    assert!(store.put(1, &commit), "blind second attempt from a fresh snapshot");
    assert!(std::panic::catch_unwind(|| check(&store)).is_err());
}
