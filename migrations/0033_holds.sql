-- Holds by document are many, one for each stay: both questions, whether a stay is held and whether its facility is, are
-- asked by an index that has nothing of the other.
DROP INDEX legal_holds_in_force;
CREATE INDEX legal_holds_by_stay ON legal_holds (stay_id) WHERE lifted_at IS NULL;
CREATE INDEX legal_holds_by_facility ON legal_holds (facility_id) WHERE lifted_at IS NULL AND stay_id IS NULL;

-- A search tells from when on all is kept by what was forgotten, not by the settings of the day.
GRANT SELECT (epoch, state, cutoff_at, cutoffs) ON retention_epochs TO asm_police;

-- What of sync_log is kept is looked up by its whole key: by the stay alone, whose column comes second in the primary key,
-- each stay that is kept walked through the index, half a minute for 200,000 of them.
CREATE OR REPLACE FUNCTION end_stay_month(epoch integer, lo uuid, hi uuid) RETURNS TABLE (name text, forgotten bigint)
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
                                     AND (facility_id, stay_id) IN (SELECT facility_id, id FROM public.held_stays)')
        ) AS t (name, key, kept)
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
