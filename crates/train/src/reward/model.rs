//! A reward model as it is stored and served: `reward.json` beside encoder, tokenizer and weights.

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uptake_tagger::{CONFIG_FILE, Encoder, EncoderConfig, Input, TOKENIZER_FILE, read_shards, weight_files};

use super::input::{FEWEST_TOKENS, TEMPLATE, Template};
use crate::error::{Error, Result};
use crate::rows::Message;

/// File name of [`RewardConfig`].
pub const REWARD_FILE: &str = "reward.json";
/// Largest difference of a golden logit that another processor's order of additions explains, by far.
const GOLDEN_TOLERANCE: f32 = 5e-3;
/// Tokens that are scored together.
const BATCH_TOKENS: usize = 4096;

/// What the rows that train a head say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Whether a response was liked: the score is the rate at which such responses are.
    Rate,
    /// Which of two responses is better: differences of scores are log-odds, a score alone means nothing.
    Preference,
}

/// How often what a head predicts holds, among the rows as they were drawn for training and as they were read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prior {
    /// `π_s`: the share of positives that the loss saw, up-sampling and weights counted in.
    pub sampled: f64,
    /// `π_t`: the share of positives among the rows trained on.
    pub actual: f64,
}

impl Prior {
    /// `logit p_true = logit p − log(π_s (1 − π_t) / ((1 − π_s) π_t))`.
    #[must_use]
    pub fn correct(&self, logit: f64) -> f64 {
        let Self { sampled, actual } = self;
        logit - (sampled * (1.0 - actual) / ((1.0 - sampled) * actual)).ln()
    }
}

/// A scalar output on the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Small letters, digits, dashes and underscores.
    pub name: String,
    /// What its score is.
    pub objective: Objective,
    /// Of a rate.
    pub prior: Option<Prior>,
}

/// A score in both of its forms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Log-odds of the rate, the prior corrected; the reward itself where the head compares.
    pub logit: f64,
    /// The rate, 0 to 1; of a head that compares, σ(reward): the chance to be preferred to a response of reward 0.
    pub probability: f64,
}

impl Head {
    /// The score that belongs to what the encoder says.
    #[must_use]
    pub fn score(&self, logit: f32) -> Score {
        let logit = f64::from(logit);
        let logit = self.prior.map_or(logit, |prior| prior.correct(logit));
        Score { logit, probability: 1.0 / (1.0 + (-logit).exp()) }
    }

    /// The number that `uptake score` writes: a rate, or a reward.
    #[must_use]
    pub fn value(&self, logit: f32) -> f64 {
        let score = self.score(logit);
        match self.objective {
            Objective::Rate => score.probability,
            Objective::Preference => score.logit,
        }
    }
}

/// An input with the logits that the served weights gave for it when the model was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The conversation.
    pub prompt: Vec<Message>,
    /// The response to it.
    pub response: String,
    /// A logit per head, the prior not corrected.
    pub logits: Vec<f32>,
}

/// What a head was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedOn {
    /// The head, where the rows name no other.
    pub head: String,
    /// Name of the snapshot's table, or of the file.
    pub data: String,
    /// Id of the snapshot, or SHA-256 of the file.
    pub id: String,
    /// Rows that were used, those held out among them.
    pub rows: u64,
}

/// `reward.json`: all that scoring needs beside the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// First part of the version; small letters, digits and dashes.
    pub name: String,
    /// How a conversation and a response become an input.
    pub template: String,
    /// Longest input in tokens: the oldest part of the conversation and the start of the response are cut.
    pub max_tokens: usize,
    /// In the order of the outputs.
    pub heads: Vec<Head>,
    /// Checked when the model is loaded.
    pub golden: Vec<Golden>,
    /// Which data.
    pub trained_on: Vec<TrainedOn>,
    /// SHA-256 of the weights that training started from.
    pub base: String,
}

fn refuse<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::Model { file: REWARD_FILE, reason: reason.into() })
}

/// Whether a head may be called so.
pub(super) fn is_head_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(letter);
    !name.is_empty() && name.chars().all(plain)
}

impl RewardConfig {
    fn parse(json: &[u8], encoder: &EncoderConfig) -> Result<Self> {
        let config: Self = match serde_json::from_slice(json) {
            Ok(config) => config,
            Err(error) => return refuse(error.to_string()),
        };
        if config.template != TEMPLATE {
            return refuse(format!("template is `{}`, this program scores by `{TEMPLATE}`", config.template));
        }
        if !(FEWEST_TOKENS..=encoder.longest()).contains(&config.max_tokens) {
            return refuse(format!(
                "max_tokens is {}, the encoder takes {FEWEST_TOKENS} to {}",
                config.max_tokens,
                encoder.longest()
            ));
        }
        if config.heads.is_empty() || config.heads.iter().any(|head| !is_head_name(&head.name)) {
            return refuse(
                "a head is missing, or its name is not made of small letters, digits, dashes and underscores",
            );
        }
        let share = |share: f64| share > 0.0 && share < 1.0;
        let prior = |head: &Head| match (head.objective, head.prior) {
            (Objective::Rate, Some(prior)) => share(prior.sampled) && share(prior.actual),
            (Objective::Preference, None) => true,
            _ => false,
        };
        if !config.heads.iter().all(prior) {
            return refuse("the prior of a rate is missing or not between 0 and 1, or a head that compares has one");
        }
        if config.golden.is_empty() || config.golden.iter().any(|golden| golden.logits.len() != config.heads.len()) {
            return refuse("golden examples are missing, or lack the logit of a head");
        }
        Ok(config)
    }
}

/// The files of a reward model.
#[derive(Clone, Debug)]
pub(super) struct RewardFiles<'a> {
    pub(super) config: &'a [u8],
    pub(super) tokenizer: &'a [u8],
    pub(super) weights: Vec<&'a [u8]>,
    pub(super) reward: &'a [u8],
}

impl RewardFiles<'_> {
    /// The first 12 hexadecimal digits of a hash over all files: another byte is another version.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for file in [self.config, self.tokenizer].iter().chain(&self.weights).chain([&self.reward]) {
            hash.update((file.len() as u64).to_le_bytes());
            hash.update(file);
        }
        format!("{:x}", hash.finalize()).chars().take(12).collect()
    }
}

/// A reward model that scores. Scoring takes processor time: never call it on an async thread.
#[derive(Debug)]
pub struct RewardModel {
    version: String,
    template: Template,
    encoder: Encoder,
    config: RewardConfig,
}

impl RewardModel {
    /// Loads the model in `directory` and checks it against its golden logits.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the directory is no model, [`Error::File`] and [`Error::Tagger`] where a file is missing or not valid, [`Error::Model`] where `reward.json` is
    /// not valid or the files do not belong together.
    pub fn open(directory: &Path) -> Result<Self> {
        if !directory.join(REWARD_FILE).exists() {
            return Err(Error::Invalid(format!(
                "`{}` is no reward model, it has no {REWARD_FILE}: `uptake train love` and `uptake train reward` make one",
                directory.display()
            )));
        }
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).map_err(|source| Error::File { action: "read", path, source })
        };
        let (reward, config, tokenizer) = (read(REWARD_FILE)?, read(CONFIG_FILE)?, read(TOKENIZER_FILE)?);
        let weights = weight_files(directory)?;
        Self::new(&RewardFiles {
            config: &config,
            tokenizer: &tokenizer,
            weights: weights.iter().map(Vec::as_slice).collect(),
            reward: &reward,
        })
    }

    pub(super) fn new(files: &RewardFiles<'_>) -> Result<Self> {
        let encoder_config = EncoderConfig::parse(files.config)?;
        let config = RewardConfig::parse(files.reward, &encoder_config)?;
        let template = Template::parse(files.tokenizer, encoder_config.vocab_size, config.max_tokens)?;
        let weights = read_shards(&files.weights)?;
        let encoder = Encoder::with_outputs(&encoder_config, &weights, config.heads.len())?;
        let model = Self { version: format!("{}-{}", config.name, files.digest()), template, encoder, config };
        model.check_golden()?;
        Ok(model)
    }

    /// The model's name and a hash of its files.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What `reward.json` says.
    #[must_use]
    pub const fn config(&self) -> &RewardConfig {
        &self.config
    }

    /// The place of a head among the outputs; of the only one where none is named.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is none of that name, or several to choose from.
    pub fn head(&self, name: Option<&str>) -> Result<usize> {
        let heads = &self.config.heads;
        let names = || heads.iter().map(|head| head.name.as_str()).collect::<Vec<_>>().join("`, `");
        match name {
            Some(name) => heads
                .iter()
                .position(|head| head.name == name)
                .ok_or_else(|| Error::Invalid(format!("the model has no head `{name}`, it has `{}`", names()))),
            None if heads.len() == 1 => Ok(0),
            None => Err(Error::Invalid(format!("the model has several heads, name one of `{}`", names()))),
        }
    }

    /// Logits per head of responses to conversations, in their order, the prior not corrected ([`Head::score`] does that);
    /// nothing for a response without text.
    ///
    /// # Errors
    /// [`Error::Tagger`], which no text causes.
    pub fn logits(&self, responses: &[(&[Message], &str)]) -> Result<Vec<Option<Vec<f32>>>> {
        let inputs = responses
            .par_iter()
            .map(|(prompt, response)| Ok(self.template.encode(prompt, response)?.map(|encoded| encoded.input)));
        let inputs: Vec<Option<Input>> = inputs.collect::<Result<_>>()?;
        let some: Vec<&Input> = inputs.iter().flatten().collect();
        let mut logits = outputs(&self.encoder, &some)?.into_iter();
        Ok(inputs.iter().map(|input| input.as_ref().and_then(|_| logits.next())).collect())
    }

    fn check_golden(&self) -> Result<()> {
        let golden = &self.config.golden;
        let responses: Vec<_> = golden.iter().map(|each| (each.prompt.as_slice(), each.response.as_str())).collect();
        for (example, (golden, computed)) in golden.iter().zip(self.logits(&responses)?).enumerate() {
            let Some(computed) = computed else { return refuse(format!("golden example {example} has no text")) };
            for (expected, computed) in golden.logits.iter().zip(computed) {
                // Not `>`: a NaN on either side must not pass.
                if (expected - computed).abs() <= GOLDEN_TOLERANCE {
                    continue;
                }
                return refuse(format!(
                    "the model computes {computed} for golden example {example}, the file says {expected}: its files do \
                     not belong together, fetch the model again"
                ));
            }
        }
        Ok(())
    }
}

/// What the head says of many inputs, in their order; batches of like length are spread over threads.
pub(super) fn outputs(encoder: &Encoder, inputs: &[&Input]) -> Result<Vec<Vec<f32>>> {
    let mut order: Vec<usize> = (0..inputs.len()).collect();
    order.sort_by_key(|index| inputs[*index].tokens.len());
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = usize::MAX;
    for index in order {
        tokens = tokens.saturating_add(inputs[index].tokens.len());
        match batches.last_mut() {
            Some(batch) if tokens <= BATCH_TOKENS => batch.push(index),
            _ => {
                tokens = inputs[index].tokens.len();
                batches.push(vec![index]);
            }
        }
    }
    let computed = batches.par_iter().map(|batch| {
        let batch: Vec<&Input> = batch.iter().map(|index| inputs[*index]).collect();
        encoder.outputs(&batch)
    });
    let computed: Vec<Vec<Vec<f32>>> = computed.collect::<Result<_, _>>()?;
    let mut all = vec![Vec::new(); inputs.len()];
    for (index, logits) in batches.into_iter().flatten().zip(computed.into_iter().flatten()) {
        all[index] = logits;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prior_is_undone() {
        // 2 % of rows hold, the loss saw 10 %: a model that knows nothing says 10 % and means 2 %.
        let prior = Prior { sampled: 0.1, actual: 0.02 };
        let head = Head { name: "love".to_owned(), objective: Objective::Rate, prior: Some(prior) };
        #[expect(clippy::cast_possible_truncation, reason = "a logit")]
        let score = head.score((0.1_f64 / 0.9).ln() as f32);
        assert!((score.probability - 0.02).abs() < 1e-6, "{score:?}");
        assert!((score.logit - (0.02_f64 / 0.98).ln()).abs() < 1e-5, "{score:?}");
        let same = Prior { sampled: 0.3, actual: 0.3 };
        assert!((same.correct(1.25) - 1.25).abs() < 1e-12);
        let compares = Head { name: "safe".to_owned(), objective: Objective::Preference, prior: None };
        assert!((compares.value(-2.5) + 2.5).abs() < 1e-12);
        assert!((head.value(0.0) - head.score(0.0).probability).abs() < 1e-12);
    }
}
