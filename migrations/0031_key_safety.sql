-- When the keys of an urgently erased stay were destroyed: a backup of the key store from before still holds them, whatever
-- the settings say by the day on which the certificate becomes final.
ALTER TABLE erasures ADD COLUMN keys_gone_at timestamptz;
