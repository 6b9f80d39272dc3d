//! `uptake evaluate model`: a candidate's answers next to those of the model in use.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use uptake_train::answers::{self, Answer, Comparison};
use uptake_train::metrics::Estimate;
use uptake_train::reward::RewardModel;

use crate::columns::columns;
use crate::commands::tag::open;
use crate::context::Usage;

/// Answers that a reward model reads together.
const TOGETHER: usize = 256;

/// Compares a candidate's answers with those of the model in use: mean reward (RLUF's offline evaluator), and the tripwires
/// against reward hacking: goodbyes, hearts, flattery, refusals, repetition, length, diversity.
///
/// Let both answer the same prompts first, with `uptake generate`. The figures in report.json are what gates read:
/// `uptake models add DIR --figures report.json`.
#[derive(Debug, clap::Args)]
pub(crate) struct Model {
    /// The candidate's answers, as `uptake generate` writes them.
    candidate: PathBuf,

    /// The answers of the model in use, to the same prompts.
    production: PathBuf,

    /// Directory of a reward model that scores both, such as one by `uptake train love`.
    #[arg(long, value_name = "DIR")]
    reward: Option<PathBuf>,

    /// The reward model's head to score by, where it has several.
    #[arg(long, value_name = "NAME", requires = "reward")]
    head: Option<String>,

    /// New directory for report.json and report.html. The page shows prompts and answers as they are.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// What the candidate is called; its file's name where nothing is said.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Of the resamples of intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Model {
    /// Runs the command.
    pub(super) fn evaluate(self, terminal: bool) -> anyhow::Result<ExitCode> {
        if let Some(output) = self.output.as_deref().filter(|output| output.exists()) {
            return Err(
                Usage(format!("--output: `{}` is there already: name a new directory", output.display())).into()
            );
        }
        let mut candidate = read(&self.candidate, terminal)?;
        let mut production = read(&self.production, terminal)?;
        if let Some(directory) = &self.reward {
            let model = RewardModel::open(directory)
                .with_context(|| format!("load the reward model in `{}`", directory.display()))?;
            let head = model.head(self.head.as_deref()).context("choose the head to score by")?;
            score(&model, head, &mut candidate)?;
            score(&model, head, &mut production)?;
        }
        let comparison = answers::compare(&candidate, &production, self.seed).context("compare the answers")?;
        show(&comparison)?;
        if let Some(output) = &self.output {
            let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let names = [self.name.clone().unwrap_or_else(|| name(&self.candidate)), name(&self.production)];
            // The directory has its name when it is whole: whoever takes up a job that was killed finds none, and makes it.
            let mut part = output.clone().into_os_string();
            part.push(".part");
            let part = PathBuf::from(part);
            std::fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
            let write = |name: &str, bytes: &[u8]| {
                let path = part.join(name);
                std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
            };
            write("report.json", &serde_json::to_vec_pretty(&comparison)?)?;
            write("report.html", answers::page(&comparison, [&names[0], &names[1]]).as_bytes())?;
            std::fs::rename(&part, output).with_context(|| format!("write {}", output.display()))?;
            writeln!(io::stdout(), "the page is {}", output.join("report.html").display())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path, terminal: bool) -> anyhow::Result<Vec<Answer>> {
    let (input, bar) = open(path, terminal)?;
    bar.set_message("read");
    let answers = answers::read(input, path);
    bar.finish_and_clear();
    answers.context("read the answers")
}

/// An answer without text has no score; then there is no offline evaluator for any, and the measure `empty` says why.
fn score(model: &RewardModel, head: usize, answers: &mut [Answer]) -> anyhow::Result<()> {
    let value = model.config().heads.get(head).context("a head of the reward model")?;
    for part in answers.chunks_mut(TOGETHER) {
        let responses: Vec<_> =
            part.iter().map(|answer| (answer.prompt.as_slice(), answer.response.as_str())).collect();
        let logits = model.logits(&responses).context("score the answers")?;
        for (answer, logits) in part.iter_mut().zip(logits) {
            answer.score = logits.and_then(|logits| logits.get(head).map(|logit| value.value(*logit)));
        }
    }
    Ok(())
}

fn show(comparison: &Comparison) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{} prompts, {} answers of each; left out without a counterpart: {} and {}",
        comparison.prompts, comparison.answers, comparison.left_out[0], comparison.left_out[1]
    )?;
    let estimate = |each: &Estimate| format!("{:+.4} ({:+.4} to {:+.4})", each.value, each.low, each.high);
    let row = |cells: [&str; 5]| cells.map(str::to_owned).to_vec();
    let mut rows = vec![row(["measure", "candidate", "production", "difference", "tripped"])];
    if let Some(score) = &comparison.score {
        let (one, other) = (format!("{:.4}", score.candidate), format!("{:.4}", score.production));
        rows.push(row(["score", &one, &other, &estimate(&score.difference), ""]));
        if let Some(controlled) = &score.length_controlled {
            rows.push(row(["score, both equally long", "", "", &estimate(controlled), ""]));
        }
        let wins = &score.win_rate;
        let wins = format!("{:.3} ({:.3} to {:.3})", wins.value, wins.low, wins.high);
        rows.push(row(["wins", &wins, "", "", ""]));
    }
    let tripped = |tripped: u8| if tripped == 1 { "yes" } else { "" };
    for each in &comparison.measures {
        let (one, other) = (format!("{:.4}", each.candidate), format!("{:.4}", each.production));
        rows.push(row([each.name, &one, &other, &estimate(&each.difference), tripped(each.tripped)]));
    }
    for each in &comparison.corpus {
        let (one, other) = (format!("{:.4}", each.candidate), format!("{:.4}", each.production));
        let difference = format!("{:+.4}", each.candidate - each.production);
        rows.push(row([each.name, &one, &other, &difference, tripped(each.tripped)]));
    }
    stdout.write_all(columns(&rows, "").as_bytes())?;
    match comparison.tripped {
        0 => writeln!(stdout, "no wire is tripped")?,
        count => writeln!(stdout, "{count} wires are tripped")?,
    }
    Ok(())
}
