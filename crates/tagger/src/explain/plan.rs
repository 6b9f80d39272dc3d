//! What is left out of one exchange: pure decisions, which the tagger carries out.

use std::ops::Range;

use uptake_model::labels::OUTPUTS;
use uptake_model::words;

use super::{Explanation, Part, Piece, Reach, Related, Wanted};
use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::input::{Input, Origin, TracedInput};
use crate::scores::Scores;
use crate::tagger::Tagger;

/// Change of log-odds below which the words of a sentence are not looked at, but for those of the follow-up.
const FAINT: f32 = 0.1;

/// The least that can be left out: a word, or several where the model reads them as one.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    part: Part,
    span: Range<usize>,
    /// Places of its tokens in the input, ascending.
    tokens: Vec<usize>,
}

/// What is left out of one exchange, and what came of it so far.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) logits: [f32; OUTPUTS],
    traced: Option<TracedInput>,
    units: Vec<Unit>,
    /// Sentences as units that follow each other.
    sentences: Vec<Range<usize>>,
    /// Words that are taken together, as units that follow each other.
    groups: Vec<Range<usize>>,
    /// Texts that some of them are of.
    opened: Vec<Part>,
    explanation: Explanation,
}

impl Plan {
    /// Nothing to explain.
    pub(super) fn nothing(reach: &Reach) -> Self {
        let outputs = match &reach.wanted {
            Wanted::Firing => Vec::new(),
            Wanted::Outputs(outputs) => outputs.clone(),
        };
        Self {
            logits: [0.0; OUTPUTS],
            traced: None,
            units: Vec::new(),
            sentences: Vec::new(),
            groups: Vec::new(),
            opened: Vec::new(),
            explanation: Explanation {
                scores: Scores::NONE,
                outputs,
                words: Vec::new(),
                sentences: Vec::new(),
                relations: Vec::new(),
                unread: Vec::new(),
                passes: 0,
            },
        }
    }

    /// For an exchange of which the tagger says `logits`.
    pub(super) fn new(tagger: &Tagger, exchange: &Exchange<'_>, logits: [f32; OUTPUTS], reach: &Reach) -> Result<Self> {
        let scores = tagger.calibrate(&logits);
        let mut outputs = match &reach.wanted {
            Wanted::Firing => (0..OUTPUTS).filter(|output| scores.fires_output(*output)).collect(),
            Wanted::Outputs(outputs) => outputs.clone(),
        };
        let probability = |output: &usize| scores.probabilities().get(*output).copied().unwrap_or_default();
        outputs.sort_by(|left, right| probability(right).total_cmp(&probability(left)));
        let mut plan = Self::nothing(reach);
        plan.logits = logits;
        plan.explanation = Explanation { scores, outputs, passes: 1, ..plan.explanation };
        if plan.explanation.outputs.is_empty() {
            return Ok(plan);
        }
        let traced = tagger.template().encode_traced(exchange)?.ok_or(Error::Bug("an input was lost"))?;
        for part in Part::ALL {
            let text = part.of(exchange);
            let (units, unread) = units(part, text, &traced.origins);
            let sentences = sentences(&units, text, plan.units.len());
            plan.units.extend(units);
            plan.sentences.extend(sentences);
            plan.explanation.unread.extend(unread.into_iter().map(|span| (part, span)));
        }
        plan.merge_sentences(reach.passes / 4);
        plan.traced = Some(traced);
        Ok(plan)
    }

    pub(super) fn outputs(&self) -> &[usize] {
        &self.explanation.outputs
    }

    /// Halves the sentences, joining neighbours, until there are few enough or one for each text.
    fn merge_sentences(&mut self, most: usize) {
        while self.sentences.len() > most {
            let mut merged: Vec<Range<usize>> = Vec::new();
            let mut joined = true;
            for sentence in &self.sentences {
                match merged.last_mut() {
                    Some(last) if !joined && self.units[last.start].part == self.units[sentence.start].part => {
                        last.end = sentence.end;
                        joined = true;
                    }
                    _ => {
                        merged.push(sentence.clone());
                        joined = false;
                    }
                }
            }
            if merged.len() == self.sentences.len() {
                return;
            }
            self.sentences = merged;
        }
    }

    /// The inputs of the first round: without each relation, then without each sentence.
    pub(super) fn without_sentences(&self) -> Vec<Input> {
        let Some(traced) = &self.traced else { return Vec::new() };
        let relations = traced.relations.iter().map(|(_, _, input)| input.clone());
        relations.chain(self.sentences.iter().map(|units| self.without(traced, units))).collect()
    }

    /// The inputs of the second round: without each text that was opened; then, for each group of words, without it, and with
    /// nothing but it of its text.
    pub(super) fn without_words(&self) -> Vec<Input> {
        let Some(traced) = &self.traced else { return Vec::new() };
        let nothing_of = |part: &Part| self.without(traced, &self.of_part(*part));
        let mut inputs: Vec<Input> = self.opened.iter().map(nothing_of).collect();
        for group in &self.groups {
            let text = self.of_part(self.units[group.start].part);
            let rest = self.places(text.start..group.start).chain(self.places(group.end..text.end));
            inputs.push(self.without(traced, group));
            inputs.push(traced.without(&rest.collect::<Vec<_>>()));
        }
        inputs
    }

    /// The units of a text.
    fn of_part(&self, part: Part) -> Range<usize> {
        let start = self.units.partition_point(|unit| unit.part < part);
        start..self.units.partition_point(|unit| unit.part <= part)
    }

    /// Places of the tokens of some units.
    fn places(&self, units: Range<usize>) -> impl Iterator<Item = usize> {
        self.units[units].iter().flat_map(|unit| unit.tokens.iter().copied())
    }

    fn without(&self, traced: &TracedInput, units: &Range<usize>) -> Input {
        traced.without(&self.places(units.clone()).collect::<Vec<_>>())
    }

    /// A piece of which nothing is known but what is lost without it.
    fn piece(&self, units: &Range<usize>, left_out: Vec<f32>) -> Piece {
        let (first, last) = (&self.units[units.start], &self.units[units.end - 1]);
        let span = first.span.start..last.span.end;
        let effects = left_out.clone();
        Piece { part: first.part, span, words: units.len(), effects, left_out, alone: Vec::new() }
    }

    /// Takes what the first round said, and decides on the second, so that both take no more than `most` passes.
    pub(super) fn take_sentences(&mut self, effects: Vec<Vec<f32>>, most: usize) {
        let Some(traced) = &self.traced else { return };
        self.explanation.passes += effects.len();
        let mut effects = effects.into_iter();
        let relations = traced.relations.iter().zip(effects.by_ref());
        self.explanation.relations =
            relations.map(|(&(against, relation, _), effects)| Related { against, relation, effects }).collect();
        self.explanation.sentences =
            self.sentences.iter().zip(effects).map(|(units, effects)| self.piece(units, effects)).collect();
        let strengths: Vec<f32> = self.explanation.sentences.iter().map(strength).collect();
        let mut left = most.saturating_sub(self.explanation.passes);
        let of_follow_up = |place: &usize| self.explanation.sentences[*place].part == Part::FollowUp;
        let (mine, mut others): (Vec<usize>, Vec<usize>) = (0..self.sentences.len()).partition(of_follow_up);
        others.retain(|place| strengths[*place] >= FAINT);
        others.sort_by(|a, b| strengths[*b].total_cmp(&strengths[*a]));
        let mut wanted: usize = mine.iter().map(|place| self.sentences[*place].len()).sum();
        let mut follow = mine.len();
        for place in mine {
            let words = self.sentences[place].len();
            follow -= 1;
            self.open(place, wanted, follow, &mut left);
            wanted -= words;
        }
        for place in others {
            self.open(place, self.sentences[place].len(), 0, &mut left);
        }
    }

    /// Splits a sentence into groups of words such that `wanted` words would need no more than `left` passes, two for each
    /// group and one for the text, and that a group is left for each of the sentences that `follow`.
    fn open(&mut self, sentence: usize, wanted: usize, follow: usize, left: &mut usize) {
        let sentence = self.sentences[sentence].clone();
        let part = self.units[sentence.start].part;
        let first = !self.opened.contains(&part);
        let most = left.saturating_sub(usize::from(first)) / 2;
        let own = most.saturating_sub(follow);
        if own == 0 {
            return;
        }
        let size = wanted.div_ceil(most).max(sentence.len().div_ceil(own)).max(1);
        let before = self.groups.len();
        self.groups.extend(sentence.clone().step_by(size).map(|start| start..(start + size).min(sentence.end)));
        if first {
            self.opened.push(part);
        }
        *left -= 2 * (self.groups.len() - before) + usize::from(first);
    }

    /// Takes what the second round said.
    pub(super) fn finish(mut self, losses: Vec<Vec<f32>>) -> Explanation {
        self.explanation.passes += losses.len();
        let mut losses = losses.into_iter();
        let of_texts: Vec<(Part, Vec<f32>)> = self.opened.iter().copied().zip(losses.by_ref()).collect();
        let mut words = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let (Some(left_out), Some(others_left_out)) = (losses.next(), losses.next()) else { break };
            let mut piece = self.piece(group, left_out);
            let text = of_texts.iter().find(|(part, _)| *part == piece.part).map(|(_, losses)| losses.as_slice());
            // What is lost without the text, less what is lost without all of it but this.
            let gained = |(text, others): (&f32, &f32)| text - others;
            piece.alone = text.unwrap_or_default().iter().zip(&others_left_out).map(gained).collect();
            piece.effects =
                piece.left_out.iter().zip(&piece.alone).map(|(lost, gained)| (lost + gained) / 2.0).collect();
            words.push(piece);
        }
        words.sort_by_key(|piece| (piece.part, piece.span.start));
        self.explanation.words = words;
        self.explanation
    }
}

/// The largest effect of a piece on any output.
fn strength(piece: &Piece) -> f32 {
    piece.effects.iter().map(|effect| effect.abs()).fold(0.0, f32::max)
}

/// What can be left out of a text, and what of it the model does not read.
fn units(part: Part, text: &str, origins: &[Origin]) -> (Vec<Unit>, Vec<Range<usize>>) {
    let words = words::words(text);
    // By the words that they span: a token that spans several makes one of them.
    let mut found: Vec<(Range<usize>, Vec<usize>)> = Vec::new();
    let own = |origin: &Origin| matches!(origin, Origin::Said(whose, _) if *whose == part);
    for (place, origin) in origins.iter().enumerate().filter(|(_, origin)| own(origin)) {
        let Origin::Said(_, span) = origin else { continue };
        let first = words.partition_point(|word| word.end <= span.start);
        let end = words.partition_point(|word| word.start < span.end);
        match found.last_mut() {
            _ if first >= end => {}
            Some((spanned, tokens)) if first < spanned.end => {
                spanned.end = spanned.end.max(end);
                tokens.push(place);
            }
            _ => found.push((first..end, vec![place])),
        }
    }
    let mut unread: Vec<Range<usize>> = Vec::new();
    let mut next = 0;
    for spanned in found.iter().map(|(spanned, _)| spanned.clone()).chain(std::iter::once(words.len()..words.len())) {
        if next < spanned.start {
            unread.push(words[next].start..words[spanned.start - 1].end);
        }
        next = spanned.end;
    }
    let unit = |(spanned, tokens): (Range<usize>, Vec<usize>)| Unit {
        part,
        span: words[spanned.start].start..words[spanned.end - 1].end,
        tokens,
    };
    (found.into_iter().map(unit).collect(), unread)
}

/// The sentences that units of one text make, as places of units counted from `offset`.
fn sentences(units: &[Unit], text: &str, offset: usize) -> Vec<Range<usize>> {
    let spans = words::sentences(text);
    let mut sentences: Vec<(usize, Range<usize>)> = Vec::new();
    for (place, unit) in units.iter().enumerate() {
        let sentence = spans.partition_point(|span| span.end <= unit.span.start);
        match sentences.last_mut() {
            Some((last, units)) if *last == sentence => units.end = offset + place + 1,
            _ => sentences.push((sentence, offset + place..offset + place + 1)),
        }
    }
    sentences.into_iter().map(|(_, units)| units).collect()
}
