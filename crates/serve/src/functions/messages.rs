//! Functions over a list of chat messages.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use uptake_model::Kind;

/// Which of the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    LastUser,
    Nth,
    Transcript,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MessagesFunction {
    which: Which,
    signature: Signature,
}

/// The functions over messages.
pub(super) fn functions() -> Vec<ScalarUDF> {
    [Which::LastUser, Which::Nth, Which::Transcript]
        .into_iter()
        .map(|which| {
            let arguments = if which == Which::Nth { 2 } else { 1 };
            let signature = Signature::new(TypeSignature::Any(arguments), Volatility::Immutable);
            ScalarUDF::from(MessagesFunction { which, signature })
        })
        .collect()
}

/// Whether a type is a list of structs with `role` and `content`.
pub(crate) fn is_messages(kind: &DataType) -> bool {
    let (DataType::List(item)
    | DataType::LargeList(item)
    | DataType::ListView(item)
    | DataType::FixedSizeList(item, _)) = kind
    else {
        return false;
    };
    let DataType::Struct(fields) = item.data_type() else { return false };
    let texts = |name: &str| {
        fields.iter().any(|field| {
            field.name() == name
                && matches!(field.data_type(), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8)
        })
    };
    texts("role") && texts("content") && fields.len() == 2
}

impl ScalarUDFImpl for MessagesFunction {
    fn name(&self) -> &'static str {
        match self.which {
            Which::LastUser => "last_user_message",
            Which::Nth => "message_text",
            Which::Transcript => "conversation_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let messages = types.first().unwrap_or(&DataType::Null);
        if !is_messages(messages) && *messages != DataType::Null {
            return plan_err!(
                "{} wants a list of messages ({{role, content}}), such as gold.preference_pairs.prompt, not {messages}",
                self.name()
            );
        }
        if self.which == Which::Nth && !types.get(1).is_some_and(DataType::is_integer) {
            return plan_err!("message_text wants a whole number as its second argument: message_text(prompt, -1)");
        }
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|value| value.to_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
        let Some(first) = arrays.first() else { return exec_err!("{} wants messages", self.name()) };
        let lists = cast(first, &Kind::Messages.arrow())?;
        let lists: &ListArray = lists.as_list();
        let places = match arrays.get(1) {
            Some(places) => Some(cast(places, &DataType::Int64)?),
            None => None,
        };
        let places: Option<&Int64Array> = places.as_ref().map(AsArray::as_primitive::<Int64Type>);
        let mut texts = StringBuilder::new();
        for row in 0..lists.len() {
            if lists.is_null(row) {
                texts.append_null();
                continue;
            }
            let messages = read(&lists.value(row));
            match self.which {
                Which::LastUser => {
                    texts.append_option(messages.iter().rev().find(|(role, _)| role == "user").map(|(_, text)| text));
                }
                Which::Transcript => texts.append_value(transcript(&messages)),
                Which::Nth => {
                    let place = places.filter(|places| places.is_valid(row)).map(|places| places.value(row));
                    texts.append_option(
                        place.and_then(|place| nth(messages.len(), place)).map(|at| messages[at].1.as_str()),
                    );
                }
            }
        }
        Ok(ColumnarValue::Array(Arc::new(texts.finish())))
    }
}

/// The index of message `place`, counted from 1, or from the end when negative.
fn nth(count: usize, place: i64) -> Option<usize> {
    let distance = usize::try_from(place.unsigned_abs()).ok()?;
    match place {
        0 => None,
        1.. => distance.checked_sub(1).filter(|at| *at < count),
        _ => count.checked_sub(distance),
    }
}

/// Role and text of each message of one list.
fn read(messages: &ArrayRef) -> Vec<(String, String)> {
    let fields = messages.as_struct();
    let text = |column: Option<&ArrayRef>, row: usize| {
        let column: Option<&StringArray> = column.map(AsArray::as_string::<i32>);
        column.filter(|column| column.is_valid(row)).map_or_else(String::new, |column| column.value(row).to_owned())
    };
    (0..fields.len())
        .map(|row| (text(fields.column_by_name("role"), row), text(fields.column_by_name("content"), row)))
        .collect()
}

/// A conversation as people read it: `role: text`, a blank line between messages.
pub fn transcript(messages: &[(String, String)]) -> String {
    let mut text = String::new();
    for (at, (role, content)) in messages.iter().enumerate() {
        if at > 0 {
            text.push_str("\n\n");
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{role}: {}", content.trim_end());
    }
    text
}

/// The transcript of row `row` of a column of messages, or nothing when it is null or no list of messages.
pub fn transcript_of(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) || !is_messages(column.data_type()) {
        return None;
    }
    let one = cast(&column.slice(row, 1), &Kind::Messages.arrow()).ok()?;
    Some(transcript(&read(&one.as_list::<i32>().value(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_one_and_from_the_end() {
        assert_eq!(nth(3, 1), Some(0));
        assert_eq!(nth(3, 3), Some(2));
        assert_eq!(nth(3, 4), None);
        assert_eq!(nth(3, 0), None);
        assert_eq!(nth(3, -1), Some(2));
        assert_eq!(nth(3, -3), Some(0));
        assert_eq!(nth(3, -4), None);
        assert_eq!(nth(3, i64::MIN), None);
    }

    #[test]
    fn a_transcript_separates_messages_by_a_blank_line() {
        let messages =
            [("user", "hi\n"), ("assistant", "hello")].map(|(role, text)| (role.to_owned(), text.to_owned()));
        assert_eq!(transcript(&messages), "user: hi\n\nassistant: hello");
    }
}
