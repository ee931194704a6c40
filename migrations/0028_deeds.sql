-- What a database administrator could do unnoticed (docs/adr/0030).

-- The audit entry that signs a list of forgotten places (Merkle root over them). It is set in the transaction that adds
-- the row, after the function that does.
ALTER TABLE forgotten_receipts ADD COLUMN audit_entry_id uuid;
COMMENT ON COLUMN forgotten_receipts.audit_entry_id IS 'null: nobody signed it';
CREATE INDEX forgotten_receipts_unsigned ON forgotten_receipts (epoch) WHERE audit_entry_id IS NULL;

GRANT UPDATE (audit_entry_id) ON forgotten_receipts TO asm_retention;
-- Verification also looks whether a sender's reference still leads to its stay.
GRANT SELECT ON source_refs TO asm_retention;
