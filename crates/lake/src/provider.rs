//! Tables and files of them, as DataFusion reads them.
//!
//! Both kinds show the columns in the order of the specification, partition columns last, strings as `Utf8` and partition
//! values as plain columns, so that a plan over one fits the other.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result as PlanResult, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use deltalake::delta_datafusion::{DeltaScanConfig, DeltaScanNext};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use uptake_model::TableSpec;
use url::{Position, Url};

use crate::error::{Error, Result};
use crate::lake::Lake;
use crate::request::File;
use crate::statistics::day_from;
use crate::store;
use crate::table::State;

/// The first reader version whose files cannot be read alone (column mapping, deletion vectors).
const MAPPED_READER: i32 = 2;

/// Where a plan finds the store.
#[derive(Debug, Clone)]
struct Place {
    url: ObjectStoreUrl,
    root: Arc<dyn ObjectStore>,
}

impl Place {
    fn of(lake: &Lake) -> Result<Self> {
        let url = ObjectStoreUrl::parse(&lake.url()[..Position::BeforePath])
            .map_err(|error| Error::bug(format!("name the store of {}", lake.url()), error))?;
        Ok(Self { url, root: lake.root_store() })
    }

    /// Makes the store known to the session; a store that is known already stays.
    fn register(&self, session: &dyn Session) {
        let runtime = session.runtime_env();
        if runtime.object_store(&self.url).is_err() {
            runtime.register_object_store(self.url.as_ref(), Arc::clone(&self.root));
        }
    }
}

/// The columns as they are shown, and where each stands in the plan below.
#[derive(Debug, Clone)]
struct View {
    schema: SchemaRef,
    places: Vec<usize>,
}

impl View {
    /// Specified columns in their order, then those that only the table knows.
    fn over(spec: &TableSpec, inner: &Schema) -> Self {
        let specified = spec.columns.iter().filter_map(|column| inner.index_of(column.name).ok());
        let foreign = (0..inner.fields().len()).filter(|place| spec.column(inner.field(*place).name()).is_none());
        let places: Vec<usize> = specified.chain(foreign).collect();
        let fields: Vec<FieldRef> = places.iter().map(|place| Arc::clone(&inner.fields()[*place])).collect();
        Self { schema: Arc::new(Schema::new(fields)), places }
    }

    /// The columns to read below for a projection of the columns shown.
    fn project(&self, projection: Option<&Vec<usize>>) -> Vec<usize> {
        match projection {
            Some(shown) => shown.iter().filter_map(|place| self.places.get(*place).copied()).collect(),
            None => self.places.clone(),
        }
    }
}

/// The table at the version of `state`.
pub(crate) fn of_table(lake: &Lake, spec: &'static TableSpec, state: &State) -> Result<Arc<dyn TableProvider>> {
    let context = || format!("plan a scan of {spec}");
    let snapshot = state.table.snapshot().map_err(|error| Error::bug(context(), error))?;
    let mut config = DeltaScanConfig::new().with_wrap_partition_values(false);
    config.schema_force_view_types = false;
    let scan = DeltaScanNext::new(snapshot.snapshot().clone(), config)
        .map_err(|error| Error::sort(spec.qualified(), error))?;
    let view = View::over(spec, &scan.schema());
    Ok(Arc::new(WholeTable { place: Place::of(lake)?, view, scan }))
}

#[derive(Debug)]
struct WholeTable {
    place: Place,
    view: View,
    scan: DeltaScanNext,
}

#[async_trait]
impl TableProvider for WholeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.place.register(session);
        let columns = self.view.project(projection);
        self.scan.scan(session, Some(&columns), filters, limit).await
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        self.scan.supports_filters_pushdown(filters)
    }
}

/// Some files of the table, which need not be live at the version of `state`.
pub(crate) fn of_files(
    lake: &Lake,
    spec: &'static TableSpec,
    state: &State,
    files: &[File],
) -> Result<Arc<dyn TableProvider>> {
    let context = || format!("plan a scan of files of {spec}");
    let snapshot = state.table.snapshot().map_err(|error| Error::bug(context(), error))?;
    if snapshot.protocol().min_reader_version() >= MAPPED_READER {
        return Err(Error::Newer {
            table: spec.qualified(),
            detail: format!("reader version {}", snapshot.protocol().min_reader_version()),
        });
    }
    let table_schema = snapshot.snapshot().arrow_schema();
    let is_partition = |field: &&FieldRef| spec.partition.contains(&field.name().as_str());
    let file_fields: Vec<FieldRef> =
        table_schema.fields().iter().filter(|field| !is_partition(field)).cloned().collect();
    let partition_fields = spec
        .partition
        .iter()
        .map(|name| table_schema.field_with_name(name).map(|field| Arc::new(field.clone())))
        .collect::<std::result::Result<Vec<FieldRef>, _>>()
        .map_err(|error| Error::bug(context(), error))?;
    let table_url = lake.table_url(spec)?;
    let scans =
        files.iter().map(|file| scan_of(spec, &table_url, &partition_fields, file)).collect::<Result<Vec<_>>>()?;
    let table_schema =
        TableSchema::builder(Arc::new(Schema::new(file_fields))).with_table_partition_cols(partition_fields).build();
    let view = View::over(spec, table_schema.table_schema());
    Ok(Arc::new(SomeFiles { place: Place::of(lake)?, view, table_schema, files: scans }))
}

fn scan_of(spec: &TableSpec, table_url: &Url, partition: &[FieldRef], file: &File) -> Result<PartitionedFile> {
    let mut location = store::path_of(table_url)?;
    // What stands encoded in a name on the disk stays as it is.
    location.extend(&Path::parse(&file.path).unwrap_or_else(|_| Path::from(file.path.as_str())));
    let values = partition
        .iter()
        .map(|field| {
            let text = file.partition.get(field.name()).and_then(Option::as_deref);
            value_of(field.data_type(), text).ok_or_else(|| Error::Corrupt {
                context: format!("{spec}: read the log"),
                source: format!("`{}` is no {} for `{}`", text.unwrap_or_default(), field.data_type(), field.name())
                    .into(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let meta = ObjectMeta {
        location,
        last_modified: chrono::DateTime::UNIX_EPOCH,
        size: file.size,
        e_tag: None,
        version: None,
    };
    Ok(PartitionedFile::new_from_meta(meta).with_partition_values(values))
}

/// A partition value from how the log writes it.
fn value_of(kind: &DataType, text: Option<&str>) -> Option<ScalarValue> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return ScalarValue::try_from(kind).ok();
    };
    match kind {
        DataType::Utf8 => Some(ScalarValue::Utf8(Some(text.to_owned()))),
        DataType::Date32 => day_from(text).map(|day| ScalarValue::Date32(Some(day))),
        DataType::Int32 => text.parse().ok().map(|number| ScalarValue::Int32(Some(number))),
        DataType::Int64 => text.parse().ok().map(|number| ScalarValue::Int64(Some(number))),
        _ => None,
    }
}

#[derive(Debug)]
struct SomeFiles {
    place: Place,
    view: View,
    table_schema: TableSchema,
    files: Vec<PartitionedFile>,
}

#[async_trait]
impl TableProvider for SomeFiles {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.place.register(session);
        if self.files.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.view.schema.project(columns)?),
                None => self.schema(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let source = ParquetSource::new(self.table_schema.clone())
            .with_table_parquet_options(session.default_table_options().parquet);
        let groups = FileGroup::new(self.files.clone()).split_files(session.config().target_partitions());
        let config = FileScanConfigBuilder::new(self.place.url.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_limit(limit)
            .with_projection_indices(Some(self.view.project(projection)))?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// The rows are filtered above; DataFusion's optimiser hands what it can down to the Parquet reader.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}
