//! Where a classifier errs: how its probabilities compare with what holds, which labels it takes for which, and the follow-ups
//! that it is most wrong about.

use uptake_model::labels::{DSAT, LABELS, OUTPUTS, SAT, output_name};

use super::evaluation::{Scored, Thresholds, cases};
use crate::data::Example;
use crate::metrics::{BINS, Case};

/// Errors shown of each kind.
const WORST: usize = 10;

/// What a page shows beside the figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// Of `sat`, `dsat` and every label with cases, a curve.
    pub reliability: Vec<Reliability>,
    /// Per label that some follow-up carries: how many do, and of those the share for which each label fires.
    pub confusions: Vec<Confusion>,
    /// The surest mistakes of `sat` and `dsat`.
    pub errors: Vec<Errors>,
}

/// Probabilities next to what holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Reliability {
    /// Name of the output.
    pub output: &'static str,
    /// Per bin that has cases: their mean probability, the share that holds, and how many they are.
    pub bins: Vec<(f64, f64, usize)>,
}

/// What fires where a label holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    /// The label that holds.
    pub label: &'static str,
    /// Follow-ups that carry it.
    pub carried: usize,
    /// Share of them for which each label fires, in the order of the labels.
    pub fires: Vec<f64>,
}

/// The surest mistakes of one output.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors {
    /// Name of the output.
    pub output: &'static str,
    /// Follow-ups that it is surest about and that do not carry it.
    pub false_alarms: Vec<Wrong>,
    /// Follow-ups that carry it and that it gives the least for.
    pub missed: Vec<Wrong>,
}

/// A follow-up that a model is wrong about.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    /// Calibrated probability of the output.
    pub probability: f64,
    /// Where it comes from.
    pub source: String,
    /// The last user message before the response.
    pub last_user: String,
    /// The response.
    pub response: String,
    /// The follow-up.
    pub follow_up: String,
    /// The labels that people gave it.
    pub labels: Vec<&'static str>,
}

impl Scored<'_> {
    /// Looks where the errors are.
    pub(super) fn diagnosis(&self, thresholds: &Thresholds) -> Diagnosis {
        let outputs = [SAT, DSAT].into_iter().chain(0..LABELS);
        Diagnosis {
            reliability: outputs.filter_map(|output| self.reliability(output)).collect(),
            confusions: (0..LABELS).filter_map(|label| self.confusion(label, thresholds)).collect(),
            errors: [SAT, DSAT].into_iter().map(|output| self.errors(output)).collect(),
        }
    }

    fn reliability(&self, output: usize) -> Option<Reliability> {
        let cases = cases(&self.probabilities, &self.examples, output);
        if !cases.iter().any(|case| case.holds) {
            return None;
        }
        Some(Reliability { output: output_name(output)?, bins: bins(&cases) })
    }

    fn confusion(&self, label: usize, thresholds: &Thresholds) -> Option<Confusion> {
        let holds = |example: &Example| example.known[label] && example.targets[label] >= 0.5;
        let carrying: Vec<&[f32; OUTPUTS]> = self
            .examples
            .iter()
            .zip(&self.probabilities)
            .filter(|(example, _)| holds(example))
            .map(|(_, scores)| scores)
            .collect();
        if carrying.is_empty() {
            return None;
        }
        let share = |other: usize| {
            let fired = carrying.iter().filter(|scores| f64::from(scores[other]) >= thresholds[other].value).count();
            fired as f64 / carrying.len() as f64
        };
        Some(Confusion { label: output_name(label)?, carried: carrying.len(), fires: (0..LABELS).map(share).collect() })
    }

    fn errors(&self, output: usize) -> Errors {
        let mut known: Vec<(f64, &Example)> = self
            .examples
            .iter()
            .zip(&self.probabilities)
            .filter(|(example, _)| example.known[output])
            .map(|(example, scores)| (f64::from(scores[output]), *example))
            .collect();
        known.sort_by(|one, other| other.0.total_cmp(&one.0));
        let holds = |example: &Example| example.targets[output] >= 0.5;
        let sure = known.iter().filter(|(_, example)| !holds(example)).take(WORST);
        let unsure = known.iter().rev().filter(|(_, example)| holds(example)).take(WORST);
        Errors {
            output: output_name(output).unwrap_or_default(),
            false_alarms: sure.map(Wrong::new).collect(),
            missed: unsure.map(Wrong::new).collect(),
        }
    }
}

impl Wrong {
    fn new((probability, example): &(f64, &Example)) -> Self {
        Self {
            probability: *probability,
            source: example.source.clone(),
            last_user: example.last_user.clone(),
            response: example.response.clone(),
            follow_up: example.follow_up.clone(),
            labels: (0..LABELS)
                .filter(|label| example.known[*label] && example.targets[*label] >= 0.5)
                .filter_map(output_name)
                .collect(),
        }
    }
}

/// Ten bins of equal width; those without cases are left out.
fn bins(cases: &[Case]) -> Vec<(f64, f64, usize)> {
    let mut bins = [(0.0, 0.0, 0_usize); BINS];
    for case in cases {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a probability is between 0 and 1")]
        let bin = ((case.score * BINS as f64) as usize).min(BINS - 1);
        bins[bin].0 += case.score;
        bins[bin].1 += f64::from(u8::from(case.holds));
        bins[bin].2 += 1;
    }
    let some = bins.into_iter().filter(|(_, _, count)| *count > 0);
    some.map(|(score, holds, count)| (score / count as f64, holds / count as f64, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Threshold;
    use crate::data::Place;

    fn example(follow_up: &str, labels: &[usize]) -> Example {
        let mut targets = [0.0; OUTPUTS];
        for label in labels {
            targets[*label] = 1.0;
        }
        Example {
            conversation_id: follow_up.to_owned(),
            source: "logs".to_owned(),
            last_user: String::new(),
            response: String::new(),
            follow_up: follow_up.to_owned(),
            earlier_users: vec![],
            earlier_responses: vec![],
            targets,
            weights: [1.0; OUTPUTS],
            known: [true; OUTPUTS],
            place: Place::default(),
        }
    }

    #[test]
    fn mistakes_are_found_and_sorted() {
        let examples = [example("a", &[0, SAT]), example("b", &[0, SAT]), example("c", &[]), example("d", &[1])];
        // Label 0 fires for both that carry it, label 1 for one of those too.
        let mut probabilities = vec![[0.0; OUTPUTS]; 4];
        for (scores, (sat, first, second)) in
            probabilities.iter_mut().zip([(0.9, 0.9, 0.8), (0.2, 0.7, 0.1), (0.6, 0.1, 0.1), (0.3, 0.1, 0.4)])
        {
            (scores[SAT], scores[0], scores[1]) = (sat, first, second);
        }
        let scored = Scored { examples: examples.iter().collect(), probabilities };
        let thresholds = vec![Threshold { value: 0.5, reached: true }; OUTPUTS];
        let diagnosis = scored.diagnosis(&thresholds);
        let carried: Vec<(usize, f64, f64)> =
            diagnosis.confusions.iter().map(|each| (each.carried, each.fires[0], each.fires[1])).collect();
        assert_eq!(carried, [(2, 1.0, 0.5), (1, 0.0, 0.0)]);
        let said = |wrong: &[Wrong]| wrong.iter().map(|wrong| wrong.follow_up.clone()).collect::<Vec<_>>();
        assert_eq!(diagnosis.errors[0].output, "sat");
        assert_eq!(said(&diagnosis.errors[0].false_alarms), ["c", "d"]);
        assert_eq!(said(&diagnosis.errors[0].missed), ["b", "a"]);
        assert_eq!(diagnosis.errors[0].missed[0].labels.len(), 1);
        let sat = &diagnosis.reliability[0];
        assert_eq!((sat.output, sat.bins.len(), sat.bins.iter().map(|bin| bin.2).sum::<usize>()), ("sat", 4, 4));
        assert!(diagnosis.reliability.iter().all(|each| each.output != "dsat"), "nobody was dissatisfied");
    }
}
