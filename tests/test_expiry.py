"""What the daemon keeps ends by a rule, or is kept for good for a reason; what goes with age alone goes when told."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from asm_daemon import daemon
from asm_daemon.expiry import expire_once
from asm_daemon.settings import Settings
from asm_daemon.store import alerts
from asm_daemon.store.alerts import AlertKind
from tests.conftest import Database
from tests.stack import Clock, Pools

OPERATIONS = Path(__file__).resolve().parents[1] / "docs" / "operations.md"


@dataclass(frozen=True)
class Month:
    """Ended with its month, or with its stay, by the function end_stay_month."""


@dataclass(frozen=True)
class By:
    """Ended by a job, after the time that a setting says; None: by what the row itself says."""

    job: str
    setting: str | None = None


@dataclass(frozen=True)
class Bounded:
    """Does not grow with what happens, or ends with what made it."""

    why: str


@dataclass(frozen=True)
class Kept:
    """Kept for good."""

    why: str


DIRECTORY = Kept("who may do what, and whom the ids in the audit mean; nothing about guests")
PROOF = Kept(
    "hashes and signatures: with it receipts are verified, and what was forgotten is told from what was removed"
)
AUDIT = Kept("the record itself: ids, codes, and terms sealed to the auditor")

RULES: dict[str, Month | By | Bounded | Kept] = {
    "api_keys": DIRECTORY,
    "audit_checkpoints": AUDIT,
    "audit_cosignatures": Bounded("one row for each witness"),
    "audit_head": Bounded("one row"),
    "audit_log": AUDIT,
    "audit_nodes": AUDIT,
    "audit_pending": By("seal-audit"),
    "comparisons": By("expire", "operator_record_days"),
    "erasures": Kept("the comparison with the population database knows by it what was erased here; ids only"),
    "expected_stays": By("erase-expected", "expected_kept_days"),
    "facilities": DIRECTORY,
    "facility_turns": Bounded("one row for each facility"),
    "forgotten_receipts": PROOF,
    "grants": DIRECTORY,
    "held_stay_versions": Month(),
    "held_stays": Month(),
    "hl7_messages": By("erase-hl7-messages", "hl7_message_days"),
    "hotel_pulls": By("pull-hotels"),
    "hotel_systems": Bounded("one row for each system of a facility, until the operator removes it"),
    "import_files": By("erase-imports", "import_file_hours"),
    "import_jobs": By("erase-imports", "import_report_days"),
    "import_results": By("erase-imports", "import_report_days"),
    "in_house": Month(),
    "leases": Bounded("one row for each lane"),
    "legal_holds": Kept("why something was kept for longer: warrant and place, nothing about the guest"),
    "mllp_senders": DIRECTORY,
    "operator_alerts": By("expire", "operator_record_days"),
    "owner_event_head": Bounded("one row"),
    "owner_events": By("erase-events", "events_kept_days"),
    "owner_events_pending": By("number-events"),
    "party_heads": Month(),
    "police_alerts": Month(),
    "police_purposes": Kept("rules, changed by migration: the audit names them"),
    "portal_sessions": Bounded("those that ended go whenever one is opened; of each key a few are kept"),
    "principals": DIRECTORY,
    "receipt_batches": PROOF,
    "reencryptions": Bounded("one row for each month that is being sealed anew"),
    "releases": Kept("what was published: numbers about groups. What it withheld is emptied: see below"),
    "reseals": PROOF,
    "retention_epochs": Kept("which months were ended, and when no copy can exist; counts"),
    "roster_plan_parts": By("erase-roster-plans", "roster_plan_hours"),
    "roster_plans": By("erase-roster-plans", "roster_plan_hours"),
    "roster_seen": By("erase-roster-plans"),
    "schema_migrations": Bounded("one row for each migration"),
    "source_refs": Month(),
    "stay_versions": Month(),
    "stays": Month(),
    "sync_log": Month(),
    "sync_queue": Month(),
    "sync_refused": Month(),
    "sync_wait": Month(),
    "sync_workers": Bounded("the silent ones go whenever another gives a sign of life"),
    "temporary_residence": Month(),
    "verification_answers": Bounded("one row for each facility"),
    "webhook_deliveries": Bounded("until delivered, or until their endpoint is disabled or removed"),
    "webhook_endpoints": Bounded("a few for each principal, until removed"),
    "webhook_failures": By("tend-webhooks", "events_kept_days"),
}  # fmt: skip


# -- every table has a rule --------------------------------------------------------------------------------------------


async def test_every_table_is_ended_by_something_or_kept_for_a_reason(database: Database) -> None:
    connection = await database.connect()
    rows = await connection.fetch(
        """
        SELECT relname FROM pg_class
        WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace
        """
    )
    assert {row["relname"] for row in rows} == set(RULES), "say in RULES and docs/operations.md how the table ends"


async def test_what_ends_with_a_month_is_named_where_months_end(database: Database) -> None:
    [function] = await (await database.connect()).fetch("SELECT prosrc FROM pg_proc WHERE proname = 'end_stay_month'")
    named = set(re.findall(r"[a-z_]+", function["prosrc"]))
    assert {table for table, rule in RULES.items() if isinstance(rule, Month)} - named == set()


def test_what_a_job_ends_has_that_job_and_a_setting_that_the_manual_names() -> None:
    jobs = set(re.findall(r'Job\("([a-z0-9-]+)"', inspect.getsource(daemon.job_table)))
    [section] = re.findall(r"^## Retention\n(.*?)^## ", OPERATIONS.read_text(), re.DOTALL | re.MULTILINE)
    for rule in [*RULES.values(), By("expire", "withheld_days"), By("end-months", "stay_retention_days_by_kind")]:
        if isinstance(rule, By):
            assert rule.job in jobs
            if rule.setting is not None:
                assert rule.setting in Settings.model_fields
                assert f"`ASM_{rule.setting.upper()}`" in section


# -- what goes with age alone ------------------------------------------------------------------------------------------


async def expire(pools: Pools, now: datetime) -> dict[str, int]:
    return await expire_once(await pools.get("asm_retention"), now, withheld_days=92, operator_record_days=366)


@pytest.fixture
async def whole(database: Database) -> asyncpg.Connection:
    """A connection that may do everything."""
    return await database.connect()


async def test_an_alert_that_is_open_or_was_found_again_and_the_newest_comparison_stay_however_old(
    pools: Pools, clock: Clock, whole: asyncpg.Connection
) -> None:
    sync = await pools.database.connect("asm_sync")
    kind = AlertKind.EXTRA_STAY
    for subject in ("open", "found again"):
        await alerts.raise_alert(sync, kind, subject, {}, clock())
    await alerts.close_alert(sync, kind, "found again", "operator:test", clock())
    await alerts.raise_alert(sync, kind, "found again", {}, clock() + timedelta(days=300))
    await whole.execute(
        "INSERT INTO comparisons (started_at, next_id, finished_at) VALUES ($1, $2, $1)", clock(), UUID(int=0)
    )
    assert await expire(pools, clock() + timedelta(days=367)) == {"withheld": 0, "alerts": 0, "comparisons": 0}


async def test_alerts_that_were_closed_and_comparisons_that_are_over_go_after_their_time(
    pools: Pools, clock: Clock, whole: asyncpg.Connection
) -> None:
    sync = await pools.database.connect("asm_sync")
    await alerts.raise_alert(sync, AlertKind.EXTRA_STAY, "dealt with", {}, clock())
    await alerts.close_alert(sync, AlertKind.EXTRA_STAY, "dealt with", "operator:test", clock())
    for finished_at in (clock(), None):
        await whole.execute(
            "INSERT INTO comparisons (started_at, next_id, finished_at) VALUES ($1, $2, $3)",
            clock(),
            UUID(int=0),
            finished_at,
        )
    assert await expire(pools, clock() + timedelta(days=366)) == {"withheld": 0, "alerts": 0, "comparisons": 0}
    assert await expire(pools, clock() + timedelta(days=367)) == {"withheld": 0, "alerts": 1, "comparisons": 1}
    assert await whole.fetchval("SELECT count(*) FROM comparisons WHERE finished_at IS NULL") == 1


async def test_what_extracts_withheld_is_emptied_and_what_was_published_stays(
    pools: Pools, clock: Clock, whole: asyncpg.Connection
) -> None:
    for days in (93, 1):
        await whole.execute(
            """
            INSERT INTO releases VALUES ($1, 'health', 'daily', $2, 1, $3, '{}', sha256('{}'), ARRAY['\\x00'::bytea])
            """,
            UUID(int=int((clock() - timedelta(days=days)).timestamp() * 1000) << 80),
            (clock() - timedelta(days=days)).date(),
            clock() - timedelta(days=days),
        )
    assert (await expire(pools, clock()))["withheld"] == 1
    assert (await expire(pools, clock()))["withheld"] == 0
    rows = await whole.fetch("SELECT body, withheld_sealed FROM releases ORDER BY id")
    assert [(row["body"], row["withheld_sealed"]) for row in rows] == [(b"{}", []), (b"{}", [b"\x00"])]
    assert [body["action"] for body in await told(whole)] == ["extract.forget_withheld"]


async def told(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    return [orjson.loads(row["body"]) for row in await connection.fetch("SELECT body FROM audit_pending")]
