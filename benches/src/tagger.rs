//! The tagger's parts on given conversations, one request a line on standard input, one answer a line on standard output.
//!
//! Requests: `inputs` (the tokens, for other engines), `logits`, and rounds of work, which answer how long they took:
//! `forward arrival TOKENS` and `forward sorted TOKENS` (the encoder alone, batches of so many tokens), `encode` (text to
//! tokens), `tag` (text to probabilities, one thread, nothing remembered).

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use uptake_tagger::{
    Encoder, EncoderConfig, Exchange, Input, Message, ModelFiles, Options, Role, Tagger, TaggerConfig, Template,
    read_shards,
};

use crate::Failure;
use crate::processor_time::take;

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: String,
}

struct Bench<'a> {
    template: Template,
    encoder: Encoder,
    tagger: Tagger,
    exchanges: Vec<Exchange<'a>>,
    inputs: Vec<Input>,
    by_length: Vec<usize>,
}

/// Answers requests until the input ends.
pub(crate) fn serve(model: &Path, conversations: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(conversations)?;
    let conversations: Vec<Conversation> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let exchanges = conversations.iter().flat_map(follow_ups).collect();
    let bench = Bench::new(model, exchanges)?;
    let mut output = std::io::stdout().lock();
    for request in std::io::stdin().lock().lines() {
        let request = request?;
        let answer = bench.answer(&request.split_whitespace().collect::<Vec<_>>())?;
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn follow_ups(conversation: &Conversation) -> Vec<Exchange<'_>> {
    let messages: Vec<Message<'_>> =
        conversation.messages.iter().map(|said| Message { role: Role::of(&said.role), text: &said.content }).collect();
    (0..messages.len()).filter_map(|index| Exchange::at(&messages, index)).collect()
}

impl<'a> Bench<'a> {
    fn new(model: &Path, mut exchanges: Vec<Exchange<'a>>) -> Result<Self, Failure> {
        let files = ModelFiles::read(model)?;
        let encoder_config = EncoderConfig::parse(&files.config)?;
        let config = TaggerConfig::parse(&files.tagger, &encoder_config)?;
        let template =
            Template::parse(&files.tokenizer, encoder_config.vocab_size, config.max_tokens, config.layout()?)?;
        let encoder = Encoder::new(&encoder_config, &read_shards(&files.weights)?)?;
        let tagger = Tagger::new(&files, Options { threads: 1, cache: 0, ..Options::default() })?;
        let mut inputs = Vec::new();
        let mut kept = Vec::new();
        for exchange in exchanges.drain(..) {
            if let Some(input) = template.encode(&exchange)? {
                inputs.push(input);
                kept.push(exchange);
            }
        }
        let mut by_length: Vec<usize> = (0..inputs.len()).collect();
        by_length.sort_by_key(|&index| inputs[index].tokens.len());
        Ok(Self { template, encoder, tagger, exchanges: kept, inputs, by_length })
    }

    fn answer(&self, request: &[&str]) -> Result<Value, Failure> {
        match request {
            ["inputs"] => Ok(json!({
                "tokens": self.inputs.iter().map(|input| &input.tokens).collect::<Vec<_>>(),
                "first_segment": self.inputs.iter().map(|input| input.first_segment).collect::<Vec<_>>(),
                "tagger": self.tagger.version(),
            })),
            ["logits"] => {
                let batches = self.batches(0..self.inputs.len(), 2048);
                let logits = batches.iter().map(|batch| Ok(self.encoder.logits(batch)?));
                Ok(json!({ "logits": logits.collect::<Result<Vec<_>, Failure>>()?.concat() }))
            }
            ["forward", "arrival", tokens] => self.forward(&self.batches(0..self.inputs.len(), tokens.parse()?)),
            ["forward", "sorted", tokens] => {
                self.forward(&self.batches(self.by_length.iter().copied(), tokens.parse()?))
            }
            ["encode"] => {
                let work = || {
                    for exchange in &self.exchanges {
                        let _ = self.template.encode(exchange)?;
                    }
                    Ok(())
                };
                Ok(json!(take(work)?.1))
            }
            ["tag"] => Ok(json!(take(|| Ok(self.tagger.tag(&self.exchanges)?))?.1)),
            other => Err(format!("unknown request {other:?}").into()),
        }
    }

    fn forward(&self, batches: &[Vec<&Input>]) -> Result<Value, Failure> {
        let work = || {
            for batch in batches {
                let _ = self.encoder.logits(batch)?;
            }
            Ok(())
        };
        Ok(json!(take(work)?.1))
    }

    /// Batches of at most `budget` tokens, in the given order.
    fn batches(&self, order: impl Iterator<Item = usize>, budget: usize) -> Vec<Vec<&Input>> {
        let mut batches: Vec<Vec<&Input>> = Vec::new();
        let mut tokens = budget;
        for input in order.map(|index| &self.inputs[index]) {
            tokens += input.tokens.len();
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
}
