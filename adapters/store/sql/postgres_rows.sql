-- Sealed rows in the order of chain.COLUMNS; a condition follows.
SELECT
    notification_id, originator_id, originator_version, topic, state, event_id, time, epoch,
    actor, command_id, correlation_id, causation_id, request_id, digest
FROM stored_events
