//! Words of a step with names in braces, filled in when the step starts.

use std::collections::BTreeMap;

use serde_json::Value;

/// The names that are always there; beside them the results of earlier steps, such as `{snapshot.id}`.
pub(crate) const KNOWN: [&str; 5] = ["directory", "run", "job", "due", "day"];

/// A part of a word.
enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// Splits a word; `{{` and `}}` are braces.
fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        parts.push(Part::Text(before));
        let doubled = brace.len() > 1 && brace.as_bytes()[0] == brace.as_bytes()[1];
        if doubled {
            parts.push(Part::Text(&brace[..1]));
            rest = &brace[2..];
        } else if let Some(after) = brace.strip_prefix('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| format!("`{text}`: a brace is not closed; write {{{{ for a brace"))?;
            parts.push(Part::Name(name.trim()));
            rest = after;
        } else {
            return Err(format!("`{text}`: a brace was never opened; write }}}} for a brace"));
        }
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// The names in a word.
pub(crate) fn names(text: &str) -> Result<Vec<String>, String> {
    let names = parts(text)?.into_iter().filter_map(|part| match part {
        Part::Name(name) => Some(name.to_owned()),
        Part::Text(_) => None,
    });
    Ok(names.collect())
}

/// What names stand for.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// The names of [`KNOWN`].
    pub(crate) known: BTreeMap<&'static str, String>,
    /// Results of the steps that have ended well.
    pub(crate) results: BTreeMap<String, Value>,
}

impl Values {
    /// Fills a word in.
    pub(crate) fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        for part in parts(text)? {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Name(name) => filled.push_str(&self.value(name)?),
            }
        }
        Ok(filled)
    }

    fn value(&self, name: &str) -> Result<String, String> {
        if let Some(value) = self.known.get(name) {
            return Ok(value.clone());
        }
        let mut path = name.split('.');
        let step = path.next().unwrap_or_default();
        let result = self
            .results
            .get(step)
            .ok_or_else(|| format!("`{{{name}}}`: step `{step}` has not ended well, or was not run"))?;
        if result.is_null() {
            return Err(format!("`{{{name}}}`: step `{step}` wrote no JSON to its standard output"));
        }
        let value = path.try_fold(result, |value, key| match value {
            Value::Array(items) => key.parse().ok().and_then(|index: usize| items.get(index)),
            value => value.get(key),
        });
        match value {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            _ => Err(format!("`{{{name}}}`: step `{step}` gave no such value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in() {
        let mut values = Values::default();
        let _ = values.known.insert("directory", "/runs/1".to_owned());
        let result = serde_json::json!({"id": "abc", "rows": {"train": 15}, "files": ["x"], "empty": null});
        let _ = values.results.insert("snapshot".to_owned(), result);
        let _ = values.results.insert("silent".to_owned(), Value::Null);
        let fill = |text: &str| values.fill(text);
        assert_eq!(fill("{directory}/love-{snapshot.id}").unwrap(), "/runs/1/love-abc");
        assert_eq!(fill("{ snapshot.rows.train } {snapshot.files.0} {{x}}").unwrap(), "15 x {x}");
        assert!(fill("{snapshot.empty}").unwrap_err().contains("no such value"));
        assert!(fill("{snapshot.files.7}").unwrap_err().contains("no such value"));
        assert!(fill("{silent.id}").unwrap_err().contains("wrote no JSON"));
        assert!(fill("{other.id}").unwrap_err().contains("was not run"));
        assert!(fill("}").unwrap_err().contains("never opened"));
        assert_eq!(names("a{b}{{c}}{d.e}").unwrap(), ["b", "d.e"]);
    }
}
