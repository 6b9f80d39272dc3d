//! User ids never survive: not in an event's payload, not in a letter's, not in an error, a key or a header.

use uptake_model::contract::Contract;
use uptake_model::decode::{Outcome, Record, decode};
use uptake_model::rows::Header;

use crate::{NOW, accepted, decoded, edge, key_of, record, refused};

const MESSAGE: &str = r#""event_id":"e-1","conversation_id":"01941f29-7c00-7aaa-8bbb-0123456789ab","message_id":"m-1","role":"user","content":"hi","event_time":1735689600"#;
const MESSAGES: &str = r#""messages":[{"role":"user","content":"hi"}]"#;
const RESPONSE: &str = r#""response":{"id":"c-1","choices":[{"message":{"role":"assistant","content":"hello"}}]}"#;

#[test]
fn every_place_is_cut_and_the_rest_stays() {
    let ann = key_of("ann@example.org");
    let key = ann.as_str();
    let cases: [(Contract, String, String); 12] = [
        (
            Contract::Messages,
            format!(r#"{{"user_id": "ann@example.org" , {MESSAGE}, "x": "ünï \u00e9" }}"#),
            format!(r#"{{"user_id": "{key}" , {MESSAGE}, "x": "ünï \u00e9" }}"#),
        ),
        // Escaped, in the value and in the key.
        (
            Contract::Messages,
            format!(r#"{{{MESSAGE},"user_id":"\u0061nn@example\u002eorg"}}"#),
            format!(r#"{{{MESSAGE},"user_id":"{key}"}}"#),
        ),
        (
            Contract::Messages,
            format!(r#"{{{MESSAGE},"user\u005fid":"ann@example.org"}}"#),
            format!(r#"{{{MESSAGE},"user\u005fid":"{key}"}}"#),
        ),
        // Where no contract names it.
        (
            Contract::Messages,
            format!(r#"{{{MESSAGE},"metadata":{{"user_id":"ann@example.org","user":"ann@example.org"}}}}"#),
            format!(r#"{{{MESSAGE},"metadata":{{"user_id":"{key}","user":"{key}"}}}}"#),
        ),
        (
            Contract::Messages,
            format!(r#"{{{MESSAGE},"seen":[[{{"user_id":"ann@example.org"}}]]}}"#),
            format!(r#"{{{MESSAGE},"seen":[[{{"user_id":"{key}"}}]]}}"#),
        ),
        (
            Contract::Messages,
            format!(r#"{{{MESSAGE},"user":"ann@example.org"}}"#),
            format!(r#"{{{MESSAGE},"user":"{key}"}}"#),
        ),
        (
            Contract::Reactions,
            r#"{"event_id":"r","message_id":"m","kind":"love","event_time":1735689600,"user_id":"ann@example.org"}"#
                .to_owned(),
            format!(r#"{{"event_id":"r","message_id":"m","kind":"love","event_time":1735689600,"user_id":"{key}"}}"#),
        ),
        (
            Contract::Completions,
            format!(r#"{{"request":{{"user":"ann@example.org",{MESSAGES}}},{RESPONSE}}}"#),
            format!(r#"{{"request":{{"user":"{key}",{MESSAGES}}},{RESPONSE}}}"#),
        ),
        (
            Contract::Completions,
            format!(r#"{{"request":{{{MESSAGES},"safety_identifier":"ann@example.org"}},{RESPONSE}}}"#),
            format!(r#"{{"request":{{{MESSAGES},"safety_identifier":"{key}"}},{RESPONSE}}}"#),
        ),
        (
            Contract::Completions,
            format!(r#"{{"request":{{"metadata":{{"user_id":"ann@example.org"}},{MESSAGES}}},{RESPONSE}}}"#),
            format!(r#"{{"request":{{"metadata":{{"user_id":"{key}"}},{MESSAGES}}},{RESPONSE}}}"#),
        ),
        // The same person in several places; the first place counts.
        (
            Contract::Completions,
            format!(
                r#"{{"request":{{"metadata":{{"user_id":"17"}},{MESSAGES}}},{RESPONSE},"user_id":"ann@example.org"}}"#
            ),
            format!(
                r#"{{"request":{{"metadata":{{"user_id":"{}"}},{MESSAGES}}},{RESPONSE},"user_id":"{key}"}}"#,
                key_of("17").as_str()
            ),
        ),
        (
            Contract::Erasures,
            r#"{"request_id":"x","user_id":"ann@example.org"}"#.to_owned(),
            format!(r#"{{"request_id":"x","user_id":"{key}"}}"#),
        ),
    ];
    for (contract, payload, expected) in cases {
        let row = accepted(&payload, contract);
        assert_eq!(row.payload, expected);
        assert_eq!(row.subject_key.as_deref(), Some(key), "{payload}");
    }
}

#[test]
fn a_number_is_the_same_person_as_its_digits() {
    let number = accepted(&format!(r#"{{{MESSAGE},"user_id":4711}}"#), Contract::Messages);
    let text = accepted(&format!(r#"{{{MESSAGE},"user_id":"4711"}}"#), Contract::Messages);
    assert_eq!(number.subject_key, text.subject_key);
    assert_eq!(number.payload, text.payload);
}

#[test]
fn nobody_is_nobody() {
    for absent in ["null", "\"\""] {
        let row = accepted(&format!(r#"{{{MESSAGE},"user_id":{absent}}}"#), Contract::Messages);
        assert_eq!(row.subject_key, None);
    }
}

/// A description of a tool's parameter is no person.
#[test]
fn what_only_bears_the_name_stays() {
    let payload = format!(
        r#"{{"request":{{{MESSAGES},"tools":[{{"parameters":{{"properties":{{"user_id":{{"type":"string"}}}}}}}}]}},{RESPONSE}}}"#
    );
    assert_eq!(accepted(&payload, Contract::Completions).payload, payload);
    let payload = format!(r#"{{{MESSAGE},"note":"my \"user_id\": \"17\" is wrong"}}"#);
    assert_eq!(accepted(&payload, Contract::Messages).payload, payload);
}

#[test]
fn a_refused_record_keeps_nothing_of_the_person() {
    let id = "ann@example.org";
    let cases: [(Contract, String); 10] = [
        (Contract::Messages, r#"{"user_id":"ann@example.org"}"#.to_owned()),
        (Contract::Messages, r#"{"user_id":"ann@example.org","user_id":"ann@example.org"}"#.to_owned()),
        (Contract::Messages, format!(r#"{{{MESSAGE},"user_id":["ann@example.org"]}}"#)),
        (Contract::Messages, format!(r#"{{{MESSAGE},"user_id":{{"expected ":", expected ann@example.org"}}}}"#)),
        (Contract::Messages, r#"{"content":"cut off","user_id":"ann@example.org"#.to_owned()),
        (Contract::Messages, r#"["user_id",{"user_id":"ann@example.org"}]"#.to_owned()),
        (
            Contract::Messages,
            r#"{"event_time":"ann@example.org","user_id":"ann@example.org"}"#.replacen("ann@example.org", "now", 1),
        ),
        (
            Contract::Completions,
            format!(r#"{{"request":{{"user":"ann@example.org","user":"x",{MESSAGES}}},{RESPONSE}}}"#),
        ),
        (Contract::Completions, r#"{"request":{"user":"ann@example.org","messages":[]}}"#.to_owned()),
        (Contract::Erasures, r#"{"user_id":"ann@example.org"}"#.to_owned()),
    ];
    for (contract, payload) in cases {
        let letter = refused(payload.as_bytes(), contract);
        let kept = String::from_utf8_lossy(letter.payload.as_deref().unwrap()).into_owned();
        assert!(!kept.contains(id), "{kept}");
        assert!(!letter.error.contains("ann"), "{}", letter.error);
    }
}

#[test]
fn keys_and_headers_that_are_the_person_are_cut_too() {
    for (payload, is_event) in
        [(format!(r#"{{{MESSAGE},"user_id":"ann"}}"#), true), (r#"{"user_id":"ann"}"#.to_owned(), false)]
    {
        let headers = [("user", "ann"), ("trace", "annabel")]
            .map(|(key, value)| Header { key: key.to_owned(), value: Some(value.to_owned()) });
        let record = Record { key: Some(b"ann"), headers: headers.to_vec(), ..record(payload.as_bytes()) };
        let (headers, key) = match decode(&record, Contract::Messages, &edge(), NOW) {
            Outcome::Event(row) if is_event => (row.headers, None),
            Outcome::Letter(letter) if !is_event => (letter.headers, letter.key),
            other => panic!("{other:?}"),
        };
        let ann = key_of("ann").into_string();
        assert_eq!(headers[0].value.as_deref(), Some(ann.as_str()));
        assert_eq!(headers[1].value.as_deref(), Some("annabel"));
        assert!(is_event || key == Some(ann.into_bytes()));
    }
}

#[test]
fn the_registry_prefix_stays_before_a_letter() {
    let payload = [&[0, 0, 0, 0, 7][..], br#"{"user_id":"ann"}"#].concat();
    let Outcome::Letter(letter) = decoded(&payload, Contract::Messages) else { panic!() };
    let expected = [&[0, 0, 0, 0, 7][..], format!(r#"{{"user_id":"{}"}}"#, key_of("ann").as_str()).as_bytes()].concat();
    assert_eq!(letter.payload.unwrap(), expected);
    assert_eq!(letter.schema_id, Some(7));
}
