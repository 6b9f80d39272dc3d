//! What a model says is so must stand in the user's own words.

use serde::Serialize;

use crate::rows::whole;

/// Why a label is not taken: a closed set, so that it can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// No evidence is given.
    NoEvidence,
    /// The evidence is no literal passage of the follow-up.
    NotLiteral,
    /// The name is none of the 18, or none of the side that is asked about.
    UnknownLabel,
}

impl Fault {
    /// The name it is counted under.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEvidence => "no_evidence",
            Self::NotLiteral => "not_literal",
            Self::UnknownLabel => "unknown_label",
        }
    }

    /// What the model is told.
    pub(crate) const fn complaint(self) -> &'static str {
        match self {
            Self::NoEvidence => "has no evidence: copy the words of follow_up that show it",
            Self::NotLiteral => {
                "its evidence does not stand in follow_up: copy one passage of it, character by character, from nowhere else"
            }
            Self::UnknownLabel => "is not the name of a label that is asked about",
        }
    }
}

/// The user's words, to look evidence up in.
#[derive(Debug)]
pub(crate) struct Words(String);

impl Words {
    pub(crate) fn of(text: &str) -> Self {
        Self(whole(text))
    }

    /// The evidence, normalised as the words are, if it is a passage of them.
    pub(crate) fn passage(&self, evidence: &str) -> Result<String, Fault> {
        let evidence = whole(evidence);
        if evidence.is_empty() {
            Err(Fault::NoEvidence)
        } else if self.0.contains(&evidence) {
            Ok(evidence)
        } else {
            Err(Fault::NotLiteral)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_literal_passages_count() {
        let words = Words::of("No,  I meant\nthe cafe\u{301}. Thanks anyway 🙂");
        for (evidence, expected) in [
            ("I meant the café", Ok("I meant the café")),
            (" Thanks  anyway ", Ok("Thanks anyway")),
            ("🙂", Ok("🙂")),
            ("thanks anyway", Err(Fault::NotLiteral)),
            ("No, I meant … Thanks", Err(Fault::NotLiteral)),
            ("\"No\"", Err(Fault::NotLiteral)),
            (" \u{200b}", Err(Fault::NoEvidence)),
        ] {
            assert_eq!(words.passage(evidence), expected.map(str::to_owned), "{evidence}");
        }
        assert_eq!(Words::of("").passage("a"), Err(Fault::NotLiteral));
    }
}
