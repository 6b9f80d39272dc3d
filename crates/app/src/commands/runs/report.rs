//! The report of a run: what its steps have left, gathered from the store and from the run's directory.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use uptake_schedule::{Run, StepRun};

use super::page;

/// How deep below a run's directory pages and metrics are looked for.
const DEPTH: usize = 3;

/// What a run came to.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) run: &'a Run,
    pub(super) steps: &'a [StepRun],
    /// From the first start to the end, in seconds; of a run under way, until now.
    pub(super) seconds: f64,
    /// What was published.
    pub(super) snapshots: Vec<Snapshot>,
    /// What came into the registry, with the gates' decisions.
    pub(super) models: Vec<Model>,
    /// What was measured step by step.
    pub(super) curves: Vec<Curve>,
    /// Pages that steps have made, below the report's directory.
    pub(super) pages: Vec<PathBuf>,
}

/// A snapshot that a step has published.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    pub(super) step: String,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) rows: Value,
    pub(super) left_out: Value,
    pub(super) taggers: Value,
    pub(super) models: Value,
}

/// A model that a step has added to the registry.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    pub(super) step: String,
    pub(super) id: String,
    pub(super) lineage: Value,
    pub(super) decision: Value,
}

/// A training's metrics.
#[derive(Debug, Serialize)]
pub(super) struct Curve {
    /// Its file, below the run's directory.
    pub(super) file: PathBuf,
    /// Values by name, a point a step.
    pub(super) values: Vec<(String, Vec<f64>)>,
}

/// The curves that a page shows, by TRL's names.
const SHOWN: [&str; 4] = ["loss", "rewards/accuracies", "rewards/margins", "rewards/chosen"];

/// Writes report.json and report.html into a directory, with copies of the steps' pages.
pub(super) fn write(directory: &Path, run: &Run, steps: &[StepRun], output: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(output).with_context(|| format!("make {}", output.display()))?;
    let inside = std::path::absolute(output)?;
    let mut files = Vec::new();
    gather(directory, DEPTH, &inside, &mut files);
    files.sort();
    let mut pages = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "html")) {
        let below = file.strip_prefix(directory).unwrap_or(file);
        let name = PathBuf::from(below.to_string_lossy().replace('/', "-"));
        let _ = std::fs::copy(file, output.join(&name)).with_context(|| format!("copy {}", file.display()))?;
        pages.push(name);
    }
    let curves = files.iter().filter(|file| file.ends_with("metrics.jsonl"));
    let curves = curves.filter_map(|file| curve(file, directory)).collect();
    let ended = run.ended_at.unwrap_or_else(super::now);
    let report = Report {
        run,
        steps,
        seconds: run.started_at.map_or(0.0, |started| (ended - started).max(0) as f64 / 1_000.0),
        snapshots: steps.iter().filter_map(snapshot).collect(),
        models: steps.iter().filter_map(model).collect(),
        curves,
        pages,
    };
    let write = |name: &str, bytes: &[u8]| {
        let path = output.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    };
    write("report.json", &serde_json::to_vec_pretty(&report)?)?;
    write("report.html", page::page(&report).as_bytes())
}

fn snapshot(step: &StepRun) -> Option<Snapshot> {
    let result = step
        .result
        .as_ref()
        .filter(|result| result["format"].as_str().is_some_and(|format| format.starts_with("uptake-snapshot/")))?;
    let part = |name: &str| result.get(name).cloned().unwrap_or_default();
    Some(Snapshot {
        step: step.step.clone(),
        name: result["name"].as_str()?.to_owned(),
        id: result["id"].as_str()?.to_owned(),
        rows: part("rows"),
        left_out: part("left_out"),
        taggers: part("taggers"),
        models: part("models"),
    })
}

fn model(step: &StepRun) -> Option<Model> {
    let result = step.result.as_ref().filter(|result| result["decision"].is_object())?;
    Some(Model {
        step: step.step.clone(),
        id: result["id"].as_str()?.to_owned(),
        lineage: result.get("lineage").cloned().unwrap_or_default(),
        decision: result["decision"].clone(),
    })
}

/// Files below a directory, but not those of the report itself.
fn gather(directory: &Path, depth: usize, without: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 && path != without => gather(&path, depth - 1, without, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

fn curve(file: &Path, directory: &Path) -> Option<Curve> {
    let text = std::fs::read_to_string(file).ok()?;
    let rows: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let values = SHOWN.iter().filter_map(|name| {
        let points: Vec<f64> =
            rows.iter().filter_map(|row| row[*name].as_f64()).filter(|value| value.is_finite()).collect();
        (points.len() > 1).then(|| ((*name).to_owned(), points))
    });
    let values: Vec<_> = values.collect();
    let file = file.strip_prefix(directory).unwrap_or(file).to_owned();
    (!values.is_empty()).then_some(Curve { file, values })
}
