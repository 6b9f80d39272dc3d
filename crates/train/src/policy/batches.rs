//! From rows to micro-batches of token sequences.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::chat::{Chat, Sequence};
use super::loss::Method;
use crate::rows::{Answers, Data, Message, Row};

/// What of a sequence stays that is longer than the limit, as TRL names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The end of the answer is cut off.
    #[default]
    KeepStart,
    /// The start of the prompt is cut off.
    KeepEnd,
}

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// Rows that the data hold.
    pub read: u64,
    /// Rows that are trained on.
    pub used: u64,
    /// Of those: rows of which something was cut off.
    pub truncated: u64,
    /// Rows left out, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Answers that are to become likelier, and those that are to become less likely.
    pub liked: u64,
    /// See `liked`.
    pub disliked: u64,
    /// Tokens of the used rows, prompts counted with each answer.
    pub tokens: u64,
    /// Tokens of the answers among them.
    pub answer_tokens: u64,
    /// Longest sequence in tokens, after truncation.
    pub longest: usize,
}

/// The sequences of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) sequences: Vec<Sequence>,
    /// Whether each answer is liked.
    pub(crate) liked: Vec<bool>,
}

/// Rows of which losses and gradients are computed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MicroBatch {
    pub(crate) sequences: Vec<Sequence>,
    /// Whether each answer is liked; of pairs, chosen and rejected take turns.
    pub(crate) liked: Vec<bool>,
    /// KTO: each prompt with the answer of the row before it.
    pub(crate) mismatched: Vec<Sequence>,
}

impl MicroBatch {
    pub(crate) fn new(items: &[Item], method: Method, limit: usize) -> Self {
        let mut batch = Self { sequences: Vec::new(), liked: Vec::new(), mismatched: Vec::new() };
        for item in items {
            batch.sequences.extend_from_slice(&item.sequences);
            batch.liked.extend_from_slice(&item.liked);
        }
        if matches!(method, Method::Kto { .. }) {
            let others = batch.sequences.iter().cycle().skip(batch.sequences.len() - 1);
            let mismatched = batch.sequences.iter().zip(others).map(|(own, other)| {
                let mut tokens = own.tokens[..own.prompt].to_vec();
                tokens.extend_from_slice(other.answer());
                tokens.truncate(limit.max(own.prompt + 1));
                Sequence { tokens, prompt: own.prompt }
            });
            batch.mismatched = mismatched.collect();
        }
        batch
    }

    /// Tokens that are learnt from.
    pub(crate) fn answer_tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.answer().len()).sum()
    }

    /// Tokens that pass through the model.
    pub(crate) fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }
}

/// Cuts a sequence to `limit`; whether something was cut, or nothing where no answer is left.
fn cut(mut sequence: Sequence, limit: usize, truncation: Truncation) -> Option<(Sequence, bool)> {
    let over = sequence.tokens.len().saturating_sub(limit);
    if over == 0 {
        return Some((sequence, false));
    }
    match truncation {
        Truncation::KeepStart => sequence.tokens.truncate(limit),
        Truncation::KeepEnd => {
            let _ = sequence.tokens.drain(..over);
            // The first token that is left has none before it to follow from.
            sequence.prompt = sequence.prompt.saturating_sub(over).max(1);
        }
    }
    (sequence.prompt < sequence.tokens.len()).then_some((sequence, true))
}

/// Turns rows into sequences and counts what became of them.
pub(crate) struct Preparation<'a> {
    pub(crate) chat: &'a Chat,
    pub(crate) method: Method,
    pub(crate) limit: usize,
    pub(crate) truncation: Truncation,
}

impl Preparation<'_> {
    /// The items of all rows that can be used.
    pub(crate) fn items(&self, data: &Data) -> (Vec<Item>, RowCounts) {
        let mut counts = RowCounts { read: data.read, dropped: data.dropped.clone(), ..RowCounts::default() };
        let mut items = Vec::new();
        for row in &data.rows {
            match self.row(row) {
                Ok(made) => {
                    counts.used += 1;
                    counts.truncated += u64::from(made.iter().any(|(_, truncated)| *truncated));
                    for liked in made.iter().flat_map(|(item, _)| &item.liked) {
                        *(if *liked { &mut counts.liked } else { &mut counts.disliked }) += 1;
                    }
                    for sequence in made.iter().flat_map(|(item, _)| &item.sequences) {
                        counts.tokens += sequence.tokens.len() as u64;
                        counts.answer_tokens += sequence.answer().len() as u64;
                        counts.longest = counts.longest.max(sequence.tokens.len());
                    }
                    items.extend(made.into_iter().map(|(item, _)| item));
                }
                Err(reason) => *counts.dropped.entry(reason).or_default() += 1,
            }
        }
        (items, counts)
    }

    /// The items of one row, and whether something was cut off each; or why there is none.
    pub(crate) fn row(&self, row: &Row) -> Result<Vec<(Item, bool)>, &'static str> {
        let one = |answer: &Message, liked: bool| -> Result<(Item, bool), &'static str> {
            let (sequence, truncated) = self.sequence(&row.prompt, answer)?;
            Ok((Item { sequences: vec![sequence], liked: vec![liked] }, truncated))
        };
        match (&row.answers, self.method) {
            (Answers::Pair { chosen, rejected }, Method::Dpo { .. }) => {
                let (chosen, chosen_cut) = self.sequence(&row.prompt, chosen)?;
                let (rejected, rejected_cut) = self.sequence(&row.prompt, rejected)?;
                if chosen == rejected {
                    return Err("same_answers");
                }
                let item = Item { sequences: vec![chosen, rejected], liked: vec![true, false] };
                Ok(vec![(item, chosen_cut || rejected_cut)])
            }
            (Answers::Pair { chosen, rejected }, Method::Kto { .. }) => {
                Ok(vec![one(chosen, true)?, one(rejected, false)?])
            }
            (
                Answers::Pair { chosen: answer, .. }
                | Answers::Supervised { answer }
                | Answers::Labelled { answer, liked: true },
                Method::Sft,
            ) => Ok(vec![one(answer, true)?]),
            (Answers::Labelled { .. }, Method::Sft) => Err("not_liked"),
            (Answers::Labelled { answer, liked }, Method::Kto { .. }) => Ok(vec![one(answer, *liked)?]),
            (Answers::Labelled { .. } | Answers::Supervised { .. }, Method::Dpo { .. }) => Err("no_pair"),
            (Answers::Supervised { .. }, Method::Kto { .. }) => Err("no_label"),
        }
    }

    fn sequence(&self, prompt: &[Message], answer: &Message) -> Result<(Sequence, bool), &'static str> {
        cut(self.chat.sequence(prompt, answer)?, self.limit, self.truncation).ok_or("prompt_too_long")
    }
}

/// Which micro-batches make up each step. They are put together once, so that what the reference says of them holds for
/// every pass; their order differs from pass to pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) seed: u64,
    /// Micro-batches of a step.
    pub(crate) accumulate: usize,
}

impl Order {
    /// Puts items together, `size` rows each; the last micro-batch may be smaller.
    pub(crate) fn batches(&self, mut items: Vec<Item>, size: usize, method: Method, limit: usize) -> Vec<MicroBatch> {
        items.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        let mut groups: Vec<&[Item]> = items.chunks(size).collect();
        // A row alone has no other row's answer to be mismatched with.
        if matches!(method, Method::Kto { .. }) && groups.len() > 1 && groups.last().is_some_and(|last| last.len() == 1)
        {
            let _ = groups.pop();
            let _ = groups.pop();
            groups.push(&items[groups.len() * size..]);
        }
        groups.into_iter().map(|items| MicroBatch::new(items, method, limit)).collect()
    }

    pub(crate) fn steps_per_epoch(&self, batches: usize) -> usize {
        batches.div_ceil(self.accumulate)
    }

    /// The micro-batches of a pass, in its order.
    pub(crate) fn pass(&self, epoch: usize, batches: usize) -> Vec<usize> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(1 + epoch as u64);
        let mut order: Vec<usize> = (0..batches).collect();
        order.shuffle(&mut random);
        order
    }

    /// The micro-batches of a step, counted from 0 over all passes.
    pub(crate) fn step(&self, step: usize, batches: usize) -> Vec<usize> {
        let steps = self.steps_per_epoch(batches);
        let order = self.pass(step / steps, batches).into_iter();
        order.skip(step % steps * self.accumulate).take(self.accumulate).collect()
    }
}

/// Names the micro-batches by all that is in them.
pub(crate) fn hash(batches: &[MicroBatch]) -> String {
    let mut hash = Sha256::new();
    for batch in batches {
        for sequence in batch.sequences.iter().chain(&batch.mismatched) {
            hash.update((sequence.tokens.len() as u64).to_le_bytes());
            hash.update((sequence.prompt as u64).to_le_bytes());
            for token in &sequence.tokens {
                hash.update(token.to_le_bytes());
            }
        }
        hash.update((batch.liked.len() as u64).to_le_bytes());
        hash.update(batch.liked.iter().map(|liked| u8::from(*liked)).collect::<Vec<_>>());
    }
    format!("{:x}", hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(prompt: usize, answer: usize) -> Sequence {
        Sequence { tokens: (0_u32..).take(prompt + answer).collect(), prompt }
    }

    fn item(number: u32) -> Item {
        Item {
            sequences: vec![Sequence { tokens: vec![number, 100 + number, 200 + number], prompt: 1 }],
            liked: vec![true],
        }
    }

    const KTO: Method = Method::Kto { beta: 0.1, desirable: 1.0, undesirable: 1.0 };

    #[test]
    fn cutting_keeps_an_answer_or_nothing() {
        let start = |sequence, limit| cut(sequence, limit, Truncation::KeepStart);
        let end = |sequence, limit| cut(sequence, limit, Truncation::KeepEnd);
        assert_eq!(start(sequence(3, 2), 5), Some((sequence(3, 2), false)));
        assert_eq!(start(sequence(3, 5), 5), Some((sequence(3, 2), true)));
        assert_eq!(start(sequence(5, 5), 5), None);
        let (cut, truncated) = end(sequence(5, 3), 5).unwrap();
        assert_eq!((cut.tokens, cut.prompt, truncated), (vec![3, 4, 5, 6, 7], 2, true));
        let (cut, _) = end(sequence(2, 9), 5).unwrap();
        assert_eq!((cut.tokens.len(), cut.prompt), (5, 1));
    }

    #[test]
    fn every_row_is_in_every_pass_once_and_passes_differ() {
        let order = Order { seed: 7, accumulate: 2 };
        let batches = order.batches((0..11).map(item).collect(), 2, Method::Sft, 100);
        assert_eq!((batches.len(), order.steps_per_epoch(batches.len())), (6, 3));
        let pass = |epoch: usize| (0..3).flat_map(|step| order.step(epoch * 3 + step, 6)).collect::<Vec<_>>();
        for epoch in 0..3 {
            let mut seen = pass(epoch);
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        }
        assert_ne!(pass(0), pass(1));
        let mut rows: Vec<u32> = batches.iter().flat_map(|batch| &batch.sequences).map(|row| row.tokens[0]).collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..11).collect::<Vec<_>>());
    }

    #[test]
    fn mismatched_answers_are_those_of_the_row_before() {
        let items: Vec<Item> = (0..3).map(item).collect();
        let batch = MicroBatch::new(&items, KTO, 100);
        let tokens: Vec<&[u32]> = batch.mismatched.iter().map(|row| row.tokens.as_slice()).collect();
        assert_eq!(tokens, [[0, 102, 202], [1, 100, 200], [2, 101, 201]]);
        assert!(MicroBatch::new(&items, Method::Sft, 100).mismatched.is_empty());
    }

    #[test]
    fn no_row_is_left_alone_with_itself() {
        let order = Order { seed: 7, accumulate: 1 };
        let sizes = |rows: u32| -> Vec<usize> {
            let batches = order.batches((0..rows).map(item).collect(), 2, KTO, 100);
            batches.iter().map(|batch| batch.sequences.len()).collect()
        };
        assert_eq!((sizes(5), sizes(4), sizes(1)), (vec![2, 3], vec![2, 2], vec![1]));
    }
}
