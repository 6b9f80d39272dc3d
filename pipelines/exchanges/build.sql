-- Consent is a conversation's: one "denied" in it counts for all of it.
WITH people AS (
    SELECT conversation_date, turn_id, kind, value, event_id, coalesce(subject_key, '') AS person
    FROM silver.reactions
    WHERE current
),
reacted AS (
    SELECT
        conversation_date, turn_id,
        count(DISTINCT CASE WHEN kind = 'love' THEN person END) AS loves,
        count(DISTINCT CASE WHEN kind IN ('like', 'thumbs_up') THEN person END) AS likes,
        count(DISTINCT CASE WHEN kind = 'thumbs_down' THEN person END) AS dislikes,
        count(DISTINCT CASE WHEN kind = 'copy' THEN person END) AS copies,
        count(DISTINCT CASE WHEN kind = 'edit' THEN person END) AS edits,
        count(DISTINCT CASE WHEN kind = 'regenerate' THEN person END) AS regenerations,
        count(DISTINCT CASE WHEN kind = 'report' THEN person END) AS reports,
        count(DISTINCT CASE WHEN kind = 'share' THEN person END) AS shares,
        count(DISTINCT CASE WHEN kind = 'abandon' THEN person END) AS abandons,
        avg(CASE WHEN kind = 'rating' THEN value END) AS rating,
        array_agg(event_id ORDER BY event_id) AS reaction_event_ids
    FROM people
    GROUP BY conversation_date, turn_id
),
events AS (
    SELECT conversation_date, conversation_id, event_time, consent FROM silver.turns
    UNION ALL
    SELECT conversation_date, conversation_id, event_time, NULL AS consent FROM silver.reactions
),
conversations AS (
    SELECT
        conversation_date, conversation_id, max(event_time) AS last_event,
        CASE
            WHEN count(CASE WHEN consent = 'denied' THEN 1 END) > 0 THEN 'denied'
            WHEN count(CASE WHEN consent = 'granted' THEN 1 END) > 0 THEN 'granted'
        END AS consent
    FROM events
    GROUP BY conversation_date, conversation_id
)
SELECT
    p.turn_id, r.alias, p.conversation_id, p.depth, p.prompt_turn_id, p.path,
    u.text AS last_user_message, r.text AS response, p.follow_up_turn_id, f.text AS follow_up, p.superseded_by,
    r.model, coalesce(r.language, u.language) AS language,
    s.tagger_id, s.sat, s.dsat, together(s.labels) AS labels,
    coalesce(a.loves, 0) AS loves,
    coalesce(a.likes, 0) AS likes,
    coalesce(a.dislikes, 0) AS dislikes,
    coalesce(a.copies, 0) AS copies,
    coalesce(a.edits, 0) AS edits,
    coalesce(a.regenerations, 0) AS regenerations,
    coalesce(a.reports, 0) AS reports,
    coalesce(a.shares, 0) AS shares,
    coalesce(a.abandons, 0) AS abandons,
    a.rating,
    together(a.reaction_event_ids) AS reaction_event_ids,
    coalesce(u.subject_key, r.subject_key) AS subject_key,
    c.consent,
    r.event_time,
    c.last_event + CAST($settle_window AS INTERVAL) AS settles_at,
    p.conversation_date
FROM shared.placed p
JOIN silver.turns r ON r.turn_id = p.turn_id AND r.conversation_date = p.conversation_date
JOIN conversations c ON c.conversation_id = p.conversation_id AND c.conversation_date = p.conversation_date
LEFT JOIN silver.turns f ON f.turn_id = p.follow_up_turn_id AND f.conversation_date = p.conversation_date
LEFT JOIN silver.turns u ON u.turn_id = p.last_user_turn_id AND u.conversation_date = p.conversation_date
LEFT JOIN silver.signals s
    ON s.turn_id = p.turn_id AND s.follow_up_turn_id = p.follow_up_turn_id AND s.conversation_date = p.conversation_date
LEFT JOIN reacted a ON a.turn_id = p.turn_id AND a.conversation_date = p.conversation_date
