-- Let the library's door in: $1 its owner name. Locks the epoch row to the end of the transaction, against writers and
-- against other users of the door; no row comes back while a writer's lease runs. A writer that led before is fenced.
UPDATE interlock_epoch
SET epoch = CASE WHEN owner = $1::text THEN epoch ELSE epoch + 1 END, owner = $1::text
WHERE singleton AND lease_until <= clock_timestamp()
RETURNING epoch
