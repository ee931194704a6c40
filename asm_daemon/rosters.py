"""Rosters (danh sách người ở): read a full list, show what it would change, and change exactly that.

A plan is kept, sealed, until it expires, and changes nothing. Applying it makes the comparison again: if the outcome is
not the one that was reviewed, the house has changed and nothing is done. The acts go through intake like all others,
and are idempotent by nature, so an execution that broke off is simply repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from asm_daemon import audit, imports, rostering, rules
from asm_daemon.crypto import Keyring, RecordName, Tampered, UnknownEpoch, epoch_of
from asm_daemon.intake import Command, Intake, Outcome
from asm_daemon.ledger import canonical_json
from asm_daemon.model import Facility, Principal, Scope
from asm_daemon.problems import Refused, problem_document
from asm_daemon.rostering import Decision, Plan, Resident, Step
from asm_daemon.sealing import open_contents
from asm_daemon.store import Connection
from asm_daemon.store import rosters as store
from asm_daemon.store import stays as stays_store
from schemas.act import Act, ActKind, Unreadable, from_json, to_json
from schemas.roster import (
    RosterConfirmation,
    RosterCounts,
    RosterGuest,
    RosterLimit,
    RosterOutcome,
    RosterPlan,
    RosterResult,
    RosterRow,
)
from schemas.stay import Problem
from schemas.violations import violation

HOUSE_LIMIT = 50_000
"""The most guests in house with whom a roster is compared."""
PART_BYTES = 60_000
"""How much of a plan one sealed record holds."""
_ORDER = {ActKind.CHECK_OUT: 0, ActKind.CORRECT: 1, ActKind.EXTEND: 1, ActKind.DECLARE: 2}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the id that acts carry, and how the audit names it. `reads` is whether names may be shown."""

    actor: str
    kind: str
    organisation: str | None = field(repr=False)
    reads: bool

    @classmethod
    def of(cls, principal: Principal, facility: Facility) -> Caller:
        """A principal at a facility."""
        reads = Scope.READ in principal.grants[facility.code][1]
        return cls(str(principal.id), principal.kind.value, principal.organisation, reads)


@dataclass(frozen=True, slots=True, repr=False)
class _Kept:
    """What is sealed of a plan."""

    lines: tuple[Act, ...]
    refused: Mapping[int, Problem]
    scope: Mapping[str, str]
    absence_nights: int
    steps: tuple[Step, ...]
    in_house: int
    outside: int
    warnings: Mapping[int, Sequence[Any]]

    @property
    def plan(self) -> Plan:
        return Plan(self.steps, self.in_house, self.outside, bool(self.refused))


class Rosters:
    """The one way in for rosters.

    `pool` connects as asm_intake. `absence_nights` holds where a roster says nothing; a plan lives for `plan_hours`.
    """

    def __init__(
        self, intake: Intake, pool: asyncpg.Pool, keyring: Keyring, *, absence_nights: int, plan_hours: int
    ) -> None:
        self._intake = intake
        self._pool = pool
        self._keyring = keyring
        self._absence_nights = absence_nights
        self._plan_life = timedelta(hours=plan_hours)

    # -- planning ------------------------------------------------------------------------------------------------------

    async def plan(
        self,
        connector_name: str,
        document: bytes,
        *,
        facility: Facility,
        scope: Mapping[str, str],
        absence_nights: int | None,
        caller: Caller,
        now: datetime,
    ) -> RosterPlan:
        """Read a roster and keep what it would change.

        Raises `Refused`: no_rows, declaration_invalid when the document as a whole cannot be read, too_many_rows.
        """
        nights = self._absence_nights if absence_nights is None else absence_nights
        lines, refused = await _read(connector_name, document, scope)
        async with self._pool.acquire() as connection:
            residents = await self._residents(connection, facility)
            departed = await self._departed(connection, facility, lines)
        made = rostering.plan(lines, refused, residents, departed, scope, absence_nights=nights, now=now)
        found = await self._rehearsed(facility, made, now, caller)
        if found:
            refused = {**refused, **found}
            made = rostering.plan(lines, refused, residents, departed, scope, absence_nights=nights, now=now)
        warnings = {line.row: [list_of(each) for each in line.warnings] for line in lines if line.warnings}
        kept = _Kept(tuple(lines), refused, scope, nights, made.steps, made.in_house, made.outside, warnings)
        plan_id, content = uuid7(nanoseconds=int(now.timestamp() * 1_000_000) * 1000), _encode(kept)
        row = store.PlanRow(
            plan_id, facility.id, now, now + self._plan_life, sha256(content).digest(), None, "{}", None
        )
        async with self._pool.acquire() as connection, connection.transaction():
            await store.insert_plan(connection, *row[:5])
            await store.insert_parts(connection, plan_id, "plan", self._sealed(row, "plan", content))
            await audit.append(connection, _entry(caller, row, "roster.plan", now, made.counts))
        return _shown_plan(facility, row, kept, caller.reads)

    async def _rehearsed(self, facility: Facility, made: Plan, now: datetime, caller: Caller) -> dict[int, Problem]:
        """The lines that intake would refuse, with the reason."""
        steps = [step for step in made.steps if step.kind is not None and step.row is not None and not step.choices]
        outcomes = await self._intake.rehearse([_command(facility, step, now, caller) for step in steps])
        return {
            step.row: problem_document(outcome.refusal)
            for step, outcome in zip(steps, outcomes, strict=True)
            if outcome.refusal is not None and step.row is not None
        }

    async def _residents(self, connection: Connection, facility: Facility) -> list[Resident]:
        rows = await store.list_house(connection, facility.id, HOUSE_LIMIT + 1)
        if len(rows) > HOUSE_LIMIT:
            raise Refused("too_many_rows")
        seen = await store.last_seen(connection, facility.id)
        residents = []
        for row in rows:
            try:
                contents = open_contents(self._keyring, row)
            except (Tampered, UnknownEpoch):
                raise Refused("record_unreadable", stay_id=str(row.id)) from None
            residents.append(
                Resident(
                    row.id, row.version, row.arrived_at, contents.declared, contents.guest_ref, contents.groups,
                    seen.get(row.id),
                )
            )  # fmt: skip
        return residents

    async def _departed(
        self, connection: Connection, facility: Facility, lines: Iterable[Act]
    ) -> Callable[[Act], bool]:
        """Which lines name, by document and day of arrival, a stay that has ended."""
        tags = {line.row: tag for line in lines if (tag := self._derived_tag(facility, line)) is not None}
        refs = await stays_store.find_refs(connection, [facility.id] * len(tags), list(tags.values()))
        found = await stays_store.read_stays(connection, [facility.id] * len(refs), list(refs.values()))
        ended = {row.id for row in found if row.status == "departed"}
        rows = {row for row, tag in tags.items() if refs.get((facility.id, tag)) in ended}
        return lambda line: line.row in rows

    def _derived_tag(self, facility: Facility, line: Act) -> bytes | None:
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # then intake will say what is wrong
            guest, arrived_at = rules.guest_value(line.fields["guest"]), line.fields["arrived_at"]
            day = rules.local_day(datetime.fromisoformat(arrived_at))
            return self._keyring.reference_tag(facility.id, rules.derived_ref(facility.id, guest, day))
        return None

    # -- showing -------------------------------------------------------------------------------------------------------

    async def read(self, facilities: Mapping[int, tuple[Facility, Caller]], plan_id: UUID, now: datetime) -> RosterPlan:
        """A plan that has not expired; showing names is audited. Raises `Refused` not_found."""
        async with self._pool.acquire() as connection, connection.transaction():
            row, kept = await self._kept(connection, list(facilities), plan_id, now)
            facility, caller = facilities[row.facility_id]
            if caller.reads:
                await audit.append(connection, _entry(caller, row, "roster.read", now))
        return _shown_plan(facility, row, kept, caller.reads)

    async def _kept(
        self, connection: Connection, facility_ids: Sequence[int], plan_id: UUID, now: datetime
    ) -> tuple[store.PlanRow, _Kept]:
        row = await store.read_plan(connection, plan_id, facility_ids, now)
        if row is None:
            raise Refused("not_found")
        content = self._opened(row, "plan", await store.read_parts(connection, plan_id, "plan"))
        if sha256(content).digest() != row.plan_sha256:
            raise Refused("record_unreadable")
        return row, _decode(content)

    # -- applying ------------------------------------------------------------------------------------------------------

    async def apply(
        self,
        facilities: Mapping[int, tuple[Facility, Caller]],
        plan_id: UUID,
        confirmation: RosterConfirmation,
        now: datetime,
    ) -> RosterResult:
        """Do what a plan says; the same answer again where it is done.

        Raises `Refused`: not_found (also once it has expired), roster_outdated, roster_unconfirmed, request_invalid for
        a decision that the row does not have. Then nothing was done.
        """
        decisions = {each.row: rostering.decision_named(each.decision) for each in confirmation.decisions}
        async with self._pool.acquire() as connection:
            row, kept = await self._kept(connection, list(facilities), plan_id, now)
            facility, caller = facilities[row.facility_id]
            if row.finished_at is not None:
                return await self._result(connection, row)
            if row.started_at is None:
                _check(kept.plan, confirmation, decisions)
                if await self._is_outdated(connection, facility, row, kept):
                    row, _ = await self._kept(connection, list(facilities), plan_id, now)
                    if row.started_at is None:  # else it is the plan itself that changes the house just now
                        raise Refused("roster_outdated")
                async with connection.transaction():
                    named = orjson.dumps({str(key): value.value for key, value in decisions.items()}).decode()
                    if await store.start_plan(connection, plan_id, now, named):
                        await audit.append(connection, _entry(caller, row, "roster.apply", now, kept.plan.counts))
                row, _ = await self._kept(connection, list(facilities), plan_id, now)  # perhaps somebody else's start
        return await self._execute(facility, caller, row, kept, now)

    async def _is_outdated(self, connection: Connection, facility: Facility, row: store.PlanRow, kept: _Kept) -> bool:
        """Whether the same list would lead to another plan now."""
        residents = await self._residents(connection, facility)
        departed = await self._departed(connection, facility, kept.lines)
        again = rostering.plan(
            kept.lines, kept.refused, residents, departed, kept.scope,
            absence_nights=kept.absence_nights, now=row.created_at,
        )  # fmt: skip
        return [step.essence() for step in again.steps] != [step.essence() for step in kept.steps]

    async def _execute(
        self, facility: Facility, caller: Caller, row: store.PlanRow, kept: _Kept, now: datetime
    ) -> RosterResult:
        decisions = {int(key): Decision(value) for key, value in orjson.loads(row.decisions).items()}
        lines = {line.row: line for line in kept.lines}
        done = [(step, rostering.settled(step, lines, decisions)) for step in kept.steps]
        acting = sorted(
            (step for _, step in done if step is not None and step.kind is not None),
            key=lambda step: _ORDER[step.kind or ActKind.DECLARE],
        )
        commands = [_command(facility, step, now, caller) for step in acting]
        outcomes = dict(zip(map(_key, acting), await self._intake.submit(commands), strict=True))
        results = [
            _outcome(step, decisions.get(step.row or 0), settled, outcomes)
            for step, settled in done
            if step.kind is not None or step.choices or step.problem is not None
        ]
        counts = Counter(result.outcome for result in results)
        passing = any(out.refusal is not None and out.refusal.problem.status >= 500 for out in outcomes.values())
        result = RosterResult(
            plan_id=str(row.id), facility=facility.code, state="applying" if passing else "applied", applied_at=now,
            counts={"accepted": counts["accepted"], "duplicate": counts["duplicate"], "refused": counts["refused"],
                    "undecided": counts["undecided"]},
            results=results,
        )  # fmt: skip
        seen = rostering.seen_by(kept.plan, decisions)
        declared = (outcomes[_key(step)].stay for step in acting if step.kind is ActKind.DECLARE)
        seen += {stay.id for stay in declared if stay is not None} - set(seen)
        async with self._pool.acquire() as connection, connection.transaction():
            await store.put_seen(connection, facility.id, seen, rules.local_day(row.created_at))
            if not passing and await store.finish_plan(connection, row.id, now):
                content = result.model_dump_json().encode()
                await store.insert_parts(connection, row.id, "result", self._sealed(row, "result", content))
        return result

    async def _result(self, connection: Connection, row: store.PlanRow) -> RosterResult:
        content = self._opened(row, "result", await store.read_parts(connection, row.id, "result"))
        return RosterResult.model_validate_json(content)

    # -- sealing -------------------------------------------------------------------------------------------------------

    def _sealed(self, row: store.PlanRow, kind: str, content: bytes) -> list[bytes]:
        pieces = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
        return [self._keyring.seal(_record(row, kind, number), piece) for number, piece in enumerate(pieces, 1)]

    def _opened(self, row: store.PlanRow, kind: str, parts: Sequence[bytes]) -> bytes:
        try:
            return b"".join(
                self._keyring.open(_record(row, kind, number), part) for number, part in enumerate(parts, 1)
            )
        except (Tampered, UnknownEpoch):
            raise Refused("record_unreadable") from None


async def erase_once(pool: asyncpg.Pool, now: datetime) -> dict[str, int]:
    """Erase the plans that have expired, and what was kept of stays that are not in house any more."""
    async with pool.acquire() as connection, connection.transaction():
        return {"plans": await store.erase_expired(connection, now), "seen": await store.forget_seen(connection)}


# -- reading -----------------------------------------------------------------------------------------------------------


async def _read(connector_name: str, document: bytes, scope: Mapping[str, str]) -> tuple[list[Act], dict[int, Problem]]:
    """The lines of a roster, and those that cannot be taken."""
    read = await imports.read_rows(connector_name, document)
    acts = [result for result in read if isinstance(result, Act)]
    faults = {result.row: list(result.violations) for result in read if isinstance(result, Unreadable)}
    faults |= rostering.faults_of(acts, scope)
    lines = [rostering.scoped(act, scope) for act in acts if act.row not in faults]
    refused = {row: problem_document(Refused("declaration_invalid", violations=found)) for row, found in faults.items()}
    return lines, refused


def list_of(found: Any) -> list[Any]:
    """A violation as it is kept."""
    return [found.code, found.pointer, found.vi, found.en, found.place]


def _command(facility: Facility, step: Step, now: datetime, caller: Caller) -> Command:
    version = step.version if step.kind in (ActKind.CORRECT, ActKind.EXTEND, ActKind.CHECK_OUT) else None
    stay_id = step.stay_id if step.kind is not ActKind.DECLARE else None
    act = rostering.act_of(step)
    return Command(facility, act, now, caller.actor, stay_id=stay_id, expected_version=version)


def _key(step: Step) -> tuple[int | None, UUID | None]:
    return step.row, step.stay_id


def _check(made: Plan, confirmation: RosterConfirmation, decisions: Mapping[int, Decision]) -> None:
    wrong = rostering.check_decisions(made, decisions)
    if wrong:
        raise Refused(
            "request_invalid", violations=[violation("no_such_decision", "/decisions", limit=row) for row in wrong]
        )
    if made.check_outs > made.check_out_limit and confirmation.confirm_check_outs != made.check_outs:
        raise Refused("roster_unconfirmed")


def _entry(
    caller: Caller, row: store.PlanRow, action: str, now: datetime, counts: Mapping[Any, int] | None = None
) -> audit.AuditEntry:
    return audit.AuditEntry(
        at=now,
        actor_kind=caller.kind,
        actor=caller.actor,
        organisation=caller.organisation,
        action=action,
        object=f"roster/{row.id}",
        details={"facility_id": row.facility_id, "plan_sha256": row.plan_sha256.hex(), **dict(counts or {})},
    )


# -- what is kept ------------------------------------------------------------------------------------------------------


def _record(row: store.PlanRow, kind: str, number: int) -> RecordName:
    return RecordName(f"roster_{kind}", epoch_of(row.id), row.facility_id, row.id, 1, number)


def _encode(kept: _Kept) -> bytes:
    return canonical_json(
        {
            "lines": [orjson.loads(to_json(line)) for line in kept.lines],
            "refused": {str(row): problem.model_dump(mode="json") for row, problem in kept.refused.items()},
            "scope": dict(kept.scope),
            "absence_nights": kept.absence_nights,
            "steps": [_step_members(step) for step in kept.steps],
            "in_house": kept.in_house,
            "outside": kept.outside,
            "warnings": {str(row): list(found) for row, found in kept.warnings.items()},
        }
    )


def _step_members(step: Step) -> dict[str, Any]:
    return {
        "action": step.action,
        "row": step.row,
        "stay_id": str(step.stay_id) if step.stay_id else None,
        "version": step.version,
        "kind": step.kind.value if step.kind else None,
        "fields": step.fields,
        "guest_ref": step.guest_ref,
        "groups": dict(step.groups),
        "choices": [choice.value for choice in step.choices],
        "changes": list(step.changes),
        "differs": list(step.differs),
        "last_seen_on": step.last_seen_on.isoformat() if step.last_seen_on else None,
        "nights_missing": step.nights_missing,
        "problem": step.problem.model_dump(mode="json") if step.problem else None,
        "guest": dict(step.guest),
        "joins": step.joins,
    }


def _decode(content: bytes) -> _Kept:
    members = orjson.loads(content)
    lines = [from_json(orjson.dumps(line)) for line in members["lines"]]
    return _Kept(
        lines=tuple(line for line in lines if isinstance(line, Act)),
        refused={int(row): Problem.model_validate(problem) for row, problem in members["refused"].items()},
        scope=members["scope"],
        absence_nights=members["absence_nights"],
        steps=tuple(map(_step, members["steps"])),
        in_house=members["in_house"],
        outside=members["outside"],
        warnings={int(row): found for row, found in members["warnings"].items()},
    )


def _step(members: Mapping[str, Any]) -> Step:
    seen = members["last_seen_on"]
    return Step(
        **{
            **members,
            "stay_id": UUID(members["stay_id"]) if members["stay_id"] else None,
            "kind": ActKind(members["kind"]) if members["kind"] else None,
            "choices": tuple(map(Decision, members["choices"])),
            "changes": tuple(members["changes"]),
            "differs": tuple(members["differs"]),
            "last_seen_on": date.fromisoformat(seen) if seen else None,
            "problem": Problem.model_validate(members["problem"]) if members["problem"] else None,
        }
    )


# -- answers -----------------------------------------------------------------------------------------------------------


def _shown_plan(facility: Facility, row: store.PlanRow, kept: _Kept, reads: bool) -> RosterPlan:
    made = kept.plan
    state = "applied" if row.finished_at else "applying" if row.started_at else "planned"
    return RosterPlan.model_validate(
        {
            "plan_id": str(row.id),
            "facility": facility.code,
            "scope": kept.scope,
            "state": state,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "absence_nights": kept.absence_nights,
            "plan_sha256": row.plan_sha256.hex(),
            "summary": _summary(made),
            "counts": RosterCounts(
                rows=sum(step.row is not None for step in made.steps),
                in_house=made.in_house,
                in_house_after=made.in_house_after,
                outside=made.outside,
                actions={action: made.counts[action] for action in rostering.LABELS},
            ),
            "limits_exceeded": _limits(made),
            "rows": [_shown_step(step, kept, reads) for step in made.steps],
        }
    )


def _shown_step(step: Step, kept: _Kept, reads: bool) -> RosterRow:
    label = rostering.LABELS[step.action]
    found = kept.warnings.get(step.row or 0, ())
    return RosterRow.model_validate(
        {
            "row": step.row,
            "action": step.action,
            "label": label._asdict(),
            "stay_id": str(step.stay_id) if step.stay_id else None,
            "changes": list(step.changes),
            "differs": list(step.differs),
            "choices": [choice.value for choice in step.choices],
            "last_seen_on": step.last_seen_on,
            "nights_missing": step.nights_missing,
            "guest": RosterGuest.model_validate(dict(step.guest)) if reads and step.guest.get("full_name") else None,
            "problem": step.problem,
            "warnings": [
                {"code": code, "pointer": pointer, "place": place, "message": {"vi": vi, "en": en}}
                for code, pointer, vi, en, place in found
            ],
        }
    )


def _summary(made: Plan) -> dict[str, str]:
    counts = made.counts
    vi = [f"{counts[action]} {text.vi.partition(':')[0].lower()}" for action, text in rostering.LABELS.items()
          if counts[action]]  # fmt: skip
    en = [f"{counts[action]} {text.en.partition(':')[0].lower()}" for action, text in rostering.LABELS.items()
          if counts[action]]  # fmt: skip
    before, after = made.in_house, made.in_house_after
    return {
        "vi": f"Đang ở: {before} người; sau khi áp dụng: {after} người. {'; '.join(vi)}.",
        "en": f"In house: {before}; after it is applied: {after}. {'; '.join(en)}.",
    }


def _limits(made: Plan) -> list[RosterLimit]:
    limits = []
    if made.check_outs > made.check_out_limit:
        limits.append(
            RosterLimit(
                code="check_outs",
                message={
                    "vi": f"Trả phòng {made.check_outs} trên {made.in_house} người là nhiều hơn {made.check_out_limit}."
                    f" Nếu danh sách đúng và đủ, hãy xác nhận con số {made.check_outs}.",
                    "en": f"{made.check_outs} of {made.in_house} would check out, more than {made.check_out_limit}. If "
                    f"the list is right and whole, confirm the number {made.check_outs}.",
                },
                confirm=made.check_outs,
            )
        )
    if made.is_incomplete:
        limits.append(
            RosterLimit(
                code="roster_incomplete",
                message={
                    "vi": "Có dòng không nhận được, nên danh sách chưa đủ: không ai bị trả phòng cho đến khi sửa xong.",
                    "en": "Some lines cannot be taken, so the list is not whole: nobody is checked out until they can.",
                },
            )
        )
    return limits


def _outcome(
    step: Step,
    decision: Decision | None,
    settled: Step | None,
    outcomes: Mapping[tuple[int | None, UUID | None], Outcome],
) -> RosterOutcome:
    blank: dict[str, Any] = dict.fromkeys(("version", "late_minutes", "receipt", "problem"))
    told = {"row": step.row, "action": step.action, "decision": decision.value if decision else None,
            "stay_id": str(step.stay_id) if step.stay_id else None, **blank}  # fmt: skip
    if settled is None:
        return RosterOutcome.model_validate({**told, "outcome": "undecided"})
    if step.problem is not None:
        return RosterOutcome.model_validate({**told, "outcome": "refused", "problem": step.problem})
    outcome = outcomes[_key(settled)]
    if outcome.refusal is not None:
        return RosterOutcome.model_validate(
            {**told, "outcome": "refused", "problem": problem_document(outcome.refusal)}
        )
    stay, receipt = outcome.stay, outcome.receipt or {}
    told |= {
        "outcome": outcome.outcome,
        "stay_id": str(stay.id) if stay else None,
        "version": stay.version if stay else None,
        "late_minutes": stay.late_minutes if stay else None,
        "receipt": {name: receipt.get(name) for name in ("code", "check_url", "trial")},
    }
    return RosterOutcome.model_validate(told)
