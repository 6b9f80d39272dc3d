//! The functions that the pipelines' SQL calls: what SQL is clumsy at, in Rust, each a pure function of its arguments.

mod arrays;
mod conversation;
mod guard;
mod repair;
mod tagging;
mod words;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Float32Array, Int32Array, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::prelude::SessionContext;

use uptake_model::phrases;

pub(crate) use tagging::Tagging;
pub use words::TOKENIZER;

/// Raised when a function comes to give other values for the same arguments: every output is then built anew.
pub(crate) const VERSION: u32 = 2;

/// What a function does with its arguments, all of them arrays of the same length.
type Body = Arc<dyn Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync>;

/// A function over columns.
struct Function {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    body: Body,
}

impl Function {
    fn fixed(
        name: &'static str,
        arguments: usize,
        returns: DataType,
        body: impl Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> ScalarUDF {
        // Types are brought into shape inside: DataFusion's exact signatures refuse lists of structs that differ in no
        // more than whether a field may be null.
        let signature = Signature::any(arguments, Volatility::Immutable);
        ScalarUDF::new_from_impl(Self { name, signature, returns, body: Arc::new(body) })
    }

    fn variadic(
        name: &'static str,
        returns: DataType,
        body: impl Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> ScalarUDF {
        let signature = Signature::variadic_any(Volatility::Immutable);
        ScalarUDF::new_from_impl(Self { name, signature, returns, body: Arc::new(body) })
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Function").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let arrays: Vec<ArrayRef> =
            arguments.args.into_iter().map(|value| value.into_array(rows)).collect::<Result<_>>()?;
        (self.body)(&arrays).map(ColumnarValue::Array)
    }
}

/// Makes every function known to `context`.
pub(crate) fn register(context: &SessionContext, tagging: &Tagging) {
    let mut all = vec![
        Function::fixed("message_turns", 4, conversation::turns_type(), conversation::message_turns),
        Function::fixed("reaction", 1, conversation::reaction_type(), conversation::reaction),
        Function::fixed("resolve_exchanges", 1, conversation::exchanges_type(), conversation::resolve_exchanges),
        Function::fixed("messages_before", 2, conversation::messages_type(), conversation::messages_before),
        Function::fixed("messages_at", 2, conversation::messages_type(), conversation::messages_at),
        Function::fixed("message", 2, conversation::messages_type(), conversation::message),
        Function::fixed("with_answer", 2, conversation::messages_type(), conversation::with_answer),
        Function::variadic("together", conversation::texts_type(), conversation::together),
        Function::variadic("digest", DataType::Utf8, conversation::digest),
        Function::fixed("split_of", 3, DataType::Utf8, split_of),
        text_function("token_count", words::token_count),
        Function::fixed("message_tokens", 1, DataType::Int32, conversation::message_tokens),
        Function::fixed("prompt_fault", 1, DataType::Utf8, conversation::prompt_fault),
        Function::fixed("pair_fault", 5, DataType::Utf8, pair_fault),
        Function::fixed("repair_fault", 6, DataType::Utf8, repair_fault),
        two_texts("similarity", |a, b| Some(guard::similarity(a, b))),
        Function::fixed("sketch", 1, DataType::Utf8, |arguments| {
            let texts = arrays::texts(&arguments[0])?;
            Ok(Arc::new(texts.iter().map(|text| text.map(guard::sketch)).collect::<StringArray>()))
        }),
        text_flag("looks_like_refusal", phrases::looks_like_refusal),
        text_flag("opens_with_apology", phrases::opens_with_apology),
        Function::fixed("wishes", 1, conversation::texts_type(), |arguments| {
            let texts = arrays::texts(&arguments[0])?;
            arrays::text_lists(texts.iter().map(|text| text.map(words::wishes)))
        }),
    ];
    all.push(tagging.function());
    for function in all {
        context.register_udf(function);
    }
}

fn text_function(name: &'static str, of: fn(&str) -> i32) -> ScalarUDF {
    Function::fixed(name, 1, DataType::Int32, move |arguments| {
        let texts = arrays::texts(&arguments[0])?;
        Ok(Arc::new(texts.iter().map(|text| text.map(of)).collect::<Int32Array>()))
    })
}

fn text_flag(name: &'static str, of: fn(&str) -> bool) -> ScalarUDF {
    Function::fixed(name, 1, DataType::Boolean, move |arguments| {
        let texts = arrays::texts(&arguments[0])?;
        let flags = texts.iter().map(|text| text.map(of)).collect::<datafusion::arrow::array::BooleanArray>();
        Ok(Arc::new(flags))
    })
}

fn two_texts(name: &'static str, of: fn(&str, &str) -> Option<f32>) -> ScalarUDF {
    Function::fixed(name, 2, DataType::Float32, move |arguments| {
        let (a, b) = (arrays::texts(&arguments[0])?, arrays::texts(&arguments[1])?);
        let values = a.iter().zip(b.iter()).map(|(a, b)| of(a?, b?));
        Ok(Arc::new(values.collect::<Float32Array>()))
    })
}

/// `split_of(conversation_id, test_share, seed)`: `train` or `test`, by conversation.
fn split_of(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let ids = arrays::texts(&arguments[0])?;
    let shares = arrays::numbers(&arguments[1])?;
    let seeds = arrays::texts(&arguments[2])?;
    let rows = 0..ids.len();
    let splits = rows.map(|row| {
        (ids.is_valid(row) && shares.is_valid(row))
            .then(|| words::split_of(ids.value(row), shares.value(row), seeds.value(row)))
    });
    Ok(Arc::new(splits.collect::<StringArray>()))
}

/// `pair_fault(chosen, rejected, most_length_ratio, most_emoji, most_similarity)`: why two texts make no pair, or null.
fn pair_fault(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let (chosen, rejected) = (arrays::texts(&arguments[0])?, arrays::texts(&arguments[1])?);
    let ratio = arrays::numbers(&arguments[2])?;
    let emoji = arrays::numbers(&arguments[3])?;
    let similarity = arrays::numbers(&arguments[4])?;
    let faults = (0..chosen.len()).map(|row| {
        if chosen.is_null(row) || rejected.is_null(row) {
            return Some("missing_answer");
        }
        let bounds = guard::Bounds {
            length_ratio: ratio.value(row),
            emoji: emoji.value(row),
            similarity: similarity.value(row),
        };
        guard::pair_fault(chosen.value(row), rejected.value(row), bounds)
    });
    Ok(Arc::new(faults.collect::<StringArray>()))
}

/// `repair_fault(chosen, rejected, prompt, complaint, least_overlap, least_similarity)`: why an answer is no repair of an
/// earlier one, or null; null too where there is no answer.
fn repair_fault(arguments: &[ArrayRef]) -> Result<ArrayRef> {
    let [chosen, rejected, prompt, complaint] = [0, 1, 2, 3].map(|at| arrays::texts(&arguments[at]));
    let (chosen, rejected, prompt, complaint) = (chosen?, rejected?, prompt?, complaint?);
    let (overlap, similarity) = (arrays::numbers(&arguments[4])?, arrays::numbers(&arguments[5])?);
    let faults = (0..chosen.len()).map(|row| {
        if chosen.is_null(row) || rejected.is_null(row) {
            return None;
        }
        let bounds = repair::Bounds { overlap: overlap.value(row), similarity: similarity.value(row) };
        let text = |texts: &StringArray| if texts.is_null(row) { String::new() } else { texts.value(row).to_owned() };
        repair::repair_fault(chosen.value(row), rejected.value(row), &text(&prompt), &text(&complaint), bounds)
    });
    Ok(Arc::new(faults.collect::<StringArray>()))
}

/// An error of a function: what it was given is not what it takes.
fn wrong(message: impl Into<String>) -> DataFusionError {
    DataFusionError::Execution(message.into())
}
