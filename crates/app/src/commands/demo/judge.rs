//! The tagger against what the log's follow-ups really say.

use std::collections::HashMap;

use uptake_model::labels::Kind;
use uptake_sample::FollowUp;
use uptake_serve::functions::wilson;
use uptake_train::classifier::Options;
use uptake_train::data::{Part, Split};

/// How a tagger did on one side, satisfaction or dissatisfaction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Score {
    /// Carry it and were tagged.
    pub(super) found: usize,
    /// Carry it and were not tagged.
    pub(super) missed: usize,
    /// Do not carry it and were tagged.
    pub(super) wrong: usize,
}

impl Score {
    /// Share of the tagged that carry it, as text with its interval.
    pub(super) fn precision(self) -> String {
        share(self.found, self.found + self.wrong)
    }

    /// Share of the carriers that were tagged, as text with its interval.
    pub(super) fn recall(self) -> String {
        share(self.found, self.found + self.missed)
    }
}

fn share(part: usize, whole: usize) -> String {
    wilson(part as f64, whole as f64).map_or_else(
        || "none to judge by".to_owned(),
        |rate| {
            let percent = |share: f64| share * 100.0;
            format!(
                "{:.0} % ({:.0}–{:.0}, {part} of {whole})",
                percent(rate.share),
                percent(rate.low),
                percent(rate.high)
            )
        },
    )
}

/// Satisfaction and dissatisfaction, over the follow-ups whose meaning is known and that were tagged.
pub(super) fn scores(truth: &[FollowUp], tagged: &HashMap<String, (bool, bool)>) -> (Score, Score) {
    let (mut sat, mut dsat) = (Score::default(), Score::default());
    for follow_up in truth {
        let Some((praises, complains)) = tagged.get(&follow_up.turn_id).copied() else { continue };
        let carries = |kind: Kind| follow_up.labels.iter().any(|label| label.kind() == kind);
        for (score, carries, tagged) in
            [(&mut sat, carries(Kind::Satisfaction), praises), (&mut dsat, carries(Kind::Dissatisfaction), complains)]
        {
            match (carries, tagged) {
                (true, true) => score.found += 1,
                (true, false) => score.missed += 1,
                (false, true) => score.wrong += 1,
                (false, false) => {}
            }
        }
    }
    (sat, dsat)
}

/// Whether a labelled conversation was kept from the training of the tagger in this program, so that the demo may judge
/// by it.
pub(super) fn held_out(conversation_id: &str) -> bool {
    let options = Options::default();
    let split = Split { seed: options.seed, validation: options.validation, test: options.test };
    split.part(conversation_id) == Part::Test
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow_up(turn_id: &str, labels: &[&str]) -> FollowUp {
        FollowUp {
            conversation_id: "c".to_owned(),
            turn_id: turn_id.to_owned(),
            model: "larch-1",
            labels: labels.iter().map(|label| label.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn held_out_is_what_the_shipped_model_was_tested_on() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tagger/model/metrics.json");
        let metrics: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let (trained, ours) = (&metrics["options"], Options::default());
        assert_eq!(trained["seed"], ours.seed);
        assert_eq!((&trained["validation"], &trained["test"]), (&ours.validation.into(), &ours.test.into()));
    }

    #[test]
    fn both_sides_are_judged_apart() {
        let truth = [
            follow_up("a", &["gratitude"]),
            follow_up("b", &["gratitude", "revision"]),
            follow_up("c", &[]),
            follow_up("d", &["style"]),
            follow_up("never tagged", &["style"]),
        ];
        let tagged: HashMap<String, (bool, bool)> =
            [("a", (true, false)), ("b", (false, true)), ("c", (true, false)), ("d", (false, true))]
                .map(|(turn, says)| (turn.to_owned(), says))
                .into();
        let (sat, dsat) = scores(&truth, &tagged);
        assert_eq!(sat, Score { found: 1, missed: 1, wrong: 1 });
        assert_eq!(dsat, Score { found: 2, missed: 0, wrong: 0 });
        assert!(dsat.recall().starts_with("100 % (34–100, 2 of 2)"), "{}", dsat.recall());
        assert_eq!(Score::default().recall(), "none to judge by");
    }
}
