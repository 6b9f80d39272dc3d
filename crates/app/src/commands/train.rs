//! `uptake train`: fine-tunes models.

mod engine;
mod policy;
mod reward;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_tagger::Layout;
use uptake_train::classifier::{self, Event, Options};
use uptake_train::data::Weak;

use crate::base;
use crate::commands::evaluate::summary;
use crate::context::Context;
use crate::progress;

/// Fine-tunes a model.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Train {
    /// The signal classifier that `uptake tag` serves, from labelled follow-ups.
    Classifier(Classifier),
    Love(Box<reward::Love>),
    /// A language model, from preferences: an adapter in PEFT's layout.
    Policy(policy::Policy),
    Reward(Box<reward::Reward>),
}

/// Trains a signal classifier from an encoder and labelled follow-ups.
///
/// A run that was killed goes on at its last checkpoint when it is started again with the same options.
#[derive(Debug, clap::Args)]
pub(crate) struct Classifier {
    /// Labelled follow-ups: JSON lines with `conversation_id`, source, turn, messages, sat and dsat, plain or gzip'd.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,

    /// Conversations judged by ratings, thumbs or breakdowns instead of labels, and how much a row of them counts beside a
    /// labelled one's 1; they teach sat and dsat alone.
    #[arg(long, num_args = 1.., value_name = "FILE[=WEIGHT]")]
    weak: Vec<Weak>,

    /// Rows drawn from each such file in a pass at most.
    #[arg(long, default_value_t = Options::default().weak_rows)]
    weak_rows: usize,

    /// How an exchange becomes an input.
    #[arg(long, default_value = Options::default().layout.name(), value_name = "LAYOUT")]
    template: Layout,

    /// Directory of the encoder as Hugging Face lays it out (config.json, tokenizer.json, model.safetensors), or its name on
    /// the hub, such as `BAAI/bge-small-en-v1.5` or `NAME@REVISION`: BERT, RoBERTa, XLM-R, ModernBERT.
    #[arg(long, value_name = "DIR|NAME")]
    base: PathBuf,

    /// New directory for the model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// First part of the model's version.
    #[arg(long, default_value_t = Options::default().name)]
    name: String,

    /// Of weights, order, dropout and split.
    #[arg(long, default_value_t = Options::default().seed)]
    seed: u64,

    /// Passes over the training part at most.
    #[arg(long, default_value_t = Options::default().epochs)]
    epochs: usize,

    /// Passes without a better validation score after which training stops.
    #[arg(long, default_value_t = Options::default().patience)]
    patience: usize,

    /// Longest input in tokens.
    #[arg(long, default_value_t = Options::default().max_tokens)]
    max_tokens: usize,

    /// Examples of a step.
    #[arg(long, default_value_t = Options::default().batch)]
    batch: usize,

    /// Highest learning rate of the encoder.
    #[arg(long, default_value_t = Options::default().learning_rate)]
    learning_rate: f64,

    /// Each layer's learning rate is that of the layer above it times this.
    #[arg(long, default_value_t = Options::default().layer_decay)]
    layer_decay: f64,

    /// Weight of the loss of sat and of dsat beside a label's 1.
    #[arg(long, default_value_t = Options::default().side_weight)]
    side_weight: f32,

    /// Keep a running average of the weights that keeps this much of itself in a step, and write that; 0 keeps none.
    #[arg(long, default_value_t = Options::default().average)]
    average: f64,

    /// Steps between checkpoints.
    #[arg(long, default_value_t = Options::default().checkpoint_steps)]
    checkpoint_steps: usize,

    /// Precision that thresholds aim at, in a log where as few turns carry a signal as in use.
    #[arg(long, default_value_t = Options::default().target_precision)]
    target_precision: f64,

    /// Train no further: write the best model that a killed run left in --out.
    #[arg(long)]
    finish: bool,

    /// Where the report goes, a page with curves, plots and the worst errors; OUT.html beside the model when nothing is said. It
    /// quotes the data, so it is no part of the model.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// For the model card: where the encoder comes from, and its licence.
    #[arg(long, default_value = "", value_name = "TEXT")]
    base_origin: String,

    /// For the model card: where the data come from, and their terms.
    #[arg(long, default_value = "", value_name = "TEXT")]
    data_origin: String,
}

impl Train {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let terminal = context.terminal;
        if let Self::Policy(policy) = self {
            return Box::pin(policy.run(context)).await;
        }
        let mut train = self;
        let (base, origin) = match &mut train {
            Self::Classifier(classifier) => (&mut classifier.base, &mut classifier.base_origin),
            Self::Love(love) => love.base(),
            Self::Policy(policy) => return Err(anyhow::anyhow!("bug: {policy:?} is trained elsewhere")),
            Self::Reward(reward) => reward.base(),
        };
        let found = base::find(base, terminal).await?;
        *base = found.directory;
        if let Some(name) = found.origin.filter(|_| origin.is_empty()) {
            *origin = name;
        }
        tokio::task::spawn_blocking(move || match train {
            Self::Classifier(classifier) => classifier.train(terminal),
            Self::Love(love) => love.train(terminal),
            Self::Policy(policy) => policy.train(terminal),
            Self::Reward(reward) => reward.train(terminal),
        })
        .await?
    }
}

impl Classifier {
    fn train(self, terminal: bool) -> anyhow::Result<ExitCode> {
        let out = self.out.clone();
        let report = self.report.unwrap_or_else(|| beside(&out));
        let options = Options {
            data: self.data,
            weak: self.weak,
            weak_rows: self.weak_rows,
            layout: self.template,
            base: self.base,
            out: self.out,
            name: self.name,
            seed: self.seed,
            epochs: self.epochs,
            patience: self.patience,
            max_tokens: self.max_tokens,
            batch: self.batch,
            learning_rate: self.learning_rate,
            layer_decay: self.layer_decay,
            side_weight: self.side_weight,
            average: self.average,
            checkpoint_steps: self.checkpoint_steps,
            target_precision: self.target_precision,
            finish: self.finish,
            report: Some(report.clone()),
            base_origin: self.base_origin,
            data_origin: self.data_origin,
            ..Options::default()
        };
        let bar = progress::bar(terminal, Some(0), "steps");
        bar.set_message("train");
        let mut shown = Shown::default();
        let figures = classifier::train(&options, &mut |event| shown.tell(&bar, event));
        bar.finish_and_clear();
        let figures = figures.context("train a classifier")?;
        let mut stdout = io::stdout().lock();
        summary(&mut stdout, &figures).context("write the summary")?;
        writeln!(stdout, "the card is {}, the page {}", out.join("README.md").display(), report.display())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `OUT.html`.
fn beside(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".html");
    out.with_file_name(name)
}

/// Steps between two log lines about them.
const STEPS_A_LINE: usize = 10;

/// What stands beside the bar on a terminal, and in log lines elsewhere.
#[derive(Default)]
struct Shown {
    steps: usize,
    loss: Option<f64>,
    seconds: Option<f64>,
}

impl Shown {
    fn tell(&mut self, bar: &ProgressBar, event: &Event<'_>) {
        match event {
            Event::Prepared {
                seed,
                parts: [training, validation, test],
                empty,
                weak,
                bound,
                passed_over,
                steps,
                done,
            } => {
                self.steps = *steps;
                bar.set_length(*steps as u64);
                bar.set_position(*done as u64);
                let weak = format!("{weak:?}");
                tracing::info!(
                    seed,
                    training,
                    validation,
                    test,
                    empty,
                    weak,
                    bound,
                    passed_over,
                    steps,
                    done,
                    "data prepared"
                );
            }
            Event::Step { epoch, step, loss, norm, seconds } => self.step(bar, *epoch, *step, (*loss, *norm, *seconds)),
            Event::Validated(epoch) => tracing::info!(
                epoch = epoch.epoch,
                steps = epoch.steps,
                training_loss = epoch.training_loss,
                validation_loss = epoch.validation_loss,
                sat = epoch.sat,
                dsat = epoch.dsat,
                labels = epoch.labels,
                "validated"
            ),
            Event::StoppedEarly => tracing::info!("stopped early: the validation score no longer rises"),
            Event::Finished(_) => tracing::info!("model written"),
        }
    }

    fn step(&mut self, bar: &ProgressBar, epoch: usize, step: usize, (loss, norm, seconds): (f64, f64, f64)) {
        let smooth = |mean: Option<f64>, value: f64| mean.map_or(value, |mean| 0.95 * mean + 0.05 * value);
        let (mean, pace) = (smooth(self.loss, loss), smooth(self.seconds, seconds));
        (self.loss, self.seconds) = (Some(mean), Some(pace));
        bar.set_position(step as u64);
        bar.set_message(format!("pass {epoch}, loss {mean:.4}"));
        if step.is_multiple_of(STEPS_A_LINE) {
            let minutes_left = (self.steps.saturating_sub(step) as f64 * pace / 60.0).round();
            tracing::info!(
                epoch,
                step,
                of = self.steps,
                loss = format!("{mean:.4}"),
                norm = format!("{norm:.2}"),
                seconds = format!("{pace:.2}"),
                minutes_left,
                "training"
            );
        }
    }
}
