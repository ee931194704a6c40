-- The comparison of what is held on both sides (docs/adr/0023): what was confirmed, and how far a pass has come.

-- Of what was confirmed before this column was there, the first comparison keeps the digest that is held there.
ALTER TABLE sync_log ADD COLUMN digest bytea CHECK (length(digest) = 32);
COMMENT ON COLUMN sync_log.digest IS 'SHA-256 of the item that was confirmed, as schemas.population.digest';

-- A confirmation is never taken away: what the owner was told by it stays told. It does not count from lost_at on, when
-- the population database turned out not to hold the version, until it has confirmed it again.
ALTER TABLE sync_log
    ADD COLUMN lost_at timestamptz,
    ADD COLUMN confirmations integer NOT NULL DEFAULT 1;
GRANT SELECT (lost_at) ON sync_log TO asm_intake;

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
-- UPDATE: what is not held there after all, and what was confirmed once more.
GRANT UPDATE (verification, digest, lost_at, confirmations) ON sync_log TO asm_sync;
