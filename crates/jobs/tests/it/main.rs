//! Pipelines end to end over lakes in memory: the cases beside the SQL, and what the runner promises.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod case;
mod kit;
mod runner;

use std::path::{Path, PathBuf};

/// The folder of pipelines of this repository.
fn pipelines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines")
}

/// Every `cases/*.slt` below `pipelines/`, in its own order of arrival and, unless it says `arrival fixed`, in others.
/// `UPTAKE_CASE` picks those whose path contains it.
#[test]
fn cases() {
    let wanted = std::env::var("UPTAKE_CASE").unwrap_or_default();
    let mut files = Vec::new();
    for folder in std::fs::read_dir(pipelines()).unwrap() {
        let cases = folder.unwrap().path().join("cases");
        if cases.is_dir() {
            files.extend(std::fs::read_dir(cases).unwrap().map(|file| file.unwrap().path()));
        }
    }
    files.sort();
    files.retain(|file| file.display().to_string().contains(&wanted));
    assert!(!files.is_empty(), "no case matches `{wanted}`");
    let mut failed = Vec::new();
    for file in files {
        let name = file.strip_prefix(pipelines()).unwrap().display().to_string();
        let case = case::Case::read(&file);
        let faults = case.arrivals().into_iter().find_map(|arrival| {
            let outcome = kit::on_a_runtime(case.clone().check(arrival));
            outcome.err().map(|fault| format!("{name}, {arrival:?}: {fault}"))
        });
        match faults {
            None => println!("{name}: ok"),
            Some(fault) => {
                println!("{fault}");
                failed.push(fault);
            }
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n\n"));
}
