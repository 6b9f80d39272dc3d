WITH labelled AS (
    SELECT
        *,
        CASE WHEN reacted_well OR said_well THEN true WHEN reacted_badly OR said_badly THEN false END AS label,
        CASE
            WHEN (reacted_well AND said_well) OR (reacted_badly AND said_badly) THEN 'reaction_and_signal'
            WHEN reacted_well OR reacted_badly THEN 'reaction'
            ELSE 'signal'
        END AS rule_id,
        CASE
            WHEN reacted_well OR reacted_badly THEN $reaction_evidence
            WHEN said_well THEN coalesce(sat, 0.0)
            WHEN said_badly THEN coalesce(dsat, 0.0)
            ELSE 0.0
        END * weight AS weighted,
        CASE
            WHEN fault IS NOT NULL THEN fault
            WHEN NOT (reacted_well OR said_well OR reacted_badly OR said_badly) THEN 'no_evidence'
            WHEN (reacted_well OR said_well) AND (reacted_badly OR array_has(labels, 'dsat')) THEN 'mixed_evidence'
            WHEN (reacted_badly OR said_badly) AND looks_like_refusal(response) THEN 'refusal_needs_verdict'
        END AS own_fault,
        digest(prompt, response) AS row_id
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
    FROM labelled
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
    prompt,
    message('assistant', response) AS completion,
    label,
    conversation_id,
    turn_id,
    together(CASE WHEN said_well OR said_badly THEN follow_up_turn_id END, reaction_event_ids) AS evidence,
    weighted AS strength,
    rule_id,
    tagger_id,
    model,
    language,
    subject_key,
    consent,
    message_tokens(prompt) AS prompt_tokens,
    token_count(response) AS completion_tokens,
    split_of(conversation_id, $test_share, $split_seed) AS split,
    settles_at AS settled_at,
    conversation_date,
    drop_reason
FROM capped
