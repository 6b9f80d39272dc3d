//! One query session over the tables that a pipeline reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Float64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::{MemorySchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, ScalarValue, TableReference};
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext, col};
use uptake_model::time::Day;
use uptake_model::{TableSpec, tables};

use crate::functions::{self, Tagging};
use crate::pipeline::Pipeline;
use crate::statement::{Literals, Statement};

type Result<T> = std::result::Result<T, DataFusionError>;

/// A table as a session sees it; none where the lake does not hold it yet: then it is empty.
pub(crate) type Provider = Option<Arc<dyn TableProvider>>;

/// A session and the values of a pipeline's parameters.
pub(crate) struct Session {
    context: SessionContext,
    literals: Literals,
}

impl Session {
    /// A session that knows the functions, the parameters and nothing else.
    pub(crate) fn new(pipeline: &Pipeline, tagging: &Tagging, literals: Literals) -> Result<Self> {
        // A row can carry the transcript of a long conversation: small batches bound the memory.
        let mut config = SessionConfig::new().with_information_schema(false).with_batch_size(2_048);
        let options = config.options_mut();
        // Tables hold plain strings: what trainers' readers take.
        options.execution.parquet.schema_force_view_types = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        // The optimizer counts fields of structs as cheap and pushes them below joins, with whatever function makes the
        // struct: the tagger would then score the rows that a join was to take away.
        options.optimizer.enable_leaf_expression_pushdown = false;
        let context = SessionContext::new_with_config(config);
        functions::register(&context, tagging);
        let session = Self { context, literals };
        for schema in ["bronze", "silver", "gold", "control", "changed", "previous", "shared", "parameters"] {
            session.schema(schema)?;
        }
        for (name, entries) in &pipeline.relations {
            session.register("parameters", name, relation(entries)?)?;
        }
        Ok(session)
    }

    fn schema(&self, name: &str) -> Result<()> {
        let catalog =
            self.context.catalog("datafusion").ok_or_else(|| DataFusionError::Internal("no catalog".to_owned()))?;
        let _ = catalog.register_schema(name, Arc::new(MemorySchemaProvider::new()))?;
        Ok(())
    }

    /// Makes a table known as `schema.name`.
    pub(crate) fn register(&self, schema: &str, name: &str, provider: Arc<dyn TableProvider>) -> Result<()> {
        let _ = self.context.register_table(TableReference::partial(schema, name), provider)?;
        Ok(())
    }

    /// Makes a table of the lake known, restricted to `days` where these are given.
    ///
    /// Of bronze events, those without a day come along: they are reactions that only their turn can place.
    pub(crate) fn register_source(
        &self,
        schema: &str,
        spec: &'static TableSpec,
        provider: Provider,
        days: Option<&[Day]>,
        slice: Option<&(String, String)>,
    ) -> Result<()> {
        let provider = match provider {
            None => empty(spec)?,
            Some(provider) => {
                let mut rows = self.context.read_table(provider)?;
                if let Some(condition) = days.and_then(|days| within(spec, days)) {
                    rows = rows.filter(condition)?;
                }
                if let Some((column, value)) = slice {
                    rows = rows.filter(col(column.as_str()).eq(lit(value.clone())))?;
                }
                rows.into_view()
            }
        };
        self.register(schema, spec.name, provider)
    }

    /// Makes the pipeline's views known, in their order.
    pub(crate) async fn register_views(&self, pipeline: &Pipeline) -> Result<()> {
        for (name, statement) in &pipeline.views {
            let plan = self.frame(statement).await?.into_unoptimized_plan();
            self.register("shared", name, Arc::new(ViewTable::new(plan, Some(statement.text.clone()))))?;
        }
        Ok(())
    }

    /// A statement over the known tables.
    pub(crate) async fn frame(&self, statement: &Statement) -> Result<DataFrame> {
        let parsed = statement.with(&self.literals).map_err(DataFusionError::Plan)?;
        let plan = self.context.state().statement_to_plan(parsed).await?;
        self.context.execute_logical_plan(plan).await
    }

    /// The rows of the pipeline: `build.sql`, then what finishes it.
    pub(crate) async fn build(&self, pipeline: &Pipeline) -> Result<DataFrame> {
        let built = self.frame(&pipeline.build).await?;
        let Some(finish) = &pipeline.finish else { return Ok(built) };
        let plan = built.into_unoptimized_plan();
        let view = ViewTable::new(plan, Some(pipeline.build.text.clone()));
        let _ = self.context.register_table(TableReference::bare("candidates"), Arc::new(view))?;
        self.frame(finish).await
    }

    /// How many rows a known table has; those without a day count once, in the first group of days.
    pub(crate) async fn count(&self, spec: &TableSpec, undated: bool) -> Result<u64> {
        let mut rows = self.context.table(TableReference::partial(spec.layer.name(), spec.name)).await?;
        if !undated && spec.column("conversation_date").is_some_and(|column| column.nullable) {
            rows = rows.filter(col("conversation_date").is_not_null())?;
        }
        Ok(rows.count().await? as u64)
    }

    /// The days that a known table holds.
    pub(crate) async fn days(&self, schema: &str, table: &str) -> Result<Vec<Day>> {
        let rows = self.context.table(TableReference::partial(schema, table)).await?;
        let days = rows
            .filter(col("conversation_date").is_not_null())?
            .select_columns(&["conversation_date"])?
            .distinct()?
            .collect()
            .await?;
        days_of(&days)
    }
}

/// The values of a first column of dates.
pub(crate) fn days_of(batches: &[RecordBatch]) -> Result<Vec<Day>> {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Date32Type;
    let mut days = Vec::new();
    for batch in batches {
        let column = datafusion::arrow::compute::cast(batch.column(0), &DataType::Date32)?;
        days.extend(column.as_primitive::<Date32Type>().iter().flatten());
    }
    Ok(days)
}

fn within(spec: &TableSpec, days: &[Day]) -> Option<Expr> {
    let _ = spec.column("conversation_date")?;
    let list = days.iter().map(|day| lit(ScalarValue::Date32(Some(*day)))).collect();
    let listed = col("conversation_date").in_list(list, false);
    let undated = spec.qualified() == tables::EVENTS.qualified();
    Some(if undated { listed.or(col("conversation_date").is_null()) } else { listed })
}

/// An empty table with the columns of `spec`.
pub(crate) fn empty(spec: &'static TableSpec) -> Result<Arc<dyn TableProvider>> {
    Ok(Arc::new(MemTable::try_new(spec.schema(), vec![vec![]])?))
}

/// Names and numbers as a table of `name` and `value`.
fn relation(entries: &BTreeMap<String, f64>) -> Result<Arc<dyn TableProvider>> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("value", DataType::Float64, false),
    ]));
    let names = StringArray::from_iter_values(entries.keys());
    let values = Float64Array::from_iter_values(entries.values().copied());
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(names), Arc::new(values)])?;
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))
}
