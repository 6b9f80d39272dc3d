//! What is minimised, with the metrics that TRL reports of it.
//!
//! Every loss is a function of the log-probabilities of whole answers under the policy and the reference: `lr` is the
//! difference of the two. So a new one is a variant of [`Method`] and a function here.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::error::{Error, Result};

/// How a policy is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Method {
    /// Imitates answers: the mean negative log-probability of their tokens.
    Sft,
    /// Direct preference optimisation (Rafailov et al. 2023): `−log σ(β (lr_chosen − lr_rejected))`.
    Dpo {
        /// How closely the policy keeps to the reference.
        beta: f64,
    },
    /// Kahneman-Tversky optimisation (Ethayarajh et al. 2024) of answers that are liked or not:
    /// `w (1 − σ(±β (lr − kl)))`.
    Kto {
        /// How closely the policy keeps to the reference.
        beta: f64,
        /// Weight of liked answers.
        desirable: f64,
        /// Weight of disliked ones.
        undesirable: f64,
    },
}

impl Method {
    /// As `--method` names it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo { .. } => "dpo",
            Self::Kto { .. } => "kto",
        }
    }

    /// Whether it compares with a reference.
    pub(crate) const fn has_reference(&self) -> bool {
        !matches!(self, Self::Sft)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let (beta, weights) = match *self {
            Self::Sft => (1.0, [1.0, 1.0]),
            Self::Dpo { beta } => (beta, [1.0, 1.0]),
            Self::Kto { beta, desirable, undesirable } => (beta, [desirable, undesirable]),
        };
        if !positive(beta) || !weights.into_iter().all(positive) {
            return Err(Error::Invalid("beta and the weights of a loss must be above 0".to_owned()));
        }
        Ok(())
    }
}

/// Answers of a micro-batch, as policy and reference score them.
#[derive(Debug)]
pub(crate) struct Scored<'a> {
    /// Log-probability of each answer under the policy, with a graph.
    pub(crate) policy: &'a Tensor,
    /// The same under the reference; empty for a method without one.
    pub(crate) reference: &'a [f32],
    /// Whether each answer is liked; of pairs, chosen and rejected take turns.
    pub(crate) liked: &'a [bool],
    /// Mean log-ratio of mismatched answers, not below 0: KTO's reference point.
    pub(crate) divergence: f64,
}

/// Sums and counts of metrics, so that means over several micro-batches are right.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally(BTreeMap<&'static str, (f64, f64)>);

impl Tally {
    pub(crate) fn add(&mut self, name: &'static str, sum: f64, count: f64) {
        let entry = self.0.entry(name).or_default();
        entry.0 += sum;
        entry.1 += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, (sum, count)) in &other.0 {
            self.add(name, *sum, *count);
        }
    }

    /// The means; of what was never counted there is none.
    pub(crate) fn means(&self) -> BTreeMap<&'static str, f64> {
        let counted = self.0.iter().filter(|(_, (_, count))| *count > 0.0);
        let mut means: BTreeMap<&'static str, f64> = counted.map(|(name, (sum, count))| (*name, sum / count)).collect();
        if let (Some(chosen), Some(rejected)) = (means.get("rewards/chosen"), means.get("rewards/rejected")) {
            let _ = means.insert("rewards/margins", chosen - rejected);
        }
        means
    }
}

/// `log(1 + exp(x))`. Written so that its slope at 0, where a fresh adapter starts, is one half: candle's `min` and `abs`
/// would make it 1 and the first gradient twice as large.
fn softplus(x: &Tensor) -> Result<Tensor> {
    Ok((x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?)
}

/// `1 − σ(x) = σ(−x)`, without overflow on either side.
fn falling_logistic(x: &Tensor) -> Result<Tensor> {
    Ok(softplus(x)?.neg()?.exp()?)
}

fn constant(values: &[f32]) -> Result<Tensor> {
    Ok(Tensor::from_slice(values, values.len(), &Device::Cpu)?)
}

impl Method {
    /// The loss of a micro-batch, a mean over its pairs or answers. Of [`Method::Sft`] the sum over answers: the caller
    /// knows over how many tokens the mean goes.
    pub(crate) fn loss(&self, scored: &Scored<'_>) -> Result<(Tensor, Tally)> {
        match *self {
            Self::Sft => Ok((scored.policy.sum_all()?.neg()?, Tally::default())),
            Self::Dpo { beta } => pairs(scored, beta),
            Self::Kto { beta, desirable, undesirable } => labelled(scored, beta, [desirable, undesirable]),
        }
    }
}

/// Log-ratios of policy to reference, and what is counted of each answer.
fn ratios(scored: &Scored<'_>, beta: f64) -> Result<(Tensor, Tally)> {
    let ratios = (scored.policy - constant(scored.reference)?)?;
    let mut tally = Tally::default();
    let policy = scored.policy.detach().to_vec1::<f32>()?;
    for ((ratio, logp), liked) in ratios.detach().to_vec1::<f32>()?.into_iter().zip(policy).zip(scored.liked) {
        let (reward, logps) =
            if *liked { ("rewards/chosen", "logps/chosen") } else { ("rewards/rejected", "logps/rejected") };
        tally.add(reward, beta * f64::from(ratio), 1.0);
        tally.add(logps, f64::from(logp), 1.0);
    }
    Ok((ratios, tally))
}

fn pairs(scored: &Scored<'_>, beta: f64) -> Result<(Tensor, Tally)> {
    let (ratios, mut tally) = ratios(scored, beta)?;
    let ratios = ratios.reshape((scored.liked.len() / 2, 2))?;
    let margins = (ratios.narrow(1, 0, 1)? - ratios.narrow(1, 1, 1)?)?.squeeze(1)?;
    for margin in margins.detach().to_vec1::<f32>()? {
        tally.add("rewards/accuracies", f64::from(u8::from(margin > 0.0)), 1.0);
    }
    Ok((softplus(&(margins * -beta)?)?.mean_all()?, tally))
}

fn labelled(scored: &Scored<'_>, beta: f64, [desirable, undesirable]: [f64; 2]) -> Result<(Tensor, Tally)> {
    let (ratios, mut tally) = ratios(scored, beta)?;
    tally.add("kl", scored.divergence, 1.0);
    #[expect(clippy::cast_possible_truncation, reason = "losses are of single precision")]
    let sides: Vec<(f32, f32)> = scored
        .liked
        .iter()
        .map(|liked| if *liked { (beta as f32, desirable as f32) } else { (-beta as f32, undesirable as f32) })
        .collect();
    let (signs, weights): (Vec<f32>, Vec<f32>) = sides.into_iter().unzip();
    let gains = ((ratios - scored.divergence)? * constant(&signs)?)?;
    Ok(((falling_logistic(&gains)? * constant(&weights)?)?.mean_all()?, tally))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "what is compared is exact")]

    use candle_core::Var;

    use super::*;

    fn logistic(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn loss(
        method: Method,
        policy: &[f32],
        reference: &[f32],
        liked: &[bool],
        divergence: f64,
    ) -> (f64, Vec<f32>, Tally) {
        let policy = Var::new(policy, &Device::Cpu).unwrap();
        let scored = Scored { policy: &policy, reference, liked, divergence };
        let (loss, tally) = method.loss(&scored).unwrap();
        let gradients = loss.backward().unwrap();
        let slopes = gradients.get(&policy).unwrap().to_vec1().unwrap();
        (f64::from(loss.to_scalar::<f32>().unwrap()), slopes, tally)
    }

    #[test]
    fn dpo_follows_its_formula_also_at_the_start_and_far_out() {
        let method = Method::Dpo { beta: 0.5 };
        for margin in [0.0_f32, 1.5, -3.0, 400.0, -400.0] {
            let (value, slopes, tally) = loss(method, &[margin - 7.0, -9.0], &[-7.0, -9.0], &[true, false], 0.0);
            let expected = if margin < -100.0 { 200.0 } else { -logistic(0.5 * f64::from(margin)).ln() };
            assert!((value - expected).abs() < 1e-5, "{margin}: {value} and {expected}");
            let slope = -0.5 * logistic(-0.5 * f64::from(margin));
            assert!(
                (f64::from(slopes[0]) - slope).abs() < 1e-6 && (f64::from(slopes[1]) + slope).abs() < 1e-6,
                "{slopes:?}"
            );
            let means = tally.means();
            assert!((means["rewards/margins"] - 0.5 * f64::from(margin)).abs() < 1e-4, "{means:?}");
            assert_eq!(means["rewards/accuracies"], f64::from(u8::from(margin > 0.0)));
            assert_eq!(means["logps/rejected"], -9.0);
        }
    }

    #[test]
    fn kto_pulls_liked_up_and_disliked_down() {
        let method = Method::Kto { beta: 0.1, desirable: 1.0, undesirable: 2.0 };
        let (value, slopes, tally) = loss(method, &[-3.0, -4.0], &[-5.0, -5.0], &[true, false], 0.5);
        let (up, down) = (1.0 - logistic(0.1 * (2.0 - 0.5)), 2.0 * (1.0 - logistic(0.1 * (0.5 - 1.0))));
        assert!((value - f64::midpoint(up, down)).abs() < 1e-6, "{value}");
        assert!(slopes[0] < 0.0 && slopes[1] > 0.0, "{slopes:?}");
        let means = tally.means();
        assert_eq!(means["kl"], 0.5);
        assert!((means["rewards/chosen"] - 0.2).abs() < 1e-6 && (means["rewards/margins"] - 0.1).abs() < 1e-6);
        let (far, slopes, _) = loss(method, &[900.0, 900.0], &[-900.0, -900.0], &[true, false], 0.0);
        assert!((far - 1.0).abs() < 1e-6 && slopes.iter().all(|slope| slope.is_finite()), "{far} {slopes:?}");
    }

    #[test]
    fn a_side_that_never_came_has_no_mean() {
        let method = Method::Kto { beta: 0.1, desirable: 1.0, undesirable: 1.0 };
        let (_, _, tally) = loss(method, &[-3.0], &[-3.0], &[true], 0.0);
        let means = tally.means();
        assert!(means.contains_key("rewards/chosen") && !means.contains_key("rewards/rejected"));
        assert!(!means.contains_key("rewards/margins"));
    }

    #[test]
    fn betas_and_weights_are_checked() {
        assert!(Method::Dpo { beta: 0.0 }.check().is_err());
        assert!(Method::Kto { beta: 0.1, desirable: 1.0, undesirable: f64::NAN }.check().is_err());
        assert!(Method::Sft.check().is_ok());
    }
}
