//! `uptake train policy`: fine-tunes a language model from preferences.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_train::decoder::{Adapter, Module};
use uptake_train::metrics::Estimate;
use uptake_train::policy::{self, Event, Method, Options, Report, RowCounts, Truncation};

use super::engine::Job;
use crate::base;
use crate::commands::models;
use crate::context::{Context, Usage};
use crate::progress;

/// Trains a low-rank adapter of a language model from a published snapshot: by itself, or by the trainer that you have.
///
/// The base model's chat template makes the prompts. What became of the rows is said before the first step. A run that was
/// killed goes on at its last checkpoint when it is started again with the same options, and ends with the same bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Policy {
    /// What is minimised: sft (imitates chosen or liked answers), dpo (pairs), kto (answers liked or not, or pairs).
    #[arg(long, value_enum)]
    method: Name,

    /// Directory of a published snapshot, or JSON lines with prompt, chosen and rejected (or completion and label, or
    /// messages), plain or gzip'd.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,

    /// Directory of the base model as Hugging Face lays it out, with tokenizer and chat template, or its name on the hub, such
    /// as `HuggingFaceTB/SmolLM2-135M-Instruct` or `NAME@REVISION`: the Llama layout (`SmolLM2` too), Qwen2, Qwen3.
    #[arg(long, value_name = "DIR|NAME")]
    base: PathBuf,

    /// Pairs to measure on that are not trained on: a published snapshot, whose test part it is, or JSON lines. Where nothing is
    /// said, the test part of --data.
    #[arg(long, value_name = "PATH")]
    held_out: Option<PathBuf>,

    /// New directory for the adapter.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// What the adapter calls its base model, such as a hub name; --base where nothing is said.
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,

    /// How closely dpo and kto keep to the base model.
    #[arg(long, default_value_t = 0.1)]
    beta: f64,

    /// kto: weight of liked answers.
    #[arg(long, default_value_t = 1.0)]
    desirable_weight: f64,

    /// kto: weight of disliked answers.
    #[arg(long, default_value_t = 1.0)]
    undesirable_weight: f64,

    /// Rank of the adapter.
    #[arg(long, default_value_t = Adapter::default().rank)]
    lora_rank: usize,

    /// The adapter's update is scaled by alpha / rank.
    #[arg(long, default_value_t = Adapter::default().alpha)]
    lora_alpha: f64,

    /// Projections that get an update: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`.
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_values_t = Module::ALL)]
    lora_modules: Vec<Module>,

    /// Of the adapter's start and of the order.
    #[arg(long, default_value_t = defaults().seed)]
    seed: u64,

    /// Passes over the rows.
    #[arg(long, default_value_t = defaults().epochs)]
    epochs: usize,

    /// Steps at most.
    #[arg(long)]
    max_steps: Option<usize>,

    /// Rows whose gradients are computed together.
    #[arg(long, default_value_t = defaults().batch)]
    batch: usize,

    /// Batches of a step.
    #[arg(long, default_value_t = defaults().accumulate)]
    accumulate: usize,

    /// Longest sequence in tokens, prompt and answer; what is longer is cut.
    #[arg(long, default_value_t = defaults().max_length)]
    max_length: usize,

    /// What of a longer sequence stays.
    #[arg(long, value_enum, default_value_t = Kept::KeepStart)]
    truncation: Kept,

    /// Highest learning rate; it rises in the warm-up and falls along a cosine.
    #[arg(long, default_value_t = defaults().learning_rate)]
    learning_rate: f64,

    /// Part of all steps in which the learning rate rises.
    #[arg(long, default_value_t = defaults().warm_up)]
    warm_up: f64,

    /// Largest norm of a step's gradient.
    #[arg(long, default_value_t = defaults().clip)]
    clip: f64,

    /// Fraction of a matrix that a learning rate of 1 takes away in a step.
    #[arg(long, default_value_t = defaults().weight_decay)]
    weight_decay: f64,

    /// Keep the activations of all layers: faster, and several times the memory.
    #[arg(long)]
    keep_activations: bool,

    /// Write the base model with the adapter added, too: OUT/merged.
    #[arg(long)]
    merge: bool,

    /// Steps between checkpoints.
    #[arg(long, default_value_t = defaults().checkpoint_steps)]
    checkpoint_steps: usize,

    /// Who trains: this program; TRL, by a ready script; or a command of yours, started on the snapshot.
    #[arg(long, value_enum, default_value_t = Engine::Native)]
    engine: Engine,

    /// The command of `--engine command`, for a shell: `{data}`, `{base}`, `{out}`, `{method}`, `{seed}` and `{options}` (a JSON
    /// file with all of these options) are filled in. It leaves the model in `{out}` and metrics, a JSON object a line, in
    /// `{out}/metrics.jsonl` or its output.
    #[arg(long, value_name = "TEMPLATE", required_if_eq("engine", "command"))]
    command: Option<String>,

    /// The Python of `--engine trl`, with trl and peft.
    #[arg(long, env = "UPTAKE_PYTHON", default_value = "python3", value_name = "PROGRAM")]
    python: String,

    /// Add what was made to the registry of models under this name; the exit code is 3 where its gates refuse it.
    #[arg(long, value_name = "NAME")]
    register: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    Native,
    Trl,
    Command,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Name {
    Sft,
    Dpo,
    Kto,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kept {
    /// The end of the answer is cut off.
    KeepStart,
    /// The start of the prompt is cut off.
    KeepEnd,
}

/// The library's defaults.
fn defaults() -> Options {
    Options::new(Method::Sft)
}

impl Policy {
    fn options(self) -> Options {
        let method = match self.method {
            Name::Sft => Method::Sft,
            Name::Dpo => Method::Dpo { beta: self.beta },
            Name::Kto => {
                Method::Kto { beta: self.beta, desirable: self.desirable_weight, undesirable: self.undesirable_weight }
            }
        };
        Options {
            method,
            data: self.data,
            held_out: self.held_out,
            base: self.base,
            base_name: self.base_name,
            out: self.out,
            seed: self.seed,
            epochs: self.epochs,
            max_steps: self.max_steps,
            batch: self.batch,
            accumulate: self.accumulate,
            max_length: self.max_length,
            truncation: match self.truncation {
                Kept::KeepStart => Truncation::KeepStart,
                Kept::KeepEnd => Truncation::KeepEnd,
            },
            adapter: Adapter { rank: self.lora_rank, alpha: self.lora_alpha, modules: self.lora_modules },
            learning_rate: self.learning_rate,
            warm_up: self.warm_up,
            clip: self.clip,
            weight_decay: self.weight_decay,
            recompute: !self.keep_activations,
            merge: self.merge,
            checkpoint_steps: self.checkpoint_steps,
        }
    }

    /// Trains, by whomever, and registers what was made.
    pub(super) async fn run(mut self, context: &Context) -> anyhow::Result<ExitCode> {
        // Other trainers know names on the hub themselves.
        if self.engine == Engine::Native {
            let found = base::find(&self.base, context.terminal).await?;
            let asked = std::mem::replace(&mut self.base, found.directory);
            if found.origin.is_some() && self.base_name.is_none() {
                self.base_name = asked.to_str().map(|name| name.split('@').next().unwrap_or(name).to_owned());
            }
        }
        let (out, register, terminal) = (self.out.clone(), self.register.clone(), context.terminal);
        let snapshot = snapshot_of(&self.data);
        let code = match self.engine {
            Engine::Native => tokio::task::spawn_blocking(move || self.train(terminal)).await??,
            Engine::Trl | Engine::Command => Box::pin(self.job()?.run(context)).await?,
        };
        match register {
            Some(name) if code == ExitCode::SUCCESS => models::register(context, &out, name, snapshot).await,
            _ => Ok(code),
        }
    }

    /// The same for another trainer.
    fn job(self) -> Result<Job, Usage> {
        if self.command.is_some() && self.engine != Engine::Command {
            return Err(Usage("--command is for --engine command".to_owned()));
        }
        let method = match self.method {
            Name::Sft => "sft",
            Name::Dpo => "dpo",
            Name::Kto => "kto",
        };
        let modules: Vec<&str> = self.lora_modules.iter().map(|module| module.name()).collect();
        let options = serde_json::json!({
            "method": method,
            "base_name": self.base_name,
            "beta": self.beta,
            "desirable_weight": self.desirable_weight,
            "undesirable_weight": self.undesirable_weight,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "lora_modules": modules,
            "seed": self.seed,
            "epochs": self.epochs,
            "max_steps": self.max_steps,
            "batch": self.batch,
            "accumulate": self.accumulate,
            "max_length": self.max_length,
            "learning_rate": self.learning_rate,
            "warm_up": self.warm_up,
            "clip": self.clip,
            "weight_decay": self.weight_decay,
        });
        Ok(Job {
            engine: if self.engine == Engine::Trl { "trl" } else { "command" },
            command: self.command,
            python: self.python,
            data: self.data,
            base: self.base.to_string_lossy().into_owned(),
            out: self.out,
            options,
        })
    }

    /// Trains; says first what became of the rows, last what was measured.
    pub(super) fn train(self, terminal: bool) -> anyhow::Result<ExitCode> {
        let options = self.options();
        let bar = progress::bar(terminal, Some(0), "steps");
        bar.set_message("read the rows");
        let mut written = Ok(());
        let report = policy::train(&options, &mut |event| {
            let said = tell(&bar, event);
            written = std::mem::replace(&mut written, Ok(())).and(said);
        });
        bar.finish_and_clear();
        let report = report.context("train a policy")?;
        written.and_then(|()| summary(&report)).context("write the summary")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Table and id of a published snapshot, if that is what a directory holds.
fn snapshot_of(directory: &Path) -> Option<String> {
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(directory.join("manifest.json")).ok()?).ok()?;
    Some(format!("{}/{}", manifest["name"].as_str()?, manifest["id"].as_str()?))
}

/// Shows an event: beside the bar on a terminal, as log lines elsewhere; what became of the rows always.
fn tell(bar: &ProgressBar, event: &Event<'_>) -> io::Result<()> {
    match event {
        Event::Prepared { data: (name, id), rows, parameters, steps, done, seed } => {
            bar.set_length(*steps as u64);
            bar.set_position(*done as u64);
            bar.set_message("ask the reference");
            tracing::info!(data = name, id, parameters, steps, done, seed, "rows prepared");
            progress::suspended(|| tell_rows(rows, *parameters, *steps, *done, *seed))?;
        }
        Event::Reference { done, total } => bar.set_message(format!("reference {done}/{total}")),
        Event::HeldOut { done, total } => bar.set_message(format!("held out {done}/{total}")),
        Event::Step { step, metrics, tokens, seconds } => {
            let value = |name: &str| metrics.get(name).copied().unwrap_or_default();
            bar.set_position(*step as u64);
            let accuracy = metrics.get("rewards/accuracies").or_else(|| metrics.get("mean_token_accuracy"));
            let accuracy = accuracy.map_or_else(String::new, |accuracy| format!(", acc {accuracy:.2}"));
            bar.set_message(format!("loss {:.4}{accuracy}", value("loss")));
            tracing::debug!(
                step,
                loss = value("loss"),
                grad_norm = value("grad_norm"),
                learning_rate = value("learning_rate"),
                tokens_per_second = *tokens as f64 / seconds.max(1e-9),
                "step"
            );
        }
        Event::Finished(_) => tracing::info!("adapter written"),
    }
    Ok(())
}

fn tell_rows(rows: &RowCounts, parameters: usize, steps: usize, done: usize, seed: u64) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "rows       {} read, {} used, {} of them truncated", rows.read, rows.used, rows.truncated)?;
    for (reason, count) in &rows.dropped {
        writeln!(stdout, "dropped    {count} {reason}")?;
    }
    writeln!(stdout, "answers    {} liked, {} disliked", rows.liked, rows.disliked)?;
    writeln!(
        stdout,
        "tokens     {}, {} of them answers; the longest sequence has {}",
        rows.tokens, rows.answer_tokens, rows.longest
    )?;
    writeln!(stdout, "training   {parameters} weights in {steps} steps, {done} done before, seed {seed}")?;
    stdout.flush()
}

fn summary(report: &Report) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{:<22} {:>12} {:>12}", "metric", "first step", "last step")?;
    for (name, last) in report.last.iter().filter(|(name, _)| *name != "step") {
        let first = report.first.get(name).map_or_else(|| "–".to_owned(), |first| format!("{first:.6}"));
        writeln!(stdout, "{name:<22} {first:>12} {last:>12.6}")?;
    }
    if let Some(held_out) = &report.held_out {
        let text = |each: &Estimate| format!("{:.3} ({:.3} to {:.3})", each.value, each.low, each.high);
        writeln!(stdout, "held out   {} pairs of {}", held_out.pairs, held_out.data.name)?;
        for (reason, count) in &held_out.dropped {
            writeln!(stdout, "left out   {count} {reason}")?;
        }
        writeln!(stdout, "rewards    accuracy {}, margin {}", text(&held_out.accuracy), text(&held_out.margin))?;
        writeln!(
            stdout,
            "likelier   chosen per token {}, before {}; the longer one is chosen {:.3}",
            text(&held_out.after.per_token),
            text(&held_out.before.per_token),
            held_out.longer_wins
        )?;
    }
    writeln!(stdout, "{} steps; the card is {}", report.steps, report.options.out.join("README.md").display())
}
