-- What the operator has to look at, and what owners are to be told of. Neither says anything about a guest.

CREATE TABLE operator_alerts (
    kind text NOT NULL,
    subject text NOT NULL,
    raised_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    occurrences integer NOT NULL,
    details jsonb NOT NULL,
    closed_at timestamptz,
    closed_by text,
    PRIMARY KEY (kind, subject),
    CHECK ((closed_at IS NULL) = (closed_by IS NULL))
);
COMMENT ON COLUMN operator_alerts.subject IS 'what it is about: the code of a facility, the id of a stay, a range of ids';
COMMENT ON COLUMN operator_alerts.details IS 'counts and codes of the last occurrence';

GRANT SELECT, INSERT, UPDATE ON operator_alerts TO asm_sync, asm_intake, asm_retention, asm_audit;

-- Written in the transaction of what happened; a job gives them their positions, by which they are pulled and delivered.
CREATE TABLE owner_events_pending (
    event_id uuid PRIMARY KEY,
    facility_id integer NOT NULL,
    kind text NOT NULL,
    stay_id uuid,
    at timestamptz NOT NULL
);
COMMENT ON TABLE owner_events_pending IS 'sự kiện gửi cơ sở: which stay and what happened, nothing about the guest';

GRANT INSERT ON owner_events_pending TO asm_intake, asm_sync;
