-- The audit (nhật ký kiểm toán): an append-only Merkle tree. Grants keep programs from changing it; the signed
-- checkpoints show it when somebody who is above grants did (docs/adr/0005).

-- Entries of committed transactions that have no position yet. Writers do not wait for each other here.
CREATE TABLE audit_pending (
    arrival bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    entry_id uuid NOT NULL,
    at timestamptz NOT NULL,
    body bytea NOT NULL CHECK (length(body) <= 16384)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- Sealed entries. entry_id and at repeat what the body says, for finding it; only the body is hashed.
-- entry_id is not unique: a writer that repeats one must not be able to stop the sealing.
CREATE TABLE audit_log (
    position bigint PRIMARY KEY CHECK (position >= 0),      -- leaf index in the tree
    entry_id uuid NOT NULL,
    at timestamptz NOT NULL,
    body bytea NOT NULL,                                    -- canonical JSON
    leaf bytea NOT NULL CHECK (length(leaf) = 32)           -- SHA-256(0x00 || body)
);
CREATE INDEX audit_log_by_entry ON audit_log (entry_id);
CREATE INDEX audit_log_by_time ON audit_log USING brin (at);

-- Hashes of complete subtrees of height 8, 16, 24 …: a proof reads some hundred hashes instead of every leaf.
CREATE TABLE audit_nodes (
    height smallint NOT NULL CHECK (height > 0 AND height % 8 = 0),
    index bigint NOT NULL CHECK (index >= 0),
    hash bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (height, index)
);

CREATE TABLE audit_checkpoints (
    size bigint PRIMARY KEY CHECK (size > 0),
    signed_at timestamptz NOT NULL,
    note text NOT NULL                                      -- C2SP tlog-checkpoint
);

-- The one tree head: whoever seals holds this row.
CREATE TABLE audit_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    frontier bytea NOT NULL                                 -- size and the roots of the complete subtrees
);
INSERT INTO audit_head (frontier) VALUES ('\x0000000000000000');

GRANT INSERT ON audit_pending TO asm_auth, asm_intake, asm_sync, asm_police, asm_guest, asm_publish, asm_retention;
GRANT SELECT, DELETE ON audit_pending TO asm_audit;
GRANT SELECT, INSERT ON audit_log, audit_nodes, audit_checkpoints TO asm_audit;
GRANT SELECT, UPDATE ON audit_head TO asm_audit;
