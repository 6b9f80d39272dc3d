//! What these tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::budget::Limits;
use crate::http::{Access, ApiKey, HttpEndpoint};
use crate::judge::{Judge, Options};
use crate::reader::BadLines;
use crate::retry::RetryPolicy;
use crate::rubric::Rubric;
use crate::run::Job;
use crate::score::{self, Report};
use crate::testing::Server;
use crate::{Cache, Prices};

/// A directory with follow-ups, a cache and an output.
pub(super) struct Place {
    directory: TempDir,
}

impl Place {
    /// A file of conversations with one follow-up each.
    pub(super) fn with(follow_ups: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lines: Vec<String> =
            follow_ups.iter().enumerate().map(|(number, text)| row(number, text).to_string()).collect();
        std::fs::write(directory.path().join("chats.jsonl"), lines.join("\n")).unwrap();
        Self { directory }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn job(&self) -> Job {
        Job {
            inputs: vec![self.path("chats.jsonl")],
            output: self.path("labels.jsonl"),
            bad_lines: BadLines::Stop,
            retry_rejected: false,
            limit: None,
        }
    }

    pub(super) fn judge(&self, server: &Server, options: Options) -> Judge {
        judge_at(&server.base, &self.path("cache"), options, Duration::from_mins(1))
    }

    /// Scores all follow-ups.
    pub(super) async fn score(&self, judge: &Judge) -> Report {
        score::score(judge, &Rubric::built_in().unwrap(), score::Options::default(), &self.job(), || {}).await.unwrap()
    }

    pub(super) fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `sat` and `dsat` of each line of the output.
    pub(super) fn labels(&self) -> Vec<(Value, Value)> {
        self.lines("labels.jsonl").iter().map(|line| (line["sat"].clone(), line["dsat"].clone())).collect()
    }
}

pub(super) fn row(number: usize, follow_up: &str) -> Value {
    json!({"conversation_id": format!("c-{number}"), "messages": [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": follow_up},
    ]})
}

pub(super) fn judge_at(base: &str, cache: &Path, options: Options, timeout: Duration) -> Judge {
    let key = Some(ApiKey::new("sk-secret-of-the-test"));
    let access = Access { base: base.to_owned(), model: "test".to_owned(), key, timeout };
    let endpoint = HttpEndpoint::new(access).unwrap();
    Judge::new(Arc::new(endpoint), Cache::open(cache).unwrap(), options).unwrap()
}

/// Waits of milliseconds, one request after the other.
pub(super) fn quick() -> Options {
    let millisecond = Duration::from_millis(1);
    let retry =
        RetryPolicy { retries: 3, first: millisecond, longest: millisecond * 2, patience: Duration::from_secs(5) };
    Options { concurrency: 1, retry, seed: 7, ..Options::default() }
}

pub(super) fn tokens(limit: u64) -> Limits {
    Limits { tokens: Some(limit), money: None }
}

pub(super) const PRICES: Prices = Prices { input: 1.0, output: 4.0 };
