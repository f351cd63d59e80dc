-- Become the writer: $1 owner, $2 the lease in microseconds. Waits for appends in flight, and no row comes back while
-- another owner's lease runs. The log's tail is read after this, by a statement of its own.
UPDATE interlock_epoch
SET epoch = epoch + 1, owner = $1::text, lease_until = clock_timestamp() + $2::bigint * interval '1 microsecond'
WHERE singleton AND (owner = $1::text OR lease_until <= clock_timestamp())
RETURNING epoch
