-- What departments may read (bản trích xuất): finished numbers, and nothing they were computed from.

CREATE TABLE releases (
    id uuid PRIMARY KEY,
    department text NOT NULL CHECK (department IN ('tourism', 'economic_zone', 'health')),
    template text NOT NULL CHECK (template IN ('daily')),
    period date NOT NULL,                       -- the day in Viet Nam
    release_no integer NOT NULL CHECK (release_no > 0),
    published_at timestamptz NOT NULL,
    body bytea NOT NULL,                        -- canonical JSON, as it is answered
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    withheld_sealed bytea[] NOT NULL,           -- what was not published; later releases are checked against it
    UNIQUE (department, template, period, release_no)
);
COMMENT ON TABLE releases IS 'immutable; a correction is a further release of its period';

GRANT SELECT, INSERT ON releases TO asm_publish;
GRANT SELECT (id, department, template, period, release_no, published_at, body, sha256) ON releases TO asm_feeds;
