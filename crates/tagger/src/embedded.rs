//! The default model, compiled into the program. Its card is `model/README.md`.

use std::borrow::Cow;

use crate::error::Result;
use crate::files::ModelFiles;
use crate::tagger::{Options, Tagger};

include!(concat!(env!("OUT_DIR"), "/weights.rs"));

impl ModelFiles<'static> {
    /// The files of the model that is compiled into this program.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            config: Cow::Borrowed(include_bytes!("../model/config.json")),
            tokenizer: Cow::Borrowed(include_bytes!("../model/tokenizer.json")),
            weights: WEIGHTS.iter().copied().map(Cow::Borrowed).collect(),
            tagger: Cow::Borrowed(include_bytes!("../model/tagger.json")),
        }
    }
}

impl Tagger {
    /// Loads the model that is compiled into this program.
    ///
    /// # Errors
    /// As [`Tagger::new`].
    pub fn embedded(options: Options) -> Result<Self> {
        Self::new(&ModelFiles::embedded(), options)
    }
}

#[cfg(test)]
mod tests {
    use uptake_model::labels::{Kind, Label};

    use super::*;
    use crate::Exchange;

    const QUESTION: &str = "How do I drop duplicate rows in pandas?";
    const ANSWER: &str = "Use `df.drop_duplicates()`. If only certain columns matter, pass `subset=['a', 'b']`.";

    /// What a follow-up to [`ANSWER`] must fire: labels, satisfaction, dissatisfaction.
    const CASES: [(&str, &[Label], bool, bool); 8] = [
        ("thanks, that worked!", &[Label::Gratitude], true, false),
        ("great answer, i love it", &[Label::Praise], true, false),
        ("No, that's not what I asked.", &[Label::Ignored], false, true),
        ("That's wrong, drop_duplicates has no such argument.", &[Label::FactualError], false, true),
        ("this is useless, you never get it right", &[], false, true),
        ("Can you rewrite it without pandas? I asked for plain Python.", &[Label::Revision], false, true),
        ("And how do I sort the rows by date?", &[], false, false),
        ("What is the capital of Peru?", &[], false, false),
    ];

    #[test]
    fn plain_cases_come_out_as_anyone_would_read_them() {
        let tagger = Tagger::embedded(Options::default()).unwrap();
        let exchanges = CASES.map(|(follow_up, ..)| Exchange::alone(QUESTION, ANSWER, follow_up));
        for ((follow_up, labels, sat, dsat), scores) in CASES.iter().zip(tagger.tag(&exchanges).unwrap()) {
            let fired: Vec<&str> = scores.firing().map(Label::name).collect();
            let seen = format!("{follow_up}: sat {:.2}, dsat {:.2}, fired {fired:?}", scores.sat(), scores.dsat());
            assert_eq!(scores.fires_kind(Kind::Satisfaction), *sat, "{seen}");
            assert_eq!(scores.fires_kind(Kind::Dissatisfaction), *dsat, "{seen}");
            assert!(labels.iter().all(|label| scores.fires(*label)), "{seen}");
        }
    }

    #[test]
    fn the_version_is_the_cards() {
        let tagger = Tagger::embedded(Options::default()).unwrap();
        let card = include_str!("../model/README.md");
        assert!(card.contains(tagger.version()), "{}", tagger.version());
        let files = ModelFiles::embedded();
        assert!(files.weights.iter().all(|file| file.len() < 50_000_000));
        assert!(files.weights.iter().map(|file| file.len()).sum::<usize>() < 70_000_000);
    }

    #[test]
    fn texts_of_any_kind_get_scores() {
        let tagger = Tagger::embedded(Options::default()).unwrap();
        let long = "pasted line of a log file\n".repeat(4000);
        for follow_up in ["👍🏽❤️", "شكرا جزيلا", "谢谢", "\u{0}\u{feff}", "?", &long] {
            let exchange = Exchange::alone(QUESTION, &long, follow_up);
            let scores = tagger.tag(&[exchange]).unwrap();
            assert!(scores[0].probabilities().iter().all(|probability| (0.0..=1.0).contains(probability)));
        }
    }
}
