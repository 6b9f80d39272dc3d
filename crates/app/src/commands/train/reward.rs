//! `uptake train love` and `uptake train reward`: fine-tunes an encoder into a reward model.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_train::metrics::Estimate;
use uptake_train::reward::{self, Event, Figures, Head, HeldOut, Options, RowCounts, Source};

use crate::progress;

/// A reward model of `P[Love]`, the rate at which a response is loved, that `uptake score` serves.
///
/// Positives are repeated up to --positive-share of a pass, and the prior is corrected for it when the model scores. What
/// became of the rows is said before the first step. A run that was killed goes on at its last checkpoint when it is started
/// again with the same options, and ends with the same bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Love {
    /// Directory of a published snapshot of `love` (or `unpaired`), or JSON lines with prompt, response and love (or
    /// completion and label, or messages and reactions), plain or gzip'd. HEAD is `love` where none is named.
    #[arg(long, required = true, num_args = 1.., value_name = "[HEAD=]PATH")]
    data: Vec<Source>,

    #[command(flatten)]
    how: How,
}

/// A reward model of which response is better, from pairs, that `uptake score` serves; with --love, also of `P[Love]`.
///
/// All heads stand on one encoder; a row trains the head that it names, else that of its file. What became of the rows is said
/// before the first step. A run that was killed goes on at its last checkpoint when it is started again with the same
/// options, and ends with the same bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Reward {
    /// Directory of a published snapshot of `preference_pairs`, or JSON lines with prompt, chosen and rejected, plain or
    /// gzip'd. HEAD is `preference` where none is named.
    #[arg(long, required = true, num_args = 1.., value_name = "[HEAD=]PATH")]
    pairs: Vec<Source>,

    /// The like with single responses, as `uptake train love` takes them. HEAD is `love` where none is named.
    #[arg(long, num_args = 1.., value_name = "[HEAD=]PATH")]
    love: Vec<Source>,

    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Directory of the encoder as Hugging Face lays it out (config.json, tokenizer.json, model.safetensors), or its name on
    /// the hub, such as `BAAI/bge-small-en-v1.5` or `NAME@REVISION`: BERT, RoBERTa, XLM-R, ModernBERT.
    #[arg(long, value_name = "DIR|NAME")]
    base: PathBuf,

    /// New directory for the model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// First part of the model's version; `love` or `reward` where none is named.
    #[arg(long)]
    name: Option<String>,

    /// Of weights, order, dropout and split.
    #[arg(long, default_value_t = Options::default().seed)]
    seed: u64,

    /// Passes over the training part at most.
    #[arg(long, default_value_t = Options::default().epochs)]
    epochs: usize,

    /// Passes without a lower validation loss after which training stops.
    #[arg(long, default_value_t = Options::default().patience)]
    patience: usize,

    /// Longest input in tokens: the oldest part of the conversation is cut first, of the response the end stays.
    #[arg(long, default_value_t = Options::default().max_tokens)]
    max_tokens: usize,

    /// Rows of a step.
    #[arg(long, default_value_t = Options::default().batch)]
    batch: usize,

    /// Highest learning rate of the encoder.
    #[arg(long, default_value_t = Options::default().learning_rate)]
    learning_rate: f64,

    /// Highest learning rate of the heads, which start from nothing.
    #[arg(long, default_value_t = Options::default().head_learning_rate)]
    head_learning_rate: f64,

    /// Each layer's learning rate is that of the layer above it times this.
    #[arg(long, default_value_t = Options::default().layer_decay)]
    layer_decay: f64,

    /// Fraction of a matrix that a learning rate of 1 takes away in a step.
    #[arg(long, default_value_t = Options::default().weight_decay)]
    weight_decay: f64,

    /// Part of the pooled state that is dropped in a step.
    #[arg(long, default_value_t = Options::default().dropout)]
    dropout: f32,

    /// Part of all steps in which the learning rate rises.
    #[arg(long, default_value_t = Options::default().warm_up)]
    warm_up: f64,

    /// Largest norm of a step's gradient.
    #[arg(long, default_value_t = Options::default().clip)]
    clip: f64,

    /// Keep a running average of the weights that keeps this much of itself in a step, and write that; 0 keeps none.
    #[arg(long, default_value_t = Options::default().average)]
    average: f64,

    /// Share of loved responses in a pass at least; the prior is corrected for it.
    #[arg(long, default_value_t = Options::default().positive_share)]
    positive_share: f64,

    /// Margin by which the better response of a pair of strength 1 has to lead.
    #[arg(long, default_value_t = Options::default().margin)]
    margin: f32,

    /// How strongly the rewards of a pair are kept around nought.
    #[arg(long, default_value_t = Options::default().centring)]
    centring: f64,

    /// Fraction of conversations that decide which pass is kept.
    #[arg(long, default_value_t = Options::default().validation)]
    validation: f64,

    /// Fraction of conversations held out by their id; a snapshot's own test part is held out instead.
    #[arg(long, default_value_t = Options::default().test)]
    test: f64,

    /// Fraction of conversations that have a time held out as the latest.
    #[arg(long, default_value_t = Options::default().latest)]
    latest: f64,

    /// Steps between checkpoints.
    #[arg(long, default_value_t = Options::default().checkpoint_steps)]
    checkpoint_steps: usize,

    /// Train no further: write the best model that a killed run left in --out.
    #[arg(long)]
    finish: bool,

    /// For the model card: where the encoder comes from, and its licence.
    #[arg(long, default_value = "", value_name = "TEXT")]
    base_origin: String,

    /// For the model card: where the data come from, and their terms.
    #[arg(long, default_value = "", value_name = "TEXT")]
    data_origin: String,
}

impl Love {
    /// The base model, and where it comes from.
    pub(super) const fn base(&mut self) -> (&mut PathBuf, &mut String) {
        (&mut self.how.base, &mut self.how.base_origin)
    }

    /// Trains; says first what became of the rows, last what was measured.
    pub(super) fn train(self, terminal: bool) -> anyhow::Result<ExitCode> {
        run(&self.how.options("love", self.data, Vec::new()), terminal)
    }
}

impl Reward {
    /// The base model, and where it comes from.
    pub(super) const fn base(&mut self) -> (&mut PathBuf, &mut String) {
        (&mut self.how.base, &mut self.how.base_origin)
    }

    /// Trains; says first what became of the rows, last what was measured.
    pub(super) fn train(self, terminal: bool) -> anyhow::Result<ExitCode> {
        run(&self.how.options("reward", self.love, self.pairs), terminal)
    }
}

impl How {
    fn options(self, name: &str, love: Vec<Source>, pairs: Vec<Source>) -> Options {
        Options {
            love,
            pairs,
            base: self.base,
            out: self.out,
            name: self.name.unwrap_or_else(|| name.to_owned()),
            seed: self.seed,
            epochs: self.epochs,
            patience: self.patience,
            max_tokens: self.max_tokens,
            batch: self.batch,
            batch_tokens: Options::default().batch_tokens.max(2 * self.max_tokens),
            learning_rate: self.learning_rate,
            head_learning_rate: self.head_learning_rate,
            layer_decay: self.layer_decay,
            average: self.average,
            weight_decay: self.weight_decay,
            warm_up: self.warm_up,
            clip: self.clip,
            dropout: self.dropout,
            positive_share: self.positive_share,
            margin: self.margin,
            centring: self.centring,
            validation: self.validation,
            test: self.test,
            latest: self.latest,
            checkpoint_steps: self.checkpoint_steps,
            finish: self.finish,
            base_origin: self.base_origin,
            data_origin: self.data_origin,
        }
    }
}

fn run(options: &Options, terminal: bool) -> anyhow::Result<ExitCode> {
    let bar = progress::bar(terminal, Some(0), "steps");
    bar.set_message("read the rows");
    let mut shown = Shown::default();
    let mut written = Ok(());
    let figures = reward::train(options, &mut |event| {
        let said = shown.tell(&bar, event);
        written = std::mem::replace(&mut written, Ok(())).and(said);
    });
    bar.finish_and_clear();
    let figures = figures.context("train a reward model")?;
    written.and_then(|()| summary(&figures)).context("write the summary")?;
    writeln!(io::stdout().lock(), "the card is {}", options.out.join("README.md").display())?;
    Ok(ExitCode::SUCCESS)
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
    fn tell(&mut self, bar: &ProgressBar, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Prepared { rows, heads, parts, held_out, steps, done, seed } => {
                self.steps = *steps;
                bar.set_length(*steps as u64);
                bar.set_position(*done as u64);
                bar.set_message("train");
                tracing::info!(steps, done, seed, "rows prepared");
                progress::suspended(|| {
                    tell_rows(rows, heads)?;
                    tell_parts(*parts, held_out, (*steps, *done, *seed))
                })?;
            }
            Event::Step { epoch, step, loss, norm, seconds } => self.step(bar, *epoch, *step, (*loss, *norm, *seconds)),
            Event::Validated(epoch) => {
                let heads = epoch.heads.iter().map(|head| {
                    format!("{} {:.3} (loss {:.4})", head.head, head.figure.unwrap_or(f64::NAN), head.loss)
                });
                tracing::info!(
                    epoch = epoch.epoch,
                    steps = epoch.steps,
                    training_loss = epoch.training_loss,
                    validation_loss = epoch.validation_loss,
                    heads = heads.collect::<Vec<_>>().join(", "),
                    "validated"
                );
            }
            Event::StoppedEarly => tracing::info!("stopped early: the validation loss no longer falls"),
            Event::Finished(_) => tracing::info!("model written"),
        }
        Ok(())
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

fn tell_rows(rows: &[RowCounts], heads: &[Head]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for rows in rows {
        writeln!(
            stdout,
            "rows       {}: {} read, {} used for {}; cut: {} conversations, {} responses",
            rows.data, rows.read, rows.used, rows.head, rows.prompts_cut, rows.responses_cut
        )?;
        for (reason, count) in &rows.dropped {
            writeln!(stdout, "dropped    {count} {reason}")?;
        }
    }
    for head in heads {
        match head.prior {
            Some(prior) => writeln!(
                stdout,
                "head       {}: {:.4} are positive, {:.4} as trained on",
                head.name, prior.actual, prior.sampled
            )?,
            None => writeln!(stdout, "head       {}: pairs", head.name)?,
        }
    }
    Ok(())
}

fn tell_parts(
    [training, validation, test]: [usize; 3],
    held_out: &HeldOut,
    (steps, done, seed): (usize, usize, u64),
) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let HeldOut { latest, by_conversation, published, .. } = held_out;
    writeln!(stdout, "parts      {training} rows to train on, {validation} to validate with, {test} held out")?;
    writeln!(
        stdout,
        "held out   {latest} conversations as the latest, {by_conversation} by their id, {published} as published"
    )?;
    writeln!(stdout, "training   {steps} steps, {done} done before, seed {seed}")?;
    stdout.flush()
}

fn shown(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(|| "–".to_owned(), |Estimate { value, low, high }| format!("{value:.3} ({low:.2}–{high:.2})"))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

fn summary(figures: &Figures) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for head in &figures.heads {
        if !head.rates.is_empty() {
            writeln!(
                stdout,
                "{:<24} {:>9} {:>6} {:>19} {:>19} {:>6} {:>8}",
                head.head, "responses", "liked", "AUROC", "average precision", "ECE", "r length"
            )?;
        }
        for rate in &head.rates {
            writeln!(
                stdout,
                "  {:<22} {:>9} {:>6} {:>19} {:>19} {:>6} {:>8}",
                rate.source,
                rate.responses,
                rate.liked,
                shown(rate.auroc),
                shown(rate.average_precision),
                number(rate.calibration_error),
                number(rate.length.pearson)
            )?;
        }
        if !head.pairs.is_empty() {
            writeln!(
                stdout,
                "{:<24} {:>6} {:>19} {:>19} {:>19} {:>8}",
                head.head, "pairs", "accuracy", "longer one wins", "length-controlled", "r length"
            )?;
        }
        for pairs in &head.pairs {
            writeln!(
                stdout,
                "  {:<22} {:>6} {:>19} {:>19} {:>19} {:>8}",
                pairs.source,
                pairs.pairs,
                shown(pairs.accuracy),
                shown(pairs.longer_wins),
                shown(pairs.controlled),
                number(pairs.length.pearson)
            )?;
        }
    }
    Ok(())
}
