-- How the messages of each HL7 sender are read, and what was answered to them: a message that comes again gets the same
-- answer, and of one that was refused nothing is kept but its control id, places and reasons.

ALTER TABLE mllp_senders
    ADD COLUMN overnight_classes text NOT NULL DEFAULT 'I,B,E:bed',
    ADD COLUMN charset text NOT NULL DEFAULT 'UNICODE UTF-8',
    ADD COLUMN relative_role text,
    ADD COLUMN certificate_sha256 bytea CHECK (length(certificate_sha256) = 32);
COMMENT ON COLUMN mllp_senders.overnight_classes IS 'PV1-2 of patients who stay overnight; :bed for those with a bed';
COMMENT ON COLUMN mllp_senders.relative_role IS 'NK1-7 of relatives who stay with the patient; none are declared without it';
COMMENT ON COLUMN mllp_senders.certificate_sha256 IS 'the only client certificate that may use these names';

CREATE TABLE hl7_messages (
    message_tag bytea PRIMARY KEY CHECK (length(message_tag) = 16),
    sending_application text NOT NULL,
    sending_facility text NOT NULL,
    code text NOT NULL CHECK (code IN ('AA', 'AE', 'AR')),
    answer text NOT NULL,
    control_id text,
    reasons text[] NOT NULL,
    times integer NOT NULL,
    received_at timestamptz NOT NULL,
    CHECK ((code = 'AA') = (control_id IS NULL))
);
COMMENT ON TABLE hl7_messages IS 'bản tin HL7: the tag is keyed, of sender, MSH-10 and the whole message; no content';
CREATE INDEX hl7_messages_by_time ON hl7_messages (received_at);
CREATE INDEX hl7_messages_refused ON hl7_messages (received_at) WHERE code <> 'AA';

GRANT SELECT, INSERT, UPDATE ON hl7_messages TO asm_intake;
GRANT SELECT ON hl7_messages TO asm_auth;
GRANT SELECT, DELETE ON hl7_messages TO asm_retention;
