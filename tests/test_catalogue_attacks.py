"""What a superuser changes by plain SQL, column by column as the catalogue lists them, and what finds it.

A table or a column that is new stands in no list here, and fails: whoever adds one says what finds a change of it, or
why nothing has to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import audit, directory, feeds, retention
from asm_daemon.crypto import KeyPurpose, Keyring, Tampered, UnknownEpoch, epoch_at, epoch_of, next_epoch
from asm_daemon.directory import Actor
from asm_daemon.intake import Intake
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.ledger import NoteKey
from asm_daemon.model import Facility, PrincipalKind, StayRow
from asm_daemon.resealing import reencrypt_once
from asm_daemon.rules import local_day
from asm_daemon.sealing import open_contents
from asm_daemon.stay_proofs import forgotten_root, verify_stays
from asm_daemon.store.retention import Forgotten, Hold
from asm_daemon.told import verify_told
from schemas.act import ActKind
from tests.house import PERIODS, RetentionJobs
from tests.stack import DEPLOYMENT, Clock, FacilityMaker, Pools, command, declaration

OLD = 202001  # a month that had keys and no stays

OPENING, VERIFY, ALL, AUDIT, NOTHING = "opening", "keys verify", "keys verify --all", "audit verify", "nothing"
"""Who finds a change, the first of them. `nothing`: no verification; the list below says why."""
ROW_GONE, ROW_ADDED = "-row", "+row"

FOUND: dict[str, dict[str, str]] = {
    "api_keys": {ALL: "id principal_id secret_sha256 expires_at revoked_at +row -row"},
    "audit_checkpoints": {AUDIT: "size note +row"},
    "audit_head": {AUDIT: "frontier -row"},
    "audit_log": {AUDIT: "position entry_id at body leaf +row -row"},
    "audit_nodes": {AUDIT: "height index hash -row"},
    "audit_pending": {ALL: "body -row"},
    "erasures": {ALL: "stay_id facility_id epoch state urgent key_version erased_at final_at keys_gone_at +row -row"},
    "facilities": {
        VERIFY: "id code -row",
        ALL: "name kind province commune address zone authority capacity sandbox active +row",
    },
    "forgotten_receipts": {ALL: "batch_id epoch indexes audit_entry_id +row -row"},
    "grants": {ALL: "principal_id facility_id scopes revoked_at +row -row"},
    "legal_holds": {
        ALL: "id facility_id stay_id present_from present_until warrant_ref reason placed_at placed_by lifted_at "
        "lifted_by lifted_reason +row -row"
    },
    "mllp_senders": {
        ALL: "sending_application sending_facility facility_id overnight_classes charset relative_role "
        "certificate_sha256 +row -row"
    },
    "principals": {ALL: "id kind department active +row -row"},
    "receipt_batches": {VERIFY: "id leaves signed_at checkpoint -row", ALL: "+row"},
    "releases": {ALL: "id department template period release_no published_at body sha256 +row -row"},
    "reseals": {VERIFY: "id epoch audit_entry_id pairs +row -row"},
    "retention_epochs": {
        ALL: "epoch round state cutoff_at cutoffs index_version begun_at kept counts ended_at final_at +row -row"
    },
    "source_refs": {VERIFY: "facility_id ref_tag stay_id -row"},
    "stay_versions": {
        OPENING: "facility_id stay_id version sealed +row",
        VERIFY: "status event received_at declared_at arrived_at planned_departure_at departed_at deadline_at "
        "late_minutes content_tag receipt_batch_id receipt_index",
        ALL: "-row",
    },
    "stays": {
        OPENING: "id facility_id version sealed +row",
        VERIFY: "status event received_at declared_at arrived_at planned_departure_at departed_at deadline_at "
        "late_minutes document_index person_index given_name_index content_tag receipt_batch_id receipt_index",
        ALL: "-row",
    },
}
"""Table → what finds a change → of which columns. +row: a copy under another key, -row: a row removed."""

UNFOUND: dict[str, str] = {
    # Open: a change is of consequence, and nothing finds it. docs/threat-model.md, T3, names each.
    "audit_pending.+row": "what is written here is signed, under a false name, and stands in the audit for good",
    "hotel_systems": "open: the addresses that a hotel's credentials are sent to are not in the audit",
    "police_purposes": "open: terms are rows; but each search says in the audit since when it searched",
    "police_alerts": "open: an alert can be removed; the answer of the population database in sync_log says it again",
    "principals.name": "names are in no audit entry; who somebody is says the id",
    "principals.organisation": "as the name; each search says in the audit for which organisation it was",
    "in_house": "open: a guest is then taken twice, or refused as here already; no stay is lost by it",
    "temporary_residence": "open: the day stands in clear; the number is sealed under the name of its row",
    "expected_stays": "open: nobody signed for what is only expected; what is known of the guest opens in its row only",
    # Seen elsewhere.
    "audit_checkpoints.-row": "each covers those before it; without the last one nothing is sealed on (test_audit.py)",
    "audit_nodes.+row": "a hash that no proof asks for",
    "audit_head.one": "that there is one row; whose frontier is not the signed one seals nothing on (test_audit.py)",
    "audit_head.+row": "as above",
    "audit_cosignatures": "verified whenever it is read (test_witnessing.py)",
    "releases.withheld_sealed": "opened by the next release beside it, which is not published if it does not open",
    "sync_log": "held against the population database by the comparison (test_compare.py)",
    "sync_queue": "what was not carried is found by the comparison (test_compare.py)",
    "sync_wait": "as sync_queue",
    "sync_refused": "as sync_queue",
    "schema_migrations": "a changed sum stops the next migration (test_migrate.py)",
    "source_refs.+row": "a name that nobody gave leads to a stay that is somebody's of the same facility",
    # Says nothing that anything is decided by, or is gone within hours.
    "api_keys.created_at": "only shown",
    "audit_checkpoints.signed_at": "only shown",
    "audit_pending.arrival": "the order of what happened in the same second",
    "audit_pending.entry_id": "repeats the body, and is compared with it once it is sealed",
    "audit_pending.at": "repeats the body, and is compared with it once it is sealed",
    "facilities.created_at": "since when a facility counts in extracts",
    "grants.granted_at": "only shown",
    "principals.created_at": "only shown",
    "reseals.key_version": "repeats what the audit entry says",
    "reseals.resealed_at": "repeats what the audit entry says",
    "comparisons": "how far a comparison is: the next one begins anew",
    "facility_turns": "a row to wait on",
    "held_stays": "empty but within the transaction that ends a month",
    "held_stay_versions": "as held_stays",
    "hl7_messages": "answers to messages that are sent again, for some days",
    "hotel_pulls": "what is to be fetched; rings again",
    "import_files": "opens in its own row only; gone after hours",
    "import_jobs": "how far a file is; its acts have receipts",
    "import_results": "what a sender is told of rows; their acts have receipts",
    "leases": "who works on what, for seconds",
    "operator_alerts": "found again by whatever found it",
    "owner_event_head": "the number of the last event; owners ask for states besides",
    "owner_events": "what owners are told; they ask for states besides",
    "owner_events_pending": "as owner_events",
    "party_heads": "who leads a party, while in house",
    "portal_sessions": "open for a day; made for keys that are verified",
    "reencryptions": "how far it is: nothing is retired before a whole pass has found nothing",
    "roster_plan_parts": "opens in its own row only; gone after hours",
    "roster_plans": "names the hash of what was shown; its acts have receipts",
    "roster_seen": "who was on the last roster: absences are confirmed by a person",
    "sync_workers": "who is alive, for seconds",
    "verification_answers": "counts of a day",
    "webhook_deliveries": "owners ask for events besides",
    "webhook_endpoints": "address and secret are sealed under the name of their row",
    "webhook_failures": "counts",
}
"""Table or table.column → why nothing finds a change."""


@dataclass
class Register:
    """A database in which everything happened that leaves rows, by the daemon's own use cases."""

    superuser: asyncpg.Connection
    pools: Pools
    keyring: Keyring
    key: NoteKey
    kept_elsewhere: str  # a checkpoint

    async def found_by(self) -> str:
        """Who finds that something was changed."""
        if await self._unreadable():
            return OPENING
        retention_pool, auditors = await self.pools.get("asm_retention"), await self.pools.get("asm_audit")
        if (await verify_stays(retention_pool, auditors, self.keyring, [], sample=100)).faults:
            return VERIFY
        async with auditors.acquire() as connection:
            if (await audit.verify(connection, self.key, [self.kept_elsewhere])).faults:
                return AUDIT
        if (await verify_stays(retention_pool, auditors, self.keyring, [], sample=None)).faults:
            return ALL
        _, told = await verify_told(
            retention_pool,
            auditors,
            await self.pools.get("asm_feeds"),
            await self.pools.get("asm_auth"),
            keyring=self.keyring,
        )
        return ALL if told else NOTHING

    async def _unreadable(self) -> bool:
        columns = ", ".join(StayRow.__slots__)
        rows = await self.superuser.fetch(f"SELECT {columns} FROM stays")
        rows += await self.superuser.fetch(f"SELECT {columns.replace('id,', 'stay_id AS id,', 1)} FROM stay_versions")
        for row in rows:
            try:
                open_contents(self.keyring, StayRow(*row))
            except (Tampered, UnknownEpoch):
                return True
        return False

    async def columns(self) -> dict[str, dict[str, str]]:
        """The tables of the catalogue with their columns and types; partitions are part of their table."""
        rows = await self.superuser.fetch(
            """
            SELECT relname, attname, format_type(atttypid, NULL) AS type
            FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
            ORDER BY relname, attnum
            """
        )
        tables: dict[str, dict[str, str]] = {}
        for row in rows:
            tables.setdefault(row["relname"], {})[row["attname"]] = row["type"]
        return tables

    @asynccontextmanager
    async def put_back(self, table: str) -> AsyncIterator[None]:
        """Whatever is done to a table within, it is as before afterwards."""
        before = f"before_{table}"
        await self.superuser.execute(f"CREATE TEMP TABLE {before} AS TABLE {table}")
        yield
        await self.superuser.execute(
            f"DELETE FROM {table}; INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE {before}; DROP TABLE {before}"
        )


CHANGED = {
    "integer": "coalesce({0}, 0) + 1000",
    "smallint": "coalesce({0}, 0) + 1000",
    "bigint": "coalesce({0}, 0) + 1000",
    "text": "coalesce({0}, '') || 'x'",
    "boolean": "NOT {0}",
    "date": "{0} - 1",
    "timestamp with time zone": "coalesce({0} - interval '400 days', now())",
    "uuid": "coalesce(overlay({0}::text PLACING left(md5({0}::text), 8) FROM 29 FOR 8)::uuid, gen_random_uuid())",
    "bytea": "set_byte({0}, length({0}) / 2, get_byte({0}, length({0}) / 2) # 1)",
    "text[]": "{0} || ARRAY['x']",
    "integer[]": "{0}[2:] || ARRAY[77]",
    "bytea[]": "{0}[2:]",
}
"""How a value of each type is changed to another that the column takes."""
LEADS_ELSEWHERE = {"stays.status": "CASE status WHEN 'declared' THEN 'cancelled' ELSE 'declared' END"}
LEADS_ELSEWHERE["stay_versions.status"] = LEADS_ELSEWHERE["stays.status"]


async def change(superuser: asyncpg.Connection, table: str, column: str, kind: str) -> None:
    """Change one value of the first row."""
    value = LEADS_ELSEWHERE.get(f"{table}.{column}", CHANGED[kind].format(f'"{column}"'))
    done = await superuser.execute(
        f'UPDATE {table} SET "{column}" = {value} WHERE (tableoid, ctid) = '
        f"(SELECT tableoid, ctid FROM {table} ORDER BY 1, 2 LIMIT 1)"
    )
    assert done == "UPDATE 1", (table, column, done)


async def free(superuser: asyncpg.Connection, table: str) -> None:
    """Take away what would hold an honest mistake up, and no superuser: checks, uniqueness, identities."""
    for row in await superuser.fetch(
        "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype IN ('c', 'u')", table
    ):
        await superuser.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{row["conname"]}"')
    for row in await superuser.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attidentity <> ''", table
    ):
        await superuser.execute(f'ALTER TABLE {table} ALTER "{row["attname"]}" DROP IDENTITY')


async def remove(superuser: asyncpg.Connection, table: str) -> None:
    """Remove the first row."""
    await superuser.execute(
        f"DELETE FROM {table} WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM {table} ORDER BY 1, 2 LIMIT 1)"
    )


async def add(superuser: asyncpg.Connection, table: str, column: str, kind: str) -> None:
    """Add a copy of the first row under another key."""
    await superuser.execute(f"CREATE TEMP TABLE copy AS SELECT * FROM {table} ORDER BY 1 LIMIT 1")
    await superuser.execute(f'UPDATE copy SET "{column}" = {CHANGED[kind].format(column)}')
    await superuser.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE copy; DROP TABLE copy")


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> KeyStore:
    epoch = epoch_at(clock())
    return create_store(tmp_path / "keys", [OLD, epoch, next_epoch(epoch)], clock())


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


@pytest.fixture
async def register(
    intake: Intake,
    facility: Facility,
    make_facility: FacilityMaker,
    clock: Clock,
    pools: Pools,
    store: KeyStore,
    keyring: Keyring,
) -> Register:
    async def act(place: Facility, kind: ActKind, fields: dict[str, object], ref: str) -> Facility:
        [outcome] = await intake.submit([command(place, kind, fields, clock, source_ref=ref)])
        assert outcome.outcome == "accepted", outcome.refusal and outcome.refusal.violations
        return outcome.stay  # type: ignore[return-value]

    second = await make_facility("HY-KS-0002")
    first = await act(facility, ActKind.DECLARE, declaration(1), "A")
    for room in ("301", "302"):
        await act(facility, ActKind.CORRECT, {"room": room}, "A")
    await act(facility, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, "A")
    await act(second, ActKind.DECLARE, declaration(2), "B")
    await act(facility, ActKind.DECLARE, declaration(3), "C")
    await act(facility, ActKind.CANCEL, {"reason": "duplicate"}, "C")
    erased = await act(facility, ActKind.DECLARE, declaration(4), "D")
    await act(facility, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, "D")
    superuser = await pools.database.connect()
    await superuser.execute("DELETE FROM sync_queue")  # as if all were carried
    pool, now = await pools.get("asm_retention"), clock()
    await _hold(pool, keyring, facility, first.id, clock)
    jobs = RetentionJobs(pools, keyring, store)
    await jobs.erase(erased.id, now, PERIODS)  # type: ignore[arg-type]
    await jobs.end_months(now, PERIODS)
    await _seal_anew(pool, store, keyring, clock)
    await _directory(await pools.get("asm_auth"), keyring, facility, clock)
    await feeds.publish_once(await pools.get("asm_publish"), keyring, local_day(now), now)
    for _ in range(256):  # so many entries that hashes are kept for proofs
        await audit.append(superuser, audit.AuditEntry(now, "daemon", "test", "access.refuse"))
    signer = keyring.signing_key(KeyPurpose.CHECKPOINT)
    auditor = await pools.database.connect("asm_audit")
    await audit.seal_once(auditor, signer, DEPLOYMENT, now)
    kept = await auditor.fetchval("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")
    await _hold(pool, keyring, facility, first.id, clock)  # an entry that still waits for its place
    return Register(superuser, pools, keyring, audit.note_key(DEPLOYMENT, signer.public_key_bytes), kept)


async def _hold(pool: asyncpg.Pool, keyring: Keyring, facility: Facility, stay_id: object, clock: Clock) -> None:
    await retention.place_hold(
        pool,
        keyring,
        Hold(
            uuid7(), facility.id, stay_id, None, None, "15/2026/HS-PC02", "điều tra", clock(), "operator:test"  # type: ignore[arg-type]
        ),
    )  # fmt: skip


async def _seal_anew(pool: asyncpg.Pool, store: KeyStore, keyring: Keyring, clock: Clock) -> None:
    store.renew_epoch(epoch_at(clock()), clock())
    keyring.reload()
    await reencrypt_once(pool, keyring, lambda _: None, clock())


async def _directory(pool: asyncpg.Pool, keyring: Keyring, facility: Facility, clock: Clock) -> None:
    actor = Actor("operator:test", keyring)
    owner = await directory.add_principal(pool, actor, PrincipalKind.OWNER, "Chủ", "Cơ sở mẫu", clock())
    await directory.create_key(pool, actor, owner, clock())
    await directory.grant(pool, actor, owner, facility.code, clock())
    await directory.assign_sender(pool, actor, "HIS", "BV01", facility.code, clock(), certificate_sha256=bytes(32))


async def test_every_change_of_every_column_is_found_by_what_the_list_says(register: Register) -> None:
    assert await register.found_by() == NOTHING
    outcomes: dict[str, dict[str, str]] = {}
    superuser = register.superuser
    await superuser.execute("SET session_replication_role = replica")  # foreign keys hold no superuser up
    for table, columns in (await register.columns()).items():
        if table in UNFOUND:
            continue
        await free(superuser, table)
        found = outcomes[table] = {}
        for column, kind in columns.items():
            async with register.put_back(table):
                await change(superuser, table, column, kind)
                found[column] = await register.found_by()
        async with register.put_back(table):
            await remove(superuser, table)
            found[ROW_GONE] = await register.found_by()
        async with register.put_back(table):
            await add(superuser, table, *next(iter(columns.items())))
            found[ROW_ADDED] = await register.found_by()
    assert await register.found_by() == NOTHING  # all is as it was
    expected = {
        table: {column: finder for finder, names in finders.items() for column in names.split()}
        for table, finders in FOUND.items()
    }
    for name in UNFOUND:
        table, _, column = name.partition(".")
        if column:
            expected[table][column] = NOTHING
    assert outcomes == expected


DEEDS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "two departments' extracts exchanged, hashes and all": (
        ("releases",),
        """
        UPDATE releases SET body = other.body, sha256 = other.sha256 FROM releases AS other
        WHERE (releases.department, other.department) IN (('tourism', 'health'), ('health', 'tourism'))
        """,
        ALL,
    ),
    "an extract's number changed and hashed anew": (
        ("releases",),
        "UPDATE releases SET body = body || ' '::bytea, sha256 = sha256(body || ' '::bytea)",
        ALL,
    ),
    "a hold lifted by hand": (
        ("legal_holds",),
        "UPDATE legal_holds SET lifted_at = now(), lifted_by = 'operator:test', lifted_reason = 'hết thời hạn'",
        ALL,
    ),
    "a hold moved to another stay": (
        ("legal_holds",),
        "UPDATE legal_holds SET stay_id = (SELECT id FROM stays WHERE status = 'cancelled')",
        ALL,
    ),
    "a certificate called final": (("retention_epochs",), "UPDATE retention_epochs SET state = 'final'", ALL),
    "an erasure called final": (("erasures",), "UPDATE erasures SET state = 'final', final_at = erased_at", ALL),
    "a month ended that never was": (
        ("retention_epochs",),
        "INSERT INTO retention_epochs (epoch, round, state, cutoff_at, index_version, begun_at, ended_at, final_at)"
        " VALUES (202002, 1, 'final', now(), 1, now(), now(), now())",
        ALL,
    ),
    "a stay removed, and called forgotten": (
        ("stays", "forgotten_receipts"),
        """
        WITH gone AS (DELETE FROM stays WHERE status = 'cancelled' RETURNING *)
        INSERT INTO forgotten_receipts (batch_id, epoch, indexes, audit_entry_id)
        SELECT receipt_batch_id, epoch, ARRAY[receipt_index], audit_entry_id
        FROM gone CROSS JOIN (SELECT epoch, audit_entry_id FROM forgotten_receipts LIMIT 1) AS honest
        """,
        ALL,
    ),
    "an owner made an officer": (("principals",), "UPDATE principals SET kind = 'officer'", ALL),
    "a key given to another": (
        ("api_keys",),
        "UPDATE api_keys SET secret_sha256 = sha256('known to the administrator')",
        ALL,
    ),
    "a key made valid for longer": (
        ("api_keys",),
        "UPDATE api_keys SET expires_at = expires_at + interval '10 years'",
        ALL,
    ),
    "all of the audit that waits is thrown away": (("audit_pending",), "DELETE FROM audit_pending", ALL),
    "the audit cut short, with its checkpoints": (
        ("audit_log", "audit_checkpoints"),
        "DELETE FROM audit_log WHERE position >= 100; DELETE FROM audit_checkpoints",
        AUDIT,
    ),
}
"""Deed → (tables, statements, what finds it): those that take more than a column."""


async def test_what_is_done_with_more_thought_is_found_as_well(register: Register) -> None:
    outcomes = {}
    await register.superuser.execute("SET session_replication_role = replica")
    for table in sorted({table for tables, _, _ in DEEDS.values() for table in tables}):
        await free(register.superuser, table)
    for deed, (tables, statements, _) in DEEDS.items():
        async with AsyncExitStack() as stack:
            for table in tables:
                await stack.enter_async_context(register.put_back(table))
            await register.superuser.execute(statements)
            outcomes[deed] = await register.found_by()
    assert outcomes == {deed: found_by for deed, (_, _, found_by) in DEEDS.items()}


async def test_a_removal_is_found_though_a_forged_audit_entry_calls_it_forgotten(register: Register) -> None:
    [gone] = await register.superuser.fetch(
        "DELETE FROM stays WHERE status = 'cancelled' RETURNING receipt_batch_id, receipt_index, id"
    )
    versions = await register.superuser.fetch(
        "DELETE FROM stay_versions WHERE stay_id = $1 RETURNING receipt_batch_id, receipt_index", gone["id"]
    )
    await register.superuser.execute("DELETE FROM source_refs WHERE stay_id = $1", gone["id"])
    honest = await register.superuser.fetchval(
        "SELECT body FROM audit_log WHERE position(convert_to('erasure.erase', 'UTF8') IN body) > 0"
    )
    forged = audit.AuditEntry(datetime.now(UTC), "operator", "operator:test", "erasure.hasten", f"stay/{gone['id']}")
    rows = [
        Forgotten(row["receipt_batch_id"], epoch_of(gone["id"]), [row["receipt_index"]], forged.id)
        for row in (gone, *versions)
    ]
    for row in rows:
        await register.superuser.execute("INSERT INTO forgotten_receipts VALUES ($1, $2, $3, $4)", *row)
    told = {**orjson.loads(honest)["details"], "forgotten_root": forgotten_root(rows)}  # but the tag takes our key
    await audit.append(register.superuser, replace(forged, details=told))
    found = await verify_stays(
        await register.pools.get("asm_retention"),
        await register.pools.get("asm_audit"),
        register.keyring,
        [],
        sample=None,
    )
    assert ("forgotten_not_signed", f"audit/{forged.id}") in found.faults
    assert sum(kind == "record_missing" for kind, _ in found.faults) == len(rows)


REPORTED: dict[str, tuple[str, str, str]] = {
    "a hold lifted": (
        "legal_holds",
        "UPDATE legal_holds SET lifted_at = now(), lifted_by = 'operator:test', lifted_reason = 'hết thời hạn'",
        "hold.place",
    ),
    "an owner made an officer": ("principals", "UPDATE principals SET kind = 'officer'", "principal.add"),
    "a key given to another": (
        "api_keys", "UPDATE api_keys SET secret_sha256 = sha256('known to the administrator')", "key.create"
    ),
    "a grant widened": ("grants", "UPDATE grants SET scopes = '{declare}'", "grant.give"),
    "a certificate called final": ("retention_epochs", "UPDATE retention_epochs SET state = 'final'", "retention.end"),
    "a facility made one of another kind": ("facilities", "UPDATE facilities SET kind = 'guesthouse'", "facility.add"),
    "an extract exchanged": (
        "releases", "UPDATE releases SET body = body || ' '::bytea, sha256 = sha256(body || ' '::bytea)",
        "extract.publish",
    ),
}  # fmt: skip
"""Deed → (table, statement, the entry that told of the row as it was); each done with an entry that reports it."""


@pytest.mark.parametrize("deed", REPORTED)
async def test_a_row_that_somebody_changed_and_reported_as_changed_is_found_for_he_has_no_key_of_ours(
    register: Register, deed: str
) -> None:
    table, statement, action = REPORTED[deed]
    superuser = register.superuser
    await superuser.execute("SET session_replication_role = replica")
    await superuser.execute(statement)
    honest = await superuser.fetchval(
        "SELECT body FROM audit_log WHERE position(convert_to($1, 'UTF8') IN body) > 0 ORDER BY position LIMIT 1",
        f'"{action}"',
    )
    entry = orjson.loads(honest)
    # Word for word as ours, its tag too, but for what was changed; the best that can be done without a key.
    details = entry["details"] | {
        "kind": "officer", "secret_sha256": sha256(b"known to the administrator").hexdigest(), "scopes": ["declare"]
    }  # fmt: skip
    forged = audit.AuditEntry(
        datetime.now(UTC), entry["actor_kind"], entry["actor"], action, entry["object"], entry["organisation"],
        details=details,
    )  # fmt: skip
    await audit.append(superuser, forged)
    assert await register.found_by() == ALL, table
    logins = [await register.pools.get(login) for login in ("asm_retention", "asm_audit", "asm_feeds", "asm_auth")]
    _, faults = await verify_told(*logins, keyring=register.keyring)
    assert ("not_vouched", f"audit/{forged.id}") in faults
    assert "told_otherwise" in {kind for kind, _ in faults}


async def test_a_key_that_somebody_put_into_the_database_is_no_fault_any_more_once_it_is_revoked(
    register: Register,
) -> None:
    """As whoever finds it would do at once; and nothing is left that nobody could put right."""
    pool, actor, now = await register.pools.get("asm_auth"), Actor("operator:test", register.keyring), datetime.now(UTC)
    await register.superuser.execute(
        "INSERT INTO api_keys (id, principal_id, secret_sha256, expires_at, created_at)"
        " SELECT 'planted', id, sha256('x'), now() + interval '1 day', now() FROM principals LIMIT 1"
    )
    assert await register.found_by() == ALL
    assert await directory.revoke_key(pool, actor, "planted", now)
    assert await register.found_by() == NOTHING
    await register.superuser.execute("UPDATE api_keys SET revoked_at = NULL WHERE id = 'planted'")
    assert await register.found_by() == ALL


async def test_every_table_is_attacked_or_listed_with_a_reason(register: Register) -> None:
    tables = set(await register.columns())
    assert tables == set(FOUND) | {name for name in UNFOUND if "." not in name}
