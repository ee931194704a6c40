-- The simulator's own database. Run at every start under an advisory lock; every statement may be repeated.

-- The synthetic population, as far as verification needs it.
CREATE TABLE IF NOT EXISTS persons (
    index integer PRIMARY KEY,                  -- of schemas.synthetic.person
    document_number text NOT NULL UNIQUE,       -- folded
    name_folded text NOT NULL,
    birth_date text NOT NULL                    -- YYYY-MM-DD
);

CREATE TABLE IF NOT EXISTS revoked_documents (
    document_number text PRIMARY KEY            -- folded
);

-- The newest version of every stay that took effect.
CREATE TABLE IF NOT EXISTS stays (
    stay_id uuid PRIMARY KEY,
    version integer NOT NULL,
    status text NOT NULL CHECK (status IN ('declared', 'departed', 'cancelled')),
    facility_code text NOT NULL,
    item bytea NOT NULL,                        -- canonical JSON; of a cancelled stay without the guest
    verification text NOT NULL,
    digest bytea NOT NULL GENERATED ALWAYS AS (sha256(item)) STORED
) WITH (fillfactor = 80);

-- Every version that took effect, in the order it did. Deliberately without a key on (stay_id, version): a double
-- effect is to be recorded and reported, not to be hidden behind an error.
CREATE TABLE IF NOT EXISTS effects (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stay_id uuid NOT NULL,
    version integer NOT NULL,
    status text NOT NULL,
    digest bytea NOT NULL
);
ALTER TABLE effects ADD COLUMN IF NOT EXISTS facility_code text;

-- How often a sender broke the contract, by the code it was answered.
CREATE TABLE IF NOT EXISTS sender_violations (
    code text PRIMARY KEY,
    occurrences bigint NOT NULL
);
