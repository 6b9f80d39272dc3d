//! The night after the week: what the tables hold is learnt from, judged, and promoted or refused, by a job of the scheduler.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use uptake_schedule::{Cause, NewRun, Run, StepRun, StepState, Store};
use uptake_tagger::ModelFiles;
use uptake_train::stand_in;

use super::stage::Stage;
use crate::columns::columns;
use crate::commands::runs::{here, text};
use crate::commands::schedule;
use crate::context::Context;
use crate::settings::Settings;

/// The settings, with HERE, ENCODER and DECODER to be filled in.
const SETTINGS: &str = include_str!("night.toml");
/// Beside the tables of a lake on this machine.
const FOLDER: &str = "night";
/// Where the files go when the lake is an object store.
const ELSEWHERE: &str = "uptake-demo-night";
/// The job.
const JOB: &str = "night";
/// Between two looks at how far the steps are.
const PAUSE: Duration = Duration::from_millis(200);

/// What the night came to.
pub(super) struct Night {
    run: Run,
    steps: Vec<StepRun>,
    settings: PathBuf,
    page: PathBuf,
}

/// Has the night's job executed; one that has ended is not run again.
pub(super) async fn run(context: &Context, lake: &str, base: Option<&Path>) -> anyhow::Result<Night> {
    let (inner, settings) = prepare(context, lake, base)?;
    let store = schedule::open(&inner).await?;
    let job = inner.settings.schedule.job(JOB)?;
    let now = chrono::Utc::now().timestamp_millis();
    // The base model is part of the key: another one is another night.
    let key = base.map_or_else(|| "demo".to_owned(), |base| format!("demo of {}", base.display()));
    let new = NewRun { job, cause: Cause::Hand, reason: None, due_at: now, key: Some(key), missed: None };
    let run = match store.add(&new, now).await.map_err(schedule::usage)? {
        Some(run) => run,
        None => store.run(JOB).await.map_err(schedule::usage)?,
    };
    let run = if run.state.ended() { run } else { execute(&inner, &store, &run).await? };
    let steps = store.steps(&run.id).await.map_err(schedule::usage)?;
    let page = schedule::place(&inner, &run.id)?.join("report/report.html");
    Ok(Night { run, steps, settings, page })
}

/// The settings of the night in a file, the base models beside it, and a context over them.
fn prepare(context: &Context, lake: &str, base: Option<&Path>) -> anyhow::Result<(Context, PathBuf)> {
    let here = if lake.contains("://") { PathBuf::from(ELSEWHERE) } else { Path::new(lake).join(FOLDER) };
    let here = std::path::absolute(&here).context("find the night's directory")?;
    let encoder = here.join("base/encoder");
    std::fs::create_dir_all(&encoder).with_context(|| format!("make {}", encoder.display()))?;
    let files = ModelFiles::embedded();
    let weights = files.weights.first().context("the weights of the program's tagger")?;
    for (name, bytes) in
        [("config.json", &files.config), ("tokenizer.json", &files.tokenizer), ("model.safetensors", weights)]
    {
        let path = encoder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    let decoder = match base {
        // A directory is found from anywhere, a name on the hub is what it is.
        Some(base) if base.exists() => std::path::absolute(base)?,
        Some(base) => base.to_owned(),
        None => {
            let decoder = here.join("base/decoder");
            stand_in::write(&decoder)?;
            decoder
        }
    };
    let mut text = SETTINGS.to_owned();
    for (word, path) in [("HERE", &here), ("ENCODER", &encoder), ("DECODER", &decoder)] {
        let path = path.to_str().filter(|path| !path.contains(['"', '\\', '{', '}'])).with_context(|| {
            format!("`{}` has characters that a settings file cannot hold: name another directory", path.display())
        })?;
        text = text.replace(word, path);
    }
    let file = here.join("uptake.toml");
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let settings = Settings::load(Some(&file), Some(lake.to_owned()))?;
    Ok((Context::new(settings, Some(file.clone()), context.health.clone()), file))
}

/// Executes the run here, and tells of each step as it ends.
async fn execute(context: &Context, store: &Store, run: &Run) -> anyhow::Result<Run> {
    let planned = run.plan.steps.len();
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut stage = Some(Stage::begin(context.terminal, "night", Some(planned), "steps"));
    let mut pause = tokio::time::interval(PAUSE);
    let mut running = std::pin::pin!(here::execute(context, store, run));
    loop {
        let ended = tokio::select! {
            ended = &mut running => Some(ended?),
            _ = pause.tick() => None,
        };
        for step in store.steps(&run.id).await.map_err(schedule::usage)? {
            if step.state == StepState::Running {
                if let Some(stage) = &stage {
                    stage.bar().set_message(format!("night: {}", step.step));
                }
            } else if told.insert(step.step.clone())
                && let Some(stage) = &stage
            {
                stage.set(told.len() as u64);
                stage.note(&format!(
                    "  {:22} {} ({})",
                    step.step,
                    step.state,
                    text::took(step.started_at, step.ended_at)
                ));
            }
        }
        if let Some(ended) = ended {
            if let Some(stage) = stage.take() {
                stage.done(&format!("{}, {} steps", ended.state, told.len()));
            }
            return Ok(ended);
        }
    }
}

impl Night {
    /// For the summary.
    pub(super) fn text(&self, lake: &str) -> anyhow::Result<String> {
        let mut rows = vec![["step", "state", "took", "what it says"].map(str::to_owned).to_vec()];
        for step in &self.steps {
            rows.push(vec![
                step.step.clone(),
                step.state.to_string(),
                text::took(step.started_at, step.ended_at),
                said(step),
            ]);
        }
        let mut text = columns(&rows, "  ");
        writeln!(
            text,
            "  the run is {}: {}",
            self.run.state,
            self.run.reason.as_deref().unwrap_or("all of it ended well")
        )?;
        writeln!(text, "  the page is {}", self.page.display())?;
        let settings = self.settings.display();
        writeln!(text, "  look on: uptake --lake {lake} --config {settings} models list")?;
        writeln!(text, "           uptake --lake {lake} --config {settings} runs logs {JOB} love")?;
        Ok(text)
    }
}

/// What of a step's result a person wants to know first.
fn said(step: &StepRun) -> String {
    let Some(result) = &step.result else { return String::new() };
    if let Some(rows) = result["rows"].as_object() {
        let rows: Vec<String> = rows.iter().map(|(split, count)| format!("{split} {count}")).collect();
        return format!("{} rows: {}", result["name"].as_str().unwrap_or_default(), rows.join(", "));
    }
    let verdicts = result["decision"]["verdicts"].as_array().into_iter().flatten();
    let verdicts: Vec<String> = verdicts
        .map(|verdict| {
            let figure = verdict["gate"]["figure"].as_str().unwrap_or_default();
            // The end of a figure's name says what it is.
            let short = figure.rsplit('.').next().unwrap_or_default();
            format!("{short}: {}", verdict["reason"].as_str().unwrap_or_default())
        })
        .collect();
    verdicts.join("; ")
}
