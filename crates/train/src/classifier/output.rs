//! Writes a model: weights in half precision, calibration and thresholds, golden logits, figures, card.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::Serialize;
use uptake_model::labels::{OUTPUTS, output_name};
use uptake_tagger::{
    CONFIG_FILE, Calibration, Encoder, Golden, ModelFiles, TAGGER_FILE, TOKENIZER_FILE, TaggerConfig, Template,
    WEIGHTS_FILE, WEIGHTS_INDEX_FILE, read_shards,
};

use super::evaluation::{Scored, Thresholds, cases, logits};
use super::use_figures::base_rate;
use super::{Base, Epoch, Figures, Options, Prepared, card, checkpoint};
use crate::calibration;
use crate::error::{Error, Result};
use crate::metrics::Case;

/// File of all figures.
const METRICS_FILE: &str = "metrics.json";
/// The card.
const CARD_FILE: &str = "README.md";

/// Bytes of weights in a file at most: hosts of repositories refuse larger files than 50 MB or so.
const SHARD_BYTES: usize = 48_000_000;

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
        write(options.out.join(name), bytes)?;
    }
    write_shards(&options.out, &shards)?;
    Ok(figures)
}

/// A file of weights.
struct Shard {
    names: Vec<String>,
    bytes: Vec<u8>,
}

/// Weights in half precision, in as few files as the bound on a file allows, in the order of their names.
fn half_precision(weights: HashMap<String, Tensor>) -> Result<Vec<Shard>> {
    let sorted: BTreeMap<String, Tensor> = weights.into_iter().collect();
    let mut parts: Vec<(usize, BTreeMap<String, Tensor>)> = Vec::new();
    for (name, tensor) in sorted {
        let tensor = tensor.to_dtype(DType::F16)?;
        let size = 2 * tensor.elem_count();
        match parts.last_mut() {
            Some((bytes, part)) if *bytes + size <= SHARD_BYTES => {
                *bytes += size;
                let _ = part.insert(name, tensor);
            }
            _ => parts.push((size, BTreeMap::from([(name, tensor)]))),
        }
    }
    let serialised = parts.into_iter().map(|(_, part)| {
        let bytes = safetensors::serialize(&part, None).map_err(|error| Error::Bug(error.to_string()))?;
        Ok(Shard { names: part.into_keys().collect(), bytes })
    });
    serialised.collect()
}

/// Writes one file of weights under its plain name, several with a list of which weight is where.
fn write_shards(out: &Path, shards: &[Shard]) -> Result<()> {
    if let [only] = shards {
        return write(out.join(WEIGHTS_FILE), &only.bytes);
    }
    let mut map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write(out.join(&file), &shard.bytes)?;
        map.extend(shard.names.iter().map(|name| (name, file.clone())));
    }
    let bytes: usize = shards.iter().map(|shard| shard.bytes.len()).sum();
    let index = serde_json::json!({ "metadata": { "total_size": bytes }, "weight_map": map });
    write(out.join(WEIGHTS_INDEX_FILE), &json(&index)?)
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

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| Error::Bug(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn write(path: PathBuf, bytes: &[u8]) -> Result<()> {
    std::fs::write(&path, bytes).map_err(|source| Error::File { action: "write", path, source })
}
