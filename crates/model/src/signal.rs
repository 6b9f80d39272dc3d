//! A signal as it is published: a row of `silver.signals` as JSON, with an id of its own.
//!
//! The contract is `schemas/topics/live_signal.schema.json`. Id and hash are what SQL's `digest` gives in the pipelines:
//! `digest(turn_id, follow_up_turn_id, tagger_id)` is the id of a row, and the row's own `input_hash` says what was read.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::decode::content_hash;
use crate::labels::{DSAT, Label, OUTPUTS, SAT, output_name};
use crate::time::{self, Day};

/// What a tagger reads in one follow-up.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Assistant turn that is judged.
    pub turn_id: String,
    /// User turn that carries the evidence.
    pub follow_up_turn_id: String,
    /// Conversation.
    pub conversation_id: String,
    /// Version of the tagger.
    pub tagger_id: String,
    /// Hash of the texts that the tagger read: see [`input_hash`].
    pub input_hash: String,
    /// Probabilities in the order of the outputs ([`crate::labels`]).
    pub probabilities: [f32; OUTPUTS],
    /// Which of them reach their thresholds.
    pub fires: [bool; OUTPUTS],
    /// UTC day of the conversation's start.
    pub conversation_date: Day,
}

impl Signal {
    /// The id: the same for every telling of what this tagger reads in this follow-up.
    pub fn id(&self) -> String {
        signal_id(&self.turn_id, &self.follow_up_turn_id, &self.tagger_id)
    }
}

/// The outputs in the order of the table's columns: sat, dsat, then the labels.
pub fn output_order() -> impl Iterator<Item = usize> {
    [SAT, DSAT].into_iter().chain(Label::ALL.into_iter().map(Label::output))
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("signal_id", &self.id())?;
        map.serialize_entry("turn_id", &self.turn_id)?;
        map.serialize_entry("follow_up_turn_id", &self.follow_up_turn_id)?;
        map.serialize_entry("conversation_id", &self.conversation_id)?;
        map.serialize_entry("tagger_id", &self.tagger_id)?;
        map.serialize_entry("input_hash", &self.input_hash)?;
        let fired = output_order().filter(|output| self.fires[*output]).filter_map(output_name);
        map.serialize_entry("labels", &fired.collect::<Vec<_>>())?;
        for output in output_order() {
            if let Some(name) = output_name(output) {
                map.serialize_entry(name, &self.probabilities[output])?;
            }
        }
        map.serialize_entry("conversation_date", &time::day_text(self.conversation_date))?;
        map.end()
    }
}

/// The id of a signal: 128 bits over the key of `silver.signals`, hexadecimal.
pub fn signal_id(turn_id: &str, follow_up_turn_id: &str, tagger_id: &str) -> String {
    let mut bytes = Vec::new();
    for text in [turn_id, follow_up_turn_id, tagger_id] {
        add(text, &mut bytes);
    }
    content_hash(&bytes)
}

/// The hash of what a tagger reads: the messages before the response as (role, text), oldest first, the response, and the
/// follow-up.
pub fn input_hash(before: &[(&str, &str)], response: &str, follow_up: &str) -> String {
    let mut bytes = vec![1];
    bytes.extend((before.len() as u64).to_le_bytes());
    for (role, text) in before {
        bytes.push(1);
        add(role, &mut bytes);
        add(text, &mut bytes);
    }
    add(response, &mut bytes);
    add(follow_up, &mut bytes);
    content_hash(&bytes)
}

/// A value that is there, its length, and it.
fn add(text: &str, bytes: &mut Vec<u8>) {
    bytes.push(1);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::SIGNALS;

    fn signal() -> Signal {
        let mut fires = [false; OUTPUTS];
        fires[Label::Style.output()] = true;
        fires[DSAT] = true;
        Signal {
            turn_id: "a1".to_owned(),
            follow_up_turn_id: "u2".to_owned(),
            conversation_id: "c".to_owned(),
            tagger_id: "tagger-1".to_owned(),
            input_hash: input_hash(&[("user", "hi")], "hello", "no"),
            probabilities: [0.25; OUTPUTS],
            fires,
            conversation_date: 20_000,
        }
    }

    #[test]
    fn the_fields_are_the_columns_of_the_table_and_the_id() {
        let value = serde_json::to_value(signal()).unwrap();
        let mut fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut columns: Vec<&str> = SIGNALS.columns.iter().map(|column| column.name).collect();
        columns.push("signal_id");
        fields.sort_unstable();
        columns.sort_unstable();
        assert_eq!(fields, columns);
        assert_eq!(value["labels"], serde_json::json!(["dsat", "style"]));
        assert_eq!(value["conversation_date"], "2024-10-04");
    }

    /// Stored by those who read the topic: never change them.
    #[test]
    fn ids_and_hashes_are_fixed() {
        assert_eq!(signal().id(), signal_id("a1", "u2", "tagger-1"));
        assert_ne!(signal_id("a1u", "2", "t"), signal_id("a1", "u2", "t"), "lengths are part of it");
        assert_ne!(input_hash(&[("user", "hi")], "a", "b"), input_hash(&[], "a", "b"));
        assert_eq!(signal().id().len(), 32);
    }

    #[test]
    fn the_same_signal_has_the_same_bytes() {
        let bytes = |signal: Signal| serde_json::to_vec(&signal).unwrap();
        assert_eq!(bytes(signal()), bytes(signal()));
    }
}
