-- What a refused HL7 message called itself is named as what it is, and sealed anew with the rest of its month: when its key
-- was renewed, it could not be read any more. A rename is no step that an old daemon could run beside; there is none yet.
ALTER TABLE hl7_messages RENAME COLUMN header TO header_sealed;
COMMENT ON COLUMN hl7_messages.header_sealed IS 'of a refused message: MSH-3, MSH-4, MSH-10';
GRANT UPDATE (header_sealed) ON hl7_messages TO asm_retention;
