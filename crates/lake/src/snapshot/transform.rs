//! From batches of a gold table to batches of the published files. Pure.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, interleave, take};
use arrow::datatypes::{DataType, Int32Type, UInt64Type};
use arrow::error::ArrowError;
use uptake_model::tables::{TableSpec, list_item, message_fields};

use super::layout::{Layout, Rendered, Source};
use super::rules::{self, Message, Rule};
use super::split::Side;

type Result<T> = std::result::Result<T, ArrowError>;

/// The batch with exactly the types of the table's specification, whatever views the scan yields.
pub(super) fn typed(batch: &RecordBatch, spec: &TableSpec) -> Result<RecordBatch> {
    let columns = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| {
            let kind =
                spec.column(field.name()).map_or_else(|| column.data_type().clone(), |column| column.kind.arrow());
            Ok((field.name().clone(), cast(column, &kind)?))
        })
        .collect::<Result<Vec<_>>>()?;
    RecordBatch::try_from_iter(columns)
}

/// A column that the specification promises.
pub(super) fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("the table has no column `{name}`")))
}

/// The messages of one row; nothing when the list is null.
pub(super) fn messages(lists: &ArrayRef, row: usize) -> Vec<Message> {
    let Some(lists) = lists.as_list_opt::<i32>() else { return Vec::new() };
    if lists.is_null(row) {
        return Vec::new();
    }
    let value = lists.value(row);
    let Some(fields) = value.as_struct_opt() else { return Vec::new() };
    let text = |name: &str, at: usize| {
        let column: &StringArray = fields.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(at).then(|| column.value(at).to_owned())
    };
    (0..fields.len()).map(|at| Message { role: text("role", at), content: text("content", at) }).collect()
}

/// The first rule that each row breaks.
pub(super) fn faults(batch: &RecordBatch, layout: &Layout) -> Result<Vec<Option<Rule>>> {
    let columns = layout
        .message_columns()
        .into_iter()
        .map(|name| Ok((name, column(batch, name)?)))
        .collect::<Result<Vec<_>>>()?;
    let fault = |row| {
        let read: Vec<(&str, Vec<Message>)> =
            columns.iter().map(|(name, lists)| (*name, messages(lists, row))).collect();
        rules::row_fault(|wanted| read.iter().find(|(name, _)| *name == wanted).map(|(_, chat)| chat.as_slice()))
    };
    Ok((0..batch.num_rows()).map(fault).collect())
}

/// The length of each row in tokens: the summed columns and the longest of the alternatives.
pub(super) fn lengths(batch: &RecordBatch, layout: &Layout) -> Result<Vec<u64>> {
    let counts = |name: &&str| -> Result<Vec<u64>> {
        let counts = cast(column(batch, name)?, &DataType::UInt64)?;
        Ok(counts.as_primitive::<UInt64Type>().iter().map(Option::unwrap_or_default).collect())
    };
    let summed = layout.summed.iter().map(counts).collect::<Result<Vec<_>>>()?;
    let longest = layout.longest.iter().map(counts).collect::<Result<Vec<_>>>()?;
    let length = |row: usize| {
        let sum: u64 = summed.iter().map(|counts| counts[row]).sum();
        sum + longest.iter().map(|counts| counts[row]).max().unwrap_or(0)
    };
    Ok((0..batch.num_rows()).map(length).collect())
}

/// The rows of the files at the root of the snapshot. Every answer holds exactly one message: see [`faults`].
pub(super) fn published(batch: &RecordBatch, layout: &Layout, sides: &[Side]) -> Result<RecordBatch> {
    let columns = layout
        .columns()
        .into_iter()
        .map(|(_, source)| match source {
            Source::Column(name) => column(batch, name).cloned(),
            Source::Only(name) => only(column(batch, name)?.as_list()),
            Source::Joined(one, other) => joined(column(batch, one)?.as_list(), column(batch, other)?.as_list()),
            Source::Split => {
                let splits: ArrayRef = Arc::new(StringArray::from_iter_values(sides.iter().map(|side| side.split())));
                Ok(splits)
            }
            Source::HeldOutBy => {
                let reasons: StringArray = sides.iter().map(|side| side.held_out_by()).collect();
                Ok(Arc::new(reasons) as ArrayRef)
            }
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(layout.schema(), columns)
}

/// The only message of each list, as a struct.
fn only(lists: &ListArray) -> Result<ArrayRef> {
    let places =
        UInt32Array::from_iter_values(lists.value_offsets().iter().take(lists.len()).map(|at| at.unsigned_abs()));
    take(lists.values(), &places, None)
}

/// The messages of the first list and then those of the second.
fn joined(one: &ListArray, other: &ListArray) -> Result<ArrayRef> {
    let mut places = Vec::new();
    for row in 0..one.len() {
        for (at, lists) in [one, other].into_iter().enumerate() {
            let (start, end) = (lists.value_offsets()[row], lists.value_offsets()[row + 1]);
            places.extend((start..end).map(|place| (at, place.unsigned_abs() as usize)));
        }
    }
    let lengths = (0..one.len()).map(|row| (one.value_length(row) + other.value_length(row)).unsigned_abs() as usize);
    let offsets = OffsetBuffer::from_lengths(lengths);
    let values = if places.is_empty() {
        new_null_array(&DataType::Struct(message_fields()), 0)
    } else {
        interleave(&[one.values().as_ref(), other.values().as_ref()], &places)?
    };
    let item = list_item(DataType::Struct(message_fields()));
    Ok(Arc::new(ListArray::try_new(item, offsets, values, None)?))
}

/// The rows of the rendered files.
pub(super) fn rendered(batch: &RecordBatch, layout: &Layout) -> Result<RecordBatch> {
    let columns = layout
        .text
        .iter()
        .map(|(_, rendered)| {
            let (name, text): (_, fn(&[Message]) -> String) = match rendered {
                Rendered::Column(name) => return column(batch, name).cloned(),
                Rendered::Prompt(name) => (name, prompt_text),
                Rendered::Answer(name) | Rendered::Last(name) => (name, last_text),
                Rendered::AllButLast(name) => (name, |chat| prompt_text(&chat[..chat.len().saturating_sub(1)])),
            };
            let lists = column(batch, name)?;
            let texts = (0..batch.num_rows()).map(|row| text(&messages(lists, row)));
            Ok(Arc::new(StringArray::from_iter_values(texts)) as ArrayRef)
        })
        .collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(layout.text_schema(), columns)
}

/// `User: …`, a blank line, and so on, closed by `Assistant:`.
fn prompt_text(messages: &[Message]) -> String {
    let mut text = String::new();
    for message in messages {
        let name = match message.role.as_deref() {
            Some("system") => "System",
            Some("assistant") => "Assistant",
            Some("tool") => "Tool",
            _ => "User",
        };
        text.push_str(name);
        text.push_str(": ");
        text.push_str(message.content.as_deref().unwrap_or_default());
        text.push_str("\n\n");
    }
    text + "Assistant:"
}

/// The text of the last message.
fn last_text(messages: &[Message]) -> String {
    messages.last().and_then(|message| message.content.clone()).unwrap_or_default()
}

/// The texts of a column, null as `None`.
pub(super) fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<Vec<Option<&'a str>>> {
    let column: &StringArray = column(batch, name)?
        .as_string_opt::<i32>()
        .ok_or_else(|| ArrowError::SchemaError(format!("column `{name}` holds no text")))?;
    Ok(column.iter().collect())
}

/// The days of a column of dates.
pub(super) fn days(batch: &RecordBatch, name: &str) -> Result<Vec<i32>> {
    let days = cast(column(batch, name)?, &DataType::Int32)?;
    Ok(days.as_primitive::<Int32Type>().iter().map(Option::unwrap_or_default).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, StringBuilder, StructBuilder};

    use super::*;

    fn lists(rows: &[&[(&str, &str)]]) -> ArrayRef {
        let fields =
            StructBuilder::new(message_fields(), vec![Box::new(StringBuilder::new()), Box::new(StringBuilder::new())]);
        let mut builder = ListBuilder::new(fields).with_field(list_item(DataType::Struct(message_fields())));
        for row in rows {
            for (role, content) in *row {
                builder.values().field_builder::<StringBuilder>(0).unwrap().append_value(role);
                builder.values().field_builder::<StringBuilder>(1).unwrap().append_value(content);
                builder.values().append(true);
            }
            builder.append(true);
        }
        Arc::new(builder.finish())
    }

    #[test]
    fn twins_are_the_only_messages_also_of_slices() {
        let all = lists(&[&[("assistant", "a")], &[("assistant", "b")], &[("assistant", "c")]]);
        let twins = only(all.slice(1, 2).as_list()).unwrap();
        let contents = twins.as_struct().column_by_name("content").unwrap().as_string::<i32>().clone();
        assert_eq!(contents.iter().flatten().collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn joining_keeps_rows_apart() {
        let prompts = lists(&[&[("user", "1")], &[("user", "2"), ("assistant", "3"), ("user", "4")]]);
        let answers = lists(&[&[("assistant", "x")], &[("assistant", "y")]]);
        let joined = joined(prompts.as_list(), answers.as_list()).unwrap();
        let texts =
            |row| messages(&joined, row).into_iter().map(|message| message.content.unwrap()).collect::<String>();
        assert_eq!((texts(0), texts(1)), ("1x".to_owned(), "234y".to_owned()));
    }

    #[test]
    fn prompts_are_rendered_up_to_the_answer() {
        let chat = lists(&[&[("system", "be kind"), ("user", "hi")]]);
        assert_eq!(prompt_text(&messages(&chat, 0)), "System: be kind\n\nUser: hi\n\nAssistant:");
        assert_eq!(last_text(&messages(&chat, 0)), "hi");
    }
}
