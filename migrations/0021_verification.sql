-- What comes of a verification: the owner is told within bounds, the police are alerted (docs/adr/0022).

-- question_tag: keyed, of what the population database was asked about the guest; equal tags within a stay are the same
-- question. NULL: it was asked nothing. check_document: what the owner is told of this version; NULL: not told.
ALTER TABLE sync_log
    ADD COLUMN question_tag bytea CHECK (length(question_tag) = 16),
    ADD COLUMN check_document boolean;

-- The owners' login reads what is to be told and never what was found.
REVOKE SELECT ON sync_log FROM asm_intake;
GRANT SELECT (facility_id, stay_id, version, confirmed_at, check_document) ON sync_log TO asm_intake;

-- One row per facility, of the newest day on which it was answered: whoever records an answer waits for its turn here.
CREATE TABLE verification_answers (
    facility_id integer PRIMARY KEY,
    counted_on date NOT NULL,           -- in Viet Nam
    told integer NOT NULL,
    withheld integer NOT NULL,
    asked_again integer NOT NULL,       -- another identity for a stay that was answered before
    withdrawn integer NOT NULL          -- stays cancelled within a day of their answer
) WITH (fillfactor = 50);
COMMENT ON TABLE verification_answers IS 'số kết quả đối chiếu đã báo cho cơ sở trong ngày';

GRANT SELECT, INSERT, UPDATE ON verification_answers TO asm_sync;

-- Who raises an alert can neither read nor change it; the police can only change its state.
CREATE TABLE police_alerts (
    id uuid PRIMARY KEY,                -- UUIDv7
    kind text NOT NULL CHECK (kind IN ('document_revoked')),
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    version integer NOT NULL,           -- the one that raised it
    raised_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'seen', 'handled')),
    changed_at timestamptz,
    changed_by uuid,                    -- the officer
    UNIQUE (kind, facility_id, stay_id, version),
    CHECK ((state = 'open') = (changed_at IS NULL) AND (changed_at IS NULL) = (changed_by IS NULL))
);
CREATE INDEX police_alerts_by_state ON police_alerts (state, id);
COMMENT ON TABLE police_alerts IS 'cảnh báo cho công an: which stay and why, nothing else about the guest';

GRANT INSERT (id, kind, facility_id, stay_id, version, raised_at) ON police_alerts TO asm_sync;
GRANT SELECT, UPDATE (state, changed_at, changed_by) ON police_alerts TO asm_police;
