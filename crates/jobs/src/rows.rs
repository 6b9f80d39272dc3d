//! From what a statement gave to rows of a table: dropped rows counted, columns in shape, order fixed.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::compute::{
    CastOptions, SortColumn, cast, cast_with_options, concat_batches, filter_record_batch, lexsort_to_indices,
    take_record_batch,
};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use uptake_model::TableSpec;

use crate::checks::Outcome;

/// The column by which a statement says why a row does not come through.
pub(crate) const DROP_REASON: &str = "drop_reason";

/// The rows of some days.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Rows to write, in the table's order; one batch, or none where there are no rows.
    pub(crate) batch: Option<RecordBatch>,
    /// Rows that the statement gave.
    pub(crate) candidates: usize,
    /// Rows that do not come through, by reason.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// Required columns in which something is missing; while there are any, there is no batch.
    pub(crate) missing: Vec<Outcome>,
}

/// Whether a statement's columns are those of a table; says what is wrong otherwise.
pub(crate) fn check_columns(
    given: &Schema,
    output: &TableSpec,
    slice: Option<&(String, String)>,
) -> Result<(), String> {
    let filled = |name: &str| slice.is_some_and(|(column, _)| column == name);
    for column in output.columns {
        match given.field_with_name(column.name) {
            Err(_) if filled(column.name) => {}
            Err(_) => return Err(format!("its SQL gives no column `{}`, which {output} has", column.name)),
            Ok(field) if !datafusion::arrow::compute::can_cast_types(field.data_type(), &column.kind.arrow()) => {
                return Err(format!(
                    "its SQL gives column `{}` as {}, which does not become {}",
                    column.name,
                    field.data_type(),
                    column.kind.name()
                ));
            }
            Ok(_) => {}
        }
    }
    for field in given.fields() {
        if field.name() != DROP_REASON && output.column(field.name()).is_none() {
            return Err(format!("its SQL gives a column `{}`, which {output} has not", field.name()));
        }
    }
    Ok(())
}

/// Brings what a statement gave into the shape of `output`.
pub(crate) fn shape(
    batches: &[RecordBatch],
    output: &TableSpec,
    slice: Option<&(String, String)>,
) -> Result<Rows, ArrowError> {
    let mut dropped = BTreeMap::new();
    let mut kept = Vec::new();
    let candidates = batches.iter().map(RecordBatch::num_rows).sum();
    let schema = nullable(output);
    for batch in batches {
        let rows = without_dropped(batch, &mut dropped)?;
        if rows.num_rows() > 0 {
            kept.push(in_columns(&rows, &schema, slice)?);
        }
    }
    if kept.is_empty() {
        return Ok(Rows { batch: None, candidates, dropped, missing: vec![] });
    }
    let all = concat_batches(&schema, &kept)?;
    let missing = missing_values(&all, output);
    if !missing.is_empty() {
        return Ok(Rows { batch: None, candidates, dropped, missing });
    }
    let strict = RecordBatch::try_new(output.schema(), all.columns().to_vec())?;
    Ok(Rows { batch: Some(ordered(&strict, output)?), candidates, dropped, missing })
}

/// The schema with every column nullable, so that a missing value can be told with its key rather than as an error.
fn nullable(output: &TableSpec) -> SchemaRef {
    let fields: Vec<_> =
        output.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new(fields))
}

fn without_dropped(batch: &RecordBatch, dropped: &mut BTreeMap<String, u64>) -> Result<RecordBatch, ArrowError> {
    let Some(reasons) = batch.column_by_name(DROP_REASON) else { return Ok(batch.clone()) };
    let reasons = cast(reasons, &DataType::Utf8)?;
    let reasons: &StringArray = reasons.as_string();
    for reason in reasons.iter().flatten() {
        *dropped.entry(reason.to_owned()).or_default() += 1;
    }
    let keep: BooleanArray = reasons.iter().map(|reason| Some(reason.is_none())).collect();
    filter_record_batch(batch, &keep)
}

fn in_columns(
    batch: &RecordBatch,
    schema: &SchemaRef,
    slice: Option<&(String, String)>,
) -> Result<RecordBatch, ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef, ArrowError> {
        match (batch.column_by_name(field.name()), slice) {
            (Some(column), _) => cast_with_options(column, field.data_type(), &options),
            (None, Some((name, value))) if name == field.name() => {
                Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, batch.num_rows()))))
            }
            (None, _) => Err(ArrowError::SchemaError(format!("no column `{}`", field.name()))),
        }
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}

fn missing_values(batch: &RecordBatch, output: &TableSpec) -> Vec<Outcome> {
    let required = output.columns.iter().filter(|column| !column.nullable);
    required
        .filter_map(|column| {
            let values = batch.column_by_name(column.name)?;
            let nulls = values.null_count();
            (nulls > 0).then(|| Outcome {
                check: format!("required({})", column.name),
                offending: i64::try_from(nulls).unwrap_or(i64::MAX),
                holds: false,
                message: format!(
                    "{nulls} of {} rows have no value; for example {}",
                    batch.num_rows(),
                    first_key(batch, output, values)
                ),
            })
        })
        .collect()
}

fn first_key(batch: &RecordBatch, output: &TableSpec, values: &ArrayRef) -> String {
    let row = (0..values.len()).find(|row| values.is_null(*row)).unwrap_or_default();
    let parts = output.key.iter().filter_map(|name| {
        let column = batch.column_by_name(name)?;
        datafusion::arrow::util::display::array_value_to_string(column, row).ok()
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Rows in the table's order. The order holds a unique key, so the same rows always give the same file.
fn ordered(batch: &RecordBatch, output: &TableSpec) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<SortColumn> = output
        .order
        .iter()
        .filter_map(|name| batch.column_by_name(name))
        .map(|values| SortColumn { values: Arc::clone(values), options: None })
        .collect();
    let order = lexsort_to_indices(&columns, None)?;
    take_record_batch(batch, &order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Int32Array, TimestampMicrosecondArray};
    use datafusion::arrow::datatypes::Field;
    use uptake_model::tables::SUBJECTS;

    fn batch(subjects: &[Option<&str>], reasons: &[Option<&str>]) -> RecordBatch {
        let rows = subjects.len();
        let times = || TimestampMicrosecondArray::from(vec![1; rows]).with_timezone("UTC");
        let schema = Schema::new(vec![
            Field::new("conversation_date", DataType::Int32, true),
            Field::new("subject_key", DataType::Utf8, true),
            Field::new("conversation_id", DataType::Utf8, true),
            Field::new("first_seen", times().data_type().clone(), true),
            Field::new("last_seen", times().data_type().clone(), true),
            Field::new(DROP_REASON, DataType::Utf8, true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int32Array::from(vec![20_000; rows])),
                Arc::new(StringArray::from(subjects.to_vec())),
                Arc::new(StringArray::from(vec!["c"; rows])),
                Arc::new(times()),
                Arc::new(times()),
                Arc::new(StringArray::from(reasons.to_vec())),
            ],
        )
        .unwrap()
    }

    #[test]
    fn dropped_rows_are_counted_and_kept_ones_sorted() {
        let batch = batch(&[Some("b"), Some("x"), Some("a")], &[None, Some("twice"), None]);
        check_columns(&batch.schema(), &SUBJECTS, None).unwrap();
        let rows = shape(&[batch], &SUBJECTS, None).unwrap();
        assert_eq!((rows.candidates, rows.dropped["twice"]), (3, 1));
        let written = rows.batch.unwrap();
        assert_eq!(written.schema(), SUBJECTS.schema());
        assert_eq!(written.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_missing_value_is_told_with_its_key() {
        let rows = shape(&[batch(&[None], &[None])], &SUBJECTS, None).unwrap();
        assert!(rows.batch.is_none());
        assert_eq!(rows.missing[0].check, "required(subject_key)");
        assert_eq!(rows.missing[0].message, "1 of 1 rows have no value; for example /c");
    }

    #[test]
    fn columns_that_do_not_fit_are_named() {
        let schema = Schema::new(vec![Field::new("subject_key", DataType::Utf8, true)]);
        assert!(check_columns(&schema, &SUBJECTS, None).unwrap_err().contains("`conversation_id`"));
    }
}
