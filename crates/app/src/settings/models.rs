//! Settings of the registry of models: section `[models]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uptake_registry::Gate;

use crate::context::Usage;
use crate::settings::cache_directory;

/// Section `[models]`: what a model must show before it is put into use, and who is told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelsSettings {
    /// Bounds on figures, each a `[[models.gates]]`.
    pub(crate) gates: Vec<Gate>,
    /// A program with its arguments, started after a promotion or a rollback: it gets the event as JSON on standard
    /// input, and `UPTAKE_MODEL_KIND`, `UPTAKE_MODEL_ID`, `UPTAKE_MODEL_NAME` and `UPTAKE_MODEL_DIRECTORY`.
    pub(crate) on_promotion: Vec<String>,
    /// Directory of models taken out of the lake; `uptake/models` below the user's cache directory when absent.
    pub(crate) cache: Option<PathBuf>,
}

impl ModelsSettings {
    /// Where models are kept that were taken out of the lake.
    ///
    /// # Errors
    /// [`Usage`] when no directory is named and the environment has none.
    pub(crate) fn cache(&self) -> Result<PathBuf, Usage> {
        self.cache.clone().map_or_else(|| cache_directory("models"), Ok)
    }

    /// Everything that can be said without a lake, for `config check`.
    pub(crate) fn faults(&self) -> Vec<String> {
        let gates = self.gates.iter().filter_map(|gate| gate.check().err());
        let mut faults: Vec<String> = gates.map(|fault| format!("models.gates: {fault}")).collect();
        if self.on_promotion.first().is_some_and(|program| program.trim().is_empty()) {
            faults.push("models.on_promotion: the program has no name".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read_and_checked() {
        let text = "on_promotion = [\"\"]\n[[gates]]\nkind = \"tagger\"\nfigure = \"test.outputs.dsat.auroc\"\nat_least = 0.8\n\
                    [[gates]]\nkind = \"policy\"\nfigure = \"held_out.accuracy\"\n";
        let settings: ModelsSettings = toml::from_str(text).unwrap();
        let faults = settings.faults();
        assert_eq!(settings.gates.len(), 2);
        assert!(
            faults[0].starts_with("models.gates: the gate on policy `held_out.accuracy` bounds nothing"),
            "{faults:?}"
        );
        assert!(faults[1].starts_with("models.on_promotion: "), "{faults:?}");
        assert!(toml::from_str::<ModelsSettings>("[[gates]]\nkind = \"tager\"\nfigure = \"x\"\n").is_err());
    }
}
