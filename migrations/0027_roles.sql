-- Nobody but the owner makes objects, temporary ones neither (0001). By default PostgreSQL lets everybody call a new
-- function: here nobody may, unless the migration that makes it says so.
ALTER DEFAULT PRIVILEGES FOR ROLE asm_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- What a refused message called itself (MSH-3, MSH-4, MSH-10) is whatever the sender wrote: some build the control id
-- from the patient's number. So it is sealed (niêm phong). What was kept before in clear is dropped.
ALTER TABLE hl7_messages
    DROP COLUMN sending_application,
    DROP COLUMN sending_facility,
    DROP COLUMN control_id,
    ADD COLUMN header bytea;
COMMENT ON COLUMN hl7_messages.header IS
    'of a refused message, sealed: MSH-3, MSH-4, MSH-10. It is not sealed anew, since it goes after hl7_message_days';
