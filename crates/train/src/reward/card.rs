//! The model card: what the model is, what it was made of, and what it is worth.

use std::fmt;

use super::figures::Figures;
use super::model::{Head, Objective, RewardModel};
use super::prepared::Prepared;
use super::{Epoch, HeldOut, Options};
use crate::metrics::Estimate;

pub(super) struct Card<'a> {
    pub(super) options: &'a Options,
    pub(super) model: &'a RewardModel,
    pub(super) prepared: &'a Prepared,
    pub(super) history: &'a [Epoch],
    pub(super) figures: &'a Figures,
}

/// A figure with its interval.
fn shown(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(|| "–".to_owned(), |Estimate { value, low, high }| format!("{value:.3} ({low:.2}–{high:.2})"))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

impl fmt::Display for Card<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, model, .. } = self;
        writeln!(
            formatter,
            "# {}\n\nA reward model: a BERT encoder with {} on it (first token and mean of all tokens), trained by uptake {}. Made \
             for `uptake score --model DIR FILE.jsonl -o OUT.jsonl`.\n",
            model.version(),
            if self.prepared.heads.len() == 1 { "a scalar head" } else { "scalar heads" },
            env!("CARGO_PKG_VERSION")
        )?;
        for (what, origin) in [("Encoder", &options.base_origin), ("Data", &options.data_origin)] {
            if !origin.is_empty() {
                writeln!(formatter, "{what}: {origin}\n")?;
            }
        }
        writeln!(formatter, "## Heads\n\n| head | its score | liked when drawn | liked in truth |\n|---|---|---|---|")?;
        for head in &self.prepared.heads {
            write_head(formatter, head)?;
        }
        writeln!(
            formatter,
            "\nAn input is the conversation with a mark for who wrote each message, then the response, in at most {} tokens: the \
             oldest part of the conversation is cut first, of a response longer than the rest the end stays.",
            options.max_tokens
        )?;
        self.rows(formatter)?;
        self.training(formatter)?;
        self.rates(formatter)?;
        self.pairs(formatter)?;
        writeln!(
            formatter,
            "\nIntervals are of 95 %, over conversations. Length is that of the response in characters."
        )
    }
}

fn write_head(formatter: &mut fmt::Formatter<'_>, head: &Head) -> fmt::Result {
    match (head.objective, head.prior) {
        (Objective::Rate, Some(prior)) => writeln!(
            formatter,
            "| {} | the rate at which such responses are liked | {:.4} | {:.4} |",
            head.name, prior.sampled, prior.actual
        ),
        _ => writeln!(formatter, "| {} | a reward; differences are log-odds | – | – |", head.name),
    }
}

impl Card<'_> {
    fn rows(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "\n## Rows\n\n| data | head | read | used | conversation cut | response cut | dropped |\n|---|---|---|---|---|---|---|"
        )?;
        for rows in &self.prepared.counts {
            let dropped: Vec<String> = rows.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let dropped = if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") };
            writeln!(
                formatter,
                "| {} ({:.12}) | {} | {} | {} | {} | {} | {dropped} |",
                rows.data, rows.id, rows.head, rows.read, rows.used, rows.prompts_cut, rows.responses_cut
            )?;
        }
        let HeldOut { training, validation, published, latest, by_conversation, .. } = &self.figures.held_out;
        writeln!(
            formatter,
            "\nConversations: {training} to train on, {validation} to choose the pass with; held out: {latest} as the latest, \
             {by_conversation} by their id, {published} as they were published. None is on both sides."
        )
    }

    fn training(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, .. } = self;
        writeln!(
            formatter,
            "\n## Training\n\nSeed {}, learning rate {} (heads {}), {} rows a step at most, margin {}, centring {}, positives at \
             least {} of a pass.\n\n| pass | steps | training loss | validation loss | heads |\n|---|---|---|---|---|",
            options.seed,
            options.learning_rate,
            options.head_learning_rate,
            options.batch,
            options.margin,
            options.centring,
            options.positive_share
        )?;
        for epoch in self.history {
            let heads: Vec<String> =
                epoch.heads.iter().map(|head| format!("{} {}", head.head, number(head.figure))).collect();
            writeln!(
                formatter,
                "| {} | {} | {:.4} | {:.4} | {} |",
                epoch.epoch,
                epoch.steps,
                epoch.training_loss,
                epoch.validation_loss,
                heads.join(", ")
            )?;
        }
        writeln!(formatter, "\nThe pass with the lowest validation loss is the one that was kept.")
    }

    fn rates(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for head in self.figures.heads.iter().filter(|head| !head.rates.is_empty()) {
            writeln!(
                formatter,
                "\n## {}: responses held out\n\n| source | responses | liked | mean score | AUROC | average precision | calibration \
                 error | with length (Pearson, Spearman) |\n|---|---|---|---|---|---|---|---|",
                head.head
            )?;
            for rate in &head.rates {
                writeln!(
                    formatter,
                    "| {} | {} | {} | {:.3} | {} | {} | {} | {}, {} |",
                    rate.source,
                    rate.responses,
                    rate.liked,
                    rate.mean,
                    shown(rate.auroc),
                    shown(rate.average_precision),
                    number(rate.calibration_error),
                    number(rate.length.pearson),
                    number(rate.length.spearman)
                )?;
            }
        }
        Ok(())
    }

    fn pairs(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for head in self.figures.heads.iter().filter(|head| !head.pairs.is_empty()) {
            writeln!(
                formatter,
                "\n## {}: pairs held out\n\n| source | pairs | accuracy | the longer one wins | length-controlled accuracy | with \
                 length (Pearson, Spearman) |\n|---|---|---|---|---|---|",
                head.head
            )?;
            for pairs in &head.pairs {
                writeln!(
                    formatter,
                    "| {} | {} | {} | {} | {} | {}, {} |",
                    pairs.source,
                    pairs.pairs,
                    shown(pairs.accuracy),
                    shown(pairs.longer_wins),
                    shown(pairs.controlled),
                    number(pairs.length.pearson),
                    number(pairs.length.spearman)
                )?;
            }
            writeln!(
                formatter,
                "\nLength-controlled: within each source, pairs whose better response is the longer one weigh as much together as \
                 those whose better response is the shorter one, so that \"the longer one wins\" has exactly one half."
            )?;
        }
        Ok(())
    }
}
