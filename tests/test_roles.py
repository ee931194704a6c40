"""What each login may do in the database. The tables below are written by hand: whoever grants more writes it here."""

from __future__ import annotations

from tests.conftest import Database

GRANTS = [
    ("asm_audit", "audit_checkpoints", "SELECT, INSERT"),
    ("asm_audit", "audit_cosignatures", "SELECT, INSERT, UPDATE"),
    ("asm_audit", "audit_head", "SELECT, UPDATE"),
    ("asm_audit", "audit_log", "SELECT, INSERT"),
    ("asm_audit", "audit_nodes", "SELECT, INSERT"),
    ("asm_audit", "audit_pending", "SELECT, DELETE"),
    ("asm_audit", "operator_alerts", "SELECT, INSERT, UPDATE"),
    ("asm_audit", "reseals", "SELECT"),
    ("asm_auth", "api_keys", "SELECT, INSERT, UPDATE"),
    ("asm_auth", "audit_pending", "INSERT"),
    ("asm_auth", "facilities", "SELECT, INSERT, UPDATE"),
    ("asm_auth", "facility_turns", "SELECT, INSERT"),
    ("asm_auth", "grants", "SELECT, INSERT, UPDATE"),
    ("asm_auth", "hl7_messages", "SELECT"),
    ("asm_auth", "hotel_pulls", "SELECT (system_id, due_at, attempts, last_code), DELETE"),
    ("asm_auth", "hotel_systems", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_auth", "mllp_senders", "SELECT, INSERT, UPDATE"),
    ("asm_auth", "portal_sessions", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_auth", "principals", "SELECT, INSERT, UPDATE"),
    ("asm_feeds", "releases", "SELECT (id, department, template, period, release_no, published_at, body, sha256)"),
    ("asm_guest", "audit_pending", "INSERT"),
    ("asm_intake", "audit_pending", "INSERT"),
    ("asm_intake", "expected_stays", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_intake", "facilities", "SELECT"),
    ("asm_intake", "facility_turns", "SELECT, UPDATE"),
    ("asm_intake", "hl7_messages", "SELECT, INSERT, UPDATE"),
    ("asm_intake", "hotel_pulls", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_intake", "hotel_systems", "SELECT"),
    ("asm_intake", "import_files", "SELECT, INSERT, DELETE"),
    ("asm_intake", "import_jobs", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_intake", "import_results", "SELECT, INSERT, DELETE"),
    ("asm_intake", "in_house", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_intake", "operator_alerts", "SELECT, INSERT, UPDATE"),
    ("asm_intake", "owner_event_head", "SELECT"),
    ("asm_intake", "owner_events", "SELECT"),
    ("asm_intake", "owner_events_pending", "INSERT"),
    ("asm_intake", "party_heads", "SELECT, INSERT, DELETE"),
    ("asm_intake", "principals", "SELECT (id, kind, active)"),
    ("asm_intake", "receipt_batches", "SELECT, INSERT"),
    ("asm_intake", "roster_plan_parts", "SELECT, INSERT, DELETE"),
    ("asm_intake", "roster_plans", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_intake", "roster_seen", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_intake", "source_refs", "SELECT, INSERT, DELETE"),
    ("asm_intake", "stay_versions", "SELECT, INSERT"),
    ("asm_intake", "stays", "SELECT, INSERT, UPDATE"),
    ("asm_intake", "sync_log", "SELECT (facility_id, stay_id, version, confirmed_at, check_document, lost_at), INSERT"),
    ("asm_intake", "sync_queue", "INSERT"),
    ("asm_intake", "sync_refused", "SELECT, DELETE"),
    ("asm_intake", "sync_wait", "SELECT, DELETE"),
    ("asm_intake", "temporary_residence", "SELECT, INSERT, UPDATE"),
    ("asm_intake", "webhook_deliveries", "SELECT, INSERT, DELETE"),
    ("asm_intake", "webhook_endpoints", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_intake", "webhook_failures", "SELECT, DELETE"),
    ("asm_police", "audit_pending", "INSERT"),
    ("asm_police", "facilities", "SELECT"),
    ("asm_police", "police_alerts", "SELECT, UPDATE (state, changed_at, changed_by)"),
    ("asm_police", "police_purposes", "SELECT"),
    ("asm_police", "retention_epochs", "SELECT (epoch, state, cutoff_at, cutoffs)"),
    ("asm_police", "stay_versions", "SELECT"),
    ("asm_police", "stays", "SELECT"),
    ("asm_police", "sync_log", "SELECT"),
    ("asm_publish", "audit_pending", "INSERT"),
    ("asm_publish", "facilities", "SELECT"),
    ("asm_publish", "releases", "SELECT, INSERT"),
    ("asm_publish", "stays", "SELECT"),
    ("asm_publish", "sync_log", "SELECT"),
    ("asm_retention", "audit_pending", "INSERT"),
    ("asm_retention", "comparisons", "SELECT (id, finished_at), DELETE"),
    ("asm_retention", "erasures", "SELECT, INSERT, UPDATE"),
    ("asm_retention", "expected_stays", "SELECT (facility_id, ref_tag, id, version, sealed), UPDATE (sealed)"),
    ("asm_retention", "facilities", "SELECT"),
    ("asm_retention", "forgotten_receipts", "SELECT, UPDATE (audit_entry_id)"),
    ("asm_retention", "held_stay_versions", "SELECT, INSERT, DELETE"),
    ("asm_retention", "held_stays", "SELECT, INSERT, DELETE"),
    ("asm_retention", "hl7_messages", "SELECT, UPDATE (header_sealed), DELETE"),
    ("asm_retention", "hotel_pulls", "SELECT (system_id, id, reservation_sealed), UPDATE (reservation_sealed)"),
    ("asm_retention", "hotel_systems", "SELECT (id, facility_id)"),
    ("asm_retention", "import_files", "SELECT, UPDATE (sealed)"),
    ("asm_retention", "legal_holds", "SELECT, INSERT, UPDATE"),
    ("asm_retention", "operator_alerts", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_retention", "receipt_batches", "SELECT"),
    ("asm_retention", "reencryptions", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_retention", "releases", "SELECT (id, withheld_sealed), UPDATE (withheld_sealed)"),
    ("asm_retention", "reseals", "SELECT, INSERT"),
    ("asm_retention", "retention_epochs", "SELECT, INSERT, UPDATE"),
    ("asm_retention", "roster_plan_parts", "SELECT, UPDATE (sealed)"),
    ("asm_retention", "roster_plans", "SELECT (id, facility_id)"),
    ("asm_retention", "source_refs", "SELECT"),
    ("asm_retention", "stay_versions", "SELECT, UPDATE (sealed)"),
    ("asm_retention", "stays", "SELECT, UPDATE (document_index, person_index, given_name_index, sealed)"),
    ("asm_retention", "sync_queue", "SELECT (facility_id, stay_id)"),
    ("asm_retention", "sync_wait", "SELECT (facility_id, stay_id)"),
    ("asm_retention", "temporary_residence", "SELECT (facility_id, stay_id, sealed), UPDATE (sealed)"),
    ("asm_retention", "webhook_endpoints", "SELECT (id, sealed_epoch, version, sealed), UPDATE (sealed)"),
    ("asm_sync", "audit_pending", "INSERT"),
    ("asm_sync", "comparisons", "SELECT, INSERT, UPDATE"),
    ("asm_sync", "erasures", "SELECT (stay_id)"),
    ("asm_sync", "facilities", "SELECT"),
    ("asm_sync", "grants", "SELECT (principal_id, facility_id, scopes, revoked_at)"),
    ("asm_sync", "leases", "SELECT, UPDATE"),
    ("asm_sync", "operator_alerts", "SELECT, INSERT, UPDATE"),
    ("asm_sync", "owner_event_head", "SELECT, UPDATE"),
    ("asm_sync", "owner_events", "SELECT, INSERT, DELETE"),
    ("asm_sync", "owner_events_pending", "SELECT, INSERT, DELETE"),
    ("asm_sync", "police_alerts", "INSERT (id, kind, facility_id, stay_id, version, raised_at)"),
    ("asm_sync", "principals", "SELECT (id, kind, active)"),
    ("asm_sync", "retention_epochs", "SELECT (epoch, state)"),
    ("asm_sync", "stay_versions", "SELECT (facility_id, stay_id, version, status, event, received_at)"),
    ("asm_sync", "stays", "SELECT"),
    ("asm_sync", "sync_log", "SELECT, INSERT, UPDATE (verification, digest, lost_at, confirmations)"),
    ("asm_sync", "sync_queue", "SELECT, INSERT, DELETE"),
    ("asm_sync", "sync_refused", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_sync", "sync_wait", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_sync", "sync_workers", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_sync", "verification_answers", "SELECT, INSERT, UPDATE"),
    ("asm_sync", "webhook_deliveries", "SELECT, INSERT, UPDATE, DELETE"),
    ("asm_sync", "webhook_endpoints", "SELECT, UPDATE"),
    ("asm_sync", "webhook_failures", "SELECT, INSERT, UPDATE, DELETE"),
    ("public", "schema_migrations", "SELECT"),
]
"""Login, table, privileges; in parentheses the only columns they are for. `public` is every login."""

FUNCTIONS = [
    ("asm_intake", "has_stay_partition"),
    ("asm_retention", "create_stay_partitions"),
    ("asm_retention", "end_stay_month"),
    ("asm_retention", "forget_stay"),
    ("asm_retention", "has_stay_partition"),
    ("asm_retention", "lock_stay_month"),
]
"""Login, function that it may call with the rights of the owner."""

LOGINS = [
    "asm_audit",
    "asm_auth",
    "asm_feeds",
    "asm_guest",
    "asm_intake",
    "asm_migrate",
    "asm_police",
    "asm_publish",
    "asm_retention",
    "asm_sync",
]


async def test_every_login_holds_exactly_the_privileges_that_were_reviewed(database: Database) -> None:
    rows = await (await database.connect()).fetch(
        """
        WITH held AS (
            SELECT oid AS table_oid, grantee, privilege_type, NULL AS columns
            FROM pg_class, aclexplode(relacl)
            UNION ALL
            SELECT attrelid, grantee, privilege_type, string_agg(attname, ', ' ORDER BY attnum)
            FROM pg_attribute, aclexplode(attacl) GROUP BY attrelid, grantee, privilege_type
        )
        SELECT
            coalesce(rolname, 'public') AS login,
            relname AS name,
            string_agg(
                privilege_type || coalesce(' (' || columns || ')', ''), ', '
                ORDER BY array_position('{SELECT,INSERT,UPDATE,DELETE}'::text[], privilege_type), columns
            ) AS privileges
        FROM held
        JOIN pg_class ON pg_class.oid = table_oid AND relnamespace = 'public'::regnamespace
        LEFT JOIN pg_roles ON pg_roles.oid = grantee
        WHERE grantee <> relowner
        GROUP BY rolname, relname
        """
    )
    assert sorted(tuple(row) for row in rows) == sorted(GRANTS)


async def test_functions_of_the_owner_are_called_only_by_those_that_were_reviewed(database: Database) -> None:
    rows = await (await database.connect()).fetch(
        """
        SELECT coalesce(rolname, 'public'), proname
        FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS held
        LEFT JOIN pg_roles ON pg_roles.oid = grantee
        WHERE pronamespace = 'public'::regnamespace AND grantee <> proowner
        """
    )
    assert sorted(tuple(row) for row in rows) == sorted(FUNCTIONS)


async def test_no_login_is_a_member_of_another_or_more_than_a_login(database: Database) -> None:
    connection = await database.connect()
    rows = await connection.fetch(
        """
        SELECT rolname FROM pg_roles
        WHERE rolname LIKE 'asm\\_%' AND rolcanlogin
            AND NOT (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
        """
    )
    assert sorted(row["rolname"] for row in rows) == LOGINS
    members = await connection.fetch(
        """
        SELECT member.rolname, held.rolname FROM pg_auth_members
        JOIN pg_roles AS member ON member.oid = pg_auth_members.member
        JOIN pg_roles AS held ON held.oid = pg_auth_members.roleid
        WHERE member.rolname LIKE 'asm\\_%'
        """
    )
    assert [tuple(row) for row in members] == [("asm_migrate", "asm_owner")]
