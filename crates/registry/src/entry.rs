//! One model of the registry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::figures::Figures;
use crate::gates::Decision;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Reads signals in follow-ups.
    Tagger,
    /// Scores answers: P[Love] and other rewards.
    Reward,
    /// Answers: a language model or an adapter of one.
    Policy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tagger, Self::Reward, Self::Policy];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tagger => "tagger",
            Self::Reward => "reward",
            Self::Policy => "policy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| format!("`{text}` is no kind of model: tagger, reward or policy"))
    }
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelFile {
    /// Path below the model's directory, with `/` between its parts.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of them, hexadecimal.
    pub sha256: String,
}

/// Where a model comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// Version of the program that added it.
    pub code_version: String,
    /// The published snapshot that it was trained on: table and id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Models of this registry that it was made from or with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// What the trainer wrote of its base, data and options, as it wrote them.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub training: Value,
}

/// One model: what `entry.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of this layout.
    pub format: u32,
    /// Name and version: `<name>/<version>`, also its directory below `models/`.
    pub id: String,
    /// What it is for.
    pub kind: Kind,
    /// What people call it; for policies the name under which the chat logs know it, if it is served under one.
    pub name: String,
    /// The first twelve digits of the digest over all files.
    pub version: String,
    /// When it was added, RFC 3339.
    pub added_at: String,
    /// Its files, sorted by path.
    pub files: Vec<ModelFile>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// What was measured, by dotted names.
    pub figures: Figures,
    /// How it fared under the gates when it was added.
    pub decision: Decision,
}

impl Entry {
    /// Version of the layout that this program writes and reads.
    pub const FORMAT: u32 = 1;
}
