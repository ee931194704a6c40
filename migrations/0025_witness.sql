-- What witnesses (nhân chứng) confirmed of the audit's checkpoints. The newest of each is enough: a cosignature covers
-- everything before it. It is verified whenever it is read, so that writing here makes nobody a witness.
CREATE TABLE audit_cosignatures (
    witness text PRIMARY KEY,                               -- key name, as in the setting
    size bigint NOT NULL,                                   -- of the checkpoint that was cosigned
    cosigned_at timestamptz NOT NULL,                       -- repeats what the line says
    line text NOT NULL CHECK (length(line) <= 1024)         -- C2SP tlog-cosignature, cosignature/v1
);

GRANT SELECT, INSERT, UPDATE ON audit_cosignatures TO asm_audit;
