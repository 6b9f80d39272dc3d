-- Messages and log lines, each with its place among the events of the same id (1: the first, which counts), and what
-- the first one said. The same id always comes with the same conversation, so its day holds all of them.
SELECT
    topic, "partition", "offset", event_id, kind, conversation_date, event_time, ingest_time, broker_time, clock_skew,
    subject_key, payload, content_hash,
    row_number() OVER same_event AS told_before,
    first_value(content_hash) OVER same_event AS first_content
FROM bronze.events
WHERE kind IN ('message', 'completion') AND conversation_date IS NOT NULL
WINDOW same_event AS (
    PARTITION BY conversation_date, kind, event_id ORDER BY ingest_time, topic, "partition", "offset"
)
