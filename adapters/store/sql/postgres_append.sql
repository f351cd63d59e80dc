-- Store one batch, or nothing: $1 epoch, $2 the last position and $3 the digest that the batch builds on, $4 its own last
-- position, then one array per column.
--
-- FOR SHARE makes a takeover wait for this statement's end, and this statement for a takeover's: in READ COMMITTED the
-- row is then read again, so that an epoch that has passed meanwhile matches nothing, and nothing is inserted. The tail
-- is compared too, so that no batch can ever stand on another end than the one it was sealed on.
WITH fence AS MATERIALIZED (
    SELECT epoch FROM interlock_epoch WHERE singleton AND epoch = $1::bigint FOR SHARE
), tail AS MATERIALIZED (
    SELECT notification_id, digest FROM stored_events ORDER BY notification_id DESC LIMIT 1
), door AS MATERIALIZED (
    SELECT epoch FROM fence
    WHERE ($2::bigint = 0 AND NOT EXISTS (SELECT FROM tail))
       OR EXISTS (SELECT FROM tail WHERE notification_id = $2::bigint AND digest = $3::bytea)
), stored AS (
    INSERT INTO stored_events (
        notification_id, epoch, originator_id, originator_version, topic, state, event_id, time,
        actor, command_id, correlation_id, causation_id, request_id, digest
    )
    SELECT
        $2::bigint + new.place, door.epoch, new.originator_id, new.originator_version, new.topic, new.state, new.event_id,
        new.time, new.actor, new.command_id, new.correlation_id, new.causation_id, new.request_id, new.digest
    FROM door CROSS JOIN unnest(
        $5::text[], $6::bigint[], $7::text[], $8::bytea[], $9::text[], $10::bigint[],
        $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::bytea[]
    ) WITH ORDINALITY AS new (
        originator_id, originator_version, topic, state, event_id, time,
        actor, command_id, correlation_id, causation_id, request_id, digest, place
    )
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM fence) AS fences,
    (SELECT count(*) FROM stored) AS events,
    -- One wake-up a batch, whatever it holds.
    CASE WHEN EXISTS (SELECT FROM stored) THEN pg_notify('interlock_events', ($4::bigint)::text) END AS notified
