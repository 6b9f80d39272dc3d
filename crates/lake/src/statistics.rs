//! The statistics of a data file that may stand in the log: of the columns that the specification names, and no others.
//!
//! No `DELETE` cleans the log, so a minimum or maximum of free text would outlive an erasure.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{max, max_string, min, min_string};
use arrow::datatypes::{Date32Type, Float32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Value, json};
use uptake_model::{Kind, TableSpec};

/// Longer texts stand in the log by a prefix as minimum and not at all as maximum.
const LONGEST_TEXT: usize = 64;

#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Bound {
    Text(String),
    Number(i64),
    Float(f32),
}

#[derive(Debug)]
struct ColumnStatistics {
    name: &'static str,
    kind: Kind,
    least: Option<Bound>,
    greatest: Option<Bound>,
    nulls: usize,
    /// A NaN has no place in an order that every reader agrees on.
    has_nan: bool,
}

/// Collects the statistics of one data file, batch by batch.
#[derive(Debug)]
pub(crate) struct Collector {
    rows: usize,
    columns: Vec<ColumnStatistics>,
}

impl Collector {
    pub(crate) fn new(spec: &TableSpec) -> Self {
        let columns = spec
            .statistics
            .iter()
            .filter(|name| !spec.partition.contains(name))
            .filter_map(|name| spec.column(name))
            .map(|column| ColumnStatistics {
                name: column.name,
                kind: column.kind,
                least: None,
                greatest: None,
                nulls: 0,
                has_nan: false,
            });
        Self { rows: 0, columns: columns.collect() }
    }

    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows();
        for column in &mut self.columns {
            if let Some(array) = batch.column_by_name(column.name) {
                column.add(array);
            }
        }
    }

    /// `add.stats` (Delta protocol, "Per-file Statistics"), as JSON.
    pub(crate) fn finish(&self) -> String {
        let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
        for column in &self.columns {
            nulls.insert(column.name.to_owned(), json!(column.nulls));
            if column.has_nan {
                continue;
            }
            if let Some(value) = column.least.as_ref().and_then(|bound| column.least_value(bound)) {
                least.insert(column.name.to_owned(), value);
            }
            if let Some(value) = column.greatest.as_ref().and_then(|bound| column.greatest_value(bound)) {
                greatest.insert(column.name.to_owned(), value);
            }
        }
        json!({ "numRecords": self.rows, "minValues": least, "maxValues": greatest, "nullCount": nulls }).to_string()
    }
}

impl ColumnStatistics {
    fn add(&mut self, array: &ArrayRef) {
        self.nulls += array.null_count();
        let (least, greatest) = match self.kind {
            Kind::Text => {
                let texts = array.as_string::<i32>();
                let text = |text: Option<&str>| text.map(|text| Bound::Text(text.to_owned()));
                (text(min_string(texts)), text(max_string(texts)))
            }
            Kind::Integer => {
                let numbers = array.as_primitive::<Int32Type>();
                (number(min(numbers).map(i64::from)), number(max(numbers).map(i64::from)))
            }
            Kind::Date => {
                let numbers = array.as_primitive::<Date32Type>();
                (number(min(numbers).map(i64::from)), number(max(numbers).map(i64::from)))
            }
            Kind::Long => {
                let numbers = array.as_primitive::<Int64Type>();
                (number(min(numbers)), number(max(numbers)))
            }
            Kind::Time => {
                let numbers = array.as_primitive::<TimestampMicrosecondType>();
                (number(min(numbers)), number(max(numbers)))
            }
            Kind::Float => {
                let numbers = array.as_primitive::<Float32Type>();
                self.has_nan |= numbers.iter().flatten().any(f32::is_nan);
                (min(numbers).map(Bound::Float), max(numbers).map(Bound::Float))
            }
            // Booleans and nested columns carry their number of nulls only.
            Kind::Flag | Kind::Bytes | Kind::Texts | Kind::Messages | Kind::Headers => (None, None),
        };
        if let Some(new) = least
            && self.least.as_ref().is_none_or(|old| new < *old)
        {
            self.least = Some(new);
        }
        if let Some(new) = greatest
            && self.greatest.as_ref().is_none_or(|old| new > *old)
        {
            self.greatest = Some(new);
        }
    }

    fn least_value(&self, bound: &Bound) -> Option<Value> {
        match bound {
            Bound::Text(text) => Some(json!(prefix(text))),
            other => self.value(other),
        }
    }

    fn greatest_value(&self, bound: &Bound) -> Option<Value> {
        match bound {
            Bound::Text(text) => (text.len() <= LONGEST_TEXT).then(|| json!(text)),
            other => self.value(other),
        }
    }

    fn value(&self, bound: &Bound) -> Option<Value> {
        match bound {
            Bound::Text(_) => None,
            Bound::Float(float) => Some(json!(float)),
            Bound::Number(number) => match self.kind {
                Kind::Date => i32::try_from(*number).ok().and_then(date_text).map(Value::String),
                Kind::Time => DateTime::from_timestamp_micros(*number)
                    .map(|time| json!(time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())),
                _ => Some(json!(number)),
            },
        }
    }
}

fn number(value: Option<i64>) -> Option<Bound> {
    value.map(Bound::Number)
}

/// The longest prefix of whole characters that may stand in the log; it is never greater than the text.
fn prefix(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A day as the log writes it.
pub(crate) fn date_text(day: i32) -> Option<String> {
    NaiveDate::from_epoch_days(day).map(|date| date.format("%Y-%m-%d").to_string())
}

/// A day from how the log writes it.
pub(crate) fn day_from(text: &str) -> Option<i32> {
    Some(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.to_epoch_days())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, Int64Array, StringArray};
    use uptake_model::tables::REJECTED;

    use super::*;

    #[test]
    fn days_are_read_as_they_are_written() {
        for day in [-1, 0, 20_484, 2_932_896] {
            assert_eq!(day_from(&date_text(day).unwrap()), Some(day));
        }
    }

    #[test]
    fn only_named_columns_are_described_and_long_texts_are_cut() {
        let long = "ß".repeat(40);
        let batch = RecordBatch::try_from_iter([
            ("topic", Arc::new(StringArray::from(vec!["secret topic", "b"])) as ArrayRef),
            ("offset", Arc::new(Int64Array::from(vec![1, 2]))),
            ("partition", Arc::new(Int32Array::from(vec![1, 2]))),
            ("event_id", Arc::new(StringArray::from(vec![Some(long.as_str()), None]))),
            ("reason", Arc::new(StringArray::from(vec!["b", "a"]))),
        ])
        .unwrap();
        let mut collector = Collector::new(&REJECTED);
        collector.add(&batch);
        let statistics: Value = serde_json::from_str(&collector.finish()).unwrap();
        assert_eq!(
            statistics,
            json!({
                "numRecords": 2,
                "minValues": {"event_id": "ß".repeat(32), "reason": "a"},
                "maxValues": {"reason": "b"},
                "nullCount": {"event_id": 1, "reason": 0},
            })
        );
    }
}
