//! From messages to tokens, with the base model's own chat template, as TRL does it: the prompt is the template with the
//! marker of the coming answer, the answer is what the template has more when the answer is there.

use minijinja::{Environment, context};
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::decoder::BaseFiles;
use crate::error::{Error, Result};
pub(crate) use crate::rows::Message;

/// Tokens of a prompt and an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    /// How many of them, from the start, are the prompt; at least 1.
    pub(crate) prompt: usize,
}

impl Sequence {
    /// The tokens that are learnt from.
    pub(crate) fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    bos_token: Option<Special>,
    eos_token: Option<Special>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Special {
    Text(String),
    Token { content: String },
}

impl Special {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Token { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// The template and the tokenizer of a base model.
#[derive(Debug)]
pub(crate) struct Chat {
    environment: Environment<'static>,
    tokenizer: Tokenizer,
    start: String,
    end: String,
    end_token: u32,
    /// Texts that the tokenizer turns into control tokens.
    controls: Vec<String>,
}

const NAME: &str = "chat";

impl Chat {
    /// Reads template and tokenizer, whose ids must fit the `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where either is missing, broken or does not fit.
    pub(crate) fn new(base: &BaseFiles, vocabulary: usize) -> Result<Self> {
        let refuse = |reason: String| Error::Invalid(format!("tokenizer of the base model: {reason}"));
        let config: TokenizerConfig = serde_json::from_slice(&base.tokenizer_config)
            .map_err(|error| refuse(format!("tokenizer_config.json: {error}")))?;
        let template = base.template.clone().or(match config.chat_template {
            Some(Templates::One(template)) => Some(template),
            Some(Templates::Named(named)) => {
                named.into_iter().find(|named| named.name == "default").map(|named| named.template)
            }
            None => None,
        });
        let template = template.ok_or_else(|| {
            refuse("there is no chat template: take an instruction-tuned base, or add chat_template.jinja".to_owned())
        })?;
        let mut tokenizer = Tokenizer::from_bytes(&base.tokenizer).map_err(|error| refuse(error.to_string()))?;
        let largest = tokenizer.get_vocab(true).into_values().max();
        if largest.is_none_or(|largest| largest as usize >= vocabulary) {
            return Err(refuse(format!("its largest id is {largest:?}, the model's vocabulary has {vocabulary}")));
        }
        let _ = tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        let controls = tokenizer.get_added_tokens_decoder();
        let controls = controls.values().filter(|token| token.special).map(|token| token.content.clone()).collect();
        let end = config.eos_token.as_ref().map_or("", Special::text).to_owned();
        let end_token = tokenizer.token_to_id(&end);
        let end_token = end_token.ok_or_else(|| refuse(format!("eos_token is `{end}`, which is no token")))?;
        Ok(Self {
            environment: environment(template).map_err(|error| refuse(format!("chat template: {error:#}")))?,
            tokenizer,
            start: config.bos_token.as_ref().map_or("", Special::text).to_owned(),
            end,
            end_token,
            controls,
        })
    }

    /// The text of a chat; `answer_follows` closes it with the marker of the coming answer.
    fn render(&self, messages: &[Message], answer_follows: bool) -> Result<String, &'static str> {
        let values = context! {
            messages => messages,
            add_generation_prompt => answer_follows,
            bos_token => self.start,
            eos_token => self.end,
        };
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(values));
        rendered.map_err(|error| {
            tracing::debug!(error = format!("{error:#}"), "the chat template refuses a row");
            "refused_by_template"
        })
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, &'static str> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|_| "not_tokenisable")?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The token that ends an answer, as the tokenizer's configuration has it.
    pub(crate) const fn end_token(&self) -> u32 {
        self.end_token
    }

    /// Every token of the model's own vocabulary, as it stands in the file.
    pub(crate) fn vocabulary(&self) -> impl Iterator<Item = (String, u32)> {
        self.tokenizer.get_vocab(false).into_iter()
    }

    /// Tokens that were added to it; of those that are no control tokens, the text.
    pub(crate) fn added(&self) -> impl Iterator<Item = (u32, Option<String>)> {
        let added = self.tokenizer.get_added_tokens_decoder();
        added.into_iter().map(|(id, token)| (id, (!token.special).then_some(token.content)))
    }

    /// Tokens of a prompt up to the marker of the coming answer, or the reason why there are none.
    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, &'static str> {
        if messages.iter().any(|message| self.forges(message)) {
            return Err("control_token_in_text");
        }
        let tokens = self.tokens(&self.render(messages, true)?)?;
        if tokens.is_empty() { Err("empty_prompt") } else { Ok(tokens) }
    }

    /// The text of an answer's tokens, without control tokens.
    pub(crate) fn answer(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true).map_err(|error| Error::Invalid(format!("decode tokens: {error}")))
    }

    /// A person who types a control token would otherwise write the assistant's turn.
    fn forges(&self, message: &Message) -> bool {
        self.controls.iter().any(|control| message.content.contains(control.as_str()))
    }

    /// The text of tokens, control tokens included.
    #[cfg(test)]
    pub(crate) fn text(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, false).unwrap()
    }

    /// Prompt and answer as tokens, or the reason why there are none.
    pub(crate) fn sequence(&self, prompt: &[Message], answer: &Message) -> Result<Sequence, &'static str> {
        if prompt.iter().any(|message| self.forges(message)) || self.forges(answer) {
            return Err("control_token_in_text");
        }
        let before = self.render(prompt, true)?;
        let mut messages = prompt.to_vec();
        messages.push(answer.clone());
        let whole = self.render(&messages, false)?;
        let after = whole.strip_prefix(before.as_str()).ok_or("answer_not_after_prompt")?;
        let prompt_tokens = self.tokens(&before)?;
        let mut tokens = self.tokens(&whole)?;
        if !tokens.starts_with(&prompt_tokens) {
            // Where prompt and answer share a token, they are taken apart: so the model meets them when it answers.
            tokens.clone_from(&prompt_tokens);
            tokens.extend(self.tokens(after)?);
        }
        if prompt_tokens.is_empty() || tokens.len() == prompt_tokens.len() {
            return Err("empty_answer");
        }
        if !tokens[prompt_tokens.len()..].contains(&self.end_token) {
            tokens.push(self.end_token);
        }
        Ok(Sequence { prompt: prompt_tokens.len(), tokens })
    }
}

/// As transformers sets Jinja up.
fn environment(template: String) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
    });
    environment.add_template_owned(NAME, template)?;
    Ok(environment)
}
