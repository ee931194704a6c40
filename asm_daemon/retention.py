"""Retention (thời hạn lưu giữ): legal holds, the end of a month, the erasure of single stays, and their certificates.

A month ends when everybody who left in it left long enough ago, which for some kinds of facility is sooner than for
others. What is not forgotten yet (stays that have not ended, left too recently for their facility's kind, or are under
a hold) is sealed anew under new keys of the month and takes the month's place; then the old partitions are dropped and
the old keys destroyed. Each step is a row's state, so a crash between two is made good
by the next run. A certificate names the day after which no copy can exist, and is final only then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson
import structlog
from uuid_utils.compat import uuid7

from asm_daemon import audit
from asm_daemon.crypto import (
    PER_EPOCH,
    KeyName,
    KeyPurpose,
    Keyring,
    Tampered,
    UnknownEpoch,
    epoch_at,
    epoch_bounds,
    epoch_of,
)
from asm_daemon.decisions import tags_of
from asm_daemon.keystores import KeyStore
from asm_daemon.ledger import instant_text
from asm_daemon.model import StayRow, Tags
from asm_daemon.sealing import mark_name, reseal_contents
from asm_daemon.stay_proofs import Proofs, as_signed, forgotten_root, pairs_root, read_proofs
from asm_daemon.store import Connection
from asm_daemon.store import retention as store
from asm_daemon.store import sealed as sealed_store
from asm_daemon.store import stays as stays_store
from asm_daemon.store.alerts import AlertKind, raise_alert
from asm_daemon.store.retention import Erasure, Hold, Kept, Round
from schemas.codes import FacilityKind

ROUND = timedelta(days=30)
"""The least time between two rounds of a month of which something was kept: each drops tables and destroys keys."""
LATE = timedelta(days=91)
"""How long those who left after their month wait for a round of their own while the period of another kind still runs:
each seals all that is kept anew."""
LOCK_MILLISECONDS = 2_000
"""How long the end of a month waits for those who use it. They wait as long for it, so it rather tries again later."""
LOCK_ATTEMPTS = 5
PAGE_ROWS = 1_000
"""How many stays are looked at or sealed anew at once: a session that is silent for longer is ended."""
REASON = "retention"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Periods:
    """For how long things are kept, in days: stays after their end, backups of the database and of the key store.

    `stay_days_by_kind` are the kinds of facility whose stays are kept for another time than `stay_days`.
    """

    stay_days: int
    database_backup_days: int
    key_backup_days: int
    stay_days_by_kind: Mapping[FacilityKind, int] = field(default_factory=dict)

    def stay_days_of(self, kind: FacilityKind) -> int:
        """How long the stays of a kind of facility are kept."""
        return self.stay_days_by_kind.get(kind, self.stay_days)


class NotErasable(Exception):
    """The stay is not erased; the message says why."""


class NotEndable(Exception):
    """The month is not ended; the message says why."""


class _Waits(Exception):
    """The month cannot be ended now; the next run tries again."""


# -- legal holds -------------------------------------------------------------------------------------------------------


async def place_hold(pool: asyncpg.Pool, hold: Hold) -> int:
    """Place a hold, with its audit entry; return how many stays that are here it concerns. As asm_retention."""
    async with pool.acquire() as connection, connection.transaction():
        return await insert_hold(connection, hold)


async def insert_hold(connection: Connection, hold: Hold) -> int:
    """The same within the caller's transaction."""
    await store.insert_hold(connection, hold)
    concerned = await store.under_hold(connection, hold.id)
    details = {
        "stay": str(hold.stay_id) if hold.stay_id else None,
        "facility": hold.facility_id,
        "from": instant_text(hold.present_from) if hold.present_from else None,
        "until": instant_text(hold.present_until) if hold.present_until else None,
        "warrant": hold.warrant_ref,
        "reason": hold.reason,
        "stays": concerned,
    }
    await audit.append(connection, _by(hold.placed_by, "hold.place", f"hold/{hold.id}", details, hold.placed_at))
    return concerned


async def lift_hold(pool: asyncpg.Pool, hold_id: UUID, reason: str, by: str, now: datetime) -> bool:
    """Lift a hold, with its audit entry; false if none of this id is in force."""
    async with pool.acquire() as connection, connection.transaction():
        return await _lift(connection, hold_id, reason, by, now)


async def lift_warrant(
    pool: asyncpg.Pool, warrant: str, reason: str, by: str, now: datetime, *, dry_run: bool
) -> list[UUID]:
    """Lift every hold in force of a warrant, each with its audit entry; return their ids. `dry_run`: only return them.
    As asm_retention."""
    async with pool.acquire() as connection, connection.transaction():
        found = await store.lock_holds_of(connection, warrant)
        for hold_id in () if dry_run else found:
            await _lift(connection, hold_id, reason, by, now)
    return found


async def _lift(connection: Connection, hold_id: UUID, reason: str, by: str, now: datetime) -> bool:
    warrant = await store.lift_hold(connection, hold_id, reason, by, now)
    if warrant is None:
        return False
    details = {"warrant": warrant, "reason": reason}
    await audit.append(connection, _by(by, "hold.lift", f"hold/{hold_id}", details, now))
    return True


# -- the end of a month ------------------------------------------------------------------------------------------------


async def end_epochs_once(
    pool: asyncpg.Pool, keys: KeyStore, keyring: Keyring, periods: Periods, now: datetime
) -> dict[str, int]:
    """End every month whose time has come, and go on with those that a crash interrupted. As asm_retention.

    A month that cannot be ended now (somebody uses it, a record that is kept is not what was signed) waits for the next
    run. Returns counts.
    """
    counts = {"ended": 0, "forgotten": 0, "kept": 0, "waiting": 0}
    for found in await _due(pool, keys, periods, now):
        try:
            ended = await _end(pool, keys, keyring, found, periods, now)
        except _Waits as reason:
            log.warning("retention.waits", epoch=found.epoch, outcome=str(reason))
            counts["waiting"] += 1
            continue
        counts["ended"] += 1
        counts["kept"] += ended.kept or 0
        counts["forgotten"] += orjson.loads(ended.counts or "{}").get("stays", 0)
    return counts


async def end_now(
    pool: asyncpg.Pool,
    keys: KeyStore,
    keyring: Keyring,
    epoch: int,
    periods: Periods,
    reason: str,
    by: str,
    now: datetime,
) -> Round:
    """End one month at once, whether or not its turn has come, if nothing of it has to be kept. As asm_retention.

    Said again, it goes on with what a crash interrupted, and goes through the former generations of the key store once
    more. Raises NotEndable.
    """
    found = await _round_for(pool, keys, epoch, periods, now)
    async with pool.acquire() as connection:
        await audit.append(connection, _by(by, "keys.destroy", f"epoch/{epoch}", {"reason": reason}, now))
    if found.state in {"ended", "final"}:
        keys.destroy_epoch(epoch, REASON, now)
        return found
    try:
        return await _end(pool, keys, keyring, found, periods, now)
    except _Waits as why:
        raise NotEndable(str(why)) from None


async def _round_for(pool: asyncpg.Pool, keys: KeyStore, epoch: int, periods: Periods, now: datetime) -> Round:
    """The round by which a month of which nothing is kept ends, or the one by which it did. Raises NotEndable."""
    cutoff, cutoffs = now - timedelta(days=periods.stay_days), _cutoffs(periods, now)
    async with pool.acquire() as connection:
        before = {each.epoch: each for each in await store.rounds(connection)}.get(epoch)
        stays, forgettable = await store.forgettable(connection, *epoch_bounds(epoch), cutoff, cutoffs)
    if stays > forgettable:
        raise NotEndable(f"{stays - forgettable} stays of {epoch} have to be kept: open, left too recently, or held")
    if before is not None and (before.state in {"begun", "parted"} or not before.kept):
        return before
    number, newest = before.round + 1 if before else 1, _newest(keys, KeyPurpose.INDEX).get(epoch, 0)
    return Round(epoch, number, "new", cutoff, newest, now, None, None, None, None, cutoffs)


async def _due(pool: asyncpg.Pool, keys: KeyStore, periods: Periods, now: datetime) -> list[Round]:
    """The rounds to go on with, and those that begin now."""
    versions = _newest(keys, KeyPurpose.INDEX)
    cutoff, cutoffs = now - timedelta(days=periods.stay_days), _cutoffs(periods, now)
    async with pool.acquire() as connection:
        last = {each.epoch: each for each in await store.rounds(connection)}
        months = {*await sealed_store.partitioned_months(connection), *versions, *last}
        due = []
        for epoch in sorted(month for month in months if month < epoch_at(now)):
            before = last.get(epoch)
            if before is not None and before.state in {"begun", "parted"}:
                due.append(before)
                continue
            if not _may_begin(epoch, before, periods, now):
                continue
            stays, forgettable = await store.forgettable(connection, *epoch_bounds(epoch), cutoff, cutoffs)
            if stays and not forgettable:
                continue
            number, newest = before.round + 1 if before else 1, versions.get(epoch, 0)
            due.append(Round(epoch, number, "new", cutoff, newest, now, None, None, None, None, cutoffs))
    return due


def _cutoffs(periods: Periods, now: datetime) -> str:
    """Until when those left who are forgotten, of the kinds of facility that have a period of their own: JSON."""
    own = {kind.value: instant_text(now - timedelta(days=days)) for kind, days in periods.stay_days_by_kind.items()}
    return orjson.dumps(own, option=orjson.OPT_SORT_KEYS).decode()


def _may_begin(epoch: int, before: Round | None, periods: Periods, now: datetime) -> bool:
    """Whether it is time for a round of a month: once for each period when it is over, and for those who left late."""
    turns = [_end_of(epoch) + timedelta(days=periods.stay_days_of(kind)) for kind in FacilityKind]
    if before is None:
        return min(turns) <= now
    if not before.kept or before.ended_at is None or before.ended_at + ROUND > now:
        return False
    its_turn = any(before.begun_at < turn <= now for turn in turns)
    return its_turn or max(turns) <= now or before.ended_at + LATE <= now


async def _end(
    pool: asyncpg.Pool, keys: KeyStore, keyring: Keyring, found: Round, periods: Periods, now: datetime
) -> Round:
    """Take a month through the steps that are left. Raises _Waits."""
    if found.state == "new":
        found = await _begin(pool, keys, found)
    if found.state == "begun":
        await _succeed(pool, keys, keyring, found, now)
        found = await _part(pool, keyring, found, now)
    return await _destroy(pool, keys, keyring, found, periods, now)


async def _begin(pool: asyncpg.Pool, keys: KeyStore, found: Round) -> Round:
    """Say in the audit what is about to be done; from here on nothing else seals the month anew. Keys that were renewed
    since the month was found due have sealed what is to be forgotten, so they are old ones too."""
    newest = _newest(keys, KeyPurpose.INDEX).get(found.epoch, 0)
    begun = found._replace(state="begun", index_version=newest)
    async with pool.acquire() as connection, connection.transaction():
        if not await store.begin_round(connection, begun):
            raise _Waits("another process began")
        details = {"round": begun.round, "index_version": begun.index_version, **_by_when(begun)}
        await audit.append(connection, _entry("retention.begin", f"epoch/{begun.epoch}", details, begun.begun_at))
    return begun


async def _succeed(pool: asyncpg.Pool, keys: KeyStore, keyring: Keyring, found: Round, now: datetime) -> None:
    """Make the keys for what is kept, if anything is."""
    async with pool.acquire() as connection:
        bounds = epoch_bounds(found.epoch)
        stays, forgettable = await store.forgettable(connection, *bounds, found.cutoff_at, found.cutoffs)
        if await store.endpoints_of(connection, found.epoch):
            raise _Waits("a webhook is sealed under this month")
    if stays > forgettable:
        try:
            await asyncio.to_thread(keys.renew_epoch, found.epoch, now, after=found.index_version)
        except UnknownEpoch:
            await _alert(pool, found, now)
            raise _Waits("what is kept has no keys") from None
    keyring.reload()


async def _part(pool: asyncpg.Pool, keyring: Keyring, found: Round, now: datetime) -> Round:
    """Part what is kept from what is forgotten, in one transaction, which begins again when somebody is in the way."""
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
                return await _part_locked(connection, keyring, found, now)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if attempt == LOCK_ATTEMPTS:
                raise _Waits("the month is in use") from None
            await asyncio.sleep(0.1 * attempt)
        except _NotAsSigned:
            await _alert(pool, found, now)
            raise _Waits("a record is not what was signed") from None
    raise AssertionError("unreachable")


class _NotAsSigned(Exception):
    """A record does not open or is not what was signed and sealed, or somebody else wrote into the forgotten places."""


async def _part_locked(connection: Connection, keyring: Keyring, found: Round, now: datetime) -> Round:
    await store.set_lock_timeout(connection, LOCK_MILLISECONDS)
    current = await store.lock_round(connection, found.epoch, found.round)
    if current is None or current.state != "begun":
        raise _Waits("another process went on")
    bounds = epoch_bounds(found.epoch)
    checked = await store.horizon(connection)
    await _check_month(connection, keyring, found.epoch, None)
    ahead = await store.kept_stays(connection, *bounds, found.cutoff_at, found.cutoffs)
    pairs = await _keep(connection, keyring, found, ahead)  # nobody waits meanwhile, so some may change
    kept: set[Kept] = set()
    if await store.lock_month(connection, found.epoch):
        await store.stop_holds(connection)
        await _check_month(connection, keyring, found.epoch, checked)
        kept = await store.kept_stays(connection, *bounds, found.cutoff_at, found.cutoffs)
        changed = {each.id for each in ahead - kept}
        await store.delete_held(connection, sorted(changed))
        pairs = {stay_id: each for stay_id, each in pairs.items() if stay_id not in changed}
        pairs |= await _keep(connection, keyring, found, kept - ahead)
        await _record(connection, keyring, found.epoch, [pair for each in pairs.values() for pair in each], now)
    forgotten = await store.end_month(connection, found.epoch, *bounds)  # now nobody is left who read the old month
    await _keep_marks(connection, keyring, kept)
    why = Counter(f"kept_{each.why}" for each in kept)
    entry = _entry("retention.part", f"epoch/{found.epoch}", {"round": found.round, "kept": why.total()}, now)
    signed = await _sign_forgotten(
        connection, keyring, entry.id, found.epoch, forgotten.get("stays", 0) + forgotten.get("stay_versions", 0)
    )
    told = {**why, **forgotten, "forgotten_root": signed["forgotten_root"]}
    counts = orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode()
    await audit.append(connection, replace(entry, details={**entry.details, "counts": counts, **signed}))
    parted = current._replace(state="parted", kept=why.total(), counts=counts)
    await store.keep_round(connection, parted)
    return parted


async def _check_month(connection: Connection, keyring: Keyring, epoch: int, since: str | None) -> None:
    """Hold each stay of a month changed `since` (None: all) against its receipt, for by its columns is decided who
    is forgotten.

    A month whose keys were destroyed by hand cannot be asked any more. Raises _NotAsSigned.
    """
    if epoch not in keyring.epochs():
        return
    lo, hi = epoch_bounds(epoch)
    after = UUID(int=lo.int - 1)
    while page := await store.stays_after(connection, after, hi, since, PAGE_ROWS):
        proofs = await read_proofs(connection, keyring, page)
        if not await asyncio.to_thread(lambda rows, by: all(as_signed(keyring, row, by) for row in rows), page, proofs):
            raise _NotAsSigned
        after = page[-1].id


async def _sign_forgotten(
    connection: Connection, keyring: Keyring, entry_id: UUID, epoch: int, places: int
) -> dict[str, str]:
    """What the audit entry of this id says of the places that this transaction added to those forgotten.

    Raises _NotAsSigned if there are others that nobody signed: they are not of us, and are not signed either.
    """
    added = await store.claim_forgotten(connection, epoch, entry_id)
    if sum(len(row.indexes) for row in added) != places:
        raise _NotAsSigned
    root = forgotten_root(added)
    return {"forgotten_root": root, "forgotten_tag": keyring.forgotten_tag(entry_id, bytes.fromhex(root)).hex()}


async def _keep(
    connection: Connection, keyring: Keyring, found: Round, kept: Collection[Kept]
) -> dict[UUID, list[bytes]]:
    """Seal what is kept under the month's new keys, a page at a time: each version and its tags.

    Returns what became of the blobs of each stay. Raises _NotAsSigned.
    """
    if kept and keyring.index_version(found.epoch) <= found.index_version:
        raise _Waits("what is kept has no new keys yet")
    pairs: dict[UUID, list[bytes]] = {}
    places = sorted((each.id, each.facility_id) for each in kept)
    for at in range(0, len(places), PAGE_ROWS):
        page = places[at : at + PAGE_ROWS]
        wanted = [facility_id for _, facility_id in page], [stay_id for stay_id, _ in page]
        stays = await stays_store.read_stays(connection, *wanted)
        versions = await stays_store.read_versions(connection, *wanted)
        proofs = await read_proofs(connection, keyring, [*stays, *versions])
        anew = await asyncio.to_thread(_anew, keyring, [*stays, *versions], proofs)
        await store.insert_held(connection, [(each.row, each.tags) for each in anew[: len(stays)]])
        await store.insert_held_versions(connection, [each.row for each in anew[len(stays) :]])
        for each in anew:
            pairs.setdefault(each.row.id, []).append(each.pair)
    return pairs


class _Anew(NamedTuple):
    """A version that was sealed anew, its tags, and SHA-256 of its blob before and after."""

    row: StayRow
    tags: Tags
    pair: bytes


def _anew(keyring: Keyring, rows: Sequence[StayRow], proofs: Proofs) -> list[_Anew]:
    """Seal versions anew. Raises _NotAsSigned."""
    done = []
    for row in rows:
        contents = as_signed(keyring, row, proofs)
        if contents is None:
            raise _NotAsSigned
        sealed = reseal_contents(keyring, row, contents)
        pair = sha256(row.sealed).digest() + sha256(sealed).digest()
        resealed = replace(row, sealed=sealed)
        done.append(_Anew(resealed, tags_of(keyring, resealed, contents), pair))
    return done


async def _keep_marks(connection: Connection, keyring: Keyring, kept: Collection[Kept]) -> None:
    """Seal the marks of temporary residence of what is kept anew. Raises _NotAsSigned if one does not open."""
    anew, places = [], [(each.facility_id, each.id) for each in kept]
    for facility_id, stay_id, sealed in await store.marks_of(connection, places):
        name = mark_name(facility_id, stay_id)
        try:
            anew.append((facility_id, stay_id, keyring.seal(name, keyring.open(name, sealed))))
        except (Tampered, UnknownEpoch):
            raise _NotAsSigned from None
    await store.replace_marks(connection, anew)


async def _record(connection: Connection, keyring: Keyring, epoch: int, pairs: Sequence[bytes], now: datetime) -> None:
    """Keep what became of each blob, and have the audit sign it, as every re-encryption does."""
    if not pairs:
        return
    reseal_id, version = uuid7(), keyring.sealing_version(epoch)
    details = {
        "epoch": epoch, "key_version": version, "table": "stays", "records": len(pairs), "root": pairs_root(pairs)
    }  # fmt: skip
    entry_id = await audit.append(connection, _entry("keys.reencrypt", f"reseals/{reseal_id}", details, now))
    await sealed_store.insert_reseal(
        connection, sealed_store.Reseal(reseal_id, epoch, version, now, entry_id, b"".join(pairs))
    )


async def _destroy(
    pool: asyncpg.Pool, keys: KeyStore, keyring: Keyring, found: Round, periods: Periods, now: datetime
) -> Round:
    """Destroy the keys of what was forgotten, and certify it. Raises _Waits if another process did."""
    try:
        keys.destroy_epoch(found.epoch, REASON, now, through=found.index_version if found.kept else None)
    except UnknownEpoch:
        log.warning("retention.no_keys", epoch=found.epoch)  # a month that never had keys
    keyring.reload()
    gone = [str(each.name) for each in keys.inventory() if each.state == "destroyed" and each.name.epoch == found.epoch]
    final_at = now + timedelta(days=periods.key_backup_days)
    async with pool.acquire() as connection, connection.transaction():
        current = await store.lock_round(connection, found.epoch, found.round)
        if current is None or current.state != "parted":
            raise _Waits("another process went on")
        ended = current._replace(state="ended", ended_at=now, final_at=final_at)
        await store.keep_round(connection, ended)
        await audit.append(connection, _entry("retention.end", f"epoch/{ended.epoch}", _certificate(ended, gone), now))
    return ended


def _certificate(ended: Round, gone: Sequence[str]) -> dict[str, Any]:
    """What was forgotten and kept, which keys were destroyed, and when no copy of them can exist any more."""
    counts: Mapping[str, int | str] = orjson.loads(ended.counts or "{}")
    return {
        "round": ended.round,
        **_by_when(ended),
        "keys": list(gone),
        "kept": ended.kept or 0,
        **counts,
        "no_copy_after": instant_text(ended.final_at) if ended.final_at else None,
    }


def _by_when(found: Round) -> dict[str, str]:
    """Until when those left who are forgotten: of most kinds of facility, and (JSON) of the others."""
    return {"cutoff": instant_text(found.cutoff_at), "cutoffs": found.cutoffs}


# -- erasures of single stays ------------------------------------------------------------------------------------------


async def erase_stay(
    pool: asyncpg.Pool,
    keys: KeyStore,
    stay_id: UUID,
    reason: str,
    by: str,
    periods: Periods,
    now: datetime,
    *,
    urgent: bool,
    changed: bool = False,
) -> Erasure:
    """Erase one stay with all its versions, and note until when copies can be read. As asm_retention.

    `urgent` has the rest of its month sealed and tagged anew (the job `reencrypt`) and the old keys destroyed; said of
    a stay that was erased before, it makes that erasure urgent. `changed`: also if its record is not what was signed,
    which is said in the audit. Raises NotErasable.
    """
    epoch = epoch_of(stay_id)
    newest, keyring = _newest(keys, KeyPurpose.DATA).get(epoch), await asyncio.to_thread(keys.keyring)
    async with pool.acquire() as connection, connection.transaction():
        before = await store.find_erasure(connection, stay_id)
        if before is not None:
            erasure = await _hasten(connection, before, newest, by, now) if urgent else before
        else:
            version = newest if urgent else None
            erasure = await _erase(
                connection, keyring, stay_id, epoch, version, reason, by, periods, now, changed=changed
            )
    if erasure.urgent:
        _renew(keys, erasure, now)
    return erasure


async def _erase(
    connection: Connection,
    keyring: Keyring,
    stay_id: UUID,
    epoch: int,
    key_version: int | None,
    reason: str,
    by: str,
    periods: Periods,
    now: datetime,
    *,
    changed: bool,
) -> Erasure:
    await store.stop_holds(connection)
    found = await store.erasable(connection, stay_id)
    if found is None:
        raise NotErasable("there is no such stay")
    if found.held:
        raise NotErasable("the stay is under a legal hold")
    if found.status == "declared":
        raise NotErasable("the stay has not ended: check the guest out or cancel the stay first")
    if found.on_its_way:
        raise NotErasable("the stay is on its way to the population database, which the law demands; try again later")
    final_at = now + timedelta(days=periods.database_backup_days)
    erasure = Erasure(stay_id, found.facility_id, epoch, "erased", key_version is not None, key_version, now, final_at)
    entry = _by(by, "erasure.erase", f"stay/{stay_id}", _told(erasure, reason), now)
    sound, places = await _standing(connection, keyring, found.facility_id, stay_id)
    if not (sound or changed):
        raise NotErasable("its record is not what was signed: keep a copy as evidence, then say --changed")
    await store.forget_stay(connection, found.facility_id, stay_id, epoch)
    try:
        signed = await _sign_forgotten(connection, keyring, entry.id, epoch, places)
    except _NotAsSigned:
        raise NotErasable("not what was signed: somebody else wrote into the list of forgotten places") from None
    await store.insert_erasure(connection, erasure)
    await audit.append(connection, replace(entry, details={**entry.details, "as_signed": int(sound), **signed}))
    return erasure


async def _standing(connection: Connection, keyring: Keyring, facility_id: int, stay_id: UUID) -> tuple[bool, int]:
    """Whether a stay is what was signed, as far as its month has keys to tell, and how many versions it has."""
    current = await stays_store.read_stays(connection, [facility_id], [stay_id])
    proofs = await read_proofs(connection, keyring, current)
    sound = epoch_of(stay_id) not in keyring.epochs() or all(as_signed(keyring, row, proofs) for row in current)
    return sound, len(current) + len(await stays_store.read_versions(connection, [facility_id], [stay_id]))


async def _hasten(connection: Connection, before: Erasure, newest: int | None, by: str, now: datetime) -> Erasure:
    if before.urgent or before.state != "erased" or newest is None:
        return before
    after = before._replace(urgent=True, key_version=newest)
    if not await store.advance_erasure(connection, before, after):
        raise NotErasable("another process works on this erasure")
    await audit.append(connection, _by(by, "erasure.hasten", f"stay/{before.stay_id}", _told(after, None), now))
    return after


def _told(erasure: Erasure, reason: str | None) -> dict[str, Any]:
    return {
        "facility": erasure.facility_id,
        "epoch": erasure.epoch,
        "reason": reason,
        "urgent": int(erasure.urgent),
        "keys": _keys_of(erasure),
        "no_copy_after": instant_text(erasure.final_at),
    }


def _keys_of(erasure: Erasure) -> list[str]:
    """The newest keys that the stay may have been sealed and tagged under; they go, and all before them."""
    version = erasure.key_version
    return [str(KeyName(purpose, erasure.epoch, version)) for purpose in sorted(PER_EPOCH)] if version else []


def _renew(keys: KeyStore, erasure: Erasure, now: datetime) -> None:
    """Have the month sealed anew, unless that is under way already: a crash before this is made good by the job."""
    with suppress(UnknownEpoch):  # the month has ended meanwhile, and all its keys with it
        keys.renew_epoch(erasure.epoch, now, after=erasure.key_version or 0)


# -- certificates that become final ------------------------------------------------------------------------------------


async def finish_once(
    pool: asyncpg.Pool, keys: KeyStore, periods: Periods, backups: Sequence[datetime] | None, now: datetime
) -> dict[str, int]:
    """Make every certificate final whose day has come. As asm_retention.

    `backups` are when the key store's known backups were made; None if the daemon does not know them. One that still
    holds a destroyed key after that day alerts the operator, and nothing is final. Returns counts.
    """
    counts = {"final": 0, "waiting": 0, "keys_gone": 0}
    async with pool.acquire() as connection:
        rounds, erasures = await store.unfinal(connection), await store.open_erasures(connection)
    for each in rounds:
        if each.ended_at is not None and each.final_at is not None and each.final_at <= now:
            done = await _finish_round(pool, each, each.ended_at, backups, now)
            counts["final" if done else "waiting"] += 1
    for erasure in erasures:
        counts.update(Counter(counts) + Counter(await _finish_erasure(pool, keys, erasure, periods, backups, now)))
    return counts


async def _finish_round(
    pool: asyncpg.Pool, found: Round, gone_at: datetime, backups: Sequence[datetime] | None, now: datetime
) -> bool:
    if await _lingers(pool, f"epoch/{found.epoch}", gone_at, backups, now):
        return False
    async with pool.acquire() as connection, connection.transaction():
        current = await store.lock_round(connection, found.epoch, found.round)
        if current is None or current.state != "ended":
            return False
        await store.keep_round(connection, current._replace(state="final"))
        details = {"round": found.round, "destroyed_at": instant_text(gone_at), **_looked(backups)}
        await audit.append(connection, _entry("retention.final", f"epoch/{found.epoch}", details, now))
    return True


async def _finish_erasure(
    pool: asyncpg.Pool,
    keys: KeyStore,
    erasure: Erasure,
    periods: Periods,
    backups: Sequence[datetime] | None,
    now: datetime,
) -> dict[str, int]:
    if erasure.urgent and erasure.state == "erased":
        _renew(keys, erasure, now)
        if not _opens(keys, erasure):
            final_at = min(erasure.final_at, now + timedelta(days=periods.key_backup_days))
            after = erasure._replace(state="keys_gone", keys_gone_at=now, final_at=final_at)
            await _advance(pool, erasure, after, "erasure.keys_gone", _told(after, None), now)
            return {"keys_gone": 1}
    if erasure.final_at > now:
        return {"waiting": 1} if erasure.state == "erased" and erasure.urgent else {}
    gone_at = erasure.keys_gone_at
    if gone_at and await _lingers(pool, f"stay/{erasure.stay_id}", gone_at, backups, now):
        return {"waiting": 1}
    details = {"erased_at": instant_text(erasure.erased_at), **(_looked(backups) if gone_at else {})}
    await _advance(pool, erasure, erasure._replace(state="final"), "erasure.final", details, now)
    return {"final": 1}


def _opens(keys: KeyStore, erasure: Erasure) -> bool:
    """Whether a key that opens the erased stay, or finds it by its tags, is still there."""
    return any(
        facts.name.epoch == erasure.epoch
        and facts.state != "destroyed"
        and facts.name.version <= (erasure.key_version or 0)
        for facts in keys.inventory()
    )


async def _advance(
    pool: asyncpg.Pool, before: Erasure, after: Erasure, action: str, details: Mapping[str, Any], now: datetime
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        if await store.advance_erasure(connection, before, after):
            await audit.append(connection, _entry(action, f"stay/{before.stay_id}", details, now))


async def _lingers(
    pool: asyncpg.Pool, subject: str, gone_at: datetime, backups: Sequence[datetime] | None, now: datetime
) -> bool:
    """Whether a known backup of the key store is older than a destruction; the operator is alerted to it."""
    old = [made for made in backups or () if made <= gone_at]
    if not old:
        return False
    details: dict[str, int | str] = {"backups": len(old), "oldest": instant_text(min(old))}
    async with pool.acquire() as connection:
        await raise_alert(connection, AlertKind.KEY_BACKUP_TOO_OLD, subject, details, now)
    return True


def _looked(backups: Sequence[datetime] | None) -> dict[str, int | None]:
    """How many backups were looked at; None: the daemon does not know where they are."""
    return {"key_backups": None if backups is None else len(backups)}


# -- small things ------------------------------------------------------------------------------------------------------


def _newest(keys: KeyStore, purpose: KeyPurpose) -> dict[int, int]:
    """The newest version of each month's key for a purpose."""
    return {
        facts.name.epoch or 0: facts.name.version
        for facts in keys.inventory()
        if facts.state == "active" and facts.name.purpose is purpose
    }


def _end_of(epoch: int) -> datetime:
    """The first instant after a month."""
    return datetime.fromtimestamp((epoch_bounds(epoch)[1].int >> 80) / 1000, UTC)


async def _alert(pool: asyncpg.Pool, found: Round, now: datetime) -> None:
    async with pool.acquire() as connection:
        await raise_alert(connection, AlertKind.MONTH_NOT_ENDED, f"epoch/{found.epoch}", {"round": found.round}, now)


def _by(by: str, action: str, subject: str, details: Mapping[str, Any], now: datetime) -> audit.AuditEntry:
    return audit.AuditEntry(at=now, actor_kind="operator", actor=by, action=action, object=subject, details=details)


def _entry(action: str, subject: str, details: Mapping[str, Any], now: datetime) -> audit.AuditEntry:
    return audit.AuditEntry(
        at=now, actor_kind="daemon", actor="retention", action=action, object=subject, details=details
    )
