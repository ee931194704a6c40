-- The audit entry that signs a list of forgotten places (Merkle root over them): who writes to the database can neither
-- add to it nor take from it unnoticed (docs/adr/0030). Set in the transaction that adds the row, after the function.
ALTER TABLE forgotten_receipts ADD COLUMN audit_entry_id uuid;
COMMENT ON COLUMN forgotten_receipts.audit_entry_id IS 'null: nobody signed it';
CREATE INDEX forgotten_receipts_unsigned ON forgotten_receipts (epoch) WHERE audit_entry_id IS NULL;

GRANT UPDATE (audit_entry_id) ON forgotten_receipts TO asm_retention;
