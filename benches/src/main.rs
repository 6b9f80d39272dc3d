//! The parts of the benches that must be compiled: what `benches/run` measures, and the limits that it is held against.
//!
//! - [`tagger`]: the tagger's parts on given conversations, a round at a time, so that rounds of other engines fit between.
//! - [`signals`]: sends messages at a rate and measures when their signals come.
//! - [`topic`]: fills topics with a sample log, reads them with librdkafka alone, and stores the same records without Kafka.
//!
//! Each prints JSON lines for the scripts beside it. Absent on purpose: comparisons and tables, which are the scripts'.

mod processor_time;
mod signals;
mod tagger;
mod topic;

use std::io::Write as _;
use std::process::ExitCode;

/// What ends a bench: the message is all that matters.
type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: uptake-bench tagger MODEL CONVERSATIONS
       uptake-bench fill BOOTSTRAP PARTITIONS CONVERSATIONS SEED
       uptake-bench drain BOOTSTRAP
       uptake-bench store LAKE CONVERSATIONS SEED
       uptake-bench signals-prepare BOOTSTRAP MESSAGES SIGNALS PARTITIONS
       uptake-bench signals BOOTSTRAP MESSAGES SIGNALS RATE SECONDS SEED";

fn run(arguments: &[&str]) -> Result<(), Failure> {
    match arguments {
        ["tagger", model, conversations] => tagger::serve(model.as_ref(), conversations.as_ref()),
        ["fill", bootstrap, partitions, conversations, seed] => {
            topic::fill(bootstrap, partitions.parse()?, conversations.parse()?, seed.parse()?)
        }
        ["drain", bootstrap] => topic::drain(bootstrap),
        ["signals-prepare", bootstrap, messages, signals, partitions] => {
            signals::prepare(bootstrap, messages, signals, partitions.parse()?)
        }
        ["signals", bootstrap, messages, signals, rate, seconds, seed] => {
            signals::measure(bootstrap, messages, signals, rate.parse()?, seconds.parse()?, seed.parse()?)
        }
        ["store", lake, conversations, seed] => topic::store(lake, conversations.parse()?, seed.parse()?),
        _ => Err(USAGE.into()),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where standard error is gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            ExitCode::FAILURE
        }
    }
}
