-- How much a person's reactions of a day count. Far more reactions than people give, a long stream of one kind, many
-- within one minute, and reactions faster than anybody reads lower the weight; the rows stay.
WITH given AS (
    SELECT
        r.conversation_date, r.subject_key, r.kind, date_trunc('minute', r.event_time) AS minute,
        CASE
            WHEN t.turn_id IS NULL THEN 0.0
            WHEN (arrow_cast(r.event_time, 'Int64') - arrow_cast(t.event_time, 'Int64')) / 1000000.0
                < character_length(t.text) / $characters_read_a_second THEN 1.0
            ELSE 0.0
        END AS hasty
    FROM silver.reactions r
    LEFT JOIN silver.turns t ON t.turn_id = r.turn_id AND t.conversation_date = r.conversation_date
    WHERE r.op = 'set' AND r.subject_key IS NOT NULL
),
counted AS (
    SELECT
        conversation_date, subject_key, count(*) AS reactions, count(DISTINCT kind) AS kinds, sum(hasty) AS hasty
    FROM given
    GROUP BY conversation_date, subject_key
),
minutes AS (
    SELECT conversation_date, subject_key, minute, count(*) AS reactions
    FROM given
    GROUP BY conversation_date, subject_key, minute
),
bursts AS (
    SELECT conversation_date, subject_key, max(reactions) AS in_a_minute
    FROM minutes
    GROUP BY conversation_date, subject_key
)
SELECT
    c.conversation_date,
    c.subject_key,
    CASE WHEN reactions > $reactions_a_day THEN $reactions_a_day / reactions ELSE 1.0 END
        * CASE WHEN reactions >= $stream_least AND kinds = 1 THEN $single_kind_weight ELSE 1.0 END
        * CASE WHEN in_a_minute >= $burst_least THEN $burst_weight ELSE 1.0 END
        * CASE WHEN reactions >= $hasty_least AND hasty / reactions > $hasty_share THEN $hasty_weight ELSE 1.0 END
        AS weight
FROM counted c
JOIN bursts b ON b.subject_key = c.subject_key AND b.conversation_date = c.conversation_date
