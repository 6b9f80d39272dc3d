//! Gates: bounds on figures, and the decision that they come to.

use serde::{Deserialize, Serialize};

use crate::entry::Kind;
use crate::figures::{Figure, Figures};

/// One bound on one figure of one kind of model.
///
/// A gate whose figure is missing refuses: what was not measured has not been shown. The bounds against the model in
/// use hold by themselves where none is in use, or where it was never measured so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Which models it judges.
    pub kind: Kind,
    /// Dotted name of the figure, such as `test.outputs.dsat.auroc`.
    pub figure: String,
    /// The figure must not be lower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// The figure must not be higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// The figure may be lower than that of the model in use by so much and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_below_production: Option<f64>,
    /// The figure may be higher than that of the model in use by so much and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_above_production: Option<f64>,
}

/// How a model fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every gate holds.
    Passed,
    /// At least one does not.
    Refused,
    /// There is no gate for this kind of model.
    NotJudged,
}

/// One gate's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The gate.
    pub gate: Gate,
    /// The model's figure, if it was measured.
    pub figure: Option<Figure>,
    /// That of the model in use, if there is one and it was.
    pub production: Option<Figure>,
    /// Whether the gate holds.
    pub holds: bool,
    /// In words.
    pub reason: String,
}

/// What the gates came to, with every figure that they looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// How the model fared.
    pub outcome: Outcome,
    /// Id of the model in use that it was compared with.
    pub production: Option<String>,
    /// Gate by gate.
    pub verdicts: Vec<Verdict>,
}

/// Judges a model of some kind by its figures, next to those of the model in use.
pub fn judge(gates: &[Gate], kind: Kind, figures: &Figures, production: Option<(&str, &Figures)>) -> Decision {
    let verdicts: Vec<Verdict> = gates
        .iter()
        .filter(|gate| gate.kind == kind)
        .map(|gate| {
            let figure = figures.get(&gate.figure).copied();
            let rival = production.and_then(|(_, figures)| figures.get(&gate.figure)).copied();
            let mut faults = gate.faults(figure, rival);
            if figure.is_none() {
                faults.extend(kin(&gate.figure, figures));
            }
            let holds = faults.is_empty();
            let reason = if holds { within(figure) } else { faults.join("; ") };
            Verdict { gate: gate.clone(), figure, production: rival, holds, reason }
        })
        .collect();
    let outcome = match (verdicts.is_empty(), verdicts.iter().all(|verdict| verdict.holds)) {
        (true, _) => Outcome::NotJudged,
        (false, true) => Outcome::Passed,
        (false, false) => Outcome::Refused,
    };
    Decision { outcome, production: production.map(|(id, _)| id.to_owned()), verdicts }
}

impl Gate {
    /// Whether it bounds anything.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let bounds = [self.at_least, self.at_most, self.most_below_production, self.most_above_production];
        if bounds.iter().all(Option::is_none) {
            return Err(format!(
                "the gate on {} `{}` bounds nothing: give it at_least, at_most, most_below_production or most_above_production",
                self.kind, self.figure
            ));
        }
        if bounds.iter().flatten().any(|bound| !bound.is_finite()) {
            return Err(format!("the gate on {} `{}` has a bound that is no number", self.kind, self.figure));
        }
        Ok(())
    }

    fn faults(&self, figure: Option<Figure>, rival: Option<Figure>) -> Vec<String> {
        let Some(Figure { value, .. }) = figure.filter(|figure| figure.value.is_finite()) else {
            return vec![format!("`{}` was not measured", self.figure)];
        };
        let mut faults = Vec::new();
        if let Some(bound) = self.at_least.filter(|bound| value < *bound) {
            faults.push(format!("{value:.4} is below {bound}"));
        }
        if let Some(bound) = self.at_most.filter(|bound| value > *bound) {
            faults.push(format!("{value:.4} is above {bound}"));
        }
        if let Some(rival) = rival.map(|rival| rival.value) {
            if let Some(slack) = self.most_below_production.filter(|slack| value < rival - slack) {
                faults.push(format!("{value:.4} is below {rival:.4} of the model in use by more than {slack}"));
            }
            if let Some(slack) = self.most_above_production.filter(|slack| value > rival + slack) {
                faults.push(format!("{value:.4} is above {rival:.4} of the model in use by more than {slack}"));
            }
        }
        faults
    }
}

/// Figures that may have been meant: those of the same document.
fn kin(missing: &str, figures: &Figures) -> Option<String> {
    const MOST: usize = 8;
    let first = missing.split('.').next().unwrap_or_default();
    let kin: Vec<&str> =
        figures.keys().map(String::as_str).filter(|name| name.split('.').next() == Some(first)).collect();
    let more = if kin.len() > MOST { ", …" } else { "" };
    (!kin.is_empty()).then(|| format!("of `{first}` there are {}{more}", kin[..kin.len().min(MOST)].join(", ")))
}

fn within(figure: Option<Figure>) -> String {
    let value = figure.map_or(f64::NAN, |figure| figure.value);
    format!("{value:.4} is within its bounds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(change: impl FnOnce(&mut Gate)) -> Gate {
        let mut gate = Gate {
            kind: Kind::Tagger,
            figure: "auroc".to_owned(),
            at_least: None,
            at_most: None,
            most_below_production: None,
            most_above_production: None,
        };
        change(&mut gate);
        gate
    }

    fn figures(value: f64) -> Figures {
        [("auroc".to_owned(), Figure { value, low: None, high: None })].into()
    }

    #[track_caller]
    fn check(gate: Gate, value: Option<f64>, rival: Option<f64>, expected: Outcome, words: &str) {
        let (own, rival) = (value.map(figures).unwrap_or_default(), rival.map(figures));
        let decision = judge(&[gate], Kind::Tagger, &own, rival.as_ref().map(|figures| ("old", figures)));
        assert_eq!(decision.outcome, expected, "{decision:?}");
        assert!(decision.verdicts[0].reason.contains(words), "{decision:?}");
    }

    #[test]
    fn bounds_hold_or_say_why_not() {
        let least = || gate(|gate| gate.at_least = Some(0.8));
        check(least(), Some(0.8), None, Outcome::Passed, "within");
        check(least(), Some(0.79), None, Outcome::Refused, "below 0.8");
        check(least(), None, None, Outcome::Refused, "not measured");
        check(least(), Some(f64::NAN), None, Outcome::Refused, "not measured");
        check(gate(|gate| gate.at_most = Some(0.1)), Some(0.2), None, Outcome::Refused, "above 0.1");
        let near = || gate(|gate| gate.most_below_production = Some(0.01));
        check(near(), Some(0.90), Some(0.905), Outcome::Passed, "within");
        check(near(), Some(0.88), Some(0.905), Outcome::Refused, "the model in use");
        check(near(), Some(0.2), None, Outcome::Passed, "within");
        check(gate(|gate| gate.most_above_production = Some(0.0)), Some(0.3), Some(0.2), Outcome::Refused, "above 0.2");
    }

    #[test]
    fn other_kinds_are_not_judged_and_empty_gates_are_refused() {
        let decision = judge(&[gate(|gate| gate.at_least = Some(1.0))], Kind::Policy, &figures(0.1), None);
        assert_eq!((decision.outcome, decision.verdicts.len()), (Outcome::NotJudged, 0));
        assert!(gate(|_| ()).check().unwrap_err().contains("bounds nothing"));
        assert!(gate(|gate| gate.at_least = Some(f64::NAN)).check().is_err());
        assert!(gate(|gate| gate.at_least = Some(0.5)).check().is_ok());
    }
}
