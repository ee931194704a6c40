"""Re-encryption (niêm phong lại): when the keys of a month were replaced, what the old data key sealed is sealed anew,
and the search tags beside it are made anew under the new index key, in the same statement.

There is no list of work: what is to be done is what is still under an older key, which every blob says in its header,
for its tags too. So a run that broke off has lost nothing, and running it twice changes nothing. The old keys are
retired when a whole pass, begun long enough after the last find, has found nothing: then no process can still write
with them. Until then readers ask by both.

Receipts stay what they are: a stay's new blob carries the hash of the one its receipt was signed over. The old key may
be in the wrong hands, so a stay is sealed anew only if it is what its receipt says; otherwise a forgery would pass into
the new key. What became of each blob is kept, and signed by the audit, as is whose tags had not been its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from asm_daemon import audit
from asm_daemon.crypto import KeyName, KeyPurpose, Keyring, RecordName, Tampered, epoch_bounds
from asm_daemon.decisions import tags_of
from asm_daemon.keystores import MESSAGE_LIMIT, KeyFacts
from asm_daemon.model import Tags
from asm_daemon.sealing import reseal_contents
from asm_daemon.stay_proofs import STAY_TABLES, as_signed, pairs_root, read_proofs, rows_at
from asm_daemon.store import Connection
from asm_daemon.store import retention as retention_store
from asm_daemon.store import sealed as store
from asm_daemon.store.alerts import AlertKind, raise_alert

ROWS_PER_PAGE = 200
"""Records that one transaction visits: what it computes holds requests up meanwhile, some 20 ms."""
PAGES_PER_RUN = 50
SETTLE = timedelta(minutes=10)
"""How long after the last find a pass has to begin to count: longer than a process takes to notice a new key and to
commit what it had begun."""
_SCHEMA_VERSION = 1
_TABLE_NAMES = tuple(store.TABLES)


async def reencrypt_once(
    pool: asyncpg.Pool,
    keyring: Keyring,
    retire: Callable[[KeyName], object],
    now: datetime,
    *,
    pages: int = PAGES_PER_RUN,
    rows: int = ROWS_PER_PAGE,
    settle: timedelta = SETTLE,
) -> dict[str, int]:
    """Go on re-encrypting every month that has replaced keys, by at most `pages` transactions of `rows` records.

    `pool` connects as asm_retention; `retire` destroys a key that nothing is under any more. Returns counts.
    """
    counts = {"resealed": 0, "refused": 0, "retired": 0}
    months: dict[int, list[KeyName]] = {}
    for old in keyring.superseded():
        months.setdefault(old.epoch or 0, []).append(old)
    for epoch, replaced in months.items():
        while pages > 0:
            pages -= 1
            async with pool.acquire() as connection, connection.transaction():
                step = await _step(connection, keyring, epoch, rows, settle, now)
            counts["resealed"] += step.resealed
            counts["refused"] += step.refused
            if step.clean:
                await _retire(pool, epoch, replaced, retire, now)
                counts["retired"] += len(replaced)
            if step.clean or step.waits:
                break
            await asyncio.sleep(0)
    return counts


@dataclass(frozen=True, slots=True)
class _Step:
    """What one transaction did. `clean`: nothing is left under an older key; `waits`: nothing more can be done now."""

    resealed: int = 0
    refused: int = 0
    clean: bool = False
    waits: bool = False


async def _step(
    connection: Connection, keyring: Keyring, epoch: int, rows: int, settle: timedelta, now: datetime
) -> _Step:
    if await retention_store.is_ending(connection, epoch):
        return _Step(waits=True)  # what is to be forgotten must not pass into the key of what is kept
    version = keyring.sealing_version(epoch)
    progress = await store.take_progress(connection, epoch, version, _TABLE_NAMES[0], now)
    table = progress.sealed_table
    if table is None:
        return await _next_pass(connection, progress, settle, now)
    found = await store.page(connection, table, epoch_bounds(epoch), progress.after, rows, version)
    old = [record for record in found if record.sealed is not None]
    done = _Resealed([])
    if old:
        done = await _reseal(connection, keyring, table, epoch, old, now)
        await store.replace(connection, table, done.records)
        await _record(connection, keyring, epoch, version, table, done, now)
        progress = progress._replace(
            last_found_at=now,
            found=progress.found + len(done.records),
            refused=progress.refused + done.refused,
            resealed=progress.resealed + len(done.records),
        )
    if len(found) < rows:
        progress = progress._replace(sealed_table=_after(table), after=store.BEGINNING)
    else:
        progress = progress._replace(after=found[-1].place)
    await store.keep_progress(connection, progress)
    return _Step(resealed=len(done.records), refused=done.refused)


def _after(table: str) -> str | None:
    """The table that comes after this one; None after the last."""
    rest = _TABLE_NAMES[_TABLE_NAMES.index(table) + 1 :]
    return rest[0] if rest else None


async def _next_pass(connection: Connection, progress: store.Progress, settle: timedelta, now: datetime) -> _Step:
    """At the end of a pass: done, or once more from the beginning, now or when what was under way has settled."""
    settled_at = progress.last_found_at + settle
    if not progress.found and not progress.refused and progress.pass_started_at >= settled_at:
        return _Step(clean=True)
    if now < settled_at:
        return _Step(waits=True)
    again = progress._replace(
        pass_started_at=now, sealed_table=_TABLE_NAMES[0], after=store.BEGINNING, found=0, refused=0
    )
    await store.keep_progress(connection, again)
    return _Step()


async def _retire(
    pool: asyncpg.Pool, epoch: int, replaced: Sequence[KeyName], retire: Callable[[KeyName], object], now: datetime
) -> None:
    """Say that the keys go, and then let them go: after a crash between the two it is said and done again."""
    details = {"epoch": epoch, "keys": [str(name) for name in replaced]}
    async with pool.acquire() as connection, connection.transaction():
        await audit.append(connection, _entry("keys.retire", f"epoch/{epoch}", details, now))
        await store.end_progress(connection, epoch)
    for name in replaced:
        if name.purpose is KeyPurpose.DATA:  # the index key goes with it
            await asyncio.to_thread(retire, name)


async def watch_once(pool: asyncpg.Pool, inventory: Iterable[KeyFacts], now: datetime) -> dict[str, int]:
    """Alert the operator to every data key that has sealed half of what it may. `pool` connects as asm_retention."""
    spent = [facts for facts in inventory if facts.state == "active" and (facts.messages or 0) >= MESSAGE_LIMIT // 2]
    for facts in spent:
        details = {"messages": facts.messages or 0, "limit": MESSAGE_LIMIT}
        async with pool.acquire() as connection:
            await raise_alert(connection, AlertKind.KEY_NEARLY_SPENT, str(facts.name), details, now)
    return {"alerts": len(spent)}


# -- sealing anew ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Resealed:
    """What was sealed anew, how many records were refused, and the stays whose tags had not been their own."""

    records: list[store.Replacement]
    refused: int = 0
    tags_changed: tuple[str, ...] = ()


async def _reseal(
    connection: Connection,
    keyring: Keyring,
    table: str,
    epoch: int,
    records: Sequence[store.SealedRecord],
    now: datetime,
) -> _Resealed:
    """Seal records anew. The operator is alerted to those that are refused."""
    sealed: dict[store.Place, store.Replacement | None]
    tags_changed: tuple[str, ...] = ()
    if table in STAY_TABLES:
        sealed, tags_changed = await _reseal_stays(connection, keyring, table, records)
    else:
        sealed = {record.place: _reseal_other(keyring, epoch, record) for record in records}
    refused = [place for place, record in sealed.items() if record is None]
    for place in refused:
        subject = f"{table}/{place.id}/{place.part}"
        await raise_alert(connection, AlertKind.NOT_REENCRYPTED, subject, {"epoch": epoch}, now)
    return _Resealed([record for record in sealed.values() if record is not None], len(refused), tags_changed)


def _reseal_other(keyring: Keyring, epoch: int, record: store.SealedRecord) -> store.Replacement | None:
    before, name = record.sealed or b"", _name_of(epoch, record)
    try:
        return store.Replacement(record.place, before, keyring.seal(name, keyring.open(name, before)))
    except Tampered:
        return None


def _name_of(epoch: int, record: store.SealedRecord) -> RecordName:
    return RecordName(record.kind, epoch, record.facility_id, record.place.id, _SCHEMA_VERSION, record.version)


async def _reseal_stays(
    connection: Connection, keyring: Keyring, table: str, records: Sequence[store.SealedRecord]
) -> tuple[dict[store.Place, store.Replacement | None], tuple[str, ...]]:
    """Versions of stays, as they are now: one that changed meanwhile is left to the next pass. Tags are made anew from
    what was signed, whatever they were; the ids of the stays whose tags had been others come beside."""
    rows = await rows_at(connection, table, [record.place for record in records])
    proofs = await read_proofs(connection, keyring, rows.values())
    tags: Mapping[tuple[UUID, int], Tags] = {}
    if table == "stays":
        tags = await store.tags(
            connection, [row.facility_id for row in rows.values()], [row.id for row in rows.values()]
        )
    sealed: dict[store.Place, store.Replacement | None] = {}
    tags_changed = []
    for place, row in rows.items():
        contents = as_signed(keyring, row, proofs)
        if contents is None:
            sealed[place] = None
            continue
        anew = replace(row, sealed=reseal_contents(keyring, row, contents))
        before = tags.get((row.id, row.version))
        after = None if table != "stays" else tags_of(keyring, anew, contents)
        sealed[place] = store.Replacement(place, row.sealed, anew.sealed, after)
        if before not in (None, tags_of(keyring, row, contents)):
            tags_changed.append(str(row.id))
    return sealed, tuple(tags_changed)


async def _record(
    connection: Connection, keyring: Keyring, epoch: int, version: int, table: str, done: _Resealed, now: datetime
) -> None:
    """Keep what became of each blob, and have the audit sign it."""
    if not done.records:
        return
    pairs = [sha256(each.before).digest() + sha256(each.after).digest() for each in done.records]
    reseal_id = uuid7()
    details = {"epoch": epoch, "key_version": version, "table": table, "records": len(pairs), "root": pairs_root(pairs)}
    if done.tags_changed:
        details["tags_changed"] = list(done.tags_changed)
    entry_id = await audit.append_vouched(
        connection, keyring, _entry("keys.reencrypt", f"reseals/{reseal_id}", details, now)
    )
    await store.insert_reseal(connection, store.Reseal(reseal_id, epoch, version, now, entry_id, b"".join(pairs)))


def _entry(action: str, subject: str, details: dict[str, Any], now: datetime) -> audit.AuditEntry:
    return audit.AuditEntry(
        at=now, actor_kind="daemon", actor="resealing", action=action, object=subject, details=details
    )


# -- what a replaced key still holds -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Left:
    """Records that lie under a replaced key: those that re-encryption would take, those that it refuses, and how many
    of the refused are of stays under a legal hold."""

    sound: int = 0
    refused: int = 0
    held: int = 0


async def left_under(pool: asyncpg.Pool, keyring: Keyring, name: KeyName, *, rows: int = ROWS_PER_PAGE) -> Left:
    """Look at every record that the superseded data key `name` opens. `pool` connects as asm_retention."""
    epoch = name.epoch or 0
    sound = refused = held = 0
    for table in _TABLE_NAMES:
        after: store.Place | None = store.BEGINNING
        while after is not None:
            async with pool.acquire() as connection:
                newest = keyring.sealing_version(epoch)
                found = await store.page(connection, table, epoch_bounds(epoch), after, rows, newest)
                under = [each for each in found if each.sealed and each.sealed[5:6] == bytes([name.version])]
                good = await _sound(connection, keyring, table, epoch, under)
                bad = [each.place.id for each in under if each.place not in good]
                held += len(await retention_store.held_among(connection, bad)) if bad and table in STAY_TABLES else 0
            sound, refused = sound + len(good), refused + len(bad)
            after = found[-1].place if len(found) == rows else None
    return Left(sound, refused, held)


async def _sound(
    connection: Connection, keyring: Keyring, table: str, epoch: int, records: Sequence[store.SealedRecord]
) -> set[store.Place]:
    """Which of these records re-encryption would take."""
    if table in STAY_TABLES:
        found = await rows_at(connection, table, [each.place for each in records])
        proofs = await read_proofs(connection, keyring, found.values())
        return {place for place, row in found.items() if as_signed(keyring, row, proofs) is not None}
    return {each.place for each in records if _opens(keyring, _name_of(epoch, each), each.sealed or b"")}


def _opens(keyring: Keyring, name: RecordName, sealed: bytes) -> bool:
    try:
        keyring.open(name, sealed)
    except Tampered:
        return False
    return True
