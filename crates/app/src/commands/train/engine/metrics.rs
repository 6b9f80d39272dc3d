//! What a trainer logs: JSON objects, a line each, or the dictionaries that transformers' trainers print.

use std::io::{self, Write as _};
use std::path::Path;

use serde_json::{Map, Value};

/// The metrics of a run.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    first: Map<String, Value>,
    last: Map<String, Value>,
    steps: u64,
}

impl Metrics {
    /// Takes a line of output, if it holds metrics; gives what may be shown of it.
    pub(super) fn read_line(&mut self, line: &str) -> Option<String> {
        let metrics = parse(line)?;
        let shown = metrics.get("loss").map(|loss| format!("loss {loss}"));
        self.take(metrics);
        shown
    }

    /// Takes a file of JSON lines, if it is there: it says more than the output, and replaces what that said.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(super) fn read_file(&mut self, path: &Path) -> io::Result<()> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut own = Self::default();
        text.lines().filter_map(parse).for_each(|metrics| own.take(metrics));
        if own.steps > 0 {
            *self = own;
        }
        Ok(())
    }

    /// Every metric keeps its first value, and its last: a trainer's closing line has others than its steps.
    fn take(&mut self, metrics: Map<String, Value>) {
        self.steps = metrics.get("step").and_then(Value::as_u64).unwrap_or(self.steps + 1);
        for (name, value) in metrics {
            let _ = self.first.entry(name.clone()).or_insert_with(|| value.clone());
            let _ = self.last.insert(name, value);
        }
    }

    /// Steps that were logged.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The first value of each metric.
    pub(super) fn first(&self) -> &Map<String, Value> {
        &self.first
    }

    /// The last value of each metric.
    pub(super) fn last(&self) -> &Map<String, Value> {
        &self.last
    }

    /// Writes first and last values.
    pub(super) fn show(&self, out: &Path) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.last.is_empty() {
            writeln!(stdout, "the trainer logged no metrics that can be read: JSON lines in OUT/metrics.jsonl are")?;
        } else {
            writeln!(stdout, "{:<28} {:>14} {:>14}", "metric", "first", "last")?;
        }
        for (name, last) in &self.last {
            let number = |value: Option<&Value>| {
                value.and_then(Value::as_f64).map_or_else(|| "–".to_owned(), |value| format!("{value:.6}"))
            };
            writeln!(stdout, "{name:<28} {:>14} {:>14}", number(self.first.get(name)), number(Some(last)))?;
        }
        writeln!(stdout, "{} steps; the model is in {}", self.steps, out.display())
    }
}

/// A line of metrics: a JSON object, or Python's way of writing one, with a number in it.
fn parse(line: &str) -> Option<Map<String, Value>> {
    let line = line.trim();
    if !(line.starts_with('{') && line.ends_with('}')) {
        return None;
    }
    let object: Map<String, Value> = serde_json::from_str(line)
        .or_else(|_| serde_json::from_str(&line.replace('\'', "\"").replace(": nan", ": null")))
        .ok()?;
    let numbers: Map<String, Value> = object
        .into_iter()
        .filter_map(|(name, value)| {
            // transformers 5 prints numbers as text.
            let number = match &value {
                Value::String(text) => text.parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
                Value::Number(_) => Some(value),
                _ => None,
            };
            number.map(|number| (name, number))
        })
        .collect();
    (!numbers.is_empty()).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_python_lines_are_metrics_and_the_rest_is_log() {
        let mut metrics = Metrics::default();
        assert_eq!(metrics.read_line("loading the model {1}"), None);
        assert_eq!(metrics.read_line(r#"{"loss": 0.7, "step": 1, "note": "x"}"#).as_deref(), Some("loss 0.7"));
        assert!(metrics.read_line("{'loss': '0.5', 'grad_norm': nan, 'rewards/margins': 0.25}").is_some());
        assert_eq!(metrics.steps(), 2);
        let of = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_f64);
        assert_eq!((of(metrics.first(), "loss"), of(metrics.last(), "loss")), (Some(0.7), Some(0.5)));
        assert_eq!(of(metrics.last(), "rewards/margins"), Some(0.25));
        assert!(!metrics.last().contains_key("note") && !metrics.last().contains_key("grad_norm"));
    }

    #[test]
    fn a_file_of_metrics_wins_over_the_output() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let mut metrics = Metrics::default();
        metrics.read_file(&path).unwrap();
        let _ = metrics.read_line(r#"{"loss": 9}"#);
        std::fs::write(&path, "{\"step\": 1, \"loss\": 3}\n{\"step\": 2, \"loss\": 2}\n").unwrap();
        metrics.read_file(&path).unwrap();
        assert_eq!((metrics.steps(), metrics.last()["loss"].as_i64()), (2, Some(2)));
    }
}
