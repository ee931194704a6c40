"""What somebody with every right in the database, and no key, can do to sealed stays, and where it is seen."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from asm_daemon import audit
from asm_daemon.crypto import Keyring, Tampered, UnknownEpoch, epoch_at, next_epoch
from asm_daemon.intake import Intake
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.ledger import EMPTY_ROOT
from asm_daemon.model import Facility
from asm_daemon.sealing import open_contents, seal_contents
from asm_daemon.stay_proofs import as_signed, read_proofs, verify_stays
from asm_daemon.store import stays as stays_store
from schemas.act import ActKind
from tests.stack import Clock, FacilityMaker, Pools, command, declaration


@dataclass
class Register:
    """Three stays of one facility, the first corrected twice, the last checked out and in again; one elsewhere."""

    superuser: asyncpg.Connection
    corrected: UUID
    other: UUID
    elsewhere: UUID
    left: UUID

    async def blob(self, table: str, stay_id: UUID, version: int | None = None) -> bytes:
        """A blob as it lies there."""
        key = "id" if table == "stays" else "stay_id"
        found: bytes = await self.superuser.fetchval(
            f"SELECT sealed FROM {table} WHERE {key} = $1 AND ($2::int IS NULL OR version = $2)", stay_id, version
        )
        return found

    async def put(self, stay_id: UUID, blob: bytes) -> None:
        """Put a blob into a stay's current version."""
        await self.superuser.execute("UPDATE stays SET sealed = $2 WHERE id = $1", stay_id, blob)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> KeyStore:
    epoch = epoch_at(clock())
    return create_store(tmp_path / "keys", [epoch, next_epoch(epoch)], clock())


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


@pytest.fixture
async def register(
    intake: Intake, facility: Facility, make_facility: FacilityMaker, clock: Clock, pools: Pools
) -> Register:
    async def act(place: Facility, kind: ActKind, fields: dict[str, object], ref: str) -> UUID:
        [outcome] = await intake.submit([command(place, kind, fields, clock, source_ref=ref)])
        assert outcome.stay, outcome
        return outcome.stay.id

    second = await make_facility("HY-KS-0002")
    corrected = await act(facility, ActKind.DECLARE, declaration(1), "A")
    for room in ("301", "302"):
        await act(facility, ActKind.CORRECT, {"room": room}, "A")
    other = await act(facility, ActKind.DECLARE, declaration(2), "B")
    elsewhere = await act(second, ActKind.DECLARE, declaration(3), "C")
    left = await act(facility, ActKind.DECLARE, declaration(4), "D")
    await act(facility, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, "D")
    await act(facility, ActKind.UNDO_CHECK_OUT, {}, "D")
    return Register(await pools.database.connect(), corrected, other, elsewhere, left)


Attack = Callable[[Register], Awaitable[None]]


async def swap_rows(register: Register) -> None:
    one, two = await register.blob("stays", register.corrected), await register.blob("stays", register.other)
    await register.put(register.corrected, two)
    await register.put(register.other, one)


async def swap_facilities(register: Register) -> None:
    one, two = await register.blob("stays", register.other), await register.blob("stays", register.elsewhere)
    await register.put(register.other, two)
    await register.put(register.elsewhere, one)


async def move_to_another_facility(register: Register) -> None:
    await register.superuser.execute(
        "UPDATE stays SET facility_id = (SELECT facility_id FROM stays WHERE id = $2) WHERE id = $1",
        register.other,
        register.elsewhere,
    )


async def roll_back_the_blob(register: Register) -> None:
    await register.put(register.corrected, await register.blob("stay_versions", register.corrected, 2))


async def claim_another_version(register: Register) -> None:
    await register.superuser.execute("UPDATE stays SET version = version + 1 WHERE id = $1", register.corrected)


async def claim_another_month(register: Register) -> None:
    blob = await register.blob("stays", register.other)
    epoch = next_epoch(int.from_bytes(blob[1:5], "big"))
    await register.put(register.other, blob[:1] + epoch.to_bytes(4, "big") + blob[5:])


async def claim_another_key_version(register: Register) -> None:
    blob = await register.blob("stays", register.other)
    await register.put(register.other, blob[:5] + b"\x02" + blob[6:])


async def claim_another_format(register: Register) -> None:
    await register.put(register.other, b"\x02" + (await register.blob("stays", register.other))[1:])


async def cut_short(register: Register) -> None:
    await register.put(register.other, (await register.blob("stays", register.other))[:-64])


async def leave_hardly_anything(register: Register) -> None:
    await register.put(register.other, b"\x01")


async def flip_a_bit(register: Register) -> None:
    blob = await register.blob("stays", register.other)
    await register.put(register.other, blob[:40] + bytes([blob[40] ^ 1]) + blob[41:])


async def take_the_nonce_of_another(register: Register) -> None:
    one, two = await register.blob("stays", register.other), await register.blob("stays", register.corrected)
    await register.put(register.other, one[:6] + two[6:18] + one[18:])


SEEN_AT_ONCE: dict[str, Attack] = {
    "a blob of another stay": swap_rows,
    "a blob of another facility": swap_facilities,
    "a row moved to another facility": move_to_another_facility,
    "an older blob in a newer version": roll_back_the_blob,
    "another version number": claim_another_version,
    "another month in the header": claim_another_month,
    "another key version in the header": claim_another_key_version,
    "another format in the header": claim_another_format,
    "a blob cut short": cut_short,
    "a blob of a single byte": leave_hardly_anything,
    "a flipped bit": flip_a_bit,
    "the nonce of another blob": take_the_nonce_of_another,
}


async def roll_back_everything(register: Register) -> None:
    """The whole stay as it was at version 1: row, tags and all later versions gone. Every blob opens."""
    await register.superuser.execute(
        """
        UPDATE stays SET version = old.version, status = old.status, event = old.event, received_at = old.received_at,
            receipt_batch_id = old.receipt_batch_id, receipt_index = old.receipt_index, sealed = old.sealed,
            content_tag = old.content_tag
        FROM stay_versions AS old WHERE stays.id = $1 AND old.stay_id = $1 AND old.version = 1
        """,
        register.corrected,
    )
    await register.superuser.execute("DELETE FROM stay_versions WHERE stay_id = $1", register.corrected)


async def delete_a_stay(register: Register) -> None:
    await register.superuser.execute("DELETE FROM stays WHERE id = $1", register.other)


async def delete_a_version(register: Register) -> None:
    await register.superuser.execute("DELETE FROM stay_versions WHERE stay_id = $1 AND version = 2", register.corrected)


async def make_it_on_time(register: Register) -> None:
    await register.superuser.execute(
        "UPDATE stays SET received_at = received_at - interval '1 hour' WHERE id = $1", register.other
    )


async def move_the_arrival(register: Register) -> None:
    await register.superuser.execute(
        "UPDATE stays SET arrived_at = arrived_at - interval '1 day' WHERE id = $1", register.other
    )


async def hide_from_searches(register: Register) -> None:
    await register.superuser.execute("UPDATE stays SET document_index = 1 WHERE id = $1", register.other)


async def delete_the_stay_and_its_receipts(register: Register) -> None:
    batch = await register.superuser.fetchval(
        "DELETE FROM stays WHERE id = $1 RETURNING receipt_batch_id", register.other
    )
    await register.superuser.execute("DELETE FROM receipt_batches WHERE id = $1", batch)


async def shorten_the_signed_batch(register: Register) -> None:
    await delete_a_stay(register)
    await register.superuser.execute(
        """
        UPDATE receipt_batches SET leaves = '' WHERE id NOT IN (
            SELECT receipt_batch_id FROM stays UNION SELECT receipt_batch_id FROM stay_versions
        )
        """
    )


async def cut_out_with_a_note_and_an_audit_entry(register: Register) -> None:
    """As above, but thought through: the note names the new tree, and the daemon itself seals an entry that agrees."""
    await shorten_the_signed_batch(register)
    for batch in await register.superuser.fetch("SELECT id, checkpoint FROM receipt_batches WHERE leaves = ''"):
        origin, _, _, *rest = batch["checkpoint"].split("\n")
        empty = base64.b64encode(EMPTY_ROOT).decode()
        note = "\n".join([origin, "0", empty, *rest])
        await register.superuser.execute("UPDATE receipt_batches SET checkpoint = $2 WHERE id = $1", batch["id"], note)
        await audit.append(
            register.superuser,
            audit.AuditEntry(
                at=datetime.now(UTC),
                actor_kind="daemon",
                actor="intake",
                action="stays.commit",
                object=str(batch["id"]),
                details={"rows": 0, "checkpoint": empty},
            ),
        )


async def take_its_own_earlier_state(register: Register) -> None:
    """Corrected stay: the departure that an undone check-out had, with the tag that was right then."""
    await register.superuser.execute(
        """
        UPDATE stays SET status = old.status, departed_at = old.departed_at, content_tag = old.content_tag
        FROM stay_versions AS old WHERE stays.id = $1 AND old.stay_id = $1 AND old.event = 'check_out'
        """,
        register.left,
    )


async def leave_earlier(register: Register) -> None:
    await register.superuser.execute(
        "UPDATE stays SET status = 'departed', departed_at = arrived_at WHERE id = $1", register.other
    )


async def cancel_by_hand(register: Register) -> None:
    await register.superuser.execute("UPDATE stays SET status = 'cancelled' WHERE id = $1", register.other)


async def declare_earlier(register: Register) -> None:
    await register.superuser.execute(
        "UPDATE stays SET declared_at = declared_at - interval '1 hour' WHERE id = $1", register.corrected
    )


async def name_another_stay(register: Register) -> None:
    await register.superuser.execute(
        "UPDATE source_refs SET stay_id = $1 WHERE stay_id = $2", register.corrected, register.other
    )


async def spoil_a_signature(register: Register) -> None:
    await register.superuser.execute("UPDATE receipt_batches SET checkpoint = overlay(checkpoint PLACING 'A' FROM 150)")


async def call_it_forgotten(register: Register) -> None:
    await register.superuser.execute(
        """
        WITH gone AS (DELETE FROM stays WHERE id = $1 RETURNING receipt_batch_id, receipt_index)
        INSERT INTO forgotten_receipts (batch_id, epoch, indexes) SELECT receipt_batch_id, 0, ARRAY[receipt_index]
        FROM gone
        """,
        register.other,
    )


SEEN_BY_VERIFICATION: dict[str, tuple[Attack, set[str]]] = {
    "a whole stay rolled back": (roll_back_everything, {"record_missing"}),
    "a stay deleted": (delete_a_stay, {"record_missing"}),
    "an old version deleted": (delete_a_version, {"record_missing"}),
    "a time changed beside the blob": (make_it_on_time, {"not_what_was_signed"}),
    "an arrival changed beside the blob": (move_the_arrival, {"times_changed"}),
    "a departure that an undone check-out had": (take_its_own_earlier_state, {"state_changed"}),
    "a departure by hand": (leave_earlier, {"state_changed"}),
    "a cancellation by hand": (cancel_by_hand, {"state_changed"}),
    "the time of the first declaration changed": (declare_earlier, {"state_changed"}),
    "a reference that leads to another stay": (name_another_stay, {"reference_changed"}),
    "a signature spoilt": (spoil_a_signature, {"receipts_changed", "not_what_was_signed"}),
    "a stay deleted and called forgotten": (call_it_forgotten, {"forgotten_not_signed", "record_missing"}),
    "a search tag changed": (hide_from_searches, {"tags_changed"}),
    "a stay deleted with its receipts": (delete_the_stay_and_its_receipts, {"receipts_missing"}),
    "a stay cut out of its signed batch": (shorten_the_signed_batch, {"receipts_changed", "receipts_not_audited"}),
    "a stay cut out with note and audit entry": (
        cut_out_with_a_note_and_an_audit_entry,
        {"receipts_changed", "receipts_not_audited"},
    ),
}


async def unreadable(register: Register, keyring: Keyring) -> int:
    """How many current versions do not open."""
    places = [tuple(row) for row in await register.superuser.fetch("SELECT facility_id, id FROM stays")]
    columns = [list(column) for column in zip(*places, strict=True)]
    count = 0
    for row in await stays_store.read_stays(register.superuser, *columns):
        try:
            open_contents(keyring, row)
        except (Tampered, UnknownEpoch):
            count += 1
    return count


async def faults(pools: Pools, keyring: Keyring) -> set[str]:
    found = await verify_stays(await pools.get("asm_retention"), await pools.get("asm_audit"), keyring, [], sample=None)
    return {kind for kind, _ in found.faults}


async def test_a_register_that_nobody_touched_is_whole(
    register: Register, keyring: Keyring, pools: Pools, intake: Intake, facility: Facility, clock: Clock
) -> None:
    leaves = {"departed_at": clock().isoformat()}
    for ref, kind, fields in (
        ("A", ActKind.EXTEND, {"planned_departure_at": (clock() + timedelta(days=9)).isoformat()}),
        ("A", ActKind.CHECK_OUT, leaves),
        ("A", ActKind.UNDO_CHECK_OUT, {}),
        ("A", ActKind.CORRECT, {"arrived_at": (clock() - timedelta(hours=2)).isoformat()}),
        ("A", ActKind.CHECK_OUT, leaves),
        ("B", ActKind.CANCEL, {"reason": "duplicate"}),
    ):
        [outcome] = await intake.submit([command(facility, kind, fields, clock, source_ref=ref)])
        assert outcome.outcome == "accepted", (kind, outcome.refusal and outcome.refusal.violations)
    assert await unreadable(register, keyring) == 0
    assert await faults(pools, keyring) == set()


@pytest.mark.parametrize("attack", list(SEEN_AT_ONCE))
async def test_what_was_exchanged_or_changed_opens_nowhere(
    register: Register, keyring: Keyring, pools: Pools, attack: str
) -> None:
    await SEEN_AT_ONCE[attack](register)
    assert await unreadable(register, keyring) >= 1
    assert "not_what_was_signed" in await faults(pools, keyring)


@pytest.mark.parametrize("attack", list(SEEN_BY_VERIFICATION))
async def test_what_opens_all_the_same_is_found_by_its_receipts(
    register: Register, keyring: Keyring, pools: Pools, attack: str
) -> None:
    work, expected = SEEN_BY_VERIFICATION[attack]
    await work(register)
    assert await unreadable(register, keyring) == 0
    assert await faults(pools, keyring) == expected


async def test_a_blob_from_before_states_were_sealed_opens_and_its_state_is_held_against_tag_and_event(
    register: Register, keyring: Keyring
) -> None:
    place = await register.superuser.fetchval("SELECT facility_id FROM stays WHERE id = $1", register.left)
    versions = await stays_store.read_versions(register.superuser, [place], [register.left])
    [row] = [row for row in versions if row.event == "check_out"]
    proofs = await read_proofs(register.superuser, keyring, [row])
    contents = replace(open_contents(keyring, row), beside=None, signed_sha256=sha256(row.sealed).digest())
    old = replace(row, sealed=seal_contents(keyring, row.facility_id, row.id, row.version, contents))
    opened = as_signed(keyring, old, proofs)
    assert opened is not None
    assert opened.beside is None
    assert as_signed(keyring, replace(old, departed_at=old.arrived_at), proofs) is None
    declared = next(each for each in versions if each.event == "declare")
    undone = replace(old, status="declared", departed_at=None, content_tag=declared.content_tag)
    assert as_signed(keyring, undone, proofs) is None
