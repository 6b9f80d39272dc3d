//! Taking user ids out of payloads that no contract could read.
//!
//! A dead letter keeps its payload so that it can be mended and replayed, but the raw user id must not land even
//! there. A payload that is a JSON object is walked by its tokens and stays the JSON that it was; anything else is
//! searched for the keys under which ids stand, whatever quotes surround them.

use serde::de::IgnoredAny;

use crate::person::{self, Person, Place};
use crate::subject::{Pepper, SubjectKey};

/// The keys whose values are user ids, and whether they must stand in quotes to be a key.
const PERSON_KEYS: [(&str, bool); 3] = [("user_id", false), ("safety_identifier", false), ("user", true)];

/// The longest escaped key: each letter of the longest one as `\uXXXX`, and quotes.
const LONGEST_ESCAPED_KEY: usize = 17 * 6 + 2;

/// A payload fit for the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// The payload, user ids replaced.
    pub payload: Vec<u8>,
    /// The person of the record, if one was found.
    pub subject_key: Option<SubjectKey>,
    /// The producer's event id, if one can be read.
    pub event_id: Option<String>,
    people: Vec<Person>,
}

impl Redacted {
    /// The subject key in place of a text that stands beside the payload, such as a record's key, if it is one of the
    /// user ids found inside.
    pub fn pseudonym(&self, text: &[u8], pepper: &Pepper) -> Option<SubjectKey> {
        person::pseudonym(text, &self.people, pepper)
    }
}

/// Replaces the user ids that can be found in `bytes`.
pub fn redact(bytes: &[u8], pepper: &Pepper) -> Redacted {
    let json = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.trim_start().starts_with(['{', '[']))
        .filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let (payload, people) = match json {
        Some(text) => {
            let people = person::find(text);
            (person::cut(text, &people, pepper).into_bytes(), people)
        }
        None => search(bytes, pepper),
    };
    let subject_key = person::subject(&people).map(|id| pepper.subject_key(id));
    Redacted { payload, subject_key, event_id: event_id(bytes), people }
}

/// The payload of what is no JSON object, ids replaced, and the ids.
fn search(bytes: &[u8], pepper: &Pepper) -> (Vec<u8>, Vec<Person>) {
    let mut payload = Vec::with_capacity(bytes.len());
    let mut people = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let value = key_at(bytes, at).and_then(|(end, quotes)| Some((quotes, value_after(bytes, end)?)));
        let Some((quotes, (start, end))) = value else {
            payload.push(bytes[at]);
            at += 1;
            continue;
        };
        payload.extend_from_slice(&bytes[at..start]);
        let raw = &bytes[start..end];
        if matches!(raw, b"null" | b"None" | b"") {
            payload.extend_from_slice(raw);
            at = end.max(at + 1);
            continue;
        }
        let id = unquoted(raw);
        // The value gets the quotes that its key has: bare ones where the payload is JSON inside a JSON string.
        let quotes = if quotes.is_empty() && raw.starts_with(b"\"") { b"\"".as_slice() } else { quotes };
        payload.extend_from_slice(quotes);
        payload.extend_from_slice(pepper.subject_key(&id).as_str().as_bytes());
        payload.extend_from_slice(quotes);
        people.push(Person { start, end, id: Some(id), place: Place::Elsewhere });
        at = end;
    }
    (payload, people)
}

/// A key of a user id at `at`: where it ends (behind its quotes), and what its closing quotes look like.
fn key_at(bytes: &[u8], at: usize) -> Option<(usize, &[u8])> {
    if bytes.get(at) == Some(&b'"') {
        return escaped_key_at(bytes, at);
    }
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
        return None;
    }
    let rest = bytes.get(at..)?;
    let (key, needs_quotes) = PERSON_KEYS.into_iter().find(|(key, _)| {
        rest.starts_with(key.as_bytes())
            && !rest.get(key.len()).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    })?;
    let end = at + key.len();
    let quotes = rest.get(key.len()..)?.iter().take_while(|byte| matches!(byte, b'\\' | b'"' | b'\'')).count();
    let is_quoted = quotes > 0 && before.is_some_and(|byte| matches!(byte, b'"' | b'\''));
    (!needs_quotes || is_quoted).then(|| (end + quotes, &bytes[end..end + quotes]))
}

/// A key that is written with escapes (`"user\u005fid"`).
fn escaped_key_at(bytes: &[u8], at: usize) -> Option<(usize, &[u8])> {
    let window = bytes.get(at + 1..bytes.len().min(at + LONGEST_ESCAPED_KEY))?;
    let length = window.iter().position(|byte| *byte == b'"')?;
    let raw = bytes.get(at..at + length + 2)?;
    if !raw.contains(&b'\\') {
        return None;
    }
    let key: String = serde_json::from_slice(raw).ok()?;
    PERSON_KEYS.iter().any(|(name, _)| *name == key).then(|| (at + raw.len(), &bytes[at..=at]))
}

/// The value behind a key: from its opening quotes or bracket to behind its closing ones.
fn value_after(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let space = |at: usize| {
        let rest = bytes.get(at..).unwrap_or_default();
        at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
    };
    let colon = space(at);
    if !matches!(bytes.get(colon), Some(b':' | b'=')) {
        return None;
    }
    let start = space(colon + 1);
    let rest = bytes.get(start..)?;
    let escapes = rest.iter().take_while(|byte| **byte == b'\\').count();
    let length = match rest.get(escapes) {
        Some(quote @ (b'"' | b'\'')) => quoted_length(rest, escapes, *quote),
        Some(b'{' | b'[') => bracket_length(rest),
        _ => rest
            .iter()
            .position(|byte| matches!(byte, b',' | b'}' | b']' | b'"' | b'&') || byte.is_ascii_whitespace())
            .unwrap_or(rest.len()),
    };
    Some((start, start + length))
}

/// How far a quoted value reaches. One that never closes runs to the end of the payload: all of it may be the id.
fn quoted_length(rest: &[u8], escapes: usize, quote: u8) -> usize {
    let mut at = escapes + 1;
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\\' if escapes == 0 => at += 2,
            byte if *byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// How far an object or a list reaches, brackets inside strings not told apart: too much is better than too little.
fn bracket_length(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in rest.iter().enumerate() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    rest.len()
}

/// The id inside its quotes.
fn unquoted(raw: &[u8]) -> String {
    serde_json::from_slice::<String>(raw).unwrap_or_else(|_| {
        String::from_utf8_lossy(raw).trim_matches(|letter| matches!(letter, '\\' | '"' | '\'')).to_owned()
    })
}

/// What stands under the first `event_id`, if it is a string that can be an id.
fn event_id(bytes: &[u8]) -> Option<String> {
    let key = b"\"event_id\"";
    let at = bytes.windows(key.len()).position(|window| window == key)?;
    let (start, end) = value_after(bytes, at + key.len())?;
    let id: String = serde_json::from_slice(bytes.get(start..end)?).ok()?;
    // An id that long is no id but a piece of broken text.
    (!id.is_empty() && id.len() <= crate::contract::LONGEST_ID).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> (String, bool) {
        let pepper = Pepper::new("0123456789abcdef").unwrap();
        let redacted = redact(text.as_bytes(), &pepper);
        (String::from_utf8(redacted.payload).unwrap(), redacted.subject_key.is_some())
    }

    #[test]
    fn ids_go_even_from_broken_json() {
        for text in [
            r#"{"user_id": "ann@example.org", "content": "#,
            r#"{"request":{"user":"ann@example.org"}"#,
            r#"{"user_id":"ann@example.org"#,
            r#"xx "safety_identifier" : "ann@example.org" yy"#,
            r#"{"user\u005fid":"ann@example.org", broken"#,
            r#"{"user_id":"a\u006en@example.org", broken"#,
            r#"{"user_id":["ann@example.org"], broken"#,
            r#"{"user_id":{"mail":"ann@example.org"}, broken"#,
            r#"{"user_id":ann@example.org, broken"#,
            "{'user_id': 'ann@example.org', 'content': 'hi'}",
            "user_id: ann@example.org\ncontent: hi",
            "user_id=ann@example.org&content=hi",
            r#""{\"user_id\":\"ann@example.org\",\"content\":\"hi\"}""#,
            r#"{"content":"never closed, "user_id":"ann@example.org"}"#,
        ] {
            let (payload, found) = redacted(text);
            assert!(found && !payload.contains("ann@") && !payload.contains("n@example"), "{text} -> {payload}");
        }
        let (payload, found) = redacted(r#"{"user_id": 4711, "x": 1"#);
        assert!(found && !payload.contains("4711") && payload.ends_with(r#", "x": 1"#), "{payload}");
        let (payload, _) = redacted(r#"{"user_id": 4711.25, "x": 1"#);
        assert!(!payload.contains("25"), "{payload}");
    }

    #[test]
    fn what_was_json_stays_json() {
        for text in [
            r#"{"user_id":"ann@example.org","user_id":"ann@example.org"}"#,
            r#"{"user_id":{"mail":"ann@example.org"},"x":[1,{"user_id":4711}]}"#,
            r#"["user_id",{"user_id":"ann@example.org"}]"#,
            r#"{"user\u005fid" : "ann@example.org" }"#,
            r#""{\"user_id\":\"ann@example.org\",\"content\":\"hi\"}""#,
            r#""{\"user_id\": 4711,\"content\":\"ann@\"}""#,
        ] {
            let (payload, _) = redacted(text);
            assert!(!payload.contains("ann@example.org") && !payload.contains("4711"), "{text} -> {payload}");
            let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
            if let Some(inner) = value.as_str() {
                assert!(serde_json::from_str::<serde_json::Value>(inner).is_ok(), "{inner}");
            }
        }
    }

    #[test]
    fn other_text_stays() {
        for text in [
            r#"{"role":"user","content":"the \"user_id\" field"}"#,
            r#"{"role":"user","content":"user_id: none of yours","superuser_id_count":3}"#,
            r#"{"role":"user","content":"broken"#,
        ] {
            assert_eq!(redacted(text), (text.to_owned(), false));
        }
    }

    #[test]
    fn an_id_beside_the_payload_is_known_again() {
        let pepper = Pepper::new("0123456789abcdef").unwrap();
        let redacted = redact(br#"{"user_id":"ann"}"#, &pepper);
        assert_eq!(redacted.pseudonym(b"ann", &pepper), Some(pepper.subject_key("ann")));
        assert_eq!(redacted.pseudonym(b"bob", &pepper), None);
    }
}
