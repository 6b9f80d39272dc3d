-- A follow-up is tagged once: `candidates` are the scores that the same tagger gave earlier; those of the same texts stay.
WITH told AS (
    SELECT p.*, messages_before(t.turns, p.path) AS said_before
    FROM shared.placed p
    JOIN shared.transcripts t
        ON t.conversation_id = p.conversation_id AND t.conversation_date = p.conversation_date
    WHERE p.follow_up_turn_id IS NOT NULL
),
followed AS (
    SELECT
        p.turn_id, p.follow_up_turn_id, p.conversation_id, p.conversation_date,
        p.said_before, r.text AS response, f.text AS follow_up,
        digest(p.said_before, r.text, f.text) AS input_hash
    FROM told p
    JOIN silver.turns r ON r.turn_id = p.turn_id AND r.conversation_date = p.conversation_date
    JOIN silver.turns f ON f.turn_id = p.follow_up_turn_id AND f.conversation_date = p.conversation_date
),
fresh AS (
    SELECT f.*
    FROM followed f
    LEFT ANTI JOIN candidates k
        ON k.turn_id = f.turn_id AND k.follow_up_turn_id = f.follow_up_turn_id AND k.input_hash = f.input_hash
        AND k.conversation_date = f.conversation_date
),
tagged AS (
    SELECT
        turn_id, follow_up_turn_id, conversation_id, conversation_date, input_hash,
        tag(said_before, response, follow_up) AS scores
    FROM fresh
)
SELECT
    turn_id, follow_up_turn_id, conversation_id, $tagger_id AS tagger_id, input_hash,
    scores['labels'] AS labels,
    scores['sat'] AS sat,
    scores['dsat'] AS dsat,
    scores['gratitude'] AS gratitude,
    scores['learning'] AS learning,
    scores['compliance'] AS compliance,
    scores['praise'] AS praise,
    scores['personal_details'] AS personal_details,
    scores['humor'] AS humor,
    scores['acknowledgment'] AS acknowledgment,
    scores['positive_closure'] AS positive_closure,
    scores['getting_there'] AS getting_there,
    scores['negative_feedback'] AS negative_feedback,
    scores['revision'] AS revision,
    scores['factual_error'] AS factual_error,
    scores['unrealistic_expectation'] AS unrealistic_expectation,
    scores['no_engagement'] AS no_engagement,
    scores['ignored'] AS ignored,
    scores['lower_quality'] AS lower_quality,
    scores['insufficient_detail'] AS insufficient_detail,
    scores['style'] AS style,
    conversation_date
FROM tagged
UNION ALL
SELECT
    k.turn_id, k.follow_up_turn_id, k.conversation_id, k.tagger_id, k.input_hash, k.labels,
    k.sat, k.dsat, k.gratitude, k.learning, k.compliance, k.praise, k.personal_details, k.humor, k.acknowledgment,
    k.positive_closure, k.getting_there, k.negative_feedback, k.revision, k.factual_error,
    k.unrealistic_expectation, k.no_engagement, k.ignored, k.lower_quality, k.insufficient_detail, k.style,
    k.conversation_date
FROM candidates k
JOIN followed f
    ON k.turn_id = f.turn_id AND k.follow_up_turn_id = f.follow_up_turn_id AND k.input_hash = f.input_hash
    AND k.conversation_date = f.conversation_date
