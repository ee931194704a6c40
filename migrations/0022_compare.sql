-- The comparison of what is held on both sides (docs/adr/0023): what was confirmed, and how far a pass has come.

-- Of what was confirmed before this column was there it is not known with which content: it is carried once more.
ALTER TABLE sync_log ADD COLUMN digest bytea CHECK (length(digest) = 32);
COMMENT ON COLUMN sync_log.digest IS 'SHA-256 of the item that was confirmed, as schemas.population.digest';

-- One row a pass. Everything before next_id has been compared; counts are of stays, but for ranges.
CREATE TABLE comparisons (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL,
    next_id uuid NOT NULL,
    finished_at timestamptz,
    ranges bigint NOT NULL DEFAULT 0,
    stays bigint NOT NULL DEFAULT 0,
    missing bigint NOT NULL DEFAULT 0,      -- confirmed here, not held there
    stale bigint NOT NULL DEFAULT 0,        -- an older version is held there
    differing bigint NOT NULL DEFAULT 0,    -- this version is held there with other content
    unrecorded bigint NOT NULL DEFAULT 0,   -- no digest was kept here
    extra bigint NOT NULL DEFAULT 0,        -- held there and not known here: an operator is alerted
    repaired bigint NOT NULL DEFAULT 0      -- queued again
);
COMMENT ON TABLE comparisons IS 'đối soát với Cơ sở dữ liệu quốc gia về dân cư: one row a pass';
CREATE UNIQUE INDEX comparisons_running ON comparisons ((finished_at IS NULL)) WHERE finished_at IS NULL;

GRANT SELECT, INSERT, UPDATE ON comparisons TO asm_sync;
-- What the population database does not hold after all is taken out and queued again; UPDATE is for locking such rows.
GRANT DELETE, UPDATE (digest) ON sync_log TO asm_sync;
