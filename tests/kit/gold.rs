//! Rows of gold and silver tables, without the jobs that make them.

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use serde_json::{Map, Value, json};
use uptake_lake::{CommitRequest, Lake};
use uptake_model::TableSpec;
use uptake_model::tables::Kind;
use uptake_model::time::parse_day;

/// A row with a value for each column that the table requires, and `values` on top.
///
/// Two rows make a conversation; conversations are spread over twenty days, and each fifth is in the test split.
pub fn row(spec: &TableSpec, at: usize, values: Value) -> Value {
    let conversation = at / 2;
    let message = |role: &str, text: String| json!({ "role": role, "content": text });
    let mut row = Map::new();
    for column in spec.columns {
        let value = match (column.name, column.kind) {
            ("prompt", _) => json!([message("user", format!("question {at}, please"))]),
            ("messages", _) => {
                json!([message("user", format!("question {at}")), message("assistant", format!("answer {at}"))])
            }
            ("rejected", _) => json!([message("assistant", format!("bad answer {at}"))]),
            (_, Kind::Messages) => json!([message("assistant", format!("good answer {at}"))]),
            ("conversation_id", _) => json!(format!("conversation-{conversation:04}")),
            ("conversation_date", _) => json!(format!("2026-11-{:02}", 1 + conversation % 20)),
            ("split", _) => json!(if conversation.is_multiple_of(5) { "test" } else { "train" }),
            ("rule_id", _) => json!(if at.is_multiple_of(3) { "repair" } else { "edit" }),
            ("model", _) => json!(if at.is_multiple_of(2) { "m1" } else { "m2" }),
            (_, _) if column.nullable => Value::Null,
            (name, Kind::Text) => json!(format!("{name}-{at:05}")),
            (_, Kind::Integer | Kind::Long) => json!(10 + at),
            (_, Kind::Float) => json!(0.5),
            (_, Kind::Flag) => json!(at.is_multiple_of(4)),
            (_, Kind::Time) => json!("2026-11-20T08:00:00Z"),
            (_, Kind::Date) => json!("2026-11-20"),
            (_, Kind::Texts | Kind::Headers) => json!([]),
            (_, Kind::Bytes) => Value::Null,
        };
        row.insert(column.name.to_owned(), value);
    }
    if let Value::Object(values) = values {
        row.extend(values);
    }
    Value::Object(row)
}

/// Writes rows as whole days of a table.
///
/// # Panics
/// When the lake refuses them.
pub async fn write(lake: &Lake, spec: &'static TableSpec, rows: &[Value]) {
    let text = rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let batches: Vec<RecordBatch> = ReaderBuilder::new(spec.schema())
        .build(text.as_bytes())
        .expect("a reader of JSON")
        .collect::<Result<_, _>>()
        .expect("rows of the table");
    let mut days: Vec<_> = rows.iter().filter_map(|row| parse_day(row["conversation_date"].as_str()?)).collect();
    days.sort_unstable();
    days.dedup();
    let table = lake.table(spec).await.expect("a table");
    table.replace(&days, None, CommitRequest { batches, ..CommitRequest::default() }).await.expect("a commit");
}

/// Writes `count` plain rows.
pub async fn fill(lake: &Lake, spec: &'static TableSpec, count: usize) {
    let rows: Vec<Value> = (0..count).map(|at| row(spec, at, Value::Null)).collect();
    write(lake, spec, &rows).await;
}
