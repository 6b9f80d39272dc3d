//! Where an answer ends.

use serde::{Deserialize, Serialize};

use crate::decoder::BaseFiles;
use crate::error::{Error, Result};
use crate::policy::chat::Chat;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended it, or a stop text came.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
}

/// Tokens and texts that end an answer.
#[derive(Debug)]
pub(super) struct Stops {
    tokens: Vec<u32>,
    texts: Vec<String>,
    /// Tokens at the end of an answer in which a text that just came must lie.
    window: usize,
}

/// Tokens beside the bytes of a text: the first of the window may begin in the middle of a character.
const MARGIN: usize = 8;

impl Stops {
    /// The model's end tokens, as transformers finds them: of `generation_config.json`, where it names none of `config.json`,
    /// and of the tokenizer where that does not either.
    pub(super) fn new(base: &BaseFiles, chat: &Chat, texts: &[String]) -> Result<Self> {
        if texts.iter().any(String::is_empty) {
            return Err(Error::Invalid("a stop text must not be empty".to_owned()));
        }
        let generation = base.generation.as_deref().map(|bytes| ends("generation_config.json", bytes)).transpose()?;
        let tokens = match generation {
            Some(tokens) if !tokens.is_empty() => tokens,
            _ => ends("config.json", &base.config)?,
        };
        let tokens = if tokens.is_empty() { vec![chat.end_token()] } else { tokens };
        let window = texts.iter().map(String::len).max().unwrap_or(0) + MARGIN;
        Ok(Self { tokens, texts: texts.to_vec(), window })
    }

    fn find(&self, text: &str) -> Option<usize> {
        self.texts.iter().filter_map(|stop| text.find(stop)).min()
    }

    /// Whether the last token of an answer ended it.
    pub(super) fn ended(&self, chat: &Chat, answer: &[u32]) -> Result<bool> {
        if answer.last().is_some_and(|token| self.tokens.contains(token)) {
            return Ok(true);
        }
        if self.texts.is_empty() {
            return Ok(false);
        }
        let tail = chat.answer(&answer[answer.len().saturating_sub(self.window)..])?;
        // The tail may read otherwise than as part of the whole, where it starts in the middle of a character.
        Ok(self.find(&tail).is_some() && self.find(&chat.answer(answer)?).is_some())
    }

    /// The text of an answer up to what ended it.
    pub(super) fn text(&self, chat: &Chat, answer: &[u32]) -> Result<(String, Finish)> {
        let (answer, mut finish) = match answer.split_last() {
            Some((last, before)) if self.tokens.contains(last) => (before, Finish::Stop),
            _ => (answer, Finish::Length),
        };
        let mut text = chat.answer(answer)?;
        if let Some(end) = self.find(&text) {
            text.truncate(end);
            finish = Finish::Stop;
        }
        Ok((text, finish))
    }
}

/// The end tokens that a configuration names.
fn ends(name: &str, bytes: &[u8]) -> Result<Vec<u32>> {
    #[derive(Deserialize)]
    struct Configuration {
        eos_token_id: Option<Ends>,
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "eos_token_id must be a token or a list of tokens")]
    enum Ends {
        One(u32),
        Several(Vec<u32>),
    }
    let configuration: Configuration =
        serde_json::from_slice(bytes).map_err(|error| Error::Invalid(format!("{name} of the base model: {error}")))?;
    Ok(match configuration.eos_token_id {
        Some(Ends::One(token)) => vec![token],
        Some(Ends::Several(tokens)) => tokens,
        None => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::tests::directory;

    fn base() -> BaseFiles {
        BaseFiles::read(&directory("llama")).unwrap()
    }

    /// The tiny tokenizer has a token for each byte, after three control tokens.
    fn tokens(text: &str) -> Vec<u32> {
        text.bytes().map(|byte| u32::from(byte) + 3).collect()
    }

    fn stops(texts: &[&str]) -> (Chat, Stops) {
        let base = base();
        let chat = Chat::new(&base, 260).unwrap();
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let stops = Stops::new(&base, &chat, &texts).unwrap();
        (chat, stops)
    }

    /// After how many tokens the text ends, and what it is then.
    fn run(texts: &[&str], tokens: &[u32]) -> (usize, String, Finish) {
        let (chat, stops) = stops(texts);
        let ended = (1..=tokens.len()).find(|count| stops.ended(&chat, &tokens[..*count]).unwrap());
        let count = ended.unwrap_or(tokens.len());
        let (text, finish) = stops.text(&chat, &tokens[..count]).unwrap();
        (count, text, finish)
    }

    #[test]
    fn an_answer_ends_before_the_first_stop_text_also_over_several_tokens() {
        let answer = tokens("Sure. ☕ then\n\nUser: more");
        assert_eq!(run(&["\n\nUser:"], &answer), (21, "Sure. ☕ then".to_owned(), Finish::Stop));
        assert_eq!(run(&["User", "☕"], &answer), (9, "Sure. ".to_owned(), Finish::Stop));
        assert_eq!(
            run(&["nowhere"], &answer),
            (answer.len(), "Sure. ☕ then\n\nUser: more".to_owned(), Finish::Length)
        );
        let long = tokens(&format!("{}END{}", "☕".repeat(60), "a".repeat(9)));
        assert_eq!(run(&["END"], &long), (183, "☕".repeat(60), Finish::Stop));
    }

    #[test]
    fn an_end_token_ends_it_and_is_no_text() {
        let answer: Vec<u32> = [tokens("ab"), vec![2], tokens("c")].concat();
        assert_eq!(run(&[], &answer), (3, "ab".to_owned(), Finish::Stop));
        assert_eq!(run(&[], &[2]), (1, String::new(), Finish::Stop));
    }

    #[test]
    fn end_tokens_are_read_where_transformers_reads_them() {
        let found = |generation: Option<&str>, config: Option<&str>| {
            let mut base = base();
            let chat = Chat::new(&base, 260).unwrap();
            base.generation = generation.map(|text| text.as_bytes().to_vec());
            if let Some(config) = config {
                base.config = config.as_bytes().to_vec();
            }
            Stops::new(&base, &chat, &[]).map(|stops| stops.tokens).map_err(|error| error.to_string())
        };
        assert_eq!(found(None, None).unwrap(), [2]);
        assert_eq!(found(Some(r#"{"eos_token_id":[5,9]}"#), None).unwrap(), [5, 9]);
        assert_eq!(found(Some(r#"{"eos_token_id":7}"#), None).unwrap(), [7]);
        assert_eq!(found(Some(r#"{"eos_token_id":null}"#), Some(r#"{"eos_token_id":[8]}"#)).unwrap(), [8]);
        assert_eq!(found(None, Some("{}")).unwrap(), [2]);
        assert!(found(Some(r#"{"eos_token_id":"x"}"#), None).unwrap_err().contains("eos_token_id must be"));
        let (base, texts) = (base(), vec![String::new()]);
        assert!(Stops::new(&base, &Chat::new(&base, 260).unwrap(), &texts).is_err());
    }
}
