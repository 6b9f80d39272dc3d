//! A session: parse, plan, run.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::DataFusionError;
use datafusion::config::Dialect;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::{SQLOptions, SessionConfig, SessionContext};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParserBuilder, Statement as Parsed};
use datafusion::sql::sqlparser::ast::{Expr, Statement as Query};
use futures::StreamExt;
use uptake_lake::Lake;
use uptake_model::tables::{ALL, TableSpec};

use crate::catalog::{ANY, LakeCatalog, Tables};
use crate::dialect::LakeDialect;
use crate::error::{Error, Result};
use crate::{functions, hints, time_travel, views};

/// How a session runs its queries.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes that all operators of a query may hold before they spill to disk.
    pub memory: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: 2 << 30 }
    }
}

/// One parsed statement.
#[derive(Debug, Clone)]
pub struct Statement(Parsed);

impl fmt::Display for Statement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The answer to a query.
pub struct Answer {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows, computed as they are read; dropping it cancels the query.
    pub rows: SendableRecordBatchStream,
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answer").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// A table or view, as a list of them shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its schema.
    pub layer: &'static str,
    /// Its name.
    pub name: &'static str,
    /// `table` or `view`.
    pub kind: &'static str,
    /// What one row is.
    pub grain: &'static str,
    /// Its columns; empty for a view.
    pub columns: Vec<&'static str>,
}

/// Read-only SQL over one lake.
#[derive(Clone)]
pub struct Session {
    context: SessionContext,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("id", &self.context.session_id()).finish_non_exhaustive()
    }
}

impl Session {
    /// A session over a lake. Nothing is read yet.
    ///
    /// # Errors
    /// When the place for spilled data cannot be set up.
    pub fn open(lake: Lake, options: &Options) -> Result<Self> {
        let runtime =
            RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(options.memory))).build_arc()?;
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema("lake", ANY)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true);
        config.options_mut().sql_parser.dialect = Dialect::Generic;
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        let context = SessionContext::new_with_config_rt(config, runtime);
        let tables = Tables::new(lake);
        let state = context.state_weak_ref();
        tables.plan_views_in(move || state.upgrade().map(|state| state.read().clone()));
        let _ = context.register_catalog("lake", Arc::new(LakeCatalog::new(tables)));
        for function in functions::scalars() {
            context.register_udf(function);
        }
        for function in functions::aggregates() {
            context.register_udaf(function);
        }
        Ok(Self { context })
    }

    /// The statements of a text, `;` between them.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the place where the text stops being SQL; [`Error::ReadOnly`] for a statement that writes.
    pub fn parse(&self, text: &str) -> Result<Vec<Statement>> {
        let parsed = DFParserBuilder::new(text)
            .with_dialect(&LakeDialect)
            .build()
            .and_then(|mut parser| parser.parse_statements())
            .map_err(|error| hints::explain(error, self))?;
        parsed
            .into_iter()
            .map(|statement| if reads(&statement) { Ok(Statement(statement)) } else { Err(read_only(&statement)) })
            .collect()
    }

    /// Plans a statement and starts it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it names what is not there or makes no sense, with a hint; the store's errors.
    pub async fn run(&self, statement: &Statement) -> Result<Answer> {
        let mut statement = statement.0.clone();
        let mut times = Vec::new();
        for expression in time_travel::times(&mut statement) {
            times.push(self.time(&expression).await?);
        }
        time_travel::rewrite(&mut statement, times)?;
        self.start(statement).await.map_err(|error| hints::explain(error, self))
    }

    /// Runs a text of exactly one statement.
    ///
    /// # Errors
    /// As [`Self::parse`] and [`Self::run`]; [`Error::Invalid`] when it is not exactly one.
    pub async fn query(&self, text: &str) -> Result<Answer> {
        match self.parse(text)?.as_slice() {
            [statement] => self.run(statement).await,
            [] => Err(Error::invalid("there is no statement; hint: write a query, such as `SHOW TABLES`")),
            _ => Err(Error::invalid("one statement at a time, please")),
        }
    }

    async fn start(&self, statement: Parsed) -> datafusion::common::Result<Answer> {
        let plan = self.context.state().statement_to_plan(statement).await?;
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        options.verify_plan(&plan)?;
        if matches!(plan, LogicalPlan::Statement(_) | LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Copy(_))
        {
            return Err(DataFusionError::Plan("this statement does not read".to_owned()));
        }
        let rows = self.context.execute_logical_plan(plan).await?.execute_stream().await?;
        Ok(Answer { schema: rows.schema(), rows })
    }

    /// The value of an expression of time, in microseconds since 1970 UTC.
    async fn time(&self, expression: &Expr) -> Result<i64> {
        let wrong = |detail: String| {
            Error::invalid(format!(
                "`{expression}` is not a time: {detail}; hint: '2026-11-01', '2026-11-01T12:30:00Z' or now() - INTERVAL '1 day'"
            ))
        };
        let statement = self.parse(&format!("SELECT {expression}"))?;
        let [statement] = statement.as_slice() else { return Err(wrong("it is several statements".to_owned())) };
        let mut answer = self.start(statement.0.clone()).await.map_err(|error| wrong(hints::message(&error)))?;
        let batch = answer.rows.next().await.transpose().map_err(|error| wrong(hints::message(&error)))?;
        let value = batch.filter(|batch| batch.num_rows() == 1).map(|batch| batch.column(0).clone());
        let Some(value) = value else { return Err(wrong("it has no value".to_owned())) };
        let kind = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let value = cast(&value, &kind).map_err(|error| wrong(error.to_string()))?;
        let value = value.as_primitive::<TimestampMicrosecondType>().iter().next().flatten();
        value.ok_or_else(|| wrong("it has no value".to_owned()))
    }

    /// Every table and view.
    pub fn relations(&self) -> Vec<Relation> {
        let table = |spec: &'static TableSpec| Relation {
            layer: spec.layer.name(),
            name: spec.name,
            kind: "table",
            grain: spec.grain,
            columns: spec.columns.iter().map(|column| column.name).collect(),
        };
        let view = |view: views::View| Relation {
            layer: view.layer.name(),
            name: view.name,
            kind: "view",
            grain: view.grain,
            columns: Vec::new(),
        };
        ALL.into_iter().map(table).chain(views::all().into_iter().map(view)).collect()
    }

    /// The names of all functions.
    pub fn functions(&self) -> BTreeSet<String> {
        let state = self.context.state();
        let scalars = state.scalar_functions().keys();
        let aggregates = state.aggregate_functions().keys();
        scalars.chain(aggregates).chain(state.window_functions().keys()).cloned().collect()
    }
}

/// Whether a statement can only read. The plan is held to the same rule again; this gives the clearer message.
fn reads(statement: &Parsed) -> bool {
    match statement {
        Parsed::Statement(query) => matches!(
            **query,
            Query::Query(_)
                | Query::Explain { .. }
                | Query::ExplainTable { .. }
                | Query::ShowTables { .. }
                | Query::ShowColumns { .. }
                | Query::ShowFunctions { .. }
                | Query::ShowVariable { .. }
        ),
        Parsed::Explain(explain) => reads(&explain.statement),
        Parsed::CreateExternalTable(_) | Parsed::CopyTo(_) | Parsed::Reset(_) => false,
    }
}

fn read_only(statement: &Parsed) -> Error {
    let text = statement.to_string();
    Error::ReadOnly { statement: text.split_whitespace().take(3).collect::<Vec<_>>().join(" ") }
}
