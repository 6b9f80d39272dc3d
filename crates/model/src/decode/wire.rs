//! Reading the JSON of a record: what it is made of, and fields with their types checked.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Refusal;
use crate::contract::{ErrorClass, LONGEST_ID};
use crate::time::{self, Micros};

/// The fields of every contract, raw: which of them matter, and their types, each contract says below.
#[derive(Deserialize)]
pub(super) struct Wire<'a> {
    #[serde(borrow, default)]
    pub(super) event_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) conversation_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) conversation_started_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) message_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) parent_message_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) turn_index: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) language: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) consent: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) event_time: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) op: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) rejected_message_ids: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) request: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) response: Option<&'a RawValue>,
}

/// The payload as text.
pub(super) fn text(body: &[u8], had_registry_prefix: bool) -> Result<&str, Refusal> {
    std::str::from_utf8(body).map_err(|error| {
        if had_registry_prefix {
            return unsupported_encoding();
        }
        (ErrorClass::InvalidUtf8, format!("not UTF-8 after byte {}", error.valid_up_to()))
    })
}

fn unsupported_encoding() -> Refusal {
    (
        ErrorClass::UnsupportedEncoding,
        "a schema registry id is followed by something that is not JSON; this topic's contract is JSON Schema"
            .to_owned(),
    )
}

/// Reads the fields, once it is sure that all of the text can be read.
pub(super) fn read(text: &str, had_registry_prefix: bool) -> Result<Wire<'_>, Refusal> {
    if let Err(error) = serde_json::from_str::<Readable>(text) {
        return Err(if had_registry_prefix {
            unsupported_encoding()
        } else {
            (ErrorClass::InvalidJson, describe(&error))
        });
    }
    // Asked here, because serde would read a list as the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err((ErrorClass::NotAnObject, "the payload is JSON but no object".to_owned()));
    }
    // Every field is raw, so nothing but a field that stands twice can be wrong.
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        (ErrorClass::WrongType, format!("a field stands twice, the second time at line {line} column {column}"))
    })
}

/// Reads everything and keeps nothing: strings with their escapes, numbers with their range, nesting with its bound.
///
/// Raw values alone are not enough: they let pass what no reader of the stored payload could take (`1e999`, half of a
/// surrogate pair, a thousand brackets).
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadableVisitor)
    }
}

struct ReadableVisitor;

impl<'de> Visitor<'de> for ReadableVisitor {
    type Value = Readable;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_str<E>(self, _: &str) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Readable, A::Error> {
        while list.next_element::<Readable>()?.is_some() {}
        Ok(Readable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Readable, A::Error> {
        while map.next_key::<Key>()?.is_some() {
            let _: Readable = map.next_value()?;
        }
        Ok(Readable)
    }
}

/// A key that is not one of those that `serde_json` keeps for itself and would not read back.
struct Key;

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Key, E> {
                if key.starts_with("$serde_json::private::") { Err(E::custom("reserved key")) } else { Ok(Key) }
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// What is wrong and where, without a word of the text: that is somebody's.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let what = if error.is_eof() {
        "the JSON ends too early"
    } else if message.starts_with("recursion limit") {
        "the JSON is nested too deep"
    } else if message.starts_with("number out of range") {
        "a number is out of range"
    } else if message.contains("surrogate") || message.starts_with("unexpected end of hex escape") {
        "a string holds half of a surrogate pair"
    } else if message.starts_with("reserved key") {
        "a key starts with `$serde_json::private::`, which is reserved"
    } else {
        "no valid JSON"
    };
    format!("{what} at line {} column {}", error.line(), error.column())
}

/// A field that must be there and is not.
pub(super) fn missing(name: &str) -> Refusal {
    (ErrorClass::MissingField, format!("`{name}` is missing, null or empty"))
}

/// The raw text of a field that is there and not null.
pub(super) fn given(raw: Option<&RawValue>) -> Option<&str> {
    raw.map(RawValue::get).filter(|text| *text != "null")
}

/// A string; an empty one counts as absent.
pub(super) fn text_field(name: &str, raw: Option<&RawValue>) -> Result<Option<String>, Refusal> {
    let Some(raw) = given(raw) else { return Ok(None) };
    let text: String =
        serde_json::from_str(raw).map_err(|_| (ErrorClass::WrongType, format!("`{name}` must be a string")))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// An id: a string of bounded length.
pub(super) fn id_field(name: &str, raw: Option<&RawValue>) -> Result<Option<String>, Refusal> {
    match text_field(name, raw)? {
        Some(id) if id.len() > LONGEST_ID => {
            Err((ErrorClass::InvalidValue, format!("`{name}` is longer than {LONGEST_ID} bytes")))
        }
        other => Ok(other),
    }
}

/// An id that must be there.
pub(super) fn required_id(name: &str, raw: Option<&RawValue>) -> Result<String, Refusal> {
    id_field(name, raw)?.ok_or_else(|| missing(name))
}

/// A time.
pub(super) fn time_field(name: &str, raw: Option<&RawValue>) -> Result<Option<Micros>, Refusal> {
    let Some(raw) = given(raw) else { return Ok(None) };
    let value: serde_json::Value =
        serde_json::from_str(raw).map_err(|_| (ErrorClass::InvalidTime, format!("`{name}` cannot be read")))?;
    let parsed = time::parse(&value).map_err(|_| {
        (
            ErrorClass::InvalidTime,
            format!("`{name}` is neither an RFC 3339 time nor a number of seconds or milliseconds"),
        )
    })?;
    Ok(Some(parsed))
}

/// One of a closed list of words.
pub(super) fn one_of(
    name: &str,
    raw: Option<&RawValue>,
    allowed: &[&str],
    class: ErrorClass,
) -> Result<Option<String>, Refusal> {
    match text_field(name, raw)? {
        Some(text) if !allowed.contains(&text.as_str()) => {
            Err((class, format!("`{name}` is none of {}", allowed.join(", "))))
        }
        other => Ok(other),
    }
}

/// A list of ids.
pub(super) fn id_list(name: &str, raw: Option<&RawValue>) -> Result<Vec<String>, Refusal> {
    let Some(raw) = given(raw) else { return Ok(Vec::new()) };
    let ids: Vec<String> = serde_json::from_str(raw)
        .map_err(|_| (ErrorClass::WrongType, format!("`{name}` must be a list of strings")))?;
    if ids.iter().any(|id| id.is_empty() || id.len() > LONGEST_ID) {
        return Err((
            ErrorClass::InvalidValue,
            format!("`{name}` holds an id that is empty or longer than {LONGEST_ID} bytes"),
        ));
    }
    Ok(ids)
}
