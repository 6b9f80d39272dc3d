-- Every assistant turn with its place in the tree of its conversation.
WITH trees AS (
    SELECT
        conversation_date, conversation_id,
        resolve_exchanges(array_agg(named_struct(
            'turn_id', turn_id, 'parent_turn_id', parent_turn_id, 'turn_index', turn_index, 'role', role,
            'event_time', event_time
        ))) AS exchanges
    FROM silver.turns
    GROUP BY conversation_date, conversation_id
),
unfolded AS (
    SELECT conversation_date, conversation_id, unnest(exchanges) AS exchange FROM trees
)
SELECT
    conversation_date,
    conversation_id,
    exchange['turn_id'] AS turn_id,
    exchange['depth'] AS depth,
    exchange['path'] AS path,
    exchange['prompt_turn_id'] AS prompt_turn_id,
    exchange['last_user_turn_id'] AS last_user_turn_id,
    exchange['follow_up_turn_id'] AS follow_up_turn_id,
    exchange['superseded_by'] AS superseded_by
FROM unfolded
