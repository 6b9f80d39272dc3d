//! The rows that are computed together: who enters, what a pass takes, who leaves.

use std::sync::Arc;

use super::cache::Cache;
use super::lines::Line;
use super::model::{Model, Piece};
use super::sample::{Sampler, Sampling};
use super::spelling::Held;
use super::stop::Stops;
use crate::error::{Error, Result};
use crate::policy::chat::Chat;

/// Tokens of a pass: a long prompt goes through in several, so that what a pass holds is bounded.
const PASS: usize = 512;

/// Whoever asks for answers; its id is what draws depend on.
pub(super) trait Asker {
    fn id(&self) -> &str;
}

impl Asker for Line {
    fn id(&self) -> &str {
        self.id()
    }
}

/// How answers to a prompt are made.
#[derive(Clone, Debug)]
pub(super) struct How {
    pub(super) sampling: Sampling,
    pub(super) max_new_tokens: usize,
    /// The shape that they are held to.
    pub(super) held: Option<Held>,
}

/// A prompt that waits for answers.
#[derive(Debug)]
pub(super) struct Asked<L> {
    pub(super) line: Arc<L>,
    pub(super) tokens: Vec<u32>,
    /// Tokens that were cut off its start.
    pub(super) cut: usize,
    /// Number of its first answer in the output.
    pub(super) serial: u64,
    /// Its samples that are still to be made.
    pub(super) samples: Vec<usize>,
    /// What its first tokens left behind, where another prompt began with them.
    pub(super) past: Option<Cache>,
    pub(super) how: How,
}

/// The tokens of a whole answer.
#[derive(Debug)]
pub(super) struct Answered<L> {
    pub(super) line: Arc<L>,
    pub(super) serial: u64,
    pub(super) sample: usize,
    pub(super) cut: usize,
    pub(super) tokens: Vec<u32>,
    /// Whether it ended by itself, before it had as many tokens as it may have.
    pub(super) ended: bool,
}

/// How far a row is.
#[derive(Debug)]
enum Stage {
    /// The prompt goes through once for all its samples.
    Prompt {
        samples: Vec<usize>,
    },
    Answer {
        sample: usize,
        sampler: Box<Sampler>,
        tokens: Vec<u32>,
    },
}

#[derive(Debug)]
struct Row<L> {
    line: Arc<L>,
    /// Number of the line's first answer in the output.
    serial: u64,
    cut: usize,
    cache: Cache,
    /// Tokens that have not been through the model, from `fed` on.
    waiting: Vec<u32>,
    fed: usize,
    /// Tokens that each of its samples may come to have.
    most: usize,
    how: How,
    stage: Stage,
}

impl<L> Row<L> {
    fn samples(&self) -> usize {
        match &self.stage {
            Stage::Prompt { samples } => samples.len(),
            Stage::Answer { .. } => 1,
        }
    }
}

/// What bounds a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Answers under way.
    pub(super) rows: usize,
    /// Tokens that they may come to have together, prompts and answers.
    pub(super) tokens: usize,
}

#[derive(Debug)]
pub(super) struct Batch<'a, L> {
    model: &'a Model,
    chat: &'a Chat,
    stops: &'a Stops,
    bounds: Bounds,
    rows: Vec<Row<L>>,
    scratch: Vec<f32>,
}

impl<'a, L: Asker> Batch<'a, L> {
    pub(super) const fn new(model: &'a Model, chat: &'a Chat, stops: &'a Stops, bounds: Bounds) -> Self {
        Self { model, chat, stops, bounds, rows: Vec::new(), scratch: Vec::new() }
    }

    /// Answers under way.
    pub(super) fn answers(&self) -> usize {
        self.rows.iter().map(Row::samples).sum()
    }

    /// Takes a prompt in with as many of its samples as there is room for, all at once where they ever could be; what is left
    /// of it comes back.
    pub(super) fn admit(&mut self, mut asked: Asked<L>) -> Option<Asked<L>> {
        let most = asked.tokens.len() + asked.how.max_new_tokens;
        let reserved: usize = self.rows.iter().map(|row| row.samples() * row.most).sum();
        let fit = |rows: usize, tokens: usize| rows.min(tokens / most);
        // One is taken in however long it is, when it is alone.
        let ever = fit(self.bounds.rows, self.bounds.tokens).max(1).min(asked.samples.len());
        let now = fit(self.bounds.rows.saturating_sub(self.answers()), self.bounds.tokens.saturating_sub(reserved));
        if now < ever && !self.rows.is_empty() {
            return Some(asked);
        }
        let rest = asked.samples.split_off(ever);
        let cache = asked.past.take().unwrap_or_else(|| Cache::new(self.model.config()));
        self.rows.push(Row {
            line: Arc::clone(&asked.line),
            serial: asked.serial,
            cut: asked.cut,
            fed: cache.tokens(),
            cache,
            waiting: asked.tokens.clone(),
            most,
            how: asked.how.clone(),
            stage: Stage::Prompt { samples: std::mem::replace(&mut asked.samples, rest) },
        });
        (!asked.samples.is_empty()).then_some(asked)
    }

    /// One pass: each row's next token, or a piece of its prompt; answers that are whole leave.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the model computes no numbers.
    pub(super) fn step(&mut self) -> Result<Vec<Answered<L>>> {
        let mut left = PASS.max(self.rows.len());
        let (mut pieces, mut taken) = (Vec::new(), Vec::with_capacity(self.rows.len()));
        for row in &mut self.rows {
            let end = row.waiting.len().min(row.fed + left);
            left -= end - row.fed;
            taken.push(end);
            if end > row.fed {
                let wanted = end == row.waiting.len();
                pieces.push(Piece { cache: &mut row.cache, tokens: &row.waiting[row.fed..end], wanted });
            }
        }
        let logits = self.model.forward(&mut pieces, &mut self.scratch)?;
        let mut logits = logits.chunks_exact(self.model.config().vocabulary);
        let mut done = Vec::new();
        for (mut row, end) in std::mem::take(&mut self.rows).into_iter().zip(taken) {
            let whole = end > row.fed && end == row.waiting.len();
            row.fed = end;
            if !whole {
                self.rows.push(row);
                continue;
            }
            let logits = logits.next().ok_or_else(|| Error::Bug("a row has no logits".to_owned()))?;
            for row in Self::branch(row) {
                self.advance(row, logits, &mut done)?;
            }
        }
        Ok(done)
    }

    /// A row for each sample of a prompt that is through, with the same past.
    fn branch(row: Row<L>) -> Vec<Row<L>> {
        let Stage::Prompt { samples } = &row.stage else { return vec![row] };
        let (sampling, last) = (row.how.sampling, samples.len().saturating_sub(1));
        let mut past = Some(row.cache);
        let branches = samples.iter().enumerate().filter_map(|(at, sample)| {
            let cache = if at == last { past.take() } else { past.clone() };
            Some(Row {
                line: Arc::clone(&row.line),
                cache: cache?,
                waiting: Vec::new(),
                fed: 0,
                stage: Stage::Answer {
                    sample: *sample,
                    sampler: Box::new(Sampler::new(sampling, row.line.id(), *sample)),
                    tokens: Vec::new(),
                },
                how: row.how.clone(),
                ..row
            })
        });
        branches.collect()
    }

    /// Draws a row's next token; the row stays, or its answer is whole.
    fn advance(&mut self, mut row: Row<L>, logits: &[f32], done: &mut Vec<Answered<L>>) -> Result<()> {
        let Stage::Answer { sample, sampler, tokens } = &mut row.stage else {
            return Err(Error::Bug("a prompt has no answer".to_owned()));
        };
        let (token, ended) = if let Some(held) = &mut row.how.held {
            let token = sampler.next_held(logits, held)?;
            tokens.push(token);
            (token, held.advance(token)?)
        } else {
            let token = sampler.next(logits)?;
            tokens.push(token);
            (token, self.stops.ended(self.chat, tokens)?)
        };
        if tokens.len() < row.how.max_new_tokens && !ended {
            (row.waiting, row.fed) = (vec![token], 0);
            self.rows.push(row);
            return Ok(());
        }
        let (sample, tokens) = (*sample, std::mem::take(tokens));
        done.push(Answered { line: row.line, serial: row.serial + sample as u64, sample, cut: row.cut, tokens, ended });
        Ok(())
    }
}
