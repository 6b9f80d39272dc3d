//! Turns out of payloads, exchanges out of turns, messages out of paths.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Int32Array, ListArray, StringArray, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Float32Type, Int32Type, Int64Type};
use datafusion::common::Result;
use uptake_model::facts::{ReactionFact, TurnFact, reaction_of, turns_of};
use uptake_model::tables::{Kind, list_item, message_fields, utc};
use uptake_model::tree::{self, TreeTurn};
use uptake_tagger::LOOKED_AT;

use super::arrays::{field, integers, lists, struct_lists, structs, text_at, text_lists, texts, times};
use super::{words, wrong};

pub(super) fn texts_type() -> DataType {
    Kind::Texts.arrow()
}

pub(super) fn messages_type() -> DataType {
    Kind::Messages.arrow()
}

fn fields(columns: &[(&str, DataType)]) -> Fields {
    columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect()
}

fn turn_fields() -> Fields {
    fields(&[
        ("turn_id", DataType::Utf8),
        ("alias", DataType::Utf8),
        ("conversation_id", DataType::Utf8),
        ("parent_turn_id", DataType::Utf8),
        ("turn_index", DataType::Int32),
        ("role", DataType::Utf8),
        ("text", DataType::Utf8),
        ("model", DataType::Utf8),
        ("language", DataType::Utf8),
        ("event_time", Kind::Time.arrow()),
        ("consent", DataType::Utf8),
        ("extra", DataType::Utf8),
    ])
}

pub(super) fn turns_type() -> DataType {
    DataType::List(list_item(DataType::Struct(turn_fields())))
}

/// `message_turns(kind, payload, event_time, subject_key)`: the turns that an event tells of; null where the payload
/// is not what the contract says, so that the event is counted as unreadable rather than the job failing for ever.
pub(super) fn message_turns(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (kinds, payloads) = (texts(&arguments[0])?, texts(&arguments[1])?);
    let (moments, subjects) = (times(&arguments[2])?, texts(&arguments[3])?);
    let mut lengths = Vec::with_capacity(kinds.len());
    let mut turns: Vec<TurnFact> = Vec::new();
    for row in 0..kinds.len() {
        let facts = match (text_at(&kinds, row), text_at(&payloads, row)) {
            (Some(kind), Some(payload)) => turns_of(kind, payload, moments.value(row), text_at(&subjects, row)).ok(),
            _ => None,
        };
        lengths.push(facts.as_ref().map(Vec::len));
        turns.extend(facts.into_iter().flatten());
    }
    let optional =
        |get: fn(&TurnFact) -> Option<&str>| -> ArrayRef { Arc::new(turns.iter().map(get).collect::<StringArray>()) };
    let columns: Vec<ArrayRef> = vec![
        optional(|turn| Some(&turn.turn_id)),
        optional(|turn| turn.alias.as_deref()),
        optional(|turn| Some(&turn.conversation_id)),
        optional(|turn| turn.parent_turn_id.as_deref()),
        Arc::new(turns.iter().map(|turn| turn.turn_index).collect::<Int32Array>()),
        optional(|turn| Some(&turn.role)),
        optional(|turn| Some(&turn.text)),
        optional(|turn| turn.model.as_deref()),
        optional(|turn| turn.language.as_deref()),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(turns.iter().map(|turn| turn.event_time)).with_timezone(utc()),
        ),
        optional(|turn| turn.consent.as_deref()),
        optional(|turn| turn.extra.as_deref()),
    ];
    struct_lists(turn_fields(), columns, &lengths)
}

fn reaction_fields() -> Fields {
    fields(&[
        ("turn_id", DataType::Utf8),
        ("kind", DataType::Utf8),
        ("value", DataType::Float32),
        ("text", DataType::Utf8),
        ("other_turn_ids", texts_type()),
        ("op", DataType::Utf8),
    ])
}

pub(super) fn reaction_type() -> DataType {
    DataType::Struct(reaction_fields())
}

/// `reaction(payload)`: what a reaction says; null where the payload is not what the contract says.
pub(super) fn reaction(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let payloads = texts(&arguments[0])?;
    let facts: Vec<Option<ReactionFact>> =
        payloads.iter().map(|payload| payload.and_then(|payload| reaction_of(payload).ok())).collect();
    let facts = || facts.iter().map(Option::as_ref);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(facts().map(|fact| Some(fact?.turn_id.as_str())).collect::<StringArray>()),
        Arc::new(facts().map(|fact| Some(fact?.kind.as_str())).collect::<StringArray>()),
        Arc::new(facts().map(|fact| fact?.value).collect::<Float32Array>()),
        Arc::new(facts().map(|fact| fact?.text.as_deref()).collect::<StringArray>()),
        text_lists(facts().map(|fact| Some(fact?.other_turn_ids.clone())))?,
        Arc::new(facts().map(|fact| Some(fact?.op.as_str())).collect::<StringArray>()),
    ];
    let nulls = NullBuffer::from(facts().map(|fact| fact.is_some()).collect::<Vec<_>>());
    Ok(Arc::new(StructArray::try_new(reaction_fields(), columns, Some(nulls))?))
}

fn exchange_fields() -> Fields {
    fields(&[
        ("turn_id", DataType::Utf8),
        ("depth", DataType::Int32),
        ("path", texts_type()),
        ("prompt_turn_id", DataType::Utf8),
        ("last_user_turn_id", DataType::Utf8),
        ("follow_up_turn_id", DataType::Utf8),
        ("superseded_by", DataType::Utf8),
    ])
}

pub(super) fn exchanges_type() -> DataType {
    DataType::List(list_item(DataType::Struct(exchange_fields())))
}

/// An exchange and the last user turn before it.
struct Placed {
    exchange: tree::Exchange,
    last_user_turn_id: Option<String>,
}

/// `resolve_exchanges(list of {turn_id, parent_turn_id, turn_index, role, event_time})`: the exchanges of a conversation.
pub(super) fn resolve_exchanges(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let conversations = lists(&arguments[0])?;
    let items = structs(&conversations)?;
    let (ids, parents) = (texts(&field(&items, "turn_id")?)?, texts(&field(&items, "parent_turn_id")?)?);
    let (indices, roles) = (integers(&field(&items, "turn_index")?)?, texts(&field(&items, "role")?)?);
    let moments = times(&field(&items, "event_time")?)?;
    let mut lengths = Vec::with_capacity(conversations.len());
    let mut placed: Vec<Placed> = Vec::new();
    for row in 0..conversations.len() {
        let turns: Vec<TreeTurn> = range(&conversations, row)
            .map(|at| TreeTurn {
                turn_id: ids.value(at).to_owned(),
                parent_turn_id: text_at(&parents, at).map(str::to_owned),
                turn_index: indices.is_valid(at).then(|| indices.value(at)),
                role: roles.value(at).to_owned(),
                event_time: moments.value(at),
            })
            .collect();
        let users: HashMap<&str, bool> =
            turns.iter().map(|turn| (turn.turn_id.as_str(), turn.role == "user")).collect();
        let before = placed.len();
        for exchange in tree::resolve(&turns) {
            let asked = exchange.path.iter().rev().find(|id| users.get(id.as_str()).copied().unwrap_or(false)).cloned();
            placed.push(Placed { exchange, last_user_turn_id: asked });
        }
        lengths.push(Some(placed.len() - before));
    }
    let optional =
        |get: fn(&Placed) -> Option<&str>| -> ArrayRef { Arc::new(placed.iter().map(get).collect::<StringArray>()) };
    let columns: Vec<ArrayRef> = vec![
        optional(|placed| Some(&placed.exchange.turn_id)),
        Arc::new(placed.iter().map(|placed| i32::try_from(placed.exchange.path.len()).ok()).collect::<Int32Array>()),
        text_lists(placed.iter().map(|placed| Some(placed.exchange.path.clone())))?,
        optional(|placed| placed.exchange.prompt_turn_id()),
        optional(|placed| placed.last_user_turn_id.as_deref()),
        optional(|placed| placed.exchange.follow_up_turn_id.as_deref()),
        optional(|placed| placed.exchange.superseded_by.as_deref()),
    ];
    struct_lists(exchange_fields(), columns, &lengths)
}

/// Where a row's items stand among all items.
pub(super) fn range(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    if list.is_null(row) {
        return 0..0;
    }
    let offsets = list.value_offsets();
    let at = |index: usize| usize::try_from(offsets[index]).unwrap_or_default();
    at(row)..at(row + 1)
}

/// `messages_before(list of {turn_id, role, text}, path)`: the last turns of a path as chat messages, as many as the tagger
/// looks at, so that the turns of a long conversation do not carry all of it each; what is missing is left out.
pub(super) fn messages_before(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (conversations, paths) = (lists(&arguments[0])?, lists(&arguments[1])?);
    let items = structs(&conversations)?;
    let (ids, roles) = (texts(&field(&items, "turn_id")?)?, texts(&field(&items, "role")?)?);
    let contents = texts(&field(&items, "text")?)?;
    let steps = texts(paths.values())?;
    let mut said: Vec<(&str, &str)> = Vec::new();
    let mut lengths = Vec::with_capacity(paths.len());
    for row in 0..paths.len() {
        let turns: HashMap<&str, usize> = range(&conversations, row).map(|at| (ids.value(at), at)).collect();
        let path = range(&paths, row);
        let last = path.start.max(path.end.saturating_sub(LOOKED_AT))..path.end;
        let before = said.len();
        let found = last.filter_map(|step| turns.get(steps.value(step)));
        said.extend(found.map(|at| (roles.value(*at), contents.value(*at))));
        lengths.push(Some(said.len() - before));
    }
    messages(&said, &lengths)
}

/// `messages_at(list of {turn_id, role, text}, path)`: the turns of a path as chat messages; null where one is missing.
pub(super) fn messages_at(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (conversations, paths) = (lists(&arguments[0])?, lists(&arguments[1])?);
    let items = structs(&conversations)?;
    let (ids, roles) = (texts(&field(&items, "turn_id")?)?, texts(&field(&items, "role")?)?);
    let contents = texts(&field(&items, "text")?)?;
    let steps = texts(paths.values())?;
    let mut said: Vec<(&str, &str)> = Vec::new();
    let mut lengths = Vec::with_capacity(paths.len());
    for row in 0..paths.len() {
        let turns: HashMap<&str, usize> = range(&conversations, row).map(|at| (ids.value(at), at)).collect();
        let found: Option<Vec<usize>> = if paths.is_null(row) || conversations.is_null(row) {
            None
        } else {
            range(&paths, row).map(|step| turns.get(steps.value(step)).copied()).collect()
        };
        lengths.push(found.as_ref().map(Vec::len));
        said.extend(found.iter().flatten().map(|at| (roles.value(*at), contents.value(*at))));
    }
    messages(&said, &lengths)
}

/// `message(role, content)`: a list of one message; null where the content is.
pub(super) fn message(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (roles, contents) = (texts(&arguments[0])?, texts(&arguments[1])?);
    let rows = (0..contents.len()).map(|row| contents.is_valid(row));
    let lengths: Vec<Option<usize>> = rows.map(|valid| valid.then_some(1)).collect();
    let said: Vec<(&str, &str)> = (0..contents.len())
        .filter(|row| contents.is_valid(*row))
        .map(|row| (roles.value(row), contents.value(row)))
        .collect();
    messages(&said, &lengths)
}

fn messages(said: &[(&str, &str)], lengths: &[Option<usize>]) -> Result<ArrayRef> {
    let roles = StringArray::from_iter_values(said.iter().map(|(role, _)| role));
    let contents = StringArray::from_iter_values(said.iter().map(|(_, content)| content));
    struct_lists(message_fields(), vec![Arc::new(roles), Arc::new(contents)], lengths)
}

/// `with_answer(prompt, text)`: the prompt and then the answer; null where either is.
pub(super) fn with_answer(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (prompts, answers) = (lists(&arguments[0])?, texts(&arguments[1])?);
    let items = structs(&prompts)?;
    let (roles, contents) = (texts(&field(&items, "role")?)?, texts(&field(&items, "content")?)?);
    let mut said: Vec<(&str, &str)> = Vec::new();
    let mut lengths = Vec::with_capacity(prompts.len());
    for row in 0..prompts.len() {
        if prompts.is_null(row) || answers.is_null(row) {
            lengths.push(None);
            continue;
        }
        let before = said.len();
        said.extend(range(&prompts, row).map(|at| (roles.value(at), contents.value(at))));
        said.push(("assistant", answers.value(row)));
        lengths.push(Some(said.len() - before));
    }
    messages(&said, &lengths)
}

/// `together(a, b, …)`: one list of the texts, and of the texts in the lists, given; nulls left out, so never null.
pub(super) fn together(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let rows = arguments.first().map_or(0, Array::len);
    let mut all: Vec<Vec<String>> = vec![Vec::new(); rows];
    for argument in arguments {
        if matches!(argument.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
            let column = texts(argument)?;
            for (row, found) in all.iter_mut().enumerate() {
                found.extend(text_at(&column, row).map(str::to_owned));
            }
            continue;
        }
        let column = lists(argument)?;
        let items = texts(column.values())?;
        for (row, found) in all.iter_mut().enumerate() {
            found.extend(range(&column, row).filter_map(|at| text_at(&items, at)).map(str::to_owned));
        }
    }
    text_lists(all.into_iter().map(Some))
}

/// `message_tokens(messages)`: tokens of all contents.
pub(super) fn message_tokens(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let list = lists(&arguments[0])?;
    let contents = texts(&field(&structs(&list)?, "content")?)?;
    let counts = (0..list.len()).map(|row| {
        let tokens = range(&list, row).filter_map(|at| text_at(&contents, at)).map(words::token_count);
        list.is_valid(row).then(|| tokens.fold(0, i32::saturating_add))
    });
    Ok(Arc::new(counts.collect::<Int32Array>()))
}

/// `prompt_fault(messages)`: why no answer can be given to a prompt, or null.
pub(super) fn prompt_fault(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let list = lists(&arguments[0])?;
    let items = structs(&list)?;
    let (roles, contents) = (texts(&field(&items, "role")?)?, texts(&field(&items, "content")?)?);
    let faults = (0..list.len()).map(|row| {
        let at = range(&list, row);
        if at.is_empty() {
            return Some("empty_prompt");
        }
        if roles.value(at.end - 1) != "user" {
            return Some("prompt_ends_without_user");
        }
        let blank = at.clone().any(|at| contents.value(at).trim().is_empty());
        blank.then_some("prompt_has_empty_message")
    });
    Ok(Arc::new(faults.collect::<StringArray>()))
}

/// `digest(a, b, …)`: SHA-256 of the values, first 128 bits, hexadecimal; lengths are hashed with the values, so no two
/// lists of values run into each other.
pub(super) fn digest(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let rows = arguments.first().map_or(0, Array::len);
    let mut digests = Vec::with_capacity(rows);
    for row in 0..rows {
        let mut bytes = Vec::new();
        for argument in arguments {
            write_value(argument, row, &mut bytes)?;
        }
        digests.push(uptake_model::decode::content_hash(&bytes));
    }
    Ok(Arc::new(StringArray::from_iter_values(digests)))
}

fn write_value(array: &ArrayRef, row: usize, bytes: &mut Vec<u8>) -> Result<()> {
    if array.is_null(row) {
        bytes.push(0);
        return Ok(());
    }
    bytes.push(1);
    match array.data_type() {
        DataType::Utf8 => write_text(array.as_string::<i32>().value(row), bytes),
        DataType::LargeUtf8 => write_text(array.as_string::<i64>().value(row), bytes),
        DataType::Utf8View => write_text(array.as_string_view().value(row), bytes),
        DataType::Int32 => bytes.extend(array.as_primitive::<Int32Type>().value(row).to_le_bytes()),
        DataType::Int64 => bytes.extend(array.as_primitive::<Int64Type>().value(row).to_le_bytes()),
        DataType::Float32 => bytes.extend(array.as_primitive::<Float32Type>().value(row).to_le_bytes()),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            bytes.extend((items.len() as u64).to_le_bytes());
            for at in 0..items.len() {
                write_value(&items, at, bytes)?;
            }
        }
        DataType::Struct(_) => {
            for column in array.as_struct().columns() {
                write_value(column, row, bytes)?;
            }
        }
        other => return Err(wrong(format!("digest takes texts, whole numbers, lists and structs, not {other}"))),
    }
    Ok(())
}

fn write_text(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
