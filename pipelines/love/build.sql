-- A love is a reaction of the configured kinds that stands. Propensity: the share of this person's answers of the day
-- that drew any reaction, drawn towards the day's share by a prior, so that three answers do not make a certainty.
WITH loved AS (
    SELECT r.conversation_date, r.turn_id, max(k.value) AS love_weight
    FROM silver.reactions r
    JOIN parameters.love_kinds k ON k.name = r.kind
    WHERE r.current
    GROUP BY r.conversation_date, r.turn_id
),
seen AS (
    SELECT
        a.*,
        l.love_weight,
        l.turn_id IS NOT NULL AS love,
        CASE WHEN array_length(a.reaction_event_ids) > 0 THEN 1.0 ELSE 0.0 END AS reacted,
        digest(a.prompt, a.response) AS row_id
    FROM shared.answers a
    LEFT JOIN loved l ON l.turn_id = a.turn_id AND l.conversation_date = a.conversation_date
),
shares AS (
    SELECT
        *,
        (
            sum(reacted) OVER (PARTITION BY conversation_date, coalesce(subject_key, conversation_id))
            + $propensity_prior * avg(reacted) OVER (PARTITION BY conversation_date)
        ) / (
            count(*) OVER (PARTITION BY conversation_date, coalesce(subject_key, conversation_id)) + $propensity_prior
        ) AS propensity,
        CASE
            WHEN fault IS NOT NULL THEN fault
            WHEN row_number() OVER (
                PARTITION BY conversation_date, fault, row_id
                ORDER BY CASE WHEN love THEN 0 ELSE 1 END, love_weight DESC, turn_id
            ) > 1 THEN 'duplicate_answer'
        END AS drop_reason
    FROM seen
)
SELECT
    row_id,
    prompt,
    message('assistant', response) AS response,
    love,
    CASE WHEN love THEN love_weight WHEN reacted_badly THEN 1.0 ELSE $absence_weight END * weight AS weight,
    propensity,
    conversation_id,
    turn_id,
    together(reaction_event_ids) AS evidence,
    CASE WHEN love THEN 'reaction' WHEN reacted_badly THEN 'dislike' ELSE 'absence' END AS rule_id,
    model,
    language,
    subject_key,
    consent,
    message_tokens(prompt) AS prompt_tokens,
    token_count(response) AS response_tokens,
    split_of(conversation_id, $test_share, $split_seed) AS split,
    settles_at AS settled_at,
    conversation_date,
    drop_reason
FROM shares
