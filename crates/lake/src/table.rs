//! One Delta table.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::DateTime;
use datafusion::catalog::TableProvider;
use deltalake::DeltaTable;
use deltalake::logstore::LogStoreRef;
use uptake_model::TableSpec;
use uptake_model::time::Micros;

use crate::error::{Error, Result};
use crate::lake::Lake;
use crate::log::Positions;
use crate::request::{File, HistoryEntry};
use crate::{create, provider};

/// One table at one version, which moves with [`Table::refresh`] and with every commit made through it.
///
/// All methods take `&self`: share it in an `Arc`. Commits made through one `Table` follow one another.
pub struct Table {
    lake: Lake,
    spec: &'static TableSpec,
    log_store: LogStoreRef,
    state: RwLock<State>,
    /// One commit at a time: rivals inside one process would only fence each other.
    pub(crate) committing: tokio::sync::Mutex<()>,
    read_only: bool,
}

/// A list of files that lies further behind is read anew: following one commit after another costs more.
const FOLLOWED_COMMITS: i64 = 16;

/// What is known of the table.
///
/// A writer that appends needs no list of files, so its commits cost the same however many files there are: `head` and the
/// positions move with each of them, the list only when somebody reads.
#[derive(Clone)]
pub(crate) struct State {
    /// Columns, properties and files at a version up to `head`.
    pub(crate) table: DeltaTable,
    /// The version that the handle looks at.
    pub(crate) head: i64,
    /// The positions at a version up to `head`.
    pub(crate) positions: Arc<Positions>,
}

impl fmt::Debug for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Table")
            .field("name", &self.spec.qualified())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) async fn open(lake: Lake, spec: &'static TableSpec) -> Result<Option<Self>> {
        let log_store = lake.log_store(spec)?;
        let exists = log_store.is_delta_table_location().await;
        if !exists.map_err(|error| Error::sort(format!("open {spec}"), error))? {
            return Ok(None);
        }
        let table = load(&log_store, spec, None).await?;
        create::check_protocol(&table, spec, false)?;
        Ok(Some(Self::over(lake, spec, log_store, table, false)))
    }

    pub(crate) async fn open_or_create(lake: Lake, spec: &'static TableSpec) -> Result<Self> {
        let opened = if let Some(table) = Self::open(lake.clone(), spec).await? {
            table
        } else {
            create::create(&lake.log_store(spec)?, spec).await?;
            let absent = || Error::Absent { table: spec.qualified() };
            Self::open(lake, spec).await?.ok_or_else(absent)?
        };
        opened.evolve().await?;
        Ok(opened)
    }

    /// Adds the columns that the table lacks. Lost against another process that does the same, it looks again.
    async fn evolve(&self) -> Result<()> {
        let mut attempts = 3;
        loop {
            let State { table, positions, .. } = self.state();
            create::check_protocol(&table, self.spec, true)?;
            let missing = create::missing_columns(&table, self.spec)?;
            if missing.is_empty() {
                return Ok(());
            }
            attempts -= 1;
            match create::add_columns(&table, self.spec, missing).await {
                Ok(table) => self.set(State { head: version_of(&table), table, positions }),
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => drop(self.fresh().await?),
            }
        }
    }

    fn over(lake: Lake, spec: &'static TableSpec, log_store: LogStoreRef, table: DeltaTable, read_only: bool) -> Self {
        let (head, positions) = (version_of(&table), Arc::default());
        Self {
            lake,
            spec,
            log_store,
            state: RwLock::new(State { table, head, positions }),
            committing: tokio::sync::Mutex::new(()),
            read_only,
        }
    }

    /// The specification.
    pub fn spec(&self) -> &'static TableSpec {
        self.spec
    }

    /// The lake that the table is in.
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// The version that this handle looks at.
    pub fn version(&self) -> i64 {
        self.state().head
    }

    /// The id that the table got when it was created (Delta's `metaData.id`); a table made anew has another.
    pub fn table_id(&self) -> String {
        let state = self.state();
        state.table.snapshot().map_or_else(|_| String::new(), |snapshot| snapshot.metadata().id().to_owned())
    }

    /// Looks at the newest version; returns it. A table of the past stays where it is.
    ///
    /// # Errors
    /// What the store says.
    pub async fn refresh(&self) -> Result<i64> {
        Ok(self.fresh().await?.head)
    }

    /// The position under an application id at [`Table::version`].
    ///
    /// # Errors
    /// What the store says.
    pub async fn position(&self, key: &str) -> Result<Option<i64>> {
        Ok(self.with_positions(self.state()).await?.positions.get(key))
    }

    /// The positions whose application id begins with `prefix`, in the order of their ids, at [`Table::version`].
    ///
    /// # Errors
    /// What the store says.
    pub async fn positions(&self, prefix: &str) -> Result<Vec<(String, i64)>> {
        Ok(self.with_positions(self.state()).await?.positions.with_prefix(prefix))
    }

    /// The data files at the version that was last opened, refreshed or read, in the order of their paths; a handle
    /// that has committed since must be refreshed first.
    pub fn files(&self) -> Vec<File> {
        files_of(&self.state())
    }

    /// The table as DataFusion reads it: partition columns last, strings as `Utf8`; filters prune files by partition
    /// value and statistics.
    ///
    /// # Errors
    /// When the table needs abilities that this version does not have.
    pub async fn provider(&self) -> Result<Arc<dyn TableProvider>> {
        provider::of_table(&self.lake, self.spec, &self.caught_up().await?)
    }

    /// The rows of some data files alone, with the schema of [`Table::provider`]. The files may belong to a version of
    /// the past, as long as no vacuum has removed them.
    ///
    /// # Errors
    /// When a partition value cannot be read, or the table needs abilities that this version does not have.
    pub fn provider_of(&self, files: &[File]) -> Result<Arc<dyn TableProvider>> {
        provider::of_files(&self.lake, self.spec, &self.state(), files)
    }

    /// The table as it was at a version; it cannot be written.
    ///
    /// # Errors
    /// When that version does not exist or has been cleaned up.
    pub async fn at_version(&self, version: i64) -> Result<Self> {
        let number = u64::try_from(version).ok().filter(|_| version <= self.version());
        let unknown = || {
            Error::Invalid(format!("{}: there is no version {version}, the newest is {}", self.spec, self.version()))
        };
        let number = number.ok_or_else(unknown)?;
        let table = load(&self.log_store, self.spec, Some(number)).await.map_err(|error| match error {
            Error::Corrupt { source, .. } => Error::Invalid(format!(
                "{}: version {version} cannot be read any more, the log is kept for seven days: {source}",
                self.spec
            )),
            other => other,
        })?;
        Ok(Self::over(self.lake.clone(), self.spec, LogStoreRef::clone(&self.log_store), table, true))
    }

    /// The table as it was at a time (microseconds since 1970); it cannot be written.
    ///
    /// # Errors
    /// When the table did not exist then, or that part of the log has been cleaned up.
    pub async fn at_time(&self, time: Micros) -> Result<Self> {
        let out = || Error::Invalid(format!("{time} microseconds since 1970 is no time of the calendar"));
        let moment = DateTime::from_timestamp_micros(time).ok_or_else(out)?;
        let millis = moment.timestamp_millis();
        // Times of commits ascend, and what was cleaned up lies before all that is left.
        let (mut before, mut after) = (-1, self.version() + 1);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            match self.time_of(middle).await? {
                Some(at) if at > millis => after = middle,
                _ => before = middle,
            }
        }
        if before < 0 || self.time_of(before).await?.is_none() {
            return Err(Error::Invalid(format!(
                "{}: the log knows no version of {} or before; the log is kept for seven days",
                self.spec,
                moment.format("%Y-%m-%d %H:%M:%S UTC")
            )));
        }
        let version = before;
        self.at_version(version).await
    }

    /// The newest commits, newest first.
    ///
    /// # Errors
    /// What the store says.
    pub async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>> {
        let mut entries = Vec::new();
        let mut version = self.version();
        while version >= 0 && entries.len() < limit {
            // What lies before the first entry that is left has been cleaned up.
            let Some(entry) = crate::log::entry(&self.log_store, &self.spec.qualified(), version).await? else {
                break;
            };
            entries.push(HistoryEntry {
                version,
                timestamp: entry.info.get("timestamp").and_then(serde_json::Value::as_i64),
                operation: Some(entry.operation().to_owned()).filter(|operation| !operation.is_empty()),
                info: entry.info,
            });
            version -= 1;
        }
        Ok(entries)
    }

    /// When a version was committed, milliseconds since 1970; none when its entry has been cleaned up.
    async fn time_of(&self, version: i64) -> Result<Option<i64>> {
        let entry = crate::log::entry(&self.log_store, &self.spec.qualified(), version).await?;
        Ok(entry.map(|entry| entry.info.get("timestamp").and_then(serde_json::Value::as_i64).unwrap_or(0)))
    }

    pub(crate) fn log_store(&self) -> &LogStoreRef {
        &self.log_store
    }

    /// Refuses to write a table of the past.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::Invalid(format!("{}: a version of the past cannot be written", self.spec)));
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up a newer state; an older one, read before another task moved on, is dropped.
    pub(crate) fn set(&self, state: State) {
        let mut current = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.head >= current.head {
            *current = state;
        }
    }

    /// The newest state of the table with its files, which is also taken up.
    pub(crate) async fn fresh(&self) -> Result<State> {
        let state = self.state();
        if self.read_only { Ok(state) } else { self.advance(state, None).await }
    }

    /// The state with the files of the version that this handle looks at.
    pub(crate) async fn caught_up(&self) -> Result<State> {
        let state = self.state();
        if version_of(&state.table) == state.head {
            return Ok(state);
        }
        let head = state.head;
        self.advance(state, Some(head)).await
    }

    /// Brings the list of files up to a version, or to the newest.
    async fn advance(&self, mut state: State, to: Option<i64>) -> Result<State> {
        let to = to.and_then(|version| u64::try_from(version).ok());
        if state.head - version_of(&state.table) > FOLLOWED_COMMITS {
            state.table = load(&self.log_store, self.spec, to).await?;
        } else {
            let followed = state.table.update_incremental(to).await;
            followed.map_err(|error| Error::sort(format!("refresh {}", self.spec), error))?;
        }
        state.head = state.head.max(version_of(&state.table));
        self.set(state.clone());
        Ok(state)
    }

    /// The newest version and its positions, without a list of files unless the columns have changed.
    pub(crate) async fn newest(&self) -> Result<State> {
        let mut state = self.state();
        let known = u64::try_from(state.head).unwrap_or(0);
        let newest = match self.log_store.get_latest_version(known).await {
            Ok(newest) => newest,
            // The log was cleaned up behind this handle.
            Err(deltalake::DeltaTableError::InvalidVersion(_)) => {
                return self.with_positions(self.fresh().await?).await;
            }
            Err(error) => return Err(Error::sort(format!("refresh {}", self.spec), error)),
        };
        state.head = state.head.max(i64::try_from(newest).unwrap_or(state.head));
        let state = self.with_positions(state).await?;
        if !state.positions.reshaped_since(version_of(&state.table)) {
            return Ok(state);
        }
        let state = self.caught_up().await?;
        create::check_protocol(&state.table, self.spec, true)?;
        self.with_positions(state).await
    }

    /// The state with its positions folded up to its version.
    pub(crate) async fn with_positions(&self, mut state: State) -> Result<State> {
        let mut positions = (*state.positions).clone();
        positions.follow(&self.log_store, &self.spec.qualified(), state.head).await?;
        state.positions = Arc::new(positions);
        self.set(state.clone());
        Ok(state)
    }
}

async fn load(log_store: &LogStoreRef, spec: &TableSpec, version: Option<u64>) -> Result<DeltaTable> {
    let mut table = DeltaTable::new(LogStoreRef::clone(log_store));
    table.update_incremental(version).await.map_err(|error| Error::sort(spec.qualified(), error))?;
    Ok(table)
}

pub(crate) fn version_of(table: &DeltaTable) -> i64 {
    table.version().and_then(|version| i64::try_from(version).ok()).unwrap_or(-1)
}

pub(crate) fn files_of(state: &State) -> Vec<File> {
    let Ok(snapshot) = state.table.snapshot() else {
        return Vec::new();
    };
    let mut files: Vec<File> = snapshot
        .log_data()
        .into_iter()
        .map(|view| File {
            path: view.path().into_owned(),
            size: u64::try_from(view.size()).unwrap_or(0),
            partition: view.partition_values_map().into_iter().collect(),
            rows: view.num_records().and_then(|rows| u64::try_from(rows).ok()),
        })
        .collect();
    files.sort();
    files
}
