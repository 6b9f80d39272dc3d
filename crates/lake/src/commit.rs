//! One commit: rows, removals and positions, all or nothing, once.
//!
//! The writer reads the newest version, judges its positions against it, and puts its commit on exactly the version after
//! it. Whatever came between makes the put fail, and then everything is judged anew. An answer that was lost is looked
//! for in the log under the commit's own id.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use deltalake::checkpoints;
use deltalake::kernel::transaction::{CommitData, PROTOCOL, TransactionError};
use deltalake::kernel::{Action, Add, Remove, Transaction};
use deltalake::logstore::{CommitOrBytes, LogStore as _};
use deltalake::protocol::{DeltaOperation, SaveMode};
use serde_json::{Map, Value, json};
use uptake_model::TableSpec;
use uptake_model::time::Day;
use uptake_progress::{Claim, Judgement, judge_all};
use uuid::Uuid;

use crate::encode::{self, Encoded};
use crate::error::{Error, Result};
use crate::log;
use crate::request::{Advance, CommitRequest, Committed};
use crate::scope::{self, Scope, Staged};
use crate::table::{State, Table};
use crate::upload::{self, backoff};

/// How often a commit is tried before the caller is told to wait.
const ATTEMPTS: u32 = 12;
/// Commits between checkpoints, as [`create`](crate::create) tells other writers too.
const CHECKPOINT_INTERVAL: i64 = 100;
/// The key in a commit's information under which its own id stands.
const COMMIT_ID: &str = "commitId";

/// What a commit does to the files.
#[derive(Debug)]
enum Plan {
    Append,
    /// Replaces `base`, the files that this writer saw; `changed` of them go.
    Replace {
        scope: Scope,
        base: BTreeSet<String>,
        changed: BTreeSet<String>,
    },
}

/// All of a commit but the version that it will be.
#[derive(Debug)]
struct Draft {
    id: String,
    plan: Plan,
    adds: Vec<Add>,
    advances: Vec<Advance>,
    watermarks: Vec<(String, i64)>,
    metadata: Map<String, Value>,
}

/// Why a put has not given a version.
enum Failure {
    /// Another commit took the version, or this one did and the answer says otherwise.
    Taken,
    /// Nobody knows.
    Unknown(Error),
    /// It certainly did not happen, and trying again will not help.
    Certain(Error),
}

impl Table {
    /// Appends rows and moves positions in one commit.
    ///
    /// Rows are in the table once: [`Committed::AlreadyThere`] means that this span had been committed before, by an
    /// earlier attempt or by a twin. Transient failures are tried again for some seconds.
    ///
    /// # Errors
    /// [`Error::Fenced`] when another writer has moved a position; [`Error::Invalid`] when rows do not fit the table;
    /// kind `Retry` when the store stays away or full: the same request may be made again.
    pub async fn append(&self, request: CommitRequest) -> Result<Committed> {
        self.check_writable()?;
        let _turn = self.committing.lock().await;
        let CommitRequest { batches, advances, watermarks, metadata } = request;
        if let Some(committed) = self.foreseen(&advances).await? {
            return Ok(committed);
        }
        let files = self.encode(batches).await?;
        let adds = upload::upload(self.log_store(), self.spec(), files).await?;
        let draft = Draft::new(Plan::Append, adds, advances, watermarks, metadata);
        self.publish(draft).await
    }

    /// Replaces whole days (or, with `slice`, those partitions of the days that have one more partition value, such as
    /// `("rule_id", "repair")`) by the rows of the request, and moves positions, in one commit.
    ///
    /// A day without rows becomes empty. Partitions whose rows are the same, byte by byte, stay as they are. In a table
    /// without a date partition `days` must be empty and everything is replaced. What this handle looks at when
    /// the call begins is what is replaced: refresh it before reading what the new rows are computed from.
    ///
    /// # Errors
    /// [`Error::Conflict`] when another writer has changed the same partitions since this handle was refreshed; rows
    /// outside of the days and the slice are invalid; else as [`Table::append`].
    pub async fn replace(
        &self,
        days: &[Day],
        slice: Option<(&str, &str)>,
        mut request: CommitRequest,
    ) -> Result<Committed> {
        self.check_writable()?;
        let _turn = self.committing.lock().await;
        let batches = std::mem::take(&mut request.batches);
        let scope = Scope::new(self.spec(), days, slice)?;
        let seen = self.caught_up().await?;
        if let Some(committed) = self.foreseen(&request.advances).await? {
            return Ok(committed);
        }
        let staged = self.write(scope, &seen, batches).await?;
        self.show(staged, request).await
    }

    /// Writes the rows of whole days as [`Table::replace`] would, and leaves the days as they are until
    /// [`Table::replace_staged`]. What this handle looks at when the call begins is what will be replaced.
    ///
    /// # Errors
    /// As [`Table::replace`].
    pub async fn stage(
        &self,
        days: &[Day],
        slice: Option<(&str, &str)>,
        batches: Vec<arrow::array::RecordBatch>,
    ) -> Result<Staged> {
        self.check_writable()?;
        let scope = Scope::new(self.spec(), days, slice)?;
        let seen = self.caught_up().await?;
        self.write(scope, &seen, batches).await
    }

    /// Replaces the days of everything that was staged and moves positions, in one commit; `request` has no rows of its own.
    ///
    /// # Errors
    /// As [`Table::replace`]; invalid when parts overlap, or nothing was staged. The files of a commit that did not
    /// happen are removed where that is certain.
    pub async fn replace_staged(&self, staged: Vec<Staged>, request: CommitRequest) -> Result<Committed> {
        self.check_writable()?;
        let _turn = self.committing.lock().await;
        if !request.batches.is_empty() {
            return Err(Error::Invalid("rows are staged before they are shown".to_owned()));
        }
        let Some(staged) = Staged::together(staged)? else {
            return Err(Error::Invalid("nothing was staged".to_owned()));
        };
        if let Some(committed) = self.foreseen(&request.advances).await? {
            upload::remove(self.log_store(), self.spec(), &staged.adds).await;
            return Ok(committed);
        }
        self.show(staged, request).await
    }

    /// Removes what was staged and is not wanted. Files that cannot be removed are left to a vacuum.
    pub async fn discard(&self, staged: Vec<Staged>) {
        for part in staged {
            upload::remove(self.log_store(), self.spec(), &part.adds).await;
        }
    }

    async fn write(&self, scope: Scope, seen: &State, batches: Vec<arrow::array::RecordBatch>) -> Result<Staged> {
        let seen = scope.files(self.spec(), seen)?;
        let files = self.encode(batches).await?;
        scope.check(self.spec(), &files)?;
        let (changed, fresh) = scope::difference(&seen, files);
        let adds = upload::upload(self.log_store(), self.spec(), fresh).await?;
        let base = seen.into_iter().map(|view| view.path().into_owned()).collect();
        Ok(Staged { scope, base, changed, adds })
    }

    async fn show(&self, staged: Staged, request: CommitRequest) -> Result<Committed> {
        let CommitRequest { advances, watermarks, metadata, .. } = request;
        let Staged { scope, base, changed, adds } = staged;
        let plan = Plan::Replace { scope, base, changed };
        self.publish(Draft::new(plan, adds, advances, watermarks, metadata)).await
    }

    /// Encoding takes the processor for long: it runs beside the asynchronous tasks.
    async fn encode(&self, batches: Vec<arrow::array::RecordBatch>) -> Result<Vec<Encoded>> {
        let spec = self.spec();
        tokio::task::spawn_blocking(move || encode::encode(spec, &batches))
            .await
            .map_err(|error| Error::bug(format!("encode rows of {spec}"), error))?
    }

    /// What the positions say before anything is encoded. The store is asked only if what is known stands in the way.
    async fn foreseen(&self, advances: &[Advance]) -> Result<Option<Committed>> {
        let known = self.with_positions(self.state()).await?;
        if matches!(judged(self.spec(), &known, advances), Ok(None)) {
            return Ok(None);
        }
        judged(self.spec(), &self.newest().await?, advances)
    }

    async fn fresh_positions(&self) -> Result<State> {
        let state = self.fresh().await?;
        self.with_positions(state).await
    }

    async fn publish(&self, draft: Draft) -> Result<Committed> {
        let mut tried: Vec<i64> = Vec::new();
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(backoff(attempt)).await;
            }
            match self.attempt(&draft, &mut tried).await {
                Ok(committed) => {
                    if !committed.is_written() {
                        upload::remove(self.log_store(), self.spec(), &draft.adds).await;
                    }
                    return Ok(committed);
                }
                Err(Failure::Certain(error)) => {
                    upload::remove(self.log_store(), self.spec(), &draft.adds).await;
                    return Err(error);
                }
                Err(Failure::Taken) => tracing::debug!(table = %self.spec(), attempt, "another commit came first"),
                Err(Failure::Unknown(error)) => {
                    tracing::warn!(table = %self.spec(), attempt, %error, "the outcome of a commit is not known, looking for it in the log");
                    last = Some(error);
                }
            }
        }
        // The last put may still arrive, so its files stay; a vacuum removes them if it does not.
        Err(last.unwrap_or_else(|| Error::Conflict {
            table: self.spec().qualified(),
            detail: format!("{ATTEMPTS} attempts to commit were overtaken by other writers"),
        }))
    }

    async fn attempt(&self, draft: &Draft, tried: &mut Vec<i64>) -> Result<Committed, Failure> {
        let state = match draft.plan {
            Plan::Append => self.newest().await,
            Plan::Replace { .. } => self.fresh_positions().await,
        };
        let state = state.map_err(Failure::of_read)?;
        let version = state.head;
        if let Some(version) = self.landed(draft, tried, version).await.map_err(Failure::of_read)? {
            return Ok(Committed::Written { version });
        }
        if let Some(committed) = judged(self.spec(), &state, &draft.advances).map_err(Failure::Certain)? {
            return Ok(committed);
        }
        let removes = draft.removes(self.spec(), &state).map_err(Failure::Certain)?;
        let moved = draft.moved(&state);
        if draft.adds.is_empty() && removes.is_empty() && moved.is_empty() {
            return Ok(Committed::AlreadyThere { version });
        }
        tried.push(version + 1);
        let version = Box::pin(self.put(draft, removes, moved, &state)).await?;
        Ok(Committed::Written { version })
    }

    /// The version that holds this commit, among those on which it was tried.
    async fn landed(&self, draft: &Draft, tried: &[i64], newest: i64) -> Result<Option<i64>> {
        for version in tried.iter().copied().filter(|version| *version <= newest) {
            let entry = log::entry(self.log_store(), &self.spec().qualified(), version).await?;
            let id = entry.as_ref().and_then(|entry| entry.info.get(COMMIT_ID)).and_then(Value::as_str);
            if id == Some(draft.id.as_str()) {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// Puts the commit on the version after `state`.
    async fn put(
        &self,
        draft: &Draft,
        removes: Vec<Remove>,
        moved: Vec<(String, i64)>,
        state: &State,
    ) -> Result<i64, Failure> {
        let context = || format!("commit to {}", self.spec());
        let version = state.head + 1;
        let now = chrono::Utc::now().timestamp_millis();
        let transactions = moved.iter().map(|(key, to)| Transaction::new_with_last_update(key, *to, Some(now)));
        let removes = removes.into_iter().map(Action::Remove);
        let mut metadata: HashMap<String, Value> = draft.metadata.clone().into_iter().collect();
        metadata.insert("readVersion".to_owned(), json!(state.head));
        let data = CommitData::new(
            removes.chain(draft.adds.iter().cloned().map(Action::Add)).collect(),
            draft.plan.operation(self.spec()),
            metadata,
            transactions.collect(),
        );
        let snapshot = state.table.snapshot().map_err(|error| Failure::Certain(Error::bug(context(), error)))?;
        let allowed = PROTOCOL.can_commit(snapshot, &data.actions, &data.operation);
        allowed.map_err(|error| Failure::of_put(Error::sort(self.spec().qualified(), error)))?;
        let bytes = data.get_bytes().map_err(|error| Failure::Certain(Error::bug(context(), error)))?;
        let number = u64::try_from(version).map_err(|error| Failure::Certain(Error::bug(context(), error)))?;
        let put = self.log_store().write_commit_entry(number, CommitOrBytes::LogBytes(bytes), Uuid::now_v7());
        put.await.map_err(|error| match error {
            TransactionError::VersionAlreadyExists(_) => Failure::Taken,
            other => Failure::of_put(Error::sort(context(), other)),
        })?;
        let positions = Arc::new(state.positions.after(version, moved));
        self.set(State { table: state.table.clone(), head: version, positions });
        if (version + 1) % CHECKPOINT_INTERVAL == 0 {
            Box::pin(self.keep_log(version)).await;
        }
        Ok(version)
    }

    /// Writes a checkpoint and removes log entries past their retention. The commit before it stands whether this
    /// succeeds or not: the next time makes up for it.
    async fn keep_log(&self, version: i64) {
        let kept = async {
            let table = self.caught_up().await?.table;
            let context = || format!("keep the log of {}", self.spec());
            checkpoints::create_checkpoint(&table, None).await.map_err(|error| Error::sort(context(), error))?;
            checkpoints::cleanup_metadata(&table, None).await.map_err(|error| Error::sort(context(), error))
        };
        match kept.await {
            Ok(removed) => tracing::debug!(table = %self.spec(), version, removed, "wrote a checkpoint"),
            Err(error) => {
                tracing::warn!(table = %self.spec(), version, %error, "no checkpoint, the next one makes up for it");
            }
        }
    }
}

impl Failure {
    fn of_read(error: Error) -> Self {
        if error.is_retryable() { Self::Unknown(error) } else { Self::Certain(error) }
    }

    /// A disk that is full has not taken the commit: its file is linked into place after it is whole.
    fn of_put(error: Error) -> Self {
        if matches!(error, Error::Unreachable { .. } | Error::Corrupt { .. }) {
            Self::Unknown(error)
        } else {
            Self::Certain(error)
        }
    }
}

/// What the positions say before anything is written: commit (none), or it is there already.
fn judged(spec: &TableSpec, state: &State, advances: &[Advance]) -> Result<Option<Committed>> {
    let claims: Vec<(Option<i64>, Claim)> = advances
        .iter()
        .map(|advance| (state.positions.get(&advance.key), Claim { from: advance.from, to: advance.to }))
        .collect();
    match judge_all(&claims) {
        Judgement::Commit => Ok(None),
        Judgement::AlreadyThere => Ok(Some(Committed::AlreadyThere { version: state.head })),
        Judgement::Fenced { index, stored } => Err(Error::Fenced {
            table: spec.qualified(),
            key: advances[index].key.clone(),
            stored,
            from: advances[index].from,
        }),
    }
}

impl Plan {
    fn operation(&self, spec: &TableSpec) -> DeltaOperation {
        let partition_by =
            (!spec.partition.is_empty()).then(|| spec.partition.iter().map(ToString::to_string).collect());
        match self {
            Self::Append => DeltaOperation::Write { mode: SaveMode::Append, partition_by, predicate: None },
            Self::Replace { scope, .. } => {
                DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by, predicate: scope.predicate() }
            }
        }
    }
}

impl Draft {
    fn new(
        plan: Plan,
        adds: Vec<Add>,
        advances: Vec<Advance>,
        watermarks: Vec<(String, i64)>,
        mut metadata: Map<String, Value>,
    ) -> Self {
        let id = Uuid::now_v7().to_string();
        metadata.insert(COMMIT_ID.to_owned(), json!(id));
        if !watermarks.is_empty() {
            metadata.insert("watermarks".to_owned(), json!(watermarks.iter().cloned().collect::<BTreeMap<_, _>>()));
        }
        Self { id, plan, adds, advances, watermarks, metadata }
    }

    /// The positions that this commit writes: those that move, and watermarks that rise.
    fn moved(&self, state: &State) -> Vec<(String, i64)> {
        let mut moved: BTreeMap<String, i64> = BTreeMap::new();
        for advance in self.advances.iter().filter(|advance| advance.from != Some(advance.to)) {
            moved.insert(advance.key.clone(), advance.to);
        }
        for (key, value) in &self.watermarks {
            let stored = state.positions.get(key);
            let rises = key.starts_with("watermark/") && stored.is_none_or(|stored| *value > stored);
            if rises || (!key.starts_with("watermark/") && stored != Some(*value)) {
                moved.insert(key.clone(), *value);
            }
        }
        moved.into_iter().collect()
    }

    /// The files that go; an error when another writer has changed what this one saw.
    fn removes(&self, spec: &TableSpec, state: &State) -> Result<Vec<Remove>> {
        let Plan::Replace { scope, base, changed } = &self.plan else {
            return Ok(Vec::new());
        };
        let live = scope.files(spec, state)?;
        let now: BTreeSet<String> = live.iter().map(|view| view.path().into_owned()).collect();
        if now != *base {
            return Err(Error::Conflict {
                table: spec.qualified(),
                detail: format!("another writer has changed {} of the same partitions", scope.text()),
            });
        }
        let gone = live.iter().filter(|view| changed.contains(view.path().as_ref()));
        Ok(gone.map(|view| view.remove_action(true)).collect())
    }
}
