//! From logits to probabilities and decisions, fitted on the validation part.

use uptake_tagger::Calibration;

use crate::metrics::{Case, Decision};

/// Strength of the pull towards leaving logits as they are, in cases: what few cases say is not to be believed.
const PULL: f64 = 4.0;

/// Platt scaling with smoothed targets (Platt 1999) and a pull towards scale 1 and bias 0, by Newton's method.
///
/// The scale is kept positive, so that the order of scores stays.
pub(crate) fn fit(cases: &[Case]) -> Calibration {
    let positives = cases.iter().filter(|case| case.holds).count() as f64;
    let negatives = cases.len() as f64 - positives;
    let (high, low) = ((positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0));
    let objective = |scale: f64, bias: f64| -> f64 {
        let pull = PULL / 2.0 * ((scale - 1.0).powi(2) + bias.powi(2));
        let surprise = cases.iter().map(|case| {
            let logit = scale * case.score + bias;
            let target = if case.holds { high } else { low };
            logit.max(0.0) - logit * target + (-logit.abs()).exp().ln_1p()
        });
        pull + surprise.sum::<f64>()
    };
    let (mut scale, mut bias) = (1.0, 0.0);
    for _ in 0..100 {
        let (mut by_scale, mut by_bias) = (PULL * (scale - 1.0), PULL * bias);
        let (mut scale_scale, mut scale_bias, mut bias_bias) = (PULL, 0.0, PULL);
        for case in cases {
            let probability = 1.0 / (1.0 + (-(scale * case.score + bias)).exp());
            let error = probability - if case.holds { high } else { low };
            let weight = probability * (1.0 - probability);
            by_scale += error * case.score;
            by_bias += error;
            scale_scale += weight * case.score * case.score;
            scale_bias += weight * case.score;
            bias_bias += weight;
        }
        // The pull makes the matrix positive definite: it can always be inverted.
        let determinant = scale_scale * bias_bias - scale_bias * scale_bias;
        let step_scale = (bias_bias * by_scale - scale_bias * by_bias) / determinant;
        let step_bias = (scale_scale * by_bias - scale_bias * by_scale) / determinant;
        let before = objective(scale, bias);
        let mut length = 1.0;
        while length > 1e-6 && objective(scale - length * step_scale, bias - length * step_bias) > before {
            length /= 2.0;
        }
        scale -= length * step_scale;
        bias -= length * step_bias;
        if length * (step_scale.abs() + step_bias.abs()) < 1e-9 {
            break;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "calibration is of single precision")]
    Calibration { scale: scale.max(0.05) as f32, bias: bias as f32 }
}

/// Fewest cases that fire for a precision to mean anything.
const FEWEST: usize = 5;

/// False alarms that are added to those seen: none among a thousand cases does not mean that there never is one.
const UNSEEN_ALARMS: f64 = 0.5;

/// A threshold and how it was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) value: f64,
    /// Whether the target precision was reached on the cases; if not, the threshold is that of the best F1.
    pub(crate) reached: bool,
}

/// The threshold of the best F1 among those that reach `precision`; of the best F1 at all where none does; 0.5 where there
/// is no positive to learn from. Precision and F1 are those of a place where `base_rate` of all cases hold: in use that is
/// far fewer than in data that was picked for training.
pub(crate) fn threshold(cases: &[Case], precision: f64, base_rate: f64) -> Threshold {
    let positives = cases.iter().filter(|case| case.holds).count();
    let negatives = cases.len() - positives;
    if positives == 0 || negatives == 0 {
        return Threshold { value: 0.5, reached: false };
    }
    let in_use = |decision: &Decision| {
        let right = decision.recall * positives as f64;
        let alarms = (decision.fired as f64 - right + UNSEEN_ALARMS) / (negatives as f64 + UNSEEN_ALARMS);
        let (found, wrong) = (base_rate * decision.recall, (1.0 - base_rate) * alarms.min(1.0));
        let precision = found / (found + wrong);
        let f1 = 2.0 * precision * decision.recall / (precision + decision.recall);
        (precision, if f1.is_finite() { f1 } else { 0.0 })
    };
    let all: Vec<(f64, usize, f64, f64)> = Decision::all(cases)
        .iter()
        .map(|(threshold, decision)| {
            let (precision, f1) = in_use(decision);
            (*threshold, decision.fired, precision, f1)
        })
        .collect();
    let best = |reaching: bool| {
        all.iter()
            .filter(|(_, fired, reached, _)| !reaching || (*reached >= precision && *fired >= FEWEST))
            .filter(|(_, _, _, f1)| *f1 > 0.0)
            .max_by(|left, right| left.3.total_cmp(&right.3))
            .map(|(threshold, ..)| *threshold)
    };
    match (best(true), best(false)) {
        (Some(value), _) => Threshold { value, reached: true },
        (None, Some(value)) => Threshold { value, reached: false },
        (None, None) => Threshold { value: 0.5, reached: false },
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::metrics::calibration_error;

    #[test]
    fn calibration_undoes_a_distortion() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let cases: Vec<Case> = (0..5000)
            .map(|_| {
                let truth: f64 = random.random_range(-4.0..2.0);
                let holds = random.random::<f64>() < 1.0 / (1.0 + (-truth).exp());
                Case { score: 3.0 * truth + 2.0, holds }
            })
            .collect();
        let calibration = fit(&cases);
        assert!((calibration.scale - 1.0 / 3.0).abs() < 0.03, "{calibration:?}");
        assert!((calibration.bias + 2.0 / 3.0).abs() < 0.1, "{calibration:?}");
        #[expect(clippy::cast_possible_truncation, reason = "a logit")]
        let calibrated: Vec<Case> = cases
            .iter()
            .map(|case| Case { score: f64::from(calibration.probability(case.score as f32)), holds: case.holds })
            .collect();
        assert!(calibration_error(&calibrated).unwrap() < 0.03);
    }

    #[test]
    fn few_or_separable_cases_stay_finite_and_near_the_identity() {
        let one = fit(&[Case { score: 3.0, holds: true }]);
        assert!((one.scale - 1.0).abs() < 0.2 && one.bias.abs() < 0.2, "{one:?}");
        let separable: Vec<Case> = (0..40).map(|i| Case { score: f64::from(i) - 20.0, holds: i >= 20 }).collect();
        let fitted = fit(&separable);
        assert!(fitted.scale.is_finite() && fitted.scale > 0.0 && fitted.bias.abs() < 5.0, "{fitted:?}");
        assert_eq!(fit(&[]), Calibration::IDENTITY);
        let reversed: Vec<Case> = (0..400).map(|i| Case { score: f64::from(i) - 200.0, holds: i < 200 }).collect();
        assert!(fit(&reversed).scale > 0.0);
    }

    #[test]
    fn a_threshold_reaches_its_precision_with_the_best_f1() {
        let case = |score: u8, holds: bool| Case { score: f64::from(score) / 100.0, holds };
        let mut cases: Vec<Case> = (50..100).map(|score| case(score, score >= 60)).collect();
        cases.extend((0..50).map(|score| case(score, score % 10 == 0)));
        // At the rate of the cases themselves the precision is the plain one.
        let found = threshold(&cases, 0.9, 0.45);
        assert!(found.reached);
        assert!(Decision::at(&cases, found.value).precision >= 0.9);
        assert!((0.55..0.60).contains(&found.value), "{found:?}");
    }

    #[test]
    fn the_rarer_a_thing_the_higher_its_threshold() {
        let case = |score: u16, holds: bool| Case { score: f64::from(score) / 1000.0, holds };
        // Every hundredth negative scores as high as the positives from the middle on.
        let mut cases: Vec<Case> = (500..1000).step_by(2).map(|score| case(score, true)).collect();
        cases.extend((0..500).map(|score| case(score, false)));
        cases.extend((1..8).map(|score| case(500 + score * 40, false)));
        let [common, rare, never] = [0.3, 0.044, 1e-6].map(|rate| threshold(&cases, 0.8, rate));
        assert!(common.reached && rare.reached && !never.reached);
        assert!(common.value < rare.value, "{common:?} {rare:?}");
        assert!(Decision::at(&cases, rare.value).recall > 0.3, "{rare:?}");
    }

    #[test]
    fn an_unreachable_precision_and_no_positives_are_told() {
        let coin: Vec<Case> = (0..40).map(|i| Case { score: f64::from(i) / 40.0, holds: i % 2 == 0 }).collect();
        assert!(!threshold(&coin, 0.95, 0.5).reached);
        assert_eq!(threshold(&[], 0.9, 0.1), Threshold { value: 0.5, reached: false });
        let negative = Case { score: 0.9, holds: false };
        assert_eq!(threshold(&[negative], 0.9, 0.1), Threshold { value: 0.5, reached: false });
    }
}
