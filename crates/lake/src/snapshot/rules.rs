//! What trainers accept, rule by rule, and what each breach does to whom.
//!
//! Every rule comes from a run that failed, or worse, from one that did not fail and trained on the wrong thing.

use serde::Serialize;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident => $code:literal, $trainers:expr, $effect:literal;)*) => {
        /// A rule that a directory of training data can break.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in reports.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The trainers and readers that a breach breaks.
            pub fn trainers(self) -> &'static [Trainer] {
                match self { $(Self::$name => $trainers),* }
            }

            /// What a breach does to them.
            pub fn effect(self) -> &'static str {
                match self { $(Self::$name => $effect),* }
            }
        }
    };
}

/// Those who read the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trainer {
    /// Hugging Face `datasets`, and with it nearly every trainer.
    Datasets,
    /// TRL.
    Trl,
    /// `OpenRLHF`.
    Openrlhf,
    /// LLaMA-Factory.
    LlamaFactory,
    /// Axolotl.
    Axolotl,
    /// verl.
    Verl,
}

impl Trainer {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Datasets, Self::Trl, Self::Openrlhf, Self::LlamaFactory, Self::Axolotl, Self::Verl];

    /// The name that people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Datasets => "datasets",
            Self::Trl => "TRL",
            Self::Openrlhf => "OpenRLHF",
            Self::LlamaFactory => "LLaMA-Factory",
            Self::Axolotl => "Axolotl",
            Self::Verl => "verl",
        }
    }
}

use Trainer::{Axolotl, Datasets, LlamaFactory, Openrlhf, Trl, Verl};

const EVERYONE: &[Trainer] = &[Datasets, Trl, Openrlhf, LlamaFactory, Axolotl, Verl];
const CHAT: &[Trainer] = &[Trl, Openrlhf, LlamaFactory, Axolotl, Verl];

rules! {
    /// The directory is a Delta table.
    DeltaDirectory => "delta_directory", EVERYONE, "read as plain Parquet, deleted rows come back, those of erased people among them";
    /// No `train-*` file.
    NoTrainFile => "no_train_file", EVERYONE, "there is no split `train` to load";
    /// A data file is named neither `train-*` nor `test-*`.
    FileName => "file_name", EVERYONE, "the file is taken into the split `train`, whatever it holds";
    /// Data files in folders, and no card that keeps them apart.
    NestedData => "nested_data", EVERYONE, "`load_dataset(dir)` mixes the folders' rows and columns, and fails or doubles them";
    /// The card's `configs` name files that are not there, or miss some.
    Card => "card", EVERYONE, "`load_dataset(dir)` loads other files than are meant";
    /// No manifest.
    ManifestMissing => "manifest_missing", EVERYONE, "nothing breaks, and nobody can say which table, version and tagger the model was trained on";
    /// The manifest contradicts the files.
    ManifestMismatch => "manifest_mismatch", EVERYONE, "the files are not those that were published";
    /// A file cannot be read.
    Unreadable => "unreadable", EVERYONE, "loading stops here";
    /// No known set of columns.
    UnknownTable => "unknown_table", CHAT, "no trainer finds its columns (prompt with chosen and rejected, with completion and label, with response, or messages)";
    /// Files differ in columns or types.
    SchemaDiffers => "schema_differs", EVERYONE, "loading fails at the first file that differs";
    /// A `Utf8View` or `BinaryView` column.
    StringView => "string_view", EVERYONE, "`datasets` 3.6 and 4.0 cannot read string views";
    /// A `LargeList` column.
    LargeList => "large_list", EVERYONE, "`datasets` 4.0 cannot read large lists";
    /// A `FixedSizeBinary` column.
    FixedSizeBinary => "fixed_size_binary", EVERYONE, "`datasets` up to 4.7 cannot read fixed-size binary";
    /// A `Map` column.
    MapColumn => "map_column", EVERYONE, "no version of `datasets` can read maps";
    /// An id that is no text.
    IdType => "id_type", EVERYONE, "ids change in passing: numbers lose digits in JSON and pandas, bytes become lists; they no longer name their rows";
    /// A list of messages that is none.
    MessagesType => "messages_type", CHAT, "the chat template is not applied: the model trains on raw text";
    /// A message that is not exactly `{role, content}`.
    MessageFields => "message_fields", CHAT, "further keys load as None, and some chat templates then take the tool-call branch; missing ones stop the template";
    /// A message whose role or text is null.
    NullMessage => "null_message", CHAT, "the chat template writes `None` into the prompt or stops";
    /// A role that templates do not know.
    UnknownRole => "unknown_role", CHAT, "the chat template stops, or leaves the message out";
    /// An empty prompt.
    EmptyPrompt => "empty_prompt", CHAT, "tokenising an empty chat stops TRL; others train on an answer to nothing";
    /// A prompt that does not end in a user turn.
    PromptEnd => "prompt_end", CHAT, "the template opens a second assistant turn, or continues the last one: the answer is learnt in the wrong place";
    /// An answer that is not exactly one assistant message.
    AnswerCount => "answer_count", CHAT, "LLaMA-Factory and OpenRLHF read the last message only, TRL all of them: each trains on something else";
    /// An answer without text.
    EmptyAnswer => "empty_answer", CHAT, "the loss of an empty answer is that of the end token alone";
    /// Two answers that are the same.
    SameAnswers => "same_answers", &[Trl, Openrlhf, LlamaFactory, Axolotl], "the pair says nothing and its gradient is noise";
    /// A column `label` in a table of pairs.
    LabelInPairs => "label_in_pairs", &[Trl], "the KTO trainer takes the rows as unpaired, and every one as liked";
    /// A column that a trainer takes for something else.
    ForbiddenColumn => "forbidden_column", &[Trl], "the trainer takes the column for its own (images, token ids, template arguments) and stops or uses it";
    /// `margin` with nulls.
    MarginNull => "margin_null", &[Trl], "a null margin becomes NaN in the reward loss, and so does the model";
    /// `tools` that is no JSON string.
    ToolsType => "tools_type", &[Trl, LlamaFactory, Axolotl], "structs get each other's keys as None, and the template prints tools that do not exist";
    /// No struct twins beside list-valued answers.
    StructTwins => "struct_twins", &[LlamaFactory], "given lists, it silently trains on the complaint: the turn before the answer";
    /// No `dataset_info.json` that names the twins.
    DatasetInfo => "dataset_info", &[LlamaFactory], "the data cannot be named in a recipe, or its lists are read in place of the structs";
    /// No rendered strings.
    RenderedText => "rendered_text", &[Axolotl, Verl], "they want strings where this has lists of messages, and stop";
    /// A label of unpaired data that is null or no boolean.
    LabelType => "label_type", &[Trl, LlamaFactory], "a null or a number counts as liked or stops the trainer";
    /// Unpaired data of one class.
    OneClass => "one_class", &[Trl, LlamaFactory], "KTO needs both: with one class the loss has no other side";
    /// Unpaired data sorted by class.
    ClassRuns => "class_runs", &[Trl], "KTO samples in order: batches of one class have no KL baseline and the weights drift";
    /// A conversation in both splits.
    SplitLeak => "split_leak", CHAT, "the test rows were seen in training: every figure on them is too good";
    /// Train rows from after the time that the test split starts at.
    TimeLeak => "time_leak", CHAT, "the training rows know the period that the test rows are to stand for";
    /// A row twice.
    DuplicateRow => "duplicate_row", CHAT, "the row counts twice, or stands in both splits";
    /// A `split` column that contradicts the file.
    SplitColumn => "split_column", CHAT, "whoever filters on the column gets other rows than whoever loads the file";
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// A chat message; what is null in the data is `None` here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) role: Option<String>,
    pub(super) content: Option<String>,
}

/// Roles that chat templates know.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// The first rule that the messages of any column break.
pub(super) fn messages_fault(messages: &[Message]) -> Option<Rule> {
    if messages.iter().any(|message| message.role.is_none() || message.content.is_none()) {
        return Some(Rule::NullMessage);
    }
    let known = |message: &Message| message.role.as_deref().is_some_and(|role| ROLES.contains(&role));
    (!messages.iter().all(known)).then_some(Rule::UnknownRole)
}

/// The first rule that a prompt breaks.
pub(super) fn prompt_fault(prompt: &[Message]) -> Option<Rule> {
    if prompt.iter().all(|message| message.content.as_deref().is_none_or(|text| text.trim().is_empty())) {
        return Some(Rule::EmptyPrompt);
    }
    let last = prompt.last().and_then(|message| message.role.as_deref());
    messages_fault(prompt).or_else(|| (last != Some("user")).then_some(Rule::PromptEnd))
}

/// The first rule that an answer breaks.
pub(super) fn answer_fault(answer: &[Message]) -> Option<Rule> {
    let [only] = answer else { return Some(Rule::AnswerCount) };
    if let Some(fault) = messages_fault(answer) {
        return Some(fault);
    }
    if only.role.as_deref() != Some("assistant") {
        return Some(Rule::AnswerCount);
    }
    only.content.as_deref().is_none_or(|text| text.trim().is_empty()).then_some(Rule::EmptyAnswer)
}

/// The first rule that a conversation to imitate breaks: it ends in an answer to somebody.
pub(super) fn conversation_fault(messages: &[Message]) -> Option<Rule> {
    let Some((last, prompt)) = messages.split_last() else { return Some(Rule::EmptyPrompt) };
    prompt_fault(prompt).or_else(|| answer_fault(std::slice::from_ref(last)))
}

/// The first rule that a row breaks, given its columns of messages by name.
pub(super) fn row_fault<'a>(column: impl Fn(&str) -> Option<&'a [Message]>) -> Option<Rule> {
    if let Some(fault) = column("prompt").and_then(prompt_fault) {
        return Some(fault);
    }
    for answer in ["chosen", "rejected", "completion", "response"] {
        if let Some(fault) = column(answer).and_then(answer_fault) {
            return Some(fault);
        }
    }
    if let Some(fault) = column("messages").and_then(conversation_fault) {
        return Some(fault);
    }
    let texts = |name| {
        column(name).map(|answer| answer.iter().map(|one| one.content.as_deref().map(str::trim)).collect::<Vec<_>>())
    };
    let (chosen, rejected) = (texts("chosen")?, texts("rejected")?);
    (chosen == rejected).then_some(Rule::SameAnswers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(text: &str) -> Vec<Message> {
        let role = |letter| match letter {
            "u" => "user",
            "a" => "assistant",
            "s" => "system",
            other => other,
        };
        text.split_whitespace()
            .map(|turn| turn.split_once(':').unwrap())
            .map(|(who, what)| Message { role: Some(role(who).to_owned()), content: Some(what.to_owned()) })
            .collect()
    }

    fn check(columns: &[(&str, &str)], expected: Option<Rule>) {
        let columns: Vec<_> = columns.iter().map(|(name, text)| (*name, chat(text))).collect();
        let find = |wanted: &str| columns.iter().find(|(name, _)| *name == wanted).map(|(_, chat)| chat.as_slice());
        assert_eq!(row_fault(find), expected, "{columns:?}");
    }

    #[test]
    fn rows_are_held_to_the_rules() {
        let pair = |prompt, chosen, rejected| [("prompt", prompt), ("chosen", chosen), ("rejected", rejected)];
        check(&pair("s:be u:hi", "a:yes", "a:no"), None);
        check(&pair("", "a:yes", "a:no"), Some(Rule::EmptyPrompt));
        check(&pair("u:hi a:x", "a:yes", "a:no"), Some(Rule::PromptEnd));
        check(&pair("u:hi", "a:yes a:more", "a:no"), Some(Rule::AnswerCount));
        check(&pair("u:hi", "a:yes", "u:no"), Some(Rule::AnswerCount));
        check(&pair("u:hi", "a:yes", "a:"), Some(Rule::EmptyAnswer));
        check(&pair("u:hi", "a:yes", "a:yes"), Some(Rule::SameAnswers));
        check(&pair("bot:x u:hi", "a:yes", "a:no"), Some(Rule::UnknownRole));
        check(&[("messages", "u:hi a:yes")], None);
        check(&[("messages", "u:hi a:yes u:more")], Some(Rule::PromptEnd));
        check(&[("messages", "a:yes")], Some(Rule::EmptyPrompt));
        check(&[("prompt", "u:hi"), ("completion", "")], Some(Rule::AnswerCount));
    }

    #[test]
    fn codes_are_unique_and_somebody_is_hurt() {
        for (at, rule) in Rule::ALL.iter().enumerate() {
            assert!(!rule.trainers().is_empty(), "{rule:?}");
            assert!(Rule::ALL.iter().skip(at + 1).all(|other| other.code() != rule.code()), "{rule:?}");
        }
    }
}
