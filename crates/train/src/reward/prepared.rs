//! The rows as the encoder sees them: tokens, which head they train, and which part of the split they are in.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uptake_tagger::Input;

use super::held_out::{HeldOut, Place, Rule};
use super::input::Template;
use super::model::{Head, Objective, Prior, TrainedOn, is_head_name};
use super::{Options, Source};
use crate::batches::Order;
use crate::data::Part;
use crate::error::{Error, Result};
use crate::rows::{Answers, Data, Message, Reading, Row};

/// What became of the rows of one data set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// The head that they train where they name no other.
    pub head: String,
    /// Name of the snapshot's table, or of the file.
    pub data: String,
    /// Id of the snapshot, or SHA-256 of the file.
    pub id: String,
    /// Rows read.
    pub read: u64,
    /// Rows trained on or measured on.
    pub used: u64,
    /// Of those, the start of the conversation was cut.
    pub prompts_cut: u64,
    /// Of those, the start of a response was cut.
    pub responses_cut: u64,
    /// Rows that cannot be used, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// What a row says, by positions of inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    Liked { response: usize, liked: bool },
    Better { better: usize, worse: usize, margin: f32 },
}

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) head: usize,
    pub(super) weight: f32,
    pub(super) said: Said,
    pub(super) source: String,
    pub(super) conversation: String,
    time: Option<i64>,
    published: Option<bool>,
}

impl Item {
    fn place(&self) -> Place<'_> {
        Place { conversation: &self.conversation, time: self.time, published: self.published }
    }
}

/// A response in tokens, and how many characters it has.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) input: Input,
    pub(super) length: usize,
}

/// All rows; the lists hold positions of items.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) responses: Vec<Response>,
    pub(super) items: Vec<Item>,
    pub(super) heads: Vec<Head>,
    pub(super) training: Vec<usize>,
    pub(super) validation: Vec<usize>,
    pub(super) test: Vec<usize>,
    pub(super) counts: Vec<RowCounts>,
    pub(super) held_out: HeldOut,
    /// By head: how often a positive comes in a pass.
    copies: Vec<f64>,
}

impl Prepared {
    pub(super) fn new(options: &Options, template: &Template) -> Result<Self> {
        let mut rows = Rows { options, template, prepared: Self::empty() };
        for source in &options.love {
            rows.read(source, "love", Objective::Rate)?;
        }
        for source in &options.pairs {
            rows.read(source, "preference", Objective::Preference)?;
        }
        let mut prepared = rows.prepared;
        prepared.split(options);
        prepared.check()?;
        prepared.weigh(options.positive_share)?;
        Ok(prepared)
    }

    const fn empty() -> Self {
        Self {
            responses: Vec::new(),
            items: Vec::new(),
            heads: Vec::new(),
            training: Vec::new(),
            validation: Vec::new(),
            test: Vec::new(),
            counts: Vec::new(),
            held_out: HeldOut {
                training: 0,
                validation: 0,
                published: 0,
                latest: 0,
                latest_since: None,
                by_conversation: 0,
            },
            copies: Vec::new(),
        }
    }

    fn split(&mut self, options: &Options) {
        let places: Vec<Place<'_>> = self.items.iter().map(Item::place).collect();
        let (parts, held_out) = Rule { split: options.split(), latest: options.latest }.parts(&places);
        self.held_out = held_out;
        for (index, part) in parts.into_iter().enumerate() {
            match part {
                Part::Training => self.training.push(index),
                Part::Validation => self.validation.push(index),
                Part::Test => self.test.push(index),
            }
        }
    }

    /// Rows left out, by reason, in words.
    fn dropped(&self) -> String {
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, count) in self.counts.iter().flat_map(|counts| &counts.dropped) {
            *reasons.entry(reason).or_default() += count;
        }
        let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") }
    }

    fn check(&self) -> Result<()> {
        if self.training.is_empty() || self.validation.is_empty() || self.test.is_empty() {
            return Err(Error::Invalid(format!(
                "{} rows in {} conversations are too few: training, validation and test need some each; dropped: {}",
                self.items.len(),
                self.held_out.training
                    + self.held_out.validation
                    + self.held_out.published
                    + self.held_out.latest
                    + self.held_out.by_conversation,
                self.dropped()
            )));
        }
        Ok(())
    }

    /// How often positives come in a pass, and the priors that follow from it.
    fn weigh(&mut self, target: f64) -> Result<()> {
        self.copies = vec![1.0; self.heads.len()];
        for head in 0..self.heads.len() {
            let (mut counts, mut weights) = ([0.0_f64; 2], [0.0_f64; 2]);
            for item in self.training.iter().map(|index| &self.items[*index]).filter(|item| item.head == head) {
                if let Said::Liked { liked, .. } = item.said {
                    counts[usize::from(liked)] += 1.0;
                    weights[usize::from(liked)] += f64::from(item.weight);
                }
            }
            let name = &self.heads[head].name;
            if self.heads[head].objective == Objective::Preference {
                if !self.training.iter().any(|index| self.items[*index].head == head) {
                    return Err(Error::Invalid(format!(
                        "head `{name}` has no pair to train on; dropped: {}",
                        self.dropped()
                    )));
                }
                continue;
            }
            let [negatives, positives] = counts;
            if negatives == 0.0 || positives == 0.0 {
                return Err(Error::Invalid(format!(
                    "head `{name}` has {positives} liked and {negatives} other responses to train on: it needs both; \
                     dropped: {}",
                    self.dropped()
                )));
            }
            let copies = (target * negatives / ((1.0 - target) * positives)).max(1.0);
            let seen = copies * weights[1];
            self.copies[head] = copies;
            self.heads[head].prior =
                Some(Prior { sampled: seen / (seen + weights[0]), actual: positives / (positives + negatives) });
        }
        Ok(())
    }

    /// The positions of a pass: positives as often as they count, which ones once more drawn anew in each pass.
    fn drawn(&self, seed: u64, epoch: usize) -> (Vec<usize>, Vec<usize>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream((1 << 62) + epoch as u64);
        let (mut liked, mut pairs) = (Vec::new(), Vec::new());
        for (head, copies) in self.copies.iter().enumerate() {
            let mut positives = Vec::new();
            for &index in self.training.iter().filter(|index| self.items[**index].head == head) {
                match self.items[index].said {
                    Said::Better { .. } => pairs.push(index),
                    Said::Liked { liked: true, .. } => positives.push(index),
                    Said::Liked { .. } => liked.push(index),
                }
            }
            positives.shuffle(&mut random);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at least the count of positives"
            )]
            let count = (copies * positives.len() as f64).round() as usize;
            liked.extend(positives.iter().cycle().take(count));
        }
        (liked, pairs)
    }

    /// The batches of a pass: each of pairs alone, or of single responses alone.
    pub(super) fn batches(&self, options: &Options, epoch: usize) -> Vec<Vec<usize>> {
        let (liked, pairs) = self.drawn(options.seed, epoch);
        let order = |tokens: usize| Order { seed: options.seed, epoch, examples: options.batch, tokens };
        let length = |index: usize| match self.items[index].said {
            Said::Liked { response, .. } => self.tokens(response),
            Said::Better { better, worse, .. } => self.tokens(better).max(self.tokens(worse)),
        };
        let mut batches = order(options.batch_tokens).batches(&liked, length);
        batches.extend(order(options.batch_tokens / 2).batches(&pairs, length));
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream((1 << 61) + epoch as u64);
        batches.shuffle(&mut random);
        batches
    }

    fn tokens(&self, response: usize) -> usize {
        self.responses[response].input.tokens.len()
    }

    /// What tells these rows from others: tokens, labels, weights and parts.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for response in &self.responses {
            hash.update((response.input.tokens.len() as u64).to_le_bytes());
            hash.update((response.input.first_segment as u64).to_le_bytes());
            for token in &response.input.tokens {
                hash.update(token.to_le_bytes());
            }
        }
        for item in &self.items {
            let said = match item.said {
                Said::Liked { response, liked } => (response, usize::from(liked), 0.0),
                Said::Better { better, worse, margin } => (better, worse, margin),
            };
            hash.update(format!("{} {} {said:?} {}\n", item.head, item.weight, item.source));
        }
        hash.update(format!("{:?} {:?} {:?}", self.training, self.validation, self.test));
        format!("{:x}", hash.finalize())
    }

    /// For `reward.json`.
    pub(super) fn trained_on(&self) -> Vec<TrainedOn> {
        let of = |counts: &RowCounts| TrainedOn {
            head: counts.head.clone(),
            data: counts.data.clone(),
            id: counts.id.clone(),
            rows: counts.used,
        };
        self.counts.iter().map(of).collect()
    }
}

/// Rows on their way in.
struct Rows<'a> {
    options: &'a Options,
    template: &'a Template,
    prepared: Prepared,
}

impl Rows<'_> {
    fn read(&mut self, source: &Source, usual: &str, objective: Objective) -> Result<()> {
        let data = Data::read(&source.path, Reading::Reward)?;
        let head = source.head.clone().unwrap_or_else(|| usual.to_owned());
        let published = data.rows.iter().any(|row| row.about.held_out);
        let mut counts = RowCounts {
            head: head.clone(),
            data: data.name,
            id: data.id,
            read: data.read,
            dropped: data.dropped,
            ..RowCounts::default()
        };
        for row in &data.rows {
            let head = self.head(row.about.head.as_deref().unwrap_or(&head), objective)?;
            match self.row(row, head, objective, published.then_some(row.about.held_out))? {
                Ok((item, [prompt_cut, response_cut])) => {
                    counts.used += 1;
                    counts.prompts_cut += u64::from(prompt_cut);
                    counts.responses_cut += u64::from(response_cut);
                    self.prepared.items.push(item);
                }
                Err(reason) => *counts.dropped.entry(reason).or_default() += 1,
            }
        }
        self.prepared.counts.push(counts);
        Ok(())
    }

    fn head(&mut self, name: &str, objective: Objective) -> Result<usize> {
        let heads = &mut self.prepared.heads;
        let place = heads.iter().position(|head| head.name == name);
        if !is_head_name(name) {
            return Err(Error::Invalid(format!(
                "a head is called `{name}`: its name has small letters, digits, dashes and underscores only"
            )));
        }
        let Some(place) = place else {
            heads.push(Head { name: name.to_owned(), objective, prior: None });
            return Ok(heads.len() - 1);
        };
        if heads[place].objective != objective {
            return Err(Error::Invalid(format!(
                "head `{name}` is named by pairs and by single responses: give them a head each"
            )));
        }
        Ok(place)
    }

    /// The item of a row and whether its conversation and its response were cut, or why it cannot be used.
    fn row(
        &mut self,
        row: &Row,
        head: usize,
        objective: Objective,
        published: Option<bool>,
    ) -> Result<Result<(Item, [bool; 2]), &'static str>> {
        let strength = row.about.strength;
        let weight = row.about.weight.or(strength).unwrap_or(1.0);
        if weight <= 0.0 {
            return Ok(Err("no_weight"));
        }
        let mut cut = [false; 2];
        let said = match (&row.answers, objective) {
            (Answers::Labelled { answer, liked }, Objective::Rate) => {
                match self.response(&row.prompt, answer, &mut cut)? {
                    Some(response) => Said::Liked { response, liked: *liked },
                    None => return Ok(Err("empty_answer")),
                }
            }
            (Answers::Pair { chosen, rejected }, Objective::Preference) => {
                let better = self.response(&row.prompt, chosen, &mut cut)?;
                let worse = self.response(&row.prompt, rejected, &mut cut)?;
                match better.zip(worse) {
                    Some((better, worse)) if self.same(better, worse) => return Ok(Err("same_answers")),
                    Some((better, worse)) => {
                        let margin = self.options.margin * strength.unwrap_or(0.0);
                        Said::Better { better, worse, margin }
                    }
                    None => return Ok(Err("empty_answer")),
                }
            }
            (_, Objective::Rate) => return Ok(Err("no_label")),
            (_, Objective::Preference) => return Ok(Err("no_pair")),
        };
        let item = Item {
            head,
            weight,
            said,
            source: row.about.source.clone().unwrap_or_default(),
            conversation: conversation(row),
            time: row.about.time,
            published,
        };
        Ok(Ok((item, cut)))
    }

    fn response(&mut self, prompt: &[Message], answer: &Message, cut: &mut [bool; 2]) -> Result<Option<usize>> {
        let Some(encoded) = self.template.encode(prompt, &answer.content)? else { return Ok(None) };
        cut[0] |= encoded.prompt_cut;
        cut[1] |= encoded.response_cut;
        let length = answer.content.trim().chars().count();
        self.prepared.responses.push(Response { input: encoded.input, length });
        Ok(Some(self.prepared.responses.len() - 1))
    }

    /// Whether two responses look the same to the encoder.
    fn same(&self, one: usize, other: usize) -> bool {
        self.prepared.responses[one].input == self.prepared.responses[other].input
    }
}

/// What keeps rows together: the conversation that they name, else its first message, which all of its turns share.
fn conversation(row: &Row) -> String {
    if let Some(name) = &row.about.conversation {
        return name.clone();
    }
    let first = row.prompt.first().map_or("", |message| message.content.trim());
    format!("{:x}", Sha256::digest(first.as_bytes()))
}
