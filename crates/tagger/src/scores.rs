//! What comes out for an exchange.

use uptake_model::labels::{DSAT, Kind, Label, OUTPUTS, SAT};

/// Calibrated probabilities of one exchange, and which of them reach their thresholds.
///
/// `sat` and `dsat` are outputs of their own: both may fire (mixed), or neither (no signal).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    probabilities: [f32; OUTPUTS],
    fires: u32,
}

impl Scores {
    /// No signal at all: what an exchange without text gets.
    pub const NONE: Self = Self { probabilities: [0.0; OUTPUTS], fires: 0 };

    pub(crate) fn new(probabilities: [f32; OUTPUTS], thresholds: &[f32]) -> Self {
        let mut fires = 0;
        for (output, (probability, threshold)) in probabilities.iter().zip(thresholds).enumerate() {
            fires |= u32::from(probability >= threshold) << output;
        }
        Self { probabilities, fires }
    }

    /// All outputs in order: the labels by code, then `sat`, `dsat`.
    #[must_use]
    pub const fn probabilities(&self) -> &[f32; OUTPUTS] {
        &self.probabilities
    }

    /// Probability of a label, 0 to 1.
    #[must_use]
    pub const fn label(&self, label: Label) -> f32 {
        self.probabilities[label.output()]
    }

    /// Probability that the follow-up carries satisfaction of any kind.
    #[must_use]
    pub const fn sat(&self) -> f32 {
        self.probabilities[SAT]
    }

    /// Probability that the follow-up carries dissatisfaction of any kind.
    #[must_use]
    pub const fn dsat(&self) -> f32 {
        self.probabilities[DSAT]
    }

    /// Whether the probability of an output (0 to 19) reaches the model's threshold for it.
    #[must_use]
    pub const fn fires_output(&self, output: usize) -> bool {
        output < OUTPUTS && self.fires >> output & 1 == 1
    }

    /// Whether a label fires.
    #[must_use]
    pub const fn fires(&self, label: Label) -> bool {
        self.fires_output(label.output())
    }

    /// Whether `sat` (or `dsat`) fires.
    #[must_use]
    pub const fn fires_kind(&self, kind: Kind) -> bool {
        self.fires_output(kind.output())
    }

    /// The labels that fire, by code.
    pub fn firing(&self) -> impl Iterator<Item = Label> + '_ {
        Label::ALL.into_iter().filter(|label| self.fires(*label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_reached_inclusively() {
        let mut probabilities = [0.1; OUTPUTS];
        probabilities[Label::Praise.output()] = 0.5;
        probabilities[SAT] = 0.9;
        let scores = Scores::new(probabilities, &[0.5; OUTPUTS]);
        assert_eq!(scores.firing().collect::<Vec<_>>(), [Label::Praise]);
        assert!(scores.fires_kind(Kind::Satisfaction));
        assert!(!scores.fires_kind(Kind::Dissatisfaction));
        assert!(!scores.fires_output(OUTPUTS));
    }

    #[test]
    fn none_fires_nothing() {
        assert_eq!(Scores::NONE.firing().count(), 0);
        assert!((0..OUTPUTS).all(|output| !Scores::NONE.fires_output(output)));
    }
}
