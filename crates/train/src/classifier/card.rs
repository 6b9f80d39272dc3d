//! The model card, with every figure as measured.

use std::fmt;

use uptake_tagger::Layout;

use super::output::Parts;
use super::{DSAT_RATE, Epoch, Figures, HardNegatives, InUse, Options, OutputFigures, SAT_RATE, WeakFigures};
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
        let row = match self.options.layout {
            Layout::FollowUp => "`[CLS] follow-up [SEP] end of response [SEP] last user message [SEP]`",
            Layout::Related => {
                "`[CLS] marks follow-up [SEP] end of response [SEP] last user message [SEP] earlier message [SEP]`; the marks\n  \
                 say how the follow-up relates by its words to the last user message and to the earlier one most like it (the\n  \
                 same, near, like, part, whole, slight, none) and whether the response repeats an earlier one; the earlier user\n  \
                 message is there only if it is like the follow-up"
            }
        };
        writeln!(
            formatter,
            "- Input (`{}`): {row}, at most {} tokens.",
            self.options.layout.name(),
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
        let Parts { training, validation, test, empty, weak, bound, passed_over } = self.parts;
        writeln!(formatter, "\n## Data")?;
        if !self.options.data_origin.is_empty() {
            writeln!(formatter, "{}\n", self.options.data_origin)?;
        }
        writeln!(
            formatter,
            "Split by conversation (a hash of its id, seed {}): {training} examples to train, {validation} to stop, calibrate\n\
             and set thresholds, {test} ({} conversations) to measure, once. {empty} without text were left out.",
            self.options.seed, self.figures.conversations
        )?;
        if self.options.weak.is_empty() {
            return Ok(());
        }
        writeln!(
            formatter,
            "\nBeside them, for `sat` and `dsat` alone, follow-ups judged in another way ({} to train, {} to validate, {} to measure;\n\
             {passed_over} judgements without a follow-up right after were left out). A pass draws up to {} of each file, even over\n\
             outcomes. {bound} conversations that labelled rows come from as well stay in the part of those rows.\n",
            weak[0], weak[1], weak[2], self.options.weak_rows
        )?;
        writeln!(formatter, "| file | weight of a row |\n|---|---|")?;
        for weak in &self.options.weak {
            let name = weak.path.file_name().unwrap_or_default().to_string_lossy();
            writeln!(formatter, "| {name} | {} |", weak.weight)?;
        }
        Ok(())
    }

    fn training(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.options;
        writeln!(formatter, "\n## Training")?;
        writeln!(
            formatter,
            "Binary cross-entropy over all outputs (`sat` and `dsat` {} times); AdamW, rate {} (head {}, each layer {} times that\n\
             of the one above), decay {}, warm-up {:.0} % then linear to nothing, clipped at {}, dropout {} on the pooled state,\n\
             up to {} examples a step, seed {}. All weights are trained{}, and written in half precision; all figures are of\n\
             what is written.\n",
            options.side_weight,
            options.learning_rate,
            options.head_learning_rate,
            options.layer_decay,
            options.weight_decay,
            options.warm_up * 100.0,
            options.clip,
            options.dropout,
            options.batch,
            options.seed,
            if options.average > 0.0 {
                format!(", averaged over steps (keeping {} of the average in each)", options.average)
            } else {
                String::new()
            }
        )?;
        writeln!(
            formatter,
            "| pass | steps | training loss | validation loss | AP sat | AP dsat | mean AP labels |\n|---|---|---|---|---|---|---|"
        )?;
        for epoch in self.history {
            writeln!(
                formatter,
                "| {} | {} | {:.4} | {:.4} | {:.3} | {:.3} | {:.3} |",
                epoch.epoch,
                epoch.steps,
                epoch.training_loss,
                epoch.validation_loss,
                epoch.sat,
                epoch.dsat,
                epoch.labels
            )?;
        }
        writeln!(formatter, "\nKept: the pass with the best mean of the last three.")?;
        let done = self.history.last().map_or(0, |epoch| epoch.epoch);
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
             threshold is that of the best F1 among those with precision {} on the validation part, reckoned for a log in which\n\
             {:.1} % of user turns carry satisfaction and {:.1} % dissatisfaction; where none has it (marked `*`), that of the best F1\n\
             there. Precision and F1 in the table are those on the test part, where positives are far commoner.\n",
            super::evaluation::FEWEST,
            self.options.target_precision,
            SAT_RATE * 100.0,
            DSAT_RATE * 100.0
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
        self.in_use(formatter)?;
        self.weak(formatter)
    }

    fn in_use(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "\n## In use\nOf 1,000 user turns of a log with the base rates above, at the shipped thresholds:\n"
        )?;
        writeln!(
            formatter,
            "| output | carry it | fire | of those right | recall | false alarms on the test part |\n|---|---|---|---|---|---|"
        )?;
        for figures in &self.figures.in_use {
            let InUse { output, carry, fire, right, recall, alarms_counted: [alarms, of], .. } = figures;
            writeln!(formatter, "| {output} | {carry:.0} | {fire:.1} | {right:.1} | {recall:.2} | {alarms} of {of} |")?;
        }
        if let Some(HardNegatives { examples, sat, dsat, either }) = self.figures.hard_negatives {
            writeln!(
                formatter,
                "\nThe test part's turns are harder than a log's, so fewer false alarms are to be expected there. Of {examples} written\n\
                 follow-ups without any label, made to look like a signal, {either} fire ({:.1} %: sat {sat}, dsat {dsat}).",
                100.0 * either as f64 / examples as f64
            )?;
        }
        Ok(())
    }

    fn weak(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.figures.weak.is_empty() {
            return Ok(());
        }
        writeln!(
            formatter,
            "\n## Ratings, thumbs and breakdowns, held out\nAUROC of the same outputs, on all judged follow-ups:\n"
        )?;
        writeln!(
            formatter,
            "| source | follow-ups | sat holds | sat | dsat holds | dsat |\n|---|---|---|---|---|---|"
        )?;
        for figures in &self.figures.weak {
            let WeakFigures { source, examples, positives: [sats, dsats], sat, dsat } = figures;
            writeln!(formatter, "| {source} | {examples} | {sats} | {} | {dsats} | {} |", Shown(*sat), Shown(*dsat))?;
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
