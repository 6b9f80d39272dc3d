WITH choices AS (
    SELECT event_id, turn_id, conversation_id, conversation_date, subject_key, event_time,
        unnest(other_turn_ids) AS other
    FROM silver.reactions
    WHERE kind = 'choice' AND current
)
SELECT
    r.conversation_date,
    r.conversation_id,
    coalesce(n.turn_id, r.other) AS rejected_turn_id,
    r.turn_id AS chosen_turn_id,
    e.response AS rejected_text,
    k.response AS chosen_text,
    k.last_user_message,
    k.path,
    e.model,
    k.language,
    coalesce(r.subject_key, k.subject_key) AS subject_key,
    k.consent,
    together(r.event_id) AS evidence,
    r.event_id AS evidence_id,
    1.0 AS strength,
    CAST(NULL AS VARCHAR) AS tagger_id,
    coalesce(k.settles_at, r.event_time + CAST($settle_window AS INTERVAL)) AS settles_at,
    CASE
        WHEN e.turn_id IS NULL OR k.turn_id IS NULL THEN 'answer_unknown'
        WHEN e.prompt_turn_id IS DISTINCT FROM k.prompt_turn_id THEN 'prompts_differ'
    END AS reason
FROM choices r
LEFT JOIN shared.names n ON n.name = r.other AND n.conversation_date = r.conversation_date
LEFT JOIN silver.exchanges e ON e.turn_id = n.turn_id AND e.conversation_date = r.conversation_date
LEFT JOIN silver.exchanges k ON k.turn_id = r.turn_id AND k.conversation_date = r.conversation_date
