//! The figures of a model that is there already, on labelled files: `uptake evaluate tagger`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uptake_model::labels::OUTPUTS;
use uptake_tagger::{Exchange, Tagger};

use super::diagnosis::Diagnosis;
use super::evaluation::{Figures, Scored, Thresholds};
use crate::calibration::Threshold;
use crate::data::{self, Example, Part, Split, Weak};
use crate::error::{Error, Result};

/// What is measured, and on what.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Files of labelled follow-ups, see [`crate::data::read`].
    pub data: Vec<PathBuf>,
    /// Files of conversations judged in another way, see [`crate::data::read_weak`].
    pub weak: Vec<Weak>,
    /// How the files are split.
    pub split: Split,
    /// Which part is measured; all of it where none is named.
    pub part: Option<Part>,
    /// Sources whose texts were written for training.
    pub written_sources: Vec<String>,
}

/// What was measured of which model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Version of the model.
    pub model: String,
    /// Its figures.
    pub figures: Figures,
    /// Examples without text, left out.
    pub empty: usize,
    /// Judgements that say nothing about a follow-up, left out.
    pub passed_over: usize,
    /// Where it errs; it quotes the data.
    #[serde(skip)]
    pub diagnosis: Option<Diagnosis>,
}

/// Exchanges that are scored between two calls of `tell`.
const AT_ONCE: usize = 256;

/// Measures a model at its own calibration and thresholds. `tell` hears how many of how many follow-ups are scored.
///
/// # Errors
/// [`Error::Invalid`] where no example is in the part, [`Error::Data`] and [`Error::File`] for files that cannot be read.
pub fn evaluate(tagger: &Tagger, evaluation: &Evaluation, tell: &mut dyn FnMut(usize, usize)) -> Result<Judged> {
    let wanted =
        |example: &Example| evaluation.part.is_none_or(|part| evaluation.split.part(&example.conversation_id) == part);
    let labelled = data::read(&evaluation.data)?;
    let mut weak = data::read_weak(&evaluation.weak)?;
    let _ = data::bind(&labelled, &mut weak, evaluation.split);
    let passed_over = weak.iter().map(|conversation| conversation.passed_over).sum();
    let labelled: Vec<Example> = labelled.into_iter().filter(wanted).collect();
    let weak: Vec<Example> = weak.into_iter().flat_map(|conversation| conversation.examples).filter(wanted).collect();
    let total = labelled.len() + weak.len();
    if labelled.is_empty() {
        return Err(Error::Invalid("no labelled example is in the part that is measured".to_owned()));
    }
    let mut done = 0;
    let mut score = |examples: &[Example]| -> Result<Vec<Option<[f32; OUTPUTS]>>> {
        let mut logits = Vec::with_capacity(examples.len());
        for some in examples.chunks(AT_ONCE) {
            let exchanges: Vec<Exchange<'_>> = some.iter().map(Example::exchange).collect();
            logits.extend(tagger.logits(&exchanges)?);
            done += some.len();
            tell(done, total);
        }
        Ok(logits)
    };
    let config = tagger.config();
    let (labelled_logits, weak_logits) = (score(&labelled)?, score(&weak)?);
    let empty = labelled_logits.iter().chain(&weak_logits).filter(|logits| logits.is_none()).count();
    let scored = scored(&labelled, labelled_logits, tagger);
    // Whether a threshold reached its target was seen where it was set, not here.
    let thresholds: Thresholds =
        config.thresholds.iter().map(|value| Threshold { value: f64::from(*value), reached: true }).collect();
    let mut figures = scored.figures(&thresholds, &evaluation.written_sources, evaluation.split.seed);
    let diagnosis = Some(scored.diagnosis(&thresholds));
    figures.weak = self::scored(&weak, weak_logits, tagger).weak_figures(evaluation.split.seed);
    Ok(Judged { model: tagger.version().to_owned(), figures, empty, passed_over, diagnosis })
}

/// Examples that have text, with their calibrated scores.
fn scored<'a>(examples: &'a [Example], logits: Vec<Option<[f32; OUTPUTS]>>, tagger: &Tagger) -> Scored<'a> {
    let (examples, logits): (Vec<&Example>, Vec<[f32; OUTPUTS]>) =
        examples.iter().zip(logits).filter_map(|(example, logits)| Some((example, logits?))).unzip();
    Scored::new(examples, &logits, &tagger.config().calibration)
}
