//! Bringing rows into the shape of their table: columns by name, types cast, nulls checked.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use uptake_model::{Column, TableSpec};

use crate::error::{Error, Result};

/// The batch with exactly the columns of `spec`, in its order.
///
/// Views and large strings are cast, missing nullable columns become null; unknown columns, missing required ones, nulls
/// where none may be and types that do not fit are refused with their names.
pub(crate) fn conform(spec: &TableSpec, schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    for field in batch.schema().fields() {
        if spec.column(field.name()).is_none() {
            return Err(Error::Invalid(format!("{spec} has no column `{}`", field.name())));
        }
    }
    let columns = spec.columns.iter().map(|column| conform_column(spec, column, batch)).collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
        .map_err(|error| Error::Invalid(format!("rows of {spec}: {error}")))
}

fn conform_column(spec: &TableSpec, column: &Column, batch: &RecordBatch) -> Result<ArrayRef> {
    let wanted = column.kind.arrow();
    let name = column.name;
    let Some(array) = batch.column_by_name(name) else {
        if column.nullable {
            return Ok(new_null_array(&wanted, batch.num_rows()));
        }
        return Err(Error::Invalid(format!("rows of {spec} lack the column `{name}`")));
    };
    if !column.nullable
        && let Some(row) = (0..array.len()).find(|row| array.is_null(*row))
    {
        return Err(Error::Invalid(format!("rows of {spec}: `{name}` must not be null, it is in row {row}")));
    }
    if array.data_type() == &wanted {
        return Ok(Arc::clone(array));
    }
    if !is_same_meaning(array.data_type(), &wanted) {
        return Err(Error::Invalid(format!(
            "rows of {spec}: `{name}` is {}, the table holds {wanted}",
            array.data_type()
        )));
    }
    cast(array, &wanted)
        .map_err(|error| Error::Invalid(format!("rows of {spec}: `{name}` cannot become {wanted}: {error}")))
}

/// Whether a cast changes the representation only. Numbers may widen; a narrowing cast would turn values into nulls.
fn is_same_meaning(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Dictionary, Float32, Float64, Int8, Int16, Int32, Int64, LargeBinary, LargeList,
        LargeUtf8, List, ListView, Null, Struct, Timestamp, UInt8, UInt16, UInt32, Utf8, Utf8View,
    };
    match (from, to) {
        (from, to) if from == to => true,
        (Dictionary(_, from), to) => is_same_meaning(from, to),
        (Null, _)
        | (LargeUtf8 | Utf8View, Utf8)
        | (LargeBinary | BinaryView | Utf8 | Utf8View | LargeUtf8, Binary)
        | (Int8 | Int16 | UInt8 | UInt16, Int32)
        | (Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32, Int64)
        | (Float64, Float32)
        | (Timestamp(_, _), Timestamp(_, _))
        | (Utf8, Date32) => true,
        (List(from) | LargeList(from) | ListView(from), List(to)) => is_same_meaning(from.data_type(), to.data_type()),
        (Struct(from), Struct(to)) => {
            from.len() == to.len()
                && from
                    .iter()
                    .zip(to)
                    .all(|(from, to)| from.name() == to.name() && is_same_meaning(from.data_type(), to.data_type()))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::{Field, Schema};
    use uptake_model::tables::REJECTED;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect())
            .unwrap()
    }

    fn columns() -> Vec<(&'static str, ArrayRef)> {
        vec![
            ("reason", Arc::new(StringViewArray::from(vec!["duplicate"])) as ArrayRef),
            ("topic", Arc::new(StringArray::from(vec!["messages"]))),
            ("partition", Arc::new(Int32Array::from(vec![0]))),
            ("offset", Arc::new(Int32Array::from(vec![7]))),
            ("event_id", Arc::new(StringArray::from(vec!["e"]))),
            ("conversation_date", Arc::new(StringArray::from(vec!["2026-01-31"]))),
        ]
    }

    #[test]
    fn columns_are_found_by_name_and_cast() {
        let shaped = conform(&REJECTED, &REJECTED.schema(), &batch(columns())).unwrap();
        assert_eq!(shaped.schema(), REJECTED.schema());
        let offsets: &Int64Array = arrow::array::AsArray::as_primitive(shaped.column_by_name("offset").unwrap());
        assert_eq!(offsets.value(0), 7);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let check = |columns, expected: &str| {
            let error = conform(&REJECTED, &REJECTED.schema(), &batch(columns)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        let mut unknown = columns();
        unknown.push(("mood", Arc::new(StringArray::from(vec!["x"]))));
        check(unknown, "no column `mood`");
        check(columns().into_iter().skip(1).collect(), "lack the column `reason`");
        let mut null = columns();
        null[0].1 = Arc::new(StringArray::from(vec![None::<&str>]));
        check(null, "`reason` must not be null, it is in row 0");
        let mut narrow = columns();
        narrow[2].1 = Arc::new(Int64Array::from(vec![1]));
        check(narrow, "`partition` is Int64, the table holds Int32");
    }
}
