-- Hotel software whose reservations are fetched (phần mềm khách sạn), and which reservation is to be looked at: a
-- webhook rings, a worker fetches. A row of hotel_pulls says nothing about a guest, and goes when it was fetched.

CREATE TABLE hotel_systems (
    id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    facility_id integer NOT NULL REFERENCES facilities (id),
    system text NOT NULL CHECK (system IN ('mews', 'apaleo', 'ohip')),
    base_url text NOT NULL,
    token_url text,                     -- where tokens come from, if not from below base_url
    property_id text,                   -- the system's own name of the hotel
    credentials_file text NOT NULL,     -- the secrets stay on the daemon's host
    webhook_sha256 bytea NOT NULL UNIQUE CHECK (length(webhook_sha256) = 32),
    created_at timestamptz NOT NULL,
    UNIQUE (facility_id, system)
);
COMMENT ON TABLE hotel_systems IS 'the only addresses that the worker ever calls';

CREATE TABLE hotel_pulls (
    system_id integer NOT NULL,
    reservation_tag bytea NOT NULL CHECK (length(reservation_tag) = 16),
    id uuid NOT NULL,
    reservation_sealed bytea NOT NULL,
    rung_at timestamptz NOT NULL,
    rings integer NOT NULL,             -- grows while it is being fetched, if it changed again meanwhile
    due_at timestamptz NOT NULL,
    attempts integer NOT NULL,
    last_code text,
    PRIMARY KEY (system_id, reservation_tag)
);
CREATE INDEX hotel_pulls_by_due ON hotel_pulls (due_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON hotel_systems TO asm_auth;
GRANT SELECT (system_id, due_at, attempts, last_code), DELETE ON hotel_pulls TO asm_auth;
GRANT SELECT ON hotel_systems TO asm_intake;
GRANT SELECT, INSERT, UPDATE, DELETE ON hotel_pulls TO asm_intake;
