//! Rules about rows, the same for every format.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use super::schema::is_id;
use super::{DataFile, Faults};
use crate::snapshot::files::{Row, RowFile};
use crate::snapshot::lengths::{Histogram, Lengths};
use crate::snapshot::manifest::Manifest;
use crate::snapshot::rules::{self, Message, Rule};

/// The kinds of tables that trainers know, told by their columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Pairs,
    Unpaired,
    Love,
    Rewards,
    Prompts,
    Supervised,
}

impl Shape {
    fn of(columns: &BTreeSet<String>) -> Option<Self> {
        let has = |name: &str| columns.contains(name);
        match () {
            () if has("chosen") && has("rejected") => Some(Self::Pairs),
            () if has("prompt") && has("completion") => Some(Self::Unpaired),
            () if has("prompt") && has("response") && has("love") => Some(Self::Love),
            () if has("prompt") && has("response") => Some(Self::Rewards),
            () if has("prompt") => Some(Self::Prompts),
            () if has("messages") => Some(Self::Supervised),
            () => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pairs => "preference_pairs",
            Self::Unpaired => "unpaired",
            Self::Love => "love",
            Self::Rewards => "rewards",
            Self::Prompts => "prompts",
            Self::Supervised => "supervised",
        }
    }

    /// The columns of messages.
    fn chats(self) -> &'static [&'static str] {
        match self {
            Self::Pairs => &["prompt", "chosen", "rejected"],
            Self::Unpaired => &["prompt", "completion"],
            Self::Love | Self::Rewards => &["prompt", "response"],
            Self::Prompts => &["prompt"],
            Self::Supervised => &["messages"],
        }
    }
}

/// Columns that a trainer takes for its own.
const FORBIDDEN: [&str; 4] = ["image", "images", "chosen_ids", "rejected_ids"];
/// Counts of tokens that add up, and alternatives of which the longest counts.
const SUMMED: [&str; 4] = ["prompt_tokens", "completion_tokens", "response_tokens", "tokens"];
const LONGEST: [&str; 2] = ["chosen_tokens", "rejected_tokens"];

/// Whether rules look at a column.
pub(super) fn looked_at(name: &str) -> bool {
    const NAMED: [&str; 18] = [
        "prompt",
        "chosen",
        "rejected",
        "completion",
        "response",
        "messages",
        "conversation",
        "chosen_message",
        "rejected_message",
        "label",
        "love",
        "margin",
        "tools",
        "chat_template_kwargs",
        "split",
        "conversation_date",
        "tokens",
        "preference",
    ];
    NAMED.contains(&name)
        || is_id(name)
        || name.ends_with("_tokens")
        || name.ends_with("_text")
        || FORBIDDEN.contains(&name)
}

/// What the rules remember of the rows before.
pub(super) struct Rows<'a> {
    manifest: Option<&'a Manifest>,
    /// Columns and types of the first file of messages, as text.
    schema: Option<(String, String)>,
    columns: BTreeSet<String>,
    shape: Option<Shape>,
    /// Sides of each conversation (or prompt): train 1, test 2.
    sides: HashMap<u64, u8>,
    keys: HashSet<u64>,
    lengths: Histogram,
    estimated: bool,
    runs: Runs,
}

/// Stretches of one class among the training rows.
#[derive(Debug, Default)]
struct Runs {
    counts: [u64; 2],
    last: Option<bool>,
    current: u64,
    longest: u64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(manifest: Option<&'a Manifest>) -> Self {
        Self {
            manifest,
            schema: None,
            columns: BTreeSet::new(),
            shape: None,
            sides: HashMap::new(),
            keys: HashSet::new(),
            lengths: Histogram::default(),
            estimated: false,
            runs: Runs::default(),
        }
    }

    /// Begins a file: its columns make the shape, and are those of the files before.
    pub(super) fn begin(&mut self, file: &DataFile, opened: &RowFile, faults: &mut Faults) {
        let RowFile::Parquet { schema, .. } = opened else { return };
        if file.split.is_none() {
            return;
        }
        let columns: Vec<String> =
            schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        self.same_schema(&columns.join(", "), &file.path, faults);
        self.learn(schema.fields().iter().map(|field| field.name().clone()), &file.path, faults);
    }

    fn same_schema(&mut self, text: &str, path: &str, faults: &mut Faults) {
        match &self.schema {
            None => self.schema = Some((text.to_owned(), path.to_owned())),
            Some((known, _)) if known == text => {}
            Some((_, first)) => {
                faults.add(Rule::SchemaDiffers, format!("{path} has other columns or types than {first}"));
            }
        }
    }

    /// The columns are known: which table is it, and which columns should not be there?
    fn learn(&mut self, columns: impl Iterator<Item = String>, path: &str, faults: &mut Faults) {
        let new: BTreeSet<String> = columns.filter(|column| !self.columns.contains(column)).collect();
        if new.is_empty() {
            return;
        }
        self.columns.extend(new.iter().cloned());
        self.shape = Shape::of(&self.columns);
        for column in new.iter().filter(|column| FORBIDDEN.contains(&column.as_str())) {
            faults.add(Rule::ForbiddenColumn, format!("{path}: column `{column}`"));
        }
        if self.shape == Some(Shape::Pairs) && new.contains("label") {
            faults.add(Rule::LabelInPairs, format!("{path}: column `label`"));
        }
    }

    /// One row. Rendered files are held only to the rules on types.
    pub(super) fn row(&mut self, file: &DataFile, at: u64, row: &Row, faults: &mut Faults) {
        let Some(split) = file.split else { return };
        let place = format!("{}, row {}", file.path, at + 1);
        if matches!(file.format, crate::snapshot::files::DataFormat::JsonLines) {
            let names: Vec<&str> = row.keys().map(String::as_str).collect();
            self.same_schema(&names.join(", "), &place, faults);
            self.learn(row.keys().cloned(), &place, faults);
            for (name, value) in
                row.iter().filter(|(name, value)| is_id(name) && !value.is_string() && !value.is_null())
            {
                faults.add(Rule::IdType, format!("{place}: `{name}` is {value}"));
            }
        }
        let Some(shape) = self.shape else { return };
        let mut chats: Vec<(&str, Vec<Message>)> = Vec::new();
        for name in shape.chats() {
            match chat(row.get(*name)) {
                Ok(messages) => chats.push((name, messages)),
                Err(rule) => faults.add(rule, format!("{place}: `{name}`")),
            }
        }
        if chats.len() == shape.chats().len() {
            let find = |wanted: &str| chats.iter().find(|(name, _)| *name == wanted).map(|(_, chat)| chat.as_slice());
            if let Some(rule) = rules::row_fault(find) {
                faults.add(rule, place.clone());
            }
        }
        self.values(shape, row, &place, faults);
        self.sides(split, row, &chats, &place, faults);
        self.measure(row, &chats);
        if shape == Shape::Unpaired && split == "train" {
            self.runs.add(row.get("label").and_then(Value::as_bool));
        }
    }

    /// Rules on single columns.
    fn values(&self, shape: Shape, row: &Row, place: &str, faults: &mut Faults) {
        if shape == Shape::Pairs {
            for (list, twin) in [("chosen", "chosen_message"), ("rejected", "rejected_message")] {
                let only = row.get(list).and_then(Value::as_array).and_then(|list| list.first());
                if only.is_some() && row.get(twin) != only {
                    faults.add(Rule::StructTwins, format!("{place}: `{twin}` is not the message of `{list}`"));
                }
            }
        }
        if shape == Shape::Unpaired && !row.get("label").is_some_and(Value::is_boolean) {
            faults.add(Rule::LabelType, format!("{place}: `label` is {}", row.get("label").unwrap_or(&Value::Null)));
        }
        let null = |name: &str| self.columns.contains(name) && row.get(name).is_none_or(Value::is_null);
        if null("margin") {
            faults.add(Rule::MarginNull, place);
        }
        if null("chat_template_kwargs") {
            faults.add(Rule::ForbiddenColumn, format!("{place}: `chat_template_kwargs` is null"));
        }
        if row.get("tools").is_some_and(|tools| !tools.is_string() && !tools.is_null()) {
            faults.add(Rule::ToolsType, place);
        }
    }

    /// Rules on which split a row is in.
    fn sides(&mut self, split: &str, row: &Row, chats: &[(&str, Vec<Message>)], place: &str, faults: &mut Faults) {
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        if text("split").is_some_and(|column| column != split) {
            faults.add(Rule::SplitColumn, format!("{place}: `split` is {}", text("split").unwrap_or_default()));
        }
        let from = self.manifest.and_then(|manifest| manifest.split.test_from.as_deref());
        if let (Some(from), Some(date)) = (from, text("conversation_date"))
            && split == "train"
            && date >= from
        {
            faults.add(Rule::TimeLeak, format!("{place}: {date}, and test begins on {from}"));
        }
        // Without conversations, the same prompt on both sides tells.
        let conversation = text("conversation_id");
        let whole = conversation.map_or_else(|| hash(&chats.first().map(|(_, chat)| contents(chat))), |id| hash(&id));
        let side = if split == "train" { 1 } else { 2 };
        match self.sides.entry(whole) {
            Entry::Vacant(vacant) => {
                let _ = vacant.insert(side);
            }
            Entry::Occupied(mut known) if known.get() & side == 0 => {
                if *known.get() != 3 {
                    let what = conversation.map_or_else(|| "its prompt".to_owned(), |id| format!("conversation {id}"));
                    faults.add(Rule::SplitLeak, format!("{place}: {what} is also in the other split"));
                }
                *known.get_mut() |= side;
            }
            Entry::Occupied(_) => {}
        }
        let key = text("pair_id").or_else(|| text("row_id"));
        let key = key
            .map_or_else(|| hash(&chats.iter().map(|(_, chat)| contents(chat)).collect::<Vec<_>>()), |key| hash(&key));
        if !self.keys.insert(key) {
            faults.add(Rule::DuplicateRow, place);
        }
    }

    fn measure(&mut self, row: &Row, chats: &[(&str, Vec<Message>)]) {
        let count = |name: &&str| row.get(*name).and_then(Value::as_u64);
        let sum: Option<u64> = SUMMED.iter().filter_map(count).reduce(|one, other| one + other);
        let longest = LONGEST.iter().filter_map(count).max();
        if let Some(sum) = sum {
            self.lengths.add(sum + longest.unwrap_or(0));
            return;
        }
        self.estimated = true;
        let characters = |chat: &Vec<Message>| -> u64 {
            chat.iter().filter_map(|message| message.content.as_ref()).map(|text| text.chars().count() as u64).sum()
        };
        let answers = chats.iter().skip(1).map(|(_, chat)| characters(chat)).max().unwrap_or(0);
        let prompt = chats.first().map_or(0, |(_, chat)| characters(chat));
        self.lengths.add((prompt + answers).div_ceil(4));
    }

    /// The rules that need all rows.
    pub(super) fn finish(&self, faults: &mut Faults) -> Option<Shape> {
        if self.shape.is_none() && !self.columns.is_empty() {
            let names: Vec<&str> = self.columns.iter().map(String::as_str).take(12).collect();
            faults.add(Rule::UnknownTable, format!("columns: {}", names.join(", ")));
        }
        if self.shape == Some(Shape::Unpaired) {
            self.runs.check(faults);
        }
        self.shape
    }

    /// Lengths, and what they are counted in.
    pub(super) fn lengths(&self, limit: Option<u64>) -> (Option<Lengths>, &'static str) {
        let unit =
            if self.estimated { "tokens, estimated as characters by four" } else { "tokens as the columns count them" };
        ((!self.lengths.is_empty()).then(|| self.lengths.summary(limit)), unit)
    }
}

impl Runs {
    fn add(&mut self, class: Option<bool>) {
        let Some(class) = class else { return };
        self.counts[usize::from(class)] += 1;
        self.current = if self.last == Some(class) { self.current + 1 } else { 1 };
        self.last = Some(class);
        self.longest = self.longest.max(self.current);
    }

    /// Even spreading has runs of majority by minority; chance has some longer ones, sorting has one that is everything.
    fn check(&self, faults: &mut Faults) {
        let [no, yes] = self.counts;
        let (minority, all) = (no.min(yes), no + yes);
        if all == 0 {
            return;
        }
        if minority == 0 {
            faults.add(Rule::OneClass, format!("train: {yes} liked, {no} not"));
            return;
        }
        let bound = 8 * all.div_ceil(minority) + 16;
        if self.longest > bound {
            faults.add(
                Rule::ClassRuns,
                format!("train: {} rows of one class on end, {yes} liked and {no} not in all", self.longest),
            );
        }
    }
}

/// The messages of a value, or the rule that it breaks.
fn chat(value: Option<&Value>) -> Result<Vec<Message>, Rule> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Rule::MessagesType),
    };
    let text = |value: &Value| match value {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Null => Ok(None),
        _ => Err(Rule::MessagesType),
    };
    list.iter()
        .map(|message| {
            let Value::Object(fields) = message else { return Err(Rule::MessagesType) };
            match (fields.get("role"), fields.get("content"), fields.len()) {
                (Some(role), Some(content), 2) => Ok(Message { role: text(role)?, content: text(content)? }),
                _ => Err(Rule::MessageFields),
            }
        })
        .collect()
}

fn contents(chat: &[Message]) -> Vec<Option<&str>> {
    chat.iter().map(|message| message.content.as_deref()).collect()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
