//! `uptake annotate agreement`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use uptake_judge::{Agreement as Agreed, Compared, Readings, compare};

use super::exit_code_of;

/// Compares two annotators of the same follow-ups: Cohen's kappa for each label, and for any label of a side.
///
/// Rows meet by `conversation_id`, turn and texts. The interval is a bootstrap over conversations (95 %). Kappa is not defined
/// where neither annotator gives a label.
#[derive(Debug, clap::Args)]
pub(crate) struct Agreement {
    /// Follow-ups labelled by the first annotator.
    first: PathBuf,

    /// The same labelled by the second; without it, the first file's own second reading (`second` of its rows).
    second: Option<PathBuf>,

    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Write JSON.
    #[arg(long)]
    json: bool,
}

impl Agreement {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { first, second, seed, json } = self;
        let agreed = tokio::task::spawn_blocking(move || {
            let (first, second) = match second {
                Some(second) => (Readings::read(&first)?, Readings::read(&second)?),
                None => Readings::read_both(&first)?,
            };
            compare(&first, &second, seed)
        });
        let agreed = match agreed.await? {
            Ok(agreed) => agreed,
            Err(error) => return exit_code_of(error),
        };
        let mut stdout = io::stdout().lock();
        if json {
            serde_json::to_writer(&mut stdout, &agreed)?;
            writeln!(stdout)?;
        } else {
            write_table(&mut stdout, &agreed)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write_table(to: &mut impl Write, agreed: &Agreed) -> io::Result<()> {
    writeln!(
        to,
        "{} follow-ups in {} conversations annotated by both; {} only by the first, {} only by the second",
        agreed.rows, agreed.conversations, agreed.only_first, agreed.only_second
    )?;
    writeln!(
        to,
        "{:<24} {:>6} {:>10} {:>11} {:>8} {:>7}  95 %",
        "label", "both", "only first", "only second", "neither", "kappa"
    )?;
    for Compared { name, counts, kappa, interval } in &agreed.outputs {
        let shown = |value: &Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        let interval = interval.map_or_else(String::new, |(low, high)| format!("{low:.2} to {high:.2}"));
        writeln!(
            to,
            "{name:<24} {:>6} {:>10} {:>11} {:>8} {:>7}  {interval}",
            counts.both,
            counts.only_first,
            counts.only_second,
            counts.neither,
            shown(kappa)
        )?;
    }
    Ok(())
}
