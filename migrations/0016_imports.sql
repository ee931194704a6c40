-- Import jobs (tệp khai báo): an uploaded file, how far it has been taken in, and what became of each of its rows.
-- The file is sealed and goes when it was given back or its time is over; the report holds nothing about a guest.

CREATE TABLE import_jobs (
    id uuid NOT NULL,
    facility_id integer NOT NULL,
    connector text NOT NULL,
    actor text NOT NULL,
    content_tag bytea NOT NULL CHECK (length(content_tag) = 16),    -- keyed: the same file is the same job
    state text NOT NULL CHECK (state IN ('waiting', 'running', 'finished', 'failed')),
    received_at timestamptz NOT NULL,               -- when the upload was complete: it decides lateness
    started_at timestamptz,
    finished_at timestamptz,
    claimed_by uuid,                                -- the process that works on it …
    claimed_until timestamptz,                      -- … unless it has been silent since
    attempts integer NOT NULL DEFAULT 0,
    rows integer,                                   -- what the file holds, once it is read
    done integer NOT NULL DEFAULT 0,
    accepted integer NOT NULL DEFAULT 0,
    duplicate integer NOT NULL DEFAULT 0,
    expected integer NOT NULL DEFAULT 0,
    refused integer NOT NULL DEFAULT 0,
    problem bytea,                                  -- why nothing of it could be taken: problem+json
    file_bytes integer NOT NULL,
    file_erased_at timestamptz,
    PRIMARY KEY (id, facility_id),
    CHECK (accepted + duplicate + expected + refused = done)
);
COMMENT ON TABLE import_jobs IS 'tệp khai báo: rows go some days after they have ended';
CREATE INDEX import_jobs_by_facility ON import_jobs (facility_id, id);
CREATE UNIQUE INDEX import_jobs_by_content ON import_jobs (facility_id, content_tag) WHERE file_erased_at IS NULL;
CREATE INDEX import_jobs_to_do ON import_jobs (id) WHERE state IN ('waiting', 'running');
CREATE INDEX import_jobs_by_end ON import_jobs (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE import_files (
    facility_id integer NOT NULL,
    job_id uuid NOT NULL,
    part integer NOT NULL CHECK (part > 0),
    sealed bytea NOT NULL,
    PRIMARY KEY (facility_id, job_id, part)
);
COMMENT ON TABLE import_files IS 'the uploaded bytes, sealed in parts';

CREATE TABLE import_results (
    facility_id integer NOT NULL,
    job_id uuid NOT NULL,
    first integer NOT NULL CHECK (first >= 0),      -- place of the slice among the rows, from 0
    results bytea NOT NULL,                         -- JSON array of row results, without personal data
    PRIMARY KEY (facility_id, job_id, first)
);
COMMENT ON TABLE import_results IS 'what became of the rows, a slice each';

GRANT SELECT, INSERT, UPDATE, DELETE ON import_jobs TO asm_intake;
GRANT SELECT, INSERT, DELETE ON import_files, import_results TO asm_intake;
