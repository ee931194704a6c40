-- Guests who are expected, or here without an identity (khách dự kiến, khách chưa đủ nhân thân): what is known of them
-- until it suffices for a declaration. Nothing is filed by a row of this table, and only intake and the owners' own
-- lists may see it: no search, no sync, no extract.

CREATE TABLE expected_stays (
    facility_id integer NOT NULL,
    ref_tag bytea NOT NULL CHECK (length(ref_tag) = 16),
    id uuid NOT NULL,
    version integer NOT NULL,
    guest_tag bigint,                   -- of the sender's own name of the guest, keyed
    present boolean NOT NULL,           -- in house already: the deadline runs
    state text NOT NULL CHECK (state IN ('open', 'ended')),
    arrives_at timestamptz,             -- expected, or actual where present
    departed_at timestamptz,            -- left before the identity was known
    deadline_at timestamptz,            -- when the declaration is due, or will be
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    ended_at timestamptz,
    sealed bytea NOT NULL,
    PRIMARY KEY (facility_id, ref_tag),
    CHECK ((state = 'ended') = (ended_at IS NOT NULL))
);
COMMENT ON TABLE expected_stays IS 'khách dự kiến: rows go when they are declared, or some days after they have ended';
CREATE UNIQUE INDEX expected_stays_by_id ON expected_stays (facility_id, id);
CREATE INDEX expected_stays_by_guest ON expected_stays (facility_id, guest_tag) WHERE guest_tag IS NOT NULL;
CREATE INDEX expected_stays_by_arrival ON expected_stays (coalesce(arrives_at, changed_at))
    WHERE state = 'open' AND NOT present;
CREATE INDEX expected_stays_by_end ON expected_stays (ended_at) WHERE state = 'ended';

GRANT SELECT, INSERT, UPDATE, DELETE ON expected_stays TO asm_intake;

-- Who is in house may also be asked for by the sender's own name of the guest (a medical record number).
ALTER TABLE in_house ADD COLUMN guest_tag bigint;
CREATE INDEX in_house_by_guest ON in_house (facility_id, guest_tag) WHERE guest_tag IS NOT NULL;
