-- What owners are told (sự kiện gửi cơ sở): numbered once, pulled by position, and sent to their webhooks. Nothing here
-- says anything about a guest (docs/adr/0021).

ALTER TABLE owner_events_pending ADD COLUMN expected_id uuid;
COMMENT ON COLUMN owner_events_pending.expected_id IS 'the guest who is here and not declared, where there is no stay';

CREATE INDEX owner_events_pending_by_time ON owner_events_pending (at, event_id);     -- the order of numbering

-- Numbered events. A position is given under the lock of the one row of owner_event_head, so that whoever has read up to
-- one has missed none before it.
CREATE TABLE owner_events (
    position bigint PRIMARY KEY CHECK (position > 0),
    event_id uuid NOT NULL,
    facility_id integer NOT NULL,
    kind text NOT NULL,
    stay_id uuid,
    expected_id uuid,
    at timestamptz NOT NULL,
    numbered_at timestamptz NOT NULL
);
CREATE INDEX owner_events_by_facility ON owner_events (facility_id, position);
CREATE INDEX owner_events_by_id ON owner_events (event_id);     -- what is told twice is numbered once

CREATE TABLE owner_event_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL,           -- the last one given
    erased bigint NOT NULL              -- the last one whose event is no longer kept
);
INSERT INTO owner_event_head (position, erased) VALUES (0, 0);

-- Where events are sent: address and secrets are sealed under the key of the month sealed_epoch, and sealed anew under
-- that of each new month.
CREATE TABLE webhook_endpoints (
    id uuid PRIMARY KEY,
    principal_id uuid NOT NULL,
    host text NOT NULL,                 -- of the address, for an operator to see
    kinds text[] NOT NULL,
    sealed_epoch integer NOT NULL,
    version integer NOT NULL,           -- counts the sealings
    sealed bytea NOT NULL,
    previous_until timestamptz,         -- until then, the previous secret signs as well
    created_at timestamptz NOT NULL,
    place smallint NOT NULL CHECK (place > 0),      -- among those of its principal, who has only so many
    failing_since timestamptz,          -- the first failure since the last success
    failed_attempts integer NOT NULL DEFAULT 0,     -- since then
    rest_until timestamptz,             -- until then nothing is sent, whatever waits
    disabled_at timestamptz,
    disabled_code text,
    UNIQUE (principal_id, place),
    CHECK ((disabled_at IS NULL) = (disabled_code IS NULL))
);

-- What is still to be delivered. Claiming a row moves due_at behind the time that an attempt may take: a daemon that
-- dies meanwhile leaves it to be due again.
CREATE TABLE webhook_deliveries (
    endpoint_id uuid NOT NULL,
    event_id uuid NOT NULL,
    facility_id integer,                -- none of a test
    kind text NOT NULL,
    stay_id uuid,
    expected_id uuid,
    at timestamptz NOT NULL,
    queued_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    attempts integer NOT NULL,          -- grows with each claim, and so tells whose attempt an outcome is of
    last_code text,
    PRIMARY KEY (endpoint_id, event_id)
);
CREATE INDEX webhook_deliveries_by_due ON webhook_deliveries (endpoint_id, due_at);

CREATE TABLE webhook_failures (
    endpoint_id uuid NOT NULL,
    code text NOT NULL,
    failures bigint NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (endpoint_id, code)
);
COMMENT ON TABLE webhook_failures IS 'how often an endpoint failed, and how; forgotten some days after the last time';

-- Who is in house undeclared, and was not told of yet. A deadline that moves is told again.
ALTER TABLE expected_stays ADD COLUMN told_deadline_at timestamptz;
CREATE INDEX expected_stays_to_tell ON expected_stays (deadline_at)
    WHERE state = 'open' AND present AND told_deadline_at IS DISTINCT FROM deadline_at;

-- What leaves the house is asm_sync's: it numbers events and sends them. Owners ask through asm_intake.
GRANT SELECT, DELETE ON owner_events_pending TO asm_sync;
GRANT SELECT, INSERT, DELETE ON owner_events TO asm_sync;
GRANT SELECT, UPDATE ON owner_event_head TO asm_sync;
GRANT SELECT ON owner_events, owner_event_head TO asm_intake;
GRANT SELECT, UPDATE ON webhook_endpoints TO asm_sync;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_endpoints TO asm_intake;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_deliveries TO asm_sync;
GRANT SELECT, INSERT, DELETE ON webhook_deliveries TO asm_intake;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_failures TO asm_sync;
GRANT SELECT, DELETE ON webhook_failures TO asm_intake;
GRANT SELECT (principal_id, facility_id, scopes, revoked_at) ON grants TO asm_sync;
GRANT SELECT (id, active, kind) ON principals TO asm_sync, asm_intake;
