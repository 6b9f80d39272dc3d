//! What is measured, by head and by source.
//!
//! **Length-controlled accuracy.** A pair counts so that, within each source, the pairs whose better response is the longer
//! one weigh as much together as those whose better response is the shorter one; responses of equal length are left out, and
//! so is a source that lacks one of the two kinds. "The longer one wins" has exactly one half there, whatever a source's
//! taste for length; a model has what it knows beyond length.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uptake_tagger::{Encoder, Input};

use super::held_out::HeldOut;
use super::loss::surprise;
use super::model::{Objective, outputs};
use super::prepared::{Item, Prepared, Said};
use crate::checkpoint::rounded;
use crate::error::Result;
use crate::metrics::{Case, Estimate, auroc, average_precision, calibration_error, pearson, spearman};

/// Resamples of an interval.
const RESAMPLES: usize = 1000;
/// The name of all sources together.
pub(super) const ALL: &str = "all";

/// How far scores go with the length of the response, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthCorrelation {
    /// Pearson's.
    pub pearson: Option<f64>,
    /// Spearman's.
    pub spearman: Option<f64>,
}

/// Of a rate, on the responses held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateFigures {
    /// Where the rows come from; `all` for all of them.
    pub source: String,
    /// Responses.
    pub responses: usize,
    /// Of those, how many were liked.
    pub liked: usize,
    /// Mean score, the prior corrected.
    pub mean: f64,
    /// Chance that a liked response scores above another.
    pub auroc: Option<Estimate>,
    /// Average precision.
    pub average_precision: Option<Estimate>,
    /// Expected calibration error, the prior corrected.
    pub calibration_error: Option<f64>,
    /// Of the log-odds with length.
    pub length: LengthCorrelation,
}

/// Of a head that compares, on the pairs held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairFigures {
    /// Where the rows come from; `all` for all of them.
    pub source: String,
    /// Pairs.
    pub pairs: usize,
    /// Pairs whose better response is the longer one.
    pub better_longer: usize,
    /// Pairs whose better response is the shorter one.
    pub better_shorter: usize,
    /// Share of pairs in the right order; the same score counts half.
    pub accuracy: Option<Estimate>,
    /// The like of "the longer one wins"; the same length counts half.
    pub longer_wins: Option<Estimate>,
    /// Length-controlled, where the longer one wins half.
    pub controlled: Option<Estimate>,
    /// Of the rewards with length.
    pub length: LengthCorrelation,
}

/// Of one head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadFigures {
    /// Its name.
    pub head: String,
    /// Of a rate: `all`, then each source.
    pub rates: Vec<RateFigures>,
    /// Of a head that compares: `all`, then each source.
    pub pairs: Vec<PairFigures>,
}

/// All figures of a model on what was held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// What was held out, and why.
    pub held_out: HeldOut,
    /// By head.
    pub heads: Vec<HeadFigures>,
}

/// A head on the validation part after a pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochHead {
    /// Its name.
    pub head: String,
    /// Mean of −log of the probability of what was said.
    pub loss: f64,
    /// AUROC of a rate, accuracy of a head that compares.
    pub figure: Option<f64>,
}

/// An item with what the model says: one log-odds, or the rewards of the better and the worse response.
pub(super) struct Scored<'a> {
    item: &'a Item,
    scores: [f64; 2],
    lengths: [usize; 2],
}

/// Scores the items of a part.
pub(super) fn scored<'a>(prepared: &'a Prepared, encoder: &Encoder, part: &[usize]) -> Result<Vec<Scored<'a>>> {
    let items: Vec<&Item> = part.iter().map(|index| &prepared.items[*index]).collect();
    let ends = |item: &Item| match item.said {
        Said::Liked { response, .. } => [response, response],
        Said::Better { better, worse, .. } => [better, worse],
    };
    let mut inputs: Vec<&Input> = Vec::new();
    for item in &items {
        let [first, second] = ends(item);
        inputs.push(&prepared.responses[first].input);
        if second != first {
            inputs.push(&prepared.responses[second].input);
        }
    }
    let mut logits = outputs(encoder, &inputs)?.into_iter();
    let scored = items.into_iter().map(|item| {
        let [first, second] = ends(item);
        let head = &prepared.heads[item.head];
        let mut next = || logits.next().map_or(f64::NAN, |logits| head.score(logits[item.head]).logit);
        let one = next();
        let other = if second == first { one } else { next() };
        let lengths = [prepared.responses[first].length, prepared.responses[second].length];
        Scored { item, scores: [one, other], lengths }
    });
    Ok(scored.collect())
}

impl Scored<'_> {
    fn loss(&self) -> f64 {
        let [one, other] = self.scores;
        match self.item.said {
            Said::Liked { liked: true, .. } => surprise(one),
            Said::Liked { .. } => surprise(-one),
            Said::Better { .. } => surprise(one - other),
        }
    }
}

/// The heads on the validation part.
pub(super) fn epoch(prepared: &Prepared, scored: &[Scored<'_>]) -> Vec<EpochHead> {
    let of = |(index, head): (usize, &super::model::Head)| {
        let own: Vec<&Scored<'_>> = scored.iter().filter(|scored| scored.item.head == index).collect();
        let figure = match head.objective {
            Objective::Rate => auroc(&own.iter().filter_map(|scored| case(scored)).collect::<Vec<_>>()),
            Objective::Preference => accuracy(&own.iter().map(|scored| Pair::of(scored, 0)).collect::<Vec<_>>()),
        };
        let loss = own.iter().map(|scored| scored.loss()).sum::<f64>() / own.len() as f64;
        EpochHead { head: head.name.clone(), loss: rounded(loss), figure: figure.map(rounded) }
    };
    // A head without rows in the part says nothing of a pass.
    prepared.heads.iter().enumerate().map(of).filter(|head| !head.loss.is_nan()).collect()
}

/// All figures of the test part.
pub(super) fn figures(prepared: &Prepared, scored: &[Scored<'_>], seed: u64) -> Figures {
    let heads = prepared.heads.iter().enumerate().map(|(index, head)| {
        let own: Vec<&Scored<'_>> = scored.iter().filter(|scored| scored.item.head == index).collect();
        let mut groups = vec![(ALL, own.clone())];
        let mut sources: BTreeMap<&str, Vec<&Scored<'_>>> = BTreeMap::new();
        for scored in own {
            sources.entry(&scored.item.source).or_default().push(scored);
        }
        groups.extend(sources.into_iter().filter(|(source, _)| !source.is_empty()));
        let filled = groups.iter().filter(|(_, group)| !group.is_empty());
        let mut figures = HeadFigures { head: head.name.clone(), rates: Vec::new(), pairs: Vec::new() };
        for (source, group) in filled {
            match head.objective {
                Objective::Rate => figures.rates.push(rate_figures(source, group, seed)),
                Objective::Preference => figures.pairs.push(pair_figures(source, group, seed)),
            }
        }
        figures
    });
    Figures { held_out: prepared.held_out.clone(), heads: heads.collect() }
}

/// Positions of the items of each conversation.
fn conversations(group: &[&Scored<'_>]) -> Vec<Vec<usize>> {
    let mut positions: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (position, scored) in group.iter().enumerate() {
        positions.entry(&scored.item.conversation).or_default().push(position);
    }
    positions.into_values().collect()
}

fn correlation(points: &[(f64, f64)]) -> LengthCorrelation {
    LengthCorrelation { pearson: pearson(points), spearman: spearman(points) }
}

/// The log-odds of a response and whether it was liked.
fn case(scored: &Scored<'_>) -> Option<Case> {
    match scored.item.said {
        Said::Liked { liked, .. } => Some(Case { score: scored.scores[0], holds: liked }),
        Said::Better { .. } => None,
    }
}

fn rate_figures(source: &str, group: &[&Scored<'_>], seed: u64) -> RateFigures {
    let cases: Vec<Case> = group.iter().filter_map(|scored| case(scored)).collect();
    let rates: Vec<Case> =
        cases.iter().map(|case| Case { score: 1.0 / (1.0 + (-case.score).exp()), ..*case }).collect();
    let together = conversations(group);
    let points: Vec<(f64, f64)> = group.iter().map(|scored| (scored.scores[0], scored.lengths[0] as f64)).collect();
    let estimate =
        |measure: fn(&[Case]) -> Option<f64>| Estimate::bootstrap(&cases, &together, RESAMPLES, seed, measure);
    RateFigures {
        source: source.to_owned(),
        responses: cases.len(),
        liked: cases.iter().filter(|case| case.holds).count(),
        mean: rates.iter().map(|case| case.score).sum::<f64>() / rates.len() as f64,
        auroc: estimate(auroc),
        average_precision: estimate(average_precision),
        calibration_error: calibration_error(&rates),
        length: correlation(&points),
    }
}

/// A pair as far as it is measured.
#[derive(Clone, Copy, Debug)]
struct Pair {
    /// Reward of the better response over that of the worse.
    lead: f64,
    /// How the better response's length compares with the worse one's.
    length: Ordering,
    source: usize,
}

impl Pair {
    fn of(scored: &Scored<'_>, source: usize) -> Self {
        Self { lead: scored.scores[0] - scored.scores[1], length: scored.lengths[0].cmp(&scored.lengths[1]), source }
    }

    fn right(&self) -> f64 {
        half(self.lead.total_cmp(&0.0), self.lead == 0.0)
    }

    fn longer_wins(&self) -> f64 {
        half(self.length, false)
    }
}

fn half(order: Ordering, tie: bool) -> f64 {
    match order {
        _ if tie => 0.5,
        Ordering::Greater => 1.0,
        Ordering::Equal => 0.5,
        Ordering::Less => 0.0,
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

fn accuracy(pairs: &[Pair]) -> Option<f64> {
    mean(pairs.iter().map(Pair::right))
}

fn longer_wins(pairs: &[Pair]) -> Option<f64> {
    mean(pairs.iter().map(Pair::longer_wins))
}

/// See the head of this file.
fn controlled(pairs: &[Pair]) -> Option<f64> {
    // By source: pairs and right ones, where the better response is shorter, and where it is longer.
    let mut sources: BTreeMap<usize, [(f64, f64); 2]> = BTreeMap::new();
    for pair in pairs.iter().filter(|pair| pair.length.is_ne()) {
        let kinds = sources.entry(pair.source).or_default();
        let (count, right) = &mut kinds[usize::from(pair.length.is_gt())];
        *count += 1.0;
        *right += pair.right();
    }
    let (mut sum, mut total) = (0.0, 0.0);
    for [shorter, longer] in sources.into_values() {
        if shorter.0 > 0.0 && longer.0 > 0.0 {
            let weight = shorter.0 + longer.0;
            sum += weight * f64::midpoint(shorter.1 / shorter.0, longer.1 / longer.0);
            total += weight;
        }
    }
    (total > 0.0).then(|| sum / total)
}

fn pair_figures(source: &str, group: &[&Scored<'_>], seed: u64) -> PairFigures {
    let mut names: Vec<&str> = group.iter().map(|scored| scored.item.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let place = |scored: &Scored<'_>| names.binary_search(&scored.item.source.as_str()).unwrap_or_default();
    let pairs: Vec<Pair> = group.iter().map(|scored| Pair::of(scored, place(scored))).collect();
    let together = conversations(group);
    let ends = |scored: &&Scored<'_>| [0, 1].map(|end| (scored.scores[end], scored.lengths[end] as f64));
    let points: Vec<(f64, f64)> = group.iter().flat_map(ends).collect();
    let estimate =
        |measure: fn(&[Pair]) -> Option<f64>| Estimate::bootstrap(&pairs, &together, RESAMPLES, seed, measure);
    PairFigures {
        source: source.to_owned(),
        pairs: pairs.len(),
        better_longer: pairs.iter().filter(|pair| pair.length.is_gt()).count(),
        better_shorter: pairs.iter().filter(|pair| pair.length.is_lt()).count(),
        accuracy: estimate(accuracy),
        longer_wins: estimate(longer_wins),
        controlled: estimate(controlled),
        length: correlation(&points),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(kinds: &[(usize, f64, i32, usize)]) -> Vec<Pair> {
        let of = |(count, lead, length, source): &(usize, f64, i32, usize)| {
            vec![Pair { lead: *lead, length: length.cmp(&0), source: *source }; *count]
        };
        kinds.iter().flat_map(of).collect()
    }

    #[track_caller]
    fn near(actual: Option<f64>, expected: f64) {
        assert!((actual.unwrap() - expected).abs() < 1e-12, "{actual:?} and {expected}");
    }

    #[test]
    fn the_rule_of_length_has_one_half_where_length_is_controlled() {
        // 70 of 100 better responses are longer; a model that only looks at length.
        let ruled = pairs(&[(70, 1.0, 1, 0), (30, -1.0, -1, 0)]);
        near(accuracy(&ruled), 0.7);
        near(longer_wins(&ruled), 0.7);
        near(controlled(&ruled), 0.5);
        // Another source likes them short: the rule still has one half.
        let both = [ruled, pairs(&[(5, 1.0, 1, 1), (45, -1.0, -1, 1)])].concat();
        near(controlled(&both), 0.5);
    }

    #[test]
    fn kinds_of_pairs_weigh_the_same_within_a_source() {
        let some = pairs(&[(60, 1.0, 1, 0), (20, -1.0, 1, 0), (5, 2.0, -1, 0), (15, -1.0, -1, 0), (9, 1.0, 0, 0)]);
        near(controlled(&some), f64::midpoint(0.75, 0.25));
        near(longer_wins(&some), (80.0 + 4.5) / 109.0);
        // A source that lacks a kind says nothing.
        near(controlled(&[some.clone(), pairs(&[(50, 1.0, 1, 1)])].concat()), 0.5);
        assert_eq!(controlled(&pairs(&[(50, 1.0, 1, 1)])), None);
        near(accuracy(&pairs(&[(1, 0.0, 1, 0), (1, 1.0, 1, 0)])), 0.75);
        assert_eq!(accuracy(&[]), None);
    }
}
