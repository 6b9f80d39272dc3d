//! Gold: what training reads. Column names and types follow what trainers load unchanged.

use super::{Column, Kind, Layer, TableSpec, optional, personal, required};

const DATE: Column = required("conversation_date", Kind::Date, "UTC day of the conversation's start");
const PROMPT: Column = personal(required("prompt", Kind::Messages, "messages up to the user turn that is answered"));
const CONVERSATION: Column = required("conversation_id", Kind::Text, "conversation");
const RULE: Column = required("rule_id", Kind::Text, "rule that made the row");
const EVIDENCE: Column = required("evidence", Kind::Texts, "turn and event ids that the row rests on");
const TAGGER: Column = optional("tagger_id", Kind::Text, "tagger of the signals it rests on");
const MODEL: Column = optional("model", Kind::Text, "model that wrote the response");
const LANGUAGE: Column = optional("language", Kind::Text, "BCP 47 tag, as the producer says");
const SUBJECT: Column = personal(optional("subject_key", Kind::Text, "pseudonym of the person"));
const CONSENT: Column = optional("consent", Kind::Text, "granted or denied, if the product says");
const SPLIT: Column = required("split", Kind::Text, "train or test, by conversation");
const SETTLED: Column = required("settled_at", Kind::Time, "when the conversation counted as settled");
const STRENGTH: Column = required("strength", Kind::Float, "strength of the evidence, 0 to 1");
const PROMPT_TOKENS: Column = required("prompt_tokens", Kind::Integer, "tokens of the prompt");

const PAIR_COLUMNS: &[Column] = &[
    required("pair_id", Kind::Text, "hash of prompt, chosen, rejected and rule"),
    PROMPT,
    personal(required("chosen", Kind::Messages, "exactly one assistant message: the better answer")),
    personal(required("rejected", Kind::Messages, "exactly one assistant message: the worse answer")),
    CONVERSATION,
    optional("chosen_turn_id", Kind::Text, "turn of the better answer; null where a user wrote it"),
    required("rejected_turn_id", Kind::Text, "turn of the worse answer"),
    EVIDENCE,
    STRENGTH,
    TAGGER,
    MODEL,
    LANGUAGE,
    SUBJECT,
    CONSENT,
    PROMPT_TOKENS,
    required("chosen_tokens", Kind::Integer, "tokens of the better answer"),
    required("rejected_tokens", Kind::Integer, "tokens of the worse answer"),
    SPLIT,
    SETTLED,
    RULE,
    DATE,
];

/// Gold `preference_pairs`: a prompt with a better and a worse answer.
pub static PREFERENCE_PAIRS: TableSpec = TableSpec {
    layer: Layer::Gold,
    name: "preference_pairs",
    grain: "one pair of answers to one prompt",
    key: &["pair_id"],
    columns: PAIR_COLUMNS,
    partition: &["rule_id", "conversation_date"],
    order: &["pair_id"],
    statistics: &["pair_id", "settled_at"],
};

const UNPAIRED_COLUMNS: &[Column] = &[
    required("row_id", Kind::Text, "hash of prompt, completion and rule"),
    PROMPT,
    personal(required("completion", Kind::Messages, "exactly one assistant message")),
    required("label", Kind::Flag, "whether it was liked (TRL's KTO)"),
    CONVERSATION,
    required("turn_id", Kind::Text, "turn of the completion"),
    EVIDENCE,
    STRENGTH,
    RULE,
    TAGGER,
    MODEL,
    LANGUAGE,
    SUBJECT,
    CONSENT,
    PROMPT_TOKENS,
    required("completion_tokens", Kind::Integer, "tokens of the completion"),
    SPLIT,
    SETTLED,
    DATE,
];

/// Gold `unpaired`: an answer that was liked or disliked.
pub static UNPAIRED: TableSpec = TableSpec {
    layer: Layer::Gold,
    name: "unpaired",
    grain: "one judged answer",
    key: &["row_id"],
    columns: UNPAIRED_COLUMNS,
    partition: &["conversation_date"],
    order: &["row_id"],
    statistics: &["row_id", "settled_at"],
};

const LOVE_COLUMNS: &[Column] = &[
    required("row_id", Kind::Text, "hash of prompt, response and rule"),
    PROMPT,
    personal(required("response", Kind::Messages, "exactly one assistant message")),
    required("love", Kind::Flag, "whether somebody loved it; false is absence, not dislike"),
    required("weight", Kind::Float, "weight of the row in training"),
    required("propensity", Kind::Float, "share of this person's answers that draw a reaction at all"),
    CONVERSATION,
    required("turn_id", Kind::Text, "turn of the response"),
    EVIDENCE,
    RULE,
    MODEL,
    LANGUAGE,
    SUBJECT,
    CONSENT,
    PROMPT_TOKENS,
    required("response_tokens", Kind::Integer, "tokens of the response"),
    SPLIT,
    SETTLED,
    DATE,
];

/// Gold `love`: what P[Love] (RLUF) learns from.
pub static LOVE: TableSpec = TableSpec {
    layer: Layer::Gold,
    name: "love",
    grain: "one answer shown to a person",
    key: &["row_id"],
    columns: LOVE_COLUMNS,
    partition: &["conversation_date"],
    order: &["row_id"],
    statistics: &["row_id", "settled_at"],
};

const PROMPT_COLUMNS: &[Column] = &[
    required("row_id", Kind::Text, "hash of the prompt"),
    PROMPT,
    personal(optional("preference", Kind::Text, "the user's wish in their own words; null where they said none")),
    personal(required("checklist", Kind::Texts, "what an answer has to meet, one wish an entry")),
    CONVERSATION,
    required("turn_id", Kind::Text, "turn of the answer that the prompt got"),
    EVIDENCE,
    TAGGER,
    LANGUAGE,
    SUBJECT,
    CONSENT,
    PROMPT_TOKENS,
    SPLIT,
    SETTLED,
    DATE,
];

/// Gold `prompts`: prompts to sample on, with what the user wished.
pub static PROMPTS: TableSpec = TableSpec {
    layer: Layer::Gold,
    name: "prompts",
    grain: "one prompt",
    key: &["row_id"],
    columns: PROMPT_COLUMNS,
    partition: &["conversation_date"],
    order: &["row_id"],
    statistics: &["row_id", "settled_at"],
};

const SUPERVISED_COLUMNS: &[Column] = &[
    required("row_id", Kind::Text, "hash of the messages"),
    personal(required("messages", Kind::Messages, "a conversation that ends in the answer to learn")),
    CONVERSATION,
    required("turn_id", Kind::Text, "turn of the last answer"),
    EVIDENCE,
    STRENGTH,
    TAGGER,
    MODEL,
    LANGUAGE,
    SUBJECT,
    CONSENT,
    required("tokens", Kind::Integer, "tokens of all messages"),
    SPLIT,
    SETTLED,
    DATE,
];

/// Gold `supervised`: answers worth imitating, the control arm of every preference run.
pub static SUPERVISED: TableSpec = TableSpec {
    layer: Layer::Gold,
    name: "supervised",
    grain: "one answer worth imitating",
    key: &["row_id"],
    columns: SUPERVISED_COLUMNS,
    partition: &["conversation_date"],
    order: &["row_id"],
    statistics: &["row_id", "settled_at"],
};
