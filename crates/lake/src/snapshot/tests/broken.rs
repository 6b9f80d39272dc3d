//! Directories that break one rule each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, Int64Array, LargeListArray, MapBuilder, RecordBatch, StringBuilder, StringViewArray,
};
use arrow::datatypes::Int32Type;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::snapshot::{CheckOptions, Manifest, Report, Rule, Trainer, check_directory};

/// A directory in the making.
#[derive(Clone)]
struct Directory(BTreeMap<String, Vec<u8>>);

fn pair(at: usize) -> Value {
    let answer = |text: &str| json!({ "role": "assistant", "content": format!("{text} {at}") });
    json!({
        "prompt": [{ "role": "user", "content": format!("question {at}") }],
        "chosen": [answer("good")],
        "rejected": [answer("bad")],
        "chosen_message": answer("good"),
        "rejected_message": answer("bad"),
        "pair_id": format!("pair-{at}"),
        "conversation_id": format!("conversation-{at}"),
        "conversation_date": "2026-11-03",
    })
}

fn judged(at: usize, label: bool) -> Value {
    json!({
        "prompt": [{ "role": "user", "content": format!("question {at}") }],
        "completion": [{ "role": "assistant", "content": format!("answer {at}") }],
        "label": label,
        "conversation_id": format!("conversation-{at}"),
    })
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n") + "\n"
}

const CARD: &str = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train-*\n  - split: test\n    \
                    path: test-*\n- config_name: text\n  data_files:\n  - split: train\n    path: text/train-*\n---\n";

impl Directory {
    /// Pairs that break nothing but the rule on the manifest.
    fn good() -> Self {
        let columns = json!({ "messages": "prompt", "chosen": "chosen_message", "rejected": "rejected_message" });
        let info = json!({ "pairs": { "file_name": "train-0.jsonl", "columns": columns } });
        Self(BTreeMap::new())
            .with("train-0.jsonl", &lines(&[pair(0), pair(1)]))
            .with("test-0.jsonl", &lines(&[pair(2)]))
            .with("text/train-0.jsonl", "{\"prompt_text\":\"a\"}\n{\"prompt_text\":\"b\"}\n")
            .with("text/test-0.jsonl", "{\"prompt_text\":\"c\"}\n")
            .with("README.md", CARD)
            .with("dataset_info.json", &info.to_string())
    }

    fn with(mut self, path: &str, text: &str) -> Self {
        let _ = self.0.insert(path.to_owned(), text.as_bytes().to_vec());
        self
    }

    fn without(mut self, path: &str) -> Self {
        let _ = self.0.remove(path);
        self
    }

    /// The good directory with other training rows.
    fn train(rows: &[Value]) -> Self {
        Self::good().with("train-0.jsonl", &lines(rows))
    }

    /// The good directory with its first training row changed.
    fn first(change: impl FnOnce(&mut Value)) -> Self {
        let mut row = pair(0);
        change(&mut row);
        Self::train(&[row, pair(1)])
    }

    /// Unpaired training rows in place of the pairs.
    fn unpaired(rows: &[Value]) -> Self {
        Self::train(rows).without("test-0.jsonl").without("text/test-0.jsonl")
    }

    /// The good directory with a Parquet file that holds one column more.
    fn parquet(name: &str, column: ArrayRef) -> Self {
        let batch = RecordBatch::try_from_iter([(name, column)]).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let _ = writer.close().unwrap();
        let mut directory = Self::good();
        let _ = directory.0.insert("train-1.parquet".to_owned(), bytes);
        directory
    }

    async fn report(&self, options: &CheckOptions) -> Report {
        let store = InMemory::new();
        for (path, bytes) in &self.0 {
            let _ = store.put(&Path::from(path.as_str()), bytes.clone().into()).await.unwrap();
        }
        check_directory(Arc::new(store), &Path::default(), options).await.unwrap()
    }

    async fn faults(&self) -> BTreeSet<Rule> {
        self.report(&CheckOptions::default()).await.faults.iter().map(|fault| fault.rule).collect()
    }
}

fn rows_of(count: usize, label: impl Fn(usize) -> bool) -> Vec<Value> {
    (0..count).map(|at| judged(at, label(at))).collect()
}

fn manifest_from(day: &str) -> String {
    let mut manifest = Manifest::default();
    manifest.split.test_from = Some(day.to_owned());
    serde_json::to_string(&manifest).unwrap()
}

fn layout_cases() -> Vec<(Rule, Directory)> {
    vec![
        (Rule::DeltaDirectory, Directory::good().with("_delta_log/00000000000000000000.json", "{}")),
        (Rule::NoTrainFile, Directory::good().without("train-0.jsonl")),
        (Rule::FileName, Directory::good().with("more.jsonl", &lines(&[pair(9)]))),
        (Rule::NestedData, Directory::good().without("README.md")),
        (Rule::Card, Directory::good().with("README.md", &CARD.replace("test-*", "validation-*"))),
        (Rule::ManifestMissing, Directory::good()),
        (Rule::ManifestMismatch, Directory::good().with("manifest.json", "{}")),
        (Rule::Unreadable, Directory::good().with("train-1.parquet", "PAR1 is not all that it takes")),
        (Rule::UnknownTable, Directory::unpaired(&[json!({ "question": "a", "answer": "b" })])),
        (Rule::SchemaDiffers, Directory::first(|row| row["another"] = json!(1))),
        (Rule::RenderedText, Directory::good().without("text/train-0.jsonl")),
        (Rule::DatasetInfo, Directory::good().without("dataset_info.json")),
    ]
}

fn type_cases() -> Vec<(Rule, Directory)> {
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("a");
    map.values().append_value("b");
    map.append(true).unwrap();
    let list = LargeListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
    let bytes = FixedSizeBinaryArray::try_from_iter(std::iter::once([1_u8, 2])).unwrap();
    vec![
        (Rule::StringView, Directory::parquet("text", Arc::new(StringViewArray::from(vec!["a"])))),
        (Rule::LargeList, Directory::parquet("tokens", Arc::new(list))),
        (Rule::FixedSizeBinary, Directory::parquet("digest", Arc::new(bytes))),
        (Rule::MapColumn, Directory::parquet("extra", Arc::new(map.finish()))),
        (Rule::IdType, Directory::parquet("conversation_id", Arc::new(Int64Array::from(vec![1])))),
    ]
}

fn row_cases() -> Vec<(Rule, Directory)> {
    vec![
        (Rule::MessagesType, Directory::first(|row| row["prompt"] = json!("question"))),
        (Rule::MessageFields, Directory::first(|row| row["prompt"][0]["name"] = Value::Null)),
        (Rule::NullMessage, Directory::first(|row| row["chosen"][0]["content"] = Value::Null)),
        (
            Rule::UnknownRole,
            Directory::first(|row| {
                row["prompt"] = json!([
                    { "role": "bot", "content": "hello" }, { "role": "user", "content": "hi" },
                ]);
            }),
        ),
        (Rule::EmptyPrompt, Directory::first(|row| row["prompt"] = json!([]))),
        (Rule::PromptEnd, Directory::first(|row| row["prompt"][0]["role"] = json!("assistant"))),
        (Rule::AnswerCount, Directory::first(|row| row["rejected"] = json!([]))),
        (Rule::EmptyAnswer, Directory::first(|row| row["rejected"][0]["content"] = json!(" "))),
        (Rule::SameAnswers, Directory::first(|row| row["rejected"] = row["chosen"].clone())),
        (Rule::LabelInPairs, Directory::first(|row| row["label"] = json!(true))),
        (Rule::ForbiddenColumn, Directory::first(|row| row["images"] = json!([]))),
        (Rule::MarginNull, Directory::first(|row| row["margin"] = Value::Null)),
        (Rule::ToolsType, Directory::first(|row| row["tools"] = json!([{ "name": "search" }]))),
        (Rule::StructTwins, Directory::first(|row| row["chosen_message"]["content"] = json!("another"))),
        (Rule::SplitLeak, Directory::first(|row| row["conversation_id"] = json!("conversation-2"))),
        (Rule::DuplicateRow, Directory::first(|row| row["pair_id"] = json!("pair-1"))),
        (Rule::SplitColumn, Directory::first(|row| row["split"] = json!("test"))),
        (Rule::TimeLeak, Directory::good().with("manifest.json", &manifest_from("2026-11-02"))),
        (
            Rule::LabelType,
            Directory::unpaired(&[
                judged(0, true),
                json!({
                    "prompt": [{ "role": "user", "content": "a" }], "completion": [{ "role": "assistant", "content": "b" }],
                    "label": 1, "conversation_id": "x",
                }),
            ]),
        ),
        (Rule::OneClass, Directory::unpaired(&rows_of(8, |_| true))),
        (Rule::ClassRuns, Directory::unpaired(&rows_of(200, |at| at < 100))),
    ]
}

#[tokio::test]
async fn the_good_directory_lacks_only_its_manifest() {
    assert_eq!(Directory::good().faults().await, [Rule::ManifestMissing].into());
    let spread = Directory::unpaired(&rows_of(200, |at| at % 4 == 0)).faults().await;
    assert!(!spread.contains(&Rule::ClassRuns) && !spread.contains(&Rule::OneClass), "{spread:?}");
}

#[tokio::test]
async fn each_rule_is_broken_by_a_directory() {
    let cases = [layout_cases(), type_cases(), row_cases()].concat();
    let covered: BTreeSet<Rule> = cases.iter().map(|(rule, _)| *rule).collect();
    assert_eq!(covered, Rule::ALL.iter().copied().collect(), "every rule has a case");
    for (rule, directory) in cases {
        let faults = directory.faults().await;
        assert!(faults.contains(&rule), "{rule:?} is not among {faults:?}");
    }
}

#[tokio::test]
async fn a_report_names_the_place_and_the_trainer() {
    let directory = Directory::first(|row| row["chosen_message"]["content"] = json!("another"));
    let report = directory.report(&CheckOptions::default()).await;
    let fault = report.faults.iter().find(|fault| fault.rule == Rule::StructTwins).unwrap();
    assert_eq!((fault.count, fault.breaks.as_slice()), (1, ["LLaMA-Factory"].as_slice()));
    assert_eq!(fault.places, ["train-0.jsonl, row 1: `chosen_message` is not the message of `chosen`"]);
    // It does not concern TRL.
    let options = CheckOptions { trainer: Some(Trainer::Trl), ..CheckOptions::default() };
    assert!(directory.report(&options).await.faults.iter().all(|fault| fault.rule != Rule::StructTwins));
}

#[tokio::test]
async fn lengths_are_reported_before_training() {
    let long = Directory::first(|row| row["prompt"][0]["content"] = json!("word ".repeat(2000)));
    let report = long.report(&CheckOptions { max_tokens: Some(100), ..CheckOptions::default() }).await;
    let lengths = report.lengths.unwrap();
    assert_eq!((lengths.rows, lengths.over[&100], lengths.over[&1024], lengths.over[&4096]), (3, 1, 1, 0));
    assert!(report.length_unit.contains("estimated"));
}
