SELECT
    r.conversation_date,
    r.conversation_id,
    r.turn_id AS rejected_turn_id,
    CAST(NULL AS VARCHAR) AS chosen_turn_id,
    e.response AS rejected_text,
    r.text AS chosen_text,
    e.last_user_message,
    e.path,
    e.model,
    e.language,
    coalesce(r.subject_key, e.subject_key) AS subject_key,
    e.consent,
    together(r.event_id) AS evidence,
    r.event_id AS evidence_id,
    0.9 AS strength,
    CAST(NULL AS VARCHAR) AS tagger_id,
    coalesce(e.settles_at, r.event_time + CAST($settle_window AS INTERVAL)) AS settles_at,
    CASE WHEN e.turn_id IS NULL THEN 'answer_unknown' END AS reason
FROM silver.reactions r
LEFT JOIN silver.exchanges e ON e.turn_id = r.turn_id AND e.conversation_date = r.conversation_date
WHERE r.kind = 'edit' AND r.current
