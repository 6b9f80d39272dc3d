//! Rates with their interval.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, StringArray};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The 97.5 % quantile of the standard normal distribution: two-sided 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// A share and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Successes by trials.
    pub share: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Wilson's score interval at 95 % (Wilson 1927); nothing when there are no trials or the counts are no counts.
pub fn wilson(successes: f64, trials: f64) -> Option<Rate> {
    if !(trials > 0.0 && (0.0..=trials).contains(&successes)) {
        return None;
    }
    let rate = successes / trials;
    let square = Z * Z;
    let centre = rate + square / (2.0 * trials);
    let spread = Z * (rate * (1.0 - rate) / trials + square / (4.0 * trials * trials)).sqrt();
    let scale = 1.0 + square / trials;
    // The bounds of the extreme rates are exact; rounding may miss them by a hair.
    let low = if successes == 0.0 { 0.0 } else { ((centre - spread) / scale).max(0.0) };
    let high = if successes >= trials { 1.0 } else { ((centre + spread) / scale).min(1.0) };
    Some(Rate { share: rate, low, high })
}

/// A rate as people read it: `12.3 % (10.1–14.8, n 824)`.
pub(super) fn text(successes: f64, trials: f64) -> Option<String> {
    let Rate { share, low, high } = wilson(successes, trials)?;
    // Rare things need another digit to be told from nothing.
    let digits = if high < 0.01 { 2 } else { 1 };
    let percent = |share: f64| format!("{:.digits$}", share * 100.0);
    Some(format!("{} % ({}–{}, n {trials:.0})", percent(share), percent(low), percent(high)))
}

/// Which of the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    Text,
    Low,
    High,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RateFunction {
    which: Which,
    signature: Signature,
}

/// The functions over counts.
pub(super) fn functions() -> Vec<ScalarUDF> {
    [Which::Text, Which::Low, Which::High]
        .into_iter()
        .map(|which| {
            let signature = Signature::exact(vec![DataType::Float64, DataType::Float64], Volatility::Immutable);
            ScalarUDF::from(RateFunction { which, signature })
        })
        .collect()
}

impl ScalarUDFImpl for RateFunction {
    fn name(&self) -> &'static str {
        match self.which {
            Which::Text => "rate",
            Which::Low => "rate_low",
            Which::High => "rate_high",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(if self.which == Which::Text { DataType::Utf8 } else { DataType::Float64 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [successes, trials] = arrays.as_slice() else { return exec_err!("{} wants two counts", self.name()) };
        let (successes, trials) = (successes.as_primitive::<Float64Type>(), trials.as_primitive::<Float64Type>());
        let mut counts = Vec::with_capacity(successes.len());
        for (success, trial) in successes.iter().zip(trials.iter()) {
            let pair = success.zip(trial);
            if let Some((success, trial)) = pair.filter(|(success, trial)| !(0.0..=*trial).contains(success)) {
                return exec_err!(
                    "{}({success}, {trial}): the first argument counts successes among the trials of the second",
                    self.name()
                );
            }
            counts.push(pair);
        }
        let bound = |pick: fn(Rate) -> f64| -> ArrayRef {
            Arc::new(counts.iter().map(|pair| pair.and_then(|(s, t)| wilson(s, t)).map(pick)).collect::<Float64Array>())
        };
        Ok(ColumnarValue::Array(match self.which {
            Which::Low => bound(|rate| rate.low),
            Which::High => bound(|rate| rate.high),
            Which::Text => {
                Arc::new(counts.iter().map(|pair| pair.and_then(|(s, t)| text(s, t))).collect::<StringArray>())
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_published_values() {
        // Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29.
        for (successes, trials, low, high) in [
            (81.0, 263.0, 0.2553, 0.3662),
            (15.0, 148.0, 0.0624, 0.1605),
            (0.0, 20.0, 0.0, 0.1611),
            (1.0, 29.0, 0.0061, 0.1718),
        ] {
            let rate = wilson(successes, trials).unwrap();
            assert!((rate.low - low).abs() < 5e-5, "{successes}/{trials}: {rate:?}");
            assert!((rate.high - high).abs() < 5e-5, "{successes}/{trials}: {rate:?}");
        }
    }

    #[test]
    fn no_trials_have_no_rate_and_all_successes_reach_one() {
        assert_eq!(wilson(0.0, 0.0), None);
        assert_eq!(wilson(2.0, 1.0), None);
        assert_eq!(wilson(f64::NAN, 1.0), None);
        assert!((wilson(7.0, 7.0).unwrap().high - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn rare_rates_get_another_digit() {
        assert_eq!(text(81.0, 263.0).unwrap(), "30.8 % (25.5–36.6, n 263)");
        assert_eq!(text(2.0, 10_000.0).unwrap(), "0.02 % (0.01–0.07, n 10000)");
    }
}
