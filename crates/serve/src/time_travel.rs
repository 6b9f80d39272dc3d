//! Turns time travel into names of the catalog before a query is planned.
//!
//! `gold.turns VERSION AS OF 3`, `… TIMESTAMP AS OF '2026-11-01'`, `… FOR SYSTEM_TIME AS OF …`, `at_version('gold.turns', 3)`,
//! `at_time('gold.turns', '…')` and `history('gold.turns')` become relations that [`crate::catalog`] knows. Doing it in
//! the syntax tree, not with table functions, lets the catalog open the table asynchronously, and once.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Statement as Query, TableAlias, TableFactor,
    TableFunctionArgs, TableVersion, Value, VisitMut, VisitorMut,
};

use crate::error::{Error, Result};
use crate::reference::{Moment, Reference, find};

/// The schema whose tables are the histories of other tables.
pub(crate) const HISTORY: &str = "history";

/// A time that a query names: to be evaluated before the rewriting.
#[derive(Debug, Default)]
struct Times {
    expressions: Vec<Expr>,
}

/// The expressions of time in a statement, in the order in which [`rewrite`] meets them.
pub(crate) fn times(statement: &mut Statement) -> Vec<Expr> {
    let mut times = Times::default();
    if let Some(query) = inner(statement) {
        let _: ControlFlow<()> = query.visit(&mut times);
    }
    times.expressions
}

impl VisitorMut for Times {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, version, args, .. } = factor {
            match version {
                Some(TableVersion::TimestampAsOf(time) | TableVersion::ForSystemTimeAsOf(time)) => {
                    self.expressions.push(time.clone());
                }
                _ if function_name(name) == "at_time" => {
                    if let Some([_, time]) = arguments(args.as_ref()).as_deref() {
                        self.expressions.push((*time).clone());
                    }
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

/// Rewrites a statement; `times` are the values of [`times`], in microseconds.
pub(crate) fn rewrite(statement: &mut Statement, times: Vec<i64>) -> Result<()> {
    let Some(query) = inner(statement) else { return Ok(()) };
    let mut rewriter = Rewriter { times: times.into_iter() };
    match query.visit(&mut rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The query in a statement, also below `EXPLAIN`.
fn inner(statement: &mut Statement) -> Option<&mut Query> {
    match statement {
        Statement::Statement(query) => Some(query),
        Statement::Explain(explain) => inner(&mut explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => None,
    }
}

struct Rewriter {
    times: std::vec::IntoIter<i64>,
}

impl VisitorMut for Rewriter {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match self.factor(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Rewriter {
    fn factor(&mut self, factor: &mut TableFactor) -> Result<()> {
        let TableFactor::Table { name, alias, args, version, .. } = factor else { return Ok(()) };
        let (table, moment) = if let Some(version) = version.take() {
            let moment = match version {
                TableVersion::VersionAsOf(version) => Moment::Version(whole_number(&version)?),
                TableVersion::TimestampAsOf(_) | TableVersion::ForSystemTimeAsOf(_) => self.time()?,
                other => {
                    return Err(Error::invalid(format!(
                        "`{other}` is not known here; hint: write `{name} VERSION AS OF 3` or `{name} TIMESTAMP AS OF '2026-11-01'`"
                    )));
                }
            };
            (plain_name(name)?, moment)
        } else {
            let function = function_name(name);
            let given = arguments(args.as_ref());
            match (function.as_str(), given.as_deref()) {
                ("at_version", Some([table, version])) => (text(table)?, Moment::Version(whole_number(version)?)),
                ("at_time", Some([table, _])) => (text(table)?, self.time()?),
                (HISTORY, Some([table])) => {
                    let table = specified(&text(table)?)?;
                    *name = object_name([HISTORY.to_owned(), table.0 + "." + &table.1]);
                    *args = None;
                    return Ok(());
                }
                ("at_version" | "at_time" | HISTORY, Some(_)) => {
                    return Err(Error::invalid(format!(
                        "wrong arguments for {function}; hint: at_version('gold.preference_pairs', 3), \
                         at_time('gold.preference_pairs', '2026-11-01T12:00:00Z'), history('gold.preference_pairs')"
                    )));
                }
                _ => return Ok(()),
            }
        };
        let (layer, table) = specified(&table)?;
        *args = None;
        if alias.is_none() {
            *alias = Some(TableAlias { explicit: true, name: Ident::new(&table), columns: Vec::new(), at: None });
        }
        *name = object_name([layer, Reference { name: table, moment }.catalog_name()]);
        Ok(())
    }

    fn time(&mut self) -> Result<Moment> {
        self.times.next().map(Moment::Time).ok_or_else(|| Error::invalid("a time to travel to is missing"))
    }
}

/// Layer and name of a table that a query names.
fn specified(name: &str) -> Result<(String, String)> {
    let spec = find(name).ok_or_else(|| {
        Error::invalid(format!("no table `{name}` to read at another time; hint: write it as 'gold.preference_pairs'"))
    })?;
    Ok((spec.layer.name().to_owned(), spec.name.to_owned()))
}

fn object_name(parts: [String; 2]) -> ObjectName {
    ObjectName(parts.into_iter().map(|part| ObjectNamePart::Identifier(Ident::with_quote('"', part))).collect())
}

/// The lower-case name of a table function, or nothing when the name has several parts.
fn function_name(name: &ObjectName) -> String {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(part)] => part.value.to_lowercase(),
        _ => String::new(),
    }
}

/// The name of a table as the catalog knows it.
fn plain_name(name: &ObjectName) -> Result<String> {
    let mut parts = Vec::new();
    for part in &name.0 {
        let ObjectNamePart::Identifier(part) = part else {
            return Err(Error::invalid(format!("`{name}` is not the name of a table")));
        };
        parts.push(if part.quote_style.is_some() { part.value.clone() } else { part.value.to_lowercase() });
    }
    Ok(parts.join("."))
}

/// The unnamed arguments of a table function; nothing when the relation has none or they are not plain expressions.
fn arguments(args: Option<&TableFunctionArgs>) -> Option<Vec<&Expr>> {
    let plain = |argument| match argument {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref expression)) => Some(expression),
        _ => None,
    };
    args?.args.iter().map(plain).collect()
}

fn text(expression: &Expr) -> Result<String> {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Ok(text.clone()),
            other => Err(Error::invalid(format!("{other} is not a table's name; hint: write it as 'gold.turns'"))),
        },
        other => {
            Err(Error::invalid(format!("{other} is not a table's name; hint: put it in single quotes: '{other}'")))
        }
    }
}

fn whole_number(expression: &Expr) -> Result<i64> {
    let number = match expression {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.parse().ok(),
            _ => None,
        },
        _ => None,
    };
    number
        .ok_or_else(|| Error::invalid(format!("{expression} is not a version; hint: a whole number, see history('…')")))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParserBuilder;

    use super::*;
    use crate::dialect::LakeDialect;

    fn rewritten(sql: &str, values: &[i64]) -> Result<String> {
        let mut statements =
            DFParserBuilder::new(sql).with_dialect(&LakeDialect).build().unwrap().parse_statements().unwrap();
        let mut statement = statements.pop_front().unwrap();
        assert_eq!(times(&mut statement).len(), values.len(), "{sql}");
        rewrite(&mut statement, values.to_vec())?;
        Ok(statement.to_string())
    }

    #[test]
    fn versions_become_names_of_the_catalog() {
        for (sql, expected) in [
            (
                "SELECT * FROM gold.preference_pairs VERSION AS OF 3",
                "SELECT * FROM \"gold\".\"preference_pairs@v3\" AS preference_pairs",
            ),
            ("SELECT * FROM turns VERSION AS OF 3 t", "SELECT * FROM \"silver\".\"turns@v3\" t"),
            ("SELECT * FROM at_version('silver.turns', 3) AS t", "SELECT * FROM \"silver\".\"turns@v3\" AS t"),
            ("SELECT * FROM history('turns')", "SELECT * FROM \"history\".\"silver.turns\""),
            (
                "EXPLAIN SELECT * FROM (SELECT 1 FROM turns VERSION AS OF 0) x",
                "EXPLAIN SELECT * FROM (SELECT 1 FROM \"silver\".\"turns@v0\" AS turns) x",
            ),
        ] {
            let actual = rewritten(sql, &[]).unwrap();
            assert_eq!(actual.trim_start_matches("EXPLAIN "), expected.trim_start_matches("EXPLAIN "), "{sql}");
        }
    }

    #[test]
    fn times_are_taken_in_order() {
        let sql = "SELECT * FROM turns TIMESTAMP AS OF '2026-01-01' a JOIN at_time('turns', now()) b ON a.turn_id = b.turn_id";
        let text = rewritten(sql, &[5, 7]).unwrap();
        assert!(text.contains("\"turns@t5\" a") && text.contains("\"turns@t7\" b"), "{text}");
    }

    #[test]
    fn mistakes_say_what_to_write() {
        for sql in [
            "SELECT * FROM nothing VERSION AS OF 3",
            "SELECT * FROM at_version(turns, 3)",
            "SELECT * FROM at_version('turns', 'x')",
            "SELECT * FROM at_version('turns')",
        ] {
            let error = rewritten(sql, &[]).unwrap_err();
            assert!(error.is_invalid() && error.to_string().contains("hint:"), "{sql}: {error}");
        }
    }
}
