//! Answers that are held to the shape of a JSON schema, byte by byte.
//!
//! Of the schema language the part that servers of language models enforce: objects whose fields are all required, lists,
//! texts, texts out of a list, whole numbers, truth values. The form is one: fields in the order of `required`, a space after
//! colon and comma, no other white space. So wherever a schema leaves no choice there is none, and a small model that would
//! write around the object has to write it. A text ends at a bound: models that are too small for their question repeat
//! themselves without end, and would never come to the fields after it.

use std::sync::Arc;

use serde_json::Value;

/// A piece of what must come.
#[derive(Debug)]
enum Part {
    Literal(Vec<u8>),
    Text,
    /// JSON texts of which none begins another.
    Choice(Vec<Vec<u8>>),
    Integer,
    List(Arc<[Part]>),
}

/// What an answer must look like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    parts: Arc<[Part]>,
}

/// How far inside of a part an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// At its start.
    Start,
    /// So many bytes of a literal.
    Literal(usize),
    /// In a text of so many bytes; of a character, some are to come.
    Text { bytes: usize, left: u8 },
    /// After a backslash in a text of so many bytes.
    Escape { bytes: usize },
    /// So many bytes of a choice, which are those of the one with this number.
    Choice { bytes: usize, like: usize },
    /// So many digits, or a sign, or a zero, after which no digit comes.
    Integer { digits: u8, ended: bool },
    /// After `[`.
    Opened,
    /// In an item.
    Item,
    /// After an item.
    AfterItem,
    /// After a comma.
    AfterComma,
}

#[derive(Clone, Debug)]
struct Place {
    parts: Arc<[Part]>,
    at: usize,
    within: Within,
}

/// How far an answer is.
#[derive(Clone, Debug)]
pub(super) struct State {
    stack: Vec<Place>,
}

/// Bytes of a text after which it must end: several sentences.
const LONGEST_TEXT: usize = 400;
/// Longest whole number in digits: more do not fit into 64 bits.
const DIGITS: u8 = 18;

impl Shape {
    /// Reads a schema; the error is a sentence about what of it cannot be held to.
    pub(super) fn new(schema: &Value) -> Result<Self, String> {
        if schema.get("type").and_then(Value::as_str) != Some("object") {
            return Err("only objects are enforced".to_owned());
        }
        Ok(Self { parts: parts(schema)?.into() })
    }

    /// Before the first byte.
    pub(super) fn start(&self) -> State {
        State { stack: vec![Place { parts: Arc::clone(&self.parts), at: 0, within: Within::Start }] }
    }
}

fn parts(schema: &Value) -> Result<Vec<Part>, String> {
    if let Some(choices) = schema.get("enum") {
        let texts = choices.as_array().filter(|choices| !choices.is_empty() && choices.iter().all(Value::is_string));
        let texts = texts.ok_or_else(|| format!("`enum` is enforced with texts only, not {choices}"))?;
        return Ok(vec![Part::Choice(texts.iter().map(|text| text.to_string().into_bytes()).collect())]);
    }
    Ok(match schema.get("type").and_then(Value::as_str).unwrap_or_default() {
        "string" => vec![Part::Text],
        "integer" => vec![Part::Integer],
        "boolean" => vec![Part::Choice(vec![b"true".to_vec(), b"false".to_vec()])],
        "array" => vec![Part::List(parts(schema.get("items").unwrap_or(&Value::Null))?.into())],
        "object" => object(schema)?,
        other => return Err(format!("the type `{other}` is not enforced")),
    })
}

fn object(schema: &Value) -> Result<Vec<Part>, String> {
    let properties = schema.get("properties").and_then(Value::as_object).ok_or("an object has no `properties`")?;
    let required = schema.get("required").and_then(Value::as_array).ok_or("an object has no `required`")?;
    let names: Vec<&str> = required.iter().filter_map(Value::as_str).collect();
    if names.is_empty() || names.len() != properties.len() {
        return Err("all fields of an object must be required".to_owned());
    }
    let mut found = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        let field = properties.get(name).ok_or_else(|| format!("the field `{name}` is not described"))?;
        let opening = if at == 0 { "{" } else { ", " };
        found.push(Part::Literal(format!("{opening}{}: ", Value::from(name)).into_bytes()));
        found.extend(parts(field)?);
    }
    found.push(Part::Literal(b"}".to_vec()));
    Ok(found)
}

impl State {
    /// Whether nothing more can come.
    pub(super) const fn done(&self) -> bool {
        self.stack.is_empty()
    }

    /// Whether these bytes may come next.
    pub(super) fn takes(&self, bytes: &[u8]) -> bool {
        let mut after = self.clone();
        after.advance(bytes)
    }

    /// Goes on by these bytes; what is left of the state where they may not come is of no use.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| self.byte(*byte))
    }

    fn byte(&mut self, byte: u8) -> bool {
        let Some(place) = self.stack.last_mut() else { return false };
        let Some(part) = place.parts.get(place.at) else { return false };
        let next = match part {
            Part::Literal(bytes) => literal(bytes, place.within, byte),
            Part::Text => text(place.within, byte),
            Part::Choice(choices) => choice(choices, place.within, byte),
            Part::Integer => {
                let next = integer(place.within, byte);
                if next == Next::Whole {
                    // It has no end of its own: this byte belongs to what follows.
                    self.leave();
                    return self.byte(byte);
                }
                next
            }
            Part::List(item) => match (place.within, byte) {
                (Within::Start, b'[') => Next::Within(Within::Opened),
                (Within::Opened | Within::AfterItem, b']') => Next::Whole,
                (Within::AfterItem, b',') => Next::Within(Within::AfterComma),
                (Within::AfterComma, b' ') | (Within::Opened, _) => {
                    let opened = place.within == Within::Opened;
                    let parts = Arc::clone(item);
                    place.within = Within::Item;
                    self.stack.push(Place { parts, at: 0, within: Within::Start });
                    return !opened || self.byte(byte);
                }
                _ => Next::Refused,
            },
        };
        match next {
            Next::Within(within) => place.within = within,
            Next::Whole => self.leave(),
            Next::Refused => return false,
        }
        true
    }

    /// A part is whole: the next one begins, or the item or the answer is whole, too.
    fn leave(&mut self) {
        while let Some(place) = self.stack.last_mut() {
            if place.within == Within::Item {
                place.within = Within::AfterItem;
                return;
            }
            (place.at, place.within) = (place.at + 1, Within::Start);
            if place.at < place.parts.len() {
                return;
            }
            let _ = self.stack.pop();
        }
    }
}

/// What a byte inside of a part leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It may not come.
    Refused,
    /// The part goes on there.
    Within(Within),
    /// The part is whole.
    Whole,
}

fn literal(bytes: &[u8], within: Within, byte: u8) -> Next {
    let at = if let Within::Literal(at) = within { at } else { 0 };
    if bytes.get(at) != Some(&byte) {
        Next::Refused
    } else if at + 1 < bytes.len() {
        Next::Within(Within::Literal(at + 1))
    } else {
        Next::Whole
    }
}

fn text(within: Within, byte: u8) -> Next {
    let inside = |bytes: usize, left| Next::Within(Within::Text { bytes: bytes + 1, left });
    match within {
        Within::Start if byte == b'"' => Next::Within(Within::Text { bytes: 0, left: 0 }),
        // No `\u`: half of a pair would be no text, and every character can be written as it is.
        Within::Escape { bytes } if b"\"\\/bfnrt".contains(&byte) => inside(bytes, 0),
        Within::Text { bytes, left: 0 } => match byte {
            b'"' => Next::Whole,
            _ if bytes >= LONGEST_TEXT => Next::Refused,
            b'\\' => Next::Within(Within::Escape { bytes: bytes + 1 }),
            0x20..=0x7f => inside(bytes, 0),
            0xc2..=0xdf => inside(bytes, 1),
            0xe0..=0xef => inside(bytes, 2),
            0xf0..=0xf4 => inside(bytes, 3),
            _ => Next::Refused,
        },
        Within::Text { bytes, left } if (0x80..=0xbf).contains(&byte) => inside(bytes, left - 1),
        _ => Next::Refused,
    }
}

fn choice(choices: &[Vec<u8>], within: Within, byte: u8) -> Next {
    let (bytes, like) = if let Within::Choice { bytes, like } = within { (bytes, like) } else { (0, 0) };
    let Some(begun) = choices.get(like).and_then(|choice| choice.get(..bytes)) else { return Next::Refused };
    let goes_on = |choice: &Vec<u8>| choice.starts_with(begun) && choice.get(bytes) == Some(&byte);
    match choices.iter().position(goes_on) {
        None => Next::Refused,
        Some(like) if bytes + 1 < choices[like].len() => Next::Within(Within::Choice { bytes: bytes + 1, like }),
        Some(_) => Next::Whole,
    }
}

fn integer(within: Within, byte: u8) -> Next {
    let (digits, ended) = if let Within::Integer { digits, ended } = within { (digits, ended) } else { (0, false) };
    match byte {
        b'-' if within == Within::Start => Next::Within(Within::Integer { digits: 0, ended: false }),
        b'0'..=b'9' if !ended && digits < DIGITS => {
            Next::Within(Within::Integer { digits: digits + 1, ended: digits == 0 && byte == b'0' })
        }
        b'0'..=b'9' => Next::Refused,
        _ if digits > 0 => Next::Whole,
        _ => Next::Refused,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels() -> Shape {
        let claim = json!({
            "type": "object",
            "properties": {"label": {"type": "string", "enum": ["praise", "praises", "style \"x\""]}, "evidence": {"type": "string"}},
            "required": ["label", "evidence"],
        });
        let schema = json!({
            "type": "object",
            "properties": {"number": {"type": "integer"}, "rationale": {"type": "string"}, "labels": {"type": "array", "items": claim}},
            "required": ["rationale", "labels", "number"],
        });
        Shape::new(&schema).unwrap()
    }

    /// Whether it may come, and whether nothing is missing then.
    fn check(text: &str) -> (bool, bool) {
        let mut state = labels().start();
        let taken = state.advance(text.as_bytes());
        (taken, taken && state.done())
    }

    #[test]
    fn an_answer_of_the_shape_is_taken_byte_by_byte_and_each_start_of_it() {
        for whole in [
            r#"{"rationale": "", "labels": [], "number": 0}"#,
            r#"{"rationale": "it \"says\" \\ né ☕", "labels": [{"label": "praise", "evidence": "a"}], "number": -12}"#,
            r#"{"rationale": "x", "labels": [{"label": "praises", "evidence": "[{"}, {"label": "style \"x\"", "evidence": ""}], "number": 7}"#,
        ] {
            let _: Value = serde_json::from_str(whole).unwrap();
            assert_eq!(check(whole), (true, true), "{whole}");
            let mut state = labels().start();
            for (at, byte) in whole.bytes().enumerate() {
                assert!(!state.done() && state.takes(&[byte]), "{at} of {whole}");
                assert!(state.advance(&[byte]));
            }
            assert!(!state.takes(b" "), "nothing comes after the end");
        }
    }

    #[test]
    fn what_has_another_shape_is_not_taken() {
        for wrong in [
            " {",
            "Sure",
            r#"{"labels""#,
            r#"{"rationale":""#,
            r#"{"rationale": x"#,
            "{\"rationale\": \"a\nb",
            r#"{"rationale": "\u"#,
            r#"{"rationale": "", "labels": [,"#,
            r#"{"rationale": "", "labels": [{"label": "blame"#,
            r#"{"rationale": "", "labels": [{"label": "praise", "evidence": "a"}]}"#,
            r#"{"rationale": "", "labels": [{"label": "praise", "evidence": "a"}, ]"#,
            r#"{"rationale": "", "labels": [], "number": }"#,
            r#"{"rationale": "", "labels": [], "number": 01"#,
            r#"{"rationale": "", "labels": [], "number": -}"#,
            r#"{"rationale": "", "labels": [], "number": 1234567890123456789"#,
        ] {
            assert!(!check(wrong).0, "{wrong}");
        }
        let mut state = labels().start();
        assert!(!state.advance(b"{\"rationale\": \"\xff"), "no UTF-8");
        let endless = |text: &str| check(&format!("{{\"rationale\": \"{text}")).0;
        assert!(endless(&"a".repeat(LONGEST_TEXT)) && !endless(&"a".repeat(LONGEST_TEXT + 1)));
        assert!(endless(&"☕".repeat(LONGEST_TEXT / 3 + 1)), "a character that was begun is ended");
        assert!(!endless(&"☕".repeat(LONGEST_TEXT / 3 + 2)));
        assert_eq!(check(r#"{"rationale": "half"#), (true, false));
    }

    #[test]
    fn a_schema_that_cannot_be_enforced_is_named() {
        for (schema, says) in [
            (json!({"type": "array", "items": {"type": "string"}}), "only objects"),
            (json!({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}), "`number`"),
            (json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": []}), "required"),
            (json!({"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}), "texts only"),
        ] {
            let error = Shape::new(&schema).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
