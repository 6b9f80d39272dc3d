WITH heard AS (
    SELECT topic, "partition", "offset", min(said_before) AS best
    FROM shared.said
    GROUP BY topic, "partition", "offset"
)
SELECT
    topic, "partition", "offset", event_id,
    CASE WHEN content_hash = first_content THEN 'duplicate' ELSE 'event_id_reused' END AS reason,
    conversation_date
FROM shared.told
WHERE told_before > 1
UNION ALL
SELECT
    t.topic, t."partition", t."offset", t.event_id,
    CASE WHEN h.best IS NULL THEN 'unreadable' ELSE 'duplicate_turn' END AS reason,
    t.conversation_date
FROM shared.told t
LEFT JOIN heard h ON h.topic = t.topic AND h."partition" = t."partition" AND h."offset" = t."offset"
WHERE t.told_before = 1 AND (h.best IS NULL OR h.best > 1)
UNION ALL
SELECT
    topic, "partition", "offset", event_id,
    CASE
        WHEN told_before = 1 THEN 'unreadable'
        WHEN content_hash = first_content THEN 'duplicate'
        ELSE 'event_id_reused'
    END AS reason,
    conversation_date
FROM shared.reactions_told
WHERE told_before > 1 OR reaction(payload)['kind'] IS NULL
