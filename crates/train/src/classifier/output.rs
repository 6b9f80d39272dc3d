//! Writes a model: weights in half precision, calibration and thresholds, golden logits, figures, card.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::Serialize;
use uptake_model::labels::{OUTPUTS, output_name};
use uptake_tagger::{
    CONFIG_FILE, Calibration, Encoder, Exchange, Golden, ModelFiles, TAGGER_FILE, TEMPLATE, TOKENIZER_FILE,
    TaggerConfig, Template, WEIGHTS_FILE, read_weights,
};

use super::evaluation::{Scored, Thresholds, cases, logits};
use super::{Base, Epoch, Figures, Options, Prepared, card, checkpoint};
use crate::calibration;
use crate::error::{Error, Result};
use crate::metrics::Case;

/// File of all figures.
const METRICS_FILE: &str = "metrics.json";
/// The card.
const CARD_FILE: &str = "README.md";

/// Inputs whose logits are kept with the model: short and long, several scripts, marks and code.
const GOLDEN: [(&str, &str, &str); 6] = [
    ("How do I undo my last git commit?", "Run `git reset --soft HEAD~1`.", "thanks, that worked!"),
    (
        "Summarise this in two lines.",
        "Certainly! Here is a long essay.",
        "No, that's not what I asked. Two lines please.",
    ),
    ("", "Hello, how can I help?", "what's the weather like in Lisbon"),
    ("Wie spät ist es in Tokio?", "In Tokio ist es 15 Uhr.", "danke 👍🏽 — sehr gut"),
    ("写一首诗", "春眠不觉晓", "这不对,再来一次"),
    (
        "def f(x): return x + 1",
        "The function `f` adds one to `x`. It takes a number and returns the number plus one; for text it raises a TypeError.",
        "Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\nTypeError: can only concatenate str (not \"int\") to str",
    ),
];

/// Makes the directory; one that holds anything but a checkpoint is refused.
pub(super) fn prepare(out: &Path) -> Result<()> {
    let failed = |action, source| Error::File { action, path: out.to_owned(), source };
    std::fs::create_dir_all(out).map_err(|source| failed("create", source))?;
    for entry in std::fs::read_dir(out).map_err(|source| failed("read", source))? {
        let entry = entry.map_err(|source| failed("read", source))?;
        if entry.file_name() != checkpoint::FOLDER {
            return Err(Error::Invalid(format!(
                "`{}` is not empty: name a new directory for the model",
                out.display()
            )));
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Metrics<'a> {
    options: &'a Options,
    parts: Parts,
    passes: &'a [Epoch],
    test: &'a Figures,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Parts {
    pub(super) training: usize,
    pub(super) validation: usize,
    pub(super) test: usize,
    pub(super) empty: usize,
}

/// Calibrates, measures and writes; what is measured are the weights as they are written and served.
pub(super) fn finish(
    options: &Options,
    base: &Base,
    prepared: &Prepared,
    weights: HashMap<String, Tensor>,
    history: &[Epoch],
) -> Result<Figures> {
    let weights = half_precision(weights)?;
    let encoder = Encoder::new(&base.config, &read_weights(&weights)?)?;
    let validation = logits(&encoder, &prepared.inputs(&prepared.validation))?;
    let (calibration, thresholds) = decide(options, prepared, &validation);
    let test = logits(&encoder, &prepared.inputs(&prepared.test))?;
    let examples = prepared.test.iter().map(|index| &prepared.examples[*index]).collect();
    let scored = Scored::new(examples, &test, &calibration);
    let figures = scored.figures(&thresholds, &options.written_sources, options.seed);
    let parts = Parts {
        training: prepared.training.len(),
        validation: prepared.validation.len(),
        test: prepared.test.len(),
        empty: prepared.empty,
    };
    let template = Template::parse(&base.tokenizer, base.config.vocab_size, options.max_tokens)?;
    let config = TaggerConfig {
        name: options.name.clone(),
        template: TEMPLATE.to_owned(),
        max_tokens: options.max_tokens,
        outputs: (0..OUTPUTS).filter_map(output_name).map(str::to_owned).collect(),
        calibration,
        #[expect(clippy::cast_possible_truncation, reason = "probabilities are of single precision")]
        thresholds: thresholds.iter().map(|threshold| threshold.value as f32).collect(),
        golden: golden(&encoder, &template)?,
    };
    let files = ModelFiles {
        config: Cow::Borrowed(&base.config_bytes),
        tokenizer: Cow::Borrowed(&base.tokenizer),
        weights: Cow::Owned(weights),
        tagger: Cow::Owned(json(&config)?),
    };
    let tagger = super::serve(&files)?;
    let metrics = json(&Metrics { options, parts, passes: history, test: &figures })?;
    let card = card::Card { options, version: tagger.version(), parts, history, figures: &figures };
    for (name, bytes) in [
        (CONFIG_FILE, &*files.config),
        (TOKENIZER_FILE, &*files.tokenizer),
        (WEIGHTS_FILE, &*files.weights),
        (TAGGER_FILE, &*files.tagger),
        (METRICS_FILE, metrics.as_slice()),
        (CARD_FILE, card.to_string().as_bytes()),
    ] {
        write(options.out.join(name), bytes)?;
    }
    Ok(figures)
}

fn half_precision(weights: HashMap<String, Tensor>) -> Result<Vec<u8>> {
    let halved = weights.into_iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F16)?)));
    let halved: HashMap<String, Tensor> = halved.collect::<Result<_>>()?;
    safetensors::serialize(&halved, None).map_err(|error| Error::Bug(error.to_string()))
}

/// Calibration and thresholds from the validation part.
fn decide(options: &Options, prepared: &Prepared, logits: &[[f32; OUTPUTS]]) -> (Vec<Calibration>, Thresholds) {
    let targets = prepared.targets(&prepared.validation);
    (0..OUTPUTS)
        .map(|output| {
            let raw = cases(logits, &targets, output);
            let calibration = calibration::fit(&raw);
            #[expect(clippy::cast_possible_truncation, reason = "logits are of single precision")]
            let probability = |case: &Case| f64::from(calibration.probability(case.score as f32));
            let calibrated: Vec<Case> =
                raw.iter().map(|case| Case { score: probability(case), holds: case.holds }).collect();
            (calibration, calibration::threshold(&calibrated, options.target_precision))
        })
        .unzip()
}

fn golden(encoder: &Encoder, template: &Template) -> Result<Vec<Golden>> {
    let mut all = Vec::new();
    for (last_user, response, follow_up) in GOLDEN {
        let input = template.encode(&Exchange { last_user, response, follow_up })?;
        let input = input.ok_or_else(|| Error::Bug("a golden example has no text".to_owned()))?;
        for logits in encoder.logits(&[&input])? {
            all.push(Golden {
                last_user: last_user.to_owned(),
                response: response.to_owned(),
                follow_up: follow_up.to_owned(),
                logits: logits.to_vec(),
            });
        }
    }
    Ok(all)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| Error::Bug(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn write(path: PathBuf, bytes: &[u8]) -> Result<()> {
    std::fs::write(&path, bytes).map_err(|source| Error::File { action: "write", path, source })
}
