//! Views: questions that are asked so often that they have a name.

use std::fmt::Write as _;

use uptake_model::labels;
use uptake_model::tables::Layer;

/// A view.
#[derive(Debug, Clone)]
pub struct View {
    /// Its schema.
    pub layer: Layer,
    /// Its name.
    pub name: &'static str,
    /// What one row is.
    pub grain: &'static str,
    /// Its query.
    pub sql: String,
}

/// Every view.
pub fn all() -> Vec<View> {
    vec![
        View {
            layer: Layer::Silver,
            name: "signal_labels",
            grain: "one label that fired for a follow-up, with its probability",
            sql: signal_labels(),
        },
        View {
            layer: Layer::Gold,
            name: "provisional",
            grain: "one answer with feedback whose conversation is not settled, as seen from the latest answer; no pair is made of it yet",
            sql: "SELECT * FROM silver.exchanges WHERE settles_at > (SELECT max(event_time) FROM silver.exchanges) \
                  AND (cardinality(labels) > 0 OR cardinality(reaction_event_ids) > 0)"
                .to_owned(),
        },
    ]
}

fn signal_labels() -> String {
    let mut probability = "CASE label".to_owned();
    for name in probabilities() {
        // Writing to a string cannot fail.
        let _ = write!(probability, " WHEN '{name}' THEN {name}");
    }
    format!(
        "SELECT turn_id, follow_up_turn_id, conversation_id, tagger_id, label, {probability} END AS probability, \
         conversation_date FROM (SELECT *, unnest(labels) AS label FROM silver.signals)"
    )
}

/// The columns of `silver.signals` that hold a probability.
fn probabilities() -> impl Iterator<Item = &'static str> {
    (0..labels::OUTPUTS).filter_map(labels::output_name)
}
