//! Errors of planning, as advice.

use datafusion::common::{DataFusionError, SchemaError};

use crate::error::Error;
use crate::session::Session;

/// An error of the engine as one of ours: what the user can mend becomes [`Error::Invalid`] with a hint.
/// What lies outside the query stays an error of running it.
pub(crate) fn explain(error: DataFusionError, session: &Session) -> Error {
    if let DataFusionError::External(cause) = error.find_root()
        && let Some(cause) = cause.downcast_ref::<uptake_lake::Error>()
        && cause.kind() == uptake_lake::Kind::Invalid
    {
        return Error::Invalid { message: cause.to_string() };
    }
    let outside = matches!(
        error.find_root(),
        DataFusionError::External(_)
            | DataFusionError::IoError(_)
            | DataFusionError::ObjectStore(_)
            | DataFusionError::ParquetError(_)
            | DataFusionError::ResourcesExhausted(_)
            | DataFusionError::Internal(_)
    );
    if outside {
        return Error::Query(Box::new(error));
    }
    let message = message(&error);
    let hint = hint(error.find_root(), &message, session);
    let text = hint.map_or_else(|| message.clone(), |hint| format!("{message}; hint: {hint}"));
    Error::Invalid { message: text }
}

/// The engine's message without its prefixes and without a trace.
pub(crate) fn message(error: &DataFusionError) -> String {
    let root = error.find_root();
    let text = match root {
        DataFusionError::External(error) => chain(error.as_ref()),
        other => other.strip_backtrace(),
    };
    let prefixes = [
        "Error during planning: ",
        "SQL error: ParserError(\"",
        "SQL error: TokenizerError(\"",
        "Schema error: ",
        "Execution error: ",
        "This feature is not implemented: ",
        "Invalid or Unsupported Configuration: ",
        "External error: ",
        "type_coercion caused by ",
    ];
    let mut text = text.as_str();
    while let Some(rest) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    // With a suggestion, the list of everything else that there is only hides it.
    if let Some((advice, _)) =
        text.split_once("\nValid fields are").filter(|(advice, _)| advice.contains("Did you mean"))
    {
        text = advice;
    }
    text.trim_end_matches("\")").trim_end_matches('.').replace('\n', " ")
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn hint(error: &DataFusionError, message: &str, session: &Session) -> Option<String> {
    if let DataFusionError::SchemaError(error, _) = error
        && let SchemaError::FieldNotFound { field, valid_fields } = error.as_ref()
    {
        let names = valid_fields.iter().map(|column| column.name.clone());
        let close = closest(&field.name, names);
        return (!message.contains("Did you mean"))
            .then_some(())
            .and(close)
            .map(|name| format!("did you mean `{name}`?"));
    }
    if let Some(name) = between(message, "table '", "' not found") {
        let name = name.rsplit('.').next().unwrap_or(name);
        let relations = session.relations();
        let close = closest(name, relations.iter().map(|relation| relation.name.to_owned()));
        let close = close.and_then(|close| relations.iter().find(|relation| relation.name == close));
        return Some(close.map_or_else(
            || "`SHOW TABLES` lists what there is".to_owned(),
            |relation| format!("did you mean `{}.{}`?", relation.layer, relation.name),
        ));
    }
    if let Some(name) = between(message, "Invalid function '", "'") {
        return closest(name, session.functions().into_iter())
            .filter(|_| !message.contains("Did you mean"))
            .map(|name| format!("did you mean `{name}`?"));
    }
    None
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = text.split_once(before)?.1;
    Some(rest.split_once(after)?.0)
}

/// The name that is most like the one given, if any is like it at all.
fn closest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    names
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), &candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_close() {
        let names = || ["preference_pairs", "prompts", "turns"].into_iter().map(str::to_owned);
        assert_eq!(closest("preference_pair", names()).as_deref(), Some("preference_pairs"));
        assert_eq!(closest("turn", names()).as_deref(), Some("turns"));
        assert_eq!(closest("xyz", names()), None);
    }
}
