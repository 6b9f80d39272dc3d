//! The model card, with every figure as measured.

use std::fmt;

use super::output::Parts;
use super::{Epoch, Figures, Options, OutputFigures};
use crate::metrics::Estimate;

/// What the card tells; written by `Display` as Markdown.
pub(super) struct Card<'a> {
    pub(super) options: &'a Options,
    pub(super) version: &'a str,
    pub(super) parts: Parts,
    pub(super) history: &'a [Epoch],
    pub(super) figures: &'a Figures,
}

/// An estimate as `.91 (.88–.93)`, or a dash.
struct Shown(Option<Estimate>);

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Estimate { value, low, high }) => write!(formatter, "{value:.3} ({low:.2}–{high:.2})"),
            None => formatter.write_str("–"),
        }
    }
}

fn rate(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

impl fmt::Display for Card<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(formatter)?;
        self.data(formatter)?;
        self.training(formatter)?;
        self.measured(formatter)?;
        formatter.write_str(LIMITS)
    }
}

const LIMITS: &str = "
## Limits
- English first. Other languages are a small part of the data and are not measured on their own.
- Base rates differ: positives are far commoner in the data than in a product's log, so precision there is lower than here
  at the same threshold, and probabilities are calibrated to these data. Look at a sample of your own before you rely on it.
- A label's figure rests on few positives; read the intervals. Labels without figures had too few to measure.
- It reads the last user message, the response and the follow-up; earlier turns are not seen.
- Labels say what a follow-up expresses, not whether the response was right.
- Not for judging people: it scores answers, and is wrong often enough that a single score decides nothing.
";

impl Card<'_> {
    fn head(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.options.name;
        writeln!(formatter, "# {name}\n")?;
        writeln!(
            formatter,
            "Tells from a user's follow-up how they took the response before it: nine signals of satisfaction, nine of\n\
             dissatisfaction, and any of either kind. Version `{}`.\n",
            self.version
        )?;
        writeln!(
            formatter,
            "- Input: `[CLS] follow-up [SEP] end of response [SEP] last user message [SEP]`, at most {} tokens.",
            self.options.max_tokens
        )?;
        writeln!(
            formatter,
            "- Output: 20 logits (`tagger.json` names them), with a calibration and a threshold each."
        )?;
        if !self.options.base_origin.is_empty() {
            writeln!(formatter, "- Origin: fine-tuned from {}", self.options.base_origin)?;
        }
        Ok(())
    }

    fn data(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { training, validation, test, empty } = self.parts;
        writeln!(formatter, "\n## Data")?;
        if !self.options.data_origin.is_empty() {
            writeln!(formatter, "{}\n", self.options.data_origin)?;
        }
        writeln!(
            formatter,
            "Split by conversation (a hash of its id, seed {}): {training} examples to train, {validation} to stop, calibrate\n\
             and set thresholds, {test} ({} conversations) to measure, once. {empty} without text were left out.",
            self.options.seed, self.figures.conversations
        )
    }

    fn training(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.options;
        writeln!(formatter, "\n## Training")?;
        writeln!(
            formatter,
            "Binary cross-entropy over all outputs; AdamW, rate {} (head {}), decay {}, warm-up {:.0} % then linear to nothing,\n\
             clipped at {}, dropout {} on the pooled state, up to {} examples a step, seed {}. All weights are trained, and\n\
             written in half precision; all figures are of what is written.\n",
            options.learning_rate,
            options.head_learning_rate,
            options.weight_decay,
            options.warm_up * 100.0,
            options.clip,
            options.dropout,
            options.batch,
            options.seed
        )?;
        writeln!(
            formatter,
            "| pass | training loss | validation loss | AP sat | AP dsat | mean AP labels |\n|---|---|---|---|---|---|"
        )?;
        for epoch in self.history {
            writeln!(
                formatter,
                "| {} | {:.4} | {:.4} | {:.3} | {:.3} | {:.3} |",
                epoch.epoch, epoch.training_loss, epoch.validation_loss, epoch.sat, epoch.dsat, epoch.labels
            )?;
        }
        writeln!(formatter, "\nKept: the pass with the best mean of the last three.")?;
        let done = self.history.len();
        if done < options.epochs {
            writeln!(
                formatter,
                "Stopped after pass {done} of {} planned ones, before the rate had fallen to nothing.",
                options.epochs
            )?;
        }
        Ok(())
    }

    fn measured(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.figures;
        writeln!(formatter, "\n## Figures on the test part")?;
        writeln!(
            formatter,
            "With 95 % bootstrap intervals over conversations; only where there are {} positives and negatives at least. A\n\
             threshold is that of the best F1 among those with precision {} on the validation part; where none has it (marked\n\
             `*`), that of the best F1.\n",
            super::evaluation::FEWEST,
            self.options.target_precision
        )?;
        writeln!(
            formatter,
            "| output | positives | AUROC | AP | F1 | precision | recall | threshold | ECE |\n|---|---|---|---|---|---|---|---|---|"
        )?;
        for output in figures.outputs.iter().rev().take(2).rev().chain(figures.outputs.iter().take(18)) {
            row(formatter, &output.output, output)?;
        }
        writeln!(
            formatter,
            "\nMean over labels with figures: AUROC {}, F1 {}.\n",
            rate(figures.labels_auroc),
            rate(figures.labels_f1)
        )?;
        writeln!(
            formatter,
            "| source | output | positives | AUROC | AP | F1 | precision | recall | threshold | ECE |\n|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for source in &figures.sources {
            row(formatter, &format!("{} ({}) | sat", source.source, source.examples), &source.sat)?;
            row(formatter, &format!("{} ({}) | dsat", source.source, source.examples), &source.dsat)?;
        }
        Ok(())
    }
}

fn row(formatter: &mut fmt::Formatter<'_>, name: &str, output: &OutputFigures) -> fmt::Result {
    let measured = output.f1.is_some();
    let decision = |value: f64| rate(measured.then_some(value));
    writeln!(
        formatter,
        "| {name} | {} | {} | {} | {} | {} | {} | {:.2}{} | {} |",
        output.positives,
        Shown(output.auroc),
        Shown(output.average_precision),
        Shown(output.f1),
        decision(output.decision.precision),
        decision(output.decision.recall),
        output.threshold,
        if output.target_reached { "" } else { "*" },
        rate(output.calibration_error)
    )
}
