//! Bronze rows and the record batches that they become.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, Date32Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
    StringBuilder, StructBuilder, TimestampMicrosecondBuilder,
};
use arrow::error::ArrowError;

use crate::contract::ErrorClass;
use crate::tables::{self, header_fields, utc};
use crate::time::{self, Day, Micros};

/// One Kafka header; values are text, bytes that are none are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Header name.
    pub key: String,
    /// Header value, if it has one.
    pub value: Option<String>,
}

/// One accepted record, as bronze `events` stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Topic, or `file:<hash>` for an import.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Producer's id of the event.
    pub event_id: String,
    /// message, reaction, completion or erasure.
    pub kind: &'static str,
    /// Conversation, if the record names one.
    pub conversation_id: Option<String>,
    /// UTC day of the conversation's start, if the record says it.
    pub conversation_date: Option<Day>,
    /// The message that the record is, or reacts to.
    pub message_id: Option<String>,
    /// When it happened, as the producer says.
    pub event_time: Micros,
    /// When this process read it.
    pub ingest_time: Micros,
    /// When the broker took it.
    pub broker_time: Option<Micros>,
    /// `future` or `ancient` when `event_time` is implausible.
    pub clock_skew: Option<&'static str>,
    /// Schema registry id of the wire format, if the record carried one.
    pub schema_id: Option<i32>,
    /// Kafka headers.
    pub headers: Vec<Header>,
    /// The person, as a pseudonym.
    pub subject_key: Option<String>,
    /// The payload as it came, user ids replaced by subject keys.
    pub payload: String,
    /// SHA-256 of `payload`, first 128 bits, hexadecimal.
    pub content_hash: String,
}

/// One refused record, as bronze `dead_letters` stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterRow {
    /// Topic, or `file:<hash>` for an import.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Kafka key.
    pub key: Option<Vec<u8>>,
    /// The payload as it came, user ids replaced where they could be found.
    pub payload: Option<Vec<u8>>,
    /// Kafka headers.
    pub headers: Vec<Header>,
    /// When the broker took it.
    pub broker_time: Option<Micros>,
    /// When this process read it.
    pub ingest_time: Micros,
    /// Producer's id, where it could be read.
    pub event_id: Option<String>,
    /// The person, where it could be read.
    pub subject_key: Option<String>,
    /// Why.
    pub class: ErrorClass,
    /// What is wrong and where; never quotes the text of a field.
    pub error: String,
    /// Schema registry id of the wire format, if the record carried one.
    pub schema_id: Option<i32>,
    /// Version of the code that refused it.
    pub pipeline_version: String,
}

impl EventRow {
    /// Bytes this row holds in memory, for the buffer bound.
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.topic.len()
            + self.event_id.len()
            + self.payload.len()
            + self.content_hash.len()
            + [&self.conversation_id, &self.message_id, &self.subject_key]
                .into_iter()
                .map(|text| text.as_ref().map_or(0, String::len))
                .sum::<usize>()
            + headers_size(&self.headers)
    }
}

impl LetterRow {
    /// Bytes this row holds in memory, for the buffer bound.
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.topic.len()
            + self.key.as_ref().map_or(0, Vec::len)
            + self.payload.as_ref().map_or(0, Vec::len)
            + self.error.len()
            + headers_size(&self.headers)
    }
}

fn headers_size(headers: &[Header]) -> usize {
    headers
        .iter()
        .map(|header| size_of::<Header>() + header.key.len() + header.value.as_ref().map_or(0, String::len))
        .sum()
}

/// The batch of bronze `events` for `rows`, in the order of [`tables::EVENTS`].
///
/// # Errors
/// Only when the columns disagree with the table's schema, which a test rules out.
pub fn events_batch(rows: &[EventRow]) -> Result<RecordBatch, ArrowError> {
    let text = |get: &dyn Fn(&EventRow) -> Option<&str>| -> ArrayRef {
        let mut builder = StringBuilder::new();
        for row in rows {
            builder.append_option(get(row));
        }
        Arc::new(builder.finish())
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|row| Some(&row.topic)),
        integers(rows.iter().map(|row| Some(row.partition))),
        longs(rows.iter().map(|row| row.offset)),
        text(&|row| Some(&row.event_id)),
        text(&|row| Some(row.kind)),
        text(&|row| row.conversation_id.as_deref()),
        days(rows.iter().map(|row| row.conversation_date)),
        text(&|row| row.message_id.as_deref()),
        times(rows.iter().map(|row| Some(row.event_time))),
        times(rows.iter().map(|row| Some(row.ingest_time))),
        times(rows.iter().map(|row| row.broker_time)),
        text(&|row| row.clock_skew),
        integers(rows.iter().map(|row| row.schema_id)),
        headers(rows.iter().map(|row| row.headers.as_slice())),
        text(&|row| row.subject_key.as_deref()),
        text(&|row| Some(&row.payload)),
        text(&|row| Some(&row.content_hash)),
        days(rows.iter().map(|row| Some(time::day_of(row.ingest_time)))),
    ];
    RecordBatch::try_new(tables::EVENTS.schema(), columns)
}

/// The batch of bronze `dead_letters` for `rows`, in the order of [`tables::DEAD_LETTERS`].
///
/// # Errors
/// Only when the columns disagree with the table's schema, which a test rules out.
pub fn letters_batch(rows: &[LetterRow]) -> Result<RecordBatch, ArrowError> {
    let text = |get: &dyn Fn(&LetterRow) -> Option<&str>| -> ArrayRef {
        let mut builder = StringBuilder::new();
        for row in rows {
            builder.append_option(get(row));
        }
        Arc::new(builder.finish())
    };
    let bytes = |get: &dyn Fn(&LetterRow) -> Option<&[u8]>| -> ArrayRef {
        let mut builder = BinaryBuilder::new();
        for row in rows {
            builder.append_option(get(row));
        }
        Arc::new(builder.finish())
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|row| Some(&row.topic)),
        integers(rows.iter().map(|row| Some(row.partition))),
        longs(rows.iter().map(|row| row.offset)),
        bytes(&|row| row.key.as_deref()),
        bytes(&|row| row.payload.as_deref()),
        headers(rows.iter().map(|row| row.headers.as_slice())),
        times(rows.iter().map(|row| row.broker_time)),
        times(rows.iter().map(|row| Some(row.ingest_time))),
        text(&|row| row.event_id.as_deref()),
        text(&|row| row.subject_key.as_deref()),
        text(&|row| Some(row.class.name())),
        text(&|row| Some(&row.error)),
        integers(rows.iter().map(|row| row.schema_id)),
        text(&|row| Some(&row.pipeline_version)),
        days(rows.iter().map(|row| Some(time::day_of(row.ingest_time)))),
    ];
    RecordBatch::try_new(tables::DEAD_LETTERS.schema(), columns)
}

fn integers(values: impl Iterator<Item = Option<i32>>) -> ArrayRef {
    let mut builder = Int32Builder::new();
    values.for_each(|value| builder.append_option(value));
    Arc::new(builder.finish())
}

fn longs(values: impl Iterator<Item = i64>) -> ArrayRef {
    let mut builder = Int64Builder::new();
    values.for_each(|value| builder.append_value(value));
    Arc::new(builder.finish())
}

fn days(values: impl Iterator<Item = Option<Day>>) -> ArrayRef {
    let mut builder = Date32Builder::new();
    values.for_each(|value| builder.append_option(value));
    Arc::new(builder.finish())
}

fn times(values: impl Iterator<Item = Option<Micros>>) -> ArrayRef {
    let mut builder = TimestampMicrosecondBuilder::new();
    values.for_each(|value| builder.append_option(value));
    Arc::new(builder.finish().with_timezone_opt(Some(utc())))
}

fn headers<'a>(values: impl Iterator<Item = &'a [Header]>) -> ArrayRef {
    let fields = header_fields();
    let entry = StructBuilder::new(
        fields.clone(),
        vec![Box::new(StringBuilder::new()) as Box<dyn ArrayBuilder>, Box::new(StringBuilder::new())],
    );
    let mut list = ListBuilder::new(entry).with_field(tables::list_item(arrow::datatypes::DataType::Struct(fields)));
    for row in values {
        for header in row {
            let entry = list.values();
            if let Some(key) = entry.field_builder::<StringBuilder>(0) {
                key.append_value(&header.key);
            }
            if let Some(value) = entry.field_builder::<StringBuilder>(1) {
                value.append_option(header.value.as_deref());
            }
            entry.append(true);
        }
        list.append(true);
    }
    Arc::new(list.finish())
}
