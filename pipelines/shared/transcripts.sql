-- The turns of each conversation, for the messages of a path.
SELECT
    conversation_date, conversation_id,
    array_agg(named_struct('turn_id', turn_id, 'role', role, 'text', text) ORDER BY turn_id) AS turns
FROM silver.turns
GROUP BY conversation_date, conversation_id
