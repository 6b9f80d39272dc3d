//! A gateway's log lines: the same message has the same id in every line that repeats it.

use serde_json::{Value, json};
use uptake_model::contract::Contract;
use uptake_model::facts::{TurnFact, turns_of};

use crate::accepted;

fn say(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn line(id: &str, fields: &Value, messages: &[Value], answers: &[Value]) -> Vec<TurnFact> {
    let choices: Vec<Value> = answers.iter().map(|message| json!({ "message": message })).collect();
    let mut request = json!({ "messages": messages });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let line = json!({"request": request, "response": {"id": id, "created": 1_735_689_600, "model": "m-1", "choices": choices}});
    let row = accepted(&line.to_string(), Contract::Completions);
    turns_of(row.kind, &row.payload, row.event_time, row.subject_key.as_deref()).unwrap()
}

fn ids(turns: &[TurnFact]) -> Vec<&str> {
    turns.iter().map(|turn| turn.turn_id.as_str()).collect()
}

#[test]
fn a_repeated_history_is_the_same_messages() {
    let fields = json!({"metadata": {"conversation_id": "c-1"}});
    let (question, answer, thanks) = (say("user", "otters?"), say("assistant", "On the Dart."), say("user", "thanks"));
    let first = line("r-1", &fields, std::slice::from_ref(&question), std::slice::from_ref(&answer));
    // A client that trims what it repeats.
    let repeated = say("assistant", " On the Dart.\n");
    let second = line("r-2", &fields, &[question, repeated, thanks], &[say("assistant", "Any time.")]);
    assert_eq!(ids(&first), &ids(&second)[..2]);
    assert_eq!(first[1].alias.as_deref(), Some("r-1"));
    assert_eq!(second[3].alias.as_deref(), Some("r-2"));
    let parents: Vec<Option<&str>> = second.iter().map(|turn| turn.parent_turn_id.as_deref()).collect();
    assert_eq!(parents, [None, Some(second[0].turn_id.as_str()), Some(&second[1].turn_id), Some(&second[2].turn_id)]);
    let indices: Vec<Option<i32>> = second.iter().map(|turn| turn.turn_index).collect();
    assert_eq!(indices, [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(second[3].model.as_deref(), Some("m-1"));
    assert!(second.iter().all(|turn| turn.conversation_id == "c-1"));
}

#[test]
fn a_system_message_with_the_time_of_day_does_not_break_the_chain() {
    let fields = json!({"metadata": {"conversation_id": "c-1"}});
    let at = |time: &str| vec![say("system", &format!("It is {time}.")), say("user", "otters?")];
    let answer = [say("assistant", "On the Dart.")];
    let (first, second) = (line("r-1", &fields, &at("10:00"), &answer), line("r-2", &fields, &at("10:01"), &answer));
    assert_ne!(first[0].turn_id, second[0].turn_id);
    assert_eq!(ids(&first)[1..], ids(&second)[1..]);
    let twice = line("r-3", &fields, &[say("system", "A"), say("developer", "A"), say("user", "otters?")], &answer);
    assert_ne!(twice[0].turn_id, twice[1].turn_id);
    assert_eq!(twice[1].role, "system");
    assert_eq!(twice[2].turn_id, first[1].turn_id);
}

#[test]
fn regenerations_and_choices_are_siblings() {
    let fields = json!({"metadata": {"conversation_id": "c-1"}});
    let question = [say("user", "otters?")];
    let first = line("r-1", &fields, &question, &[say("assistant", "On the Dart.")]);
    let again = line("r-2", &fields, &question, &[say("assistant", "Nowhere."), say("assistant", "In zoos.")]);
    assert_eq!(first[0].turn_id, again[0].turn_id);
    assert_ne!(first[1].turn_id, again[1].turn_id);
    for answer in [&first[1], &again[1], &again[2]] {
        assert_eq!(answer.parent_turn_id.as_deref(), Some(first[0].turn_id.as_str()));
        assert_eq!(answer.turn_index, Some(1));
    }
    assert_eq!(again[2].alias.as_deref(), Some("r-2#1"));
}

#[test]
fn without_a_conversation_the_person_and_the_opening_stand_for_it() {
    let question = [say("system", "Be brief."), say("user", "otters?")];
    let answer = [say("assistant", "On the Dart.")];
    let conversation = |user: &str, system: &str| {
        let mut messages = question.clone();
        messages[0] = say("system", system);
        line("r", &json!({ "user": user }), &messages, &answer)[0].conversation_id.clone()
    };
    assert_eq!(conversation("ann", "Be brief."), conversation("ann", "It is noon."));
    assert_ne!(conversation("ann", "Be brief."), conversation("bob", "Be brief."));
    assert!(conversation("ann", "x").starts_with("cc_"));
}

#[test]
fn tool_calls_tell_messages_without_text_apart() {
    let fields = json!({"metadata": {"conversation_id": "c-1"}});
    let call = |place: &str, index: Option<u32>| {
        json!({"role": "assistant", "content": null, "tool_calls": [{"index": index, "type": "function",
            "function": {"name": "weather", "arguments": format!("{{\"place\":\"{place}\"}}")}}]})
    };
    let question = [say("user", "weather?")];
    let totnes = line("r-1", &fields, &question, &[call("Totnes", None)]);
    let exeter = line("r-2", &fields, &question, &[call("Exeter", None)]);
    assert_ne!(totnes[1].turn_id, exeter[1].turn_id);
    assert!(totnes[1].extra.as_deref().unwrap().contains("Totnes"));
    let tool = json!({"role": "tool", "content": "rain", "tool_call_id": "call_1"});
    let next =
        line("r-3", &fields, &[question[0].clone(), call("Totnes", Some(0)), tool], &[say("assistant", "It rains.")]);
    assert_eq!(next[1].turn_id, totnes[1].turn_id);
    assert_eq!(next[2].role, "tool");
}
