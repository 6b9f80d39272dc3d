//! Queries to try next. A test runs each of them.

/// What it shows, and the query.
pub(super) const QUERIES: [(&str, &str); 4] = [
    (
        "what users complain about, by model",
        "SELECT e.model, s.label, count(*) AS follow_ups FROM silver.signal_labels s JOIN silver.exchanges e USING (turn_id) \
         WHERE s.label NOT IN ('sat', 'dsat') GROUP BY e.model, s.label ORDER BY follow_ups DESC, e.model, s.label LIMIT 15",
    ),
    (
        "dissatisfaction by day",
        "SELECT conversation_date, share(array_has(labels, 'dsat')) AS dissatisfied FROM silver.exchanges \
         WHERE follow_up_turn_id IS NOT NULL GROUP BY conversation_date ORDER BY conversation_date",
    ),
    (
        "preference pairs, readable",
        "SELECT rule_id, last_user_message(prompt) AS prompt, message_text(rejected, 1) AS rejected, \
         message_text(chosen, 1) AS chosen, strength FROM gold.preference_pairs ORDER BY strength DESC, pair_id LIMIT 5",
    ),
    (
        "why records were refused",
        "SELECT topic, error_class, count(*) AS records, min(error) AS example FROM bronze.dead_letters \
         GROUP BY topic, error_class ORDER BY records DESC",
    ),
];
