SELECT
    turn_id, alias, conversation_id, turn_index, parent_turn_id, role, text, model, language, event_time, subject_key,
    consent, event_id, topic, extra, conversation_date
FROM shared.said
WHERE said_before = 1
