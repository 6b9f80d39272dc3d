//! What is measured, on which cases.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uptake_model::labels::{DSAT, LABELS, OUTPUTS, SAT, output_name};
use uptake_tagger::{Calibration, Encoder, Input};

use super::Epoch;
use super::use_figures::InUse;
use crate::data::Example;
use crate::error::Result;
use crate::metrics::{Case, Decision, Estimate, auroc, average_precision, calibration_error};

/// Fewest positives (and fewest negatives) for which a figure is given.
pub(super) const FEWEST: usize = 15;
/// Resamples of an interval.
const RESAMPLES: usize = 1000;
/// Resamples of an interval over the many follow-ups of ratings.
const WEAK_RESAMPLES: usize = 200;
/// Tokens that are scored together.
const BATCH_TOKENS: usize = 4096;

/// Logits of many inputs, in their order.
pub(super) fn logits(encoder: &Encoder, inputs: &[&Input]) -> Result<Vec<[f32; OUTPUTS]>> {
    let mut logits = Vec::with_capacity(inputs.len());
    let (mut start, mut tokens) = (0, 0);
    for (index, input) in inputs.iter().enumerate() {
        if tokens + input.tokens.len() > BATCH_TOKENS && index > start {
            logits.extend(encoder.logits(&inputs[start..index])?);
            (start, tokens) = (index, 0);
        }
        tokens += input.tokens.len();
    }
    logits.extend(encoder.logits(&inputs[start..])?);
    Ok(logits)
}

/// Cases of one output: those of which it is known whether it holds.
pub(super) fn cases(scores: &[[f32; OUTPUTS]], examples: &[&Example], output: usize) -> Vec<Case> {
    let pairs = scores.iter().zip(examples).filter(|(_, example)| example.known[output]);
    pairs
        .map(|(scores, example)| Case { score: f64::from(scores[output]), holds: example.targets[output] >= 0.5 })
        .collect()
}

fn enough(cases: &[Case]) -> bool {
    let positives = cases.iter().filter(|case| case.holds).count();
    positives >= FEWEST && cases.len() - positives >= FEWEST
}

/// A pass (its number and the steps done), measured on the validation part.
pub(super) fn epoch(
    (number, steps): (usize, usize),
    training_loss: f64,
    logits: &[[f32; OUTPUTS]],
    examples: &[&Example],
) -> Epoch {
    let all: Vec<Vec<Case>> = (0..OUTPUTS).map(|output| cases(logits, examples, output)).collect();
    let precision = |output: usize| average_precision(&all[output]).unwrap_or(0.0);
    let measured: Vec<f64> = (0..LABELS).filter(|label| enough(&all[*label])).map(precision).collect();
    let (sat, dsat) = (precision(SAT), precision(DSAT));
    let labels = if measured.is_empty() { sat.midpoint(dsat) } else { mean(&measured) };
    let losses = all.iter().flatten().map(|case| {
        let target = f64::from(u8::from(case.holds));
        case.score.max(0.0) - case.score * target + (-case.score.abs()).exp().ln_1p()
    });
    let count = logits.len() * OUTPUTS;
    Epoch {
        epoch: number,
        steps,
        training_loss,
        validation_loss: losses.sum::<f64>() / count as f64,
        sat,
        dsat,
        labels,
        score: (sat + dsat + labels) / 3.0,
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Figures of one output on the test part; rank measures and F1 only where there are enough cases of both kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputFigures {
    /// Name of the output.
    pub output: String,
    /// Cases that hold.
    pub positives: usize,
    /// Calibrated probability from which on it fires.
    pub threshold: f64,
    /// Whether the threshold reached the target precision on the validation part; if not, it is that of the best F1.
    pub target_reached: bool,
    /// See [`auroc`].
    pub auroc: Option<Estimate>,
    /// See [`average_precision`].
    pub average_precision: Option<Estimate>,
    /// F1 at the threshold.
    pub f1: Option<Estimate>,
    /// Precision, recall and count at the threshold.
    pub decision: Decision,
    /// See [`calibration_error`].
    pub calibration_error: Option<f64>,
}

/// Figures of `sat` and `dsat` on the part of the test that comes from one source (or several).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFigures {
    /// Name of the source, or of the group.
    pub source: String,
    /// Examples.
    pub examples: usize,
    /// Figures of `sat`.
    pub sat: OutputFigures,
    /// Figures of `dsat`.
    pub dsat: OutputFigures,
}

/// Figures of `sat` and `dsat` on follow-ups that were judged in another way than by labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeakFigures {
    /// Name of the source, or of a group of sources.
    pub source: String,
    /// Follow-ups.
    pub examples: usize,
    /// Follow-ups for which `sat` holds, `dsat` holds.
    pub positives: [usize; 2],
    /// AUROC of `sat`, where the judgement says something of it.
    pub sat: Option<Estimate>,
    /// AUROC of `dsat`.
    pub dsat: Option<Estimate>,
}

/// Written follow-ups without any label: made to look like a signal, so none should fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardNegatives {
    /// How many there are.
    pub examples: usize,
    /// Those for which `sat` fires.
    pub sat: usize,
    /// Those for which `dsat` fires.
    pub dsat: usize,
    /// Those for which one or both do.
    pub either: usize,
}

/// All that is measured on the test part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Examples of the test part.
    pub examples: usize,
    /// Conversations of the test part.
    pub conversations: usize,
    /// Per output: labels by code, then `sat`, `dsat`.
    pub outputs: Vec<OutputFigures>,
    /// Mean AUROC of the labels that have one.
    pub labels_auroc: Option<f64>,
    /// Mean F1 of the labels that have one.
    pub labels_f1: Option<f64>,
    /// Groups first, then single sources by name.
    pub sources: Vec<SourceFigures>,
    /// What `sat` and `dsat` come to in use.
    #[serde(default)]
    pub in_use: Vec<InUse>,
    /// Nothing where there are none.
    #[serde(default)]
    pub hard_negatives: Option<HardNegatives>,
    /// Follow-ups judged in another way, by source.
    #[serde(default)]
    pub weak: Vec<WeakFigures>,
}

/// A threshold of each output, with the way in which it was found.
pub(super) type Thresholds = Vec<crate::calibration::Threshold>;

/// What is measured: examples with their calibrated scores.
pub(super) struct Scored<'a> {
    pub(super) examples: Vec<&'a Example>,
    pub(super) probabilities: Vec<[f32; OUTPUTS]>,
}

impl<'a> Scored<'a> {
    pub(super) fn new(examples: Vec<&'a Example>, logits: &[[f32; OUTPUTS]], calibration: &[Calibration]) -> Self {
        let calibrate = |logits: &[f32; OUTPUTS]| {
            std::array::from_fn(|output| {
                calibration.get(output).copied().unwrap_or(Calibration::IDENTITY).probability(logits[output])
            })
        };
        Self { examples, probabilities: logits.iter().map(calibrate).collect() }
    }

    fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        self.having(|example| keep(&example.source))
    }

    fn having(&self, keep: impl Fn(&Example) -> bool) -> Self {
        let kept = self.examples.iter().zip(&self.probabilities).filter(|(example, _)| keep(example));
        let (examples, probabilities) = kept.map(|(example, scores)| (*example, *scores)).unzip();
        Self { examples, probabilities }
    }

    fn conversations(&self) -> Vec<Vec<usize>> {
        let mut by_id: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, example) in self.examples.iter().enumerate() {
            by_id.entry(&example.conversation_id).or_default().push(index);
        }
        by_id.into_values().collect()
    }

    fn output(&self, output: usize, thresholds: &Thresholds, seed: u64) -> OutputFigures {
        let cases = cases(&self.probabilities, &self.examples, output);
        let threshold = thresholds[output];
        let conversations = self.conversations();
        let estimate = |measure: &dyn Fn(&[Case]) -> Option<f64>| {
            enough(&cases).then(|| Estimate::bootstrap(&cases, &conversations, RESAMPLES, seed, measure)).flatten()
        };
        OutputFigures {
            output: output_name(output).unwrap_or_default().to_owned(),
            positives: cases.iter().filter(|case| case.holds).count(),
            threshold: threshold.value,
            target_reached: threshold.reached,
            auroc: estimate(&auroc),
            average_precision: estimate(&average_precision),
            f1: estimate(&|cases| Some(Decision::at(cases, threshold.value).f1)),
            decision: Decision::at(&cases, threshold.value),
            calibration_error: enough(&cases).then(|| calibration_error(&cases)).flatten(),
        }
    }

    fn source(&self, name: &str, thresholds: &Thresholds, seed: u64) -> SourceFigures {
        SourceFigures {
            source: name.to_owned(),
            examples: self.examples.len(),
            sat: self.output(SAT, thresholds, seed),
            dsat: self.output(DSAT, thresholds, seed),
        }
    }

    /// Measures everything. `written` are the sources whose texts were written for training.
    pub(super) fn figures(&self, thresholds: &Thresholds, written: &[String], seed: u64) -> Figures {
        let outputs: Vec<OutputFigures> = (0..OUTPUTS).map(|output| self.output(output, thresholds, seed)).collect();
        let labels = &outputs[..LABELS];
        let mean_of = |values: Vec<f64>| (!values.is_empty()).then(|| mean(&values));
        let labels_auroc = mean_of(labels.iter().filter_map(|label| label.auroc).map(|figure| figure.value).collect());
        let labels_f1 = mean_of(labels.iter().filter_map(|label| label.f1).map(|figure| figure.value).collect());
        let is_written = |source: &str| written.iter().any(|written| written == source);
        let mut sources = vec![
            self.only(|source| !is_written(source)).source("real (all but written)", thresholds, seed),
            self.only(is_written).source("written", thresholds, seed),
        ];
        let mut names: Vec<&str> = self.examples.iter().map(|example| example.source.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        // One written source alone is the group already.
        names.retain(|name| !(written.len() == 1 && is_written(name)));
        sources.extend(names.into_iter().map(|name| self.only(|source| source == name).source(name, thresholds, seed)));
        sources.retain(|source| source.examples > 0);
        let in_use = [SAT, DSAT].into_iter().filter_map(|output| {
            let cases = cases(&self.probabilities, &self.examples, output);
            InUse::of(output, &cases, thresholds[output].value)
        });
        Figures {
            examples: self.examples.len(),
            conversations: self.conversations().len(),
            outputs,
            labels_auroc,
            labels_f1,
            sources,
            in_use: in_use.collect(),
            hard_negatives: self.only(is_written).hard_negatives(thresholds),
            weak: Vec::new(),
        }
    }

    fn hard_negatives(&self, thresholds: &Thresholds) -> Option<HardNegatives> {
        let plain = self.examples.iter().zip(&self.probabilities);
        let plain = plain.filter(|(example, _)| example.targets.iter().all(|target| *target < 0.5));
        let fires = |scores: &[f32; OUTPUTS], output: usize| f64::from(scores[output]) >= thresholds[output].value;
        let mut counted = HardNegatives { examples: 0, sat: 0, dsat: 0, either: 0 };
        for (_, scores) in plain {
            let (sat, dsat) = (fires(scores, SAT), fires(scores, DSAT));
            counted.examples += 1;
            counted.sat += usize::from(sat);
            counted.dsat += usize::from(dsat);
            counted.either += usize::from(sat || dsat);
        }
        (counted.examples > 0).then_some(counted)
    }

    /// Measures follow-ups that were judged in another way: each source, and before them those whose names have a first
    /// part (up to `_`) in common.
    pub(super) fn weak_figures(&self, seed: u64) -> Vec<WeakFigures> {
        let mut names: Vec<&str> = self.examples.iter().map(|example| example.source.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let family = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
        let mut families: Vec<String> = names.iter().map(|name| family(name)).collect();
        families.dedup();
        families.retain(|each| names.iter().filter(|name| family(name) == *each).count() > 1);
        let group = families.iter().map(|each| self.only(|source| family(source) == *each).weak(each, seed));
        group.chain(names.iter().map(|name| self.only(|source| source == *name).weak(name, seed))).collect()
    }

    fn weak(&self, name: &str, seed: u64) -> WeakFigures {
        let measure = |output: usize| {
            let known = self.having(|example| example.known[output]);
            let cases = cases(&known.probabilities, &known.examples, output);
            let positives = cases.iter().filter(|case| case.holds).count();
            let conversations = known.conversations();
            let estimate =
                enough(&cases).then(|| Estimate::bootstrap(&cases, &conversations, WEAK_RESAMPLES, seed, auroc));
            (positives, estimate.flatten())
        };
        let ((sats, sat), (dsats, dsat)) = (measure(SAT), measure(DSAT));
        WeakFigures { source: name.to_owned(), examples: self.examples.len(), positives: [sats, dsats], sat, dsat }
    }
}
