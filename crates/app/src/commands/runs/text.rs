//! Runs for people.

use std::fmt::Write as _;

use uptake_schedule::{Millis, Run, RunState, StepRun};

use crate::columns::columns;

/// Runs as a table.
pub(super) fn list(runs: &[Run]) -> String {
    if runs.is_empty() {
        return "there are no runs; `uptake runs trigger JOB` starts one\n".to_owned();
    }
    let mut rows = vec![["run", "state", "for", "took", "cause", "reason"].map(str::to_owned).to_vec()];
    for run in runs {
        rows.push(vec![
            run.id.clone(),
            run.state.to_string(),
            moment(run.due_at),
            took(run.started_at, run.ended_at),
            run.cause.to_string(),
            shortened(run.reason.as_deref().unwrap_or_default()),
        ]);
    }
    columns(&rows, "")
}

/// One run with its steps.
pub(super) fn run(run: &Run, steps: &[StepRun]) -> String {
    let mut text = format!("{}  {}\n", run.id, run.state);
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {name:10} {value}");
        }
    };
    line("job", &run.job);
    line("for", &format!("{} ({})", moment(run.due_at), run.cause));
    line("reason", run.reason.as_deref().unwrap_or_default());
    line("took", &took(run.started_at, run.ended_at));
    line("worker", run.worker.as_deref().unwrap_or_default());
    if run.state == RunState::Queued {
        line("not before", &moment(run.not_before));
    }
    if run.attempt > 0 {
        line("tries", &(run.attempt + 1).to_string());
    }
    if !steps.is_empty() {
        let mut rows = vec![["step", "state", "took", "tries", "reason"].map(str::to_owned).to_vec()];
        for step in steps {
            rows.push(vec![
                step.step.clone(),
                step.state.to_string(),
                took(step.started_at, step.ended_at),
                step.attempt.to_string(),
                shortened(step.reason.as_deref().unwrap_or_default()),
            ]);
        }
        text.push('\n');
        text.push_str(&columns(&rows, "  "));
    }
    text
}

/// A time in UTC, to the second.
pub(super) fn moment(time: Millis) -> String {
    chrono::DateTime::from_timestamp_millis(time).map_or_else(String::new, |time| time.format("%F %T").to_string())
}

/// How long something took, or takes until now.
pub(in crate::commands) fn took(started: Option<Millis>, ended: Option<Millis>) -> String {
    let Some(started) = started else { return String::new() };
    let seconds = (ended.unwrap_or_else(super::now) - started).max(0) as f64 / 1_000.0;
    let open = if ended.is_none() { " so far" } else { "" };
    match seconds {
        ..60.0 => format!("{seconds:.1} s{open}"),
        ..3_600.0 => format!("{:.0} min {:02.0} s{open}", (seconds / 60.0).floor(), (seconds % 60.0).floor()),
        _ => format!("{:.0} h {:02.0} min{open}", (seconds / 3_600.0).floor(), (seconds % 3_600.0 / 60.0).floor()),
    }
}

/// One line of a table.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 120;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= LONGEST { line.to_owned() } else { line.chars().take(LONGEST).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(moment(0), "1970-01-01 00:00:00");
        let took = |seconds: i64| took(Some(0), Some(seconds * 1_000));
        assert_eq!([took(5), took(65), took(7_260)], ["5.0 s", "1 min 05 s", "2 h 01 min"]);
    }
}
