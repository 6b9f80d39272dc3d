WITH praised AS (
    SELECT
        *,
        CASE WHEN reacted_well THEN $reaction_evidence ELSE coalesce(sat, 0.0) END * weight AS weighted,
        digest(prompt, response) AS row_id,
        CASE
            WHEN fault IS NOT NULL THEN fault
            WHEN NOT (reacted_well OR said_well) THEN 'no_positive_evidence'
            WHEN reacted_badly OR array_has(labels, 'dsat') THEN 'mixed_evidence'
            WHEN CASE WHEN reacted_well THEN $reaction_evidence ELSE coalesce(sat, 0.0) END * weight < $least_strength
                THEN 'weak_evidence'
            WHEN opens_with_apology(response) THEN 'answers_a_complaint'
        END AS own_fault
    FROM shared.answers
),
distinct_rows AS (
    SELECT
        *,
        CASE
            WHEN own_fault IS NOT NULL THEN own_fault
            WHEN row_number() OVER (
                PARTITION BY conversation_date, own_fault, row_id ORDER BY weighted DESC, turn_id
            ) > 1 THEN 'duplicate_answer'
        END AS row_fault
    FROM praised
),
capped AS (
    SELECT
        *,
        CASE
            WHEN row_fault IS NOT NULL THEN row_fault
            WHEN row_number() OVER (
                PARTITION BY conversation_date, row_fault, coalesce(subject_key, conversation_id)
                ORDER BY weighted DESC, row_id
            ) > $most_of_a_subject THEN 'subject_cap'
        END AS drop_reason
    FROM distinct_rows
)
SELECT
    row_id,
    with_answer(prompt, response) AS messages,
    conversation_id,
    turn_id,
    together(CASE WHEN said_well THEN follow_up_turn_id END, reaction_event_ids) AS evidence,
    weighted AS strength,
    tagger_id,
    model,
    language,
    subject_key,
    consent,
    message_tokens(prompt) + token_count(response) AS tokens,
    split_of(conversation_id, $test_share, $split_seed) AS split,
    settles_at AS settled_at,
    conversation_date,
    drop_reason
FROM capped
