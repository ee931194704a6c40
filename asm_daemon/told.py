"""Whether rows in clear are what the audit tells of them: holds, ended months, erasures, extracts, and the directory.

No receipt speaks of these rows, and nothing in them is sealed. But each came, and changed, with an audit entry, which
nobody can take back and only our programs can write (`vouching`). So the audit is read as a story of states, each row's
last one is compared with the row, and a row of which it tells nothing, or that is gone, is a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from asm_daemon.crypto import KeyName, Keyring
from asm_daemon.ledger import canonical_json, instant_text
from asm_daemon.model import Facility
from asm_daemon.store import Connection
from asm_daemon.store import retention as retention_store
from asm_daemon.store import told as store
from asm_daemon.store.alerts import AlertKind, raise_alert
from asm_daemon.vouching import read_vouched
from schemas.violations import Text

_PAGE = 2_000
_HOLDS = (b'"hold.',)
_TOLD = (*_HOLDS, b'"retention.', b'"erasure.', b'"extract.publish"', b'"facility.add"', b'"sender.assign"',
         b'"principal.add"', b'"key.create"', b'"key.revoke"', b'"grant.')  # fmt: skip
NOT_VOUCHED = "not_vouched"
State = Mapping[str, Any]
Fault = tuple[str, str]


async def verify_told(
    pool: asyncpg.Pool, audit_pool: asyncpg.Pool, feeds_pool: asyncpg.Pool, auth_pool: asyncpg.Pool, *, keyring: Keyring
) -> tuple[int, list[Fault]]:
    """Hold every row of which the audit tells against what it tells: (rows, faults as (what is wrong, where)).

    The pools connect as asm_retention, asm_audit, asm_feeds and asm_auth. The audit is read before the rows and after:
    what happens meanwhile is no fault. Memory grows with the number of such rows, not with the audit.
    """
    story = _Story(keyring, _TOLD)
    await story.read_on(audit_pool)
    before = {subject: len(states) for subject, states in story.states.items()}
    rows = await _rows(pool, feeds_pool, auth_pool)
    await story.read_on(audit_pool)
    faults: list[Fault] = []
    for subject, row in rows.items():
        told = story.states.get(subject, [])
        if not any(_fits(row, state) for state in told[max(before.get(subject, 0) - 1, 0) :]):
            faults.append(("told_otherwise" if told else "not_told", subject))
    gone = [subject for subject in before if subject not in rows]
    faults += [("told_and_gone", subject) for subject in gone if not only_ended(story.states[subject][-1])]
    faults += [(NOT_VOUCHED, entry) for entry in sorted(story.of_others)]  # last: anybody may write many of them
    return len(rows), faults


_ENDS = ({"lifted_at", "lifted_by", "lifted_reason"}, {"revoked"})


def only_ended(told: State) -> bool:
    """Whether all that is told of a row is its end: somebody put it into the database, and we took its effect away."""
    return told.keys() in _ENDS


def _fits(row: State, told: State) -> bool:
    return row == told or (only_ended(told) and told.items() <= row.items())


HOLDS_CHANGED = Text(
    "lệnh giữ dữ liệu khác với những gì nhật ký kiểm toán ghi nhận; xem keys verify --all",
    "legal holds are not what the audit tells; see keys verify --all",
)


class HoldsChanged(Exception):
    """Legal holds were changed past the program: `count` of them are not what the audit tells."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} legal holds are not what the audit tells of them")
        self.count = count


class Holds:
    """Legal holds, and what the audit tells of them: while one is not what was told, nothing may be forgotten."""

    def __init__(self, audit_pool: asyncpg.Pool, keyring: Keyring) -> None:
        """`audit_pool` connects as asm_audit."""
        self._audit_pool, self._story = audit_pool, _Story(keyring, _HOLDS)

    async def read(self) -> None:
        """Read what the audit tells so far, which may be long, before anybody has to wait."""
        await self._story.read_on(self._audit_pool)

    @property
    def told(self) -> Mapping[str, State]:
        """The last state of each hold that is told so far, by its subject (`hold/<id>`)."""
        return {subject: states[-1] for subject, states in self._story.states.items()}

    def tells(self, hold_id: UUID) -> bool:
        """Whether a hold is told of and in force: a row that nobody tells of may be taken away as it came."""
        states = self._story.states.get(f"hold/{hold_id}")
        return states is not None and not only_ended(states[-1]) and states[-1]["lifted_at"] is None

    async def require(self, connection: Connection) -> None:
        """Raise HoldsChanged unless every hold is what is told of it, in a transaction as asm_retention that has
        stopped holds (`store.retention.stop_holds`): what it decides by them then stands.

        Entries since `read` are read as well.
        """
        if changed := await self.changed(connection):
            raise HoldsChanged(len(changed))

    async def changed(self, connection: Connection) -> set[str]:
        """The holds that are not what is told of them; with the same transaction as `require`."""
        rows = await _holds(connection)  # each was committed with its entry, so that is found now
        await self.read()
        told = self.told
        untold = rows.keys() - told.keys()
        gone = {subject for subject in told.keys() - rows.keys() if not only_ended(told[subject])}
        return untold | gone | {each for each in rows.keys() & told.keys() if not _fits(rows[each], told[each])}


async def watch_holds_once(pool: asyncpg.Pool, holds: Holds, now: datetime) -> int:
    """How many legal holds are not what the audit tells of them; the operator is alerted. As asm_retention."""
    await holds.read()
    try:
        async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            await retention_store.stop_holds(connection)
            await holds.require(connection)
    except HoldsChanged as found:
        await alert_to_holds(pool, found, now)
        return found.count
    return 0


async def alert_to_holds(pool: asyncpg.Pool, found: HoldsChanged, now: datetime) -> None:
    """Tell the operator. As asm_retention."""
    async with pool.acquire() as connection:
        await raise_alert(connection, AlertKind.HOLDS_CHANGED, "legal_holds", {"holds": found.count}, now)


def facility_digest(members: Mapping[str, Any]) -> str:
    """What the audit keeps of a facility's entry (the members of `model.Facility`): enough to find a changed one."""
    return sha256(canonical_json(members)).hexdigest()


# -- what the audit tells ----------------------------------------------------------------------------------------------


@dataclass(slots=True, repr=False)
class _Story:
    """The states of each row, by its subject, in the order in which the audit tells them; of entries with `words`.

    Those that are not vouched for (`of_others`) tell nothing.
    """

    keyring: Keyring = field(repr=False)
    words: Sequence[bytes]
    states: dict[str, list[State]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    of_others: set[str] = field(default_factory=set)
    position: int = 0

    async def read_on(self, pool: asyncpg.Pool) -> None:
        """Take in the entries since the last time, as asm_audit; those that wait for their place last."""
        async with pool.acquire() as connection:
            # First: what is sealed meanwhile is then read in the log.
            waiting = await store.pending(connection, self.words)
            async for entries, position in store.telling(connection, self.position, self.words):
                for each in entries:
                    self._take(each)
                self.position = position
        for each in waiting:
            self._take(each)

    def _take(self, told: store.Body) -> None:
        if not any(word in told.body for word in self.words):
            return
        entry = read_vouched(self.keyring, told.body)
        if entry is None:
            if _claims_to_tell(told.body):
                self.of_others.add(f"audit/{told.entry_id}")
            return
        teller = _TELLERS.get(entry["action"])
        if teller is None or entry["id"] in self.seen:
            return
        self.seen.add(entry["id"])  # whoever repeats an entry of ours repeats what it tells, and is not heard
        subject, change = teller(entry, entry["details"])
        states = self.states.setdefault(subject, [])
        states.append({**(states[-1] if states else {}), **change})


def _claims_to_tell(body: bytes) -> bool:
    """Whether an entry that nobody vouches for says what only we may say, or is nothing that can be read."""
    try:
        return orjson.loads(body)["action"] in _TELLERS
    except (ValueError, TypeError, KeyError):
        return True


_Entry = Mapping[str, Any]
_Change = tuple[str, State]


def _hold_placed(entry: _Entry, told: State) -> _Change:
    placed = {
        "facility_id": told["facility"],
        "stay_id": told["stay"],
        "present_from": told["from"],
        "present_until": told["until"],
        "warrant_ref": told["warrant"],
        "reason": told["reason"],
        "placed_at": entry["at"],
        "placed_by": entry["actor"],
    }
    return entry["object"], {**placed, "lifted_at": None, "lifted_by": None, "lifted_reason": None}


def _hold_lifted(entry: _Entry, told: State) -> _Change:
    return entry["object"], {
        "lifted_at": entry["at"], "lifted_by": entry["actor"], "lifted_reason": told["reason"]
    }  # fmt: skip


def _round_of(entry: _Entry, told: State) -> str:
    return f"{entry['object']}/{told['round']}"


def _round_begun(entry: _Entry, told: State) -> _Change:
    begun = {name: told[name] for name in ("cutoffs", "index_version")}
    begun |= {"cutoff_at": told["cutoff"], "begun_at": entry["at"]}
    empty = {"kept": None, "counts": None, "ended_at": None, "final_at": None}
    return _round_of(entry, told), {"state": "begun", **begun, **empty}


def _round_parted(entry: _Entry, told: State) -> _Change:
    return _round_of(entry, told), {"state": "parted", "kept": told["kept"], "counts": told["counts"]}


def _round_ended(entry: _Entry, told: State) -> _Change:
    return _round_of(entry, told), {"state": "ended", "ended_at": entry["at"], "final_at": told["no_copy_after"]}


def _round_final(entry: _Entry, told: State) -> _Change:
    return _round_of(entry, told), {"state": "final"}


def _erased(entry: _Entry, told: State) -> _Change:
    whose = {"facility_id": told["facility"], "epoch": told["epoch"], "erased_at": entry["at"], "keys_gone_at": None}
    return _erasure(entry, {**whose, "state": "erased", **_erasure_told(told)})


def _erasure_hastened(entry: _Entry, told: State) -> _Change:
    return _erasure(entry, _erasure_told(told))


def _erasure_keys_gone(entry: _Entry, told: State) -> _Change:
    return _erasure(entry, {"state": "keys_gone", "keys_gone_at": entry["at"], **_erasure_told(told)})


def _erasure_final(entry: _Entry, _told: State) -> _Change:
    return _erasure(entry, {"state": "final"})


def _erasure(entry: _Entry, change: State) -> _Change:
    return f"erasure/{entry['object'].removeprefix('stay/')}", change


def _erasure_told(told: State) -> State:
    version = max((KeyName.parse(name).version for name in told["keys"]), default=None)
    return {"urgent": bool(told["urgent"]), "key_version": version, "final_at": told["no_copy_after"]}


def _published(entry: _Entry, told: State) -> _Change:
    members = {name: told[name] for name in ("template", "period", "release_no", "sha256")}
    return entry["object"], {"department": entry["organisation"], "published_at": entry["at"], **members}


def _facility_added(entry: _Entry, told: State) -> _Change:
    return entry["object"], {
        "sha256": told["sha256"],
        "kind": told["kind"],
        "sandbox": bool(told["sandbox"]),
        "active": True,
    }


def _sender_assigned(entry: _Entry, told: State) -> _Change:
    read_as = {name: told[name] for name in ("overnight_classes", "charset", "relative_role", "certificate")}
    place = entry["object"].removeprefix("facility/")
    return f"sender/{told['application']}/{told['facility']}", {"code": place, **read_as}


def _principal_added(entry: _Entry, told: State) -> _Change:
    return entry["object"], {"kind": told["kind"], "department": told["department"], "active": True}


def _key_created(entry: _Entry, told: State) -> _Change:
    members = {name: told[name] for name in ("principal", "expires_at", "secret_sha256")}
    return entry["object"], {**members, "revoked": False}


def _key_revoked(entry: _Entry, _told: State) -> _Change:
    return entry["object"], {"revoked": True}


def _grant_given(entry: _Entry, told: State) -> _Change:
    return _grant(entry, told), {"scopes": told["scopes"], "revoked": False}


def _grant_revoked(entry: _Entry, told: State) -> _Change:
    return _grant(entry, told), {"revoked": True}


def _grant(entry: _Entry, told: State) -> str:
    return f"grant/{told['principal']}/{entry['object'].removeprefix('facility/')}"


_TELLERS = {
    "hold.place": _hold_placed,
    "hold.lift": _hold_lifted,
    "retention.begin": _round_begun,
    "retention.part": _round_parted,
    "retention.end": _round_ended,
    "retention.final": _round_final,
    "erasure.erase": _erased,
    "erasure.hasten": _erasure_hastened,
    "erasure.keys_gone": _erasure_keys_gone,
    "erasure.final": _erasure_final,
    "extract.publish": _published,
    "facility.add": _facility_added,
    "sender.assign": _sender_assigned,
    "principal.add": _principal_added,
    "key.create": _key_created,
    "key.revoke": _key_revoked,
    "grant.give": _grant_given,
    "grant.revoke": _grant_revoked,
}
"""How each entry changes the row that it is about: the columns that it tells, named as in the state of the row."""


# -- what stands there -------------------------------------------------------------------------------------------------


async def _rows(pool: asyncpg.Pool, feeds_pool: asyncpg.Pool, auth_pool: asyncpg.Pool) -> dict[str, State]:
    """Every row of which the audit tells, as it tells of it."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        rows = await _holds(connection) | await _kept(connection)
    async with feeds_pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        rows |= await _releases(connection)
    async with auth_pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        rows |= await _directory(connection)
    return rows


async def _holds(connection: Connection) -> dict[str, State]:
    return {f"hold/{row['id']}": _state(row, "id") for row in await store.holds(connection)}


async def _kept(connection: Connection) -> dict[str, State]:
    rows: dict[str, State] = {}
    for row in await store.rounds(connection):
        rows[f"epoch/{row['epoch']}/{row['round']}"] = _state(row, "epoch", "round")
    for row in await store.erasures(connection):
        rows[f"erasure/{row['stay_id']}"] = _state(row, "stay_id")
    return rows


async def _releases(connection: Connection) -> dict[str, State]:
    rows: dict[str, State] = {}
    async for found in store.releases(connection, _PAGE):
        state = found._asdict()
        del state["id"], state["sound"]
        digest = found.sha256.hex() if found.sound else None
        rows[f"release/{found.id}"] = {**state, "published_at": instant_text(found.published_at), "sha256": digest}
    return rows


async def _directory(connection: Connection) -> dict[str, State]:
    rows: dict[str, State] = {}
    for row in await store.facilities(connection):
        flags = {name: row[name] for name in ("kind", "sandbox", "active")}
        digest = facility_digest({name: row[name] for name in Facility.__slots__})
        rows[f"facility/{row['code']}"] = {"sha256": digest, **flags}
    for row in await store.senders(connection):
        rows[f"sender/{row['sending_application']}/{row['sending_facility']}"] = _state(
            row, "sending_application", "sending_facility"
        )
    for row in await store.principals(connection):
        rows[f"principal/{row['id']}"] = _state(row, "id")
    for row in await store.keys(connection):
        told = {"principal": str(row["principal_id"]), "expires_at": row["expires_at"].isoformat()}
        rows[f"key/{row['id']}"] = {**told, "secret_sha256": row["secret_sha256"].hex(), "revoked": row["revoked"]}
    for row in await store.grants(connection):
        rows[f"grant/{row['principal_id']}/{row['code']}"] = _state(row, "principal_id", "code")
    return rows


def _state(row: asyncpg.Record, *named: str) -> State:
    """A row without what names it, each value as the audit writes it."""
    return {column: _text(value) for column, value in row.items() if column not in named}


def _text(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return instant_text(value) if hasattr(value, "astimezone") else value
