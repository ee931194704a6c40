-- One login per audience: what a program may read is a property of its database user, not of its code.
-- Roles belong to the cluster, so this file tolerates that they exist. Passwords and pg_hba are the operator's.
DO $$
DECLARE
    login text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'asm_owner') THEN
        CREATE ROLE asm_owner NOLOGIN;
    END IF;
    FOREACH login IN ARRAY ARRAY[
        'asm_migrate', 'asm_auth', 'asm_intake', 'asm_sync', 'asm_police', 'asm_guest',
        'asm_feeds', 'asm_publish', 'asm_audit', 'asm_retention'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', login);
        END IF;
    END LOOP;
    GRANT asm_owner TO asm_migrate;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO asm_owner', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO asm_migrate, asm_auth, asm_intake, asm_sync, asm_police, asm_guest, '
        'asm_feeds, asm_publish, asm_audit, asm_retention', current_database());
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO asm_owner;
GRANT USAGE ON SCHEMA public TO
    asm_migrate, asm_auth, asm_intake, asm_sync, asm_police, asm_guest, asm_feeds, asm_publish, asm_audit, asm_retention;
