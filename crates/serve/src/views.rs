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
            layer: Layer::Silver,
            name: "shadow_labels",
            grain: "one label, as the tagger in use and the one on trial read it in the same follow-ups: both, one, the other; rates and agreement",
            sql: shadow_labels(),
        },
        View {
            layer: Layer::Silver,
            name: "label_drift",
            grain: "one label of one tagger on one day, held against its share of the 28 days before; alarm where it left them",
            sql: label_drift(),
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

/// The same follow-ups with the same texts, read by both. `kappa` is Cohen's: agreement beyond what the two rates make by
/// chance; null where there is no other agreement, such as of a label that neither ever gives.
fn shadow_labels() -> String {
    let names: Vec<String> = probabilities().map(|name| format!("'{name}'")).collect();
    format!(
        "WITH read AS (
             SELECT s.tagger_id, h.tagger_id AS shadow_id, s.labels, h.labels AS shadow_labels
             FROM silver.signals s JOIN silver.signals_shadow h
                 ON h.turn_id = s.turn_id AND h.follow_up_turn_id = s.follow_up_turn_id
                 AND h.input_hash = s.input_hash AND h.conversation_date = s.conversation_date
         ),
         named AS (SELECT unnest(make_array({})) AS label),
         said AS (
             SELECT r.tagger_id, r.shadow_id, n.label, array_has(r.labels, n.label) AS ours,
                 array_has(r.shadow_labels, n.label) AS theirs
             FROM read r CROSS JOIN named n
         ),
         counted AS (
             SELECT tagger_id, shadow_id, label, count(*) AS follow_ups,
                 count(CASE WHEN ours AND theirs THEN 1 END) AS both_fired,
                 count(CASE WHEN ours AND NOT theirs THEN 1 END) AS only_tagger_fired,
                 count(CASE WHEN theirs AND NOT ours THEN 1 END) AS only_shadow_fired,
                 count(CASE WHEN NOT ours AND NOT theirs THEN 1 END) AS neither_fired
             FROM said GROUP BY tagger_id, shadow_id, label
         ),
         rated AS (
             SELECT *, (both_fired + only_tagger_fired) / CAST(follow_ups AS DOUBLE) AS tagger_rate,
                 (both_fired + only_shadow_fired) / CAST(follow_ups AS DOUBLE) AS shadow_rate,
                 (both_fired + neither_fired) / CAST(follow_ups AS DOUBLE) AS agreement
             FROM counted
         ),
         expected AS (
             SELECT *, tagger_rate * shadow_rate + (1 - tagger_rate) * (1 - shadow_rate) AS by_chance FROM rated
         )
         SELECT tagger_id, shadow_id, label, follow_ups, both_fired, only_tagger_fired, only_shadow_fired,
             neither_fired,
             tagger_rate, shadow_rate, agreement,
             CASE WHEN by_chance < 1 THEN (agreement - by_chance) / (1 - by_chance) END AS kappa
         FROM expected",
        names.join(", ")
    )
}

/// Days of history that a day is held against.
const HISTORY: &str = "28 days";
/// Fewest days of them that are one.
const FEWEST_DAYS: u32 = 14;
/// Fewest times that a label fired, or would have at its rate before: below, chance decides.
const FEWEST: u32 = 10;
/// Standard deviations from its history at which a rate is out of it. For 20 labels on a quiet day chance goes as far once in
/// some 800 days.
const ALARM: u32 = 4;

/// A control chart of shares (Laney's p′, 2002): the days of the history say how much more than by chance a share varies
/// from day to day (`dispersion`, at least 1), and the bounds are as much wider. `low` and `high` are those bounds.
fn label_drift() -> String {
    format!(
        "WITH before AS (
             SELECT d.tagger_id, d.label, d.conversation_date, count(*) AS history_days,
                 sum(h.follow_ups) AS history_follow_ups, sum(h.fired) AS history_fired,
                 sum(CAST(h.fired AS DOUBLE) * h.fired / h.follow_ups) AS squares
             FROM silver.label_rates d JOIN silver.label_rates h
                 ON h.tagger_id = d.tagger_id AND h.label = d.label
                 AND h.conversation_date < d.conversation_date
                 AND h.conversation_date >= d.conversation_date - INTERVAL '{HISTORY}'
             GROUP BY d.tagger_id, d.label, d.conversation_date
         ),
         rated AS (
             SELECT d.*, d.fired / CAST(d.follow_ups AS DOUBLE) AS rate,
                 b.history_days, b.history_follow_ups, b.squares,
                 b.history_fired / CAST(b.history_follow_ups AS DOUBLE) AS history_rate,
                 (d.fired + b.history_fired) / CAST(d.follow_ups + b.history_follow_ups AS DOUBLE) AS pooled
             FROM silver.label_rates d LEFT JOIN before b
                 ON b.tagger_id = d.tagger_id AND b.label = d.label AND b.conversation_date = d.conversation_date
         ),
         spread AS (
             SELECT *, CASE WHEN history_days > 1 AND history_rate > 0 AND history_rate < 1
                 THEN greatest(1.0, (squares - history_rate * history_rate * history_follow_ups)
                     / (history_rate * (1 - history_rate) * (history_days - 1))) ELSE 1.0 END AS dispersion
             FROM rated
         ),
         bounded AS (
             SELECT *, sqrt(dispersion * pooled * (1 - pooled)
                 * (1.0 / follow_ups + 1.0 / history_follow_ups)) AS deviation
             FROM spread
         )
         SELECT tagger_id, label, conversation_date, follow_ups, fired, rate, history_days, history_follow_ups,
             history_rate, greatest(0.0, history_rate - {ALARM} * deviation) AS low,
             least(1.0, history_rate + {ALARM} * deviation) AS high, dispersion,
             CASE WHEN deviation > 0 THEN (rate - history_rate) / deviation END AS z,
             coalesce(history_days >= {FEWEST_DAYS} AND deviation > 0
                 AND abs(rate - history_rate) >= {ALARM} * deviation
                 AND abs(rate - history_rate) >= least_change
                 AND greatest(CAST(fired AS DOUBLE), follow_ups * history_rate) >= {FEWEST}, false) AS alarm
         FROM bounded"
    )
}

/// The columns of `silver.signals` that hold a probability.
fn probabilities() -> impl Iterator<Item = &'static str> {
    (0..labels::OUTPUTS).filter_map(labels::output_name)
}
