-- Retention (thời hạn lưu giữ): what is to be kept for longer, how far the end of a month is, and what was forgotten.

-- Legal holds (lệnh giữ dữ liệu), on a stay or on everybody who was at a facility within a time.
CREATE TABLE legal_holds (
    id uuid PRIMARY KEY,
    facility_id integer NOT NULL,
    stay_id uuid,
    present_from timestamptz,
    present_until timestamptz,
    warrant_ref text NOT NULL,
    reason text NOT NULL,
    placed_at timestamptz NOT NULL,
    placed_by text NOT NULL,
    lifted_at timestamptz,
    lifted_by text,
    lifted_reason text,
    CHECK ((stay_id IS NULL) = (present_from IS NOT NULL) AND (stay_id IS NULL) = (present_until IS NOT NULL)),
    CHECK ((lifted_at IS NULL) = (lifted_by IS NULL) AND (lifted_at IS NULL) = (lifted_reason IS NULL))
);
COMMENT ON TABLE legal_holds IS 'lệnh giữ dữ liệu: warrant and place, nothing about the guest';
CREATE INDEX legal_holds_in_force ON legal_holds (facility_id) WHERE lifted_at IS NULL;

-- One row for each time that a month was gone through: the step it is at, so that a crash between two is made good.
CREATE TABLE retention_epochs (
    epoch integer NOT NULL,
    round integer NOT NULL CHECK (round > 0),
    state text NOT NULL CHECK (state IN ('begun', 'parted', 'ended', 'final')),
    cutoff_at timestamptz NOT NULL,         -- who left before it is forgotten
    index_version integer NOT NULL,         -- the newest key of the month before; 0: it had none
    begun_at timestamptz NOT NULL,
    kept integer,
    counts text,                            -- JSON: how much of what was kept and forgotten
    ended_at timestamptz,                   -- when its keys were destroyed
    final_at timestamptz,                   -- when no copy of them can exist any more
    PRIMARY KEY (epoch, round)
);
CREATE UNIQUE INDEX retention_epochs_open ON retention_epochs (epoch) WHERE state IN ('begun', 'parted');

-- Erasures of single stays at somebody's request.
CREATE TABLE erasures (
    stay_id uuid PRIMARY KEY,
    facility_id integer NOT NULL,
    epoch integer NOT NULL,
    state text NOT NULL CHECK (state IN ('erased', 'keys_gone', 'final')),
    urgent boolean NOT NULL,
    key_version integer,                    -- urgent: the data keys up to this one are to be destroyed
    erased_at timestamptz NOT NULL,
    final_at timestamptz,                   -- when no copy can be read any more; null: not known yet
    CHECK (urgent = (key_version IS NOT NULL))
);

-- Places in signed batches whose records were forgotten on purpose: a verification that misses them knows why.
CREATE TABLE forgotten_receipts (
    batch_id uuid NOT NULL,
    epoch integer NOT NULL,
    indexes integer[] NOT NULL
);
CREATE INDEX forgotten_receipts_by_batch ON forgotten_receipts (batch_id);

-- Where what is kept lies, sealed anew, until the month's new partitions take it: within one transaction.
CREATE TABLE held_stays (LIKE stays INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
CREATE TABLE held_stay_versions (LIKE stay_versions INCLUDING DEFAULTS INCLUDING CONSTRAINTS);

-- Nobody changes a stay of the month while it is gone through.
CREATE FUNCTION lock_stay_month(epoch integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF to_regclass('public.stays_' || epoch) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE public.%I, public.%I IN SHARE ROW EXCLUSIVE MODE',
                   'stays_' || epoch, 'stay_versions_' || epoch);
    RETURN true;
END
$$;

-- Forgets every stay of a month that is not in held_stays, with all that names it. The partitions go; for what is kept
-- new ones take their place, so that a stay that has not ended can still be found, corrected and ended.
CREATE FUNCTION end_stay_month(epoch integer, lo uuid, hi uuid) RETURNS TABLE (name text, forgotten bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    each record;
    part text;
    kept bigint;
BEGIN
    SELECT count(*) INTO kept FROM held_stays WHERE id >= lo AND id < hi;
    FOR each IN
        SELECT * FROM (VALUES
            ('source_refs', 'stay_id'), ('in_house', 'stay_id'), ('party_heads', 'stay_id'), ('roster_seen', 'stay_id'),
            ('temporary_residence', 'stay_id'), ('sync_queue', 'stay_id'), ('sync_wait', 'stay_id'),
            ('sync_refused', 'stay_id'), ('police_alerts', 'stay_id'), ('expected_stays', 'id'),
            ('import_files', 'job_id'), ('roster_plan_parts', 'plan_id'), ('hotel_pulls', 'id')) AS t (name, key)
    LOOP
        EXECUTE format('DELETE FROM public.%1$I AS gone WHERE gone.%2$I >= $1 AND gone.%2$I < $2
                        AND NOT EXISTS (SELECT FROM public.held_stays WHERE held_stays.id = gone.%2$I)',
                       each.name, each.key) USING lo, hi;
        GET DIAGNOSTICS forgotten = ROW_COUNT;
        name := each.name;
        RETURN NEXT;
    END LOOP;
    UPDATE releases SET withheld_sealed = '{}' WHERE id >= lo AND id < hi;
    IF to_regclass('public.stays_' || epoch) IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO forgotten_receipts (batch_id, epoch, indexes)
    SELECT gone.batch, end_stay_month.epoch, array_agg(gone.place ORDER BY gone.place) FROM (
        SELECT id AS stay, receipt_batch_id AS batch, receipt_index AS place FROM stays WHERE id >= lo AND id < hi
        UNION ALL
        SELECT stay_id, receipt_batch_id, receipt_index FROM stay_versions WHERE stay_id >= lo AND stay_id < hi
    ) AS gone
    WHERE NOT EXISTS (SELECT FROM held_stays WHERE held_stays.id = gone.stay)
    GROUP BY gone.batch;
    FOR each IN
        SELECT * FROM (VALUES
            ('stays', 'id', 'SELECT * FROM public.held_stays WHERE id >= $1 AND id < $2'),
            ('stay_versions', 'stay_id', 'SELECT * FROM public.held_stay_versions WHERE stay_id >= $1 AND stay_id < $2'),
            ('sync_log', 'stay_id', 'SELECT * FROM public.sync_log WHERE stay_id >= $1 AND stay_id < $2
                                     AND stay_id IN (SELECT id FROM public.held_stays)')) AS t (name, key, kept)
    LOOP
        part := each.name || '_' || epoch;
        EXECUTE format('SELECT count(*) FROM public.%I', part) INTO forgotten;
        IF kept > 0 THEN
            EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                           part || '_kept', each.name);
            EXECUTE format('ALTER TABLE public.%I ADD CONSTRAINT month CHECK (%I >= %L AND %I < %L)',
                           part || '_kept', each.key, lo, each.key, hi);
            EXECUTE format('INSERT INTO public.%I ', part || '_kept') || each.kept USING lo, hi;
            EXECUTE format('SELECT $1 - count(*) FROM public.%I', part || '_kept') INTO forgotten USING forgotten;
        END IF;
        name := each.name;
        RETURN NEXT;
    END LOOP;
    -- Last, for from here on everybody waits.
    FOR each IN
        SELECT * FROM (VALUES ('stays'), ('stay_versions'), ('sync_log')) AS t (name)
    LOOP
        part := each.name || '_' || epoch;
        EXECUTE format('ALTER TABLE public.%I DETACH PARTITION public.%I', each.name, part);
        EXECUTE format('DROP TABLE public.%I', part);
        IF kept > 0 THEN
            EXECUTE format('ALTER TABLE public.%I RENAME TO %I', part || '_kept', part);
            EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                           each.name, part, lo, hi);
        END IF;
    END LOOP;
    DELETE FROM held_stays WHERE id >= lo AND id < hi;
    DELETE FROM held_stay_versions WHERE stay_id >= lo AND stay_id < hi;
END
$$;

-- Forgets one stay with all that names it; returns whether it was there.
CREATE FUNCTION forget_stay(facility integer, stay uuid, month integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    each text;
BEGIN
    PERFORM FROM stays WHERE id = stay AND facility_id = facility FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO forgotten_receipts (batch_id, epoch, indexes)
    SELECT batch, month, array_agg(place) FROM (
        SELECT receipt_batch_id AS batch, receipt_index AS place FROM stays WHERE id = stay AND facility_id = facility
        UNION ALL
        SELECT receipt_batch_id, receipt_index FROM stay_versions WHERE stay_id = stay AND facility_id = facility
    ) AS gone GROUP BY batch;
    FOREACH each IN ARRAY ARRAY[
        'source_refs', 'in_house', 'party_heads', 'roster_seen', 'temporary_residence', 'sync_queue', 'sync_wait',
        'sync_refused', 'police_alerts', 'sync_log', 'stay_versions'
    ] LOOP
        EXECUTE format('DELETE FROM public.%I WHERE facility_id = $1 AND stay_id = $2', each) USING facility, stay;
    END LOOP;
    DELETE FROM stays WHERE id = stay AND facility_id = facility;
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION lock_stay_month(integer), end_stay_month(integer, uuid, uuid), forget_stay(integer, uuid, integer)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lock_stay_month(integer), end_stay_month(integer, uuid, uuid),
    forget_stay(integer, uuid, integer) TO asm_retention;

GRANT SELECT, INSERT, UPDATE ON legal_holds, retention_epochs, erasures TO asm_retention;
GRANT SELECT, INSERT ON held_stays, held_stay_versions TO asm_retention;
GRANT SELECT ON forgotten_receipts TO asm_retention;
GRANT SELECT (facility_id, stay_id) ON sync_queue, sync_wait TO asm_retention;
-- The comparison: what the population database still holds of what was forgotten here is nothing to alert about.
GRANT SELECT (epoch, state) ON retention_epochs TO asm_sync;
GRANT SELECT (stay_id) ON erasures TO asm_sync;
