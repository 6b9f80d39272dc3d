//! Writes a model: weights in half precision, calibration and thresholds, golden logits, figures, card.

use std::borrow::Cow;
use std::collections::HashMap;

use candle_core::Tensor;
use serde::Serialize;
use uptake_model::labels::{OUTPUTS, output_name};
use uptake_tagger::{
    CONFIG_FILE, Calibration, Encoder, Golden, ModelFiles, TAGGER_FILE, TOKENIZER_FILE, TaggerConfig, Template,
    read_shards,
};

use super::evaluation::{Scored, Thresholds, cases, logits};
use super::use_figures::base_rate;
use super::{Epoch, Figures, Options, Prepared, card, page};
use crate::base::Base;
use crate::calibration;
use crate::error::{Error, Result};
use crate::metrics::Case;
use crate::model_files::{CARD_FILE, METRICS_FILE, half_precision, json, write, write_shards};

/// Inputs whose logits are kept with the model: short and long, several scripts, marks and code. Each comes after those
/// before it, so that earlier messages are there to relate to.
const GOLDEN: [(&str, &str, &str); 7] = [
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
    ("and in Python?", "Run `git reset --soft HEAD~1`.", "how do i undo the last git commit??"),
];

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
    /// Rows of weak evidence in the same three parts.
    pub(super) weak: [usize; 3],
    pub(super) bound: usize,
    pub(super) passed_over: usize,
}

/// Calibrates, measures and writes; what is measured are the weights as they are written and served.
pub(super) fn finish(
    options: &Options,
    base: &Base,
    prepared: &Prepared,
    weights: HashMap<String, Tensor>,
    history: &[Epoch],
) -> Result<Figures> {
    let shards = half_precision(weights)?;
    let weights: Vec<&[u8]> = shards.iter().map(|shard| shard.bytes.as_slice()).collect();
    let encoder = Encoder::new(&base.config, &read_shards(&weights)?)?;
    let validation = logits(&encoder, &prepared.inputs(&prepared.validation))?;
    let (calibration, thresholds) = decide(options, prepared, &validation);
    let test = logits(&encoder, &prepared.inputs(&prepared.test))?;
    let scored = Scored::new(prepared.examples(&prepared.test), &test, &calibration);
    let mut figures = scored.figures(&thresholds, &options.written_sources, options.seed);
    let weak = logits(&encoder, &prepared.inputs(&prepared.weak_test))?;
    let diagnosis = scored.diagnosis(&thresholds);
    figures.weak = Scored::new(prepared.examples(&prepared.weak_test), &weak, &calibration).weak_figures(options.seed);
    let parts = Parts {
        training: prepared.training.len(),
        validation: prepared.validation.len(),
        test: prepared.test.len(),
        empty: prepared.empty,
        weak: prepared.weak_parts(),
        bound: prepared.bound,
        passed_over: prepared.passed_over,
    };
    let template = Template::parse(&base.tokenizer, base.config.vocab_size, options.max_tokens, options.layout)?;
    let config = TaggerConfig {
        name: options.name.clone(),
        template: options.layout.name().to_owned(),
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
        weights: weights.into_iter().map(Cow::Borrowed).collect(),
        tagger: Cow::Owned(json(&config)?),
    };
    let tagger = super::serve(&files)?;
    let metrics = json(&Metrics { options, parts, passes: history, test: &figures })?;
    let card = card::Card { options, version: tagger.version(), parts, history, figures: &figures };
    for (name, bytes) in [
        (CONFIG_FILE, &*files.config),
        (TOKENIZER_FILE, &*files.tokenizer),
        (TAGGER_FILE, &*files.tagger),
        (METRICS_FILE, metrics.as_slice()),
        (CARD_FILE, card.to_string().as_bytes()),
    ] {
        write(&options.out.join(name), bytes)?;
    }
    write_shards(&options.out, &shards)?;
    if let Some(report) = &options.report {
        write(report, page(tagger.version(), history, &figures, &diagnosis).as_bytes())?;
    }
    Ok(figures)
}

/// Calibration and thresholds from the validation part.
fn decide(options: &Options, prepared: &Prepared, logits: &[[f32; OUTPUTS]]) -> (Vec<Calibration>, Thresholds) {
    let examples = prepared.examples(&prepared.validation);
    let targets: Vec<&[f32; OUTPUTS]> = examples.iter().map(|example| &example.targets).collect();
    (0..OUTPUTS)
        .map(|output| {
            let raw = cases(logits, &examples, output);
            let calibration = calibration::fit(&raw);
            #[expect(clippy::cast_possible_truncation, reason = "logits are of single precision")]
            let probability = |case: &Case| f64::from(calibration.probability(case.score as f32));
            let calibrated: Vec<Case> =
                raw.iter().map(|case| Case { score: probability(case), holds: case.holds }).collect();
            let base_rate = base_rate(&targets, output);
            (calibration, calibration::threshold(&calibrated, options.target_precision, base_rate))
        })
        .unzip()
}

fn golden(encoder: &Encoder, template: &Template) -> Result<Vec<Golden>> {
    let mut all: Vec<Golden> = Vec::new();
    for (last_user, response, follow_up) in GOLDEN {
        let golden = Golden {
            last_user: last_user.to_owned(),
            response: response.to_owned(),
            follow_up: follow_up.to_owned(),
            earlier_users: all.iter().rev().map(|golden| golden.follow_up.clone()).collect(),
            earlier_responses: all.iter().rev().map(|golden| golden.response.clone()).collect(),
            logits: Vec::new(),
        };
        let input = template.encode(&golden.exchange())?;
        let input = input.ok_or_else(|| Error::Bug("a golden example has no text".to_owned()))?;
        for logits in encoder.logits(&[&input])? {
            all.push(Golden { logits: logits.to_vec(), ..golden.clone() });
        }
    }
    Ok(all)
}
