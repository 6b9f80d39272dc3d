//! The SQL that people write here: DataFusion's, with `VERSION AS OF` and `TIMESTAMP AS OF` behind a table's name.

use std::any::{Any, TypeId};

use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};

/// DataFusion's own dialect with time travel.
///
/// It answers to [`GenericDialect`]'s type so that the parser treats it alike, and says yes to the extensions that a query
/// can use; those that only writing statements use are left out.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct LakeDialect;

macro_rules! supports {
    ($($feature:ident),* $(,)?) => { $(fn $feature(&self) -> bool { true })* };
}

impl Dialect for LakeDialect {
    fn dialect(&self) -> TypeId {
        GenericDialect.type_id()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        GenericDialect.is_identifier_part(ch)
    }

    supports!(
        supports_table_versioning,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_array_typedef_with_brackets,
        supports_bitwise_shift_operators,
        supports_dictionary_syntax,
        supports_explain_with_utility_options,
        supports_extract_comma_syntax,
        supports_filter_during_aggregation,
        supports_from_first_select,
        supports_group_by_expr,
        supports_group_by_with_modifier,
        supports_interval_options,
        supports_left_associative_joins_without_parens,
        supports_limit_comma,
        supports_named_fn_args_with_assignment_operator,
        supports_nested_comments,
        supports_parens_around_table_factor,
        supports_projection_trailing_commas,
        supports_select_wildcard_except,
        supports_select_wildcard_exclude,
        supports_select_wildcard_ilike,
        supports_select_wildcard_rename,
        supports_select_wildcard_replace,
        supports_string_escape_constant,
        supports_struct_literal,
        supports_try_convert,
        supports_unicode_string_literal,
        supports_values_as_table_factor,
        supports_window_clause_named_window_reference,
        supports_window_function_null_treatment_arg,
        support_map_literal_syntax,
    );
}
