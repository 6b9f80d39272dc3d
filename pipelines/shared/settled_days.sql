-- Days in which conversations have settled since the last build: nothing new came, but time went on.
SELECT DISTINCT conversation_date
FROM silver.exchanges
WHERE settles_at <= $watermark AND ($previous_watermark IS NULL OR settles_at > $previous_watermark)
