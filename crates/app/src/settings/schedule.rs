//! Settings of the scheduler: section `[schedule]`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use serde::{Deserialize, Serialize};
use uptake_schedule::Job;

use crate::context::Usage;
use crate::settings::state_directory;

/// Section `[schedule]`: what runs when, and where it is remembered.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScheduleSettings {
    /// The scheduler's database: `sqlite:///PATH`, or `postgres://…` for several replicas. A file below the user's state
    /// directory when absent. The address may hold a password, so it is not shown.
    #[serde(skip_serializing)]
    pub(crate) state: Option<String>,
    /// Where each run has a directory of its own; below the user's state directory when absent.
    pub(crate) directory: Option<PathBuf>,
    /// How often the queue is looked at, where nothing else wakes the daemon.
    #[serde(with = "humantime_serde")]
    pub(crate) poll: Duration,
    /// How often conditions on the data are asked about.
    #[serde(with = "humantime_serde")]
    pub(crate) ask_every: Duration,
    /// How long a run stays with a daemon that is not heard of.
    #[serde(with = "humantime_serde")]
    pub(crate) lease: Duration,
    /// Runs at a time, each of another lock.
    pub(crate) concurrency: usize,
    /// The jobs, each a `[[schedule.jobs]]`.
    pub(crate) jobs: Vec<Job>,
}

impl Default for ScheduleSettings {
    fn default() -> Self {
        Self {
            state: None,
            directory: None,
            poll: Duration::from_secs(5),
            ask_every: Duration::from_mins(1),
            lease: Duration::from_mins(1),
            concurrency: 2,
            jobs: Vec::new(),
        }
    }
}

/// A command line of this program, only to see whether it is one.
#[derive(Debug, clap::Parser)]
#[command(name = "uptake", no_binary_name = true)]
struct Line {
    #[arg(long, global = true)]
    lake: Option<String>,
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: crate::commands::Command,
}

impl Line {
    /// That it is one is all there is to know.
    fn looked_at(self) {
        let Self { lake: _, config: _, command: _ } = self;
    }
}

impl ScheduleSettings {
    /// Address of the database.
    ///
    /// # Errors
    /// [`Usage`] when none is named and the environment has no place for one.
    pub(crate) fn state(&self) -> Result<String, Usage> {
        match &self.state {
            Some(state) => Ok(state.clone()),
            None => Ok(format!("sqlite://{}", home()?.join("schedule.sqlite").display())),
        }
    }

    /// Directory of the runs.
    ///
    /// # Errors
    /// As [`ScheduleSettings::state`].
    pub(crate) fn directory(&self) -> Result<PathBuf, Usage> {
        self.directory.clone().map_or_else(|| Ok(home()?.join("runs")), Ok)
    }

    /// The job of this name.
    ///
    /// # Errors
    /// [`Usage`] that names those that there are.
    pub(crate) fn job(&self, name: &str) -> Result<&Job, Usage> {
        self.jobs.iter().find(|job| job.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
            let names = if names.is_empty() { "none; add a [[schedule.jobs]]".to_owned() } else { names.join(", ") };
            Usage(format!("there is no job `{name}`; the settings have {names}"))
        })
    }

    /// Everything that cannot work, for `config check` and before the daemon starts.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.jobs.iter().flat_map(Job::faults).collect();
        for (at, job) in self.jobs.iter().enumerate() {
            if self.jobs[..at].iter().any(|other| other.name == job.name) {
                faults.push(format!("job `{}`: another job has this name", job.name));
            }
            for step in job.steps.iter().filter(|step| !step.run.is_empty()) {
                if let Err(error) = Line::try_parse_from(&step.run).map(Line::looked_at) {
                    let text = error.to_string();
                    // Help is no error, and no step either.
                    let said = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
                    faults.push(format!("job `{}`: step `{}`: {said}", job.name, step.name));
                }
            }
        }
        if self.poll.is_zero() || self.lease < Duration::from_secs(1) || self.concurrency == 0 {
            faults.push("poll must be above 0, lease at least 1s, concurrency at least 1".to_owned());
        }
        faults.into_iter().map(|fault| format!("schedule: {fault}")).collect()
    }
}

/// Where the scheduler keeps what no setting places elsewhere.
fn home() -> Result<PathBuf, Usage> {
    state_directory().ok_or_else(|| {
        Usage("no place for the scheduler's state: set schedule.state and schedule.directory".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_and_checked() {
        let text = r#"
            state = "postgres://uptake:hidden-word@db/uptake"
            poll = "10s"
            [[jobs]]
            name = "night"
            cron = "0 2 * * *"
            steps = [
                { name = "tables", run = ["run"] },
                { name = "pairs", run = ["snapshot", "publish", "preference_pairs", "-o", "jsn"] },
                { name = "love", run = ["train", "love", "--dta", "x"] },
                { name = "notify", command = ["curl", "-sf", "http://localhost/done/{run}"], always = true },
            ]
            [[jobs]]
            name = "night"
            cron = "0 0 30 2 *"
            steps = [{ name = "tables", run = ["run"] }]
        "#;
        let settings: ScheduleSettings = toml::from_str(text).unwrap();
        let faults = settings.faults().join("\n");
        for part in [
            "step `pairs`: invalid value 'jsn'",
            "step `love`: unexpected argument '--dta'",
            "never comes due",
            "another job has this name",
        ] {
            assert!(faults.contains(part), "no `{part}` in\n{faults}");
        }
        assert_eq!(faults.lines().count(), 4, "{faults}");
        assert!(!toml::to_string(&settings).unwrap().contains("hidden-word"), "a password is not shown");
        assert!(settings.job("nigth").unwrap_err().0.contains("the settings have night"));
        assert!(toml::from_str::<ScheduleSettings>("[[jobs]]\nname = \"n\"\nstepz = []\n").is_err());
    }
}
