-- The marks of temporary residence of a month are sealed under its keys as well: while it is parted, nobody marks, or the
-- mark would be sealed under a key that is destroyed right afterwards, or outlive its stay.
CREATE OR REPLACE FUNCTION lock_stay_month(epoch integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF to_regclass('public.stays_' || epoch) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE public.%I, public.%I, public.temporary_residence IN SHARE ROW EXCLUSIVE MODE',
                   'stays_' || epoch, 'stay_versions_' || epoch);
    RETURN true;
END
$$;
