-- The last word is the last by (event_time, event_id) of a person on a turn, per kind; taken back wins over given at the
-- same time. Of choices, the thing decided upon is the set of answers that were shown. People without a key count as one.
WITH said AS (
    SELECT
        event_id, turn_id, conversation_id, conversation_date, subject_key,
        CASE WHEN clock_skew IS NULL THEN event_time ELSE coalesce(broker_time, ingest_time) END AS event_time,
        reaction(payload) AS reaction
    FROM shared.reactions_told
    WHERE told_before = 1
),
flat AS (
    SELECT
        event_id, turn_id, conversation_id, conversation_date, subject_key, event_time,
        reaction['kind'] AS kind,
        reaction['value'] AS value,
        reaction['text'] AS text,
        reaction['other_turn_ids'] AS other_turn_ids,
        reaction['op'] AS op
    FROM said
    WHERE reaction['kind'] IS NOT NULL
),
ranked AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY
                conversation_date, kind, coalesce(subject_key, ''),
                CASE WHEN kind = 'choice' THEN digest(array_sort(together(turn_id, other_turn_ids))) ELSE turn_id END
            ORDER BY event_time DESC, CASE WHEN op = 'unset' THEN 0 ELSE 1 END, event_id DESC
        ) AS place
    FROM flat
)
SELECT
    event_id, turn_id, conversation_id, kind, value, text, other_turn_ids, op,
    place = 1 AND op = 'set' AS current,
    event_time, subject_key, conversation_date
FROM ranked
