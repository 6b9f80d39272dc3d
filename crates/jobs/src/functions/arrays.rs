//! Arrow arrays in and out: whatever layout a scan yields (views, dictionaries) becomes the plain one.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StructArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Fields, Float64Type, Int32Type, Int64Type};
use datafusion::common::Result;
use uptake_model::tables::list_item;

use super::wrong;

/// A column of texts.
pub(super) fn texts(array: &ArrayRef) -> Result<StringArray> {
    Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// A column of numbers.
pub(super) fn numbers(array: &ArrayRef) -> Result<Float64Array> {
    Ok(cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

/// A column of 32-bit integers.
pub(super) fn integers(array: &ArrayRef) -> Result<Int32Array> {
    Ok(cast(array, &DataType::Int32)?.as_primitive::<Int32Type>().clone())
}

/// A column of times, as microseconds.
pub(super) fn times(array: &ArrayRef) -> Result<Int64Array> {
    let micros = match array.data_type() {
        DataType::Timestamp(_, zone) => {
            cast(array, &DataType::Timestamp(datafusion::arrow::datatypes::TimeUnit::Microsecond, zone.clone()))?
        }
        _ => ArrayRef::clone(array),
    };
    Ok(cast(&micros, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// A column of lists.
pub(super) fn lists(array: &ArrayRef) -> Result<ListArray> {
    if let Some(list) = array.as_list_opt::<i32>() {
        return Ok(list.clone());
    }
    match array.data_type() {
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::ListView(item) => {
            let plain = cast(array, &DataType::List(Arc::clone(item)))?;
            Ok(plain.as_list::<i32>().clone())
        }
        // A list of nothing at all has no item type.
        DataType::Null => Ok(ListArray::new_null(list_item(DataType::Utf8), array.len())),
        other => Err(wrong(format!("expected a list, found {other}"))),
    }
}

/// A field of the structs in a list's items.
pub(super) fn field(items: &StructArray, name: &str) -> Result<ArrayRef> {
    items.column_by_name(name).cloned().ok_or_else(|| wrong(format!("the structs of the list have no field `{name}`")))
}

/// The items of a list column, as structs.
pub(super) fn structs(list: &ListArray) -> Result<StructArray> {
    list.values().as_struct_opt().cloned().ok_or_else(|| wrong("expected a list of structs"))
}

/// The value of a text column at a row.
pub(super) fn text_at(array: &StringArray, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.value(row))
}

/// Lists of structs from their columns: `lengths` items a row, null where it says so.
pub(super) fn struct_lists(fields: Fields, columns: Vec<ArrayRef>, lengths: &[Option<usize>]) -> Result<ArrayRef> {
    let items = StructArray::try_new(fields.clone(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths(lengths.iter().map(|length| length.unwrap_or(0)));
    let nulls = NullBuffer::from(lengths.iter().map(Option::is_some).collect::<Vec<_>>());
    Ok(Arc::new(ListArray::try_new(list_item(DataType::Struct(fields)), offsets, Arc::new(items), Some(nulls))?))
}

/// Lists of texts.
pub(super) fn text_lists<T: AsRef<str>>(rows: impl Iterator<Item = Option<Vec<T>>>) -> Result<ArrayRef> {
    let mut lengths = Vec::new();
    let mut valid = Vec::new();
    let mut items: Vec<T> = Vec::new();
    for row in rows {
        lengths.push(row.as_ref().map_or(0, Vec::len));
        valid.push(row.is_some());
        items.extend(row.into_iter().flatten());
    }
    let values = StringArray::from_iter_values(items);
    Ok(Arc::new(ListArray::try_new(
        list_item(DataType::Utf8),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(values),
        Some(NullBuffer::from(valid)),
    )?))
}
