-- Kept is not yet better: the last of several answers stands also where the person gave up. So the kept answer must have
-- been used: the conversation went on from it, or somebody loved, liked, copied or shared it.
WITH shown_together AS (
    SELECT DISTINCT conversation_date, turn_id AS chosen, unnest(other_turn_ids) AS other
    FROM silver.reactions
    WHERE kind = 'choice' AND current
),
chosen_from AS (
    SELECT DISTINCT s.conversation_date, n.turn_id
    FROM shown_together s
    JOIN shared.names n ON n.name = s.other AND n.conversation_date = s.conversation_date
    UNION
    SELECT DISTINCT conversation_date, chosen AS turn_id FROM shown_together
)
SELECT
    e.conversation_date,
    e.conversation_id,
    e.turn_id AS rejected_turn_id,
    k.turn_id AS chosen_turn_id,
    e.response AS rejected_text,
    k.response AS chosen_text,
    e.last_user_message,
    e.path,
    e.model,
    e.language,
    e.subject_key,
    e.consent,
    together(k.turn_id, k.follow_up_turn_id, e.reaction_event_ids, k.reaction_event_ids) AS evidence,
    k.turn_id AS evidence_id,
    0.5
        + CASE WHEN e.regenerations > 0 THEN 0.2 ELSE 0.0 END
        + CASE
            WHEN k.loves + k.likes + k.copies + k.shares > 0 OR array_has_any(k.labels, $met_labels) THEN 0.3
            ELSE 0.0
        END AS strength,
    k.tagger_id,
    e.settles_at,
    CASE
        WHEN c.turn_id IS NOT NULL THEN 'shown_side_by_side'
        WHEN e.loves + e.likes + e.copies + e.shares > 0 THEN 'rejected_answer_liked'
        WHEN array_has(k.labels, 'dsat') OR k.dislikes + k.reports > 0 THEN 'kept_answer_disliked'
        WHEN k.follow_up_turn_id IS NULL AND k.loves + k.likes + k.copies + k.shares = 0 THEN 'kept_without_use'
        WHEN looks_like_refusal(e.response) THEN 'refusal_needs_verdict'
    END AS reason
FROM silver.exchanges e
JOIN silver.exchanges k ON k.turn_id = e.superseded_by AND k.conversation_date = e.conversation_date
LEFT JOIN chosen_from c ON c.turn_id = e.turn_id AND c.conversation_date = e.conversation_date
