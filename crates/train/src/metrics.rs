//! How good a score is: rank measures, measures at a threshold, calibration, and their intervals over conversations.
//!
//! Each takes scored cases, a score and whether it holds. A measure that the cases do not define (no positive among them,
//! say) is nothing rather than a number.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// A score, and whether what it stands for holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Higher means more likely.
    pub score: f64,
    /// The truth.
    pub holds: bool,
}

fn by_score_falling(cases: &[Case]) -> Vec<Case> {
    let mut sorted = cases.to_vec();
    sorted.sort_by(|left, right| right.score.total_cmp(&left.score));
    sorted
}

/// Runs of equal scores, highest first: how many of each hold, and how many do not.
fn ties(cases: &[Case]) -> Vec<(usize, usize)> {
    let sorted = by_score_falling(cases);
    sorted
        .chunk_by(|left, right| left.score.total_cmp(&right.score).is_eq())
        .map(|run| {
            let positive = run.iter().filter(|case| case.holds).count();
            (positive, run.len() - positive)
        })
        .collect()
}

/// Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.
#[must_use]
pub fn auroc(cases: &[Case]) -> Option<f64> {
    let (mut positives, mut negatives, mut area) = (0, 0, 0.0);
    for (positive, negative) in ties(cases) {
        area += negative as f64 * (positives as f64 + positive as f64 / 2.0);
        positives += positive;
        negatives += negative;
    }
    (positives > 0 && negatives > 0).then(|| area / (positives as f64 * negatives as f64))
}

/// Average precision: precision at each threshold, weighted by the recall that it adds (no interpolation).
#[must_use]
pub fn average_precision(cases: &[Case]) -> Option<f64> {
    let total = cases.iter().filter(|case| case.holds).count();
    let (mut positives, mut seen, mut sum) = (0, 0, 0.0);
    for (positive, negative) in ties(cases) {
        positives += positive;
        seen += positive + negative;
        sum += positive as f64 * positives as f64 / seen as f64;
    }
    (total > 0).then(|| sum / total as f64)
}

/// Measures of the decision "score ≥ threshold".
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Of the cases that fire, how many hold; 0 where none fires.
    pub precision: f64,
    /// Of the cases that hold, how many fire; 0 where none holds.
    pub recall: f64,
    /// Harmonic mean of the two; 0 where either is.
    pub f1: f64,
    /// How many fire.
    pub fired: usize,
}

impl Decision {
    fn of(right: usize, fired: usize, positives: usize) -> Self {
        let ratio = |of: usize| if of == 0 { 0.0 } else { right as f64 / of as f64 };
        let f1 = if fired + positives == 0 { 0.0 } else { 2.0 * right as f64 / (fired + positives) as f64 };
        Self { precision: ratio(fired), recall: ratio(positives), f1, fired }
    }

    /// Measures at a threshold.
    #[must_use]
    pub fn at(cases: &[Case], threshold: f64) -> Self {
        let fired = cases.iter().filter(|case| case.score >= threshold);
        let (count, right) = fired.fold((0, 0), |(count, right), case| (count + 1, right + usize::from(case.holds)));
        Self::of(right, count, cases.iter().filter(|case| case.holds).count())
    }

    /// Every threshold that makes a difference (halfway between two scores), highest first, with its measures.
    pub(crate) fn all(cases: &[Case]) -> Vec<(f64, Self)> {
        let sorted = by_score_falling(cases);
        let positives = cases.iter().filter(|case| case.holds).count();
        let mut right = 0;
        let mut all = Vec::new();
        for (index, case) in sorted.iter().enumerate() {
            right += usize::from(case.holds);
            let next = sorted.get(index + 1).map_or(0.0, |next| next.score);
            if next < case.score {
                all.push((f64::midpoint(case.score, next), Self::of(right, index + 1, positives)));
            }
        }
        all
    }
}

/// Bins of [`calibration_error`].
pub const BINS: usize = 10;

/// Expected calibration error: over ten bins of equal width, the mean distance of the mean probability from the fraction
/// that holds, weighted by the bin's cases.
#[must_use]
pub fn calibration_error(cases: &[Case]) -> Option<f64> {
    let mut bins = [(0.0, 0.0); BINS];
    for case in cases {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a probability is between 0 and 1")]
        let bin = ((case.score * BINS as f64) as usize).min(BINS - 1);
        bins[bin].0 += case.score;
        bins[bin].1 += f64::from(u8::from(case.holds));
    }
    let distance: f64 = bins.iter().map(|(scores, holding)| (scores - holding).abs()).sum();
    (!cases.is_empty()).then(|| distance / cases.len() as f64)
}

/// Pearson's correlation; nothing where one of the two is the same throughout, or there are fewer than 3 points.
#[must_use]
pub fn pearson(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let (mean_left, mean_right) = (
        points.iter().map(|point| point.0).sum::<f64>() / count,
        points.iter().map(|point| point.1).sum::<f64>() / count,
    );
    let sum = |of: &dyn Fn(f64, f64) -> f64| {
        points.iter().map(|(left, right)| of(left - mean_left, right - mean_right)).sum::<f64>()
    };
    let (left, right) = (sum(&|left, _| left * left), sum(&|_, right| right * right));
    let defined = points.len() > 2 && left > 0.0 && right > 0.0;
    defined.then(|| sum(&|left, right| left * right) / (left * right).sqrt())
}

/// Spearman's correlation: Pearson's of the ranks, ties sharing theirs.
#[must_use]
pub fn spearman(points: &[(f64, f64)]) -> Option<f64> {
    let left = ranks(points.iter().map(|point| point.0));
    let right = ranks(points.iter().map(|point| point.1));
    pearson(&left.into_iter().zip(right).collect::<Vec<_>>())
}

/// The rank of each value, counted from 0; equal ones have the mean of their places.
fn ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<(usize, f64)> = values.enumerate().collect();
    sorted.sort_by(|left, right| left.1.total_cmp(&right.1));
    let mut ranks = vec![0.0; sorted.len()];
    let mut start = 0;
    for run in sorted.chunk_by(|left, right| left.1.total_cmp(&right.1).is_eq()) {
        let rank = start as f64 + (run.len() as f64 - 1.0) / 2.0;
        for (index, _) in run {
            ranks[*index] = rank;
        }
        start += run.len();
    }
    ranks
}

/// A measure with a 95 % interval over conversations (percentile bootstrap).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// On the cases as they are.
    pub value: f64,
    /// 2.5 % of resamples lie below.
    pub low: f64,
    /// 2.5 % of resamples lie above.
    pub high: f64,
}

impl Estimate {
    /// Measures `cases` and resamples of their conversations: `conversations` holds the positions of each one's cases.
    #[must_use]
    pub fn bootstrap<C: Copy>(
        cases: &[C],
        conversations: &[Vec<usize>],
        resamples: usize,
        seed: u64,
        measure: impl Fn(&[C]) -> Option<f64>,
    ) -> Option<Self> {
        let value = measure(cases)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut drawn = Vec::with_capacity(cases.len());
        let mut values: Vec<f64> = (0..resamples)
            .filter_map(|_| {
                drawn.clear();
                for _ in 0..conversations.len() {
                    let conversation = &conversations[random.random_range(0..conversations.len())];
                    drawn.extend(conversation.iter().map(|index| cases[*index]));
                }
                measure(&drawn)
            })
            .collect();
        values.sort_by(f64::total_cmp);
        let at = |part: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "part is between 0 and 1")]
            let index = (part * values.len() as f64) as usize;
            values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(value)
        };
        Some(Self { value, low: at(0.025), high: at(0.975) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(scores: &[(f64, u8)]) -> Vec<Case> {
        scores.iter().map(|(score, holds)| Case { score: *score, holds: *holds == 1 }).collect()
    }

    #[track_caller]
    fn near(actual: Option<f64>, expected: f64) {
        let actual = actual.unwrap();
        assert!((actual - expected).abs() < 1e-9, "{actual} and {expected}");
    }

    /// Expected values are scikit-learn's (`roc_auc_score`, `average_precision_score`).
    #[test]
    fn rank_measures_are_scikit_learns() {
        let some = cases(&[(0.1, 0), (0.4, 0), (0.35, 1), (0.8, 1)]);
        near(auroc(&some), 0.75);
        near(average_precision(&some), 0.833_333_333_333_333_3);
        let tied = cases(&[(0.5, 1), (0.5, 0), (0.5, 1), (0.2, 0), (0.9, 0)]);
        near(auroc(&tied), 0.5);
        near(average_precision(&tied), 0.5);
        let constant = cases(&[(0.5, 1), (0.5, 0), (0.5, 0), (0.5, 0)]);
        near(auroc(&constant), 0.5);
        near(average_precision(&constant), 0.25);
    }

    #[test]
    fn what_is_not_defined_is_nothing() {
        assert_eq!(auroc(&cases(&[(0.5, 1)])), None);
        assert_eq!(auroc(&[]), None);
        assert_eq!(average_precision(&cases(&[(0.5, 0)])), None);
        assert_eq!(calibration_error(&[]), None);
    }

    #[test]
    fn decisions_count_at_and_above_the_threshold() {
        let some = cases(&[(0.9, 1), (0.7, 0), (0.6, 1), (0.2, 1)]);
        let decision = Decision::at(&some, 0.6);
        assert_eq!(decision.fired, 3);
        near(Some(decision.precision), 2.0 / 3.0);
        near(Some(decision.recall), 2.0 / 3.0);
        near(Some(decision.f1), 2.0 / 3.0);
        let none = Decision::at(&some, 1.0);
        assert_eq!((none.precision, none.recall, none.f1, none.fired), (0.0, 0.0, 0.0, 0));
    }

    #[test]
    fn every_listed_threshold_measures_what_it_says() {
        let some = cases(&[(0.9, 1), (0.7, 0), (0.7, 1), (0.6, 1), (0.2, 0)]);
        let all = Decision::all(&some);
        assert_eq!(all.len(), 4);
        for (threshold, decision) in all {
            assert_eq!(decision, Decision::at(&some, threshold));
        }
    }

    #[test]
    fn calibration_error_is_nought_where_probabilities_are_true() {
        let mut all = vec![Case { score: 0.25, holds: false }; 75];
        all.extend(vec![Case { score: 0.25, holds: true }; 25]);
        near(calibration_error(&all), 0.0);
        near(calibration_error(&cases(&[(0.95, 0), (0.05, 1)])), 0.95);
        near(calibration_error(&cases(&[(1.0, 1), (0.0, 0)])), 0.0);
    }

    /// Expected values are scipy's (`pearsonr`, `spearmanr`).
    #[test]
    fn correlations_are_scipys() {
        let points = [(1.0, 2.0), (2.0, 1.0), (3.0, 4.0), (4.0, 3.0), (5.0, 9.0)];
        near(pearson(&points), 0.812_276_932_106_895_3);
        near(spearman(&points), 0.8);
        let tied = [(1.0, 1.0), (1.0, 2.0), (2.0, 2.0), (3.0, 3.0)];
        near(spearman(&tied), 0.833_333_333_333_333_3);
        assert_eq!(pearson(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(spearman(&points[..2]), None);
    }

    #[test]
    fn intervals_hold_the_value_and_repeat_with_the_seed() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let all: Vec<Case> = (0..300)
            .map(|index| Case {
                score: random.random::<f64>() + f64::from(u8::from(index % 3 == 0)) * 0.4,
                holds: index % 3 == 0,
            })
            .collect();
        let conversations: Vec<Vec<usize>> = (0..150).map(|index| vec![2 * index, 2 * index + 1]).collect();
        let one = Estimate::bootstrap(&all, &conversations, 300, 5, auroc).unwrap();
        assert!(one.low < one.value && one.value < one.high, "{one:?}");
        assert!(one.high - one.low < 0.2, "{one:?}");
        assert_eq!(Estimate::bootstrap(&all, &conversations, 300, 5, auroc), Some(one));
    }
}
