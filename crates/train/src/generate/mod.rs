//! Answers of a language model to a file of prompts: `uptake generate`.
//!
//! - `model`: a decoder without gradients, its weights laid out once for `tile`'s products.
//! - `cache`: keys and values of each sequence, and attention over them.
//! - `batch`: rows of different lengths go through the model together, without padding; one that is done leaves, and the
//!   next prompt enters. The samples of a prompt share one pass over it.
//! - `sample`: the likeliest token, or one drawn by temperature, top-k and top-p.
//! - `stop`: end tokens, and texts that end an answer.
//! - `respond`: questions as they come, with answers that are held to a JSON schema (`shape`, `spelling`).
//! - `lines`, `part`: JSON lines in and out, continued after a kill.
//!
//! A module of its own beside [`crate::decoder`], which is for training: that one packs whole sequences, keeps what a
//! backward pass needs and stores weights as they come; here nothing of that is wanted, and the weights lie in another order.
//! Files, adapters, positions and chat templates are the same code.
//!
//! An answer depends on model, prompt, id, sample and options alone, to the bit: not on what it is batched with, nor on
//! the number of threads, nor on whether the run was killed in between.

mod batch;
mod cache;
mod lines;
mod model;
mod part;
mod respond;
mod sample;
mod shape;
mod spelling;
mod stop;
mod tile;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::decoder::{BaseFiles, BaseWeights, DecoderConfig, merge};
use crate::error::{Error, Result};
use crate::policy::chat::Chat;

pub use crate::rows::Message;
pub use respond::{Deliver, Question, Refusal, Responder, Response};
pub use sample::Sampling;
pub use stop::Finish;

use batch::{Answered, Asked, Batch, Bounds, How};
use lines::{Answer, Line, Lines};
use model::Model;
use part::Part;
use stop::Stops;

/// Which model is asked, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// Directory of the model as Hugging Face lays it out.
    #[serde(skip)]
    pub model: PathBuf,
    /// Directory of an adapter in PEFT's layout, which is added to the weights.
    #[serde(skip)]
    pub adapter: Option<PathBuf>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
    /// Texts that end an answer; it ends before them.
    pub stop: Vec<String>,
    /// Answers to each prompt.
    pub samples: usize,
    /// Whether the start of a prompt that is too long is cut off; refused otherwise.
    pub truncate: bool,
    /// Whether lines that cannot be answered are passed over; the first one ends the run otherwise.
    pub skip_bad: bool,
    /// Whether the tokens of answers are written beside their texts.
    pub token_ids: bool,
    /// Answers under way at once.
    #[serde(skip)]
    pub rows: usize,
    /// Tokens that they may come to have together, prompts and answers: what bounds the memory.
    #[serde(skip)]
    pub tokens: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            adapter: None,
            sampling: Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 42 },
            max_new_tokens: 256,
            stop: Vec::new(),
            samples: 1,
            truncate: false,
            skip_bad: false,
            token_ids: false,
            rows: 32,
            tokens: 16_384,
        }
    }
}

impl Options {
    fn check(&self, config: &DecoderConfig) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Invalid(reason.to_owned()));
        self.sampling.check()?;
        if [self.max_new_tokens, self.samples, self.rows, self.tokens].contains(&0) {
            return refuse("new tokens, samples, rows and tokens of a batch must be at least 1");
        }
        if self.samples > 1 && self.sampling.temperature <= 0.0 {
            return refuse("several samples at temperature 0 would all be the same: give a temperature");
        }
        if self.max_new_tokens >= config.positions {
            return Err(Error::Invalid(format!(
                "{} new tokens leave no room for a prompt: the model takes {} in all",
                self.max_new_tokens, config.positions
            )));
        }
        Ok(())
    }
}

/// What the caller is told while answers are made.
#[derive(Debug)]
pub enum Event<'a> {
    /// A pass is done.
    Step(&'a Summary),
    /// A line was passed over.
    Skipped(&'a Error),
}

/// What a file of prompts holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Lines that can be answered.
    pub prompts: u64,
    /// Tokens of their prompts.
    pub tokens: u64,
    /// Prompts whose start is cut off.
    pub truncated: u64,
    /// Lines that cannot be answered.
    pub skipped: u64,
}

/// How far a run has come, or what it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Answers that are whole, those of an earlier run among them.
    pub answers: u64,
    /// Answers that an earlier run had written.
    pub before: u64,
    /// Answers of this run that ended by themselves or at a stop text.
    pub stopped: u64,
    /// Answers under way.
    pub running: usize,
    /// Prompts whose start was cut off.
    pub truncated: u64,
    /// Lines that were passed over.
    pub skipped: u64,
    /// Tokens of whole answers.
    pub tokens: u64,
    /// Wall time since the first prompt, in seconds.
    pub seconds: f64,
}

/// Where answers go.
pub enum Output<'a> {
    /// A file, which has its name when it is whole, and is continued after a kill.
    File(&'a Path),
    /// A stream.
    Stream(&'a mut dyn Write),
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Self::Stream(_) => formatter.write_str("Stream"),
        }
    }
}

/// A model that answers.
#[derive(Debug)]
pub struct Generator {
    options: Options,
    model: Model,
    chat: Chat,
    stops: Stops,
    /// What decides over the answers, as JSON.
    settings: String,
}

impl Generator {
    /// Loads a model, and an adapter where one is named.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options, a model or an adapter that cannot be used, [`Error::File`] where one cannot be read.
    pub fn load(options: &Options) -> Result<Self> {
        let base = BaseFiles::read(&options.model)?;
        let config = DecoderConfig::parse(&base.config)?;
        options.check(&config)?;
        let chat = Chat::new(&base, config.vocabulary)?;
        let stops = Stops::new(&base, &chat, &options.stop)?;
        let mut weights = base.weights()?;
        let hash = content_hash(&base, &weights);
        let adapter =
            options.adapter.as_deref().map(|directory| merge(directory, &mut weights, &config)).transpose()?;
        let settings = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": hash,
            "adapter": adapter,
            "options": options,
        });
        let settings = serde_json::to_string_pretty(&settings).map_err(|error| Error::Bug(error.to_string()))? + "\n";
        Ok(Self { options: options.clone(), model: Model::new(config, weights)?, chat, stops, settings })
    }

    /// Reads all prompts without answering them: a line that cannot be answered is told before hours have gone by.
    ///
    /// # Errors
    /// [`Error::Data`] for the first line that cannot be answered, unless such lines are passed over.
    pub fn survey(&self, input: &mut dyn BufRead, name: &Path) -> Result<Survey> {
        let mut lines = Lines::new(input, name.to_owned());
        let mut survey = Survey::default();
        loop {
            match self.asked(&mut lines) {
                Ok(Some((_, tokens, cut))) => {
                    survey.prompts += 1;
                    survey.tokens += tokens.len() as u64;
                    survey.truncated += u64::from(cut > 0);
                }
                Ok(None) => return Ok(survey),
                Err(Error::Data { .. }) if self.options.skip_bad => survey.skipped += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The next prompt, its tokens, and how many were cut off their start.
    fn asked(&self, lines: &mut Lines<'_>) -> Result<Option<(Line, Vec<u32>, usize)>> {
        let Some(line) = lines.next()? else { return Ok(None) };
        let refuse = |reason: String| lines.refuse(line.number, reason);
        let tokens = self.chat.prompt(&line.messages).map_err(|reason| {
            refuse(match reason {
                "control_token_in_text" => {
                    "a message holds a control token of the model, with which it would speak for others: take it out"
                        .into()
                }
                "refused_by_template" => {
                    "the model's chat template refuses its prompt: most want user and assistant in turn, user first"
                        .into()
                }
                other => format!("its prompt cannot be used: {other}"),
            })
        })?;
        let room = self.model.config().positions - self.options.max_new_tokens;
        let cut = tokens.len().saturating_sub(room);
        if cut > 0 && !self.options.truncate {
            return Err(refuse(format!(
                "its prompt has {} tokens, beside {} new ones the model takes {room}: shorten it, or ask for fewer new ones",
                tokens.len(),
                self.options.max_new_tokens
            )));
        }
        Ok(Some((line, tokens[cut..].to_vec(), cut)))
    }

    /// Answers all prompts of `input`, which is called `name` where one of its lines is named.
    ///
    /// # Errors
    /// [`Error::Data`] for a line that cannot be answered (what stands before it is answered first), [`Error::Invalid`]
    /// where the output cannot be continued, [`Error::File`] where reading or writing breaks off.
    pub fn run(
        &self,
        input: &mut dyn BufRead,
        name: &Path,
        output: Output<'_>,
        tell: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Summary> {
        let sink = match output {
            Output::File(path) => Sink::Part(Part::open(path, &self.settings)?),
            Output::Stream(stream) => Sink::Stream(stream),
        };
        let before = if let Sink::Part(part) = &sink { part.rows() as u64 } else { 0 };
        let summary = Summary { answers: before, before, ..Summary::default() };
        let run = Run {
            generator: self,
            lines: Lines::new(input, name.to_owned()),
            sink,
            serial: 0,
            next: before,
            finished: BTreeMap::new(),
            summary,
            failed: None,
        };
        run.run(tell)
    }
}

/// SHA-256 over all files of a model that decide over its answers, hexadecimal.
fn content_hash(base: &BaseFiles, weights: &BaseWeights) -> String {
    let mut hash = Sha256::new();
    let template = base.template.as_deref().unwrap_or_default();
    let generation = base.generation.as_deref().unwrap_or_default();
    for part in [&base.config, &base.tokenizer, &base.tokenizer_config, template.as_bytes(), generation] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(&weights.hash);
    format!("{:x}", hash.finalize())
}

enum Sink<'a> {
    Part(Part),
    Stream(&'a mut dyn Write),
}

/// A run between two passes.
struct Run<'a> {
    generator: &'a Generator,
    lines: Lines<'a>,
    sink: Sink<'a>,
    /// Number of the next prompt's first answer in the output.
    serial: u64,
    /// Number of the answer that is written next.
    next: u64,
    /// Answers that wait for those before them.
    finished: BTreeMap<u64, Vec<u8>>,
    summary: Summary,
    /// The line at which reading ended.
    failed: Option<Error>,
}

impl Run<'_> {
    fn run(mut self, tell: &mut dyn FnMut(&Event<'_>)) -> Result<Summary> {
        let generator = self.generator;
        let Options { rows, tokens, .. } = generator.options;
        let mut batch = Batch::new(&generator.model, &generator.chat, &generator.stops, Bounds { rows, tokens });
        let started = Instant::now();
        let mut waiting = self.read(tell)?;
        loop {
            while let Some(asked) = waiting.take() {
                waiting = batch.admit(asked);
                if waiting.is_some() {
                    break;
                }
                waiting = self.read(tell)?;
            }
            if batch.answers() == 0 {
                break;
            }
            for answered in batch.step()? {
                self.keep(&answered)?;
            }
            self.write()?;
            self.summary.running = batch.answers();
            self.summary.seconds = started.elapsed().as_secs_f64();
            tell(&Event::Step(&self.summary));
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.sink {
            Sink::Part(part) if part.rows() > 0 => {
                return Err(part.refuse("holds more answers than the input asks for"));
            }
            Sink::Part(part) => part.finish()?,
            Sink::Stream(stream) => stream.flush().map_err(stream_failed)?,
        }
        Ok(self.summary)
    }

    /// The next prompt that has samples left to make; nothing at the end, also where reading failed.
    fn read(&mut self, tell: &mut dyn FnMut(&Event<'_>)) -> Result<Option<Asked<Line>>> {
        let Options { max_new_tokens, sampling, .. } = self.generator.options;
        while self.failed.is_none() {
            match self.generator.asked(&mut self.lines) {
                Ok(Some((line, tokens, cut))) => {
                    self.summary.truncated += u64::from(cut > 0);
                    let serial = self.serial;
                    self.serial += self.generator.options.samples as u64;
                    let samples = self.missing(&line)?;
                    if !samples.is_empty() {
                        let how = How { sampling, max_new_tokens, held: None };
                        let line = Arc::new(line);
                        return Ok(Some(Asked { line, tokens, cut, serial, samples, past: None, how }));
                    }
                }
                Ok(None) => return Ok(None),
                Err(error @ Error::Data { .. }) if self.generator.options.skip_bad => {
                    self.summary.skipped += 1;
                    tell(&Event::Skipped(&error));
                }
                Err(error) => self.failed = Some(error),
            }
        }
        Ok(None)
    }

    /// The samples of a line that an earlier run has not written.
    fn missing(&mut self, line: &Line) -> Result<Vec<usize>> {
        let samples = 0..self.generator.options.samples;
        let Sink::Part(part) = &mut self.sink else { return Ok(samples.collect()) };
        let mut missing = Vec::new();
        for sample in samples {
            match part.next_mark() {
                None => missing.push(sample),
                Some(mark) if mark == line.mark(sample) => {}
                Some(_) => {
                    let reason = format!("holds another answer where line {} of the input is next", line.number);
                    return Err(part.refuse(&reason));
                }
            }
        }
        Ok(missing)
    }

    /// Makes a row of an answer.
    fn keep(&mut self, answered: &Answered<Line>) -> Result<()> {
        let Answered { line, serial, sample, cut, tokens, .. } = answered;
        let (response, finish) = self.generator.stops.text(&self.generator.chat, tokens)?;
        let token_ids = self.generator.options.token_ids;
        let answer = Answer { line, sample: *sample, response: &response, finish, tokens, token_ids, cut: *cut };
        let mut row = serde_json::to_vec(&answer).map_err(|error| Error::Bug(error.to_string()))?;
        row.push(b'\n');
        self.summary.answers += 1;
        self.summary.stopped += u64::from(finish == Finish::Stop);
        self.summary.tokens += tokens.len() as u64;
        if self.finished.insert(*serial, row).is_some() {
            return Err(Error::Bug(format!("answer {serial} was made twice")));
        }
        Ok(())
    }

    /// Writes the answers whose turn it is.
    fn write(&mut self) -> Result<()> {
        while let Some(row) = self.finished.remove(&self.next) {
            match &mut self.sink {
                Sink::Part(part) => part.write(&row)?,
                Sink::Stream(stream) => stream.write_all(&row).map_err(stream_failed)?,
            }
            self.next += 1;
        }
        Ok(())
    }
}

fn stream_failed(source: std::io::Error) -> Error {
    Error::File { action: "write", path: PathBuf::from("the output"), source }
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
