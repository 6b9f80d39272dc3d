//! Control: what the system writes about itself.

use super::{Column, Kind, Layer, TableSpec, optional, required};

const JOB_RUN_COLUMNS: &[Column] = &[
    required("run_id", Kind::Text, "id of the run"),
    required("pipeline", Kind::Text, "pipeline that ran"),
    required("output", Kind::Text, "table it writes"),
    required("status", Kind::Text, "built, unchanged, refused or failed"),
    required("started_at", Kind::Time, "start"),
    required("finished_at", Kind::Time, "end"),
    optional("output_version", Kind::Long, "Delta version of the output after the run"),
    required("rows_in", Kind::Long, "rows read for the rebuilt days"),
    required("rows_out", Kind::Long, "rows written"),
    required("report", Kind::Text, "JSON: source versions, days, rows dropped by reason, checks"),
];

/// Control `job_runs`: one run of one pipeline a row.
pub static JOB_RUNS: TableSpec = TableSpec {
    layer: Layer::Control,
    name: "job_runs",
    grain: "one run of one pipeline",
    key: &["run_id", "pipeline"],
    columns: JOB_RUN_COLUMNS,
    partition: &[],
    order: &["started_at", "pipeline"],
    statistics: &["run_id", "started_at", "pipeline"],
};
