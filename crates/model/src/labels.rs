//! The feedback signals that a follow-up turn can carry: nine of satisfaction, nine of dissatisfaction, after
//! `WildFeedback` (and SPUR before it).
//!
//! The names are identifiers: columns, settings, files and the API use them as they stand here. The codes are persisted
//! in model files (output `i` of a tagger is the label with code `i`), so both must be kept stable.
//!
//! A tagger has [`OUTPUTS`] outputs: the 18 labels in the order of [`Label::ALL`], then [`SAT`] ("any satisfaction") and
//! [`DSAT`] ("any dissatisfaction"). Both may hold at once (mixed), or neither (no signal).

use std::fmt;
use std::str::FromStr;

/// How many labels there are.
pub const LABELS: usize = 18;
/// Output that says whether the follow-up carries satisfaction of any kind.
pub const SAT: usize = 18;
/// Output that says whether the follow-up carries dissatisfaction of any kind.
pub const DSAT: usize = 19;
/// How many outputs a tagger has: the labels, then [`SAT`] and [`DSAT`].
pub const OUTPUTS: usize = 20;

/// Which side a label is evidence for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Satisfaction with the response.
    Satisfaction,
    /// Dissatisfaction with the response.
    Dissatisfaction,
}

impl Kind {
    /// The output that stands for any label of this kind: [`SAT`] or [`DSAT`].
    #[must_use]
    pub const fn output(self) -> usize {
        match self {
            Self::Satisfaction => SAT,
            Self::Dissatisfaction => DSAT,
        }
    }
}

/// A feedback signal. The codes are persisted: never renumber them, append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Label {
    /// Thanks or compliments the assistant for its answer.
    Gratitude = 0,
    /// Learned something, or is curious about the information given, with satisfaction.
    Learning = 1,
    /// Follows or accepts a suggestion or instruction.
    Compliance = 2,
    /// Positive words about the answer or the conversation.
    Praise = 3,
    /// Volunteers personal context beyond what was asked, in a warm way.
    PersonalDetails = 4,
    /// Jokes with, or challenges, the assistant in a friendly manner.
    Humor = 5,
    /// Confirms understanding or agreement.
    Acknowledgment = 6,
    /// Ends the conversation on a positive note.
    PositiveClosure = 7,
    /// Says that the answer is better but not yet right: satisfaction that carries a complaint.
    GettingThere = 8,
    /// Explicit dissatisfaction, frustration or anger.
    NegativeFeedback = 9,
    /// Asks to change or redo the answer, or repeats the request because it was not met.
    Revision = 10,
    /// Points out a mistake or self-contradiction.
    FactualError = 11,
    /// Does not accept a limitation of the assistant, or the alternatives offered.
    UnrealisticExpectation = 12,
    /// Leaves the assistant's question or suggestion unanswered where an answer was due.
    NoEngagement = 13,
    /// Says that the request was ignored or its intent missed.
    Ignored = 14,
    /// Perceives a decline against earlier answers or other tools.
    LowerQuality = 15,
    /// Wants the answer more specific or longer because it fell short.
    InsufficientDetail = 16,
    /// A mismatch of style or format.
    Style = 17,
}

impl Label {
    /// All labels in the order of their codes: nine of satisfaction, then nine of dissatisfaction.
    pub const ALL: [Self; LABELS] = [
        Self::Gratitude,
        Self::Learning,
        Self::Compliance,
        Self::Praise,
        Self::PersonalDetails,
        Self::Humor,
        Self::Acknowledgment,
        Self::PositiveClosure,
        Self::GettingThere,
        Self::NegativeFeedback,
        Self::Revision,
        Self::FactualError,
        Self::UnrealisticExpectation,
        Self::NoEngagement,
        Self::Ignored,
        Self::LowerQuality,
        Self::InsufficientDetail,
        Self::Style,
    ];

    /// The identifier used in columns, settings, files and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gratitude => "gratitude",
            Self::Learning => "learning",
            Self::Compliance => "compliance",
            Self::Praise => "praise",
            Self::PersonalDetails => "personal_details",
            Self::Humor => "humor",
            Self::Acknowledgment => "acknowledgment",
            Self::PositiveClosure => "positive_closure",
            Self::GettingThere => "getting_there",
            Self::NegativeFeedback => "negative_feedback",
            Self::Revision => "revision",
            Self::FactualError => "factual_error",
            Self::UnrealisticExpectation => "unrealistic_expectation",
            Self::NoEngagement => "no_engagement",
            Self::Ignored => "ignored",
            Self::LowerQuality => "lower_quality",
            Self::InsufficientDetail => "insufficient_detail",
            Self::Style => "style",
        }
    }

    /// The persisted code, which is also the tagger's output for this label.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The tagger's output for this label, 0 to 17.
    #[must_use]
    pub const fn output(self) -> usize {
        self as usize
    }

    /// Which side this label is evidence for.
    #[must_use]
    pub const fn kind(self) -> Kind {
        if (self as u8) < 9 { Kind::Satisfaction } else { Kind::Dissatisfaction }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The name of a tagger's output: a label's, `sat` or `dsat`; `None` from [`OUTPUTS`] on.
#[must_use]
pub fn output_name(output: usize) -> Option<&'static str> {
    match output {
        SAT => Some("sat"),
        DSAT => Some("dsat"),
        _ => Label::ALL.get(output).map(|label| label.name()),
    }
}

/// A name that is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown label `{name}`: the labels are those of `Label::ALL`, from `gratitude` to `style`")]
pub struct UnknownLabel {
    /// What was read.
    pub name: String,
}

impl FromStr for Label {
    type Err = UnknownLabel;

    fn from_str(name: &str) -> Result<Self, UnknownLabel> {
        Self::ALL.into_iter().find(|label| label.name() == name).ok_or_else(|| UnknownLabel { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes as they are persisted. A change here breaks every stored model and table.
    #[test]
    fn codes_and_names_are_fixed() {
        let expected = [
            (0, "gratitude"),
            (1, "learning"),
            (2, "compliance"),
            (3, "praise"),
            (4, "personal_details"),
            (5, "humor"),
            (6, "acknowledgment"),
            (7, "positive_closure"),
            (8, "getting_there"),
            (9, "negative_feedback"),
            (10, "revision"),
            (11, "factual_error"),
            (12, "unrealistic_expectation"),
            (13, "no_engagement"),
            (14, "ignored"),
            (15, "lower_quality"),
            (16, "insufficient_detail"),
            (17, "style"),
        ];
        let actual: Vec<(u8, &str)> = Label::ALL.iter().map(|label| (label.code(), label.name())).collect();
        assert_eq!(actual, expected);
        assert_eq!((SAT, DSAT, OUTPUTS), (18, 19, 20));
    }

    #[test]
    fn nine_labels_of_each_kind() {
        let satisfied = Label::ALL.iter().filter(|label| label.kind() == Kind::Satisfaction).count();
        assert_eq!(satisfied, 9);
        assert_eq!(Label::GettingThere.kind().output(), SAT);
        assert_eq!(Label::NegativeFeedback.kind().output(), DSAT);
    }

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for label in Label::ALL {
            assert_eq!(label.name().parse::<Label>(), Ok(label));
        }
        assert!("sat".parse::<Label>().is_err());
        assert!("Gratitude".parse::<Label>().is_err());
        assert_eq!(output_name(0), Some("gratitude"));
        assert_eq!(output_name(SAT), Some("sat"));
        assert_eq!(output_name(DSAT), Some("dsat"));
        assert_eq!(output_name(OUTPUTS), None);
    }
}
