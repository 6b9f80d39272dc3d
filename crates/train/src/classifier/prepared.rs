//! The data as the encoder sees them: tokens, and which part of the split each example is in.

use sha2::{Digest, Sha256};
use uptake_model::labels::{DSAT, OUTPUTS, SAT};
use uptake_tagger::{Input, Template};

use super::Options;
use crate::batches;
use crate::data::{self, Example, Part, Split};
use crate::error::{Error, Result};

/// Examples and their inputs; the lists hold their positions.
pub(super) struct Prepared {
    pub(super) examples: Vec<Example>,
    pub(super) inputs: Vec<Input>,
    pub(super) training: Vec<usize>,
    pub(super) validation: Vec<usize>,
    pub(super) test: Vec<usize>,
    pub(super) empty: usize,
    /// Weak evidence to train on, by file: where `dsat` holds, where `sat` does, where neither does.
    weak_training: Vec<[Vec<usize>; 3]>,
    weak_validation: Vec<usize>,
    pub(super) weak_test: Vec<usize>,
    /// Conversations of weak evidence that are known under the name that labelled examples of them have.
    pub(super) bound: usize,
    /// Judgements that say nothing about a follow-up.
    pub(super) passed_over: usize,
}

impl Prepared {
    pub(super) fn new(options: &Options, template: &Template) -> Result<Self> {
        let split = options.split();
        let labelled = data::read(&options.data)?;
        let mut weak = data::read_weak(&options.weak)?;
        let mut prepared = Self {
            examples: Vec::new(),
            inputs: Vec::new(),
            training: Vec::new(),
            validation: Vec::new(),
            test: Vec::new(),
            empty: 0,
            weak_training: vec![[const { Vec::new() }; 3]; options.weak.len()],
            weak_validation: Vec::new(),
            weak_test: Vec::new(),
            bound: data::bind(&labelled, &mut weak, split),
            passed_over: weak.iter().map(|conversation| conversation.passed_over).sum(),
        };
        for example in labelled {
            prepared.push(template, split, example, None)?;
        }
        for conversation in weak {
            for example in conversation.examples {
                prepared.push(template, split, example, Some(conversation.file))?;
            }
        }
        if prepared.training.is_empty() || prepared.validation.is_empty() || prepared.test.is_empty() {
            let labelled = prepared.training.len() + prepared.validation.len() + prepared.test.len();
            return Err(Error::Invalid(format!(
                "{labelled} examples are too few: training, validation and test need some each",
            )));
        }
        Ok(prepared)
    }

    fn push(&mut self, template: &Template, split: Split, example: Example, weak: Option<usize>) -> Result<()> {
        let Some(input) = template.encode(&example.exchange())? else {
            self.empty += 1;
            return Ok(());
        };
        let outcome = [DSAT, SAT].iter().position(|side| example.targets[*side] >= 0.5).unwrap_or(2);
        let part = match (split.part(&example.conversation_id), weak) {
            (Part::Training, None) => &mut self.training,
            (Part::Validation, None) => &mut self.validation,
            (Part::Test, None) => &mut self.test,
            // What says nothing that may be trained on is not drawn.
            (Part::Training, Some(_)) if example.weights.iter().all(|weight| *weight <= 0.0) => return Ok(()),
            (Part::Training, Some(file)) => &mut self.weak_training[file][outcome],
            (Part::Validation, Some(_)) => &mut self.weak_validation,
            (Part::Test, Some(_)) => &mut self.weak_test,
        };
        part.push(self.inputs.len());
        self.examples.push(example);
        self.inputs.push(input);
        Ok(())
    }

    /// Hash of all that training depends on: other rows, other labels or another split are another run.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (example, input) in self.examples.iter().zip(&self.inputs) {
            hash.update((input.first_segment as u64).to_le_bytes());
            hash.update((input.tokens.len() as u64).to_le_bytes());
            for token in &input.tokens {
                hash.update(token.to_le_bytes());
            }
            for number in example.targets.iter().chain(&example.weights) {
                hash.update(number.to_le_bytes());
            }
        }
        let places: Vec<&Vec<usize>> =
            [&self.training, &self.validation].into_iter().chain(self.weak_training.iter().flatten()).collect();
        for place in places {
            hash.update((place.len() as u64).to_le_bytes());
            for index in place {
                hash.update((*index as u64).to_le_bytes());
            }
        }
        format!("{:x}", hash.finalize())
    }

    /// Rows of weak evidence to train on, to validate with, to test on.
    pub(super) fn weak_parts(&self) -> [usize; 3] {
        let training = self.weak_training.iter().flatten().map(Vec::len).sum();
        [training, self.weak_validation.len(), self.weak_test.len()]
    }

    /// What a pass trains on: all labelled examples, and its own draw of the weak ones.
    pub(super) fn drawn(&self, options: &Options, epoch: usize) -> Vec<usize> {
        let mut drawn = self.training.clone();
        for (file, classes) in self.weak_training.iter().enumerate() {
            drawn.extend(batches::draw(classes, options.weak_rows, options.seed, epoch, file));
        }
        drawn
    }

    /// Targets and weights of examples; those of `sat` and `dsat` are multiplied by `side_weight`.
    pub(super) fn targets(&self, indexes: &[usize], side_weight: f32) -> (Vec<&[f32; OUTPUTS]>, Vec<[f32; OUTPUTS]>) {
        let one = |index: &usize| {
            let example = &self.examples[*index];
            let mut weights = example.weights;
            for side in [SAT, DSAT] {
                weights[side] *= side_weight;
            }
            (&example.targets, weights)
        };
        indexes.iter().map(one).unzip()
    }

    pub(super) fn examples(&self, indexes: &[usize]) -> Vec<&Example> {
        indexes.iter().map(|index| &self.examples[*index]).collect()
    }

    pub(super) fn inputs(&self, indexes: &[usize]) -> Vec<&Input> {
        indexes.iter().map(|index| &self.inputs[*index]).collect()
    }
}
