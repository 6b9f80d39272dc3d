//! The shape of the workspace, held against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// Which crates of ours a crate may use in its normal dependencies.
const ALLOWED: [(&str, &[&str]); 14] = [
    ("model", &[]),
    ("sample", &["model"]),
    ("progress", &["model"]),
    ("lake", &["model", "progress"]),
    ("ingest", &["model", "progress", "lake"]),
    ("tagger", &["model"]),
    ("jobs", &["model", "progress", "lake", "tagger"]),
    ("serve", &["model", "lake"]),
    ("judge", &["model"]),
    ("hub", &[]),
    ("train", &["model", "lake", "tagger"]),
    ("registry", &["model", "lake"]),
    ("schedule", &[]),
    (
        "app",
        &[
            "model", "sample", "progress", "lake", "ingest", "tagger", "jobs", "judge", "hub", "registry", "schedule",
            "serve", "train",
        ],
    ),
];

/// Which crates may name a foreign system.
const OWNERS: [(&str, &[&str]); 11] = [
    ("rdkafka", &["ingest"]),
    ("deltalake", &["lake"]),
    ("object_store", &["lake"]),
    ("candle-core", &["tagger", "train"]),
    ("candle-nn", &["tagger", "train"]),
    ("candle-transformers", &["tagger", "train"]),
    ("tokenizers", &["tagger", "train"]),
    ("reqwest", &["hub", "judge"]),
    ("sqlx", &["schedule"]),
    ("croner", &["schedule"]),
    ("anyhow", &["app"]),
];

fn packages() -> Vec<Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata reads the workspace");
    metadata.packages
}

fn normal_dependencies(package: &Package) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal)
        .map(|dependency| dependency.name.clone())
        .collect()
}

fn ours(package: &Package) -> Option<&str> {
    let name = package.name.strip_prefix("uptake-")?;
    (!["tests", "benches"].contains(&name)).then_some(name)
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for package in packages() {
        let Some(name) = ours(&package) else { continue };
        let may = allowed.get(name).unwrap_or_else(|| panic!("crates/{name} is not in the list of crates"));
        for dependency in normal_dependencies(&package) {
            if let Some(other) = dependency.strip_prefix("uptake-") {
                assert!(may.contains(&other), "uptake-{name} must not use uptake-{other}");
            }
        }
    }
}

#[test]
fn one_crate_owns_each_foreign_system() {
    for package in packages() {
        let Some(name) = ours(&package) else { continue };
        for dependency in normal_dependencies(&package) {
            for (foreign, owners) in OWNERS {
                assert!(dependency != foreign || owners.contains(&name), "uptake-{name} must not name {foreign}");
            }
        }
    }
}

#[test]
fn one_version_of_what_crosses_crates() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).expect("Cargo.lock");
    for name in ["arrow", "datafusion", "parquet", "object_store", "deltalake-core", "candle-core", "tokenizers"] {
        let count = lock.lines().filter(|line| *line == format!("name = \"{name}\"")).count();
        assert_eq!(count, 1, "{name} is in Cargo.lock {count} times");
    }
}
