//! The commands that begin with a backslash.

use std::io::Write;

use uptake_model::tables::{ALL, TableSpec};
use uptake_serve::{Session, functions};

/// What a command asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meta<'a> {
    Quit,
    Help,
    Tables,
    Table(&'a str),
    Functions,
    Unknown(&'a str),
}

/// Reads a command; nothing when the text is a query.
pub(super) fn meta(text: &str) -> Option<Meta<'_>> {
    let text = text.trim().trim_end_matches(';').trim_end();
    match text {
        "quit" | "exit" => return Some(Meta::Quit),
        "help" => return Some(Meta::Help),
        _ => {}
    }
    let command = text.strip_prefix('\\')?;
    let (command, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    Some(match (command, argument.trim()) {
        ("q", _) => Meta::Quit,
        ("?" | "h", _) => Meta::Help,
        ("dt", _) | ("d", "") => Meta::Tables,
        ("d", table) => Meta::Table(table),
        ("df", _) => Meta::Functions,
        _ => Meta::Unknown(text),
    })
}

const HELP: &str = "\
  SELECT …;             a query; it may take several lines and ends with ;
  \\dt                   tables and views
  \\d gold.love          columns of a table, and what they mean
  \\df                   functions of this product
  \\q                    leave (also Ctrl-D)
  Ctrl-C                stop a running query, or drop the line
  Tab                   complete tables, columns, functions, keywords

  Time travel:  SELECT count(*) FROM gold.preference_pairs VERSION AS OF 3;
                SELECT count(*) FROM gold.preference_pairs TIMESTAMP AS OF '2026-11-01';
                SELECT * FROM history('gold.preference_pairs');
";

/// Answers a command; false when the session is to end.
pub(super) fn answer(meta: &Meta<'_>, session: &Session, output: &mut impl Write) -> std::io::Result<bool> {
    match meta {
        Meta::Quit => return Ok(false),
        Meta::Help => write!(output, "{HELP}")?,
        Meta::Tables => {
            for relation in session.relations() {
                let name = format!("{}.{}", relation.layer, relation.name);
                writeln!(output, "  {name:26} {:6} {}", relation.kind, relation.grain)?;
            }
        }
        Meta::Functions => {
            for (name, arguments, meaning) in functions::CATALOGUE {
                writeln!(output, "  {:38} {meaning}", format!("{name}{arguments}"))?;
            }
            writeln!(output, "  and DataFusion's: SELECT DISTINCT routine_name FROM information_schema.routines;")?;
        }
        Meta::Table(name) => {
            let name = name.to_lowercase();
            match ALL.into_iter().find(|spec| spec.name == name || spec.qualified() == name) {
                Some(spec) => columns(spec, output)?,
                None => {
                    writeln!(output, "  no table `{name}`; \\dt lists them (a view: SELECT * FROM {name} LIMIT 1;)")?;
                }
            }
        }
        Meta::Unknown(text) => writeln!(output, "  `{text}` is no command; \\? lists them")?,
    }
    Ok(true)
}

fn columns(spec: &TableSpec, output: &mut impl Write) -> std::io::Result<()> {
    writeln!(output, "  {}: {}", spec.qualified(), spec.grain)?;
    for column in spec.columns {
        let null = if column.nullable { "null" } else { "" };
        writeln!(output, "  {:24} {:24} {null:5} {}", column.name, column.kind.name(), column.meaning)?;
    }
    writeln!(output, "  key: {}; partition: {}", spec.key.join(", "), spec.partition.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_queries() {
        assert_eq!(meta("SELECT 1;"), None);
        assert_eq!(meta("\\q"), Some(Meta::Quit));
        assert_eq!(meta(" \\d gold.love; "), Some(Meta::Table("gold.love")));
        assert_eq!(meta("\\d"), Some(Meta::Tables));
        assert_eq!(meta("help"), Some(Meta::Help));
        assert_eq!(meta("\\x"), Some(Meta::Unknown("\\x")));
    }
}
