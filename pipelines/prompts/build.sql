WITH wished AS (
    SELECT
        *,
        array_has(labels, 'dsat') AND array_has_any(labels, $wish_labels) AS wishes,
        digest(prompt) AS row_id
    FROM shared.answers
),
ranked AS (
    SELECT
        *,
        CASE
            WHEN fault IS NOT NULL THEN fault
            WHEN row_number() OVER (
                PARTITION BY conversation_date, fault, row_id ORDER BY CASE WHEN wishes THEN 0 ELSE 1 END, turn_id
            ) > 1 THEN 'duplicate_prompt'
        END AS drop_reason
    FROM wished
)
SELECT
    row_id,
    prompt,
    CASE WHEN wishes THEN follow_up END AS preference,
    together(CASE WHEN wishes THEN wishes(follow_up) END) AS checklist,
    conversation_id,
    turn_id,
    together(CASE WHEN wishes THEN follow_up_turn_id END) AS evidence,
    CASE WHEN wishes THEN tagger_id END AS tagger_id,
    language,
    subject_key,
    consent,
    message_tokens(prompt) AS prompt_tokens,
    split_of(conversation_id, $test_share, $split_seed) AS split,
    settles_at AS settled_at,
    conversation_date,
    drop_reason
FROM ranked
