//! The aggregate `share(flag)`.

use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};

use super::rate::text;

/// Share of true among the rows that are not null, with its interval.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Share {
    signature: Signature,
}

impl Share {
    /// The aggregate.
    pub(super) fn new() -> Self {
        Self { signature: Signature::exact(vec![DataType::Boolean], Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Share {
    fn name(&self) -> &'static str {
        "share"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn accumulator(&self, _arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Counts::default()))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |part: &str| Arc::new(Field::new(format!("{}[{part}]", arguments.name), DataType::Int64, false));
        Ok(vec![field("true"), field("all")])
    }
}

#[derive(Debug, Default)]
struct Counts {
    true_rows: i64,
    all_rows: i64,
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

impl Accumulator for Counts {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for flags in values.iter().take(1).map(AsArray::as_boolean) {
            self.true_rows += count(flags.true_count());
            self.all_rows += count(flags.len() - flags.null_count());
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Utf8(text(self.true_rows as f64, self.all_rows as f64)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(Some(self.true_rows)), ScalarValue::Int64(Some(self.all_rows))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if let [true_rows, all_rows] = states {
            self.true_rows += sum(true_rows.as_primitive::<Int64Type>()).unwrap_or(0);
            self.all_rows += sum(all_rows.as_primitive::<Int64Type>()).unwrap_or(0);
        }
        Ok(())
    }
}
