//! The comparison: measures of both sides, differences with intervals, wires.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::measures::{MEASURES, Measure, Wire};
use super::read::Answer;
use crate::error::{Error, Result};
use crate::metrics::{Estimate, pearson};

/// Resamples of each interval.
const RESAMPLES: usize = 1_000;
/// Answers that are shown from each end.
const EXAMPLES: usize = 5;

/// Two models' answers to the same prompts.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Prompts that both have answered.
    pub prompts: usize,
    /// Answers of either that were compared.
    pub answers: usize,
    /// Answers of the candidate without a counterpart, and of production without one.
    pub left_out: [usize; 2],
    /// Wires that were tripped.
    pub tripped: usize,
    /// What a reward model says, where it said something of every answer.
    pub score: Option<ScoreFigures>,
    /// Measure by measure.
    pub measures: Vec<MeasureFigures>,
    /// Over all answers of a side.
    pub corpus: Vec<CorpusFigures>,
    /// Where the two differ most: by score, or by length where there are no scores.
    pub examples: Vec<Example>,
    /// Words of each answer, candidate's and production's, for plots.
    #[serde(skip)]
    pub words: Vec<(f64, f64)>,
    /// Scores likewise.
    #[serde(skip)]
    pub scores: Vec<(f64, f64)>,
}

/// What the offline evaluator says.
#[derive(Debug, Clone, Serialize)]
pub struct ScoreFigures {
    /// The candidate's mean score.
    pub candidate: f64,
    /// Production's.
    pub production: f64,
    /// Their difference, answer by answer.
    pub difference: Estimate,
    /// Share of prompts on which the candidate scores higher; equal scores count half.
    pub win_rate: Estimate,
    /// Pearson correlation of score with length in words, over all answers of both.
    pub length_correlation: Option<f64>,
    /// The difference that is left where both answers are equally long: the intercept of the difference in score
    /// over the difference in length.
    pub length_controlled: Option<Estimate>,
}

/// One measure of both sides.
#[derive(Debug, Clone, Serialize)]
pub struct MeasureFigures {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// The candidate's mean.
    pub candidate: f64,
    /// Production's.
    pub production: f64,
    /// Their difference, with an interval over prompts.
    pub difference: Estimate,
    /// 1 where the difference is too much, else 0.
    pub tripped: u8,
    /// What would be too much, in words.
    pub wire: String,
}

/// A figure of all answers of a side together.
#[derive(Debug, Clone, Serialize)]
pub struct CorpusFigures {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// The candidate's.
    pub candidate: f64,
    /// Production's.
    pub production: f64,
    /// 1 where the candidate's is too low or too high, else 0.
    pub tripped: u8,
    /// What would be too much, in words.
    pub wire: String,
}

/// One prompt with both answers.
#[derive(Debug, Clone, Serialize)]
pub struct Example {
    /// Its id.
    pub id: String,
    /// What the user said last.
    pub prompt: String,
    /// The candidate's answer.
    pub candidate: String,
    /// Production's.
    pub production: String,
    /// Score, or words, of the candidate's minus production's.
    pub difference: f64,
}

type Pair<'a> = (&'a Answer, &'a Answer);

/// Compares a candidate's answers with those of the model in use, prompt by prompt.
///
/// Intervals are over prompts (paired bootstrap): several samples of one prompt are drawn together.
///
/// # Errors
/// [`Error::Invalid`] when no prompt was answered by both, or the same id means other prompts.
pub fn compare(candidate: &[Answer], production: &[Answer], seed: u64) -> Result<Comparison> {
    let known: HashMap<(&str, u64), &Answer> =
        production.iter().map(|answer| ((answer.id.as_str(), answer.sample), answer)).collect();
    let pairs: Vec<Pair<'_>> = candidate
        .iter()
        .filter_map(|answer| Some((answer, *known.get(&(answer.id.as_str(), answer.sample))?)))
        .collect();
    if pairs.is_empty() {
        return Err(Error::Invalid(
            "no prompt was answered by both: let both answer the same file of prompts".to_owned(),
        ));
    }
    if let Some((other, _)) = pairs.iter().find(|(one, other)| one.prompt != other.prompt) {
        return Err(Error::Invalid(format!(
            "`{}` means one prompt to the candidate and another to production: let both answer the same file",
            other.id
        )));
    }
    let mut prompts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, (answer, _)) in pairs.iter().enumerate() {
        prompts.entry(&answer.id).or_default().push(index);
    }
    let prompts: Vec<Vec<usize>> = prompts.into_values().collect();
    let measures: Vec<MeasureFigures> =
        MEASURES.iter().map(|measure| measure_of(measure, &pairs, &prompts, seed)).collect();
    let corpus = corpus_of(&pairs);
    let tripped = measures.iter().map(|figures| figures.tripped).chain(corpus.iter().map(|figures| figures.tripped));
    let words = |answer: &Answer| answer.response.split_whitespace().count() as f64;
    let scores: Option<Vec<(f64, f64)>> = pairs.iter().map(|(one, other)| one.score.zip(other.score)).collect();
    Ok(Comparison {
        prompts: prompts.len(),
        answers: pairs.len(),
        left_out: [candidate.len() - pairs.len(), production.len() - pairs.len()],
        tripped: tripped.map(usize::from).sum(),
        score: scores.as_ref().and_then(|scores| score_of(&pairs, scores, &prompts, seed)),
        measures,
        corpus,
        examples: examples_of(&pairs),
        words: pairs.iter().map(|(one, other)| (words(one), words(other))).collect(),
        scores: scores.unwrap_or_default(),
    })
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then_some(sum / count)
}

fn measure_of(measure: &Measure, pairs: &[Pair<'_>], prompts: &[Vec<usize>], seed: u64) -> MeasureFigures {
    let values: Vec<(f64, f64)> = pairs.iter().map(|(one, other)| (measure.of(one), measure.of(other))).collect();
    let candidate = mean(values.iter().map(|(one, _)| *one)).unwrap_or_default();
    let production = mean(values.iter().map(|(_, other)| *other)).unwrap_or_default();
    let difference = difference_of(&values, prompts, seed);
    let apart = difference.low > 0.0 || difference.high < 0.0;
    let (too_much, wire) = match measure.wire {
        Wire::Rises { factor, least } => (
            candidate > production * factor && candidate - production >= least,
            format!("more than {factor} times as much, and higher by {least}"),
        ),
        Wire::Ratio { low, high } => (
            production > 0.0 && !(low..=high).contains(&(candidate / production)),
            format!("below {low} or above {high} times as much"),
        ),
    };
    let tripped = u8::from(apart && too_much);
    MeasureFigures { name: measure.name, what: measure.what, candidate, production, difference, tripped, wire }
}

fn difference_of(values: &[(f64, f64)], prompts: &[Vec<usize>], seed: u64) -> Estimate {
    Estimate::bootstrap(values, prompts, RESAMPLES, seed, |drawn| mean(drawn.iter().map(|(one, other)| one - other)))
        .unwrap_or(Estimate { value: 0.0, low: 0.0, high: 0.0 })
}

fn score_of(pairs: &[Pair<'_>], scores: &[(f64, f64)], prompts: &[Vec<usize>], seed: u64) -> Option<ScoreFigures> {
    let words = |answer: &Answer| answer.response.split_whitespace().count() as f64;
    let wins = |(one, other): &(f64, f64)| if one > other { 1.0 } else { f64::from(u8::from(one >= other)) / 2.0 };
    let lengths: Vec<(f64, f64)> = pairs
        .iter()
        .zip(scores)
        .flat_map(|((one, other), scores)| [(scores.0, words(one)), (scores.1, words(other))])
        .collect();
    let both: Vec<(f64, f64)> = pairs
        .iter()
        .zip(scores)
        .map(|((one, other), scores)| (words(one) - words(other), scores.0 - scores.1))
        .collect();
    Some(ScoreFigures {
        candidate: mean(scores.iter().map(|(one, _)| *one))?,
        production: mean(scores.iter().map(|(_, other)| *other))?,
        difference: difference_of(scores, prompts, seed),
        win_rate: Estimate::bootstrap(scores, prompts, RESAMPLES, seed, |drawn| mean(drawn.iter().map(wins)))?,
        length_correlation: pearson(&lengths),
        length_controlled: Estimate::bootstrap(&both, prompts, RESAMPLES, seed, intercept),
    })
}

/// Where the least-squares line over `(x, y)` meets x = 0; nothing where x does not vary.
fn intercept(points: &[(f64, f64)]) -> Option<f64> {
    let (x, y) = (mean(points.iter().map(|(x, _)| *x))?, mean(points.iter().map(|(_, y)| *y))?);
    let spread: f64 = points.iter().map(|(at, _)| (at - x).powi(2)).sum();
    let slope = points.iter().map(|(at, value)| (at - x) * (value - y)).sum::<f64>() / spread;
    (spread > 0.0).then_some(y - slope * x)
}

fn corpus_of(pairs: &[Pair<'_>]) -> Vec<CorpusFigures> {
    let sides =
        [pairs.iter().map(|(one, _)| *one).collect::<Vec<_>>(), pairs.iter().map(|(_, other)| *other).collect()];
    let bigrams =
        sides.each_ref().map(|side| side.iter().flat_map(|answer| bigrams(&answer.response)).collect::<Vec<_>>());
    // The share of different ones falls with their number: the same number of both sides is looked at.
    let most = bigrams[0].len().min(bigrams[1].len()).max(1);
    let distinct = bigrams.each_ref().map(|all| {
        let all = &all[..most.min(all.len())];
        if all.is_empty() { 0.0 } else { all.iter().collect::<HashSet<_>>().len() as f64 / all.len() as f64 }
    });
    let opening = sides.each_ref().map(|side| commonest_opening(side));
    vec![
        CorpusFigures {
            name: "distinct_2",
            what: "different pairs of words, of as many pairs of words on both sides",
            candidate: distinct[0],
            production: distinct[1],
            tripped: u8::from(distinct[0] < 0.8 * distinct[1]),
            wire: "below 0.8 times as much".to_owned(),
        },
        CorpusFigures {
            name: "same_opening",
            what: "share of answers that open with the commonest three words",
            candidate: opening[0],
            production: opening[1],
            tripped: u8::from(opening[0] > 1.5 * opening[1] && opening[0] - opening[1] >= 0.1),
            wire: "more than 1.5 times as much, and higher by 0.1".to_owned(),
        },
    ]
}

fn bigrams(text: &str) -> Vec<(String, String)> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn commonest_opening(answers: &[&Answer]) -> f64 {
    let mut openings: HashMap<Vec<&str>, usize> = HashMap::new();
    for answer in answers {
        *openings.entry(answer.response.split_whitespace().take(3).collect()).or_default() += 1;
    }
    openings.into_values().max().unwrap_or_default() as f64 / answers.len().max(1) as f64
}

fn examples_of(pairs: &[Pair<'_>]) -> Vec<Example> {
    let mut examples: Vec<Example> = pairs
        .iter()
        .map(|(one, other)| {
            let words = |answer: &Answer| answer.response.split_whitespace().count() as f64;
            let difference =
                one.score.zip(other.score).map_or_else(|| words(one) - words(other), |(one, other)| one - other);
            let said = one.prompt.iter().rev().find(|message| message.role == "user");
            Example {
                id: one.id.clone(),
                prompt: said.map(|message| message.content.clone()).unwrap_or_default(),
                candidate: one.response.clone(),
                production: other.response.clone(),
                difference,
            }
        })
        .collect();
    examples.sort_by(|a, b| b.difference.total_cmp(&a.difference).then_with(|| a.id.cmp(&b.id)));
    if examples.len() > 2 * EXAMPLES {
        let middle = EXAMPLES..examples.len() - EXAMPLES;
        drop(examples.drain(middle));
    }
    examples
}
