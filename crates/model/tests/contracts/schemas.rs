//! Examples and refused records against the schemas and the decoder.

use std::collections::BTreeSet;

use serde_json::Value;
use uptake_model::contract::{Contract, ErrorClass, REACTION_KINDS, ROLES};
use uptake_model::decode::{Edge, Outcome, decode};
use uptake_model::facts;
use uptake_model::labels;
use uptake_model::signal::{Signal, input_hash};
use uptake_model::tables;

use crate::{NOW, accepted, edge, record, schemas};

const TOPICS: [(&str, Option<Contract>); 7] = [
    ("message", Some(Contract::Messages)),
    ("reaction", Some(Contract::Reactions)),
    ("completion", Some(Contract::Completions)),
    ("erasure", Some(Contract::Erasures)),
    ("signal", None),
    ("live_signal", None),
    ("dead_letter", None),
];

pub(crate) fn schema(name: &str) -> Value {
    let path = schemas(&format!("topics/{name}.schema.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// One of the schemas, ready to judge.
struct Validator {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Validator {
    fn new(name: &str) -> Self {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.set_default_draft(boon::Draft::V2020_12);
        let location = format!("urn:uptake:topics:{name}");
        compiler.add_resource(&location, schema(name)).unwrap();
        let index = compiler.compile(&location, &mut schemas).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { schemas, index }
    }

    fn validate(&self, value: &Value) -> Result<(), String> {
        self.schemas.validate(value, self.index).map_err(|error| error.to_string())
    }
}

/// One file of `schemas/fixtures/refused`.
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) contract: Contract,
    pub(crate) class: String,
    pub(crate) payload: Vec<u8>,
    max_record_bytes: Option<usize>,
}

pub(crate) fn all_refused() -> Vec<Refused> {
    let mut all: Vec<Refused> = std::fs::read_dir(schemas("fixtures/refused"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let value: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let payload = match (&value["record"], &value["payload"], &value["payload_hex"]) {
                (Value::Null, Value::String(text), Value::Null) => text.clone().into_bytes(),
                (Value::Null, Value::Null, Value::String(digits)) => bytes_of(digits),
                (record, Value::Null, Value::Null) => record.to_string().into_bytes(),
                _ => panic!("{}: one of record, payload, payload_hex", path.display()),
            };
            Refused {
                name: path.file_stem().unwrap().to_string_lossy().into_owned(),
                contract: value["contract"].as_str().unwrap().parse().unwrap(),
                class: value["error_class"].as_str().unwrap().to_owned(),
                payload,
                max_record_bytes: value["max_record_bytes"].as_u64().map(|bound| usize::try_from(bound).unwrap()),
            }
        })
        .collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

fn bytes_of(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn every_example_is_valid_and_accepted() {
    for (name, contract) in TOPICS {
        let schema = schema(name);
        let validator = Validator::new(name);
        let examples = schema["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{name} has no example");
        for example in examples {
            if let Err(error) = validator.validate(example) {
                panic!("{name}: {example} is not valid: {error}");
            }
            let Some(contract) = contract else { continue };
            let row = accepted(&example.to_string(), contract);
            match contract {
                Contract::Messages | Contract::Completions => {
                    let turns =
                        facts::turns_of(row.kind, &row.payload, row.event_time, row.subject_key.as_deref()).unwrap();
                    assert!(!turns.is_empty(), "{example}");
                }
                Contract::Reactions => drop(facts::reaction_of(&row.payload).unwrap()),
                Contract::Erasures => assert!(row.subject_key.is_some()),
            }
        }
    }
}

#[test]
fn every_refused_record_is_refused_for_its_reason() {
    for refused in all_refused() {
        let bound = refused.max_record_bytes.unwrap_or(1 << 20);
        let edge = Edge { max_record_bytes: bound, ..edge() };
        let outcome = decode(&record(&refused.payload), refused.contract, &edge, NOW);
        let Outcome::Letter(letter) = outcome else {
            panic!("{}: expected {}, found {outcome:?}", refused.name, refused.class);
        };
        assert_eq!(letter.class.name(), refused.class, "{}: {}", refused.name, letter.error);
        assert!(!letter.error.contains("ann@") && !letter.error.ends_with('.'), "{}: {}", refused.name, letter.error);
        let payload = String::from_utf8_lossy(letter.payload.as_deref().unwrap_or_default()).into_owned();
        assert!(!payload.contains("@example.org"), "{}: {payload}", refused.name);
    }
}

#[test]
fn every_reason_is_shown() {
    let shown: BTreeSet<String> = all_refused().into_iter().map(|refused| refused.class).collect();
    for class in ErrorClass::ALL {
        // Judged over several records, not one: the jobs have the case.
        if class != ErrorClass::EventIdReused {
            assert!(shown.contains(class.name()), "no refused record shows {}", class.name());
        }
    }
}

/// What the schemas list is what the code knows.
#[test]
fn lists_agree_with_the_code() {
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let known = |list: &[&str]| -> BTreeSet<String> { list.iter().map(|name| (*name).to_owned()).collect() };
    assert_eq!(names(&schema("message")["properties"]["role"]["enum"]), known(&ROLES));
    assert_eq!(names(&schema("reaction")["properties"]["kind"]["enum"]), known(&REACTION_KINDS));
    let classes: Vec<&str> = ErrorClass::ALL.into_iter().map(ErrorClass::name).collect();
    assert_eq!(names(&schema("dead_letter")["properties"]["error_class"]["enum"]), known(&classes));
    let signals: BTreeSet<String> = (0..labels::OUTPUTS).filter_map(labels::output_name).map(str::to_owned).collect();
    let signal = schema("signal");
    let mut listed = names(&signal["properties"]["labels"]["required"]);
    listed.extend(["sat".to_owned(), "dsat".to_owned()]);
    assert_eq!(listed, signals);
}

/// What is published is what the contract says, field by field, and the fields are those of the table.
#[test]
fn a_live_signal_is_what_its_contract_says() {
    let signal = Signal {
        turn_id: "a".to_owned(),
        follow_up_turn_id: "u".to_owned(),
        conversation_id: "c".to_owned(),
        tagger_id: "tagger-1".to_owned(),
        input_hash: input_hash(&[("user", "hi")], "hello", "no"),
        probabilities: [1.0; labels::OUTPUTS],
        fires: [true; labels::OUTPUTS],
        conversation_date: 20_000,
    };
    let published = serde_json::to_value(&signal).unwrap();
    Validator::new("live_signal").validate(&published).unwrap();
    let schema = schema("live_signal");
    let described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(described, published.as_object().unwrap().keys().collect());
    let required = schema["required"].as_array().unwrap();
    assert_eq!(required.len(), described.len(), "nothing of it is ever left out");
    let columns: BTreeSet<&str> =
        tables::SIGNALS.columns.iter().map(|column| column.name).chain(["signal_id"]).collect();
    assert_eq!(columns, described.iter().map(|name| name.as_str()).collect());
    let mut wrong = published.clone();
    wrong["labels"] = serde_json::json!(["joy"]);
    assert!(Validator::new("live_signal").validate(&wrong).is_err());
}

/// What the schema calls invalid for its values, the decoder refuses too, and the other way round, as far as a schema
/// can say it: ids that are too long, kinds, roles, consents, ranges, required fields.
#[test]
fn schema_and_decoder_agree_on_refused_values() {
    // Beyond JSON Schema: what text a list of parts holds, times in words, dates inside ids, two ways to call a tool.
    let beyond = ["invalid_time", "missing_conversation_start", "empty_content", "record_too_large"];
    for refused in all_refused() {
        let Ok(value) = serde_json::from_slice::<Value>(&refused.payload) else { continue };
        let twice = refused.name.ends_with("-twice");
        if beyond.contains(&refused.class.as_str()) || twice {
            continue;
        }
        let validator = Validator::new(refused.contract.kind());
        assert!(validator.validate(&value).is_err(), "{} is valid under the schema", refused.name);
    }
}
