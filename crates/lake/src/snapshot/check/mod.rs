//! Holds a directory of training data to what trainers accept.

mod directory;
mod rows;
mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use serde::Serialize;

use super::files::{self, DataFormat, RowFile};
use super::lengths::Lengths;
use super::manifest::Manifest;
use super::publish::BEFORE_PUBLICATION;
use super::rules::{Rule, Trainer};
use crate::error::{Error, Result};
use crate::lake::Lake;

/// Places that a report names for each rule.
const PLACES: usize = 3;

/// What to check for.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Only what breaks this trainer; everything when absent.
    pub trainer: Option<Trainer>,
    /// A length to report on beside the usual ones.
    pub max_tokens: Option<u64>,
    /// The directory is about to get its manifest, and need not have it yet.
    pub unpublished: bool,
}

/// One rule that a directory breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The rule.
    pub rule: Rule,
    /// How often it is broken.
    pub count: u64,
    /// The trainers that it breaks.
    pub breaks: Vec<&'static str>,
    /// What it does to them.
    pub effect: &'static str,
    /// The first places.
    pub places: Vec<String>,
}

/// Where the rows of a directory come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Qualified name of the table.
    pub table: String,
    /// Delta version.
    pub version: i64,
    /// Id of the snapshot.
    pub id: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What kind of table the columns make, if any.
    pub table: Option<&'static str>,
    /// What the manifest says about the origin.
    pub source: Option<Source>,
    /// Data files.
    pub files: usize,
    /// Rows by split.
    pub rows: BTreeMap<String, u64>,
    /// Lengths of the rows; what a limit would drop.
    pub lengths: Option<Lengths>,
    /// What the lengths are counted in.
    pub length_unit: &'static str,
    /// The rules that are broken.
    pub faults: Vec<Fault>,
}

/// Collects breaches.
#[derive(Debug, Default)]
struct Faults {
    found: BTreeMap<Rule, (u64, Vec<String>)>,
}

impl Faults {
    fn add(&mut self, rule: Rule, place: impl Into<String>) {
        let (count, places) = self.found.entry(rule).or_default();
        *count += 1;
        if places.len() < PLACES {
            places.push(place.into());
        }
    }

    fn report(self, options: &CheckOptions) -> Vec<Fault> {
        let wanted = |rule: Rule| {
            !(options.unpublished && BEFORE_PUBLICATION.contains(&rule))
                && options.trainer.is_none_or(|trainer| rule.trainers().contains(&trainer))
        };
        self.found
            .into_iter()
            .filter(|(rule, _)| wanted(*rule))
            .map(|(rule, (count, places))| Fault {
                rule,
                count,
                breaks: rule.trainers().iter().map(|trainer| trainer.name()).collect(),
                effect: rule.effect(),
                places,
            })
            .collect()
    }
}

/// A data file of the directory.
struct DataFile {
    /// Path below the directory.
    path: String,
    meta: ObjectMeta,
    format: DataFormat,
    /// `train` or `test`, by its name; none when it is neither or the file lies in a folder.
    split: Option<&'static str>,
}

/// Checks a directory, or an `s3://` prefix.
///
/// # Errors
/// [`Error::Invalid`] when there is no such directory or nothing is in it; the store's errors.
pub async fn check(name: &str, options: &CheckOptions) -> Result<Report> {
    let place = Lake::open(name)?;
    check_directory(place.store(), &Path::default(), options).await
}

/// Checks a directory of a store.
///
/// # Errors
/// As [`check`].
pub async fn check_directory(store: Arc<dyn ObjectStore>, directory: &Path, options: &CheckOptions) -> Result<Report> {
    let prefix = (directory.parts_count() > 0).then_some(directory);
    let listed: Vec<ObjectMeta> =
        store.list(prefix).try_collect().await.map_err(|error| Error::sort(format!("list `{directory}`"), error))?;
    if listed.is_empty() {
        return Err(Error::Invalid(
            "there is no directory of that name, or nothing is in it; give the directory that holds train-*.parquet"
                .to_owned(),
        ));
    }
    let mut paths: Vec<(String, ObjectMeta)> =
        listed.into_iter().map(|meta| (below(directory, &meta.location), meta)).collect();
    paths.sort_by(|one, other| one.0.cmp(&other.0));
    let mut faults = Faults::default();
    if let Some((path, _)) = paths.iter().find(|(path, _)| path.split('/').any(|part| part == "_delta_log")) {
        faults.add(Rule::DeltaDirectory, path.clone());
        return Ok(Report {
            table: None,
            source: None,
            files: 0,
            rows: BTreeMap::new(),
            lengths: None,
            length_unit: "",
            faults: faults.report(options),
        });
    }
    let manifest = match Manifest::read(store.as_ref(), directory).await {
        Ok(manifest) => manifest,
        Err(error) if matches!(error, Error::Corrupt { .. }) => {
            faults.add(Rule::ManifestMismatch, error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    let data = directory::data_files(&paths, &mut faults);
    directory::check_card(&store, &paths, &data, &mut faults).await;
    let mut rows = rows::Rows::new(manifest.as_ref());
    let mut counts = BTreeMap::new();
    for file in &data {
        let read = read(&store, file, &mut rows, &mut faults).await;
        let _ = counts.insert(file.path.clone(), read);
    }
    let shape = rows.finish(&mut faults);
    directory::check_described(&store, &paths, shape, &mut faults).await;
    directory::check_rendered(&data, &counts, shape, &mut faults);
    directory::check_manifest(&store, manifest.as_ref(), &paths, &data, &counts, &mut faults).await?;
    let mut by_split = BTreeMap::new();
    for file in &data {
        if let Some(split) = file.split {
            *by_split.entry(split.to_owned()).or_default() += counts.get(&file.path).copied().unwrap_or(0);
        }
    }
    let (lengths, length_unit) = rows.lengths(options.max_tokens);
    Ok(Report {
        table: shape.map(rows::Shape::name),
        source: manifest.map(|manifest| Source { table: manifest.table, version: manifest.version, id: manifest.id }),
        files: data.len(),
        rows: by_split,
        lengths,
        length_unit,
        faults: faults.report(options),
    })
}

/// Reads one file through the rules; gives the number of its rows.
async fn read(store: &Arc<dyn ObjectStore>, file: &DataFile, rows: &mut rows::Rows<'_>, faults: &mut Faults) -> u64 {
    let mut opened = match files::open(store, &file.meta, file.format, rows::looked_at).await {
        Ok(opened) => opened,
        Err(error) => {
            faults.add(Rule::Unreadable, format!("{}: {error}", file.path));
            return 0;
        }
    };
    if let RowFile::Parquet { schema, embedded, .. } = &opened {
        schema::check(schema, *embedded, &file.path, faults);
    }
    rows.begin(file, &opened, faults);
    let mut count = 0;
    while let Some(batch) = opened.next().await {
        match batch {
            Ok(batch) => {
                for row in batch {
                    rows.row(file, count, &row, faults);
                    count += 1;
                }
            }
            Err(error) => {
                faults.add(Rule::Unreadable, format!("{}, row {}: {error}", file.path, count + 1));
                // A broken line leaves the next one readable; a broken page does not.
                if file.format == DataFormat::Parquet {
                    break;
                }
                count += 1;
            }
        }
    }
    count
}

/// A path below the directory.
fn below(directory: &Path, path: &Path) -> String {
    let parts = directory.parts_count();
    path.parts().skip(parts).map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
}
