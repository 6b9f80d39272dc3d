//! What a pipeline's rows are held to before anybody sees them.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Array, Int64Array, RecordBatch};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};
use uptake_model::TableSpec;

use crate::error::{Error, Result};
use crate::statement::quoted;

/// How many keys of offending rows a message shows.
const SAMPLES: usize = 5;

/// The `[checks]` of a `pipeline.toml`. The table's key is always unique within a day, and its required columns are never null.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checks {
    /// At least this many rows for each candidate that `build.sql` gave (0 to 1).
    pub least_share_kept: Option<f64>,
    /// At most this many rows in a day; more is a join gone wrong.
    pub most_rows_a_day: Option<u64>,
    /// Columns in which at most this share of the rows may be null.
    pub most_null: BTreeMap<String, f64>,
    /// Columns that hold nothing but these values (or null).
    pub allowed: BTreeMap<String, Vec<String>>,
    /// Text or message columns that are never empty.
    pub not_empty: Vec<String>,
    /// Conditions that no row may meet, by name.
    pub never: BTreeMap<String, String>,
}

/// What became of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub check: String,
    /// Rows that offend.
    pub offending: i64,
    /// Whether it holds.
    pub holds: bool,
    /// What is wrong, with keys of some offending rows; empty where it holds.
    pub message: String,
}

impl Checks {
    /// Refuses names that are no columns, and shares outside 0 to 1.
    pub(crate) fn validate(&self, output: &TableSpec) -> std::result::Result<(), String> {
        let columns = self.most_null.keys().chain(self.allowed.keys()).chain(&self.not_empty);
        for column in columns {
            if output.column(column).is_none() {
                return Err(format!("`checks`: {output} has no column `{column}`"));
            }
        }
        let shares = self.most_null.values().chain(self.least_share_kept.iter());
        for share in shares {
            if !(0.0..=1.0).contains(share) {
                return Err(format!("`checks`: a share lies between 0 and 1, not at {share}"));
            }
        }
        Ok(())
    }

    /// Runs every check over the rows that were built from `candidates` rows.
    pub(crate) async fn run(
        &self,
        pipeline: &str,
        output: &'static TableSpec,
        rows: &[RecordBatch],
        candidates: usize,
    ) -> Result<Vec<Outcome>> {
        let context = SessionContext::new();
        let table = datafusion::datasource::MemTable::try_new(output.schema(), vec![rows.to_vec()])
            .map_err(Error::query(pipeline, "check the rows that were built"))?;
        let _ = context
            .register_table("built", std::sync::Arc::new(table))
            .map_err(Error::query(pipeline, "check the rows that were built"))?;
        let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let mut outcomes = Vec::new();
        let key = output.key.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        // Days are built alone, so a key is unique within its day: what two days hold alike neither of them can know.
        let mut wanted = vec![(
            format!("unique({})", output.key.join(", ")),
            format!(
                "SELECT {key}, count(*) OVER () AS offending FROM built GROUP BY {key}, conversation_date HAVING count(*) > 1"
            ),
            0.0,
        )];
        let mut never = |name: String, condition: String, share: f64| {
            wanted.push((
                name,
                format!("SELECT {key}, count(*) OVER () AS offending FROM built WHERE {condition}"),
                share,
            ));
        };
        for column in &self.not_empty {
            let condition = match output.column(column).map(|column| column.kind) {
                Some(uptake_model::Kind::Text) => format!("trim(\"{column}\") = ''"),
                _ => format!("coalesce(array_length(\"{column}\"), 0) = 0"),
            };
            never(format!("not_empty({column})"), condition, 0.0);
        }
        for (column, values) in &self.allowed {
            let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            never(format!("allowed({column})"), format!("\"{column}\" NOT IN ({})", values.join(", ")), 0.0);
        }
        for (column, share) in &self.most_null {
            never(format!("most_null({column})"), format!("\"{column}\" IS NULL"), *share);
        }
        for (name, condition) in &self.never {
            never(name.clone(), condition.clone(), 0.0);
        }
        for (name, sql, share) in wanted {
            outcomes.push(self.offending(pipeline, &context, name, &sql, share, total).await?);
        }
        outcomes.extend(self.counts(total, candidates));
        if let Some(most) = self.most_rows_a_day {
            let sql = format!(
                "SELECT conversation_date, count(*) OVER () AS offending FROM built GROUP BY conversation_date HAVING count(*) > {most}"
            );
            outcomes.push(self.offending(pipeline, &context, "most_rows_a_day".to_owned(), &sql, 0.0, total).await?);
        }
        Ok(outcomes)
    }

    fn counts(&self, total: usize, candidates: usize) -> Option<Outcome> {
        let share = self.least_share_kept?;
        let holds = total as f64 >= share * candidates as f64;
        let message = format!("{total} of {candidates} candidates came through, less than the share {share}");
        Some(Outcome {
            check: "least_share_kept".to_owned(),
            offending: i64::try_from(candidates.saturating_sub(total)).unwrap_or(i64::MAX),
            holds,
            message: if holds { String::new() } else { message },
        })
    }

    async fn offending(
        &self,
        pipeline: &str,
        context: &SessionContext,
        check: String,
        sql: &str,
        share: f64,
        total: usize,
    ) -> Result<Outcome> {
        let found = async { context.sql(&format!("{sql} LIMIT {SAMPLES}")).await?.collect().await };
        let found = found.await.map_err(Error::query(pipeline, "check the rows that were built"))?;
        let mut offending = 0;
        let mut samples = Vec::new();
        for batch in &found {
            let counts = batch.column(batch.num_columns() - 1).as_any().downcast_ref::<Int64Array>();
            offending = counts.filter(|counts| !counts.is_empty()).map_or(offending, |counts| counts.value(0));
            for row in 0..batch.num_rows() {
                let parts = (0..batch.num_columns() - 1)
                    .map(|column| array_value_to_string(batch.column(column), row).unwrap_or_default());
                samples.push(parts.collect::<Vec<_>>().join("/"));
            }
        }
        let holds = offending as f64 <= share * total as f64;
        let bound = if share > 0.0 { format!(", more than the share {share}") } else { String::new() };
        let message = format!("{offending} of {total} rows{bound}; for example {}", samples.join(", "));
        Ok(Outcome { check, offending, holds, message: if holds { String::new() } else { message } })
    }
}
