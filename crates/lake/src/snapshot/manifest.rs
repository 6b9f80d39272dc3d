//! The manifest of a snapshot, and the list of what is published.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::{DataType, SchemaRef};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uptake_model::tables::Kind;

use super::lengths::Lengths;
use crate::error::{Error, Result};
use crate::lake::Lake;

/// The file that makes a directory a snapshot; written last.
pub const MANIFEST: &str = "manifest.json";

/// The number of the layout below. It is part of every id: raise it whenever the same request would give other bytes.
pub(super) const FORMAT: &str = "uptake-snapshot/1";

/// What a snapshot is and holds. It names no time and no machine, so that the same request gives the same bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Number of the layout.
    pub format: String,
    /// Name of the gold table, and the directory below `snapshots/`.
    pub name: String,
    /// Id of the snapshot.
    pub id: String,
    /// Qualified name of the table.
    pub table: String,
    /// Id of the Delta table.
    pub table_id: String,
    /// Delta version.
    pub version: i64,
    /// SQL condition on the rows, if one was given.
    pub filter: Option<String>,
    /// Rows longer than this were left out.
    pub max_tokens: Option<u64>,
    /// Seed of the order.
    pub seed: u64,
    /// How rows were split.
    pub split: SplitRule,
    /// Tokenizer that the token counts of the table are of.
    pub tokenizer: String,
    /// Rows of the table that met the filter.
    pub rows_read: u64,
    /// Rows left out, by reason.
    pub left_out: BTreeMap<String, u64>,
    /// Rows by split.
    pub rows: BTreeMap<String, u64>,
    /// Conversations by split.
    pub conversations: BTreeMap<String, u64>,
    /// Rows by rule and split.
    pub rules: BTreeMap<String, BTreeMap<String, u64>>,
    /// Rows by class and split, where the table has classes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, BTreeMap<String, u64>>,
    /// Rows by tagger that their signals come from; `none` for rows without.
    pub taggers: BTreeMap<String, u64>,
    /// Rows by model that wrote the answers; `unknown` where the log does not say.
    pub models: BTreeMap<String, u64>,
    /// Lengths of the published rows.
    pub lengths: Lengths,
    /// Columns and types of the files at the root.
    pub columns: BTreeMap<String, String>,
    /// Columns and types of the rendered files.
    pub text_columns: BTreeMap<String, String>,
    /// Every file but this one.
    pub files: Vec<FileEntry>,
}

/// How rows were split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitRule {
    /// In words.
    pub rule: String,
    /// First day (UTC) whose conversations are all in test.
    pub test_from: Option<String>,
    /// Why that day.
    pub reason: String,
    /// Test rows by what held them out: `conversation` or `time`.
    pub held_out_by: BTreeMap<String, u64>,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path below the snapshot.
    pub path: String,
    /// Split, for files of rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Rows, for files of rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// The manifest as it is stored.
    pub(super) fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::bug("write the manifest", error))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The manifest in a directory, if there is one.
    pub(super) async fn read(store: &dyn ObjectStore, directory: &Path) -> Result<Option<Self>> {
        let path = directory.clone().join(MANIFEST);
        let bytes = match store.get(&path).await {
            Ok(found) => found.bytes().await.map_err(|error| Error::sort(format!("read {path}"), error))?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(Error::sort(format!("read {path}"), error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::sort(format!("read {path}"), error))
    }
}

/// Names and types of columns, as the table contracts call them.
pub(super) fn columns(schema: &SchemaRef) -> BTreeMap<String, String> {
    schema.fields().iter().map(|field| (field.name().clone(), type_name(field.data_type()))).collect()
}

fn type_name(kind: &DataType) -> String {
    let kinds = [
        Kind::Text,
        Kind::Bytes,
        Kind::Integer,
        Kind::Long,
        Kind::Float,
        Kind::Flag,
        Kind::Date,
        Kind::Time,
        Kind::Texts,
        Kind::Messages,
    ];
    let known = kinds.into_iter().find(|known| known.arrow() == *kind).map(|known| known.name().to_owned());
    known.unwrap_or_else(|| match kind {
        DataType::Struct(fields) => {
            let names: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("{{{}}}", names.join(", "))
        }
        other => other.to_string(),
    })
}

/// One directory below `snapshots/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the table.
    pub name: String,
    /// Id.
    pub id: String,
    /// Its manifest; none when the publication was broken off.
    pub manifest: Option<Manifest>,
}

/// What is published, by name and id.
///
/// # Errors
/// When the store cannot be listed or a manifest cannot be read.
pub async fn list(lake: &Lake) -> Result<Vec<Snapshot>> {
    let store = lake.store();
    let sorted = |error| Error::sort("list the snapshots", error);
    let root = Path::from("snapshots");
    // Listing whole directories keeps to what every store can do; snapshots hold few files.
    let files: Vec<_> = store.list(Some(&root)).map_ok(|meta| meta.location).try_collect().await.map_err(sorted)?;
    let mut found: BTreeSet<(String, String)> = BTreeSet::new();
    for file in &files {
        let mut parts = file.parts().skip(1);
        if let (Some(name), Some(id), Some(_)) = (parts.next(), parts.next(), parts.next()) {
            let _ = found.insert((name.as_ref().to_owned(), id.as_ref().to_owned()));
        }
    }
    let mut snapshots = Vec::new();
    for (name, id) in found {
        let directory = root.clone().join(name.as_str()).join(id.as_str());
        let manifest = Manifest::read(store.as_ref(), &directory).await?;
        snapshots.push(Snapshot { name, id, manifest });
    }
    Ok(snapshots)
}
