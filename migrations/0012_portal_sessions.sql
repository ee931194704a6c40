-- Sessions of software that speaks the national portal's interface (cổng KBTT): opened with an API key, for one facility.
-- Tokens have 256 random bits, so their SHA-256 is all that has to be kept, as with keys.

CREATE TABLE portal_sessions (
    access_sha256 bytea PRIMARY KEY CHECK (length(access_sha256) = 32),
    refresh_sha256 bytea NOT NULL UNIQUE CHECK (length(refresh_sha256) = 32),
    key_id text NOT NULL REFERENCES api_keys (id),
    facility_id integer NOT NULL REFERENCES facilities (id),
    opened_at timestamptz NOT NULL,
    access_expires_at timestamptz NOT NULL,
    refresh_expires_at timestamptz NOT NULL
);
COMMENT ON TABLE portal_sessions IS 'renewing replaces both tokens of a row; what has ended is deleted';
CREATE INDEX portal_sessions_by_key ON portal_sessions (key_id, opened_at);
CREATE INDEX portal_sessions_by_end ON portal_sessions (refresh_expires_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON portal_sessions TO asm_auth;
