//! `uptake models watch`: what users say of each model version, from the live tables.

use std::io::Write as _;
use std::process::ExitCode;

use arrow::util::display::array_value_to_string;
use futures::TryStreamExt as _;
use uptake_model::time;
use uptake_serve::{Options, Session};

use super::Output;
use crate::columns::columns;
use crate::context::{Context, Usage};

/// Shows signals and reactions by the model version that answered, with 95 % intervals, from the tables as they are now.
///
/// Versions go by the names that the chat logs give them. Shares of signals are shares of the answers that drew a next turn.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// Only conversations that began on this day (UTC) or later, such as the day of a promotion.
    #[arg(long, value_name = "YYYY-MM-DD")]
    since: Option<String>,
    /// Only these versions; may be said again.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// A line per day and version, instead of one per version.
    #[arg(long)]
    by_day: bool,
    /// How it is written; `json` is JSON lines with counts and bounds as numbers.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What is counted: name, heading, condition, and over which answers.
const COUNTED: [(&str, &str, &str, &str); 6] = [
    ("satisfied", "satisfied", "array_has(labels, 'sat')", "follow_up_turn_id IS NOT NULL"),
    ("dissatisfied", "dissatisfied", "array_has(labels, 'dsat')", "follow_up_turn_id IS NOT NULL"),
    ("loved", "loved", "loves > 0", "true"),
    ("disliked", "disliked", "dislikes + reports > 0", "true"),
    ("copied", "copied", "copies > 0", "true"),
    ("regenerated", "asked for again", "regenerations > 0", "true"),
];

impl Watch {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let session = Session::open(context.lake()?, &Options::default())?;
        let query = self.query()?;
        let batches: Vec<_> = session.query(&query).await?.rows.try_collect().await?;
        let mut out = std::io::stdout().lock();
        let mut rows = vec![self.heading()];
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let cells = batch.columns().iter().map(|column| array_value_to_string(column, row));
                rows.push(cells.collect::<Result<_, _>>()?);
            }
        }
        match self.output {
            Output::Json => {
                let names = batches.first().map(arrow::array::RecordBatch::schema);
                for row in rows.iter().skip(1) {
                    let fields = names.iter().flat_map(|schema| schema.fields().iter()).zip(row);
                    let object = fields.map(|(field, cell)| (field.name().clone(), value(field.name(), cell)));
                    writeln!(out, "{}", serde_json::Value::Object(object.collect()))?;
                }
            }
            Output::Table if rows.len() == 1 => {
                writeln!(out, "no answers of such a model in silver.exchanges; `uptake run` builds it from the logs")?;
            }
            Output::Table => {
                out.write_all(columns(&rows, "").as_bytes())?;
                writeln!(
                    out,
                    "shares in percent with their 95 % interval and the number of answers (of signals: those with a next turn)"
                )?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn heading(&self) -> Vec<String> {
        let day = self.by_day.then_some("day");
        let fixed = day.into_iter().chain(["model", "answers"]);
        fixed.chain(COUNTED.iter().map(|(_, heading, ..)| *heading)).map(str::to_owned).collect()
    }

    fn query(&self) -> anyhow::Result<String> {
        let day = if self.by_day { "conversation_date, " } else { "" };
        let mut conditions = vec!["model IS NOT NULL".to_owned()];
        if let Some(since) = &self.since {
            let day =
                time::parse_day(since).ok_or_else(|| Usage(format!("--since: `{since}` is no day like 2026-01-31")))?;
            conditions.push(format!("conversation_date >= DATE '{}'", time::day_text(day)));
        }
        if !self.models.is_empty() {
            let names: Vec<String> = self.models.iter().map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
            conditions.push(format!("model IN ({})", names.join(", ")));
        }
        let counted: Vec<String> = COUNTED
            .iter()
            .map(|(name, _, condition, over)| match self.output {
                Output::Table => format!("share(CASE WHEN {over} THEN {condition} END) AS {name}"),
                Output::Json => {
                    let (hits, all) = (
                        format!("count(*) FILTER (WHERE {over} AND {condition})"),
                        format!("count(*) FILTER (WHERE {over})"),
                    );
                    format!(
                        "{hits} AS {name}, {all} AS {name}_of, rate_low({hits}, {all}) AS {name}_low, rate_high({hits}, {all}) AS {name}_high"
                    )
                }
            })
            .collect();
        Ok(format!(
            "SELECT {day}model, count(*) AS answers, {} FROM silver.exchanges WHERE {} GROUP BY {day}model ORDER BY {day}model",
            counted.join(", "),
            conditions.join(" AND ")
        ))
    }
}

/// Numbers as numbers, the model's name and the day as text, nothing as null.
fn value(name: &str, cell: &str) -> serde_json::Value {
    match name {
        "model" | "conversation_date" => cell.into(),
        _ => cell.parse::<serde_json::Number>().map_or(serde_json::Value::Null, Into::into),
    }
}
