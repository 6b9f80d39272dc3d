//! The root below which every table lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use datafusion::prelude::{SessionContext, col, lit};
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use uptake_model::tables::{DEAD_LETTERS, EVENTS};
use uptake_model::time::Micros;
use uptake_model::{Next, SourcePartition, TableSpec};
use uptake_progress::watermark::{PartitionWatermark, overall};
use url::Url;

use crate::error::{Error, Result};
use crate::store;
use crate::table::Table;

/// A lake: a directory or an `s3://` prefix with one directory per table. Cheap to clone.
#[derive(Clone)]
pub struct Lake {
    inner: Arc<Inner>,
}

struct Inner {
    /// Rooted at the scheme and host of `url`.
    root: Arc<dyn ObjectStore>,
    /// Rooted at the lake.
    store: Arc<dyn ObjectStore>,
    url: Url,
}

impl fmt::Debug for Lake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lake").field("url", &self.inner.url.as_str()).finish()
    }
}

impl Lake {
    /// Opens a lake by name: a directory (also a relative one) or an `s3://bucket/prefix`. Nothing is read or created
    /// before it is needed. Credentials, region and endpoint of `s3://` come from the environment (`AWS_*`).
    ///
    /// # Errors
    /// When the name is neither.
    pub fn open(name: &str) -> Result<Self> {
        let (root, url) = store::resolve(name, store::environment())?;
        Self::over(root, url)
    }

    /// Opens a lake by name with other settings than those of this process's environment.
    ///
    /// # Errors
    /// As [`Lake::open`].
    #[cfg(any(test, feature = "testing"))]
    pub fn open_with(name: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let (root, url) = store::resolve(name, environment)?;
        Self::over(root, url)
    }

    /// A lake over a store that is rooted at the scheme and host of `url`.
    ///
    /// # Errors
    /// When the URL is no path of a store.
    #[cfg(any(test, feature = "testing"))]
    pub fn with_store(root: Arc<dyn ObjectStore>, url: Url) -> Result<Self> {
        Self::over(root, url)
    }

    /// A lake in memory.
    ///
    /// # Errors
    /// Never in practice.
    #[cfg(any(test, feature = "testing"))]
    pub fn in_memory() -> Result<Self> {
        let url = Url::parse("memory:///lake/").map_err(|error| Error::bug("name a lake in memory", error))?;
        Self::over(Arc::new(object_store::memory::InMemory::new()), url)
    }

    fn over(root: Arc<dyn ObjectStore>, url: Url) -> Result<Self> {
        let prefix = store::path_of(&url)?;
        let store = Arc::new(PrefixStore::new(Arc::clone(&root), prefix));
        Ok(Self { inner: Arc::new(Inner { root, store, url }) })
    }

    /// Where the lake is; ends with a slash.
    pub fn url(&self) -> &Url {
        &self.inner.url
    }

    /// The object store, rooted at the lake.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner.store)
    }

    /// The store rooted at scheme and host, as the URLs of query plans need it.
    pub(crate) fn root_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner.root)
    }

    /// The URL of a table's directory; ends with a slash.
    pub(crate) fn table_url(&self, spec: &TableSpec) -> Result<Url> {
        self.inner
            .url
            .join(&format!("{}/", spec.path()))
            .map_err(|error| Error::bug(format!("name the directory of {spec}"), error))
    }

    /// The log of a table.
    pub(crate) fn log_store(&self, spec: &TableSpec) -> Result<LogStoreRef> {
        let url = self.table_url(spec)?;
        let prefixed = PrefixStore::new(self.root_store(), store::path_of(&url)?);
        Ok(default_logstore(Arc::new(prefixed), self.root_store(), &url, &StorageConfig::default()))
    }

    /// Opens a table, creating it when absent and adding the columns that it lacks.
    ///
    /// # Errors
    /// [`Error::Newer`] when a newer version has written it, [`Error::Incompatible`] when its columns contradict the
    /// specification, and what the store says.
    pub async fn table(&self, spec: &'static TableSpec) -> Result<Table> {
        Table::open_or_create(self.clone(), spec).await
    }

    /// Opens a table if it exists; never creates or changes it.
    ///
    /// # Errors
    /// As [`Lake::table`].
    pub async fn existing(&self, spec: &'static TableSpec) -> Result<Option<Table>> {
        Table::open(self.clone(), spec).await
    }

    /// The event time up to which bronze `events` is complete: the least watermark over the sources that are not idle;
    /// when all are idle or finished, the greatest. None before the first commit with a watermark.
    ///
    /// # Errors
    /// What the store says.
    pub async fn watermark(&self) -> Result<Option<Micros>> {
        let sources = self.watermarks().await?;
        let partitions = sources
            .into_values()
            .map(|watermark| PartitionWatermark { at: watermark.at.saturating_mul(1_000), ..watermark });
        Ok(overall(partitions))
    }

    /// The watermark (milliseconds) and idleness of every source, by `<topic>/<partition>`.
    async fn watermarks(&self) -> Result<BTreeMap<String, PartitionWatermark>> {
        let Some(events) = self.existing(&EVENTS).await? else {
            return Ok(BTreeMap::new());
        };
        let mut sources: BTreeMap<String, PartitionWatermark> = BTreeMap::new();
        for (key, at) in events.positions("watermark/").await? {
            let source = key.trim_start_matches("watermark/").to_owned();
            sources.insert(source, PartitionWatermark { at, idle: false });
        }
        for (key, idle) in events.positions("idle/").await? {
            if let Some(source) = sources.get_mut(key.trim_start_matches("idle/")) {
                source.idle = idle != 0;
            }
        }
        Ok(sources)
    }

    /// The offsets in `[from, to)` of a source partition that are dead letters already.
    ///
    /// # Errors
    /// What the store says.
    pub async fn letters_in(&self, source: &SourcePartition, from: Next, to: Next) -> Result<BTreeSet<i64>> {
        let Some(letters) = self.existing(&DEAD_LETTERS).await? else {
            return Ok(BTreeSet::new());
        };
        let context = || format!("read the dead letters of {source}");
        let session = SessionContext::new();
        let batches = session
            .read_table(letters.provider().await?)
            .and_then(|frame| {
                frame.filter(
                    col("topic")
                        .eq(lit(source.topic.as_str()))
                        .and(col("partition").eq(lit(source.partition)))
                        .and(col("offset").gt_eq(lit(from.0)))
                        .and(col("offset").lt(lit(to.0))),
                )
            })
            .and_then(|frame| frame.select_columns(&["offset"]))
            .map_err(|error| Error::bug(context(), error))?
            .collect()
            .await
            .map_err(|error| Error::sort(context(), error))?;
        let mut offsets = BTreeSet::new();
        for batch in &batches {
            let column = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(0));
            offsets.extend(column.iter().flatten());
        }
        Ok(offsets)
    }
}
