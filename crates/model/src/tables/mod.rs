//! Every table: its columns, partition, order, and which columns may carry statistics.
//!
//! These specifications are the contract: `schemas/tables/*.json` is generated from them and checked for drift, the
//! lake creates tables from them, and jobs are held to them. Statistics stand in the clear in `_delta_log`, which no
//! `DELETE` cleans; therefore only ids, positions, days and times carry them, never free text or subject keys.

mod bronze;
mod control;
mod gold;
mod silver;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

pub use bronze::{DEAD_LETTERS, EVENTS};
pub use control::JOB_RUNS;
pub use gold::{LOVE, PREFERENCE_PAIRS, PROMPTS, SUPERVISED, UNPAIRED};
pub use silver::{EXCHANGES, LABEL_RATES, REACTIONS, REJECTED, SIGNALS, SIGNALS_SHADOW, SUBJECTS, TURNS};

/// The layer of a table, which is also its directory and its SQL schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// Records as they came.
    Bronze,
    /// Cleaned facts, one row per thing.
    Silver,
    /// What training reads.
    Gold,
    /// What the system writes about itself.
    Control,
}

impl Layer {
    /// Directory and SQL schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bronze => "bronze",
            Self::Silver => "silver",
            Self::Gold => "gold",
            Self::Control => "control",
        }
    }
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Raw bytes.
    Bytes,
    /// 32-bit integer.
    Integer,
    /// 64-bit integer.
    Long,
    /// 32-bit float: scores, weights, strengths.
    Float,
    /// Boolean.
    Flag,
    /// Days since 1970-01-01.
    Date,
    /// Microseconds since 1970-01-01 UTC.
    Time,
    /// A list of texts.
    Texts,
    /// A list of chat messages, each exactly `{role, content}`.
    Messages,
    /// A list of Kafka headers, each `{key, value}`.
    Headers,
}

impl Kind {
    /// The Arrow type. Lists are `List`, texts are `Utf8`: what every trainer's reader takes.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Integer => DataType::Int32,
            Self::Long => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Flag => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(utc())),
            Self::Texts => DataType::List(list_item(DataType::Utf8)),
            Self::Messages => DataType::List(list_item(DataType::Struct(message_fields()))),
            Self::Headers => DataType::List(list_item(DataType::Struct(header_fields()))),
        }
    }

    /// The name in the table contracts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::Integer => "int32",
            Self::Long => "int64",
            Self::Float => "float32",
            Self::Flag => "boolean",
            Self::Date => "date",
            Self::Time => "timestamp_us_utc",
            Self::Texts => "list<text>",
            Self::Messages => "list<{role, content}>",
            Self::Headers => "list<{key, value}>",
        }
    }
}

/// The time zone of every timestamp column.
pub fn utc() -> Arc<str> {
    Arc::from("UTC")
}

/// The item field of every list, named as the Delta protocol's Parquet mapping names it.
pub fn list_item(kind: DataType) -> FieldRef {
    Arc::new(Field::new("element", kind, true))
}

/// The fields of a chat message.
pub fn message_fields() -> Fields {
    Fields::from(vec![Field::new("role", DataType::Utf8, true), Field::new("content", DataType::Utf8, true)])
}

/// The fields of a Kafka header.
pub fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Utf8, true)])
}

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Whether null is allowed.
    pub nullable: bool,
    /// Whether it can hold what a person wrote or who a person is.
    pub personal: bool,
    /// What it means.
    pub meaning: &'static str,
}

/// A column that is never null.
const fn required(name: &'static str, kind: Kind, meaning: &'static str) -> Column {
    Column { name, kind, nullable: false, personal: false, meaning }
}

/// A column that may be null.
const fn optional(name: &'static str, kind: Kind, meaning: &'static str) -> Column {
    Column { name, kind, nullable: true, personal: false, meaning }
}

/// A column that can hold what a person wrote or who a person is.
const fn personal(column: Column) -> Column {
    Column { personal: true, ..column }
}

/// One table.
#[derive(Debug)]
pub struct TableSpec {
    /// Its layer.
    pub layer: Layer,
    /// Its name inside the layer.
    pub name: &'static str,
    /// What one row is.
    pub grain: &'static str,
    /// The columns whose values identify a row.
    pub key: &'static [&'static str],
    /// Columns, partition columns last.
    pub columns: &'static [Column],
    /// Partition columns.
    pub partition: &'static [&'static str],
    /// Order of the rows inside a file.
    pub order: &'static [&'static str],
    /// Columns whose minimum and maximum may stand in the transaction log.
    pub statistics: &'static [&'static str],
}

impl TableSpec {
    /// `layer.name`, as SQL and the pipelines write it.
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.layer.name(), self.name)
    }

    /// `layer/name`, the directory below the lake's root.
    pub fn path(&self) -> String {
        format!("{}/{}", self.layer.name(), self.name)
    }

    /// The Arrow schema.
    pub fn schema(&self) -> SchemaRef {
        let field = |column: &Column| Field::new(column.name, column.kind.arrow(), column.nullable);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl fmt::Display for TableSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.layer.name(), self.name)
    }
}

/// Every table, in the order of the flow.
pub static ALL: [&TableSpec; 16] = [
    &EVENTS,
    &DEAD_LETTERS,
    &TURNS,
    &REACTIONS,
    &SIGNALS,
    &SIGNALS_SHADOW,
    &LABEL_RATES,
    &EXCHANGES,
    &SUBJECTS,
    &REJECTED,
    &PREFERENCE_PAIRS,
    &UNPAIRED,
    &LOVE,
    &PROMPTS,
    &SUPERVISED,
    &JOB_RUNS,
];

/// The table of that qualified name (`silver.turns`).
pub fn find(qualified: &str) -> Option<&'static TableSpec> {
    ALL.into_iter().find(|spec| spec.qualified() == qualified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_specification_are_its_columns() {
        for spec in ALL {
            let named = [spec.key, spec.partition, spec.order, spec.statistics].concat();
            for name in named {
                assert!(spec.column(name).is_some(), "{spec} has no column {name}");
            }
        }
    }

    #[test]
    fn no_personal_column_carries_statistics() {
        for spec in ALL {
            for name in spec.statistics {
                let column = spec.column(name).unwrap();
                assert!(!column.personal, "{spec}.{name} is personal");
                assert!(
                    !matches!(column.kind, Kind::Bytes | Kind::Texts | Kind::Messages | Kind::Headers),
                    "{spec}.{name} cannot carry statistics"
                );
            }
        }
    }

    #[test]
    fn partition_columns_stand_last() {
        for spec in ALL {
            let tail = &spec.columns[spec.columns.len() - spec.partition.len()..];
            let names: Vec<_> = tail.iter().map(|column| column.name).collect();
            assert_eq!(names, spec.partition, "{spec}");
        }
    }

    #[test]
    fn pairs_have_no_column_that_breaks_a_trainer() {
        for forbidden in
            ["label", "image", "images", "chosen_ids", "rejected_ids", "chat_template_kwargs", "tools", "margin"]
        {
            assert!(PREFERENCE_PAIRS.column(forbidden).is_none(), "{forbidden}");
        }
    }
}
