//! Which tagger a pipeline reads with, as its `pipeline.toml` says.

use serde::Deserialize;

/// Which tagger a pipeline reads with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Wording")]
pub(crate) enum Reader {
    /// None.
    #[default]
    None,
    /// The one in use.
    InUse,
    /// The one on trial.
    Shadow,
}

/// How a `pipeline.toml` says it: `tagger = true`, or `tagger = "shadow"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`tagger` must be true, false or \"shadow\"")]
enum Wording {
    InUse(bool),
    Named(Trial),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Trial {
    Shadow,
}

impl From<Wording> for Reader {
    fn from(wording: Wording) -> Self {
        match wording {
            Wording::InUse(false) => Self::None,
            Wording::InUse(true) => Self::InUse,
            Wording::Named(Trial::Shadow) => Self::Shadow,
        }
    }
}
