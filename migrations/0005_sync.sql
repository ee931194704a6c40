-- The work of carrying stays to the population database. Rows of the queue are inserted and deleted, never updated: an
-- old snapshot held by somebody else must not slow it down (docs/adr/0006).

-- What is to be carried: the reader takes the highest version per stay, so corrections coalesce by themselves.
CREATE TABLE sync_queue (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    version integer NOT NULL,
    lane smallint NOT NULL CHECK (lane BETWEEN 0 AND 255),      -- first byte of SHA-256 over facility_id in digits
    PRIMARY KEY (facility_id, stay_id, version)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
-- In the order of the ids, whatever the lane: a worker reads its lanes from an id on, and stops at its limit.
CREATE INDEX sync_queue_by_stay ON sync_queue (stay_id, lane);

-- Tried again at due_at. A row stays until the stay is confirmed, refused or replaced, so that it keeps its history.
CREATE TABLE sync_wait (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    version integer NOT NULL,
    lane smallint NOT NULL CHECK (lane BETWEEN 0 AND 255),
    attempts integer NOT NULL CHECK (attempts > 0),
    due_at timestamptz NOT NULL,
    reason text NOT NULL CHECK (reason IN ('unreachable', 'ambiguous', 'no_key')),
    code text NOT NULL,                 -- the client's word for it: timeout, no_connection …
    waiting_since timestamptz NOT NULL,
    PRIMARY KEY (facility_id, stay_id)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX sync_wait_by_due ON sync_wait (due_at, lane);

-- Waits for a human: refused by the population database, or not to be sent as it is.
CREATE TABLE sync_refused (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    version integer NOT NULL,
    lane smallint NOT NULL CHECK (lane BETWEEN 0 AND 255),
    code text NOT NULL,
    refused_at timestamptz NOT NULL,
    PRIMARY KEY (facility_id, stay_id)
);
CREATE INDEX sync_refused_by_stay ON sync_refused (stay_id);

-- What the population database confirmed: every version once.
CREATE TABLE sync_log (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    version integer NOT NULL,
    confirmed_at timestamptz NOT NULL,
    verification text NOT NULL CHECK (
        verification IN ('matched', 'mismatch', 'unknown', 'document_revoked', 'not_checked')),
    PRIMARY KEY (facility_id, stay_id, version)
) PARTITION BY RANGE (stay_id);

-- Who owns a lane, and who leads the jobs: one row each, taken by fence.
CREATE TABLE leases (
    name text PRIMARY KEY,              -- 'lane/000' … 'lane/255', 'jobs'
    owner uuid,
    fence bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
INSERT INTO leases (name) SELECT 'lane/' || to_char(n, 'FM000') FROM generate_series(0, 255) AS n;
INSERT INTO leases (name) VALUES ('jobs');

-- Workers alive, so that lanes can be shared out evenly.
CREATE TABLE sync_workers (
    id uuid PRIMARY KEY,
    seen_until timestamptz NOT NULL
);

-- Months are made ahead of time by a job, as LIKE + ATTACH: PARTITION OF would lock intake out.
CREATE FUNCTION create_stay_partitions(epoch integer, lo uuid, hi uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    parent record;
    part text;
BEGIN
    IF to_regclass('public.stays_' || epoch) IS NOT NULL THEN
        RETURN false;
    END IF;
    FOR parent IN
        SELECT * FROM (VALUES ('stays', 'id'), ('stay_versions', 'stay_id'), ('sync_log', 'stay_id')) AS t (name, key)
    LOOP
        part := parent.name || '_' || epoch;
        EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent.name);
        EXECUTE format('ALTER TABLE public.%I ADD CONSTRAINT month CHECK (%I >= %L AND %I < %L)',
                       part, parent.key, lo, parent.key, hi);
        EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                       parent.name, part, lo, hi);
    END LOOP;
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION create_stay_partitions(integer, uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_stay_partitions(integer, uuid, uuid) TO asm_retention;

GRANT SELECT, INSERT, DELETE ON sync_queue TO asm_sync;
GRANT SELECT, INSERT, UPDATE, DELETE ON sync_wait, sync_refused TO asm_sync;
GRANT SELECT, INSERT ON sync_log TO asm_sync;
GRANT SELECT, UPDATE ON leases TO asm_sync;
GRANT SELECT, INSERT, UPDATE, DELETE ON sync_workers TO asm_sync;
GRANT SELECT, INSERT ON sync_queue TO asm_intake;
GRANT SELECT, DELETE ON sync_wait, sync_refused TO asm_intake;
GRANT SELECT, INSERT ON sync_log TO asm_intake;     -- INSERT: the sandbox answers for the population database
GRANT SELECT ON sync_log TO asm_police, asm_publish;
GRANT SELECT ON leases TO asm_intake;
