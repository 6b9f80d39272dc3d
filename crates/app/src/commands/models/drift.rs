//! `uptake models drift`: label rates held against the days before, and the alarm of those that left them.

use std::io::Write as _;
use std::process::ExitCode;

use arrow::util::display::array_value_to_string;
use futures::TryStreamExt as _;
use uptake_lake::Lake;
use uptake_serve::{Options, Session};

use super::{Output, REFUSED};
use crate::columns::columns;
use crate::context::Context;

/// Days counted back from the newest one where nothing is said: what a run late in the week must still tell.
const DAYS: u16 = 7;

/// Holds each label's share of follow-ups, by day and tagger, against the 28 days before. Ends with 3 where one left them.
///
/// The view `silver.label_drift` says how: bounds of four standard deviations, widened by how much shares vary from day to day;
/// no alarm without a fortnight of history, ten that fired or were to fire, and a change that the pipeline `label_rates` calls worth it.
#[derive(Debug, clap::Args)]
pub(crate) struct Drift {
    /// How many days, counted back from the newest one.
    #[arg(long, default_value_t = DAYS, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,
    /// Every label of these days, instead of those that left their history.
    #[arg(long)]
    all: bool,
    /// How it is written; `json` is JSON lines with numbers.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// One label on one day.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rate {
    /// The columns of [`COLUMNS`], as the table shows them.
    cells: Vec<String>,
}

/// What is asked of the view.
const COLUMNS: [&str; 11] = [
    "conversation_date",
    "tagger_id",
    "label",
    "follow_ups",
    "fired",
    "rate",
    "history_rate",
    "low",
    "high",
    "z",
    "alarm",
];

impl Rate {
    /// A column as text; nothing where it is null.
    pub(crate) fn cell(&self, name: &str) -> &str {
        let place = COLUMNS.iter().position(|column| *column == name);
        place.and_then(|place| self.cells.get(place)).map_or("", String::as_str)
    }

    /// Whether the label left its history.
    pub(crate) fn alarms(&self) -> bool {
        self.cell("alarm") == "true"
    }

    fn percent(&self, name: &str) -> String {
        self.cell(name).parse().map_or_else(|_| "–".to_owned(), |share: f64| format!("{:.2}", 100.0 * share))
    }

    /// The alarm in a line.
    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} fired for {} % of {} follow-ups of {}, before it was {} % (bounds {} to {} %), by {}",
            self.cell("label"),
            self.percent("rate"),
            self.cell("follow_ups"),
            self.cell("conversation_date"),
            self.percent("history_rate"),
            self.percent("low"),
            self.percent("high"),
            self.cell("tagger_id")
        )
    }

    fn row(&self) -> Vec<String> {
        let plain = |name: &str| self.cell(name).to_owned();
        let z = self.cell("z").parse().map_or_else(|_| "–".to_owned(), |z: f64| format!("{z:+.1}"));
        vec![
            plain("conversation_date"),
            plain("label"),
            plain("follow_ups"),
            plain("fired"),
            self.percent("rate"),
            self.percent("history_rate"),
            self.percent("low"),
            self.percent("high"),
            z,
            if self.alarms() { "ALARM".to_owned() } else { String::new() },
            plain("tagger_id"),
        ]
    }

    fn json(&self) -> serde_json::Value {
        let value = |name: &str| match name {
            "conversation_date" | "tagger_id" | "label" => self.cell(name).into(),
            "alarm" => self.alarms().into(),
            _ => self.cell(name).parse::<serde_json::Number>().map_or(serde_json::Value::Null, Into::into),
        };
        serde_json::Value::Object(COLUMNS.iter().map(|name| ((*name).to_owned(), value(name))).collect())
    }
}

/// The labels of the newest days.
///
/// # Errors
/// What the tables say.
pub(crate) async fn rates(lake: Lake, days: u16) -> anyhow::Result<Vec<Rate>> {
    let session = Session::open(lake, &Options::default())?;
    let query = format!(
        "SELECT {} FROM silver.label_drift \
         WHERE conversation_date > (SELECT max(conversation_date) FROM silver.label_rates) - INTERVAL '{days} days' \
         ORDER BY conversation_date, tagger_id, label",
        COLUMNS.join(", ")
    );
    let batches: Vec<_> = session.query(&query).await?.rows.try_collect().await?;
    let mut rates = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, row));
            rates.push(Rate { cells: cells.collect::<Result<_, _>>()? });
        }
    }
    Ok(rates)
}

/// The alarms among the newest days that a run has built anew.
///
/// # Errors
/// What the tables say.
pub(crate) async fn alarms(lake: Lake, built: &[String]) -> anyhow::Result<Vec<Rate>> {
    let mut alarms = rates(lake, DAYS).await?;
    alarms.retain(|rate| rate.alarms() && built.iter().any(|day| day == rate.cell("conversation_date")));
    Ok(alarms)
}

impl Drift {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let rates = rates(context.lake()?, self.days).await?;
        let alarms = rates.iter().filter(|rate| rate.alarms()).count();
        let shown: Vec<&Rate> = rates.iter().filter(|rate| self.all || rate.alarms()).collect();
        let mut out = std::io::stdout().lock();
        match self.output {
            Output::Json => {
                for rate in &shown {
                    writeln!(out, "{}", rate.json())?;
                }
            }
            Output::Table if rates.is_empty() => {
                writeln!(out, "silver.label_rates is empty; `uptake run` builds it from the logs")?;
            }
            Output::Table => {
                if !shown.is_empty() {
                    let heading = [
                        "day",
                        "label",
                        "follow-ups",
                        "fired",
                        "%",
                        "before %",
                        "low %",
                        "high %",
                        "z",
                        "alarm",
                        "tagger",
                    ];
                    let mut rows = vec![heading.map(str::to_owned).to_vec()];
                    rows.extend(shown.iter().map(|rate| rate.row()));
                    out.write_all(columns(&rows, "").as_bytes())?;
                }
                writeln!(out, "{alarms} of {} label rates left the bounds of the 28 days before", rates.len())?;
            }
        }
        Ok(if alarms > 0 { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
    }
}
