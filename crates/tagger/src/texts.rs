//! Text to token ids by a `tokenizer.json`, as models of this program see it.

use std::ops::Range;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::settings::TOKENIZER_FILE;

/// A tokenizer without padding, truncation or special tokens of its own.
#[derive(Clone, Debug)]
pub struct TextTokenizer(Tokenizer);

impl TextTokenizer {
    /// Reads a `tokenizer.json` whose ids must fit `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Model`] where it is no tokenizer or has more tokens than `vocabulary`.
    pub fn parse(tokenizer: &[u8], vocabulary: usize) -> Result<Self> {
        let mut tokenizer =
            Tokenizer::from_bytes(tokenizer).map_err(|error| Error::model(TOKENIZER_FILE, error.to_string()))?;
        let largest = tokenizer.get_vocab(true).into_values().max();
        if largest.is_none_or(|largest| largest as usize >= vocabulary) {
            return Err(Error::model(
                TOKENIZER_FILE,
                format!("its largest token id is {largest:?}, the encoder's vocabulary has {vocabulary}"),
            ));
        }
        // Files often carry a padding or truncation of their own, made for another use of the encoder.
        let _ = tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None).map_err(Error::Tokenise)?;
        // A user who types "[SEP]" means those five characters.
        tokenizer.set_encode_special_tokens(true);
        Ok(Self(tokenizer))
    }

    /// The tokens that begin an input and end each of its texts: `[CLS]` and `[SEP]`, or `<s>` and `</s>` of a tokenizer that
    /// has those instead.
    ///
    /// # Errors
    /// [`Error::Model`] where the tokenizer has neither.
    pub fn frame(&self) -> Result<(u32, u32)> {
        if let (None, Ok(begin), Ok(end)) = (self.0.token_to_id("[CLS]"), self.special("<s>"), self.special("</s>")) {
            return Ok((begin, end));
        }
        Ok((self.special("[CLS]")?, self.special("[SEP]")?))
    }

    /// A token that stands for a mark, by its number from 0: BERT's vocabularies hold `[unused0]` to `[unused98]` at least,
    /// which no text becomes. Others reserve none. There it is the token of a small letter, which is a mark by the place that
    /// it stands in.
    ///
    /// # Errors
    /// [`Error::Model`] where the tokenizer has no such token.
    pub fn mark(&self, number: usize) -> Result<u32> {
        let reserved = self.special(&format!("[unused{}]", number + 1));
        let letter = || {
            let letter = u8::try_from(number).ok().and_then(|number| b'a'.checked_add(number));
            letter.filter(u8::is_ascii_lowercase).map(char::from)
        };
        match (&reserved, self.0.token_to_id("[CLS]"), letter()) {
            (Err(_), None, Some(letter)) => self.special(&letter.to_string()),
            _ => reserved,
        }
    }

    /// The id of a special or reserved token.
    ///
    /// # Errors
    /// [`Error::Model`] where the tokenizer has none of that name.
    pub fn special(&self, token: &str) -> Result<u32> {
        let id = self.0.token_to_id(token);
        id.ok_or_else(|| Error::model(TOKENIZER_FILE, format!("it has no `{token}` token")))
    }

    /// The token of an id.
    #[must_use]
    pub fn name(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    /// The ids of a text; none of them is special, whatever the text says.
    ///
    /// # Errors
    /// [`Error::Tokenise`], which normalised text never causes.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.0.encode_fast(text, false).map_err(Error::Tokenise)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`TextTokenizer::tokens`], with the bytes of the text that each comes from.
    ///
    /// # Errors
    /// [`Error::Tokenise`], which normalised text never causes.
    pub fn tokens_traced(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.0.encode(text, false).map_err(Error::Tokenise)?;
        let spans = encoding.get_offsets().iter().map(|(start, end)| *start..*end);
        Ok(encoding.get_ids().iter().copied().zip(spans).collect())
    }
}
