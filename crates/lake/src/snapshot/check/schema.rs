//! Types that some reader lacks.

use arrow::datatypes::{DataType, SchemaRef};

use super::Faults;
use crate::snapshot::rules::Rule;

/// Checks the types of a Parquet file. `embedded`: an Arrow schema in the file tells readers to make these types.
pub(super) fn check(schema: &SchemaRef, embedded: bool, path: &str, faults: &mut Faults) {
    for field in schema.fields() {
        let from = if embedded { ", as the embedded Arrow schema says" } else { "" };
        let place = format!("{path}: column `{}`{from}", field.name());
        nested(field.data_type(), &place, faults);
        if is_id(field.name())
            && !matches!(field.data_type(), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8)
        {
            faults.add(Rule::IdType, format!("{place} is {}", field.data_type()));
        }
    }
}

/// Whether a column holds ids: they are text.
pub(super) fn is_id(name: &str) -> bool {
    name == "id" || name.ends_with("_id")
}

fn nested(kind: &DataType, place: &str, faults: &mut Faults) {
    let rule = match kind {
        DataType::Utf8View | DataType::BinaryView => Some(Rule::StringView),
        DataType::LargeList(_) | DataType::LargeListView(_) | DataType::ListView(_) => Some(Rule::LargeList),
        DataType::FixedSizeBinary(_) => Some(Rule::FixedSizeBinary),
        DataType::Map(..) => Some(Rule::MapColumn),
        _ => None,
    };
    if let Some(rule) = rule {
        faults.add(rule, format!("{place} is {kind}"));
    }
    match kind {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => nested(item.data_type(), place, faults),
        DataType::Struct(fields) => fields.iter().for_each(|field| nested(field.data_type(), place, faults)),
        _ => {}
    }
}
