//! Finding the user ids in a record, so that they never land.
//!
//! A JSON text is walked by its tokens (ids under escaped keys and under keys that stand twice are found too); what is
//! no JSON is searched by its bytes, and rather too much is taken there than too little.
//!
//! Ids are the values of `user_id` and `safety_identifier` wherever they stand, and of `user` at the top, in `request`
//! and in `metadata` (`OpenAI` API reference, "Create chat completion", fields `user` and `safety_identifier`).

use crate::subject::{Pepper, SubjectKey};

/// One user id in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    /// Where the value starts, in bytes.
    pub(crate) start: usize,
    /// Where it ends.
    pub(crate) end: usize,
    /// The id, or `None` where an object or a list stands in its place.
    pub(crate) id: Option<String>,
    /// Where it stands.
    pub(crate) place: Place,
}

/// The places that the contracts name, best known first, and all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// `user_id`.
    Top,
    /// `request.user`.
    RequestUser,
    /// `request.safety_identifier`.
    RequestSafetyIdentifier,
    /// `request.metadata.user_id`.
    RequestMetadata,
    /// A place that no contract names.
    Elsewhere,
}

impl Place {
    /// The path as people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Top => "user_id",
            Self::RequestUser => "request.user",
            Self::RequestSafetyIdentifier => "request.safety_identifier",
            Self::RequestMetadata => "request.metadata.user_id",
            Self::Elsewhere => "…",
        }
    }
}

/// A key on the way from the root to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    User,
    UserId,
    SafetyIdentifier,
    Request,
    Metadata,
    Other,
}

impl Step {
    fn of(raw: &str) -> Self {
        let unescaped = if raw.contains('\\') { serde_json::from_str::<String>(raw).ok() } else { None };
        match unescaped.as_deref().unwrap_or_else(|| raw.trim_matches('"')) {
            "user" => Self::User,
            "user_id" => Self::UserId,
            "safety_identifier" => Self::SafetyIdentifier,
            "request" => Self::Request,
            "metadata" => Self::Metadata,
            _ => Self::Other,
        }
    }
}

/// The place of a user id, if a value under this path is one.
fn names_person(path: &[Step]) -> Option<Place> {
    let (last, parents) = path.split_last()?;
    match (parents, last) {
        ([], Step::UserId) => Some(Place::Top),
        ([Step::Request], Step::User) => Some(Place::RequestUser),
        ([Step::Request], Step::SafetyIdentifier) => Some(Place::RequestSafetyIdentifier),
        ([Step::Request, Step::Metadata], Step::UserId) => Some(Place::RequestMetadata),
        (_, Step::UserId | Step::SafetyIdentifier) => Some(Place::Elsewhere),
        (parents, Step::User) => {
            parents.iter().all(|step| matches!(step, Step::Request | Step::Metadata)).then_some(Place::Elsewhere)
        }
        _ => None,
    }
}

/// The user ids in a text that is valid JSON, in the order of the text.
pub(crate) fn find(text: &str) -> Vec<Person> {
    // Most events of a product without accounts end here.
    if !text.contains("user") && !text.contains("safety_identifier") && !text.contains("\\u") {
        return Vec::new();
    }
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    // One entry a level: the key that the value stands under; for a list, the key that the list stands under.
    let mut path: Vec<Step> = Vec::new();
    let mut levels: Vec<u8> = Vec::new();
    let mut key_next = false;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' => {
                levels.push(b'{');
                path.push(Step::Other);
                key_next = true;
                at += 1;
            }
            b'[' => {
                levels.push(b'[');
                path.push(Step::Other);
                key_next = false;
                at += 1;
            }
            b'}' | b']' => {
                let _ = (levels.pop(), path.pop());
                key_next = false;
                at += 1;
            }
            b',' => {
                key_next = levels.last() == Some(&b'{');
                at += 1;
            }
            b'"' => {
                let end = value_end(bytes, at);
                if key_next {
                    key_next = false;
                    if let (Some(step), Some(raw)) = (path.last_mut(), text.get(at..end)) {
                        *step = Step::of(raw);
                    }
                    let start = skip_space(bytes, skip_space(bytes, end) + 1);
                    at = person_at(text, start, &path, &mut found);
                } else {
                    at = end;
                }
            }
            _ => at += 1,
        }
    }
    found
}

/// Notes the value that starts at `start` if it is a user id; returns where to read on.
fn person_at(text: &str, start: usize, path: &[Step], found: &mut Vec<Person>) -> usize {
    let Some(place) = names_person(path) else { return start };
    let end = value_end(text.as_bytes(), start);
    let Some(raw) = text.get(start..end) else { return start };
    match raw.as_bytes().first() {
        Some(b'"') => {
            let id = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.trim_matches('"').to_owned());
            if !id.is_empty() {
                found.push(Person { start, end, id: Some(id), place });
            }
            end
        }
        Some(b'-' | b'0'..=b'9') => {
            found.push(Person { start, end, id: Some(raw.to_owned()), place });
            end
        }
        Some(b'n') => end,
        // A truth value, an object or a list where a contract wants an id; elsewhere it is something else of that name
        // (the description of a tool's parameter), and is searched.
        _ if place != Place::Elsewhere => {
            found.push(Person { start, end, id: None, place });
            end
        }
        _ => start,
    }
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Where the JSON value that starts at `start` ends; the end of the text where it does not.
fn value_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0_usize;
    loop {
        match bytes.get(at) {
            None => return bytes.len(),
            Some(b'"') => {
                at += 1;
                loop {
                    match bytes.get(at) {
                        None => return bytes.len(),
                        Some(b'\\') => at += 2,
                        Some(b'"') => break,
                        Some(_) => at += 1,
                    }
                }
                at += 1;
            }
            Some(b'{' | b'[') => {
                depth += 1;
                at += 1;
            }
            Some(b'}' | b']') => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            Some(_) if depth > 0 => {
                at += 1;
                continue;
            }
            Some(_) => {
                let rest = bytes.get(at..).unwrap_or_default();
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                return at + rest.iter().position(ends).unwrap_or(rest.len());
            }
        }
        if depth == 0 {
            return at;
        }
    }
}

/// The text with every id replaced by its subject key, as a JSON string; what is no id is replaced by a note.
pub(crate) fn cut(text: &str, people: &[Person], pepper: &Pepper) -> String {
    let mut cut = String::with_capacity(text.len());
    let mut done = 0;
    for person in people {
        cut.push_str(text.get(done..person.start).unwrap_or_default());
        cut.push('"');
        match &person.id {
            Some(id) => cut.push_str(pepper.subject_key(id).as_str()),
            None => cut.push_str("removed: no user id"),
        }
        cut.push('"');
        done = person.end;
    }
    cut.push_str(text.get(done..).unwrap_or_default());
    cut
}

/// The record's subject: the id at the best known place.
pub(crate) fn subject<'a>(people: impl IntoIterator<Item = &'a Person>) -> Option<&'a str> {
    people
        .into_iter()
        .filter(|person| person.id.is_some())
        .min_by_key(|person| person.place)
        .and_then(|person| person.id.as_deref())
}

/// Replaces a user id in a text that stands beside the payload (a record's key, a header), if it is one of `people`.
pub(crate) fn pseudonym(text: &[u8], people: &[Person], pepper: &Pepper) -> Option<SubjectKey> {
    people
        .iter()
        .filter_map(|person| person.id.as_deref())
        .find(|id| id.as_bytes() == text.trim_ascii())
        .map(|id| pepper.subject_key(id))
}
