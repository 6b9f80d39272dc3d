//! Publication and checks, on lakes in memory.

mod broken;
mod published;

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use serde_json::{Map, Value, json};
use uptake_model::tables::TableSpec;
use uptake_model::time::parse_day;

use crate::{CommitRequest, Lake};

/// A row of a gold table: what the table needs, with `values` on top.
pub(super) fn row(spec: &TableSpec, at: usize, values: Value) -> Value {
    let conversation = at / 2;
    let split = if conversation.is_multiple_of(5) { "test" } else { "train" };
    let answer = |text: String| json!([{ "role": "assistant", "content": text }]);
    let mut row: Map<String, Value> = Map::new();
    for column in spec.columns {
        let value = match column.name {
            "pair_id" | "row_id" => json!(format!("{}-{at:05}", spec.name)),
            "prompt" => json!([{ "role": "user", "content": format!("question {at}") }]),
            "messages" => json!([
                { "role": "user", "content": format!("question {at}") },
                { "role": "assistant", "content": format!("answer {at}") },
            ]),
            "chosen" | "completion" | "response" => answer(format!("good answer {at}")),
            "rejected" => answer(format!("bad answer {at}")),
            "conversation_id" => json!(format!("conversation-{conversation:04}")),
            "conversation_date" => json!(format!("2026-11-{:02}", 1 + conversation % 20)),
            "settled_at" => json!("2026-11-20T00:00:00Z"),
            "split" => json!(split),
            "rule_id" => json!(if at.is_multiple_of(3) { "repair" } else { "edit" }),
            "evidence" | "checklist" => json!(["turn-1"]),
            "label" | "love" => json!(at.is_multiple_of(4)),
            "strength" | "weight" | "propensity" => json!(0.5),
            name if name.ends_with("tokens") => json!(10 + at),
            name if name.ends_with("turn_id") => json!(format!("turn-{at}")),
            "subject_key" => json!("nobody may see this"),
            "model" => json!("m1"),
            _ => Value::Null,
        };
        let _ = row.insert(column.name.to_owned(), value);
    }
    if let Value::Object(values) = values {
        row.extend(values);
    }
    Value::Object(row)
}

/// Rows as a batch of the table.
pub(super) fn batch(spec: &TableSpec, rows: &[Value]) -> RecordBatch {
    let text = rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let mut reader =
        ReaderBuilder::new(spec.schema()).with_batch_size(rows.len().max(1)).build(text.as_bytes()).unwrap();
    reader.next().map_or_else(|| RecordBatch::new_empty(spec.schema()), |batch| batch.unwrap())
}

/// Writes rows into a table of a lake.
pub(super) async fn write(lake: &Lake, spec: &'static TableSpec, rows: &[Value]) {
    let mut days: Vec<_> = rows.iter().filter_map(|row| parse_day(row["conversation_date"].as_str()?)).collect();
    days.sort_unstable();
    days.dedup();
    let table = lake.table(spec).await.unwrap();
    let request = CommitRequest { batches: vec![batch(spec, rows)], ..CommitRequest::default() };
    let _ = table.replace(&days, None, request).await.unwrap();
}

/// A lake with `count` rows of a table.
pub(super) async fn lake_with(spec: &'static TableSpec, count: usize) -> Lake {
    let lake = Lake::in_memory().unwrap();
    let rows: Vec<Value> = (0..count).map(|at| row(spec, at, Value::Null)).collect();
    write(&lake, spec, &rows).await;
    lake
}
