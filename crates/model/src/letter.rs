//! Taking user ids out of payloads that no contract could read.
//!
//! A dead letter keeps its payload so that it can be mended and replayed, but the raw user id must not land even
//! there. The payload may be no JSON at all, so this scans bytes for the keys under which ids stand.

use crate::subject::{Pepper, SubjectKey};

/// The keys whose values are user ids.
const PERSON_KEYS: [&[u8]; 3] = [b"\"user_id\"", b"\"user\"", b"\"safety_identifier\""];

/// A payload fit for the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// The payload, user ids replaced.
    pub payload: Vec<u8>,
    /// The first person found.
    pub subject_key: Option<SubjectKey>,
    /// The producer's event id, if one can be read.
    pub event_id: Option<String>,
}

/// Replaces the user ids that can be found in `bytes`.
pub fn redact(bytes: &[u8], pepper: &Pepper) -> Redacted {
    let mut payload = Vec::with_capacity(bytes.len());
    let mut subject_key = None;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let hit = PERSON_KEYS.iter().find(|key| rest.starts_with(key));
        let Some((start, end, id)) = hit.and_then(|key| scalar_after(bytes, at + key.len())) else {
            payload.push(bytes[at]);
            at += 1;
            continue;
        };
        payload.extend_from_slice(&bytes[at..start]);
        let key = pepper.subject_key(&id);
        payload.push(b'"');
        payload.extend_from_slice(key.as_str().as_bytes());
        payload.push(b'"');
        subject_key.get_or_insert(key);
        at = end;
    }
    Redacted { payload, subject_key, event_id: event_id(bytes) }
}

fn event_id(bytes: &[u8]) -> Option<String> {
    let key = b"\"event_id\"";
    let at = bytes.windows(key.len()).position(|window| window == key)?;
    let (_, _, id) = scalar_after(bytes, at + key.len())?;
    // An id that long is no id but a piece of broken text.
    (id.len() <= 200).then_some(id)
}

/// The string or number after a key: where it starts and ends, and its text. `None` where something else stands.
fn scalar_after(bytes: &[u8], mut at: usize) -> Option<(usize, usize, String)> {
    let skip = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    };
    at = skip(at);
    if bytes.get(at) != Some(&b':') {
        return None;
    }
    let start = skip(at + 1);
    if bytes.get(start) == Some(&b'"') {
        let mut end = start + 1;
        while let Some(byte) = bytes.get(end) {
            match byte {
                b'\\' => end += 2,
                b'"' => break,
                _ => end += 1,
            }
        }
        // A string that never closes runs to the end of the payload: all of it may be the id.
        let closed = (end + 1).min(bytes.len());
        let raw = bytes.get(start..closed)?;
        let text = serde_json::from_slice::<String>(raw)
            .unwrap_or_else(|_| String::from_utf8_lossy(raw.get(1..).unwrap_or_default()).into_owned());
        return Some((start, closed, text));
    }
    let length = bytes.get(start..)?.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
    let raw = bytes.get(start..start + length).filter(|raw| !raw.is_empty())?;
    Some((start, start + length, String::from_utf8_lossy(raw).into_owned()))
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
        ] {
            let (payload, found) = redacted(text);
            assert!(found && !payload.contains("ann@"), "{payload}");
        }
        let (payload, found) = redacted(r#"{"user_id": 4711, "x": 1"#);
        assert!(found && !payload.contains("4711") && payload.ends_with(r#", "x": 1"#), "{payload}");
    }

    #[test]
    fn other_text_stays() {
        let text = r#"{"role":"user","content":"the \"user_id\" field"}"#;
        assert_eq!(redacted(text), (text.to_owned(), false));
    }
}
