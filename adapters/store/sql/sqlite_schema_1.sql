-- Version 1 of the SQLite store.
--
-- stored_events is the table of eventsourcing's SQLite recorder (originator_id, originator_version, topic, state, and
-- the rowid as notification id) with what an audit needs beside it. The rowid is named as a column, because VACUUM may
-- renumber rows whose rowid is not.
CREATE TABLE stored_events (
    rowid INTEGER PRIMARY KEY,
    originator_id TEXT NOT NULL,
    originator_version INTEGER NOT NULL,
    topic TEXT NOT NULL,
    state BLOB NOT NULL,
    event_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    actor TEXT NOT NULL,
    command_id TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL
);
CREATE UNIQUE INDEX stored_events_stream ON stored_events (originator_id, originator_version);
CREATE UNIQUE INDEX stored_events_event_id ON stored_events (event_id);
CREATE INDEX stored_events_time ON stored_events (time);
CREATE INDEX stored_events_command_id ON stored_events (command_id) WHERE command_id <> '';
CREATE INDEX stored_events_correlation_id ON stored_events (correlation_id) WHERE correlation_id <> '';
CREATE INDEX stored_events_request_id ON stored_events (request_id) WHERE request_id <> '';

-- The one row that says which writer may append.
CREATE TABLE interlock_epoch (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    epoch INTEGER NOT NULL,
    owner TEXT NOT NULL
);
INSERT INTO interlock_epoch VALUES (1, 0, '');

CREATE TABLE interlock_snapshots (
    position INTEGER PRIMARY KEY,
    schema TEXT NOT NULL,
    state BLOB NOT NULL
);

-- The library's door: how far each follower has come, and snapshots of aggregates, in the shapes of eventsourcing's own
-- recorders. The first row tells those that no migration of theirs is due.
CREATE TABLE tracking (
    application_name TEXT,
    notification_id INTEGER,
    PRIMARY KEY (application_name)
) WITHOUT ROWID;
INSERT INTO tracking VALUES ('__migration__', 1);
CREATE TABLE stored_snapshots (
    originator_id TEXT,
    originator_version INTEGER,
    topic TEXT,
    state BLOB,
    PRIMARY KEY (originator_id, originator_version)
) WITHOUT ROWID;

-- The log under friendlier names, for `audit sql`.
CREATE VIEW events AS
SELECT
    rowid AS position,
    originator_id AS stream,
    originator_version AS version,
    topic,
    CAST(state AS TEXT) AS data,
    event_id, time, epoch, actor, command_id, correlation_id, causation_id, request_id,
    lower(hex(digest)) AS digest
FROM stored_events;

PRAGMA user_version = 1;
