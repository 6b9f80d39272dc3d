-- What every rule for pairs has in common. `candidates` holds two answers to one prompt, the rule's own reason against
-- the pair (or null), and the strength of its evidence; out come pairs, and the reason for those that are none.
WITH prompted AS (
    SELECT
        c.*,
        messages_at(t.turns, c.path) AS prompt,
        c.strength * coalesce(w.weight, 1.0) AS weighted
    FROM candidates c
    LEFT JOIN shared.transcripts t
        ON t.conversation_date = c.conversation_date AND t.conversation_id = c.conversation_id
    LEFT JOIN shared.weights w
        ON w.conversation_date = c.conversation_date AND w.subject_key = c.subject_key
),
judged AS (
    SELECT
        *,
        digest(prompt, chosen_text, rejected_text, $rule_id) AS pair_id,
        sketch(last_user_message) AS prompt_sketch,
        coalesce(subject_key, conversation_id) AS person,
        CASE
            WHEN $watermark IS NULL OR settles_at > $watermark THEN 'not_settled'
            WHEN consent = 'denied' THEN 'consent_denied'
            WHEN $require_consent AND consent IS NULL THEN 'consent_missing'
            WHEN reason IS NOT NULL THEN reason
            ELSE coalesce(
                prompt_fault(prompt),
                pair_fault(chosen_text, rejected_text, $most_length_ratio, $most_emoji_difference, $most_similarity)
            )
        END AS own_fault
    FROM prompted
),
distinct_pairs AS (
    SELECT
        *,
        CASE
            WHEN own_fault IS NOT NULL THEN own_fault
            WHEN row_number() OVER (
                PARTITION BY conversation_date, own_fault, pair_id
                ORDER BY weighted DESC, conversation_id, rejected_turn_id, evidence_id
            ) > 1 THEN 'duplicate_pair'
        END AS pair_fault
    FROM judged
),
prompt_capped AS (
    SELECT
        *,
        CASE
            WHEN pair_fault IS NOT NULL THEN pair_fault
            WHEN row_number() OVER (
                PARTITION BY conversation_date, pair_fault, prompt_sketch ORDER BY weighted DESC, pair_id, evidence_id
            ) > $most_of_a_prompt THEN 'prompt_cap'
        END AS prompt_fault
    FROM distinct_pairs
),
capped AS (
    SELECT
        *,
        CASE
            WHEN prompt_fault IS NOT NULL THEN prompt_fault
            WHEN row_number() OVER (
                PARTITION BY conversation_date, prompt_fault, person ORDER BY weighted DESC, pair_id, evidence_id
            ) > $most_of_a_subject THEN 'subject_cap'
        END AS drop_reason
    FROM prompt_capped
)
SELECT
    pair_id,
    prompt,
    message('assistant', chosen_text) AS chosen,
    message('assistant', rejected_text) AS rejected,
    conversation_id,
    chosen_turn_id,
    rejected_turn_id,
    evidence,
    weighted AS strength,
    tagger_id,
    model,
    language,
    subject_key,
    consent,
    message_tokens(prompt) AS prompt_tokens,
    token_count(chosen_text) AS chosen_tokens,
    token_count(rejected_text) AS rejected_tokens,
    split_of(conversation_id, $test_share, $split_seed) AS split,
    settles_at AS settled_at,
    conversation_date,
    drop_reason
FROM capped
