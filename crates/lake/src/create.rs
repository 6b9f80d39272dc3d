//! Creating a table from its specification, and bringing an older one up to it.

use deltalake::DeltaTable;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::PROTOCOL;
use deltalake::kernel::{StructField, StructType};
use deltalake::logstore::LogStoreRef;
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::SaveMode;
use uptake_model::TableSpec;

use crate::error::{Error, Result};

/// Versions of the Delta protocol that exist; a table beyond them was written by something newer.
const NEWEST_READER: i32 = 3;
const NEWEST_WRITER: i32 = 7;

/// Commits between checkpoints.
const CHECKPOINT_INTERVAL: &str = "100";
/// How long the log is kept; readers that were away for longer rebuild.
const LOG_RETENTION: &str = "interval 7 days";

/// Creates the table; a table that another process creates at the same moment is as good.
pub(crate) async fn create(log_store: &LogStoreRef, spec: &TableSpec) -> Result<()> {
    let context = || format!("create {spec}");
    let schema = kernel_schema(spec)?;
    let properties = [
        ("delta.checkpointInterval", CHECKPOINT_INTERVAL.to_owned()),
        ("delta.dataSkippingStatsColumns", spec.statistics.join(",")),
        ("delta.logRetentionDuration", LOG_RETENTION.to_owned()),
    ];
    let result = CreateBuilder::new()
        .with_log_store(LogStoreRef::clone(log_store))
        .with_table_name(spec.qualified())
        .with_comment(spec.grain)
        .with_columns(schema.fields().cloned())
        .with_partition_columns(spec.partition.iter().copied())
        .with_configuration(properties.map(|(key, value)| (key, Some(value))))
        .with_save_mode(SaveMode::ErrorIfExists)
        .await;
    match result {
        Ok(_) => Ok(()),
        Err(error) => {
            // Lost against another creator, or created with the answer lost: then the table is there now.
            let exists = log_store.is_delta_table_location().await;
            if matches!(exists, Ok(true)) { Ok(()) } else { Err(Error::sort(context(), error)) }
        }
    }
}

fn kernel_schema(spec: &TableSpec) -> Result<StructType> {
    spec.schema()
        .as_ref()
        .try_into_kernel()
        .map_err(|error: arrow::error::ArrowError| Error::bug(format!("describe {spec}"), error))
}

/// Whether this version may read (and, for `write`, write) the table.
pub(crate) fn check_protocol(table: &DeltaTable, spec: &TableSpec, write: bool) -> Result<()> {
    let snapshot = state_of(table, spec)?;
    let newer = |detail: String| Error::Newer { table: spec.qualified(), detail };
    let (reader, writer) = (snapshot.protocol().min_reader_version(), snapshot.protocol().min_writer_version());
    if reader > NEWEST_READER || (write && writer > NEWEST_WRITER) {
        return Err(newer(format!("reader version {reader}, writer version {writer}")));
    }
    let allowed = if write { PROTOCOL.can_write_to(snapshot) } else { PROTOCOL.can_read_from(snapshot) };
    allowed.map_err(|error| newer(error.to_string()))
}

/// The columns of the specification that the table lacks; an error where a type contradicts it.
pub(crate) fn missing_columns(table: &DeltaTable, spec: &TableSpec) -> Result<Vec<StructField>> {
    let incompatible = |detail: String| Error::Incompatible { table: spec.qualified(), detail };
    let snapshot = state_of(table, spec)?;
    let (present, wanted) = (snapshot.schema(), kernel_schema(spec)?);
    let mut missing = Vec::new();
    for field in wanted.fields() {
        match present.field(field.name()) {
            None => missing.push(field.clone()),
            Some(found) if found.data_type() != field.data_type() => {
                return Err(incompatible(format!(
                    "column `{}` is {}, this version writes {}",
                    field.name(),
                    found.data_type(),
                    field.data_type()
                )));
            }
            Some(_) => {}
        }
    }
    if let Some(foreign) = present.fields().find(|field| wanted.field(field.name()).is_none() && !field.is_nullable()) {
        return Err(incompatible(format!(
            "column `{}` must not be null and this version does not write it",
            foreign.name()
        )));
    }
    if snapshot.metadata().partition_columns() != spec.partition {
        return Err(incompatible(format!(
            "the table is partitioned by {:?}, this version writes by {:?}",
            snapshot.metadata().partition_columns(),
            spec.partition
        )));
    }
    Ok(missing)
}

/// Adds columns; in old rows they are null, whatever the specification says of new ones.
pub(crate) async fn add_columns(table: &DeltaTable, spec: &TableSpec, missing: Vec<StructField>) -> Result<DeltaTable> {
    let names: Vec<&str> = missing.iter().map(|field| field.name().as_str()).collect();
    tracing::info!(table = %spec, columns = ?names, "adding columns");
    let nullable: Vec<StructField> =
        missing.iter().map(|field| StructField::nullable(field.name(), field.data_type().clone())).collect();
    table
        .clone()
        .add_columns()
        .with_fields(nullable)
        .await
        .map_err(|error| Error::sort(format!("add columns to {spec}"), error))
}

fn state_of<'a>(table: &'a DeltaTable, spec: &TableSpec) -> Result<&'a deltalake::table::state::DeltaTableState> {
    table.snapshot().map_err(|error| Error::bug(format!("read the state of {spec}"), error))
}
