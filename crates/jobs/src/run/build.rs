//! Making the days: rows, checks, and the commit that shows them.

use datafusion::arrow::array::RecordBatch;
use uptake_lake::{Advance, CommitRequest, Staged};
use uptake_model::time::{self, Day};

use super::Job;
use super::plan::{MIXED, Work, generation_key, generation_number, watermark_key};
use crate::checks::Outcome;
use crate::error::Result;
use crate::functions::Tagging;
use crate::pipeline::Commit;
use crate::report::{Progress, RunReport, Status};
use crate::rows;

impl Job<'_> {
    /// Builds the days in groups, so that no more than a group's rows are held, and shows them together once all have
    /// passed their checks. The positions move with them.
    ///
    /// Where the pipeline says `commit = "groups"` each group is shown when it is ready: what took long to make is kept.
    pub(super) async fn build(&self, work: Work, tagging: &Tagging, report: &mut RunReport) -> Result<()> {
        let days: Vec<Day> = work.days.iter().copied().collect();
        let mut staged = Vec::new();
        let mut done = 0;
        for group in days.chunks(self.options.days_per_group.max(1)) {
            let part = match Box::pin(self.stage(&work, tagging, group, done == 0, report)).await {
                Ok(Some(part)) => part,
                Ok(None) => {
                    work.output.discard(staged).await;
                    report.status = Status::Refused;
                    return Ok(());
                }
                Err(error) => {
                    work.output.discard(staged).await;
                    return Err(error);
                }
            };
            staged.push(part);
            done += group.len();
            let last = done == days.len();
            if last || self.pipeline.commit == Commit::Groups {
                let shown = if self.pipeline.commit == Commit::Groups { group } else { &days };
                let request = self.request(&work, shown, last);
                let committed = Box::pin(work.output.replace_staged(std::mem::take(&mut staged), request)).await;
                let committed = committed.map_err(self.lake_error("replace the days that were built"))?;
                report.output_version = Some(committed.version());
                report.status = Status::Built;
                report.days.extend(shown.iter().map(|day| time::day_text(*day)));
            }
            (self.options.progress)(Progress::Days { done });
        }
        Box::pin(self.notes(&work, tagging, report)).await
    }

    /// Makes, checks and writes the rows of some days; nothing where a check refuses them.
    async fn stage(
        &self,
        work: &Work,
        tagging: &Tagging,
        group: &[Day],
        first: bool,
        report: &mut RunReport,
    ) -> Result<Option<Staged>> {
        let rows = Box::pin(self.rows(work, tagging, group, first, report)).await?;
        report.tagged = tagging.tagged();
        if report.broken_checks().next().is_some() {
            return Ok(None);
        }
        let slice = self.pipeline.slice.as_ref().map(|(column, value)| (column.as_str(), value.as_str()));
        let staged = Box::pin(work.output.stage(group, slice, rows)).await;
        staged.map(Some).map_err(self.lake_error("write the days that were built"))
    }

    /// The rows of some days, counted and checked.
    async fn rows(
        &self,
        work: &Work,
        tagging: &Tagging,
        days: &[Day],
        first: bool,
        report: &mut RunReport,
    ) -> Result<Vec<RecordBatch>> {
        let failed = || self.query_error("build its rows");
        let session = self.session(work, tagging, Some(days)).await?;
        session.register_views(self.pipeline).await.map_err(failed())?;
        for source in &work.sources {
            let count = session.count(source.spec, first).await.map_err(failed())?;
            *report.rows_read.entry(source.spec.qualified()).or_default() += count;
        }
        let built = session.build(self.pipeline).await.map_err(failed())?.collect().await.map_err(failed())?;
        let rows = rows::shape(&built, self.pipeline.output, self.pipeline.slice.as_ref())
            .map_err(|error| self.query_error("bring its rows into the table's columns")(error.into()))?;
        report.candidates += rows.candidates as u64;
        for (reason, count) in rows.dropped {
            *report.dropped.entry(reason).or_default() += count;
        }
        report.checks.extend(rows.missing);
        if report.broken_checks().next().is_some() {
            return Ok(vec![]);
        }
        let batches: Vec<_> = rows.batch.into_iter().collect();
        let outcomes =
            self.pipeline.checks.run(&self.pipeline.name, self.pipeline.output, &batches, rows.candidates).await?;
        merge(&mut report.checks, outcomes);
        report.rows_out += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        Ok(batches)
    }

    fn request(&self, work: &Work, days: &[Day], last: bool) -> CommitRequest {
        let mut request = CommitRequest::default();
        let days: Vec<String> = days.iter().map(|day| time::day_text(*day)).collect();
        let facts = [
            ("run_id", self.options.run_id.clone()),
            ("pipeline", self.pipeline.name.clone()),
            ("generation", work.generation.clone()),
            ("days", days.join(" ")),
        ];
        for (name, value) in facts {
            let _ = request.metadata.insert(name.to_owned(), value.into());
        }
        let number = if last { generation_number(&work.generation) } else { MIXED };
        request.watermarks.push((generation_key(&self.pipeline.name), number));
        if !last {
            return request;
        }
        for source in &work.sources {
            let Some(table) = &source.table else { continue };
            if source.stored != Some(table.version()) {
                let (key, from, to) = (source.key.clone(), source.stored, table.version());
                request.advances.push(Advance { key, from, to });
            }
        }
        if let Some(watermark) = self.watermark {
            let key = watermark_key(&self.pipeline.name, &work.generation);
            request.watermarks.push((key, watermark.div_euclid(1_000)));
        }
        request
    }

    /// What `report.sql` counts, over whole tables as they are now.
    async fn notes(&self, work: &Work, tagging: &Tagging, report: &mut RunReport) -> Result<()> {
        let Some(statement) = &self.pipeline.report else { return Ok(()) };
        let failed = || self.query_error("count what waits");
        let session = self.session(work, tagging, None).await?;
        session.register_views(self.pipeline).await.map_err(failed())?;
        let found = session.frame(statement).await.map_err(failed())?.collect().await.map_err(failed())?;
        for batch in &found {
            for row in 0..batch.num_rows() {
                let show = |column: usize| {
                    datafusion::arrow::util::display::array_value_to_string(batch.column(column), row)
                        .unwrap_or_default()
                };
                if let Ok(count) = show(1).parse() {
                    let _ = report.notes.insert(show(0), count);
                }
            }
        }
        Ok(())
    }
}

/// One line a check, whatever the number of groups.
fn merge(all: &mut Vec<Outcome>, more: Vec<Outcome>) {
    for outcome in more {
        match all.iter_mut().find(|known| known.check == outcome.check) {
            Some(known) => {
                known.offending += outcome.offending;
                known.holds &= outcome.holds;
                if known.message.is_empty() {
                    known.message = outcome.message;
                }
            }
            None => all.push(outcome),
        }
    }
}
