-- Version 1 of the PostgreSQL store, in the first schema of the search path.
--
-- stored_events is the table of eventsourcing's PostgreSQL recorder with text originator ids, and what an audit needs
-- beside it. notification_id has no sequence: the writer assigns positions, and a sequence would leave gaps.
CREATE TABLE stored_events (
    originator_id text NOT NULL,
    originator_version bigint NOT NULL,
    topic text NOT NULL,
    state bytea NOT NULL,
    notification_id bigint NOT NULL,
    event_id text NOT NULL,
    time bigint NOT NULL,
    epoch bigint NOT NULL,
    actor text NOT NULL,
    command_id text NOT NULL,
    correlation_id text NOT NULL,
    causation_id text NOT NULL,
    request_id text NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (originator_id, originator_version)
);
-- Under the name that the library's recorder gives it, so that its own create_table() finds nothing to do.
CREATE UNIQUE INDEX stored_events_notification_id_idx ON stored_events (notification_id);
CREATE UNIQUE INDEX stored_events_event_id ON stored_events (event_id);
CREATE INDEX stored_events_time ON stored_events (time);
CREATE INDEX stored_events_command_id ON stored_events (command_id) WHERE command_id <> '';
CREATE INDEX stored_events_correlation_id ON stored_events (correlation_id) WHERE correlation_id <> '';
CREATE INDEX stored_events_request_id ON stored_events (request_id) WHERE request_id <> '';

-- The one row that says which writer may append, and until when it leads on this server's clock. Room is left on its
-- page, so that renewing a lease can reuse it.
CREATE TABLE interlock_epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch bigint NOT NULL,
    owner text NOT NULL,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO interlock_epoch (epoch, owner, lease_until) VALUES (0, '', '-infinity');

CREATE TABLE interlock_snapshots (
    position bigint PRIMARY KEY,
    schema text NOT NULL,
    state bytea NOT NULL
);
-- A snapshot is compressed by whoever makes it, if at all.
ALTER TABLE interlock_snapshots ALTER COLUMN state SET STORAGE EXTERNAL;

-- The library's door: how far each follower has come, and snapshots of aggregates, in the shapes of eventsourcing's own
-- recorders. The first row tells those that no migration of theirs is due.
CREATE TABLE notification_tracking (
    application_name text PRIMARY KEY,
    notification_id bigint
);
INSERT INTO notification_tracking VALUES ('__migration__', 1);
CREATE TABLE stored_snapshots (
    originator_id text NOT NULL,
    originator_version bigint NOT NULL,
    topic text,
    state bytea,
    PRIMARY KEY (originator_id, originator_version)
);

-- The JSON in a state, or NULL where an application of the library keeps something else there.
CREATE FUNCTION interlock_json(state bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(state, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- The log under friendlier names, for `audit sql`.
CREATE VIEW events AS
SELECT
    notification_id AS position,
    originator_id AS stream,
    originator_version AS version,
    topic,
    interlock_json(state) AS data,
    event_id, time, epoch, actor, command_id, correlation_id, causation_id, request_id,
    encode(digest, 'hex') AS digest
FROM stored_events;
