//! What annotators are told, as a TOML file that people read and edit.
//!
//! It has a `title`, the `question`, `rules` for the edges, and for each of the 18 labels (`[labels.NAME]`) a `definition`
//! and, where the second stage found some, `criteria`: how the label shows in this product. Unknown keys are refused, and
//! so is a file that lacks a label: what is scored is always all of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uptake_model::labels::{Kind, Label};
use uptake_model::subject::hex;

use crate::error::{Error, Result};

/// The rubric made from the project's labelling guide.
const BUILT_IN: &str = include_str!("../rubric.toml");
/// Longest rubric in bytes: it goes with every request.
const LONGEST: usize = 64 << 10;

/// How a label shows, and how many reasons say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criterion {
    /// A sentence.
    pub text: String,
    /// Reasons that it was made from; a comment in the file.
    pub support: usize,
}

/// What is said about one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What the label means.
    pub definition: String,
    /// How it shows in this product.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub criteria: Vec<String>,
}

/// What annotators are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rubric {
    /// What it is about.
    pub title: String,
    /// What is asked of each exchange.
    pub question: String,
    /// Rules at the edges of the labels.
    pub rules: Vec<String>,
    entries: BTreeMap<Label18, Entry>,
}

/// A label that serialises as its name and sorts by its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Label18(Label);

impl Serialize for Label18 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    title: String,
    question: String,
    #[serde(default)]
    rules: Vec<String>,
    labels: BTreeMap<String, Entry>,
}

impl Rubric {
    /// The rubric made from the project's labelling guide.
    ///
    /// # Errors
    /// Never, as a test holds; a broken build would say [`Error::Rubric`].
    pub fn built_in() -> Result<Self> {
        Self::parse(BUILT_IN)
    }

    /// The built-in rubric as it stands in its file, with its comments: a beginning for one's own.
    #[must_use]
    pub const fn built_in_text() -> &'static str {
        BUILT_IN
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read, [`Error::Rubric`] where it is no rubric.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::file("read", path, &error))?;
        Self::parse(&text).map_err(|error| match error {
            Error::Rubric(reason) => Error::Rubric(format!("`{}`: {reason}", path.display())),
            other => other,
        })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// [`Error::Rubric`] that names what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: String| Error::Rubric(reason);
        if text.len() > LONGEST {
            return Err(bad(format!(
                "is longer than {} KiB, and it goes with every request: shorten it",
                LONGEST >> 10
            )));
        }
        let raw: Raw = toml::from_str(text).map_err(|error| bad(error.to_string().trim().replace('\n', " ")))?;
        let mut entries = BTreeMap::new();
        for (name, entry) in raw.labels {
            let label: Label = name.parse().map_err(|error| bad(format!("[labels.{name}]: {error}")))?;
            if entry.definition.trim().is_empty() {
                return Err(bad(format!("[labels.{name}]: the definition is empty")));
            }
            entries.insert(Label18(label), entry);
        }
        let missing: Vec<&str> =
            Label::ALL.into_iter().filter(|label| !entries.contains_key(&Label18(*label))).map(Label::name).collect();
        if !missing.is_empty() {
            return Err(bad(format!(
                "lacks labels: {} (each needs a [labels.NAME] with a definition)",
                missing.join(", ")
            )));
        }
        if raw.question.trim().is_empty() {
            return Err(bad("the question is empty".to_owned()));
        }
        Ok(Self { title: raw.title, question: raw.question, rules: raw.rules, entries })
    }

    /// What is said about a label.
    pub fn entry(&self, label: Label) -> Option<&Entry> {
        self.entries.get(&Label18(label))
    }

    /// Its identity: twelve digits of a hash of what it says. Comments and layout do not count.
    pub fn id(&self) -> String {
        // Maps of texts serialise without fail; see the cache's key.
        let text = serde_json::to_string(self).unwrap_or_else(|error| error.to_string());
        let mut id = hex(&Sha256::digest(text.as_bytes()));
        id.truncate(12);
        id
    }

    /// Its labels of one side, as a list for a model.
    pub(crate) fn list(&self, kind: Kind) -> String {
        let mut text = String::new();
        for (Label18(label), entry) in self.entries.iter().filter(|(label, _)| label.0.kind() == kind) {
            let _ = writeln!(text, "- {label}: {}", entry.definition);
            for criterion in &entry.criteria {
                let _ = writeln!(text, "  - {criterion}");
            }
        }
        text
    }

    /// All of it, as instructions for a model.
    pub(crate) fn told(&self) -> String {
        let mut text = format!("{}\n\n", self.question.trim());
        let _ = writeln!(text, "Labels of satisfaction:\n{}", self.list(Kind::Satisfaction));
        let _ = writeln!(text, "Labels of dissatisfaction:\n{}", self.list(Kind::Dissatisfaction));
        if !self.rules.is_empty() {
            text.push_str("Rules:\n");
            for (number, rule) in (1..).zip(&self.rules) {
                let _ = writeln!(text, "{number}. {rule}");
            }
        }
        text
    }

    /// The file of this rubric with other criteria. `unassigned` are reasons that no label covers: comments at its end, for
    /// whoever edits it.
    #[must_use]
    pub fn with_criteria(&self, criteria: &BTreeMap<Label, Vec<Criterion>>, unassigned: &[String]) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut text = String::from(
            "# A rubric for `uptake annotate score`. Read it before it is used, and edit it freely: everything but the comments is\n\
             # shown to the model as it stands here. All 18 labels must stay, under their names.\n\n",
        );
        let _ = writeln!(text, "title = {}\n", quoted(&self.title));
        let _ = writeln!(text, "question = {}\n", quoted(self.question.trim()));
        text.push_str("rules = [\n");
        for rule in &self.rules {
            let _ = writeln!(text, "    {},", quoted(rule));
        }
        text.push_str("]\n");
        for (Label18(label), entry) in &self.entries {
            let _ = writeln!(text, "\n[labels.{label}]\ndefinition = {}", quoted(&entry.definition));
            if let Some(criteria) = criteria.get(label).filter(|criteria| !criteria.is_empty()) {
                text.push_str("criteria = [\n");
                for Criterion { text: criterion, support } in criteria {
                    let _ = writeln!(text, "    {}, # {support} reasons", quoted(criterion));
                }
                text.push_str("]\n");
            }
        }
        if !unassigned.is_empty() {
            let _ =
                writeln!(text, "\n# Reasons that fit no label; perhaps a definition or a rule should speak of them:");
            for reason in unassigned {
                let _ = writeln!(text, "# - {}", reason.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rubric_has_all_of_the_guide() {
        let rubric = Rubric::built_in().unwrap();
        assert_eq!((rubric.rules.len(), rubric.entries.len()), (15, 18));
        let told = rubric.told();
        for label in Label::ALL {
            assert!(told.contains(&format!("- {label}: {}", rubric.entry(label).unwrap().definition)), "{label}");
        }
        assert!(told.find("- getting_there").unwrap() < told.find("Labels of dissatisfaction").unwrap());
        assert!(told.find("- negative_feedback").unwrap() > told.find("Labels of dissatisfaction").unwrap());
        assert!(!told.contains("\\\n") && told.contains("15. "), "{told}");
    }

    #[test]
    fn the_identity_is_that_of_what_is_said() {
        let rubric = Rubric::built_in().unwrap();
        let id = rubric.id();
        assert_eq!(id.len(), 12);
        assert_eq!(Rubric::parse(&format!("# another comment\n{BUILT_IN}")).unwrap().id(), id);
        assert_ne!(Rubric::parse(&BUILT_IN.replace("thanks or compliments", "thanks")).unwrap().id(), id);
    }

    #[test]
    fn a_rubric_with_criteria_is_read_back() {
        let rubric = Rubric::built_in().unwrap();
        let criterion = |text: &str| Criterion { text: text.to_owned(), support: 4 };
        let odd = "says \"that's it\" \\ or\n# comments";
        let criteria = BTreeMap::from([(Label::Praise, vec![criterion("calls it spot on"), criterion(odd)])]);
        let text = rubric.with_criteria(&criteria, &["wants a\nrefund".to_owned()]);
        assert!(text.contains("# 4 reasons") && text.contains("# - wants a refund\n"), "{text}");
        let read = Rubric::parse(&text).unwrap();
        assert_eq!(read.entry(Label::Praise).unwrap().criteria, ["calls it spot on", odd]);
        assert_eq!(read.rules, rubric.rules);
        assert_ne!(read.id(), rubric.id());
        let plain = Rubric::parse(&rubric.with_criteria(&BTreeMap::new(), &[])).unwrap();
        assert_eq!(plain.entries, rubric.entries);
    }

    #[test]
    fn what_is_no_rubric_is_refused_with_its_reason() {
        let without = BUILT_IN.replace("[labels.style]", "[labels.tone]");
        let lacking = BUILT_IN.split("[labels.style]").next().unwrap();
        let long = format!("{BUILT_IN}#{}", "x".repeat(LONGEST));
        for (text, reason) in [
            (without.as_str(), "[labels.tone]: unknown label `tone`"),
            (lacking, "lacks labels: style"),
            (&BUILT_IN.replace("title =", "titel ="), "unknown field `titel`"),
            (
                &BUILT_IN.replace("\"thanks or compliments the assistant for its answer\"", "\" \""),
                "definition is empty",
            ),
            (&BUILT_IN.replace("rules = [", "rules = ["[..8].trim_end()), "TOML parse error"),
            ("", "missing field"),
            (&long, "longer than 64 KiB"),
        ] {
            let error = Rubric::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("the rubric ") && error.contains(reason), "{error}");
        }
        let error = Rubric::read(Path::new("/no/such/rubric.toml")).unwrap_err().to_string();
        assert!(error.contains("/no/such/rubric.toml"), "{error}");
    }
}
