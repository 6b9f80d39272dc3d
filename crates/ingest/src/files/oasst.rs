//! Open-Assistant's layouts: nested trees, and the flat rows that the published data sets have
//! (Köpf et al., "`OpenAssistant` Conversations", 2023).
//!
//! Both become the same: messages with their parents, emoji as reactions, and one choice for each set of replies that
//! people ranked (the first against the others).

use serde_json::{Map, Value, json};
use uptake_model::contract::ErrorClass;

use super::chat;
use super::conversation::{Conversation, Reaction, Said, Target};
use super::layout::{Refusal, take, take_id};

/// What the emoji of the platform's buttons mean as reactions; those that only say "skipped" mean none.
const EMOJI: [(&str, &str); 7] = [
    ("+1", "thumbs_up"),
    ("-1", "thumbs_down"),
    ("red_flag", "report"),
    ("heart", "love"),
    ("laughing", "laugh"),
    ("sad", "sad"),
    ("angry", "angry"),
];

/// Reads `{"message_tree_id", "prompt": {…, "replies": […]}}`.
pub(super) fn tree(mut record: Map<String, Value>) -> Result<Conversation, Refusal> {
    if record.contains_key("message_id") {
        return rows(vec![record]);
    }
    let Some(Value::Object(prompt)) = record.remove("prompt") else {
        return Err((ErrorClass::MissingField, "`prompt` is missing or no object".to_owned()));
    };
    let id = take_id(&mut record, &["message_tree_id"]);
    let mut flat = Vec::new();
    // Depth first, replies in their order; a stack, so that the depth of a tree has no bound here.
    let mut open = vec![(prompt, None)];
    while let Some((mut message, parent)) = open.pop() {
        if let Some(parent) = parent {
            let _ = message.entry("parent_id").or_insert(Value::String(parent));
        }
        let own = message.get("message_id").and_then(Value::as_str).map(str::to_owned);
        if let Some(Value::Array(replies)) = message.remove("replies") {
            for reply in replies.into_iter().rev() {
                if let Value::Object(reply) = reply {
                    open.push((reply, own.clone()));
                }
            }
        }
        flat.push(message);
    }
    let mut conversation = rows(flat)?;
    conversation.id = id.or(conversation.id);
    conversation.about = record;
    Ok(conversation)
}

/// The tree that a row belongs to.
pub(super) fn tree_of(row: &Map<String, Value>) -> Option<&str> {
    row.get("message_tree_id").or_else(|| row.get("message_id")).and_then(Value::as_str)
}

/// Reads message rows of one tree.
pub(super) fn rows(rows: Vec<Map<String, Value>>) -> Result<Conversation, Refusal> {
    let mut conversation =
        Conversation { id: rows.first().and_then(tree_of).map(str::to_owned), ..Conversation::default() };
    let mut ranked: Vec<Ranked> = Vec::new();
    for mut row in rows {
        let id = take_id(&mut row, &["message_id"])
            .ok_or_else(|| (ErrorClass::MissingField, "`message_id` is missing".to_owned()))?;
        let parent = take_id(&mut row, &["parent_id"]);
        if let (Some(parent), Some(rank)) = (&parent, row.get("rank").and_then(Value::as_i64)) {
            ranked.push(Ranked { parent: parent.clone(), rank, id: id.clone() });
        }
        if let Some(Value::Object(emoji)) = row.remove("emojis") {
            conversation.reactions.extend(reactions(&id, &emoji));
        }
        let _ = take(&mut row, &["message_tree_id"]);
        conversation.messages.push(Said {
            id: Some(id),
            parent,
            role: chat::role(row.remove("role")),
            content: row.remove("text").unwrap_or_default(),
            time: take(&mut row, &chat::TIMES),
            model: take_id(&mut row, &["model_name"]),
            language: take_id(&mut row, &["lang"]),
            user: take(&mut row, &["user_id"]),
            extra: row,
        });
    }
    conversation.reactions.extend(choices(ranked));
    Ok(conversation)
}

struct Ranked {
    parent: String,
    rank: i64,
    id: String,
}

/// One choice for each parent whose replies are ranked, best first.
fn choices(mut ranked: Vec<Ranked>) -> Vec<Reaction> {
    ranked.sort_by(|one, other| (&one.parent, one.rank, &one.id).cmp(&(&other.parent, other.rank, &other.id)));
    ranked
        .chunk_by(|one, other| one.parent == other.parent)
        .filter_map(|replies| {
            let (best, others) = replies.split_first()?;
            // Replies that share a rank with the best are not worse than it.
            let worse: Vec<&str> =
                others.iter().filter(|other| other.rank > best.rank).map(|other| other.id.as_str()).collect();
            (!worse.is_empty()).then(|| Reaction {
                target: Target::Id(best.id.clone()),
                time: None,
                user: None,
                fields: Map::from_iter([
                    ("kind".to_owned(), json!("choice")),
                    ("rejected_message_ids".to_owned(), json!(worse)),
                    ("source".to_owned(), json!("ranks of replies")),
                ]),
            })
        })
        .collect()
}

/// The reactions in `{"name": […], "count": […]}` or `{"+1": 2}`.
fn reactions(id: &str, emoji: &Map<String, Value>) -> Vec<Reaction> {
    let pairs: Vec<(String, f64)> = match (emoji.get("name"), emoji.get("count")) {
        (Some(Value::Array(names)), Some(Value::Array(counts))) => names
            .iter()
            .zip(counts)
            .filter_map(|(name, count)| Some((name.as_str()?.to_owned(), count.as_f64()?)))
            .collect(),
        _ => emoji.iter().filter_map(|(name, count)| Some((name.clone(), count.as_f64()?))).collect(),
    };
    pairs
        .into_iter()
        .filter(|(_, count)| *count > 0.0)
        .filter_map(|(name, count)| {
            let (_, kind) = EMOJI.into_iter().find(|(emoji, _)| *emoji == name)?;
            Some(Reaction {
                target: Target::Id(id.to_owned()),
                time: None,
                user: None,
                fields: Map::from_iter([("kind".to_owned(), json!(kind)), ("value".to_owned(), json!(count))]),
            })
        })
        .collect()
}
