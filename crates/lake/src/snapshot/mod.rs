//! Published snapshots: gold tables as plain directories that trainers load unchanged.
//!
//! A Delta directory read as plain Parquet shows rows that were deleted, so nobody trains on one. [`publish`] writes
//! `snapshots/<table>/<id>/`: `train-*.parquet`, `test-*.parquet`, the same rows as rendered strings below `text/`, a card
//! (`README.md`) that tells `datasets` which files are which, LLaMA-Factory's `dataset_info.json`, and last `manifest.json`.
//! A directory with a manifest is complete; one without is a publication that was broken off.
//!
//! The id follows from what is asked for (table, version, filter, lengths, seed, the layout's number), and the bytes from the
//! id: publishing again finds the manifest and writes nothing.
//!
//! [`check`] holds any directory to what trainers accept ([`Rule`]); each publication passes it before it gets its manifest.

mod card;
mod check;
mod fetch;
mod files;
mod layout;
mod lengths;
mod manifest;
mod publish;
mod rules;
mod split;
mod survey;
mod transform;
mod writer;

pub(crate) use writer::hex;

pub use check::{CheckOptions, Fault, Report, Source, check, check_directory};
pub use fetch::fetch;
pub use lengths::Lengths;
pub use manifest::{FileEntry, MANIFEST, Manifest, Snapshot, SplitRule, list};
pub use publish::{Outcome, PublishRequest, publish};
pub use rules::{Rule, Trainer};

/// The names of the tables that can be published.
pub fn publishable() -> Vec<&'static str> {
    layout::Layout::names().collect()
}

#[cfg(test)]
mod tests;
