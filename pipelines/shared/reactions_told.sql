-- Reactions with the turn and the conversation that they belong to, each with its place among the events of the same id.
-- A reaction that names no conversation is placed through its turn, by id or alias; one that names it stands before
-- its message has come. What can be placed in neither way waits in bronze, and is counted.
WITH placed AS (
    SELECT
        e.topic, e."partition", e."offset", e.event_id, e.event_time, e.ingest_time, e.broker_time, e.clock_skew,
        e.subject_key, e.payload, e.content_hash,
        coalesce(n.turn_id, e.message_id) AS turn_id,
        coalesce(n.conversation_id, e.conversation_id) AS conversation_id,
        coalesce(e.conversation_date, n.conversation_date) AS conversation_date
    FROM bronze.events e
    LEFT JOIN shared.names n
        ON n.name = e.message_id AND (e.conversation_date IS NULL OR e.conversation_date = n.conversation_date)
    WHERE e.kind = 'reaction'
)
SELECT
    *,
    row_number() OVER same_event AS told_before,
    first_value(content_hash) OVER same_event AS first_content
FROM placed
WHERE conversation_date IS NOT NULL AND conversation_id IS NOT NULL
WINDOW same_event AS (
    PARTITION BY conversation_date, event_id ORDER BY ingest_time, topic, "partition", "offset"
)
