"""Retention (thời hạn lưu giữ): legal holds, and the end of a month.

A month ends when everybody who left in it left long enough ago, which for some kinds of facility is sooner than for
others. What is not forgotten yet (stays that have not ended, left too recently for their facility's kind, or are under
a hold) is sealed anew under new keys of the month and takes the month's place; then the old partitions are dropped and
the old keys destroyed. Each step is a row's state, so a crash between two is made good by the next run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
    KeyPurpose,
    Keyring,
    Tampered,
    UnknownEpoch,
    epoch_at,
    epoch_bounds,
)
from asm_daemon.decisions import tags_of
from asm_daemon.keystores import KeyStore
from asm_daemon.ledger import instant_text
from asm_daemon.model import StayRow, Tags
from asm_daemon.sealing import mark_name, reseal_contents
from asm_daemon.stay_proofs import NO_PROOFS, Proofs, as_signed, forgotten_root, pairs_root, read_proofs
from asm_daemon.store import LOST, Connection
from asm_daemon.store import retention as store
from asm_daemon.store import sealed as sealed_store
from asm_daemon.store import stays as stays_store
from asm_daemon.store.alerts import AlertKind, raise_alert
from asm_daemon.store.retention import Hold, Kept, Round
from asm_daemon.told import HOLDS_CHANGED, Holds, HoldsChanged, alert_to_holds, only_ended, watch_holds_once
from schemas.codes import FacilityKind
from schemas.violations import Text

ROUND = timedelta(days=30)
"""The least time between two rounds of a month of which something was kept: each drops tables and destroys keys."""
LATE = timedelta(days=91)
"""How long those who left after their month wait for a round of their own while the period of another kind still runs:
each seals all that is kept anew."""
LOCK_SECONDS = 2
"""How long the end of a month waits for those who use it. They wait as long for it, so it rather tries again later."""
LOCK_ATTEMPTS = 5
PART_SECONDS = 300
"""How long a statement, or a step of reckoning, may take that parts what is kept of a month from the rest: often most
of a million rows."""
PAGE_ROWS = 1_000
"""How many stays are looked at or sealed anew at once: a session that is silent for longer is ended."""
REASON = "retention"
NAMED = 50
"""How many ids an audit entry names."""

_NOT_WRITTEN_BY_US = (ValueError, TypeError, AttributeError)  # what a round raises whose JSON somebody changed

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


class NotEndable(Exception):
    """The month is not ended; `reason` says why. One whose turn has come is tried again by the next run."""

    def __init__(self, vi: str, en: str) -> None:
        super().__init__(en)
        self.reason = Text(vi, en)


class NotAsSigned(Exception):
    """A record does not open or is not what was signed, or somebody else wrote into the forgotten places."""


# -- legal holds -------------------------------------------------------------------------------------------------------


async def place_hold(pool: asyncpg.Pool, keyring: Keyring, hold: Hold) -> int:
    """Place a hold, with its audit entry; return how many stays that are here it concerns. As asm_retention."""
    async with pool.acquire() as connection, connection.transaction():
        return await insert_hold(connection, keyring, hold)


async def insert_hold(connection: Connection, keyring: Keyring, hold: Hold) -> int:
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
    entry = by_operator(hold.placed_by, "hold.place", f"hold/{hold.id}", details, hold.placed_at)
    await audit.append_vouched(connection, keyring, entry)
    return concerned


async def lift_hold(pool: asyncpg.Pool, keyring: Keyring, hold_id: UUID, reason: str, by: str, now: datetime) -> bool:
    """Lift a hold, with its audit entry; false if none of this id is in force."""
    async with pool.acquire() as connection, connection.transaction():
        return await _lift(connection, keyring, hold_id, reason, by, now)


async def lift_warrant(
    pool: asyncpg.Pool, keyring: Keyring, warrant: str, reason: str, by: str, now: datetime, *, dry_run: bool
) -> list[UUID]:
    """Lift every hold in force of a warrant, each with its audit entry; return their ids. `dry_run`: only return them.
    As asm_retention."""
    async with pool.acquire() as connection, connection.transaction():
        found = await store.lock_holds_of(connection, warrant)
        for hold_id in () if dry_run else found:
            await _lift(connection, keyring, hold_id, reason, by, now)
    return found


async def _lift(connection: Connection, keyring: Keyring, hold_id: UUID, reason: str, by: str, now: datetime) -> bool:
    warrant = await store.lift_hold(connection, hold_id, reason, by, now)
    if warrant is None:
        return False
    details = {"warrant": warrant, "reason": reason}
    await audit.append_vouched(connection, keyring, by_operator(by, "hold.lift", f"hold/{hold_id}", details, now))
    return True


class Restored(NamedTuple):
    """What became of holds that were not what the audit tells: `restored` are again, `untold` are nobody's of us."""

    restored: list[UUID]
    untold: list[UUID]


async def restore_holds(
    pool: asyncpg.Pool, audit_pool: asyncpg.Pool, keyring: Keyring, by: str, now: datetime
) -> Restored:
    """Write every hold that was changed or removed past the program as the audit tells it. As asm_retention, asm_audit.

    One that the audit does not tell of is left: whoever lifts it, lifts it on record.
    """
    holds = Holds(audit_pool, keyring)
    await holds.read()
    async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
        await store.stop_holds(connection)
        changed = await holds.changed(connection)
        done = Restored([], [])
        for subject in sorted(changed):
            hold_id, state = UUID(subject.removeprefix("hold/")), holds.told.get(subject)
            if state is None:
                done.untold.append(hold_id)
                continue
            await (store.restore_end if only_ended(state) else store.restore_hold)(connection, hold_id, state)
            done.restored.append(hold_id)
        if done.restored:
            details = {"holds": [str(each) for each in done.restored[:NAMED]], "count": len(done.restored)}
            await audit.append(connection, by_operator(by, "hold.restore", "legal_holds", details, now))
    return done


# -- the end of a month ------------------------------------------------------------------------------------------------


async def end_epochs_once(
    pool: asyncpg.Pool, audit_pool: asyncpg.Pool, keys: KeyStore, keyring: Keyring, periods: Periods, now: datetime
) -> dict[str, int]:
    """End every month whose time has come, and go on with those that a crash interrupted. As asm_retention, asm_audit.

    A month that cannot be ended now (somebody uses it, a record that is kept is not what was signed, the database
    fails) waits for the next run, and no other waits with it. Nothing ends while a legal hold is not what the audit
    tells. Returns counts.
    """
    counts = {"ended": 0, "forgotten": 0, "kept": 0, "waiting": 0}
    holds = Holds(audit_pool, keyring)
    if changed := await watch_holds_once(pool, holds, now):
        return {**counts, "holds_changed": changed}
    newest = await asyncio.to_thread(newest_versions, keys, KeyPurpose.INDEX)
    for epoch, before in await _past_months(pool, newest, now):
        try:
            found = await _due(pool, epoch, before, newest.get(epoch, 0), periods, now)
            if found is None:
                continue
            ended = await _end(pool, keys, keyring, holds, found, periods, now)
            counts["forgotten"] += orjson.loads(ended.counts or "{}").get("stays", 0)
        except NotEndable as reason:
            log.warning("retention.waits", epoch=epoch, outcome=str(reason))
            counts["waiting"] += 1
        except (asyncpg.PostgresError, *LOST, *_NOT_WRITTEN_BY_US) as error:
            log.warning("retention.waits", epoch=epoch, exc_info=error)
            counts["waiting"] += 1
            await _alert(pool, epoch, now)
        else:
            counts["ended"] += 1
            counts["kept"] += ended.kept or 0
    return counts


async def end_now(
    pool: asyncpg.Pool,
    audit_pool: asyncpg.Pool,
    keys: KeyStore,
    epoch: int,
    periods: Periods,
    reason: str,
    by: str,
    now: datetime,
) -> Round:
    """End one month at once, whether or not its turn has come, if nothing of it has to be kept. As asm_retention and
    asm_audit.

    Said again, it goes on with what a crash interrupted, and goes through the former generations of the key store once
    more. Raises NotEndable.
    """
    keyring = await asyncio.to_thread(keys.keyring)
    holds = Holds(audit_pool, keyring)
    if await watch_holds_once(pool, holds, now):
        raise NotEndable(*HOLDS_CHANGED)
    found = await _round_for(pool, keys, epoch, periods, now)
    async with pool.acquire() as connection:
        await audit.append(connection, by_operator(by, "keys.destroy", f"epoch/{epoch}", {"reason": reason}, now))
    if found.state in {"ended", "final"}:
        await asyncio.to_thread(keys.destroy_epoch, epoch, REASON, now)
        return found
    return await _end(pool, keys, keyring, holds, found, periods, now)


async def _round_for(pool: asyncpg.Pool, keys: KeyStore, epoch: int, periods: Periods, now: datetime) -> Round:
    """The round by which a month of which nothing is kept ends, or the one by which it did. Raises NotEndable."""
    newest = await asyncio.to_thread(newest_versions, keys, KeyPurpose.INDEX)
    async with pool.acquire() as connection:
        before = {each.epoch: each for each in await store.rounds(connection)}.get(epoch)
        found = _next_round(epoch, before, newest.get(epoch, 0), periods, now)
        stays, forgettable = await store.forgettable(connection, *epoch_bounds(epoch), found.cutoff_at, found.cutoffs)
    if kept := stays - forgettable:
        raise NotEndable(
            f"{kept} lượt của {epoch} phải giữ lại: chưa kết thúc, mới rời đi, hoặc bị giữ theo lệnh",
            f"{kept} stays of {epoch} have to be kept: open, left too recently, or held",
        )
    if before is not None and (before.state in {"begun", "parted"} or not before.kept):
        return before
    return found


async def _past_months(pool: asyncpg.Pool, with_keys: Collection[int], now: datetime) -> list[tuple[int, Round | None]]:
    """Every month that is over and has keys, partitions or rounds, with its last round."""
    async with pool.acquire() as connection:
        last = {each.epoch: each for each in await store.rounds(connection)}
        months = {*await sealed_store.partitioned_months(connection), *with_keys, *last}
    return [(month, last.get(month)) for month in sorted(months) if month < epoch_at(now)]


async def _due(
    pool: asyncpg.Pool, epoch: int, before: Round | None, newest: int, periods: Periods, now: datetime
) -> Round | None:
    """The round of a month to go on with, or the one that begins now; None if it has no turn."""
    if before is not None and before.state in {"begun", "parted"}:
        return before
    if not _may_begin(epoch, before, periods, now):
        return None
    found = _next_round(epoch, before, newest, periods, now)
    async with pool.acquire() as connection:
        stays, forgettable = await store.forgettable(connection, *epoch_bounds(epoch), found.cutoff_at, found.cutoffs)
    return None if stays and not forgettable else found


def _next_round(epoch: int, before: Round | None, newest: int, periods: Periods, now: datetime) -> Round:
    """The round after `before`, not begun yet; `newest` is the month's newest index key, 0 if it has none."""
    own = {kind.value: instant_text(now - timedelta(days=days)) for kind, days in periods.stay_days_by_kind.items()}
    return Round(
        epoch,
        round=before.round + 1 if before else 1,
        state="new",
        cutoff_at=now - timedelta(days=periods.stay_days),
        cutoffs=orjson.dumps(own, option=orjson.OPT_SORT_KEYS).decode(),
        index_version=newest,
        begun_at=now,
    )


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
    pool: asyncpg.Pool,
    keys: KeyStore,
    keyring: Keyring,
    holds: Holds,
    found: Round,
    periods: Periods,
    now: datetime,
) -> Round:
    """Take a month through the steps that are left. Raises NotEndable."""
    if found.state == "new":
        found = await _begin(pool, keys, keyring, found)
    if found.state == "begun":
        await _succeed(pool, keys, keyring, found, now)
        found = await _part(pool, keyring, holds, found, now)
    return await _destroy(pool, keys, keyring, found, periods, now)


async def _begin(pool: asyncpg.Pool, keys: KeyStore, keyring: Keyring, found: Round) -> Round:
    """Say in the audit what is about to be done; from here on nothing else seals the month anew. Keys that were renewed
    since the month was found due have sealed what is to be forgotten, so they are old ones too."""
    newest = await asyncio.to_thread(newest_versions, keys, KeyPurpose.INDEX)
    begun = found._replace(state="begun", index_version=newest.get(found.epoch, 0))
    async with pool.acquire() as connection, connection.transaction():
        if not await store.begin_round(connection, begun):
            raise NotEndable("một tiến trình khác đã bắt đầu", "another process began")
        details = {"round": begun.round, "index_version": begun.index_version, **_by_when(begun)}
        entry = by_daemon("retention.begin", f"epoch/{begun.epoch}", details, begun.begun_at)
        await audit.append_vouched(connection, keyring, entry)
    return begun


async def _succeed(pool: asyncpg.Pool, keys: KeyStore, keyring: Keyring, found: Round, now: datetime) -> None:
    """Make the keys for what is kept, if anything is."""
    async with pool.acquire() as connection:
        bounds = epoch_bounds(found.epoch)
        stays, forgettable = await store.forgettable(connection, *bounds, found.cutoff_at, found.cutoffs)
        if await store.endpoints_of(connection, found.epoch):
            raise NotEndable("còn webhook niêm phong bằng khoá của tháng này", "a webhook is sealed under this month")
    if stays > forgettable:
        try:
            await asyncio.to_thread(keys.renew_epoch, found.epoch, now, after=found.index_version)
        except UnknownEpoch:
            raise await _without_keys(pool, found, now) from None
    await asyncio.to_thread(keyring.reload)


async def _part(pool: asyncpg.Pool, keyring: Keyring, holds: Holds, found: Round, now: datetime) -> Round:
    """Part what is kept from what is forgotten, in one transaction, which begins again when somebody is in the way."""
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
                return await _part_locked(connection, keyring, holds, found, now)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if attempt == LOCK_ATTEMPTS:
                raise NotEndable("tháng này đang được sử dụng", "the month is in use") from None
            await asyncio.sleep(0.1 * attempt)
        except NotAsSigned:
            await _alert(pool, found.epoch, now)
            raise NotEndable("có bản ghi khác với những gì đã ký", "a record is not what was signed") from None
        except UnknownEpoch:  # a hold that came meanwhile keeps what nobody can open any more
            raise await _without_keys(pool, found, now) from None
        except HoldsChanged as changed:
            await alert_to_holds(pool, changed, now)
            raise NotEndable(*HOLDS_CHANGED) from None
    raise AssertionError("unreachable")


async def _without_keys(pool: asyncpg.Pool, found: Round, now: datetime) -> NotEndable:
    await _alert(pool, found.epoch, now)
    return NotEndable("những gì phải giữ không có khoá", "what is kept has no keys")


def _went_on() -> NotEndable:
    return NotEndable("một tiến trình khác đã làm tiếp", "another process went on")


async def _part_locked(connection: Connection, keyring: Keyring, holds: Holds, found: Round, now: datetime) -> Round:
    await store.set_timeouts(connection, lock_seconds=LOCK_SECONDS, statement_seconds=PART_SECONDS)
    current = await store.lock_round(connection, found.epoch, found.round)
    if current is None or current.state != "begun":
        raise _went_on()
    bounds = epoch_bounds(found.epoch)
    checked = await store.horizon(connection)
    await _check_month(connection, keyring, found.epoch, None)
    ahead = await store.kept_stays(connection, *bounds, found.cutoff_at, found.cutoffs, seconds=PART_SECONDS)
    pairs = await _keep(connection, keyring, found, ahead)  # nobody waits meanwhile, so some may change
    kept: set[Kept] = set()
    if await store.lock_month(connection, found.epoch):
        await store.stop_holds(connection)
        await holds.require(connection)
        await _check_month(connection, keyring, found.epoch, checked)
        kept = await store.kept_stays(connection, *bounds, found.cutoff_at, found.cutoffs, seconds=PART_SECONDS)
        changed = {each.id for each in ahead - kept}
        await store.delete_held(connection, sorted(changed))
        pairs = {stay_id: each for stay_id, each in pairs.items() if stay_id not in changed}
        pairs |= await _keep(connection, keyring, found, kept - ahead)
        await _record(connection, keyring, found.epoch, [pair for each in pairs.values() for pair in each], now)
    # Now nobody is left who read the old month.
    forgotten = await store.end_month(connection, found.epoch, *bounds, seconds=PART_SECONDS)
    await _keep_marks(connection, keyring, kept)
    why = Counter(f"kept_{each.why}" for each in kept)
    entry = by_daemon("retention.part", f"epoch/{found.epoch}", {"round": found.round, "kept": why.total()}, now)
    places = forgotten.get("stays", 0) + forgotten.get("stay_versions", 0)
    root = await sign_forgotten(connection, entry.id, found.epoch, places)
    told = {**why, **forgotten, "forgotten_root": root}
    counts = orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode()
    entry = replace(entry, details={**entry.details, "counts": counts, "forgotten_root": root})
    await audit.append_vouched(connection, keyring, entry)
    parted = current._replace(state="parted", kept=why.total(), counts=counts)
    await store.keep_round(connection, parted)
    return parted


async def _check_month(connection: Connection, keyring: Keyring, epoch: int, since: str | None) -> None:
    """Hold each stay of a month changed `since` (None: all) against its receipt, for by its columns is decided who
    is forgotten.

    A month whose keys were destroyed by hand cannot be asked any more. Raises NotAsSigned.
    """
    if epoch not in keyring.epochs():
        return
    lo, hi = epoch_bounds(epoch)
    after, proofs = UUID(int=lo.int - 1), NO_PROOFS
    while page := await store.stays_after(connection, after, hi, since, PAGE_ROWS):
        proofs = await read_proofs(connection, keyring, page, proofs)
        if not await asyncio.to_thread(lambda rows, by: all(as_signed(keyring, row, by) for row in rows), page, proofs):
            raise NotAsSigned
        after = page[-1].id


async def sign_forgotten(connection: Connection, entry_id: UUID, epoch: int, places: int) -> str:
    """The root that the audit entry of this id is to name of the places that this transaction added to those forgotten.

    Raises NotAsSigned if there are others that nobody signed: they are not of us, and are not signed either.
    """
    added = await store.claim_forgotten(connection, epoch, entry_id, seconds=PART_SECONDS)
    if sum(len(row.indexes) for row in added) != places:
        raise NotAsSigned
    return await asyncio.to_thread(forgotten_root, added)  # seconds, for a month of a million


async def _keep(
    connection: Connection, keyring: Keyring, found: Round, kept: Collection[Kept]
) -> dict[UUID, list[bytes]]:
    """Seal what is kept under the month's new keys, a page at a time: each version and its tags.

    Returns what became of the blobs of each stay. Raises NotAsSigned.
    """
    if kept and keyring.index_version(found.epoch) <= found.index_version:
        raise NotEndable("những gì phải giữ chưa có khoá mới", "what is kept has no new keys yet")
    pairs: dict[UUID, list[bytes]] = {}
    proofs = NO_PROOFS
    places = sorted((each.id, each.facility_id) for each in kept)
    for at in range(0, len(places), PAGE_ROWS):
        page = places[at : at + PAGE_ROWS]
        wanted = [facility_id for _, facility_id in page], [stay_id for stay_id, _ in page]
        stays = await stays_store.read_stays(connection, *wanted)
        versions = await stays_store.read_versions(connection, *wanted)
        proofs = await read_proofs(connection, keyring, [*stays, *versions], proofs)
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
    """Seal versions anew. Raises NotAsSigned."""
    done = []
    for row in rows:
        contents = as_signed(keyring, row, proofs)
        if contents is None:
            raise NotAsSigned
        sealed = reseal_contents(keyring, row, contents)
        pair = sha256(row.sealed).digest() + sha256(sealed).digest()
        resealed = replace(row, sealed=sealed)
        done.append(_Anew(resealed, tags_of(keyring, resealed, contents), pair))
    return done


async def _keep_marks(connection: Connection, keyring: Keyring, kept: Collection[Kept]) -> None:
    """Seal the marks of temporary residence of what is kept anew. Raises NotAsSigned if one does not open."""
    anew, places = [], [(each.facility_id, each.id) for each in kept]
    for facility_id, stay_id, sealed in await store.marks_of(connection, places):
        name = mark_name(facility_id, stay_id)
        try:
            anew.append((facility_id, stay_id, keyring.seal(name, keyring.open(name, sealed))))
        except (Tampered, UnknownEpoch):
            raise NotAsSigned from None
    await store.replace_marks(connection, anew)


async def _record(connection: Connection, keyring: Keyring, epoch: int, pairs: Sequence[bytes], now: datetime) -> None:
    """Keep what became of each blob, and have the audit sign it, as every re-encryption does."""
    if not pairs:
        return
    reseal_id, version = uuid7(), keyring.sealing_version(epoch)
    root = await asyncio.to_thread(pairs_root, pairs)
    details = {"epoch": epoch, "key_version": version, "table": "stays", "records": len(pairs), "root": root}
    entry_id = await audit.append_vouched(
        connection, keyring, by_daemon("keys.reencrypt", f"reseals/{reseal_id}", details, now)
    )
    await sealed_store.insert_reseal(
        connection, sealed_store.Reseal(reseal_id, epoch, version, now, entry_id, b"".join(pairs))
    )


async def _destroy(
    pool: asyncpg.Pool, keys: KeyStore, keyring: Keyring, found: Round, periods: Periods, now: datetime
) -> Round:
    """Destroy the keys of what was forgotten, and certify it. Raises NotEndable if another process did."""
    gone = await asyncio.to_thread(_destroy_keys, keys, keyring, found, now)
    final_at = now + timedelta(days=periods.key_backup_days)
    async with pool.acquire() as connection, connection.transaction():
        current = await store.lock_round(connection, found.epoch, found.round)
        if current is None or current.state != "parted":
            raise _went_on()
        ended = current._replace(state="ended", ended_at=now, final_at=final_at)
        await store.keep_round(connection, ended)
        entry = by_daemon("retention.end", f"epoch/{ended.epoch}", _certificate(ended, gone), now)
        await audit.append_vouched(connection, keyring, entry)
    return ended


def _destroy_keys(keys: KeyStore, keyring: Keyring, found: Round, now: datetime) -> list[str]:
    """Destroy the keys of a round; the names of all that are destroyed of its month."""
    try:
        keys.destroy_epoch(found.epoch, REASON, now, through=found.index_version if found.kept else None)
    except UnknownEpoch:
        log.warning("retention.no_keys", epoch=found.epoch)  # a month that never had keys
    keyring.reload()
    return [str(each.name) for each in keys.inventory() if each.state == "destroyed" and each.name.epoch == found.epoch]


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


# -- small things ------------------------------------------------------------------------------------------------------


def newest_versions(keys: KeyStore, purpose: KeyPurpose) -> dict[int, int]:
    """The newest version of each month's key for a purpose."""
    return {
        facts.name.epoch or 0: facts.name.version
        for facts in keys.inventory()
        if facts.state == "active" and facts.name.purpose is purpose
    }


def _end_of(epoch: int) -> datetime:
    """The first instant after a month."""
    return datetime.fromtimestamp((epoch_bounds(epoch)[1].int >> 80) / 1000, UTC)


async def _alert(pool: asyncpg.Pool, epoch: int, now: datetime) -> None:
    async with pool.acquire() as connection:
        await raise_alert(connection, AlertKind.MONTH_NOT_ENDED, f"epoch/{epoch}", {}, now)


def by_operator(by: str, action: str, subject: str, details: Mapping[str, Any], now: datetime) -> audit.AuditEntry:
    """An audit entry of what somebody at the command line did."""
    return audit.AuditEntry(at=now, actor_kind="operator", actor=by, action=action, object=subject, details=details)


def by_daemon(action: str, subject: str, details: Mapping[str, Any], now: datetime) -> audit.AuditEntry:
    """An audit entry of what retention did by the clock."""
    return audit.AuditEntry(
        at=now, actor_kind="daemon", actor="retention", action=action, object=subject, details=details
    )
