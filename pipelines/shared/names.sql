-- Every name of a turn: its id and its alias. An id comes before an alias that happens to be the same.
WITH named AS (
    SELECT conversation_date, turn_id AS name, turn_id, conversation_id, 0 AS by_alias FROM silver.turns
    UNION ALL
    SELECT conversation_date, alias AS name, turn_id, conversation_id, 1 AS by_alias
    FROM silver.turns WHERE alias IS NOT NULL
),
ranked AS (
    SELECT
        conversation_date, name, turn_id, conversation_id,
        row_number() OVER (PARTITION BY conversation_date, name ORDER BY by_alias, turn_id) AS place
    FROM named
)
SELECT conversation_date, name, turn_id, conversation_id FROM ranked WHERE place = 1
