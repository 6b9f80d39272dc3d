//! What a snapshot of each gold table looks like: which columns, in which order, and what is derived for which trainer.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use uptake_model::tables::{self, Column, Kind, TableSpec, message_fields};

/// Where a published column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A column of the table.
    Column(&'static str),
    /// The only message of a list, as a struct: what LLaMA-Factory wants.
    Only(&'static str),
    /// Two lists of messages, one after the other.
    Joined(&'static str, &'static str),
    /// The split that the row was published in.
    Split,
    /// Why the row is in the test split: `conversation` or `time`; null in train.
    HeldOutBy,
}

/// A column of rendered text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rendered {
    /// A prompt as `User: …` lines, closed by `Assistant:`.
    Prompt(&'static str),
    /// The text of the only message.
    Answer(&'static str),
    /// Everything before the last message, rendered as a prompt.
    AllButLast(&'static str),
    /// The text of the last message.
    Last(&'static str),
    /// A column of the table as it is.
    Column(&'static str),
}

/// The layout of one table's snapshots.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) spec: &'static TableSpec,
    /// What trainers read, in front of the lineage.
    front: &'static [(&'static str, Source)],
    /// The rendered columns.
    pub(super) text: &'static [(&'static str, Rendered)],
    /// Token counts that add up, and alternatives of which the longest counts.
    pub(super) summed: &'static [&'static str],
    pub(super) longest: &'static [&'static str],
    /// Of several rows with one key, one where this is true is published: a love outweighs its absence.
    pub(super) kept: Option<&'static str>,
    /// The class that is interleaved.
    pub(super) class: Option<&'static str>,
    /// LLaMA-Factory's description of the columns, as JSON.
    pub(super) llama_factory: Option<&'static str>,
}

use Source::{Column as From, HeldOutBy, Joined, Only, Split};

static LAYOUTS: [Layout; 5] = [
    Layout {
        spec: &tables::PREFERENCE_PAIRS,
        front: &[
            ("prompt", From("prompt")),
            ("chosen", From("chosen")),
            ("rejected", From("rejected")),
            ("chosen_message", Only("chosen")),
            ("rejected_message", Only("rejected")),
        ],
        text: &[
            ("prompt_text", Rendered::Prompt("prompt")),
            ("chosen_text", Rendered::Answer("chosen")),
            ("rejected_text", Rendered::Answer("rejected")),
            ("pair_id", Rendered::Column("pair_id")),
            ("conversation_id", Rendered::Column("conversation_id")),
        ],
        summed: &["prompt_tokens"],
        longest: &["chosen_tokens", "rejected_tokens"],
        kept: None,
        class: None,
        llama_factory: Some(
            r#"{"ranking":true,"columns":{"messages":"prompt","chosen":"chosen_message","rejected":"rejected_message"}}"#,
        ),
    },
    Layout {
        spec: &tables::UNPAIRED,
        front: &[
            ("prompt", From("prompt")),
            ("completion", From("completion")),
            ("label", From("label")),
            ("conversation", Joined("prompt", "completion")),
        ],
        text: &[
            ("prompt_text", Rendered::Prompt("prompt")),
            ("completion_text", Rendered::Answer("completion")),
            ("label", Rendered::Column("label")),
            ("row_id", Rendered::Column("row_id")),
            ("conversation_id", Rendered::Column("conversation_id")),
        ],
        summed: &["prompt_tokens", "completion_tokens"],
        longest: &[],
        kept: None,
        class: Some("label"),
        llama_factory: Some(r#"{"columns":{"messages":"conversation","kto_tag":"label"}}"#),
    },
    Layout {
        spec: &tables::LOVE,
        front: &[
            ("prompt", From("prompt")),
            ("response", From("response")),
            ("love", From("love")),
            ("weight", From("weight")),
            ("propensity", From("propensity")),
        ],
        text: &[
            ("prompt_text", Rendered::Prompt("prompt")),
            ("response_text", Rendered::Answer("response")),
            ("love", Rendered::Column("love")),
            ("weight", Rendered::Column("weight")),
            ("row_id", Rendered::Column("row_id")),
            ("conversation_id", Rendered::Column("conversation_id")),
        ],
        summed: &["prompt_tokens", "response_tokens"],
        longest: &[],
        kept: Some("love"),
        class: None,
        llama_factory: None,
    },
    Layout {
        spec: &tables::PROMPTS,
        front: &[("prompt", From("prompt")), ("preference", From("preference")), ("checklist", From("checklist"))],
        text: &[
            ("prompt_text", Rendered::Prompt("prompt")),
            ("preference", Rendered::Column("preference")),
            ("row_id", Rendered::Column("row_id")),
            ("conversation_id", Rendered::Column("conversation_id")),
        ],
        summed: &["prompt_tokens"],
        longest: &[],
        kept: None,
        class: None,
        llama_factory: None,
    },
    Layout {
        spec: &tables::SUPERVISED,
        front: &[("messages", From("messages"))],
        text: &[
            ("prompt_text", Rendered::AllButLast("messages")),
            ("response_text", Rendered::Last("messages")),
            ("row_id", Rendered::Column("row_id")),
            ("conversation_id", Rendered::Column("conversation_id")),
        ],
        summed: &["tokens"],
        longest: &[],
        kept: None,
        class: None,
        llama_factory: Some(r#"{"columns":{"messages":"messages"}}"#),
    },
];

/// Columns that stay behind: who the person is, is of no use to a trainer; erasure finds rows by conversation.
const LEFT_BEHIND: [&str; 1] = ["subject_key"];

impl Layout {
    /// The layout of the gold table of that name (`preference_pairs`, or `gold.preference_pairs`).
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        let name = name.strip_prefix("gold.").unwrap_or(name);
        LAYOUTS.iter().find(|layout| layout.spec.name == name)
    }

    /// The tables that can be published.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        LAYOUTS.iter().map(|layout| layout.spec.name)
    }

    /// The column that identifies a row.
    pub(super) fn key(&self) -> &'static str {
        self.spec.key[0]
    }

    /// Every published column: first what trainers read, then the lineage.
    pub(super) fn columns(&self) -> Vec<(&'static str, Source)> {
        let mut columns = self.front.to_vec();
        for Column { name, .. } in self.spec.columns {
            if LEFT_BEHIND.contains(name) || columns.iter().any(|(taken, _)| taken == name) {
                continue;
            }
            if *name == "split" {
                columns.extend([("split", Split), ("held_out_by", HeldOutBy)]);
            } else {
                columns.push((name, From(name)));
            }
        }
        columns
    }

    fn column(&self, name: &str) -> &'static Column {
        // The layouts above name columns of their tables; a test holds them to it.
        self.spec.column(name).unwrap_or(&self.spec.columns[0])
    }

    /// The schema of the published files.
    pub(super) fn schema(&self) -> SchemaRef {
        let fields = self.columns().into_iter().map(|(name, source)| match source {
            From(column) => {
                let column = self.column(column);
                Field::new(name, column.kind.arrow(), column.nullable)
            }
            Only(_) => Field::new(name, DataType::Struct(message_fields()), false),
            Joined(..) => Field::new(name, Kind::Messages.arrow(), false),
            Split => Field::new(name, DataType::Utf8, false),
            HeldOutBy => Field::new(name, DataType::Utf8, true),
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The schema of the rendered files.
    pub(super) fn text_schema(&self) -> SchemaRef {
        let fields = self.text.iter().map(|(name, rendered)| match rendered {
            Rendered::Column(column) => {
                let column = self.column(column);
                Field::new(*name, column.kind.arrow(), column.nullable)
            }
            _ => Field::new(*name, DataType::Utf8, false),
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The columns of messages that rules look at.
    pub(super) fn message_columns(&self) -> Vec<&'static str> {
        let messages = |column: &&Column| column.kind == Kind::Messages;
        self.spec.columns.iter().filter(messages).map(|column| column.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_name_columns_of_their_tables() {
        for layout in &LAYOUTS {
            let mut named = [layout.summed, layout.longest].concat();
            named.extend(layout.class);
            named.extend(layout.kept);
            for (_, source) in layout.columns() {
                match source {
                    From(column) | Only(column) => named.push(column),
                    Joined(one, other) => named.extend([one, other]),
                    Split | HeldOutBy => {}
                }
            }
            for (_, rendered) in layout.text {
                match rendered {
                    Rendered::Prompt(column)
                    | Rendered::Answer(column)
                    | Rendered::AllButLast(column)
                    | Rendered::Last(column)
                    | Rendered::Column(column) => named.push(column),
                }
            }
            for name in named {
                assert!(layout.spec.column(name).is_some(), "{}: {name}", layout.spec);
            }
            assert_eq!(layout.spec.key.len(), 1, "{}", layout.spec);
        }
    }

    #[test]
    fn no_snapshot_says_who_the_person_is() {
        for layout in &LAYOUTS {
            assert!(layout.schema().field_with_name("subject_key").is_err(), "{}", layout.spec);
            assert!(layout.text_schema().field_with_name("subject_key").is_err(), "{}", layout.spec);
        }
    }
}
