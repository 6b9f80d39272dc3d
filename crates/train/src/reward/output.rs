//! Writes a model: weights in half precision, heads with their priors, golden logits, figures, card.

use std::collections::HashMap;

use candle_core::Tensor;
use serde::Serialize;
use uptake_tagger::{CONFIG_FILE, Encoder, Input, TOKENIZER_FILE, read_shards};

use super::input::{TEMPLATE, Template};
use super::model::{Golden, REWARD_FILE, RewardConfig, RewardFiles, RewardModel};
use super::prepared::Prepared;
use super::run::base_digest;
use super::{Epoch, Figures, Message, Options, RowCounts, card, figures};
use crate::base::Base;
use crate::error::{Error, Result};
use crate::model_files::{CARD_FILE, METRICS_FILE, half_precision, json, write, write_shards};

/// Inputs whose logits are kept with the model: short and long, several scripts, code.
const GOLDEN: [(&[(&str, &str)], &str); 4] = [
    (&[("user", "How do I undo my last git commit?")], "Run `git reset --soft HEAD~1`."),
    (
        &[
            ("system", "You are brief."),
            ("user", "Wie spät ist es in Tokio?"),
            ("assistant", "15 Uhr."),
            ("user", "Und in Rom?"),
        ],
        "In Rom ist es 7 Uhr morgens 👍🏽.",
    ),
    (&[("user", "写一首诗")], "春眠不觉晓,处处闻啼鸟。夜来风雨声,花落知多少。"),
    (
        &[("user", "def f(x): return x + 1")],
        "The function `f` adds one to `x`. It takes a number and returns the number plus one; for text it raises a \
         TypeError: can only concatenate str (not \"int\") to str. Convert the text first, as in `f(int(text))`.",
    ),
];

#[derive(Serialize)]
struct Metrics<'a> {
    options: &'a Options,
    rows: &'a [RowCounts],
    /// Rows to train on, to validate with, to test on.
    parts: [usize; 3],
    passes: &'a [Epoch],
    held_out: &'a Figures,
}

/// Measures and writes; what is measured are the weights as they are written and served.
pub(super) fn finish(
    options: &Options,
    base: &Base,
    template: &Template,
    prepared: &Prepared,
    weights: HashMap<String, Tensor>,
    history: &[Epoch],
) -> Result<Figures> {
    let shards = half_precision(weights)?;
    let weights: Vec<&[u8]> = shards.iter().map(|shard| shard.bytes.as_slice()).collect();
    let encoder = Encoder::with_outputs(&base.config, &read_shards(&weights)?, prepared.heads.len())?;
    let scored = figures::scored(prepared, &encoder, &prepared.test)?;
    let figures = figures::figures(prepared, &scored, options.seed);
    let reward = json(&RewardConfig {
        name: options.name.clone(),
        template: TEMPLATE.to_owned(),
        max_tokens: options.max_tokens,
        heads: prepared.heads.clone(),
        golden: golden(&encoder, template)?,
        trained_on: prepared.trained_on(),
        base: base_digest(base),
    })?;
    // Loaded as it will be served: a model that does not load is never left behind as if it did.
    let model = RewardModel::new(&RewardFiles {
        config: &base.config_bytes,
        tokenizer: &base.tokenizer,
        weights,
        reward: &reward,
    })?;
    let parts = [prepared.training.len(), prepared.validation.len(), prepared.test.len()];
    let metrics = json(&Metrics { options, rows: &prepared.counts, parts, passes: history, held_out: &figures })?;
    let card = card::Card { options, model: &model, prepared, history, figures: &figures };
    write_shards(&options.out, &shards)?;
    for (name, bytes) in [
        (CONFIG_FILE, base.config_bytes.as_slice()),
        (TOKENIZER_FILE, &base.tokenizer),
        (METRICS_FILE, &metrics),
        (CARD_FILE, card.to_string().as_bytes()),
        // Last: a directory that has it is whole.
        (REWARD_FILE, &reward),
    ] {
        write(&options.out.join(name), bytes)?;
    }
    Ok(figures)
}

fn golden(encoder: &Encoder, template: &Template) -> Result<Vec<Golden>> {
    let golden = GOLDEN.iter().map(|(prompt, response)| {
        let message =
            |(role, content): &(&str, &str)| Message { role: (*role).to_owned(), content: (*content).to_owned() };
        let prompt: Vec<Message> = prompt.iter().map(message).collect();
        let made = template.encode(&prompt, response)?;
        let inputs: Vec<&Input> = made.iter().map(|made| &made.input).collect();
        let logits = encoder.outputs(&inputs)?.pop();
        let logits = logits.ok_or_else(|| Error::Bug("a golden example has no text".to_owned()))?;
        Ok(Golden { prompt, response: (*response).to_owned(), logits })
    });
    golden.collect()
}
