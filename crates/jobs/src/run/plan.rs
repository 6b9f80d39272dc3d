//! What is to be done: the sources, what is new in them, and the days that have to be built.

use std::collections::BTreeSet;

use uptake_lake::{Changes, Table};
use uptake_model::TableSpec;
use uptake_model::time::{Day, Micros};

use super::{Job, run_literals};
use crate::error::Result;
use crate::functions::Tagging;
use crate::report::{RunReport, SourceVersion};
use crate::session::{Session, empty};

/// A table that the pipeline reads, with what is new in it.
pub(super) struct Source {
    pub(super) spec: &'static TableSpec,
    /// None where the lake does not hold it yet.
    pub(super) table: Option<Table>,
    pub(super) key: String,
    pub(super) stored: Option<i64>,
    pub(super) changes: Option<Changes>,
}

/// What is to be done.
pub(super) struct Work {
    pub(super) output: Table,
    pub(super) sources: Vec<Source>,
    pub(super) days: BTreeSet<Day>,
    pub(super) generation: String,
    pub(super) previous_watermark: Option<Micros>,
}

impl Job<'_> {
    /// Finds what has changed.
    pub(super) async fn plan(&self, tagging: &Tagging, report: &mut RunReport) -> Result<Work> {
        let output = self.lake.table(self.pipeline.output).await.map_err(self.lake_error("open the output"))?;
        let generation = report.generation.clone();
        let watermark_key = watermark_key(&self.pipeline.name, &generation);
        let previous_watermark = output
            .position(&watermark_key)
            .await
            .map_err(self.lake_error("read the output's positions"))?
            .map(|millis| millis.saturating_mul(1_000));
        let mut sources = Vec::new();
        let mut full = self.options.full_rebuild.then(|| "asked for".to_owned());
        for spec in &self.pipeline.sources {
            let table = self.lake.existing(spec).await.map_err(self.lake_error("open a source"))?;
            let mut source = Source { spec, table, key: String::new(), stored: None, changes: None };
            if let Some(fault) = self.changes(&output, &generation, &mut source).await? {
                full = full.or(Some(fault));
            }
            if let Some(table) = &source.table {
                let version = SourceVersion { from: source.stored, to: table.version() };
                let _ = report.sources.insert(spec.qualified(), version);
            }
            sources.push(source);
        }
        // A source that this generation has not read: nothing was read yet, or the table was made anew.
        if sources.iter().any(|source| source.table.is_some() && source.stored.is_none()) {
            let earlier = output.positions(&format!("{}/", self.pipeline.name)).await;
            let earlier = earlier.map_err(self.lake_error("read the output's positions"))?;
            let reason = match (earlier.is_empty(), sources.iter().any(|source| source.stored.is_some())) {
                (true, _) => "first build",
                (false, true) => "a table that it reads is new",
                (false, false) => "its SQL, parameters or tagger changed",
            };
            full = full.or(Some(reason.to_owned()));
        }
        // A table holds the rows of one generation. Going back to an earlier one, as after a rollback of the tagger, finds
        // that one's old positions in the table, and other rows.
        if sources.iter().any(|source| source.stored.is_some()) {
            let built = output.position(&generation_key(&self.pipeline.name)).await;
            if built.map_err(self.lake_error("read the output's positions"))? != Some(generation_number(&generation)) {
                full = full.or_else(|| Some("another generation of it has built the table since".to_owned()));
            }
        }
        let mut work = Work { output, sources, days: BTreeSet::new(), generation, previous_watermark };
        work.days = if full.is_some() {
            Box::pin(self.all_days(&work, tagging)).await?
        } else {
            Box::pin(self.dirty_days(&work, tagging)).await?
        };
        report.full_rebuild = full.filter(|_| !work.days.is_empty());
        Ok(work)
    }

    /// Fills in what is new in a source. Says why where that cannot be told, so that everything is built anew.
    async fn changes(&self, output: &Table, generation: &str, source: &mut Source) -> Result<Option<String>> {
        let Some(table) = &source.table else { return Ok(None) };
        source.key = format!("{}/{}/{generation}", self.pipeline.name, table.table_id());
        let stored = output.position(&source.key).await;
        source.stored = stored.map_err(self.lake_error("read the output's positions"))?;
        if source.stored.is_none() {
            return Ok(None);
        }
        match table.changes_since(source.stored).await {
            Ok(changes) => {
                source.changes = Some(changes);
                Ok(None)
            }
            Err(error @ (uptake_lake::Error::LogGone { .. } | uptake_lake::Error::Rewritten { .. })) => {
                tracing::warn!(pipeline = self.pipeline.name, %error, "every day is built anew");
                Ok(Some(format!("what changed in {} can no longer be told", source.spec)))
            }
            Err(error) => Err(self.lake_error("read what changed in a source")(error)),
        }
    }

    /// A session over whole tables.
    pub(super) async fn session(&self, work: &Work, tagging: &Tagging, days: Option<&[Day]>) -> Result<Session> {
        let failed = || self.query_error("prepare its tables");
        let literals = run_literals(self.pipeline, tagging, self.watermark, work.previous_watermark);
        let session = Session::new(self.pipeline, tagging, literals).map_err(failed())?;
        for source in &work.sources {
            let provider = match &source.table {
                Some(table) => Some(table.provider().await.map_err(self.lake_error("open a source"))?),
                None => None,
            };
            session.register_source(source.spec.layer.name(), source.spec, provider, days, None).map_err(failed())?;
        }
        let output = work.output.provider().await.map_err(self.lake_error("open the output"))?;
        session
            .register_source("previous", self.pipeline.output, Some(output), days, self.pipeline.slice.as_ref())
            .map_err(failed())?;
        Ok(session)
    }

    /// Every day that the sources or the output hold.
    async fn all_days(&self, work: &Work, tagging: &Tagging) -> Result<BTreeSet<Day>> {
        let session = self.session(work, tagging, None).await?;
        let mut days = BTreeSet::new();
        for source in work.sources.iter().filter(|source| source.spec.column("conversation_date").is_some()) {
            let found = session.days(source.spec.layer.name(), source.spec.name).await;
            days.extend(found.map_err(self.query_error("find the days of its tables"))?);
        }
        let found = session.days("previous", self.pipeline.output.name).await;
        days.extend(found.map_err(self.query_error("find the days of its tables"))?);
        Ok(days)
    }

    /// The days that changed files name, and those that `days.sql` adds.
    async fn dirty_days(&self, work: &Work, tagging: &Tagging) -> Result<BTreeSet<Day>> {
        let failed = || self.query_error("find the days that changed");
        let session = self.session(work, tagging, None).await?;
        let mut days = BTreeSet::new();
        for source in &work.sources {
            let provider = match (&source.table, &source.changes) {
                (Some(table), Some(changes)) if !changes.added.is_empty() => {
                    table.provider_of(&changes.added).map_err(self.lake_error("open what changed"))?
                }
                _ => empty(source.spec).map_err(failed())?,
            };
            session.register("changed", source.spec.name, provider).map_err(failed())?;
            match &source.changes {
                Some(changes) if source.spec.partition.contains(&"conversation_date") => days.extend(&changes.days),
                _ if source.spec.column("conversation_date").is_some() => {
                    days.extend(session.days("changed", source.spec.name).await.map_err(failed())?);
                }
                _ => {}
            }
        }
        if let Some(statement) = &self.pipeline.days {
            session.register_views(self.pipeline).await.map_err(failed())?;
            let more = session.frame(statement).await.map_err(failed())?.collect().await.map_err(failed())?;
            days.extend(crate::session::days_of(&more).map_err(failed())?);
        }
        Ok(days)
    }
}

/// The watermark's key has the lake's own prefix, so that it is only ever raised.
pub(super) fn watermark_key(pipeline: &str, generation: &str) -> String {
    format!("watermark/jobs/{pipeline}/{generation}")
}

/// Under this key the table says whose rows it holds: the number of a generation, or [`MIXED`].
pub(super) fn generation_key(pipeline: &str) -> String {
    format!("generation/{pipeline}")
}

/// The rows of two generations: a build that shows group by group is under way, or was killed.
pub(super) const MIXED: i64 = -1;

/// A generation as positions are stored, 48 bits of its hash.
pub(super) fn generation_number(generation: &str) -> i64 {
    i64::from_str_radix(generation, 16).unwrap_or_default()
}
