-- The turns that events tell of, each with its place among the tellings of the same turn (1: the one that counts).
-- Log lines repeat the conversation so far: the line in which an answer is the response (it has an alias there) comes
-- before those that repeat it; then the earliest. Nothing depends on the order of arrival.
-- A time that no clock can have shown is replaced by the broker's.
WITH unfolded AS (
    SELECT
        topic, "partition", "offset", event_id, subject_key, conversation_date,
        CASE WHEN clock_skew IS NULL THEN NULL ELSE coalesce(broker_time, ingest_time) END AS corrected_time,
        unnest(message_turns(kind, payload, event_time, subject_key)) AS turn
    FROM shared.told
    WHERE told_before = 1
),
named AS (
    SELECT
        topic, "partition", "offset", event_id, subject_key, conversation_date,
        turn['turn_id'] AS turn_id,
        turn['alias'] AS alias,
        turn['conversation_id'] AS conversation_id,
        turn['turn_index'] AS turn_index,
        turn['parent_turn_id'] AS parent_turn_id,
        turn['role'] AS role,
        turn['text'] AS text,
        turn['model'] AS model,
        turn['language'] AS language,
        coalesce(corrected_time, turn['event_time']) AS event_time,
        turn['consent'] AS consent,
        turn['extra'] AS extra
    FROM unfolded
)
SELECT
    *,
    row_number() OVER (
        PARTITION BY conversation_date, turn_id
        ORDER BY CASE WHEN alias IS NULL THEN 1 ELSE 0 END, event_time, event_id, topic, "partition", "offset"
    ) AS said_before
FROM named
