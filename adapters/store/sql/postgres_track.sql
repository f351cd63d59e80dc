INSERT INTO notification_tracking AS tracked VALUES ($1::text, $2::bigint)
ON CONFLICT (application_name) DO UPDATE SET notification_id = excluded.notification_id
WHERE tracked.notification_id < excluded.notification_id
RETURNING notification_id
