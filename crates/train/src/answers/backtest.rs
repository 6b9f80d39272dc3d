//! The offline evaluator's back-test (RLUF): does its mean score of each model version go with what people loved of that version?
//!
//! The paper found r = .95 over ten policies between the mean offline score and the online love rate. A product has its own
//! history for this: every version of the assistant in its logs is a point.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::metrics::{Estimate, pearson, spearman};

/// Resamples of an interval.
const RESAMPLES: usize = 1_000;
/// Versions below which there is no correlation to speak of.
const LEAST_VERSIONS: usize = 3;

/// A response that a version of the assistant gave, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// The version.
    pub version: String,
    /// The conversation.
    pub conversation: String,
    /// What the reward model says of it.
    pub score: f64,
    /// Whether it was loved.
    pub loved: bool,
    /// How much the reaction counts: those of people whose reactions are all of one kind count less.
    pub weight: f64,
}

/// A version, offline and online.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    /// Its name in the logs.
    pub name: String,
    /// Responses that were scored.
    pub responses: usize,
    /// Mean score.
    pub score: f64,
    /// Share of responses that were loved, weighted.
    pub love_rate: f64,
}

/// How the score did on the product's own history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backtest {
    /// The versions, by name.
    pub versions: Vec<Version>,
    /// Versions with too few responses, and how many they have.
    pub left_out: BTreeMap<String, usize>,
    /// Pearson's r over versions between mean score and love rate; the interval is over conversations. None below three
    /// versions, or where all are alike.
    pub pearson: Option<Estimate>,
    /// Spearman's.
    pub spearman: Option<Estimate>,
}

/// One response by the number of its version.
type Point = (usize, f64, f64, f64);

/// Compares scores and love rates over versions that have at least `least` responses.
///
/// # Errors
/// Invalid when no version has so many.
pub fn backtest(logged: &[Logged], least: usize, seed: u64) -> Result<Backtest> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for response in logged {
        *counts.entry(&response.version).or_default() += 1;
    }
    let (kept, small): (BTreeMap<_, _>, BTreeMap<_, _>) =
        counts.into_iter().partition(|(_, count)| *count >= least.max(1));
    if kept.is_empty() {
        return Err(Error::Invalid(format!(
            "no version has {least} responses to test on: ask for fewer, or take more of the history"
        )));
    }
    let numbers: BTreeMap<&str, usize> = kept.keys().enumerate().map(|(number, name)| (*name, number)).collect();
    let mut points: Vec<Point> = Vec::new();
    let mut conversations: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for response in logged {
        let Some(number) = numbers.get(response.version.as_str()) else { continue };
        conversations.entry(&response.conversation).or_default().push(points.len());
        points.push((*number, response.score, f64::from(u8::from(response.loved)), response.weight));
    }
    let conversations: Vec<Vec<usize>> = conversations.into_values().collect();
    let estimate = |of: fn(&[(f64, f64)]) -> Option<f64>| {
        Estimate::bootstrap(&points, &conversations, RESAMPLES, seed, |drawn| {
            let means = means(drawn, numbers.len());
            // A resample may miss a version: it says nothing of the others then.
            let whole = means.len() >= LEAST_VERSIONS && means.len() == numbers.len();
            (whole && varies(means.iter().map(|mean| mean.0))).then(|| of(&means)).flatten()
        })
    };
    let versions = kept.iter().zip(means(&points, numbers.len())).map(|((name, responses), (score, love_rate))| {
        Version { name: (*name).to_owned(), responses: *responses, score, love_rate }
    });
    Ok(Backtest {
        versions: versions.collect(),
        left_out: small.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        pearson: estimate(pearson),
        spearman: estimate(spearman),
    })
}

/// Whether values differ by more than the rounding of a mean.
fn varies(values: impl Iterator<Item = f64>) -> bool {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    high - low > 1e-12 * high.abs().max(1.0)
}

/// Mean score and love rate of each version that has responses.
fn means(points: &[Point], versions: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![(0.0, 0.0, 0.0, 0.0); versions];
    for (number, score, loved, weight) in points {
        let sum = &mut sums[*number];
        *sum = (sum.0 + 1.0, sum.1 + score, sum.2 + weight, sum.3 + weight * loved);
    }
    let seen = sums.into_iter().filter(|(count, _, weight, _)| *count > 0.0 && *weight > 0.0);
    seen.map(|(count, score, weight, loved)| (score / count, loved / weight)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions whose share of loved responses is known, with scores that follow it or do not.
    fn history(score: impl Fn(usize) -> f64) -> Vec<Logged> {
        let of = |version: usize| {
            let score = score(version);
            (0..100).map(move |at| Logged {
                version: format!("v{version}"),
                conversation: format!("c{version}-{}", at / 2),
                score: score + 0.01 * f64::from(u8::from(at % 2 == 0)),
                loved: at < 10 * (version + 1),
                weight: 1.0,
            })
        };
        (0..5).flat_map(of).collect()
    }

    #[test]
    fn a_score_that_follows_love_correlates_and_one_that_does_not_is_seen() {
        let good = backtest(&history(|version| 0.1 * version as f64), 10, 1).unwrap();
        assert_eq!(good.versions.len(), 5);
        assert!((good.versions[4].love_rate - 0.5).abs() < 1e-12 && good.versions[0].responses == 100);
        let r = good.pearson.unwrap();
        assert!(r.value > 0.999 && r.low > 0.7 && r.low <= r.value, "{r:?}");
        let bad = backtest(&history(|version| -0.1 * version as f64), 10, 1).unwrap();
        assert!(bad.pearson.unwrap().high < -0.7 && bad.spearman.unwrap().value < -0.999);
        let same = backtest(&history(|_| 0.5), 10, 1).unwrap();
        assert_eq!(same.pearson.map(|r| r.value), None, "where all score alike there is no correlation");
    }

    #[test]
    fn weights_count_and_small_versions_are_left_out() {
        let mut history = history(|version| version as f64);
        // A crowd of one: its hearts count for next to nothing.
        history.extend((0..100).map(|at| Logged {
            version: "v0".to_owned(),
            conversation: format!("crowd-{at}"),
            score: 0.0,
            loved: true,
            weight: 0.001,
        }));
        history.push(Logged { version: "rare".to_owned(), ..history[0].clone() });
        let result = backtest(&history, 10, 1).unwrap();
        assert!(result.versions[0].love_rate < 0.105, "{:?}", result.versions[0]);
        assert_eq!(result.left_out, [("rare".to_owned(), 1)].into());
        assert!(backtest(&history, 1_000, 1).unwrap_err().to_string().contains("no version has 1000 responses"));
        let two: Vec<Logged> = history.into_iter().filter(|row| row.version.as_str() < "v2").collect();
        assert_eq!(backtest(&two, 10, 1).unwrap().pearson, None, "two points always lie on a line");
    }
}
