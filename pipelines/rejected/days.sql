-- A reaction that names no conversation belongs to the day of its turn.
SELECT DISTINCT n.conversation_date
FROM changed.events e
JOIN shared.names n ON n.name = e.message_id
WHERE e.kind = 'reaction' AND e.conversation_date IS NULL
