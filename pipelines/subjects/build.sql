WITH seen AS (
    SELECT subject_key, conversation_id, conversation_date, event_time FROM silver.turns
    UNION ALL
    SELECT subject_key, conversation_id, conversation_date, event_time FROM silver.reactions
)
SELECT
    subject_key, conversation_id, min(event_time) AS first_seen, max(event_time) AS last_seen, conversation_date
FROM seen
WHERE subject_key IS NOT NULL
GROUP BY subject_key, conversation_id, conversation_date
