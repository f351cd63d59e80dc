INSERT INTO stored_events (
    rowid, originator_id, originator_version, topic, state, event_id, time, epoch,
    actor, command_id, correlation_id, causation_id, request_id, digest
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
