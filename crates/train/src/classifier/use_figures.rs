//! What precision and recall mean in use, where far fewer turns carry a signal than in data that was picked for training.

use serde::{Deserialize, Serialize};
use uptake_model::labels::{DSAT, LABELS, Label, OUTPUTS, SAT, output_name};

use crate::metrics::{Case, Decision};

/// Share of user turns that carry satisfaction, as counted in a public log of chats with language models (`WildFeedback`).
pub const SAT_RATE: f64 = 0.013;
/// Share of user turns that carry dissatisfaction, as counted there.
pub const DSAT_RATE: f64 = 0.044;

/// Share of turns for which an output holds in use: the kind's for `sat` and `dsat`; for a label the part of its kind's
/// that it has among the given targets.
pub(super) fn base_rate(targets: &[&[f32; OUTPUTS]], output: usize) -> f64 {
    let count = |output: usize| targets.iter().filter(|targets| targets[output] > 0.5).count() as f64;
    let of_kind = |kind: usize| if kind == SAT { SAT_RATE } else { DSAT_RATE };
    match Label::ALL.get(output) {
        Some(label) if output < LABELS => {
            let kind = label.kind().output();
            of_kind(kind) * count(output) / count(kind).max(1.0)
        }
        _ => of_kind(output),
    }
}

/// Of a thousand user turns of a log with the named base rate: what fires, and how much of that is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InUse {
    /// `sat` or `dsat`.
    pub output: String,
    /// Share of turns that carry it.
    pub base_rate: f64,
    /// Share of those that fire, as measured.
    pub recall: f64,
    /// Share of the others that fire, as measured; here the others are harder than in a log.
    pub alarms: f64,
    /// Cases that do not carry it and fire, of how many.
    pub alarms_counted: [usize; 2],
    /// Of a thousand turns, how many carry it.
    pub carry: f64,
    /// How many fire.
    pub fire: f64,
    /// How many of those carry it.
    pub right: f64,
}

impl InUse {
    /// From cases and a threshold; nothing where there are no cases of one kind or the other.
    pub(super) fn of(output: usize, cases: &[Case], threshold: f64) -> Option<Self> {
        let base_rate = match output {
            SAT => SAT_RATE,
            DSAT => DSAT_RATE,
            _ => return None,
        };
        let negatives: Vec<Case> = cases.iter().filter(|case| !case.holds).copied().collect();
        if negatives.is_empty() || negatives.len() == cases.len() {
            return None;
        }
        let recall = Decision::at(cases, threshold).recall;
        let fired = Decision::at(&negatives, threshold).fired;
        let alarms = fired as f64 / negatives.len() as f64;
        let (right, wrong) = (1000.0 * base_rate * recall, 1000.0 * (1.0 - base_rate) * alarms);
        Some(Self {
            output: output_name(output).unwrap_or_default().to_owned(),
            base_rate,
            recall,
            alarms,
            alarms_counted: [fired, negatives.len()],
            carry: 1000.0 * base_rate,
            fire: right + wrong,
            right,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_turns_are_counted_out() {
        let case = |score: f64, holds: bool| Case { score, holds };
        let mut cases = vec![case(0.9, true); 50];
        cases.extend(vec![case(0.1, true); 50]);
        cases.extend(vec![case(0.9, false); 2]);
        cases.extend(vec![case(0.1, false); 198]);
        let figures = InUse::of(DSAT, &cases, 0.5).unwrap();
        assert!((figures.right - 22.0).abs() < 1e-9, "{figures:?}");
        assert!((figures.fire - (22.0 + 9.56)).abs() < 1e-9, "{figures:?}");
        assert_eq!(figures.alarms_counted, [2, 200]);
        assert_eq!(InUse::of(DSAT, &cases[..100], 0.5), None);
        assert_eq!(InUse::of(0, &cases, 0.5), None);
    }

    #[test]
    fn a_labels_rate_is_its_part_of_its_kind() {
        let mut praise = [0.0; OUTPUTS];
        (praise[Label::Praise.output()], praise[SAT]) = (1.0, 1.0);
        let mut other = [0.0; OUTPUTS];
        other[SAT] = 1.0;
        let targets = [&praise, &other, &other, &other];
        assert!((base_rate(&targets, Label::Praise.output()) - SAT_RATE / 4.0).abs() < 1e-12);
        assert!((base_rate(&targets, DSAT) - DSAT_RATE).abs() < 1e-12);
        assert!(base_rate(&targets, Label::Style.output()).abs() < 1e-12);
    }
}
