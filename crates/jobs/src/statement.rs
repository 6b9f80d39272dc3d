//! One SELECT of a pipeline: parsed once, its parameters put in as literals, the tables that it reads known.
//!
//! Parameters are placeholders, `$name`. They become literals in the syntax tree, never in the text, so no value can
//! change what a statement does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::parser::{DFParser, Statement as Parsed};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Expr, Statement as Sql, Value, visit_expressions, visit_expressions_mut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// A parameter's value, rendered as a SQL literal.
pub(crate) type Literals = BTreeMap<String, String>;

/// A table as a statement names it: schema and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) schema: String,
    pub(crate) table: String,
}

#[cfg(test)]
impl Named {
    fn qualified(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// One SELECT.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The file it stands in, for messages.
    pub(crate) file: String,
    /// The text, for the generation.
    pub(crate) text: String,
    parsed: Sql,
}

impl Statement {
    /// Parses exactly one query.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, String> {
        let mut all = DFParser::parse_sql(text).map_err(|error| format!("{file}: {error}"))?;
        let first = all.pop_front();
        match (first, all.is_empty()) {
            (Some(Parsed::Statement(sql)), true) if matches!(*sql, Sql::Query(_)) => {
                Ok(Self { file: file.to_owned(), text: text.to_owned(), parsed: *sql })
            }
            _ => Err(format!("{file}: holds something other than one SELECT")),
        }
    }

    /// The tables that it reads, common table expressions left out.
    pub(crate) fn tables(&self) -> Result<BTreeSet<Named>, String> {
        let statement = Parsed::Statement(Box::new(self.parsed.clone()));
        let (tables, _) =
            resolve_table_references(&statement, true).map_err(|error| format!("{}: {error}", self.file))?;
        tables
            .into_iter()
            .map(|table| match table {
                TableReference::Partial { schema, table } => {
                    Ok(Named { schema: schema.to_string(), table: table.to_string() })
                }
                TableReference::Bare { table } => Ok(Named { schema: String::new(), table: table.to_string() }),
                TableReference::Full { .. } => Err(format!("{}: `{table}` must be named as layer.table", self.file)),
            })
            .collect()
    }

    /// The placeholders that it uses, without the `$`.
    pub(crate) fn placeholders(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let _ = visit_expressions(&self.parsed, |expression| {
            if let Some(name) = placeholder(expression) {
                let _ = names.insert(name);
            }
            ControlFlow::<()>::Continue(())
        });
        names
    }

    /// The statement with every placeholder replaced.
    pub(crate) fn with(&self, literals: &Literals) -> Result<Parsed, String> {
        let mut parsed = self.parsed.clone();
        let fault = visit_expressions_mut(&mut parsed, |expression| {
            let Some(name) = placeholder(expression) else { return ControlFlow::Continue(()) };
            let replaced = literals
                .get(&name)
                .ok_or_else(|| format!("{}: parameter `${name}` is not declared", self.file))
                .and_then(|literal| {
                    parse_literal(literal).map_err(|error| format!("{}: parameter `${name}`: {error}", self.file))
                });
            match replaced {
                Ok(value) => {
                    *expression = value;
                    ControlFlow::Continue(())
                }
                Err(fault) => ControlFlow::Break(fault),
            }
        });
        match fault {
            ControlFlow::Break(fault) => Err(fault),
            ControlFlow::Continue(()) => Ok(Parsed::Statement(Box::new(parsed))),
        }
    }
}

fn placeholder(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => name.strip_prefix('$').map(str::to_owned),
            _ => None,
        },
        _ => None,
    }
}

fn parse_literal(text: &str) -> Result<Expr, String> {
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(text).map_err(|error| error.to_string())?;
    // In brackets, so that a negative number or a cast keeps its meaning wherever it is put.
    parser.parse_expr().map(|value| Expr::Nested(Box::new(value))).map_err(|error| error.to_string())
}

/// A TOML value as a SQL literal; tables are no literals but relations.
pub(crate) fn literal(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(quoted(text)),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) if number.is_finite() => Ok(format!("{number:?}")),
        toml::Value::Boolean(flag) => Ok(flag.to_string()),
        toml::Value::Array(items) if items.is_empty() => Err("an empty list has no type".to_owned()),
        toml::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(literal).collect::<Result<_, _>>()?;
            Ok(format!("make_array({})", items.join(", ")))
        }
        _ => Err("use a text, a number, true or false, or a list of these".to_owned()),
    }
}

/// A text as a SQL literal.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A time as a SQL literal; null where there is none.
pub(crate) fn time_literal(time: Option<i64>) -> String {
    let micros = time.map_or_else(|| "NULL".to_owned(), |time| time.to_string());
    format!("arrow_cast(arrow_cast({micros}, 'Int64'), 'Timestamp(Microsecond, Some(\"UTC\"))')")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_those_read_and_not_those_named_with() {
        let text = "WITH a AS (SELECT * FROM silver.turns) SELECT * FROM a JOIN shared.b ON a.x = b.x";
        let tables = Statement::parse("t.sql", text).unwrap().tables().unwrap();
        let names: Vec<String> = tables.iter().map(Named::qualified).collect();
        assert_eq!(names, ["shared.b", "silver.turns"]);
    }

    #[test]
    fn only_one_query_is_taken() {
        for text in ["", "SELECT 1; SELECT 2", "DROP TABLE x", "INSERT INTO a SELECT 1", "SELEC 1"] {
            assert!(Statement::parse("t.sql", text).unwrap_err().starts_with("t.sql: "), "{text}");
        }
    }

    #[test]
    fn a_value_never_becomes_code() {
        let statement = Statement::parse("t.sql", "SELECT $name, $many, $low").unwrap();
        let literals = Literals::from([
            ("name".to_owned(), literal(&toml::Value::from("'; DROP TABLE x --")).unwrap()),
            ("many".to_owned(), literal(&toml::Value::from(vec!["a", "b"])).unwrap()),
            ("low".to_owned(), literal(&toml::Value::from(-0.5)).unwrap()),
        ]);
        let replaced = statement.with(&literals).unwrap().to_string();
        assert_eq!(replaced, "SELECT ('''; DROP TABLE x --'), (make_array('a', 'b')), (-0.5)");
        assert!(statement.with(&Literals::new()).unwrap_err().contains("is not declared"));
        assert_eq!(statement.placeholders().len(), 3);
    }
}
