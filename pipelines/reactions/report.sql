-- Reactions whose turn has not come: they wait in bronze, and count as orphaned past the deadline.
SELECT
    CASE
        WHEN e.ingest_time < $watermark - CAST($orphan_deadline AS INTERVAL) THEN 'orphaned'
        ELSE 'waiting'
    END AS reason,
    count(*) AS reactions
FROM bronze.events e
LEFT ANTI JOIN shared.names n ON n.name = e.message_id
WHERE e.kind = 'reaction'
GROUP BY 1
