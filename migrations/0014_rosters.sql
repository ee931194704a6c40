-- Rosters (danh sách người ở): what a full list would change, and who was on a list when. And the marks of the manager
-- that a guest has registered temporary residence (đã đăng ký tạm trú, Law on Residence, Article 27).

CREATE TABLE roster_plans (
    id uuid PRIMARY KEY,                        -- UUIDv7: its month's key seals the parts
    facility_id integer NOT NULL REFERENCES facilities (id),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    plan_sha256 bytea NOT NULL CHECK (length(plan_sha256) = 32),
    started_at timestamptz,                     -- from then on it is executed, and may be resumed
    decisions text NOT NULL DEFAULT '{}',       -- row number → what the manager decided; nothing about a person
    finished_at timestamptz
);
CREATE INDEX roster_plans_by_end ON roster_plans (expires_at);
COMMENT ON TABLE roster_plans IS 'kế hoạch cập nhật theo danh sách: kept until it expires';

-- A sealed record holds 64 KiB at most, so what a plan says lies in several.
CREATE TABLE roster_plan_parts (
    plan_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('plan', 'result')),
    number integer NOT NULL CHECK (number > 0),
    sealed bytea NOT NULL,
    PRIMARY KEY (plan_id, kind, number)
);

-- When a stay in house stood on an applied roster last: who is missing since when.
CREATE TABLE roster_seen (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    seen_on date NOT NULL,                      -- local day
    PRIMARY KEY (facility_id, stay_id)
);

CREATE TABLE temporary_residence (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    registered_on date NOT NULL,
    sealed bytea NOT NULL,                      -- the reference of the registration, under the key of the stay's month
    marked_at timestamptz NOT NULL,
    PRIMARY KEY (facility_id, stay_id)
);
COMMENT ON TABLE temporary_residence IS 'đã đăng ký tạm trú: as the manager says; by whom it was said is in the audit';

GRANT SELECT, INSERT, UPDATE, DELETE ON roster_plans, roster_seen TO asm_intake;
GRANT SELECT, INSERT, DELETE ON roster_plan_parts TO asm_intake;
GRANT SELECT, INSERT, UPDATE ON temporary_residence TO asm_intake;
