-- What an operator does about stays that are not carried, and what no login needs (tests/test_roles.py names the rest).

-- Looked at by a human, who settled what is to be done outside: it stays refused, but alarms nobody any more.
ALTER TABLE sync_refused
    ADD COLUMN settled_at timestamptz,
    ADD COLUMN settled_by text,
    ADD COLUMN settled_reason text,
    ADD CHECK ((settled_at IS NULL) = (settled_by IS NULL) AND (settled_at IS NULL) = (settled_reason IS NULL));

-- An operator sees which versions there were, never what stood in them.
-- The police keep theirs: an alert is about the version that raised it, whatever was corrected since.
REVOKE SELECT ON stay_versions FROM asm_sync, asm_publish;
GRANT SELECT (facility_id, stay_id, version, status, event, received_at) ON stay_versions TO asm_sync;

REVOKE SELECT ON sync_queue, leases FROM asm_intake;

-- Operators look at what waits by stay.
CREATE INDEX sync_wait_by_stay ON sync_wait (stay_id);
