//! Figures: what trainers and evaluations measured, by dotted names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Figures by name, such as `test.outputs.dsat.auroc`.
pub type Figures = BTreeMap<String, Figure>;

/// One figure, with its interval where one was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// Lower end of its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end of its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// By which of these an object in a list is known.
const NAMES: [&str; 5] = ["output", "name", "source", "label", "head"];
/// What says how a model was made and not how good it is.
const NO_FIGURES: [&str; 7] = ["options", "config", "passes", "history", "parts", "seed", "data"];

/// Every number of a JSON document under its dotted name. Objects in lists go by their `output`, `name`, `source`,
/// `label` or `head`; an object with a `value` is one figure with its interval. Options and the passes of a training
/// are left out.
pub(crate) fn flatten(document: &Value) -> Figures {
    let mut figures = Figures::new();
    walk(document, "", &mut figures);
    figures
}

fn walk(value: &Value, name: &str, figures: &mut Figures) {
    let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Number(number) => {
            if let Some(value) = number.as_f64().filter(|_| !name.is_empty()) {
                let _ = figures.insert(name.to_owned(), Figure { value, low: None, high: None });
            }
        }
        Value::Object(object) => {
            if let Some(value) = object.get("value").and_then(Value::as_f64)
                && !name.is_empty()
            {
                let bound = |key: &str| object.get(key).and_then(Value::as_f64);
                let _ = figures.insert(name.to_owned(), Figure { value, low: bound("low"), high: bound("high") });
                return;
            }
            for (key, value) in object.iter().filter(|(key, _)| !NO_FIGURES.contains(&key.as_str())) {
                walk(value, &below(key), figures);
            }
        }
        Value::Array(items) => {
            for item in items {
                let known = NAMES.iter().find_map(|key| item.get(key).and_then(Value::as_str));
                if let Some(known) = known {
                    walk(item, &below(known), figures);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_get_dotted_names() {
        let figures = flatten(&json!({
            "options": {"epochs": 3},
            "test": {
                "examples": 12,
                "outputs": [
                    {"output": "sat", "auroc": {"value": 0.9, "low": 0.8, "high": 0.95}, "target_reached": true},
                    {"nameless": 1},
                ],
            },
        }));
        let names: Vec<&str> = figures.keys().map(String::as_str).collect();
        assert_eq!(names, ["test.examples", "test.outputs.sat.auroc"]);
        assert_eq!(figures["test.outputs.sat.auroc"], Figure { value: 0.9, low: Some(0.8), high: Some(0.95) });
    }
}
