//! `uptake train`: fine-tunes models.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_train::classifier::{self, Event, Figures, Options, OutputFigures};

use crate::context::Context;
use crate::progress;

/// Fine-tunes a model.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Train {
    /// The signal classifier that `uptake tag` serves, from labelled follow-ups.
    Classifier(Classifier),
}

/// Trains a signal classifier from an encoder and labelled follow-ups.
///
/// A run that was killed goes on at its last checkpoint when it is started again with the same options.
#[derive(Debug, clap::Args)]
pub(crate) struct Classifier {
    /// Labelled follow-ups: JSON lines with `conversation_id`, source, turn, messages, sat and dsat, plain or gzip'd.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,

    /// Directory of the encoder: config.json, tokenizer.json, model.safetensors (BERT, as Hugging Face lays it out).
    #[arg(long, value_name = "DIR")]
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

    /// Precision on the validation part that thresholds aim at.
    #[arg(long, default_value_t = Options::default().target_precision)]
    target_precision: f64,

    /// Train no further: write the model of the best pass that a killed run left in --out.
    #[arg(long)]
    finish: bool,

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
        let Self::Classifier(classifier) = self;
        tokio::task::spawn_blocking(move || classifier.train(terminal)).await?
    }
}

impl Classifier {
    fn train(self, terminal: bool) -> anyhow::Result<ExitCode> {
        let out = self.out.clone();
        let options = Options {
            data: self.data,
            base: self.base,
            out: self.out,
            name: self.name,
            seed: self.seed,
            epochs: self.epochs,
            patience: self.patience,
            max_tokens: self.max_tokens,
            batch: self.batch,
            learning_rate: self.learning_rate,
            target_precision: self.target_precision,
            finish: self.finish,
            base_origin: self.base_origin,
            data_origin: self.data_origin,
            ..Options::default()
        };
        let bar = progress::bar(terminal, Some(0), "steps");
        bar.set_message("train");
        let mut smooth = None;
        let figures = classifier::train(&options, &mut |event| tell(&bar, &mut smooth, event));
        bar.finish_and_clear();
        let figures = figures.context("train a classifier")?;
        summary(&figures, &out).context("write the summary")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Shows an event: the loss beside the bar on a terminal, a log line elsewhere.
fn tell(bar: &ProgressBar, smooth: &mut Option<f64>, event: &Event<'_>) {
    match event {
        Event::Prepared { seed, parts: [training, validation, test], empty, steps, done } => {
            bar.set_length(*steps as u64);
            bar.set_position(*done as u64);
            tracing::info!(seed, training, validation, test, empty, steps, done, "data prepared");
        }
        Event::Step { epoch, step, loss, norm, seconds } => {
            let mean = smooth.map_or(*loss, |mean| 0.95 * mean + 0.05 * loss);
            *smooth = Some(mean);
            bar.set_position(*step as u64);
            bar.set_message(format!("pass {epoch}, loss {mean:.4}"));
            tracing::debug!(epoch, step, loss, norm, seconds, "step");
        }
        Event::Validated(epoch) => tracing::info!(
            epoch = epoch.epoch,
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

fn summary(figures: &Figures, out: &std::path::Path) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{:<24} {:>9} {:>6} {:>6} {:>6} {:>9} {:>9}",
        "output", "positives", "AUROC", "AP", "F1", "precision", "recall"
    )?;
    for output in &figures.outputs {
        let OutputFigures { output: name, positives, auroc, average_precision, f1, decision, .. } = output;
        let show = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
        let measured = |value: f64| show(f1.map(|_| value));
        writeln!(
            stdout,
            "{name:<24} {positives:>9} {:>6} {:>6} {:>6} {:>9} {:>9}",
            show(auroc.map(|auroc| auroc.value)),
            show(average_precision.map(|precision| precision.value)),
            show(f1.map(|f1| f1.value)),
            measured(decision.precision),
            measured(decision.recall)
        )?;
    }
    writeln!(
        stdout,
        "{} examples of {} conversations held out; the card is {}",
        figures.examples,
        figures.conversations,
        out.join("README.md").display()
    )
}
