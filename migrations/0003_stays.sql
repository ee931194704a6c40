-- Stays (lượt lưu trú). Everything about a person is inside `sealed`; what stands beside it is ids, times and states.

-- RANGE-partitioned by id (UUIDv7) into UTC months of registration: immutable, so no row ever moves, and retention
-- drops whole months. facility_id is in every key so that the table can be distributed by it.
CREATE TABLE stays (
    id uuid NOT NULL,
    facility_id integer NOT NULL,
    version integer NOT NULL,
    status text NOT NULL CHECK (status IN ('declared', 'departed', 'cancelled')),
    event text NOT NULL,                        -- what made this version: declare, correct, check_out …
    received_at timestamptz NOT NULL,           -- of this version: when the request body was complete
    declared_at timestamptz NOT NULL,           -- of version 1: the on-time stamp, kept through corrections
    arrived_at timestamptz NOT NULL,
    planned_departure_at timestamptz,
    departed_at timestamptz,
    deadline_at timestamptz NOT NULL,
    late_minutes integer NOT NULL CHECK (late_minutes >= 0),
    document_index bigint NOT NULL,
    person_index bigint NOT NULL,
    given_name_index bigint NOT NULL,
    content_tag bytea NOT NULL CHECK (length(content_tag) = 16),
    receipt_batch_id uuid NOT NULL,
    receipt_index integer NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (id, facility_id),
    CHECK ((status = 'departed') = (departed_at IS NOT NULL) OR status = 'cancelled')
) PARTITION BY RANGE (id);
COMMENT ON TABLE stays IS 'lượt lưu trú: the current version of each';
CREATE INDEX stays_by_facility ON stays (facility_id, id);
CREATE INDEX stays_by_document ON stays (document_index, id);
CREATE INDEX stays_by_person ON stays (person_index, id);
CREATE INDEX stays_by_given_name ON stays (given_name_index, id);

CREATE TABLE stay_versions (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    version integer NOT NULL,
    status text NOT NULL,
    event text NOT NULL,
    received_at timestamptz NOT NULL,
    declared_at timestamptz NOT NULL,
    arrived_at timestamptz NOT NULL,
    planned_departure_at timestamptz,
    departed_at timestamptz,
    deadline_at timestamptz NOT NULL,
    late_minutes integer NOT NULL,
    content_tag bytea NOT NULL,
    receipt_batch_id uuid NOT NULL,
    receipt_index integer NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (facility_id, stay_id, version)
) PARTITION BY RANGE (stay_id);
COMMENT ON TABLE stay_versions IS 'superseded versions, blobs unchanged';

-- How a client names a stay. The tag is keyed, so a reference that holds a document number tells nothing.
CREATE TABLE source_refs (
    facility_id integer NOT NULL,
    ref_tag bytea NOT NULL CHECK (length(ref_tag) = 16),
    stay_id uuid NOT NULL,
    PRIMARY KEY (facility_id, ref_tag)
);
CREATE INDEX source_refs_by_stay ON source_refs (stay_id);

-- Who is here now: written at declaration, removed at departure or cancellation.
CREATE TABLE in_house (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    document_tag bigint NOT NULL,
    arrived_at timestamptz NOT NULL,
    planned_departure_at timestamptz,
    PRIMARY KEY (facility_id, stay_id)
);
CREATE INDEX in_house_by_document ON in_house (facility_id, document_tag);

-- One signature per committed batch; receipts are rebuilt from here byte for byte.
CREATE TABLE receipt_batches (
    id uuid PRIMARY KEY,
    signed_at timestamptz NOT NULL,
    leaves bytea NOT NULL CHECK (length(leaves) % 32 = 0),
    checkpoint text NOT NULL            -- C2SP tlog-checkpoint over the batch: size, root, signature
);

CREATE FUNCTION has_stay_partition(epoch integer) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT to_regclass('public.stays_' || epoch) IS NOT NULL
$$;
REVOKE ALL ON FUNCTION has_stay_partition(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION has_stay_partition(integer) TO asm_intake, asm_retention;

GRANT SELECT, INSERT, UPDATE ON stays TO asm_intake;
GRANT SELECT, INSERT ON stay_versions, receipt_batches TO asm_intake;
GRANT SELECT, INSERT, DELETE ON source_refs TO asm_intake;
GRANT SELECT, INSERT, UPDATE, DELETE ON in_house TO asm_intake;
GRANT SELECT ON stays, stay_versions TO asm_sync, asm_police, asm_publish;
