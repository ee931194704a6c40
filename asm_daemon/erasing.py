"""Erasure of single stays at somebody's request (xoá theo yêu cầu): what is gone at once, and what copies still hold.

A stay is deleted with all its versions. Backups of the database hold it until they expire; an urgent erasure makes it
unreadable there too: the rest of its month is sealed and tagged anew, and the keys that opened it are destroyed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from asm_daemon import audit
from asm_daemon.crypto import PER_EPOCH, KeyName, KeyPurpose, Keyring, UnknownEpoch, epoch_of
from asm_daemon.keystores import KeyStore
from asm_daemon.ledger import instant_text
from asm_daemon.retention import NotAsSigned, Periods, by_operator, newest_versions, sign_forgotten
from asm_daemon.stay_proofs import as_signed, read_proofs
from asm_daemon.store import Connection
from asm_daemon.store import retention as store
from asm_daemon.store import stays as stays_store
from asm_daemon.store.retention import Erasable, Erasure
from asm_daemon.told import HOLDS_CHANGED, Holds, HoldsChanged, alert_to_holds
from schemas.violations import Text


class NotErasable(Exception):
    """The stay is not erased; `reason` says why."""

    def __init__(self, vi: str, en: str) -> None:
        super().__init__(en)
        self.reason = Text(vi, en)


NO_SUCH_STAY = Text("không có lượt lưu trú này", "there is no such stay")
HELD = Text(
    "lượt này đang bị giữ theo lệnh; xem hold list --stay", "the stay is under a legal hold; see hold list --stay"
)
NOT_ENDED = Text(
    "lượt này chưa kết thúc: hãy ghi nhận khách rời đi hoặc huỷ khai báo trước",
    "the stay has not ended: check the guest out or cancel the stay first",
)
ON_ITS_WAY = Text(
    "lượt này đang được chuyển đến cơ sở dữ liệu dân cư theo luật; hãy thử lại sau",
    "the stay is on its way to the population database, which the law demands; try again later",
)
NOT_AS_SIGNED = Text(
    "bản ghi khác với những gì đã ký: hãy giữ một bản sao làm chứng cứ, rồi thêm --changed",
    "its record is not what was signed: keep a copy as evidence, then say --changed",
)
FORGOTTEN_NOT_OURS = Text(
    "có người khác đã ghi vào danh sách chỗ đã xoá, không khớp với những gì đã ký",
    "not what was signed: somebody else wrote into the list of forgotten places",
)
IN_WORK = Text("một tiến trình khác đang xử lý việc xoá này", "another process works on this erasure")


class Request(NamedTuple):
    """Which stay is to be erased, why, and at whose hand.

    `urgent` has the rest of its month sealed and tagged anew (the job `reencrypt`) and the old keys destroyed.
    `changed`: also if its record is not what was signed, which is said in the audit.
    """

    stay_id: UUID
    reason: str
    by: str
    urgent: bool = False
    changed: bool = False

    def __repr__(self) -> str:
        return f"<Request {self.stay_id}>"


async def erase_stay(
    pool: asyncpg.Pool, audit_pool: asyncpg.Pool, keys: KeyStore, request: Request, periods: Periods, now: datetime
) -> Erasure:
    """Erase one stay with all its versions, and note until when copies can be read. As asm_retention and asm_audit.

    Said urgently of a stay that was erased before, it makes that erasure urgent. Raises NotErasable, and ValueError if
    the id is none of a stay.
    """
    epoch_of(request.stay_id)
    keyring = await asyncio.to_thread(keys.keyring)
    holds = Holds(audit_pool, keyring)
    await holds.read()
    try:
        async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            before = await store.find_erasure(connection, request.stay_id)
            if before is None:
                erasure = await _erase(connection, keys, keyring, holds, request, periods, now)
            elif request.urgent:
                newest = await _newest(keys, before.epoch)
                erasure = await _hasten(connection, keyring, before, newest, request.by, now)
            else:
                erasure = before
    except HoldsChanged as found:
        await alert_to_holds(pool, found, now)
        raise NotErasable(*HOLDS_CHANGED) from None
    if erasure.urgent:
        await renew_for(keys, erasure, now)
    return erasure


async def _newest(keys: KeyStore, epoch: int) -> int:
    """The newest data key of a month now; 0 if it has none."""
    return (await asyncio.to_thread(newest_versions, keys, KeyPurpose.DATA)).get(epoch, 0)


async def _erase(
    connection: Connection,
    keys: KeyStore,
    keyring: Keyring,
    holds: Holds,
    request: Request,
    periods: Periods,
    now: datetime,
) -> Erasure:
    await store.stop_holds(connection)
    await holds.require(connection)
    found = await store.erasable(connection, request.stay_id)
    if found is None:
        raise NotErasable(*NO_SUCH_STAY)
    if refusal := _refusal(found):
        raise NotErasable(*refusal)
    epoch = epoch_of(request.stay_id)
    # Of now, when the row is held: it may have been sealed anew since this began, but from here on it is not.
    version = await _newest(keys, epoch) or None if request.urgent else None
    final_at = now + timedelta(days=periods.database_backup_days)
    erasure = Erasure(
        request.stay_id, found.facility_id, epoch, "erased", version is not None, version, now, final_at
    )  # fmt: skip
    entry = by_operator(
        request.by, "erasure.erase", f"stay/{request.stay_id}", told_of(erasure, request.reason), now
    )  # fmt: skip
    sound, places = await _standing(connection, keyring, found.facility_id, request.stay_id)
    if not (sound or request.changed):
        raise NotErasable(*NOT_AS_SIGNED)
    await store.forget_stay(connection, found.facility_id, request.stay_id, epoch)
    try:
        root = await sign_forgotten(connection, entry.id, epoch, places)
    except NotAsSigned:
        raise NotErasable(*FORGOTTEN_NOT_OURS) from None
    await store.insert_erasure(connection, erasure)
    details = {**entry.details, "as_signed": int(sound), "forgotten_root": root}
    await audit.append_vouched(connection, keyring, replace(entry, details=details))
    return erasure


def _refusal(found: Erasable) -> Text | None:
    """What stands against erasing a stay."""
    if found.held:
        return HELD
    if found.status == "declared":
        return NOT_ENDED
    return ON_ITS_WAY if found.on_its_way else None


async def _standing(connection: Connection, keyring: Keyring, facility_id: int, stay_id: UUID) -> tuple[bool, int]:
    """Whether a stay is what was signed, as far as its month has keys to tell, and how many versions it has."""
    current = await stays_store.read_stays(connection, [facility_id], [stay_id])
    proofs = await read_proofs(connection, keyring, current)
    sound = epoch_of(stay_id) not in keyring.epochs() or all(as_signed(keyring, row, proofs) for row in current)
    return sound, len(current) + len(await stays_store.read_versions(connection, [facility_id], [stay_id]))


async def _hasten(
    connection: Connection, keyring: Keyring, before: Erasure, newest: int, by: str, now: datetime
) -> Erasure:
    if before.urgent or before.state != "erased" or not newest:
        return before
    after = before._replace(urgent=True, key_version=newest)
    if not await store.advance_erasure(connection, before, after):
        raise NotErasable(*IN_WORK)
    entry = by_operator(by, "erasure.hasten", f"stay/{before.stay_id}", told_of(after, None), now)
    await audit.append_vouched(connection, keyring, entry)
    return after


def told_of(erasure: Erasure, reason: str | None) -> dict[str, Any]:
    """What the audit tells of an erasure."""
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


async def renew_for(keys: KeyStore, erasure: Erasure, now: datetime) -> None:
    """Have the month of an urgent erasure sealed anew, unless that is under way already: a crash before this is made
    good by the job that certifies."""
    with suppress(UnknownEpoch):  # the month has ended meanwhile, and all its keys with it
        await asyncio.to_thread(keys.renew_epoch, erasure.epoch, now, after=erasure.key_version or 0)


async def is_readable(keys: KeyStore, erasure: Erasure) -> bool:
    """Whether a key that opens an urgently erased stay, or finds it by its tags, is still there."""
    return any(
        facts.name.epoch == erasure.epoch
        and facts.state != "destroyed"
        and facts.name.version <= (erasure.key_version or 0)
        for facts in await asyncio.to_thread(keys.inventory)
    )
