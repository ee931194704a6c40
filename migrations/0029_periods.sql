-- Periods (thời hạn lưu giữ) by class: kinds of facility whose stays are kept for a time of their own, and what goes with
-- age alone.

ALTER TABLE retention_epochs ADD COLUMN cutoffs text NOT NULL DEFAULT '{}';
COMMENT ON COLUMN retention_epochs.cutoffs IS
    'JSON, kind of facility → who left by then is forgotten, where it is another instant than cutoff_at';

-- What an operator dealt with, and passes of the comparison that are over.
GRANT DELETE ON operator_alerts TO asm_retention;
GRANT SELECT (id, finished_at), DELETE ON comparisons TO asm_retention;

-- What is kept waits there before the month is locked: who is no longer kept by then, or has changed, is taken back.
GRANT DELETE ON held_stays, held_stay_versions TO asm_retention;
