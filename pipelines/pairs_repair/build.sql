-- Rejected: the answer that drew a complaint. Chosen: the first later answer that met the wish, up to three rounds on,
-- where every answer in between drew a complaint too (else the talk has moved on to something else). The prompt is that
-- of the rejected answer, so the chosen one must stand on its own: one that apologises, defends itself, explains the error
-- that the complaint quotes or takes its words from the complaint answers the complaint (`repair_fault`).
-- That the wish was met is said in the next follow-up, or shown by a reaction; that no complaint came is not enough.
WITH judged AS (
    SELECT
        *,
        array_has(labels, 'dsat') AS complained,
        NOT array_has(labels, 'dsat') AND NOT array_has(labels, 'getting_there') AND dislikes = 0 AND reports = 0 AND (
            array_has_any(labels, $met_labels)
            OR loves + likes + copies + shares > 0
            OR coalesce(rating >= 4, false)
        ) AS met
    FROM silver.exchanges
),
answers AS (
    SELECT * FROM judged WHERE superseded_by IS NULL
),
complaints AS (
    SELECT * FROM judged WHERE complained AND follow_up_turn_id IS NOT NULL
),
first_round AS (
    SELECT c.conversation_date, c.turn_id AS rejected_turn_id, a.turn_id AS answer, 1 AS round, a.met, a.complained,
        a.follow_up_turn_id AS next_turn_id
    FROM complaints c
    JOIN answers a ON a.prompt_turn_id = c.follow_up_turn_id AND a.conversation_date = c.conversation_date
),
second_round AS (
    SELECT b.conversation_date, b.rejected_turn_id, a.turn_id AS answer, 2 AS round, a.met, a.complained,
        a.follow_up_turn_id AS next_turn_id
    FROM first_round b
    JOIN answers a ON a.prompt_turn_id = b.next_turn_id AND a.conversation_date = b.conversation_date
    WHERE b.complained
),
third_round AS (
    SELECT b.conversation_date, b.rejected_turn_id, a.turn_id AS answer, 3 AS round, a.met, a.complained,
        a.follow_up_turn_id AS next_turn_id
    FROM second_round b
    JOIN answers a ON a.prompt_turn_id = b.next_turn_id AND a.conversation_date = b.conversation_date
    WHERE b.complained
),
rounds AS (
    SELECT * FROM first_round
    UNION ALL
    SELECT * FROM second_round
    UNION ALL
    SELECT * FROM third_round
),
best AS (
    SELECT
        conversation_date, rejected_turn_id, answer, round, met,
        row_number() OVER (
            PARTITION BY conversation_date, rejected_turn_id ORDER BY CASE WHEN met THEN 0 ELSE 1 END, round, answer
        ) AS place
    FROM rounds
)
SELECT
    c.conversation_date,
    c.conversation_id,
    c.turn_id AS rejected_turn_id,
    a.turn_id AS chosen_turn_id,
    c.response AS rejected_text,
    a.response AS chosen_text,
    c.last_user_message,
    c.path,
    c.model,
    c.language,
    c.subject_key,
    c.consent,
    together(c.follow_up_turn_id, a.follow_up_turn_id, a.reaction_event_ids) AS evidence,
    c.follow_up_turn_id AS evidence_id,
    sqrt(c.dsat * CASE WHEN array_has_any(a.labels, $met_labels) THEN a.sat ELSE $reaction_evidence END)
        * power($round_weight, b.round - 1)
        * CASE WHEN array_has(c.labels, 'sat') THEN $mixed_weight ELSE 1.0 END AS strength,
    c.tagger_id,
    c.settles_at,
    CASE
        WHEN NOT array_has_any(c.labels, $wish_labels) THEN 'complaint_without_wish'
        WHEN b.answer IS NULL THEN 'no_later_answer'
        WHEN NOT b.met THEN 'wish_not_met'
        WHEN c.loves + c.likes > 0 OR coalesce(c.rating >= 4, false) THEN 'rejected_answer_liked'
        WHEN looks_like_refusal(c.response) THEN 'refusal_needs_verdict'
        ELSE repair_fault(
            a.response, c.response, c.last_user_message, c.follow_up,
            $least_topic_overlap, $least_similarity
        )
    END AS reason
FROM complaints c
LEFT JOIN best b
    ON b.rejected_turn_id = c.turn_id AND b.conversation_date = c.conversation_date AND b.place = 1
LEFT JOIN judged a ON a.turn_id = b.answer AND a.conversation_date = b.conversation_date
