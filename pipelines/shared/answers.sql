-- Every answer with its prompt, what people said and did about it, and why it cannot be used (`fault`), if so.
WITH prompted AS (
    SELECT
        e.*,
        messages_at(t.turns, e.path) AS prompt,
        coalesce(w.weight, 1.0) AS weight,
        e.loves + e.likes + e.copies + e.shares > 0 OR coalesce(e.rating >= 4, false) AS reacted_well,
        e.dislikes + e.reports > 0 OR coalesce(e.rating <= 2, false) AS reacted_badly,
        array_has_any(e.labels, $met_labels) AND NOT array_has(e.labels, 'dsat') AS said_well,
        array_has(e.labels, 'dsat') AND NOT array_has_any(e.labels, $met_labels) AS said_badly
    FROM silver.exchanges e
    LEFT JOIN shared.transcripts t
        ON t.conversation_date = e.conversation_date AND t.conversation_id = e.conversation_id
    LEFT JOIN shared.weights w
        ON w.conversation_date = e.conversation_date AND w.subject_key = e.subject_key
)
SELECT
    *,
    CASE
        WHEN $watermark IS NULL OR settles_at > $watermark THEN 'not_settled'
        WHEN consent = 'denied' THEN 'consent_denied'
        WHEN $require_consent AND consent IS NULL THEN 'consent_missing'
        WHEN trim(response) = '' THEN 'empty_answer'
        ELSE prompt_fault(prompt)
    END AS fault
FROM prompted
