//! The tagger itself: loads a model, checks it, and scores exchanges.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sha2::{Digest, Sha256};
use uptake_model::labels::{OUTPUTS, output_name};

use crate::cache::Cache;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::input::{Exchange, Input, Template};
use crate::scores::Scores;
use crate::settings::{CONFIG_FILE, EncoderConfig, Golden, TAGGER_FILE, TOKENIZER_FILE, TaggerConfig, WEIGHTS_FILE};

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

/// The four files of a model.
#[derive(Clone, Debug)]
pub struct ModelFiles<'a> {
    /// `config.json`
    pub config: Cow<'a, [u8]>,
    /// `tokenizer.json`
    pub tokenizer: Cow<'a, [u8]>,
    /// `model.safetensors`
    pub weights: Cow<'a, [u8]>,
    /// `tagger.json`
    pub tagger: Cow<'a, [u8]>,
}

impl ModelFiles<'static> {
    /// Reads the files of a directory.
    ///
    /// # Errors
    /// [`Error::File`] with the path that could not be read.
    pub fn read(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => Ok(Cow::Owned(bytes)),
                Err(source) => Err(Error::File { action: "read", path, source }),
            }
        };
        Ok(Self {
            config: read(CONFIG_FILE)?,
            tokenizer: read(TOKENIZER_FILE)?,
            weights: read(WEIGHTS_FILE)?,
            tagger: read(TAGGER_FILE)?,
        })
    }
}

impl ModelFiles<'_> {
    /// The first 12 hexadecimal digits of a hash over all four files: another byte is another version.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for file in [&self.config, &self.tokenizer, &self.weights, &self.tagger] {
            hash.update((file.len() as u64).to_le_bytes());
            hash.update(file);
        }
        let digest = format!("{:x}", hash.finalize());
        digest.chars().take(12).collect()
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
        let template = Template::parse(&files.tokenizer, encoder_config.vocab_size, config.max_tokens)?;
        let weights = read_weights(&files.weights)?;
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

    fn calibrate(&self, logits: &[f32; OUTPUTS]) -> Scores {
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
        let batches = batches(fresh, self.0.options.batch_tokens);
        let computed = batches.par_iter().map(|batch| self.0.encoder.logits(batch));
        let computed: Vec<Vec<[f32; OUTPUTS]>> = computed.collect::<Result<_>>()?;
        let mut cache = self.0.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for (input, logits) in batches.into_iter().flatten().zip(computed.into_iter().flatten()) {
            cache.put(input, logits);
            let _ = known.insert(input, logits);
        }
        Ok(known)
    }

    fn check_golden(&self) -> Result<()> {
        let exchanges: Vec<Exchange<'_>> = self.0.config.golden.iter().map(exchange_of).collect();
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

fn exchange_of(golden: &Golden) -> Exchange<'_> {
    Exchange { last_user: &golden.last_user, response: &golden.response, follow_up: &golden.follow_up }
}

/// Tensors of a safetensors file, by name.
///
/// # Errors
/// [`Error::Model`] where it is none.
pub fn read_weights(bytes: &[u8]) -> Result<HashMap<String, candle_core::Tensor>> {
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
        .map_err(|error| Error::model(WEIGHTS_FILE, format!("{error}; is it whole? git LFS pointers are not served")))
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
