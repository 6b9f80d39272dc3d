//! `uptake evaluate`: how good a model is.

mod backtest;
mod model;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use uptake_tagger::Tagger;
use uptake_train::classifier::{self, Evaluation, Figures, HardNegatives, InUse, Options, OutputFigures, WeakFigures};
use uptake_train::data::{Part, Split, Weak};
use uptake_train::metrics::Estimate;

use crate::context::Context;
use crate::progress;

/// Measures a model.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Evaluate {
    /// A signal classifier, on labelled follow-ups.
    Tagger(TaggerArguments),
    Model(model::Model),
    Backtest(backtest::Backtest),
}

/// Measures a signal classifier at its own calibration and thresholds.
///
/// Figures of conversations that the model was trained on say little: without --part all, only those are measured that
/// `uptake train classifier` keeps for the test at the same seed.
#[derive(Debug, clap::Args)]
pub(crate) struct TaggerArguments {
    /// Directory of the model; `-` for the one in this program.
    model: PathBuf,

    /// Labelled follow-ups: JSON lines with `conversation_id`, source, turn, messages, sat and dsat, plain or gzip'd.
    #[arg(required = true, value_name = "FILE")]
    data: Vec<PathBuf>,

    /// Conversations judged by ratings, thumbs or breakdowns instead of labels.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    weak: Vec<Weak>,

    /// Which part of the conversations is measured.
    #[arg(long, value_enum, default_value_t = Parts::Test)]
    part: Parts,

    /// Of the split, and of the resamples of intervals.
    #[arg(long, default_value_t = Options::default().seed)]
    seed: u64,

    /// A table to read, or all figures as JSON.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,

    /// Write a page with plots and the worst errors; it quotes the data.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Worker threads; one per core when 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Parts {
    Training,
    Validation,
    Test,
    All,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Evaluate {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let terminal = context.terminal;
        // Scoring takes processor time: it has no business on an async thread.
        match self {
            Self::Tagger(arguments) => tokio::task::spawn_blocking(move || arguments.evaluate(terminal)).await?,
            Self::Model(arguments) => tokio::task::spawn_blocking(move || arguments.evaluate(terminal)).await?,
            Self::Backtest(arguments) => arguments.run(context).await,
        }
    }
}

impl TaggerArguments {
    fn evaluate(self, terminal: bool) -> anyhow::Result<ExitCode> {
        let options = uptake_tagger::Options { threads: self.threads, ..uptake_tagger::Options::default() };
        let tagger = if self.model == Path::new("-") {
            Tagger::embedded(options).context("load the tagger of this program")?
        } else {
            let failed = || format!("load the tagger in `{}`", self.model.display());
            Tagger::open(&self.model, options).with_context(failed)?
        };
        let default = Options::default();
        let evaluation = Evaluation {
            data: self.data,
            weak: self.weak,
            split: Split { seed: self.seed, validation: default.validation, test: default.test },
            part: match self.part {
                Parts::Training => Some(Part::Training),
                Parts::Validation => Some(Part::Validation),
                Parts::Test => Some(Part::Test),
                Parts::All => None,
            },
            written_sources: default.written_sources,
        };
        let bar = progress::bar(terminal, Some(0), "follow-ups");
        bar.set_message("evaluate");
        let judged = classifier::evaluate(&tagger, &evaluation, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let judged = judged.context("evaluate the tagger")?;
        if let (Some(report), Some(diagnosis)) = (&self.report, &judged.diagnosis) {
            let page = classifier::page(&judged.model, &[], &judged.figures, diagnosis);
            std::fs::write(report, page).with_context(|| format!("write {}", report.display()))?;
        }
        let mut stdout = io::stdout().lock();
        match self.output {
            Format::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&judged)?)?,
            Format::Table => {
                writeln!(stdout, "{}\n", judged.model)?;
                summary(&mut stdout, &judged.figures)?;
                let (empty, passed_over) = (judged.empty, judged.passed_over);
                writeln!(stdout, "left out: {empty} without text, {passed_over} judgements without a follow-up")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

fn value(estimate: Option<Estimate>) -> String {
    show(estimate.map(|estimate| estimate.value))
}

fn interval(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(|| "–".to_owned(), |it| format!("{:.3} ({:.2}–{:.2})", it.value, it.low, it.high))
}

/// Figures as tables for a person.
pub(crate) fn summary(out: &mut dyn Write, figures: &Figures) -> io::Result<()> {
    writeln!(
        out,
        "{:<40} {:>9} {:>19} {:>6} {:>6} {:>9} {:>6} {:>9} {:>6}",
        "output", "positives", "AUROC", "AP", "F1", "precision", "recall", "threshold", "ECE"
    )?;
    for output in figures.outputs.iter().rev().take(2).rev().chain(figures.outputs.iter().take(18)) {
        row(out, &output.output, output)?;
    }
    writeln!(
        out,
        "mean over labels with figures: AUROC {}, F1 {}; {} follow-ups of {} conversations\n",
        show(figures.labels_auroc),
        show(figures.labels_f1),
        figures.examples,
        figures.conversations
    )?;
    for source in &figures.sources {
        row(out, &format!("{} ({}): sat", source.source, source.examples), &source.sat)?;
        row(out, &format!("{} ({}): dsat", source.source, source.examples), &source.dsat)?;
    }
    writeln!(out, "\nof 1,000 user turns of a log:")?;
    for InUse { output, carry, fire, right, alarms_counted: [alarms, of], .. } in &figures.in_use {
        writeln!(
            out,
            "  {output}: {carry:.0} carry it, {fire:.1} fire, {right:.1} of those are right ({alarms} false alarms in {of})"
        )?;
    }
    if let Some(HardNegatives { examples, sat, dsat, either }) = figures.hard_negatives {
        let share = 100.0 * either as f64 / examples as f64;
        writeln!(
            out,
            "written follow-ups without a label: {either} of {examples} fire ({share:.1} %: sat {sat}, dsat {dsat})"
        )?;
    }
    if !figures.weak.is_empty() {
        writeln!(
            out,
            "\n{:<24} {:>10} {:>8} {:>19} {:>8} {:>19}",
            "judged", "follow-ups", "sat", "AUROC", "dsat", "AUROC"
        )?;
    }
    for WeakFigures { source, examples, positives: [sats, dsats], sat, dsat } in &figures.weak {
        let (sat, dsat) = (interval(*sat), interval(*dsat));
        writeln!(out, "{source:<24} {examples:>10} {sats:>8} {sat:>19} {dsats:>8} {dsat:>19}")?;
    }
    Ok(())
}

fn row(out: &mut dyn Write, name: &str, figures: &OutputFigures) -> io::Result<()> {
    let OutputFigures { positives, auroc, average_precision, f1, decision, threshold, calibration_error, .. } = figures;
    let measured = |value: f64| show(f1.map(|_| value));
    writeln!(
        out,
        "{name:<40} {positives:>9} {:>19} {:>6} {:>6} {:>9} {:>6} {threshold:>9.3} {:>6}",
        interval(*auroc),
        value(*average_precision),
        value(*f1),
        measured(decision.precision),
        measured(decision.recall),
        show(*calibration_error)
    )
}
