//! Bronze: records as they came.

use super::{Column, Kind, Layer, TableSpec, optional, personal, required};

const EVENT_COLUMNS: &[Column] = &[
    required("topic", Kind::Text, "Kafka topic, or file:<hash> for an import"),
    required("partition", Kind::Integer, "Kafka partition"),
    required("offset", Kind::Long, "Kafka offset, or the event's ordinal in an imported file"),
    required("event_id", Kind::Text, "producer's id of the event"),
    required("kind", Kind::Text, "message, reaction, completion or erasure"),
    optional("conversation_id", Kind::Text, "conversation, if the record names one"),
    optional("conversation_date", Kind::Date, "UTC day of the conversation's start"),
    optional("message_id", Kind::Text, "the message that the record is, or reacts to"),
    required("event_time", Kind::Time, "when it happened, as the producer says"),
    required("ingest_time", Kind::Time, "when it was read"),
    optional("broker_time", Kind::Time, "when the broker took it"),
    optional("clock_skew", Kind::Text, "future or ancient, when event_time is implausible"),
    optional("schema_id", Kind::Integer, "schema registry id of the wire format"),
    personal(required("headers", Kind::Headers, "Kafka headers")),
    personal(optional("subject_key", Kind::Text, "pseudonym of the person: HMAC-SHA-256 of the user id")),
    personal(required("payload", Kind::Text, "the payload as it came, user ids replaced by subject keys")),
    required("content_hash", Kind::Text, "SHA-256 of payload, first 128 bits"),
    required("ingest_date", Kind::Date, "UTC day of ingest_time"),
];

/// Bronze `events`: one accepted record a row.
pub static EVENTS: TableSpec = TableSpec {
    layer: Layer::Bronze,
    name: "events",
    grain: "one accepted record",
    key: &["topic", "partition", "offset"],
    columns: EVENT_COLUMNS,
    partition: &["ingest_date"],
    order: &["topic", "partition", "offset"],
    statistics: &["topic", "partition", "offset", "event_id", "kind", "conversation_date", "event_time", "ingest_time"],
};

const LETTER_COLUMNS: &[Column] = &[
    required("topic", Kind::Text, "Kafka topic, or file:<hash> for an import"),
    required("partition", Kind::Integer, "Kafka partition"),
    required("offset", Kind::Long, "Kafka offset, or the record's ordinal in an imported file"),
    personal(optional("key", Kind::Bytes, "Kafka key")),
    personal(optional("payload", Kind::Bytes, "the payload as it came, user ids replaced where found")),
    personal(required("headers", Kind::Headers, "Kafka headers")),
    optional("broker_time", Kind::Time, "when the broker took it"),
    required("ingest_time", Kind::Time, "when it was read"),
    optional("event_id", Kind::Text, "producer's id, where it could be read"),
    personal(optional("subject_key", Kind::Text, "the person, where it could be read")),
    required("error_class", Kind::Text, "the reason, out of a closed list"),
    required("error", Kind::Text, "what is wrong and where; never quotes a field's text"),
    optional("schema_id", Kind::Integer, "schema registry id of the wire format"),
    required("pipeline_version", Kind::Text, "version of the code that refused it"),
    required("ingest_date", Kind::Date, "UTC day of ingest_time"),
];

/// Bronze `dead_letters`: one refused record a row.
pub static DEAD_LETTERS: TableSpec = TableSpec {
    layer: Layer::Bronze,
    name: "dead_letters",
    grain: "one refused record",
    key: &["topic", "partition", "offset"],
    columns: LETTER_COLUMNS,
    partition: &["ingest_date"],
    order: &["topic", "partition", "offset"],
    statistics: &["topic", "partition", "offset", "ingest_time", "error_class"],
};
