//! What the jobs ask of a tagger.

use std::fmt;

use uptake_model::labels::OUTPUTS;
use uptake_tagger::{Exchange, Tagger};

/// Scores of one exchange.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Probabilities in the order of the outputs ([`uptake_model::labels`]).
    pub probabilities: [f32; OUTPUTS],
    /// Which of them reach their thresholds.
    pub fires: [bool; OUTPUTS],
}

/// Scores exchanges. The tests have a transparent one that reads keywords.
pub trait Tag: fmt::Debug + Send + Sync {
    /// The version that goes into every row.
    fn version(&self) -> &str;

    /// Scores exchanges in their order. Takes processor time; never called on a thread that others wait for.
    ///
    /// # Errors
    /// A sentence, when the tagger cannot work at all; no text is an error.
    fn tag(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Scored>, String>;
}

impl Tag for Tagger {
    fn version(&self) -> &str {
        Self::version(self)
    }

    fn tag(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Scored>, String> {
        let scores = Self::tag(self, exchanges).map_err(|error| error.to_string())?;
        Ok(scores
            .iter()
            .map(|scores| Scored {
                probabilities: *scores.probabilities(),
                fires: std::array::from_fn(|output| scores.fires_output(output)),
            })
            .collect())
    }
}
