//! What a policy learnt, on pairs that it was not trained on.
//!
//! The figures of the training rows say that a loss was minimised. These say whether preferences were learnt: how often
//! the better answer has the larger implicit reward `β (log π − log π_ref)` (TRL's `eval_rewards/accuracies`), by what margin,
//! and how often it is the likelier answer, before and after.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Serialize;

use super::batches::{Item, MicroBatch, Preparation};
use super::loss::Method;
use super::run::score;
use super::{DataReport, Event, Options};
use crate::decoder::{Decoder, Weights};
use crate::error::{Error, Result};
use crate::metrics::Estimate;
use crate::rows::{Data, Reading};

/// Resamples of each interval.
const RESAMPLES: usize = 1_000;
/// Of methods that have none, to scale the margins as DPO's default does.
const BETA: f64 = 0.1;

/// How the better answers of held-out pairs fare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// The pairs.
    pub data: DataReport,
    /// Pairs that were measured.
    pub pairs: usize,
    /// Rows that were not, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Share of pairs whose chosen answer has the larger implicit reward; one half before training, by definition.
    #[serde(rename = "rewards/accuracies")]
    pub accuracy: Estimate,
    /// Mean difference of the implicit rewards.
    #[serde(rename = "rewards/margins")]
    pub margin: Estimate,
    /// What the base model finds likelier.
    pub before: Likelier,
    /// What the trained model finds likelier.
    pub after: Likelier,
    /// Share of pairs whose chosen answer is the longer one in tokens: what a rule without a model would reach.
    pub longer_wins: f64,
}

/// How often the chosen answer is the likelier one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Likelier {
    /// As a whole: the shorter answer is at an advantage.
    pub whole: Estimate,
    /// Per token.
    pub per_token: Estimate,
}

/// Pairs with what the base model says of them.
#[derive(Debug)]
pub(super) struct Pairs {
    data: DataReport,
    dropped: BTreeMap<&'static str, u64>,
    batches: Vec<MicroBatch>,
    /// Places of the pairs of each conversation.
    conversations: Vec<Vec<usize>>,
}

impl Pairs {
    /// The held-out pairs of a run: of the file or snapshot that the options name, else the test part of the snapshot that
    /// is trained on. Nothing where there is none. Pairs whose prompt is trained on are left out and counted.
    pub(super) fn read(options: &Options, preparation: &Preparation<'_>, trained: &[Item]) -> Result<Option<Self>> {
        let path: &Path = match &options.held_out {
            Some(path) => path,
            None if options.data.is_dir() => &options.data,
            None => return Ok(None),
        };
        let data = Data::read(path, if path.is_dir() { Reading::HeldOut } else { Reading::Policy })?;
        let preparation = Preparation { method: Method::Dpo { beta: BETA }, ..*preparation };
        let seen: HashSet<&[u32]> = trained
            .iter()
            .flat_map(|item| &item.sequences)
            .map(|sequence| &sequence.tokens[..sequence.prompt])
            .collect();
        let mut dropped = data.dropped.clone();
        let mut items: Vec<Item> = Vec::new();
        let mut conversations: HashMap<String, Vec<usize>> = HashMap::new();
        for row in &data.rows {
            let made = match preparation.row(row) {
                Ok(made) => made,
                Err(reason) => {
                    *dropped.entry(reason).or_default() += 1;
                    continue;
                }
            };
            for (item, _) in made {
                let known = item.sequences.iter().any(|sequence| seen.contains(&sequence.tokens[..sequence.prompt]));
                if known {
                    *dropped.entry("prompt_is_trained_on").or_default() += 1;
                    continue;
                }
                // Rows that name no conversation are one each.
                let conversation = row.about.conversation.clone().unwrap_or_else(|| format!("\u{0}{}", items.len()));
                conversations.entry(conversation).or_default().push(items.len());
                items.push(item);
            }
        }
        if items.is_empty() {
            if options.held_out.is_some() {
                return Err(Error::Invalid(format!(
                    "`{}` holds no pair that can be measured: {dropped:?}",
                    path.display()
                )));
            }
            return Ok(None);
        }
        let batches = items.chunks(options.batch);
        let batches = batches.map(|items| MicroBatch::new(items, preparation.method, options.max_length)).collect();
        let mut conversations: Vec<Vec<usize>> = conversations.into_values().collect();
        conversations.sort_unstable();
        Ok(Some(Self { data: DataReport { name: data.name, id: data.id }, dropped, batches, conversations }))
    }

    /// Asks both models.
    pub(super) fn measure(
        self,
        options: &Options,
        decoder: &Decoder,
        tell: &mut dyn FnMut(&Event<'_>),
    ) -> Result<HeldOut> {
        let mut pairs = Vec::new();
        for (done, batch) in self.batches.iter().enumerate() {
            let base = score(decoder, &batch.sequences, Weights::Base)?;
            let policy = score(decoder, &batch.sequences, Weights::Adapted)?;
            let answers = batch.sequences.iter().zip(base.into_iter().zip(policy));
            let answers: Vec<Answer> = answers
                .map(|(sequence, (base, policy))| Answer {
                    base: base.into(),
                    policy: policy.into(),
                    tokens: sequence.answer().len() as f64,
                })
                .collect();
            pairs.extend(answers.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            tell(&Event::HeldOut { done: done + 1, total: self.batches.len() });
        }
        let beta = match options.method {
            Method::Sft => BETA,
            Method::Dpo { beta } | Method::Kto { beta, .. } => beta,
        };
        let mean = |value: &dyn Fn(&(Answer, Answer)) -> f64| {
            let of = |drawn: &[(Answer, Answer)]| {
                (!drawn.is_empty()).then(|| drawn.iter().map(value).sum::<f64>() / drawn.len() as f64)
            };
            Estimate::bootstrap(&pairs, &self.conversations, RESAMPLES, options.seed, of)
                .ok_or_else(|| Error::Bug("held-out pairs without a mean".to_owned()))
        };
        let reward = |answer: &Answer| beta * (answer.policy - answer.base);
        let likelier = |of: fn(&Answer) -> f64| -> Result<Likelier> {
            Ok(Likelier {
                whole: mean(&|(chosen, rejected)| wins(of(chosen), of(rejected)))?,
                per_token: mean(&|(chosen, rejected)| {
                    wins(of(chosen) / chosen.tokens, of(rejected) / rejected.tokens)
                })?,
            })
        };
        Ok(HeldOut {
            data: self.data,
            pairs: pairs.len(),
            dropped: self.dropped,
            accuracy: mean(&|(chosen, rejected)| wins(reward(chosen), reward(rejected)))?,
            margin: mean(&|(chosen, rejected)| reward(chosen) - reward(rejected))?,
            before: likelier(|answer| answer.base)?,
            after: likelier(|answer| answer.policy)?,
            longer_wins: mean(&|(chosen, rejected)| wins(chosen.tokens, rejected.tokens))?.value,
        })
    }
}

/// Log-probabilities of an answer under both models, and its length.
#[derive(Clone, Copy, Debug)]
struct Answer {
    base: f64,
    policy: f64,
    tokens: f64,
}

/// 1 where the first is larger, a half where both are the same.
fn wins(one: f64, other: f64) -> f64 {
    if one > other { 1.0 } else { f64::from(u8::from(one >= other)) / 2.0 }
}
