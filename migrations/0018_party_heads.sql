-- Heads of parties (trưởng đoàn) in house: by them a member without a head is told. Written and removed with in_house;
-- the tag is keyed like a presence tag, so that nobody reads from it which party it is.

CREATE TABLE party_heads (
    facility_id integer NOT NULL,
    stay_id uuid NOT NULL,
    party_tag bigint NOT NULL,
    PRIMARY KEY (facility_id, stay_id)
);
CREATE INDEX party_heads_by_party ON party_heads (facility_id, party_tag);

GRANT SELECT, INSERT, DELETE ON party_heads TO asm_intake;
