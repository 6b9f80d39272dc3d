//! The half-open range check that makes a commit happen once.
//!
//! The Delta protocol takes any `txn` version from a fresh snapshot, also the same or a lower one ("does not assume
//! monotonicity"); therefore the writer itself compares before it commits.

use uptake_model::{Next, Offset, Span};

/// What a writer may do with the span it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The store stands where the writer began: commit.
    Commit,
    /// The store stands where the writer would end: an earlier attempt, or a twin, has committed the span.
    AlreadyThere,
    /// The store stands elsewhere: another writer has been here, and this one must drop its work.
    Fenced {
        /// Where the store stands.
        stored: Option<i64>,
    },
}

/// One position that a commit moves: where the writer began and where it ends, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The position that the writer read when it began; none when there was none.
    pub from: Option<i64>,
    /// The position after the commit.
    pub to: i64,
}

/// What a writer may do with several spans that one commit moves together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Every claim may be committed.
    Commit,
    /// Every claim is there already.
    AlreadyThere,
    /// The claim of that index stands in the way.
    Fenced {
        /// Which claim, counted from zero.
        index: usize,
        /// Where the store stands for it.
        stored: Option<i64>,
    },
}

/// Judges the span `[from, to)` against the position that the store holds now.
///
/// Commit only if `stored == from` and the span does not run backwards; the same end reached from elsewhere is
/// [`Verdict::AlreadyThere`]; everything else is fenced. An empty span (`from == to`) commits: it moves nothing.
pub fn judge(stored: Option<i64>, from: Option<i64>, to: i64) -> Verdict {
    if stored == from {
        return if from.is_none_or(|from| from <= to) { Verdict::Commit } else { Verdict::Fenced { stored } };
    }
    if stored == Some(to) { Verdict::AlreadyThere } else { Verdict::Fenced { stored } }
}

/// Judges all positions of one commit together; `claims` pairs each with what the store holds for it.
///
/// Since one commit moves all of them atomically, either all are open or all are there: a mixture means that another
/// writer owns some of them. Claims that move nothing and stand where they should fit both.
pub fn judge_all(claims: &[(Option<i64>, Claim)]) -> Judgement {
    let mut open = None;
    let mut there = None;
    for (index, (stored, claim)) in claims.iter().enumerate() {
        match judge(*stored, claim.from, claim.to) {
            Verdict::Commit if claim.from == Some(claim.to) => {}
            Verdict::Commit => open = open.or(Some(index)),
            Verdict::AlreadyThere => there = there.or(Some(index)),
            Verdict::Fenced { stored } => return Judgement::Fenced { index, stored },
        }
    }
    match (open, there) {
        (_, None) => Judgement::Commit,
        (None, Some(_)) => Judgement::AlreadyThere,
        (Some(_), Some(index)) => Judgement::Fenced { index, stored: claims[index].0 },
    }
}

/// What a reader should do with a record it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// It is next; `skipped` offsets before it do not exist any more (retention, compaction, transaction markers).
    Accepted {
        /// How many offsets were jumped over.
        skipped: u64,
    },
    /// It lies before the reader's position: seen already, to be dropped without another count.
    Repeated,
}

/// What one partition's reader has consumed since its last flush.
///
/// Gaps are allowed and counted, overlaps never pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracker {
    stored: Option<Next>,
    from: Next,
    to: Next,
    skipped: u64,
}

impl Tracker {
    /// A reader that starts at `at`; `stored` is the position that the table holds, if any.
    pub fn new(stored: Option<Next>, at: Next) -> Self {
        Self { stored, from: at, to: at, skipped: 0 }
    }

    /// Takes note of a record.
    pub fn observe(&mut self, offset: Offset) -> Observed {
        if offset.0 < self.to.0 {
            return Observed::Repeated;
        }
        let skipped = offset.0.abs_diff(self.to.0);
        self.skipped += skipped;
        self.to = offset.next();
        Observed::Accepted { skipped }
    }

    /// Takes note that everything before `next` has been read, although no record says so (end of a partition behind
    /// control records). Moving back is ignored.
    pub fn reach(&mut self, next: Next) {
        self.to = self.to.max(next);
    }

    /// Where the reader stands.
    pub fn next(&self) -> Next {
        self.to
    }

    /// What was consumed since the last flush.
    pub fn span(&self) -> Option<Span> {
        Span::new(self.from, self.to)
    }

    /// Offsets jumped over since the reader began.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The claim of a flush of everything consumed; none when that would move nothing.
    pub fn claim(&self) -> Option<Claim> {
        let from = self.stored.map(|next| next.0);
        (from != Some(self.to.0)).then_some(Claim { from, to: self.to.0 })
    }

    /// Takes note that the table now holds everything before `to`.
    pub fn flushed(&mut self, to: Next) {
        self.stored = Some(to);
        self.from = to;
        self.to = self.to.max(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_commits_only_from_where_the_store_stands() {
        let check =
            |stored, from, to, expected| assert_eq!(judge(stored, from, to), expected, "{stored:?} {from:?} {to}");
        check(None, None, 10, Verdict::Commit);
        check(Some(3), Some(3), 10, Verdict::Commit);
        check(Some(3), Some(3), 3, Verdict::Commit);
        check(Some(10), Some(3), 10, Verdict::AlreadyThere);
        check(Some(10), None, 10, Verdict::AlreadyThere);
        check(Some(7), Some(3), 10, Verdict::Fenced { stored: Some(7) });
        check(Some(12), Some(3), 10, Verdict::Fenced { stored: Some(12) });
        check(None, Some(3), 10, Verdict::Fenced { stored: None });
        check(Some(10), Some(10), 3, Verdict::Fenced { stored: Some(10) });
    }

    #[test]
    fn a_commit_over_several_partitions_is_all_or_nothing() {
        let claim = |from, to| Claim { from, to };
        assert_eq!(judge_all(&[]), Judgement::Commit);
        assert_eq!(judge_all(&[(Some(1), claim(Some(1), 2)), (None, claim(None, 9))]), Judgement::Commit);
        assert_eq!(judge_all(&[(Some(2), claim(Some(1), 2)), (Some(9), claim(None, 9))]), Judgement::AlreadyThere);
        assert_eq!(judge_all(&[(Some(2), claim(Some(1), 2)), (Some(4), claim(Some(4), 4))]), Judgement::AlreadyThere);
        assert_eq!(
            judge_all(&[(Some(1), claim(Some(1), 2)), (Some(9), claim(None, 9))]),
            Judgement::Fenced { index: 1, stored: Some(9) }
        );
        assert_eq!(
            judge_all(&[(Some(1), claim(Some(1), 2)), (Some(5), claim(None, 9))]),
            Judgement::Fenced { index: 1, stored: Some(5) }
        );
    }

    #[test]
    fn gaps_are_counted_and_overlaps_refused() {
        let mut tracker = Tracker::new(Some(Next(5)), Next(5));
        assert_eq!(tracker.claim(), None);
        assert_eq!(tracker.observe(Offset(5)), Observed::Accepted { skipped: 0 });
        assert_eq!(tracker.observe(Offset(9)), Observed::Accepted { skipped: 3 });
        assert_eq!(tracker.observe(Offset(9)), Observed::Repeated);
        assert_eq!(tracker.skipped(), 3);
        assert_eq!(tracker.span(), Span::new(Next(5), Next(10)));
        assert_eq!(tracker.claim(), Some(Claim { from: Some(5), to: 10 }));
        tracker.reach(Next(12));
        tracker.reach(Next(4));
        assert_eq!(tracker.next(), Next(12));
        tracker.flushed(Next(10));
        assert_eq!(tracker.claim(), Some(Claim { from: Some(10), to: 12 }));
    }

    #[test]
    fn a_reader_that_starts_behind_a_gap_claims_from_the_stored_position() {
        let mut tracker = Tracker::new(Some(Next(5)), Next(100));
        assert_eq!(tracker.observe(Offset(100)), Observed::Accepted { skipped: 0 });
        assert_eq!(tracker.claim(), Some(Claim { from: Some(5), to: 101 }));
    }
}
