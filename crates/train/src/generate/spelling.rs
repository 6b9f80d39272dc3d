//! The bytes that each token writes, where they can be known, and tokens chosen by them.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::shape::State;
use crate::error::{Error, Result};
use crate::policy::chat::Chat;

/// The bytes of a token as it stands in the vocabulary; nothing where it stands for none.
type BytesOf = Box<dyn Fn(&str) -> Option<Vec<u8>>>;

/// The bytes of each token; none for control tokens and for ids that are no token.
#[derive(Debug)]
pub(super) struct Spelling {
    tokens: Vec<Box<[u8]>>,
}

impl Spelling {
    /// Reads the tokens of a tokenizer that writes bytes (as GPT-2's) or pieces of text (as `SentencePiece`'s); nothing for
    /// another one.
    pub(super) fn new(tokenizer: &[u8], chat: &Chat, vocabulary: usize) -> Option<Self> {
        let file: Value = serde_json::from_slice(tokenizer).ok()?;
        let decoder = file.get("decoder")?.to_string();
        let bytes_of: BytesOf = if decoder.contains("\"ByteLevel\"") {
            let bytes = byte_letters();
            Box::new(move |token| token.chars().map(|letter| bytes.get(&letter).copied()).collect())
        } else if decoder.contains("\"ByteFallback\"") || decoder.contains("\"Metaspace\"") {
            Box::new(|token| {
                let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                Some(byte.map_or_else(|| token.replace('▁', " ").into_bytes(), |byte| vec![byte]))
            })
        } else {
            return None;
        };
        let mut tokens = vec![Box::default(); vocabulary];
        for (token, id) in chat.vocabulary() {
            if let Some(place) = tokens.get_mut(id as usize) {
                *place = bytes_of(&token).unwrap_or_default().into_boxed_slice();
            }
        }
        for (id, content) in chat.added() {
            if let Some(place) = tokens.get_mut(id as usize) {
                // Added texts stand as they are; control tokens write nothing.
                *place = content.map(String::into_bytes).unwrap_or_default().into_boxed_slice();
            }
        }
        Some(Self { tokens })
    }

    fn bytes(&self, token: u32) -> &[u8] {
        self.tokens.get(token as usize).map_or(&[], |bytes| bytes)
    }

    /// What tokens write.
    pub(super) fn text(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.bytes(*token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The letters that stand for bytes in GPT-2's vocabulary: printable ones for themselves, the others from 256 on.
fn byte_letters() -> HashMap<char, u8> {
    let mut others = 256_u32..;
    (0..=u8::MAX)
        .filter_map(|byte| {
            let itself = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let letter = if itself { Some(u32::from(byte)) } else { others.next() };
            Some((char::from_u32(letter?)?, byte))
        })
        .collect()
}

/// An answer that is held to a shape.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) spelling: Arc<Spelling>,
    pub(super) state: State,
}

impl Held {
    /// The likeliest token that may come; where a token is to be drawn, the logits of those that may.
    ///
    /// # Errors
    /// [`Error::Invalid`] where no token may come, or the logits are no numbers.
    pub(super) fn likeliest(&self, logits: &[f32]) -> Result<u32> {
        let mut first = [None; 256];
        let mut best: Option<(f32, u32)> = None;
        for (token, logit) in (0_u32..).zip(logits) {
            // Most tokens are passed over here: looked at are those that would be the best so far.
            if best.is_none_or(|(most, _)| *logit > most) && self.may(token, &mut first) {
                best = Some((*logit, token));
            }
        }
        match best {
            Some((logit, token)) if logit.is_finite() => Ok(token),
            Some(_) => {
                Err(Error::Invalid("the model gives a logit that is no number: its weights are broken".to_owned()))
            }
            None => Err(Error::Invalid("the tokenizer has no token to go on with in the asked shape".to_owned())),
        }
    }

    /// The logits, with no chance for tokens that may not come.
    pub(super) fn masked(&self, logits: &[f32]) -> Vec<f32> {
        let mut first = [None; 256];
        let masked = |(token, logit): (u32, &f32)| if self.may(token, &mut first) { *logit } else { f32::NEG_INFINITY };
        (0_u32..).zip(logits).map(masked).collect()
    }

    /// `first` remembers which first bytes may come at all.
    fn may(&self, token: u32, first: &mut [Option<bool>; 256]) -> bool {
        let bytes = self.spelling.bytes(token);
        let Some(byte) = bytes.first() else { return false };
        let known = &mut first[usize::from(*byte)];
        *known.get_or_insert_with(|| self.state.takes(&[*byte])) && (bytes.len() == 1 || self.state.takes(bytes))
    }

    /// Goes on by a token; whether the answer is whole.
    ///
    /// # Errors
    /// [`Error::Bug`] for a token that may not come.
    pub(super) fn advance(&mut self, token: u32) -> Result<bool> {
        let bytes = self.spelling.bytes(token);
        if bytes.is_empty() || !self.state.advance(bytes) {
            return Err(Error::Bug(format!("token {token} is not of the asked shape")));
        }
        Ok(self.state.done())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decoder::BaseFiles;
    use crate::decoder::tests::directory;
    use crate::generate::shape::Shape;

    fn spelling() -> Spelling {
        let base = BaseFiles::read(&directory("llama")).unwrap();
        Spelling::new(&base.tokenizer, &Chat::new(&base, 260).unwrap(), 260).unwrap()
    }

    #[test]
    fn tokens_write_the_bytes_that_the_tokenizer_decodes() {
        let base = BaseFiles::read(&directory("llama")).unwrap();
        let chat = Chat::new(&base, 260).unwrap();
        let spelling = spelling();
        let text = "é \n\u{0}☕ \"x\" ~\u{ad}";
        let tokens: Vec<u32> = text.bytes().map(|byte| u32::from(byte) + 3).collect();
        assert_eq!(spelling.text(&tokens), text);
        assert_eq!(chat.answer(&tokens).unwrap(), text);
        assert!(spelling.bytes(1).is_empty() && spelling.bytes(2).is_empty(), "control tokens write nothing");
        assert_eq!(byte_letters().len(), 256);
    }

    #[test]
    fn pieces_of_text_are_spelled_too() {
        let base = BaseFiles::read(&directory("llama")).unwrap();
        let chat = Chat::new(&base, 260).unwrap();
        let of = |decoder: Value| Spelling::new(json!({"decoder": decoder}).to_string().as_bytes(), &chat, 260);
        assert!(of(json!({"type": "ByteFallback"})).is_some());
        assert!(of(json!({"type": "WordPiece"})).is_none(), "of another tokenizer nothing is known");
        assert!(of(Value::Null).is_none());
    }

    #[test]
    fn the_likeliest_of_those_that_may_come_is_taken() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "enum": ["yes", "no"]}}, "required": ["a"]});
        let mut held = Held { spelling: Arc::new(spelling()), state: Shape::new(&schema).unwrap().start() };
        let mut logits: Vec<f32> = (0..260_u16).map(f32::from).collect();
        let mut written = Vec::new();
        loop {
            let token = held.likeliest(&logits).unwrap();
            assert_eq!(
                held.masked(&logits).iter().filter(|logit| logit.is_finite()).count(),
                if written.len() == 7 { 2 } else { 1 }
            );
            written.push(token);
            if held.advance(token).unwrap() {
                break;
            }
        }
        assert_eq!(held.spelling.text(&written), r#"{"a": "yes"}"#, "y has a higher number than n");
        assert!(held.advance(40).is_err());
        let held = Held { state: Shape::new(&schema).unwrap().start(), ..held };
        logits.fill(f32::NAN);
        assert!(held.likeliest(&logits).is_err());
    }
}
