//! Training by a trainer that the team already has: it is started on a published snapshot, its log is streamed, its metrics
//! are read, and what it made is described as our own trainer's models are.
//!
//! The contract: it gets paths (as placeholders of the template and as `UPTAKE_*` variables), leaves a model in OUT, and
//! ends with 0. Metrics are JSON objects, a line each, in OUT/metrics.jsonl or in its output; what TRL prints is read too.

mod metrics;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::context::{Context, Usage};
use crate::progress;
use metrics::Metrics;

/// The ready engine.
const TRL: &str = include_str!("trl.py");
/// The options and paths of a run, for the trainer.
const OPTIONS: &str = "options.json";
/// Lines of the log that an error repeats.
const TAIL: usize = 20;
/// How long a trainer has to end once it was told to.
const GRACE: Duration = Duration::from_secs(20);
/// Exit code of what was stopped by a signal.
const STOPPED: u8 = 4;

/// What is trained, by what, from what.
#[derive(Debug)]
pub(super) struct Job {
    /// `trl` or `command`.
    pub(super) engine: &'static str,
    /// The template of a command; the ready engine's own where none is given.
    pub(super) command: Option<String>,
    /// The interpreter of the ready engine.
    pub(super) python: String,
    /// Directory of a published snapshot.
    pub(super) data: PathBuf,
    /// A directory or a hub name: what the trainer takes.
    pub(super) base: String,
    /// New directory for the model.
    pub(super) out: PathBuf,
    /// All options by name, as the options file hands them on.
    pub(super) options: Value,
}

/// A published snapshot, as far as the lineage needs it.
struct Snapshot {
    name: String,
    id: String,
    sha256: String,
}

impl Snapshot {
    fn of(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join("manifest.json");
        let bytes = std::fs::read(&path).map_err(|error| {
            Usage(format!(
                "--data: `{}` is no published snapshot ({error}): publish one with `uptake snapshot publish`",
                directory.display()
            ))
        })?;
        let manifest: Value = serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?;
        let text = |key: &str| manifest.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let sha256 = Sha256::digest(&bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Ok(Self { name: text("name"), id: text("id"), sha256 })
    }
}

impl Job {
    /// Starts the trainer and waits for it. The model's directory appears under its name when the trainer has ended well.
    ///
    /// # Errors
    /// Usage when the snapshot or the place for the model is wrong; else with the last lines of the trainer's log.
    pub(super) async fn run(mut self, context: &Context) -> anyhow::Result<ExitCode> {
        let snapshot = Snapshot::of(&self.data)?;
        if self.out.exists() {
            return Err(Usage(format!("--out: `{}` is there already: name a new directory", self.out.display())).into());
        }
        let partial = partial(&self.out)?;
        let target = std::mem::replace(&mut self.out, partial);
        std::fs::create_dir_all(&self.out).with_context(|| format!("make {}", self.out.display()))?;
        self.out = std::path::absolute(&self.out)?;
        self.data = std::path::absolute(&self.data)?;
        let log = self.out.join("log.txt");
        let started = Instant::now();
        let bar = progress::bar(context.terminal, None, "lines");
        bar.set_message(format!("train with {}", self.engine));
        let mut child = self.start()?;
        let ended = follow(&mut child, &log, &bar).await;
        bar.finish_and_clear();
        let Ended { success, stopped, status, tail, mut metrics } = ended?;
        if stopped {
            tracing::warn!(
                engine = self.engine,
                "stopped by a signal; what the trainer left is in {}",
                self.out.display()
            );
            return Ok(ExitCode::from(STOPPED));
        }
        anyhow::ensure!(
            success,
            "the trainer ended with {status}; the end of its log ({}):\n  {}",
            log.display(),
            tail.join("\n  ")
        );
        metrics.read_file(&self.out.join("metrics.jsonl"))?;
        self.describe(&snapshot, &metrics, started.elapsed())?;
        std::fs::rename(&self.out, &target).with_context(|| format!("name the model {}", target.display()))?;
        metrics.show(&target)?;
        Ok(ExitCode::SUCCESS)
    }

    fn start(&mut self) -> anyhow::Result<Child> {
        let options = self.out.join(OPTIONS);
        let mut told = self.options.clone();
        for (name, value) in [("data", &self.data), ("out", &self.out)] {
            told[name] = json!(value);
        }
        told["base"] = json!(self.base);
        std::fs::write(&options, serde_json::to_vec_pretty(&told)?)
            .with_context(|| format!("write {}", options.display()))?;
        let template = if let Some(template) = &self.command {
            template.clone()
        } else {
            let script = self.out.join("engine.py");
            std::fs::write(&script, TRL).with_context(|| format!("write {}", script.display()))?;
            format!("exec {} {} {{options}}", quoted(&self.python), quoted(&script.to_string_lossy()))
        };
        let values = [
            ("data", self.data.to_string_lossy().into_owned()),
            ("base", self.base.clone()),
            ("out", self.out.to_string_lossy().into_owned()),
            ("method", self.options["method"].as_str().unwrap_or_default().to_owned()),
            ("seed", self.options["seed"].to_string()),
            ("options", options.to_string_lossy().into_owned()),
        ];
        let line = filled(&template, &values)?;
        tracing::info!(engine = self.engine, command = line, "the trainer starts");
        let mut command = Command::new("sh");
        let _ = command
            .args(["-c", &line])
            .envs(values.iter().map(|(name, value)| (format!("UPTAKE_{}", name.to_uppercase()), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: what the trainer started ends with it.
            .process_group(0)
            .kill_on_drop(true);
        self.command = Some(template);
        command.spawn().context("start the trainer")
    }

    /// Leaves `run.json`, as our own trainer does. The file that told the trainer its paths goes: where files lay on one
    /// machine is nobody's business who gets the model.
    fn describe(&self, snapshot: &Snapshot, metrics: &Metrics, took: Duration) -> anyhow::Result<()> {
        let run = json!({
            "engine": self.engine,
            "command": self.command,
            "data": {"name": snapshot.name, "id": snapshot.id, "manifest_sha256": snapshot.sha256},
            "base": {"name": self.base},
            "options": self.options,
            "seconds": took.as_secs_f64(),
            "steps": metrics.steps(),
            "first": metrics.first(),
            "last": metrics.last(),
        });
        let path = self.out.join("run.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&run)?).with_context(|| format!("write {}", path.display()))?;
        std::fs::remove_file(self.out.join(OPTIONS)).context("remove the options that the trainer was given")
    }
}

/// Where the trainer writes until it has ended well: beside the target, so that the last step is one rename.
fn partial(out: &Path) -> anyhow::Result<PathBuf> {
    let name = out
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Usage(format!("--out: `{}` does not end in a name", out.display())))?;
    Ok(out.with_file_name(format!("{name}.part")))
}

/// How a trainer ended.
struct Ended {
    success: bool,
    stopped: bool,
    status: String,
    tail: Vec<String>,
    metrics: Metrics,
}

/// Streams what a trainer says into its log, ours, and the metrics, until it ends or this process is told to stop.
async fn follow(child: &mut Child, log: &Path, bar: &indicatif::ProgressBar) -> anyhow::Result<Ended> {
    let (send, mut lines) = mpsc::channel::<String>(1_000);
    if let Some(output) = child.stdout.take() {
        drop(tokio::spawn(forward(output, send.clone())));
    }
    if let Some(output) = child.stderr.take() {
        drop(tokio::spawn(forward(output, send.clone())));
    }
    drop(send);
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut file = tokio::fs::File::create(log).await.with_context(|| format!("write {}", log.display()))?;
    let (mut tail, mut metrics, mut stopped) = (VecDeque::new(), Metrics::default(), false);
    let mut kill_at: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            line = lines.recv() => {
                let Some(line) = line else { break };
                file.write_all(format!("{line}\n").as_bytes()).await.with_context(|| format!("write {}", log.display()))?;
                tracing::info!(target: "uptake::engine", "{line}");
                if let Some(shown) = metrics.read_line(&line) {
                    bar.set_message(shown);
                }
                bar.inc(1);
                tail.push_back(line);
                if tail.len() > TAIL {
                    let _ = tail.pop_front();
                }
            }
            () = told_to_stop(&mut terminate, &mut interrupt), if !stopped => {
                stopped = true;
                tell(child, "TERM").await;
                kill_at = Some(tokio::time::Instant::now() + GRACE);
            }
            () = reached(kill_at), if kill_at.is_some() => {
                tell(child, "KILL").await;
                kill_at = None;
            }
        }
    }
    file.flush().await.with_context(|| format!("write {}", log.display()))?;
    let status = child.wait().await.context("wait for the trainer")?;
    Ok(Ended { success: status.success(), stopped, status: status.to_string(), tail: tail.into(), metrics })
}

async fn forward(output: impl tokio::io::AsyncRead + Unpin, lines: mpsc::Sender<String>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    // Bytes, and not text: a trainer may print anything, and its pipe must be read to the end.
    while matches!(output.read_until(b'\n', &mut line).await, Ok(count) if count > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if lines.send(text).await.is_err() {
            return;
        }
    }
}

async fn told_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The end of the trainer's grace; never where none is set.
async fn reached(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Sends a signal to a trainer and to what it started.
async fn tell(child: &Child, name: &str) {
    let Some(id) = child.id() else { return };
    let told = Command::new("kill").args([&format!("-{name}"), "--", &format!("-{id}")]).status().await;
    if let Err(error) = told {
        tracing::warn!(%error, "the trainer could not be told to end");
    }
}

/// A template with its placeholders filled in, each value quoted for the shell. Other braces are the shell's own.
fn filled(template: &str, values: &[(&str, String)]) -> Result<String, Usage> {
    let mut line = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        line.push_str(before);
        let name = after.split_once('}').map(|(name, _)| name);
        let name = name.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase()));
        let Some(name) = name.filter(|_| !before.ends_with('$')) else {
            line.push('{');
            rest = after;
            continue;
        };
        let Some((_, value)) = values.iter().find(|(key, _)| *key == name) else {
            let names: Vec<String> = values.iter().map(|(name, _)| format!("{{{name}}}")).collect();
            return Err(Usage(format!("--command: `{{{name}}}` is no placeholder; there are {}", names.join(", "))));
        };
        line.push_str(&quoted(value));
        rest = &after[name.len() + 1..];
    }
    line.push_str(rest);
    Ok(line)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_quoted_and_checked() {
        let values = [("data", "/a b/it's".to_owned()), ("out", "/o".to_owned())];
        assert_eq!(
            filled("train --data {data} --out {out} ${HOME}", &values).unwrap(),
            "train --data '/a b/it'\\''s' --out '/o' ${HOME}"
        );
        let shell = "f() { echo '{\"loss\": 1}'; }; ${home} {}";
        assert_eq!(filled(shell, &values).unwrap(), shell);
        assert!(filled("train {dat}", &values).unwrap_err().to_string().contains("{data}, {out}"));
    }
}
