-- Re-encryption of a month whose data key was replaced (niêm phong lại): how far it is, and what became of each blob.
-- Nothing here is about a person: hashes of blobs, ids and counts.

CREATE TABLE reencryptions (
    epoch integer PRIMARY KEY,
    key_version integer NOT NULL,       -- that seals now; the older ones are to have nothing left
    started_at timestamptz NOT NULL,
    pass_started_at timestamptz NOT NULL,
    last_found_at timestamptz NOT NULL,
    sealed_table text,                  -- where this pass is; null: it is through
    after_facility integer NOT NULL,
    after_id uuid NOT NULL,
    after_part integer NOT NULL,
    found integer NOT NULL,             -- records under an older key in this pass …
    refused integer NOT NULL,           -- … and those that are not what was signed: they stay as they are
    resealed bigint NOT NULL
);

-- One row per committed batch; its Merkle root is in the audit entry, so the list cannot be changed afterwards.
CREATE TABLE reseals (
    id uuid PRIMARY KEY,
    epoch integer NOT NULL,
    key_version integer NOT NULL,
    resealed_at timestamptz NOT NULL,
    audit_entry_id uuid NOT NULL,
    pairs bytea NOT NULL CHECK (length(pairs) % 64 = 0)     -- SHA-256 of the blob before and after, for each record
);
CREATE INDEX reseals_by_epoch ON reseals (epoch, id);

GRANT SELECT, INSERT, UPDATE, DELETE ON reencryptions TO asm_retention;
GRANT SELECT, INSERT ON reseals TO asm_retention;
GRANT SELECT ON reseals TO asm_audit;

GRANT SELECT ON facilities, stays, stay_versions, receipt_batches, roster_plan_parts, import_files TO asm_retention;
GRANT SELECT (facility_id, ref_tag, id, version, sealed) ON expected_stays TO asm_retention;
GRANT SELECT (facility_id, stay_id, sealed) ON temporary_residence TO asm_retention;
GRANT SELECT (id, withheld_sealed) ON releases TO asm_retention;
GRANT SELECT (id, facility_id) ON roster_plans, hotel_systems TO asm_retention;
GRANT SELECT (system_id, id, reservation_sealed) ON hotel_pulls TO asm_retention;
GRANT UPDATE (sealed) ON stays, stay_versions, expected_stays, temporary_residence, roster_plan_parts, import_files
    TO asm_retention;
GRANT SELECT (id, version, sealed_epoch, sealed), UPDATE (sealed) ON webhook_endpoints TO asm_retention;
GRANT UPDATE (withheld_sealed) ON releases TO asm_retention;
GRANT UPDATE (reservation_sealed) ON hotel_pulls TO asm_retention;
