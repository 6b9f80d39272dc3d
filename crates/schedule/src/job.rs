//! What the settings say: jobs, and their steps.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::cron::{CatchUp, Cron};
use crate::fill;

/// Waiting time before the first retry, where nothing is said.
const BACKOFF: Duration = Duration::from_mins(5);
/// Longest name of a job or a step: names become parts of file names.
const LONGEST_NAME: usize = 40;

/// A job: steps in order, and when they run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What people call it: lower-case letters, digits and dashes.
    pub name: String,
    /// A cron line; none: by a condition or by hand alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The zone of the cron line, such as `Europe/Berlin`; UTC when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// What becomes of times that nobody was there for.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// A run when the data says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// Of the jobs with one lock one runs at a time; the job's name when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// How often a failed run is taken up again, at the step that failed.
    #[serde(default)]
    pub retries: u32,
    /// Waiting time before the first retry; it doubles from one to the next.
    #[serde(default = "backoff", with = "humantime_serde")]
    pub backoff: Duration,
    /// Longest time that a run may take, retries and waiting included.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// What is done.
    pub steps: Vec<Step>,
}

/// One step of a job: a command of this program, or another program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What people call it.
    pub name: String,
    /// Arguments of this program, such as `["run"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<String>,
    /// Another program with its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Steps that must have ended well; the one before it when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
    /// Also when a step that it comes after was refused, has failed or was skipped: for reports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always: bool,
    /// File that the standard output goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Longest time that the step may take.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
}

fn backoff() -> Duration {
    BACKOFF
}

impl Job {
    /// The lock that its runs hold.
    pub fn lock(&self) -> &str {
        self.lock.as_deref().unwrap_or(&self.name)
    }

    /// Its cron line, if it has one.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn cron(&self) -> Result<Option<Cron>, String> {
        let zone = self.timezone.as_deref().unwrap_or("UTC");
        self.cron.as_deref().map(|line| Cron::parse(line, zone)).transpose()
    }

    /// The step of this name, and how many come before it.
    pub fn step(&self, name: &str) -> Option<(usize, &Step)> {
        self.steps.iter().enumerate().find(|(_, step)| step.name == name)
    }

    /// The steps that one must wait for.
    pub(crate) fn needs(&self, position: usize) -> Vec<&str> {
        match (self.steps.get(position), position) {
            (Some(Step { after: Some(after), .. }), _) => after.iter().map(String::as_str).collect(),
            (None, _) | (_, 0) => Vec::new(),
            _ => self.steps[position - 1..position].iter().map(|step| step.name.as_str()).collect(),
        }
    }

    /// Everything that cannot work, a sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |text: String| faults.push(format!("job `{}`: {text}", self.name));
        if let Err(text) = check_name(&self.name) {
            fault(text);
        }
        if let Err(text) = self.cron() {
            fault(format!("cron: {text}"));
        }
        if self.timezone.is_some() && self.cron.is_none() {
            fault("timezone without cron".to_owned());
        }
        if self.when.as_ref().is_some_and(|when| when.query.trim().is_empty()) {
            fault("when.query is empty".to_owned());
        }
        if self.when.as_ref().and_then(|when| when.grew_by).is_some_and(|step| !step.is_finite() || step <= 0.0) {
            fault("when.grew_by must be above 0".to_owned());
        }
        if self.lock.as_ref().is_some_and(|lock| lock.trim().is_empty()) {
            fault("lock has no name".to_owned());
        }
        if self.steps.is_empty() {
            fault("it has no steps".to_owned());
        }
        let mut before: BTreeSet<&str> = BTreeSet::new();
        for step in &self.steps {
            for text in step.faults(&before) {
                fault(format!("step `{}`: {text}", step.name));
            }
            let _ = before.insert(&step.name);
        }
        faults
    }
}

impl Step {
    /// What cannot work, given the names of the steps before it. What comes from a step that it does not wait for may not be
    /// there; it is looked up when the step starts, and named then.
    fn faults(&self, before: &BTreeSet<&str>) -> Vec<String> {
        let mut faults = Vec::new();
        faults.extend(check_name(&self.name).err());
        if before.contains(self.name.as_str()) {
            faults.push("another step has this name".to_owned());
        }
        match (self.run.is_empty(), self.command.is_empty()) {
            (true, true) => faults.push("it does nothing: give it `run` (a command of uptake) or `command`".to_owned()),
            (false, false) => faults.push("it has both `run` and `command`".to_owned()),
            _ => {}
        }
        for name in self.after.iter().flatten().filter(|name| !before.contains(name.as_str())) {
            faults.push(format!("it comes after `{name}`, and no step before it has that name"));
        }
        for text in self.run.iter().chain(&self.command).chain(&self.output) {
            match fill::names(text) {
                Err(fault) => faults.push(fault),
                Ok(names) => {
                    for name in names {
                        let first = name.split('.').next().unwrap_or_default();
                        if !fill::KNOWN.contains(&name.as_str()) && !before.contains(first) {
                            let known = fill::KNOWN.map(|name| format!("{{{name}}}")).join(", ");
                            faults.push(format!("`{{{name}}}` is neither {known} nor a step before it"));
                        }
                    }
                }
            }
        }
        faults
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-') {
        return Ok(());
    }
    Err(format!("`{name}` is no name: 1 to {LONGEST_NAME} lower-case letters, digits and dashes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, run: &[&str]) -> Step {
        Step { name: name.to_owned(), run: run.iter().map(|&word| word.to_owned()).collect(), ..Step::default() }
    }

    fn job(steps: Vec<Step>) -> Job {
        Job {
            name: "night".to_owned(),
            cron: None,
            timezone: None,
            catch_up: CatchUp::Once,
            when: None,
            lock: None,
            retries: 0,
            backoff: BACKOFF,
            time_limit: None,
            steps,
        }
    }

    #[test]
    fn a_job_without_faults_has_none() {
        let steps = vec![step("tables", &["run"]), step("publish", &["snapshot", "{directory}/a", "{tables.rows}"])];
        let job = Job { cron: Some("0 2 * * *".to_owned()), timezone: Some("Europe/Paris".to_owned()), ..job(steps) };
        assert_eq!(job.faults(), Vec::<String>::new());
        assert_eq!((job.needs(0), job.needs(1)), (vec![], vec!["tables"]));
    }

    #[test]
    fn every_fault_is_named() {
        let mut late = step("report", &["sql", "{nobody.id}", "{open"]);
        late.after = Some(vec!["tables".to_owned(), "later".to_owned()]);
        let job = Job {
            name: "The Night".to_owned(),
            cron: Some("0 0 31 4 *".to_owned()),
            lock: Some(" ".to_owned()),
            when: Some(Condition { query: String::new(), grew_by: Some(0.0), at_most_every: None }),
            ..job(vec![step("tables", &["run"]), step("tables", &[]), late])
        };
        let faults = job.faults().join("\n");
        for part in [
            "is no name",
            "never comes due",
            "when.query is empty",
            "grew_by must be above 0",
            "lock has no name",
            "another step has this name",
            "it does nothing",
            "comes after `later`",
            "`{nobody.id}` is neither {directory}",
            "is not closed",
        ] {
            assert!(faults.contains(part), "no `{part}` in\n{faults}");
        }
        assert!(Job { steps: Vec::new(), ..job }.faults().iter().any(|fault| fault.contains("no steps")));
    }

    #[test]
    fn settings_are_read_as_written() {
        let text = r#"{"name": "night", "cron": "0 2 * * *", "catch_up": "all", "backoff": "30s",
            "steps": [{"name": "a", "run": ["run"]}, {"name": "b", "command": ["sh"], "always": true, "time_limit": "1h"}]}"#;
        let job: Job = serde_json::from_str(text).unwrap();
        assert_eq!((job.catch_up, job.backoff, job.lock()), (CatchUp::All, Duration::from_secs(30), "night"));
        assert_eq!(serde_json::from_str::<Job>(&serde_json::to_string(&job).unwrap()).unwrap(), job);
        assert!(serde_json::from_str::<Job>(r#"{"name": "n", "steps": [], "corn": "0 2 * * *"}"#).is_err());
    }
}
