//! The tagger itself: loads a model, checks it, and scores exchanges.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use uptake_model::labels::{OUTPUTS, output_name};

use crate::cache::Cache;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::files::{ModelFiles, read_shards};
use crate::input::{Input, Template};
use crate::scores::Scores;
use crate::settings::{EncoderConfig, Golden, TAGGER_FILE, TaggerConfig};

/// Largest difference of a golden logit that another processor's order of additions explains, by far.
const GOLDEN_TOLERANCE: f32 = 2e-3;

/// How a tagger works; what it computes does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Worker threads; 0 for one per core.
    pub threads: usize,
    /// Tokens of a batch: enough to keep matrix products efficient, few enough to spread batches over threads.
    pub batch_tokens: usize,
    /// Short inputs whose result is kept; 0 for none.
    pub cache: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 0, batch_tokens: 2048, cache: 1 << 15 }
    }
}

/// The signal classifier. Cheap to clone; clones share weights, worker threads and cache.
///
/// Scoring is synchronous and takes processor time: never call it on an async thread.
#[derive(Clone)]
pub struct Tagger(Arc<Inner>);

struct Inner {
    version: String,
    template: Template,
    encoder: Encoder,
    config: TaggerConfig,
    options: Options,
    pool: ThreadPool,
    cache: Mutex<Cache>,
}

impl fmt::Debug for Tagger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tagger")
            .field("version", &self.0.version)
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl Tagger {
    /// Loads the model in `directory` and checks it against its golden logits.
    ///
    /// # Errors
    /// [`Error::File`] where a file is missing, [`Error::Model`] where one is not valid or they do not fit each other,
    /// [`Error::Golden`] where the model computes something else than when it was made.
    pub fn open(directory: &Path, options: Options) -> Result<Self> {
        Self::new(&ModelFiles::read(directory)?, options)
    }

    /// Loads a model from bytes and checks it against its golden logits.
    ///
    /// # Errors
    /// As [`Tagger::open`], without [`Error::File`].
    pub fn new(files: &ModelFiles<'_>, options: Options) -> Result<Self> {
        let encoder_config = EncoderConfig::parse(&files.config)?;
        let config = TaggerConfig::parse(&files.tagger, &encoder_config)?;
        let layout = config.layout()?;
        let template = Template::parse(&files.tokenizer, encoder_config.vocab_size, config.max_tokens, layout)?;
        let weights = read_shards(&files.weights)?;
        let encoder = Encoder::new(&encoder_config, &weights)?;
        drop(weights);
        let pool = ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|index| format!("tagger-{index}"))
            .build()?;
        let version = format!("{}-{}", config.name, files.digest());
        let cache = Mutex::new(Cache::new(options.cache));
        let tagger = Self(Arc::new(Inner { version, template, encoder, config, options, pool, cache }));
        tagger.check_golden()?;
        tracing::debug!(version = tagger.version(), "tagger loaded");
        Ok(tagger)
    }

    /// The version that goes into every row: the model's name and a hash of its files.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// What the model's `tagger.json` says.
    #[must_use]
    pub fn config(&self) -> &TaggerConfig {
        &self.0.config
    }

    /// Per output, the calibrated probability from which on it fires.
    #[must_use]
    pub fn thresholds(&self) -> &[f32] {
        &self.0.config.thresholds
    }

    /// Scores exchanges, in their order. One without a response or without a follow-up gets [`Scores::NONE`].
    ///
    /// # Errors
    /// [`Error::Compute`], [`Error::Tokenise`] or [`Error::Bug`], none of which any text causes.
    pub fn tag(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Scores>> {
        let logits = self.logits(exchanges)?;
        Ok(logits.into_iter().map(|logits| logits.map_or(Scores::NONE, |logits| self.calibrate(&logits))).collect())
    }

    /// Logits before calibration, in the order of the exchanges; nothing for one without text.
    ///
    /// # Errors
    /// As [`Tagger::tag`].
    pub fn logits(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Option<[f32; OUTPUTS]>>> {
        self.0.pool.install(|| {
            let inputs = exchanges.par_iter().map(|exchange| self.0.template.encode(exchange));
            let inputs: Vec<Option<Input>> = inputs.collect::<Result<_>>()?;
            let known = self.distinct(&inputs)?;
            Ok(inputs.iter().map(|input| known.get(input.as_ref()?).copied()).collect())
        })
    }

    pub(crate) fn calibrate(&self, logits: &[f32; OUTPUTS]) -> Scores {
        let mut probabilities = [0.0; OUTPUTS];
        let calibrated = logits.iter().zip(&self.0.config.calibration);
        for (probability, (logit, calibration)) in probabilities.iter_mut().zip(calibrated) {
            *probability = calibration.probability(*logit);
        }
        Scores::new(probabilities, &self.0.config.thresholds)
    }

    /// Logits of each distinct input, from the cache or the encoder.
    fn distinct<'a>(&self, inputs: &'a [Option<Input>]) -> Result<HashMap<&'a Input, [f32; OUTPUTS]>> {
        let mut known = HashMap::new();
        let mut fresh: Vec<&Input> = Vec::new();
        {
            let mut cache = self.0.cache.lock().unwrap_or_else(PoisonError::into_inner);
            for input in inputs.iter().flatten() {
                if known.contains_key(input) {
                    continue;
                }
                let cached = cache.get(input);
                let _ = known.insert(input, cached.unwrap_or([0.0; OUTPUTS]));
                if cached.is_none() {
                    fresh.push(input);
                }
            }
        }
        let computed = self.compute(fresh)?;
        let mut cache = self.0.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for (input, logits) in computed {
            cache.put(input, logits);
            let _ = known.insert(input, logits);
        }
        Ok(known)
    }

    /// Logits of inputs from the encoder, in batches over the worker threads of whoever calls; in an order of its own.
    fn compute<'a>(&self, inputs: Vec<&'a Input>) -> Result<Vec<(&'a Input, [f32; OUTPUTS])>> {
        let batches = batches(inputs, self.0.options.batch_tokens);
        let computed = batches.par_iter().map(|batch| self.0.encoder.logits(batch));
        let computed: Vec<Vec<[f32; OUTPUTS]>> = computed.collect::<Result<_>>()?;
        Ok(batches.into_iter().flatten().zip(computed.into_iter().flatten()).collect())
    }

    /// Runs work on the worker threads.
    pub(crate) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.pool.install(work)
    }

    /// What makes inputs of exchanges.
    pub(crate) fn template(&self) -> &Template {
        &self.0.template
    }

    /// Logits of inputs that nobody will ask for again, in their order; nothing goes into the cache.
    pub(crate) fn logits_of(&self, inputs: &[Input]) -> Result<Vec<[f32; OUTPUTS]>> {
        let distinct: HashSet<&Input> = inputs.iter().collect();
        let known: HashMap<&Input, [f32; OUTPUTS]> =
            self.compute(distinct.into_iter().collect())?.into_iter().collect();
        inputs.iter().map(|input| known.get(input).copied().ok_or(Error::Bug("an input was not computed"))).collect()
    }

    fn check_golden(&self) -> Result<()> {
        let exchanges: Vec<Exchange<'_>> = self.0.config.golden.iter().map(Golden::exchange).collect();
        let computed = self.logits(&exchanges)?;
        for (example, (golden, computed)) in self.0.config.golden.iter().zip(computed).enumerate() {
            let computed =
                computed.ok_or_else(|| Error::model(TAGGER_FILE, format!("golden example {example} has no text")))?;
            for (output, (expected, computed)) in golden.logits.iter().copied().zip(computed).enumerate() {
                // Not `>`: a NaN on either side must not pass.
                if (expected - computed).abs() <= GOLDEN_TOLERANCE {
                    continue;
                }
                let output = output_name(output).unwrap_or("?");
                return Err(Error::Golden { example, output, expected, computed });
            }
        }
        Ok(())
    }
}

/// Batches of inputs of like length, each of at most `budget` tokens (or one input that is longer). Nothing is padded, so
/// length matters only for the attention of a batch to cost about the same in each.
fn batches(mut inputs: Vec<&Input>, budget: usize) -> Vec<Vec<&Input>> {
    inputs.sort_by_key(|input| input.tokens.len());
    let mut batches: Vec<Vec<&Input>> = Vec::new();
    let mut tokens = usize::MAX;
    for input in inputs {
        tokens = tokens.saturating_add(input.tokens.len());
        match batches.last_mut() {
            Some(batch) if tokens <= budget => batch.push(input),
            _ => {
                tokens = input.tokens.len();
                batches.push(vec![input]);
            }
        }
    }
    batches
}

#[cfg(test)]
#[path = "tagger_tests.rs"]
mod tests;
