//! Silver: cleaned facts, one row per thing, all of a conversation under its start day.

use super::{Column, Kind, Layer, TableSpec, optional, personal, required};

const DATE: Column = required("conversation_date", Kind::Date, "UTC day of the conversation's start");

const TURN_COLUMNS: &[Column] = &[
    required("turn_id", Kind::Text, "message id"),
    optional("alias", Kind::Text, "another id of the same turn (a gateway's response id)"),
    required("conversation_id", Kind::Text, "conversation"),
    optional("turn_index", Kind::Integer, "place in the conversation, as the producer says"),
    optional("parent_turn_id", Kind::Text, "turn that this one answers, as the producer says"),
    required("role", Kind::Text, "system, user, assistant or tool"),
    personal(required("text", Kind::Text, "what was said")),
    optional("model", Kind::Text, "model that wrote it"),
    optional("language", Kind::Text, "BCP 47 tag, as the producer says"),
    required("event_time", Kind::Time, "when it was said"),
    personal(optional("subject_key", Kind::Text, "pseudonym of the person")),
    optional("consent", Kind::Text, "granted or denied, if the product says"),
    required("event_id", Kind::Text, "event that brought it"),
    required("topic", Kind::Text, "topic or file that brought it"),
    personal(optional("extra", Kind::Text, "JSON of the fields that the contract does not name")),
    DATE,
];

/// Silver `turns`: one message of a conversation a row.
pub static TURNS: TableSpec = TableSpec {
    layer: Layer::Silver,
    name: "turns",
    grain: "one message of a conversation",
    key: &["turn_id"],
    columns: TURN_COLUMNS,
    partition: &["conversation_date"],
    order: &["conversation_id", "turn_index", "event_time", "turn_id"],
    statistics: &["turn_id", "conversation_id", "event_time"],
};

const REACTION_COLUMNS: &[Column] = &[
    required("event_id", Kind::Text, "event that brought it"),
    required("turn_id", Kind::Text, "message reacted to"),
    required("conversation_id", Kind::Text, "conversation"),
    required("kind", Kind::Text, "love, like, thumbs_up, …, edit, choice"),
    optional("value", Kind::Float, "rating 1 to 5, or a count"),
    personal(optional("text", Kind::Text, "the edited text of an edit")),
    required("other_turn_ids", Kind::Texts, "the messages not chosen of a choice"),
    required("op", Kind::Text, "set or unset"),
    required("current", Kind::Flag, "whether it is the last word on (turn, subject, kind) and stands"),
    required("event_time", Kind::Time, "when"),
    personal(optional("subject_key", Kind::Text, "pseudonym of the person")),
    DATE,
];

/// Silver `reactions`: one reaction event a row.
pub static REACTIONS: TableSpec = TableSpec {
    layer: Layer::Silver,
    name: "reactions",
    grain: "one reaction event",
    key: &["event_id"],
    columns: REACTION_COLUMNS,
    partition: &["conversation_date"],
    order: &["conversation_id", "turn_id", "event_time", "event_id"],
    statistics: &["event_id", "turn_id", "conversation_id", "kind", "event_time"],
};

/// One column a score; the names are those of [`crate::labels`].
const SIGNAL_COLUMNS: &[Column] = &[
    required("turn_id", Kind::Text, "assistant turn that is judged"),
    required("follow_up_turn_id", Kind::Text, "user turn that carries the evidence"),
    required("conversation_id", Kind::Text, "conversation"),
    required("tagger_id", Kind::Text, "version of the tagger"),
    required("input_hash", Kind::Text, "hash of the texts that the tagger read"),
    required("labels", Kind::Texts, "labels over their thresholds, sat and dsat among them"),
    required("sat", Kind::Float, "probability of any satisfaction"),
    required("dsat", Kind::Float, "probability of any dissatisfaction"),
    required("gratitude", Kind::Float, "probability"),
    required("learning", Kind::Float, "probability"),
    required("compliance", Kind::Float, "probability"),
    required("praise", Kind::Float, "probability"),
    required("personal_details", Kind::Float, "probability"),
    required("humor", Kind::Float, "probability"),
    required("acknowledgment", Kind::Float, "probability"),
    required("positive_closure", Kind::Float, "probability"),
    required("getting_there", Kind::Float, "probability"),
    required("negative_feedback", Kind::Float, "probability"),
    required("revision", Kind::Float, "probability"),
    required("factual_error", Kind::Float, "probability"),
    required("unrealistic_expectation", Kind::Float, "probability"),
    required("no_engagement", Kind::Float, "probability"),
    required("ignored", Kind::Float, "probability"),
    required("lower_quality", Kind::Float, "probability"),
    required("insufficient_detail", Kind::Float, "probability"),
    required("style", Kind::Float, "probability"),
    DATE,
];

/// Silver `signals`: what the tagger reads in one follow-up.
pub static SIGNALS: TableSpec = TableSpec {
    layer: Layer::Silver,
    name: "signals",
    grain: "one follow-up, by one tagger",
    key: &["turn_id", "follow_up_turn_id", "tagger_id"],
    columns: SIGNAL_COLUMNS,
    partition: &["conversation_date"],
    order: &["conversation_id", "turn_id", "follow_up_turn_id"],
    statistics: &["turn_id", "conversation_id", "tagger_id"],
};

/// Silver `signals_shadow`: what a tagger on trial reads in one follow-up, beside the one in use.
pub static SIGNALS_SHADOW: TableSpec = TableSpec {
    name: "signals_shadow",
    grain: "one follow-up, by the tagger that is tried beside the one in use; nothing is built on it",
    ..SIGNALS
};

const LABEL_RATE_COLUMNS: &[Column] = &[
    required("tagger_id", Kind::Text, "version of the tagger"),
    required("label", Kind::Text, "label, or sat or dsat"),
    required("follow_ups", Kind::Long, "follow-ups of the day that the tagger read"),
    required("fired", Kind::Long, "those for which the label fired"),
    required("least_change", Kind::Float, "smallest change of the label's rate that is worth an alarm"),
    DATE,
];

/// Silver `label_rates`: how often a label fires.
pub static LABEL_RATES: TableSpec = TableSpec {
    layer: Layer::Silver,
    name: "label_rates",
    grain: "one label of one tagger on one day of conversations",
    key: &["tagger_id", "label"],
    columns: LABEL_RATE_COLUMNS,
    partition: &["conversation_date"],
    order: &["tagger_id", "label"],
    statistics: &["tagger_id", "label"],
};

const EXCHANGE_COLUMNS: &[Column] = &[
    required("turn_id", Kind::Text, "assistant turn: the response"),
    optional("alias", Kind::Text, "another id of the response"),
    required("conversation_id", Kind::Text, "conversation"),
    required("depth", Kind::Integer, "turns before the response"),
    optional("prompt_turn_id", Kind::Text, "turn that the response answers"),
    required("path", Kind::Texts, "turn ids from the root to the prompt"),
    personal(optional("last_user_message", Kind::Text, "last user text before the response")),
    personal(required("response", Kind::Text, "the response")),
    optional("follow_up_turn_id", Kind::Text, "user turn that follows"),
    personal(optional("follow_up", Kind::Text, "its text")),
    optional("superseded_by", Kind::Text, "the sibling that was kept, when this response was regenerated away"),
    optional("model", Kind::Text, "model that wrote the response"),
    optional("language", Kind::Text, "BCP 47 tag, as the producer says"),
    optional("tagger_id", Kind::Text, "tagger of the signals; null without a follow-up"),
    optional("sat", Kind::Float, "probability of any satisfaction"),
    optional("dsat", Kind::Float, "probability of any dissatisfaction"),
    required("labels", Kind::Texts, "labels over their thresholds"),
    required("loves", Kind::Integer, "people whose love stands"),
    required("likes", Kind::Integer, "likes and thumbs up that stand"),
    required("dislikes", Kind::Integer, "thumbs down that stand"),
    required("copies", Kind::Integer, "people who copied"),
    required("edits", Kind::Integer, "edits that stand"),
    required("regenerations", Kind::Integer, "people who asked for another answer"),
    required("reports", Kind::Integer, "reports that stand"),
    required("shares", Kind::Integer, "people who shared"),
    required("abandons", Kind::Integer, "people who left"),
    optional("rating", Kind::Float, "mean of the ratings that stand, 1 to 5"),
    required("reaction_event_ids", Kind::Texts, "reactions that stand"),
    personal(optional("subject_key", Kind::Text, "pseudonym of the person who asked")),
    optional("consent", Kind::Text, "granted or denied, if the product says"),
    required("event_time", Kind::Time, "when the response was given"),
    required("settles_at", Kind::Time, "last event of the conversation plus the settling window"),
    DATE,
];

/// Silver `exchanges`: a response with what came before and what came back.
pub static EXCHANGES: TableSpec = TableSpec {
    layer: Layer::Silver,
    name: "exchanges",
    grain: "one assistant turn",
    key: &["turn_id"],
    columns: EXCHANGE_COLUMNS,
    partition: &["conversation_date"],
    order: &["conversation_id", "depth", "turn_id"],
    statistics: &["turn_id", "conversation_id", "model", "event_time", "settles_at"],
};

const SUBJECT_COLUMNS: &[Column] = &[
    personal(required("subject_key", Kind::Text, "pseudonym of the person")),
    required("conversation_id", Kind::Text, "conversation they took part in"),
    required("first_seen", Kind::Time, "their first event in it"),
    required("last_seen", Kind::Time, "their last event in it"),
    DATE,
];

/// Silver `subjects`: who took part in which conversation; what an erasure starts from.
pub static SUBJECTS: TableSpec = TableSpec {
    layer: Layer::Silver,
    name: "subjects",
    grain: "one person in one conversation",
    key: &["subject_key", "conversation_id"],
    columns: SUBJECT_COLUMNS,
    partition: &["conversation_date"],
    order: &["subject_key", "conversation_id"],
    statistics: &["first_seen", "last_seen"],
};

const REJECTED_COLUMNS: &[Column] = &[
    required("topic", Kind::Text, "topic or file of the event"),
    required("partition", Kind::Integer, "partition"),
    required("offset", Kind::Long, "offset"),
    required("event_id", Kind::Text, "event"),
    required("reason", Kind::Text, "duplicate, event_id_reused, duplicate_turn, …"),
    DATE,
];

/// Silver `rejected`: events that bronze holds and silver does not, with the reason.
pub static REJECTED: TableSpec = TableSpec {
    layer: Layer::Silver,
    name: "rejected",
    grain: "one event that does not come through",
    key: &["topic", "partition", "offset"],
    columns: REJECTED_COLUMNS,
    partition: &["conversation_date"],
    order: &["topic", "partition", "offset"],
    statistics: &["event_id", "reason"],
};
