//! Completion: tables, the columns of the tables that the query names, functions, keywords.

use reedline::{Completer, Span, Suggestion, ValidationResult, Validator};
use uptake_serve::{Relation, Session};

const KEYWORDS: [&str; 46] = [
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CROSS JOIN",
    "DESC",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FILTER",
    "FROM",
    "FULL JOIN",
    "GROUP BY",
    "HAVING",
    "IN",
    "INNER JOIN",
    "INTERVAL",
    "IS NULL",
    "IS NOT NULL",
    "JOIN",
    "LEFT JOIN",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER BY",
    "OVER",
    "PARTITION BY",
    "SELECT",
    "SHOW TABLES",
    "THEN",
    "TIMESTAMP AS OF",
    "UNION ALL",
    "UNNEST",
    "VERSION AS OF",
    "WHEN",
    "WHERE",
];

/// Completes the word at the cursor.
pub(super) struct Words {
    relations: Vec<Relation>,
    functions: Vec<String>,
}

impl Words {
    pub(super) fn of(session: &Session) -> Self {
        Self { relations: session.relations(), functions: session.functions().into_iter().collect() }
    }

    /// What the word may become, with what it is; tables first, then columns, functions, keywords.
    fn candidates(&self, line: &str, word: &str) -> Vec<(String, String)> {
        let lower = word.to_lowercase();
        let begins = |candidate: &str| candidate.to_lowercase().starts_with(&lower);
        let mut found = Vec::new();
        for relation in &self.relations {
            let qualified = format!("{}.{}", relation.layer, relation.name);
            let text = if begins(&qualified) {
                Some(qualified)
            } else {
                begins(relation.name).then(|| relation.name.to_owned())
            };
            found.extend(text.map(|text| (text, format!("{}: {}", relation.kind, relation.grain))));
        }
        let named: Vec<&Relation> = self.relations.iter().filter(|relation| line.contains(relation.name)).collect();
        let scope = if named.is_empty() { self.relations.iter().collect() } else { named };
        let mut columns: Vec<(String, String)> = Vec::new();
        for relation in scope {
            for column in relation.columns.iter().filter(|column| begins(column)) {
                if !columns.iter().any(|(known, _)| known == column) {
                    columns.push(((*column).to_owned(), format!("column of {}", relation.name)));
                }
            }
        }
        found.extend(columns);
        let functions = self.functions.iter().filter(|function| begins(function));
        found.extend(functions.map(|function| (format!("{function}("), "function".to_owned())));
        let keywords = KEYWORDS.iter().filter(|keyword| begins(keyword));
        found.extend(keywords.map(|keyword| ((*keyword).to_owned(), "keyword".to_owned())));
        found
    }
}

impl Completer for Words {
    fn complete(&mut self, line: &str, position: usize) -> Vec<Suggestion> {
        let before = line.get(..position).unwrap_or(line);
        let in_word = |character: char| character.is_alphanumeric() || matches!(character, '_' | '.');
        let start = before
            .rfind(|character: char| !in_word(character))
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let word = &before[start..];
        if word.is_empty() {
            return Vec::new();
        }
        self.candidates(line, word)
            .into_iter()
            .map(|(value, description)| Suggestion {
                append_whitespace: !value.ends_with('('),
                value,
                description: Some(description),
                style: None,
                extra: None,
                span: Span::new(start, position),
            })
            .collect()
    }
}

/// A query is complete at its `;`, a command (`\dt`) at the end of its line.
pub(super) struct Statements;

impl Validator for Statements {
    fn validate(&self, line: &str) -> ValidationResult {
        if complete(line) { ValidationResult::Complete } else { ValidationResult::Incomplete }
    }
}

fn complete(text: &str) -> bool {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.starts_with('\\') || ["quit", "exit", "help"].contains(&trimmed) {
        return true;
    }
    // The last character outside quotes and comments decides.
    let mut characters = text.chars().peekable();
    let (mut quote, mut last) = (None, ' ');
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '\'' | '"' | '`') => quote = Some(character),
            (None, '-') if characters.peek() == Some(&'-') => {
                let _ = characters.by_ref().find(|character| *character == '\n');
                continue;
            }
            _ => {}
        }
        if !character.is_whitespace() {
            last = character;
        }
    }
    quote.is_none() && last == ';'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_outside_quotes_ends_a_query() {
        for (text, expected) in [
            ("SELECT 1;", true),
            ("SELECT 1", false),
            ("SELECT ';", false),
            ("SELECT ';';", true),
            ("SELECT 1; -- done", true),
            ("SELECT 1 -- not done;", false),
            ("SELECT 1; SELECT 2", false),
            ("\\dt", true),
            ("", true),
        ] {
            assert_eq!(complete(text), expected, "{text}");
        }
    }

    #[test]
    fn words_become_tables_and_their_columns() {
        let relation = |name, columns: &[&'static str]| Relation {
            layer: "gold",
            name,
            kind: "table",
            grain: "one",
            columns: columns.to_vec(),
        };
        let mut words = Words {
            relations: vec![relation("pairs", &["prompt", "chosen"]), relation("love", &["propensity"])],
            functions: vec!["rate".to_owned()],
        };
        let values = |line: &str, words: &mut Words| -> Vec<String> {
            words.complete(line, line.len()).into_iter().map(|suggestion| suggestion.value).collect()
        };
        assert_eq!(values("SELECT * FROM go", &mut words), ["gold.pairs", "gold.love"]);
        assert_eq!(values("SELECT love.pro", &mut words), Vec::<String>::new());
        assert_eq!(values("FROM gold.pairs SELECT pro", &mut words), ["prompt"]);
        assert_eq!(values("SELECT ra", &mut words), ["rate("]);
        assert_eq!(values("sele", &mut words), ["SELECT"]);
        assert_eq!(values("SELECT ", &mut words), Vec::<String>::new());
    }
}
