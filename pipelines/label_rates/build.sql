-- Labels that never fired count too: a rate of nothing is one.
SELECT
    s.conversation_date, s.tagger_id, n.name AS label,
    count(*) AS follow_ups,
    count(CASE WHEN array_has(s.labels, n.name) THEN 1 END) AS fired,
    max(n.value) AS least_change
FROM silver.signals s
CROSS JOIN parameters.least_change n
GROUP BY s.conversation_date, s.tagger_id, n.name
