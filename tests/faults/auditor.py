"""What a run has to be like once everything works again: each promise a check that finds where it was broken.

The evidence is read once, as one snapshot of our database and one of the simulator's, and opened with our keys. A check
is a function of the evidence that yields what it found, in words that name stays, versions and acts, never a person.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from asm_daemon import audit
from asm_daemon.audit import AuditVerification
from asm_daemon.crypto import KeyPurpose, Keyring, Tampered, UnknownEpoch, document_value
from asm_daemon.issuing import tree_of
from asm_daemon.keystores import open_keyring
from asm_daemon.ledger import BadNote, NoteKey, canonical_json, open_checkpoint, read_checkpoint
from asm_daemon.model import Contents, Facility, ReceiptBatch, StayRow
from asm_daemon.receipts import BadReceipt, ReceiptLeaf, declared_digest, verify_receipt
from asm_daemon.sealing import open_contents
from asm_daemon.store import LOST, facilities
from asm_daemon.store import sync as sync_store
from asm_daemon.store.sync import CarriedStay, Conservation
from asm_daemon.sync import population_item
from asm_daemon.vouching import MEMBER
from schemas.act import ActKind
from schemas.population import digest
from schemas.synthetic import person
from tests.faults.contents import State, after, said
from tests.faults.journal import Journal, SentAct

READER = "asm_migrate"
"""The login that may read everything."""

_POLL_SECONDS = 0.03
_ASKING_SECONDS = 5.0
_SHOWN = 20  # findings of one check


@dataclass(frozen=True, slots=True)
class Databases:
    """Ours, as a URL with the place `{role}`, and the simulator's."""

    daemon_url: str
    population_url: str


@dataclass(slots=True)
class Findings:
    """What an audit found. Good only if `faults` is empty; each begins with the name of the check."""

    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def checks(self) -> set[str]:
        """The checks that found something."""
        return {fault.partition(":")[0] for fault in self.faults}


# -- coming to rest ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Convergence:
    """How long it took until nothing was left to do; `stuck` is what was still left when the time was over."""

    seconds: float
    stuck: tuple[str, ...] = ()


async def await_convergence(databases: Databases, bound_seconds: float) -> Convergence:
    """Wait until every stay is confirmed or refused and every audit entry sealed, at most `bound_seconds`.

    The promise is that what is healed comes to rest by itself. A database that is away is asked again.
    """
    started = time.monotonic()
    left: tuple[str, ...] = ("the database was never there",)
    while time.monotonic() - started < bound_seconds:
        try:
            connection = await _connect(databases.daemon_url, READER)
            try:
                while left and time.monotonic() - started < bound_seconds:
                    left = await _left_to_do(connection)
                    if left:
                        await asyncio.sleep(_POLL_SECONDS)
            finally:
                connection.terminate()
        except (*LOST, asyncpg.PostgresError) as error:
            left = (f"the database is away: {type(error).__name__}",)
            await asyncio.sleep(_POLL_SECONDS)
        if not left:
            break
    return Convergence(time.monotonic() - started, left)


async def _left_to_do(connection: asyncpg.Connection) -> tuple[str, ...]:
    law = await sync_store.conservation(connection)
    unsealed = await connection.fetchval("SELECT count(*) FROM audit_pending")
    counts = {
        "queued": law.queued,
        "waiting": law.waiting,
        "misplaced": law.misplaced,
        "of former versions": law.remains,
        "audit entries unsealed": unsealed,
    }
    left = tuple(f"{count} {name}" for name, count in counts.items() if count)
    if not left:
        return ()
    reasons = await connection.fetch("SELECT reason, code, count(*) FROM sync_wait GROUP BY 1, 2 ORDER BY 1, 2")
    return (*left, *(f"{count} waiting: {reason} {code}" for reason, code, count in reasons))


async def _connect(url: str, role: str) -> asyncpg.Connection:
    return await asyncpg.connect(url.replace("{role}", role), timeout=_ASKING_SECONDS, command_timeout=_ASKING_SECONDS)


# -- the evidence ------------------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """A stay as the simulator holds it."""

    version: int
    digest: str


class Effect(NamedTuple):
    """A version that took effect there."""

    stay_id: UUID
    version: int


class Entry(NamedTuple):
    """A sealed audit entry."""

    position: int
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """Everything that the checks look at. `versions` are all of a stay in order, the current one last."""

    journal: Journal
    keyring: Keyring
    receipt_keys: Sequence[bytes]
    facilities: Mapping[int, Facility]
    versions: Mapping[UUID, Sequence[StayRow]]
    current: Mapping[UUID, StayRow]
    refs: Mapping[tuple[int, bytes], UUID]
    in_house: Sequence[tuple[int, UUID, int]]
    batches: Mapping[UUID, ReceiptBatch]
    law: Conservation
    refused: Mapping[UUID, str]
    entries: Sequence[Entry]
    checkpoints: Sequence[int]
    audit: AuditVerification
    held: Mapping[UUID, Held]
    effects: Sequence[Effect]
    violations: Mapping[str, int]
    expected_refusals: frozenset[str]
    logs: Sequence[Path]

    @cached_property
    def codes(self) -> Mapping[str, Facility]:
        """The facilities by code."""
        return {facility.code: facility for facility in self.facilities.values()}

    @cached_property
    def contents(self) -> Mapping[tuple[UUID, int], Contents]:
        """The opened blobs; of one that does not open there is none."""
        opened = {}
        for rows in self.versions.values():
            for row in rows:
                try:
                    opened[row.id, row.version] = open_contents(self.keyring, row)
                except (Tampered, UnknownEpoch):
                    continue
        return opened

    def state(self, stay_id: UUID, version: int) -> State | None:
        """What a version says."""
        row = self.row(stay_id, version)
        contents = self.contents.get((stay_id, version))
        if row is None or contents is None:
            return None
        return State(contents.declared, row.status, said(row.departed_at) if row.departed_at else None)

    def row(self, stay_id: UUID, version: int) -> StayRow | None:
        """A version as it is stored."""
        return next((row for row in self.versions.get(stay_id, ()) if row.version == version), None)

    @cached_property
    def acts_of(self) -> Mapping[UUID, Sequence[SentAct]]:
        """What may have been done to each stay, in the order in which it was first sent."""
        acts: dict[UUID, list[SentAct]] = defaultdict(list)
        for act in self.journal.acts:
            stay_id = self.stay_of(act)
            if stay_id is not None:
                acts[stay_id].append(act)
        return acts

    def stay_of(self, act: SentAct) -> UUID | None:
        """The stay that an act is about: as it was answered, else by the name that it gave."""
        if act.stay_id is not None:
            return act.stay_id
        facility = self.codes.get(act.facility)
        name = act.source_ref or (f"Idempotency-Key {act.key}" if act.key else None)
        if facility is None or name is None:
            return None
        named = self.refs.get((facility.id, self.keyring.reference_tag(facility.id, name)))
        return named or self._of_person.get((facility.id, act.content.person))

    @cached_property
    def _of_person(self) -> Mapping[tuple[int, int], UUID]:
        """By whom it is about: a cancelled stay has lost a name that was not its sender's own."""
        numbers = {person(act.content.person).document_number: act.content.person for act in self.journal.acts}
        found: dict[tuple[int, int], UUID] = {}
        for stay_id, rows in self.versions.items():
            contents = self.contents.get((stay_id, rows[0].version))
            if contents is None or rows[-1].status != "cancelled":
                continue
            number = (contents.declared["guest"].get("document") or {}).get("number")
            if number in numbers:
                found[rows[0].facility_id, numbers[number]] = stay_id
        return found


async def gather_evidence(
    databases: Databases,
    keys: Path | Keyring,
    journal: Journal,
    *,
    expected_refusals: Iterable[str] = (),
    logs: Sequence[Path] = (),
) -> Evidence:
    """Read everything, each database in one snapshot."""
    ours = await _connect(databases.daemon_url, READER)
    theirs = await _connect(databases.population_url, "postgres")
    try:
        async with (
            ours.transaction(isolation="repeatable_read", readonly=True),
            theirs.transaction(isolation="repeatable_read", readonly=True),
        ):
            keyring = keys if isinstance(keys, Keyring) else open_keyring(keys)
            return await read_evidence(
                ours, theirs, keyring, journal, expected_refusals=frozenset(expected_refusals), logs=logs
            )
    finally:
        ours.terminate()
        theirs.terminate()


async def read_evidence(
    ours: asyncpg.Connection,
    theirs: asyncpg.Connection,
    keyring: Keyring,
    journal: Journal,
    *,
    expected_refusals: frozenset[str] = frozenset(),
    logs: Sequence[Path] = (),
) -> Evidence:
    """Read everything, in the transactions (repeatable read) of these connections."""
    checkpoint_key = NoteKey(
        f"{await _deployment(ours)}/audit", keyring.signing_key(KeyPurpose.CHECKPOINT).public_key_bytes
    )
    held = await theirs.fetch("SELECT stay_id, version, encode(digest, 'hex') FROM stays")
    effects = await theirs.fetch("SELECT stay_id, version FROM effects ORDER BY position")
    broken = await theirs.fetch("SELECT code, occurrences FROM sender_violations")
    return Evidence(
        journal=journal,
        keyring=keyring,
        receipt_keys=[
            keyring.signing_key(purpose).public_key_bytes for purpose in (KeyPurpose.RECEIPT, KeyPurpose.RECEIPT_TRIAL)
        ],
        **await _known(ours),
        audit=await audit.verify(ours, checkpoint_key),
        held={row[0]: Held(*row[1:]) for row in held},
        effects=[Effect(*row) for row in effects],
        violations={row[0]: row[1] for row in broken},
        expected_refusals=expected_refusals,
        logs=logs,
    )


_COLUMNS = [one.name for one in fields(StayRow)]


async def _known(connection: asyncpg.Connection) -> dict[str, Any]:
    columns = ", ".join(_COLUMNS)
    current = [StayRow(*row) for row in await connection.fetch(f"SELECT {columns} FROM stays ORDER BY id")]
    of_version = columns.replace("id,", "stay_id,", 1)
    earlier = await connection.fetch(f"SELECT {of_version} FROM stay_versions ORDER BY stay_id, version")
    versions: dict[UUID, list[StayRow]] = defaultdict(list)
    for row in (*(StayRow(*row) for row in earlier), *current):
        versions[row.id].append(row)
    entries = await connection.fetch("SELECT position, body FROM audit_log ORDER BY position")
    places = await facilities.list_facilities(connection, "", 1000)
    return {
        "facilities": {facility.id: facility for facility in places},
        "versions": versions,
        "current": {row.id: row for row in current},
        "refs": {
            (row[0], row[1]): row[2]
            for row in await connection.fetch("SELECT facility_id, ref_tag, stay_id FROM source_refs")
        },
        "in_house": [
            tuple(row) for row in await connection.fetch("SELECT facility_id, stay_id, document_tag FROM in_house")
        ],
        "batches": {
            row[0]: ReceiptBatch(*row)
            for row in await connection.fetch("SELECT id, signed_at, leaves, checkpoint FROM receipt_batches")
        },
        "law": await sync_store.conservation(connection),
        "refused": {row[0]: row[1] for row in await connection.fetch("SELECT stay_id, code FROM sync_refused")},
        "entries": [Entry(row[0], orjson.loads(row[1])) for row in entries],
        "checkpoints": [row[0] for row in await connection.fetch("SELECT size FROM audit_checkpoints ORDER BY size")],
    }


async def _deployment(connection: asyncpg.Connection) -> str:
    """Who signs, as the first checkpoint says; if another name signed any of them, the verification finds it."""
    note = await connection.fetchval("SELECT note FROM audit_checkpoints ORDER BY size LIMIT 1")
    return "nobody" if note is None else read_checkpoint(note).origin.removesuffix("/audit")


# -- what was accepted is there, once ----------------------------------------------------------------------------------


def accepted_acts_exist(evidence: Evidence) -> Iterator[str]:
    """Every 2xx and every ACK AA is on file: the stay, the version, and in it what that act said."""
    for act in evidence.journal.accepted():
        stay_id = evidence.stay_of(act)
        if stay_id is None or stay_id not in evidence.versions:
            yield f"{act.label()} was accepted, and there is no such stay"
        elif act.version is not None:
            yield from _is_in(evidence, act, stay_id, act.version)
        elif not any(_says(evidence.state(stay_id, row.version), act) for row in evidence.versions[stay_id]):
            yield f"{act.label()} was acknowledged, and no version of {stay_id} says so"


def _is_in(evidence: Evidence, act: SentAct, stay_id: UUID, version: int) -> Iterator[str]:
    row = evidence.row(stay_id, version)
    if row is None:
        yield f"{act.label()} was accepted as version {version} of {stay_id}, which is not there"
    elif not _says(evidence.state(stay_id, version), act):
        yield f"{act.label()} is not what version {version} of {stay_id} says"
    elif act.outcome == "accepted" and row.event != act.kind.value:
        yield f"{act.label()} is on file as {row.event} in version {version} of {stay_id}"


def _says(state: State | None, act: SentAct) -> bool:
    """Whether a version holds the effect of the act."""
    if state is None:
        return False
    if act.kind is ActKind.DECLARE:
        return state.declared == act.content.fields()
    if act.kind is ActKind.CANCEL:
        return state.status == "cancelled"
    return after(state, act.content) == state


def every_version_was_sent_once(evidence: Evidence) -> Iterator[str]:
    """Each version was made by one act that was sent, of which the sender was not told that it was refused; no act made
    two. So what was never answered is there at most once, and nothing is there that nobody said."""
    used: set[int] = set()
    for stay_id, rows in evidence.versions.items():
        acts = evidence.acts_of.get(stay_id, ())
        told = {act.version: act for act in reversed(acts) if act.outcome == "accepted" and act.version is not None}
        before: State | None = None
        for row in rows:
            state = evidence.state(stay_id, row.version)
            known = told.get(row.version)
            possible = [known] if known is not None else [act for act in acts if act not in told.values()]
            made_by = next((act for act in possible if act.number not in used and _made(act, row, before, state)), None)
            if made_by is None:
                yield f"nobody sent version {row.version} ({row.event}) of {stay_id}"
            else:
                used.add(made_by.number)
            before = state


def _made(act: SentAct, row: StayRow, before: State | None, state: State | None) -> bool:
    """Whether this act can have made this version of the one before."""
    if state is None or not act.may_have_counted or act.kind.value != row.event:
        return False
    return after(before, act.content) == state


def no_version_is_told_to_two(evidence: Evidence) -> Iterator[str]:
    """Of two acts that were accepted, neither duplicate of the other, each made a version of its own."""
    told: Counter[tuple[UUID, int]] = Counter(
        (act.stay_id, act.version)
        for act in evidence.journal.acts
        if act.outcome == "accepted" and act.stay_id is not None and act.version is not None
    )
    for (stay_id, version), times in told.items():
        if times > 1:
            yield f"{times} acts were told that they made version {version} of {stay_id}"


def no_stay_twice_for_one_key(evidence: Evidence) -> Iterator[str]:
    """There is one stay for one (facility, source_ref), for one Idempotency-Key, and for one guest and arrival."""
    names: Counter[tuple[int, str]] = Counter()
    said_by: Counter[tuple[int, bytes]] = Counter()
    for stay_id, rows in evidence.versions.items():
        contents = evidence.contents.get((stay_id, rows[0].version))
        if contents is None:
            continue
        if contents.source_ref is not None:
            names[rows[0].facility_id, contents.source_ref] += 1
        guest = contents.declared["guest"].get("document"), contents.declared["arrived_at"]
        said_by[rows[0].facility_id, orjson.dumps(guest)] += 1
    for (facility_id, name), times in names.items():
        if times > 1:
            yield f"{times} stays of facility {facility_id} are called {name}"
    for (facility_id, _), times in said_by.items():
        if times > 1:
            yield f"{times} stays of facility {facility_id} are of one guest and arrival"


def no_guest_in_house_twice(evidence: Evidence) -> Iterator[str]:
    """Nobody is in house twice at one facility."""
    times = Counter((facility_id, tag) for facility_id, _, tag in evidence.in_house)
    for (facility_id, _), count in times.items():
        if count > 1:
            yield f"one guest is in house {count} times at facility {facility_id}"


def refusals_are_right(evidence: Evidence) -> Iterator[str]:
    """What was refused was to be refused, for that reason; what was to be refused was not taken."""
    for act in evidence.journal.acts:
        if act.outcome == "refused" and act.code not in act.refusals:
            yield f"{act.label()} was refused as {act.code}"
        elif act.is_accepted and not act.may_succeed:
            yield f"{act.label()} was accepted, but had to be refused"


def versions_have_no_gap(evidence: Evidence) -> Iterator[str]:
    """The versions of a stay are 1, 2, 3 … to the current one, each opens with its key, and each stay has a current."""
    for stay_id, rows in evidence.versions.items():
        numbers = [row.version for row in rows]
        if numbers != list(range(1, len(rows) + 1)) or stay_id not in evidence.current:
            yield f"{stay_id} has the versions {numbers}, current {stay_id in evidence.current}"
        for row in rows:
            if (stay_id, row.version) not in evidence.contents:
                yield f"version {row.version} of {stay_id} does not open"


def in_house_agrees_with_stays(evidence: Evidence) -> Iterator[str]:
    """In house is who is declared and has neither departed nor been cancelled: by their document, nobody else."""
    present = {stay_id: (facility_id, tag) for facility_id, stay_id, tag in evidence.in_house}
    for stay_id, (facility_id, tag) in present.items():
        row = evidence.current.get(stay_id)
        if row is None or row.status != "declared" or row.facility_id != facility_id:
            yield f"{stay_id} is in house, and no declared stay"
            continue
        contents = evidence.contents.get((stay_id, row.version))
        number = (contents.declared["guest"].get("document") or {}).get("number") if contents is not None else None
        if number is not None and evidence.keyring.presence_tag(document_value(number)) != tag:
            yield f"{stay_id} is in house as somebody else"
    for stay_id, row in evidence.current.items():
        if row.status == "declared" and stay_id not in present:
            yield f"{stay_id} is declared, and not in house"


def references_lead_to_stays(evidence: Evidence) -> Iterator[str]:
    """A name leads to a stay of its facility, and every stay with a name of its sender's is found by it."""
    for (facility_id, _), stay_id in evidence.refs.items():
        row = evidence.current.get(stay_id)
        if row is None or row.facility_id != facility_id:
            yield f"a name of facility {facility_id} leads to {stay_id}, which is not there"
    for stay_id, row in evidence.current.items():
        contents = evidence.contents.get((stay_id, row.version))
        if contents is None or contents.source_ref is None:
            continue
        tag = evidence.keyring.reference_tag(row.facility_id, contents.source_ref)
        if evidence.refs.get((row.facility_id, tag)) != stay_id:
            yield f"{stay_id} is not found by its name"


# -- it is carried -----------------------------------------------------------------------------------------------------


def conservation_holds(evidence: Evidence) -> Iterator[str]:
    """Every stay is confirmed or refused, in one place only, and no work is left over."""
    law = evidence.law
    for name in ("misplaced", "remains", "queued", "waiting"):
        count = getattr(law, name)
        if count:
            yield f"{count} {name}"
    if law.stays != law.confirmed + law.refused:
        yield f"{law.stays} stays, {law.confirmed} confirmed, {law.refused} refused"


def refused_stays_are_explained(evidence: Evidence) -> Iterator[str]:
    """Of what the population database refused, or we could not send, each has a code that this run expects."""
    for stay_id, code in evidence.refused.items():
        if code not in evidence.expected_refusals:
            yield f"{stay_id} waits for a human: {code}"


def population_holds_the_newest(evidence: Evidence) -> Iterator[str]:
    """The population database holds of every stay that is no trial exactly the newest version, as we would send it, and
    nothing else."""
    ours = {
        stay_id: row for stay_id, row in evidence.current.items() if not evidence.facilities[row.facility_id].sandbox
    }
    for stay_id, row in ours.items():
        held = evidence.held.get(stay_id)
        if held is None:
            if stay_id not in evidence.refused:
                yield f"{stay_id} is not there"
        elif held.version != row.version:
            if stay_id not in evidence.refused or held.version > row.version:
                yield f"{stay_id} is there in version {held.version} instead of {row.version}"
        elif held.digest != _digest(evidence, row):
            yield f"version {row.version} of {stay_id} is there with another content"
    for stay_id in evidence.held.keys() - ours.keys():
        yield f"{stay_id} is there, and no stay of ours"


def _digest(evidence: Evidence, row: StayRow) -> str | None:
    facility = evidence.facilities[row.facility_id]
    carried = CarriedStay(row, facility.code, facility.kind.value, facility.commune)
    try:
        return digest(population_item(carried, evidence.contents.get((row.id, row.version))))
    except (ValueError, TypeError, KeyError):
        return None


def effects_happen_once(evidence: Evidence) -> Iterator[str]:
    """No version took effect twice there."""
    for (stay_id, version), times in Counter(evidence.effects).items():
        if times > 1:
            yield f"version {version} of {stay_id} took effect {times} times"


def effects_come_in_order(evidence: Evidence) -> Iterator[str]:
    """Of each stay, no older version took effect after a newer one."""
    newest: dict[UUID, int] = {}
    for stay_id, version in evidence.effects:
        if version < newest.get(stay_id, 0):
            yield f"version {version} of {stay_id} took effect after version {newest[stay_id]}"
        newest[stay_id] = max(version, newest.get(stay_id, 0))


def effects_are_what_is_held(evidence: Evidence) -> Iterator[str]:
    """What is held there is what took effect last."""
    last = dict(evidence.effects)
    for stay_id in last.keys() | evidence.held.keys():
        held = evidence.held.get(stay_id)
        if held is None or last.get(stay_id) != held.version:
            yield f"{stay_id}: what is held is not what took effect last"


def the_contract_was_kept(evidence: Evidence) -> Iterator[str]:
    """The other side has nothing to say against what we sent."""
    for code, times in evidence.violations.items():
        if times:
            yield f"{code} {times} times"


# -- receipts ----------------------------------------------------------------------------------------------------------


def receipts_verify(evidence: Evidence) -> Iterator[str]:
    """Every receipt that was given verifies offline with the public key, and is of the version it was given for."""
    for (stay_id, version), given in evidence.journal.receipts.items():
        for text in given:
            try:
                signed = orjson.loads(text)["signed"]
                leaf = _verified(evidence, signed)
            except (BadReceipt, KeyError, TypeError, ValueError):
                yield f"a receipt of version {version} of {stay_id} does not verify"
                continue
            if (leaf.stay_id, leaf.version) != (stay_id, version):
                yield f"the receipt given for version {version} of {stay_id} is another's"


def _verified(evidence: Evidence, signed: Mapping[str, Any]) -> ReceiptLeaf:
    failure: BadReceipt | None = None
    for key in evidence.receipt_keys:
        try:
            return verify_receipt(signed, key).leaf
        except BadReceipt as error:
            failure = error
    raise failure or BadReceipt("there is no key")


def receipts_are_the_same_bytes(evidence: Evidence) -> Iterator[str]:
    """However often the receipt of one version was given, it was the same bytes."""
    for (stay_id, version), given in evidence.journal.receipts.items():
        if len(given) > 1:
            yield f"there are {len(given)} different receipts of version {version} of {stay_id}"


def every_acceptance_had_its_receipt(evidence: Evidence) -> Iterator[str]:
    """With every 2xx came the receipt of that version."""
    for act in evidence.journal.accepted():
        if act.version is not None and (act.stay_id, act.version) not in evidence.journal.receipts:
            yield f"{act.label()} came without a receipt"


def stored_batches_verify(evidence: Evidence) -> Iterator[str]:
    """Every stored batch of receipts is what was signed, and its leaves are the stored versions: each in its place,
    none without its version, none twice. A row that was changed or put back is seen."""
    places: Counter[tuple[UUID, int]] = Counter()
    for rows in evidence.versions.values():
        for row in rows:
            places[row.receipt_batch_id, row.receipt_index] += 1
            batch = evidence.batches.get(row.receipt_batch_id)
            start = row.receipt_index * 32
            if batch is None or batch.leaves[start : start + 32] != _leaf_of(evidence, row):
                yield f"version {row.version} of {row.id} is not what was signed for it"
    for batch in evidence.batches.values():
        if not _is_signed(evidence, batch):
            yield f"batch {batch.id} is not what was signed"
        for index in range(len(batch.leaves) // 32):
            if places[batch.id, index] != 1:
                yield f"leaf {index} of batch {batch.id} is of {places[batch.id, index]} versions"


def _leaf_of(evidence: Evidence, row: StayRow) -> bytes | None:
    contents = evidence.contents.get((row.id, row.version))
    if contents is None:
        return None
    return ReceiptLeaf(
        stay_id=row.id,
        version=row.version,
        facility=evidence.facilities[row.facility_id].code,
        event=row.event,
        received_at=row.received_at,
        deadline_at=row.deadline_at,
        late_minutes=row.late_minutes,
        sealed_sha256=hashlib.sha256(row.sealed).digest(),
        declared_digest=declared_digest(contents.salt, canonical_json(contents.declared)),
    ).hash()


def _is_signed(evidence: Evidence, batch: ReceiptBatch) -> bool:
    try:
        origin = read_checkpoint(batch.checkpoint).origin
        name, _, batch_id = origin.rpartition("/")
        tree = tree_of(batch)
        for key in evidence.receipt_keys:
            try:
                checkpoint = open_checkpoint(batch.checkpoint, NoteKey(name, key))
            except BadNote:
                continue
            return (batch_id, checkpoint.size, checkpoint.root) == (str(batch.id), tree.size, tree.root)
    except (BadNote, ValueError):
        return False
    return False


# -- the audit ---------------------------------------------------------------------------------------------------------


def audit_verifies(evidence: Evidence) -> Iterator[str]:
    """The audit is the tree that was signed, to its last entry."""
    for fault in evidence.audit.faults:
        yield f"{fault.kind.value} at {fault.position}"


def every_batch_is_in_the_audit(evidence: Evidence) -> Iterator[str]:
    """Every batch of receipts has its one entry, with its root and the number of its rows, and there is no other."""
    entries = [entry.body for entry in evidence.entries if entry.body["action"] == "stays.commit"]
    known = Counter(body["object"] for body in entries)
    for batch in evidence.batches.values():
        if known[str(batch.id)] != 1:
            yield f"batch {batch.id} has {known[str(batch.id)]} audit entries"
    for body in entries:
        batch_id = UUID(body["object"])
        known_batch = evidence.batches.get(batch_id)
        if known_batch is None or body["details"] != {**_as_audited(known_batch), MEMBER: body["details"].get(MEMBER)}:
            yield f"the audit entry of batch {batch_id} is not of that batch"


def _as_audited(batch: ReceiptBatch) -> dict[str, Any]:
    return {"rows": len(batch.leaves) // 32, "checkpoint": batch.checkpoint.split("\n", 3)[2]}


def every_read_is_in_the_audit(evidence: Evidence) -> Iterator[str]:
    """No owner got declared data back without an entry, and what came back is what was declared."""
    known = Counter(entry.body["object"] for entry in evidence.entries if entry.body["action"] == "stay.read")
    answered = [read for read in evidence.journal.reads if read.version is not None]
    for stay_id, times in Counter(read.stay_id for read in answered).items():
        if known[f"stay/{stay_id}"] < times:
            yield f"{stay_id} was read {times} times, and {known[f'stay/{stay_id}']} times by the audit"
    for read in answered:
        contents = evidence.contents.get((read.stay_id, read.version or 0))
        if contents is None or contents.declared != read.declaration:
            yield f"what was read as version {read.version} of {read.stay_id} is not what is kept"


def every_search_is_in_the_audit(evidence: Evidence) -> Iterator[str]:
    """No search was answered without its intent, sealed before anything was read, and its outcome, with the number and
    the hash of the stays that were shown. No outcome is without its intent."""
    intents, outcomes = _searches(evidence)
    for search in evidence.journal.searches:
        if search.status != 200:
            continue
        trace = str(search.trace)
        intent, outcome = intents.get(trace), outcomes.get(trace, [])
        if intent is None:
            yield f"search {trace} was answered without an intent"
        if len(outcome) != 1:
            yield f"search {trace} was answered with {len(outcome)} outcomes on record"
        if intent is None or len(outcome) != 1:
            continue
        if not any(intent.position < size <= outcome[0].position for size in evidence.checkpoints):
            yield f"the intent of search {trace} was not sealed before its outcome"
        shown = hashlib.sha256(b"".join(stay_id.bytes for stay_id in search.found)).hexdigest()
        details = outcome[0].body["details"]
        if (details.get("count"), details.get("returned_sha256")) != (len(search.found), shown):
            yield f"search {trace} showed something else than is on record"
    for trace, entries in outcomes.items():
        if trace not in intents or any(entry.position < intents[trace].position for entry in entries):
            yield f"outcome {trace} has no intent before it"
    if len(intents) > len(evidence.journal.searches):
        yield f"{len(intents)} intents, but {len(evidence.journal.searches)} searches"


def _searches(evidence: Evidence) -> tuple[dict[str, Entry], dict[str, list[Entry]]]:
    intents = {entry.body["id"]: entry for entry in evidence.entries if entry.body["action"] == "police.search"}
    outcomes: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        if entry.body["action"] == "police.search.outcome":
            outcomes[str(entry.body["object"]).removeprefix("audit/")].append(entry)
    return intents, outcomes


def searches_find_what_is_on_file(evidence: Evidence) -> Iterator[str]:
    """What was on file before a search was sent was found by it, and nobody else was."""
    of_person = {act.content.person: act for act in evidence.journal.acts}
    for search in evidence.journal.searches:
        if search.status != 200:
            continue
        for stay_id in search.expected - set(search.found):
            yield f"search {search.trace} did not find {stay_id}"
        number = person(of_person[search.person].content.person).document_number
        for stay_id in search.found:
            rows = evidence.versions.get(stay_id, ())
            contents = evidence.contents.get((stay_id, rows[-1].version)) if rows else None
            if contents is None or (contents.declared["guest"].get("document") or {}).get("number") != number:
                yield f"search {search.trace} found {stay_id}, which is not of that guest"


def logs_hold_nobody(evidence: Evidence) -> Iterator[str]:
    """No process wrote a guest's name or document number into its log."""
    people = {act.content.person for act in evidence.journal.acts}
    needles = {one: _written(one) for one in people}
    for path in evidence.logs:
        text = path.read_bytes()
        for one, forms in needles.items():
            if any(form in text for form in forms):
                yield f"{path.name} tells of person {one}"


def _written(index: int) -> list[bytes]:
    who = person(index)
    return [
        who.document_number.encode(),
        who.full_name.encode(),
        orjson.dumps(who.full_name),
        ascii(who.full_name).encode()[1:-1],
    ]


CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    accepted_acts_exist,
    every_version_was_sent_once,
    no_version_is_told_to_two,
    no_stay_twice_for_one_key,
    no_guest_in_house_twice,
    refusals_are_right,
    versions_have_no_gap,
    in_house_agrees_with_stays,
    references_lead_to_stays,
    conservation_holds,
    refused_stays_are_explained,
    population_holds_the_newest,
    effects_happen_once,
    effects_come_in_order,
    effects_are_what_is_held,
    the_contract_was_kept,
    receipts_verify,
    receipts_are_the_same_bytes,
    every_acceptance_had_its_receipt,
    stored_batches_verify,
    audit_verifies,
    every_batch_is_in_the_audit,
    every_read_is_in_the_audit,
    every_search_is_in_the_audit,
    searches_find_what_is_on_file,
    logs_hold_nobody,
)


async def audit_run(
    databases: Databases,
    keys: Path | Keyring,
    journal: Journal,
    *,
    expected_refusals: Iterable[str] = (),
    logs: Sequence[Path] = (),
) -> Findings:
    """Hold what is there against what was sent and answered. Everything has to work again, and to have come to rest.

    `keys` is the daemon's key store, `logs` what its processes wrote, `expected_refusals` the codes with which the
    population database was made to refuse stays.
    """
    evidence = await gather_evidence(databases, keys, journal, expected_refusals=expected_refusals, logs=logs)
    return examine(evidence)


def examine(evidence: Evidence) -> Findings:
    """Make every check."""
    findings = Findings(
        counts=evidence.journal.counts()
        | {
            "stays": len(evidence.current),
            "versions": sum(map(len, evidence.versions.values())),
            "confirmed": evidence.law.confirmed,
            "refused_by_population": evidence.law.refused,
            "effects": len(evidence.effects),
            "receipt_batches": len(evidence.batches),
            "audit_entries": evidence.audit.entries,
        }
    )
    for check in CHECKS:
        found = list(check(evidence))
        findings.faults += [f"{check.__name__}: {text}" for text in found[:_SHOWN]]
        if len(found) > _SHOWN:
            findings.faults.append(f"{check.__name__}: and {len(found) - _SHOWN} more")
    return findings
