"""What a roster means: the difference between a full list of its scope and who is in house there, with no database.

A roster (danh sách người ở) is the state of its scope and of nothing else. `plan` compares and gives a step for every
line and for every stay of the scope that no line names; whoever belongs to another building, employer or shift is not
touched. `commands` makes acts of the steps. Both are deterministic, so a plan can be made again to see that it still is
what was reviewed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from asm_daemon import rules
from asm_daemon.crypto import document_value, name_values
from asm_daemon.problems import Refused
from schemas.act import Act, ActKind
from schemas.folding import fold_text
from schemas.roster import RosterAction, RosterDecisionName
from schemas.stay import Problem
from schemas.violations import Text, Violation, violation

SCOPES = ("building", "employer", "shift")
WHOLE_FACILITY = "all"
CHECK_OUTS_AT_ONCE, CHECK_OUT_PERCENT = 5, 20
"""So many check-outs, or this part of the scope, need no confirmation; the larger of the two counts."""


class Decision(StrEnum):
    """What the manager may decide about a row."""

    CORRECT = "correct"
    NEW_PERSON = "new_person"
    MOVE = "move"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, repr=False)
class Resident:
    """Somebody in house, opened. `last_seen_on` is the day of the last applied roster that named the stay."""

    stay_id: UUID
    version: int
    arrived_at: datetime
    declared: Mapping[str, Any]
    guest_ref: str | None
    groups: Mapping[str, str]
    last_seen_on: date | None


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """What one line, or one stay that no line names, leads to.

    `kind` and `fields` are the act if there is one; `choices` what can be decided where it is not settled. `differs`
    points at what differs and is left alone. `version` is the one of `stay_id` that was looked at. `joins`: the stay
    was of no known part of the facility, and becomes one of the scope.
    """

    action: RosterAction
    row: int | None = None
    stay_id: UUID | None = None
    version: int | None = None
    kind: ActKind | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    guest_ref: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[Decision, ...] = ()
    changes: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    last_seen_on: date | None = None
    nights_missing: int | None = None
    problem: Problem | None = None
    guest: Mapping[str, str | None] = field(default_factory=dict)
    joins: bool = False

    def essence(self) -> tuple[object, ...]:
        """What of a step decides what is done: two plans with equal essences do the same."""
        kind = self.kind.value if self.kind else None
        return (
            *(self.action, self.row, str(self.stay_id), self.version, kind, dict(self.fields), self.guest_ref),
            *(dict(self.groups), list(self.choices)),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a roster, lines first, and how the scope stands. `check_out_limit` is how many go unconfirmed."""

    steps: tuple[Step, ...]
    in_house: int
    outside: int
    is_incomplete: bool

    @property
    def counts(self) -> Counter[RosterAction]:
        return Counter(step.action for step in self.steps)

    @property
    def check_outs(self) -> int:
        return self.counts["check_out"]

    @property
    def check_out_limit(self) -> int:
        return max(CHECK_OUTS_AT_ONCE, self.in_house * CHECK_OUT_PERCENT // 100)

    @property
    def in_house_after(self) -> int:
        came = sum(step.joins or step.action in ("check_in", "return") for step in self.steps)
        return self.in_house + came - self.check_outs


# -- scopes ------------------------------------------------------------------------------------------------------------


def read_scope(text: str | None) -> dict[str, str]:
    """`building:A`, `employer:…;shift:1`, or `all` (an empty scope). Raises `Refused` request_invalid.

    There is no default: a list that is taken for the whole facility by mistake would check everybody else out.
    """
    if text is None:
        raise Refused("request_invalid", violations=[violation("required", "/scope")])
    if text.strip().lower() == WHOLE_FACILITY:
        return {}
    scope: dict[str, str] = {}
    for part in text.split(";"):
        dimension, colon, value = (each.strip() for each in part.partition(":"))
        if not colon or not value or dimension not in SCOPES or dimension in scope:
            wanted = f"{WHOLE_FACILITY}, {', '.join(f'{each}:…' for each in SCOPES)}"
            raise Refused("request_invalid", violations=[violation("wrong_format", "/scope", expected=wanted)])
        scope[dimension] = value
    return scope


def is_within(groups: Mapping[str, str], scope: Mapping[str, str]) -> bool:
    """Whether somebody who belongs to `groups` is of the scope. Who is known to belong nowhere is of no part."""
    return all(_folded(groups.get(dimension)) == _folded(value) for dimension, value in scope.items())


def _folded(text: str | None) -> str:
    return " ".join(fold_text(text or "").split())


# -- who is who --------------------------------------------------------------------------------------------------------


def _document_of(declared: Mapping[str, Any]) -> str | None:
    """The folded number; None for a guest without a document."""
    document = declared.get("guest", {}).get("document") or {}
    number = document.get("number")
    return document_value(number) or None if isinstance(number, str) else None


def _person_of(declared: Mapping[str, Any]) -> str | None:
    """Name and whole birth date; None where one of them is not known."""
    guest = declared.get("guest", {})
    name, born = guest.get("full_name"), guest.get("birth_date")
    return name_values(name, born)[0] if isinstance(name, str) and isinstance(born, str) and len(born) == 10 else None


class House:
    """Everybody in house at one facility, by what a line may know them by."""

    def __init__(self, residents: Iterable[Resident]) -> None:
        self._by_document: dict[str, list[Resident]] = {}
        self._by_code: dict[str, list[Resident]] = {}
        self._by_person: dict[str, list[Resident]] = {}
        for each in residents:
            for index, key in (
                (self._by_document, _document_of(each.declared)),
                (self._by_code, _folded(each.guest_ref) or None),
                (self._by_person, _person_of(each.declared)),
            ):
                if key is not None:
                    index.setdefault(key, []).append(each)

    def named(self, act: Act) -> list[Resident]:
        """The stays of the person on a line: by document; of a person without one by code, else by name and birth date,
        among those who have none either."""
        number = _document_of(act.fields)
        if number is not None:
            return self._by_document.get(number, [])
        alike = self._by_code.get(_folded(act.guest_ref), []) if act.guest_ref else []
        alike = alike or self._by_person.get(_person_of(act.fields) or "", [])
        return [each for each in alike if _document_of(each.declared) is None]

    def resembling(self, act: Act) -> list[Resident]:
        """The stays of somebody with another document who has the employee code, or else name and birth date, of the
        line: the number may be mistyped, here or there."""
        alike = self._by_code.get(_folded(act.guest_ref), []) if act.guest_ref else []
        alike = [each for each in alike if _may_be_colleagues(act.groups, each.groups)]
        return alike or self._by_person.get(_person_of(act.fields) or "", [])


def _may_be_colleagues(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two codes may be of one employer: every employer has a number 1."""
    employers = {_folded(groups["employer"]) for groups in (one, other) if groups.get("employer")}
    return len(employers) < 2


# -- the lines ---------------------------------------------------------------------------------------------------------


def scoped(line: Act, scope: Mapping[str, str]) -> Act:
    """The line with what the scope says of everybody on the list; where it says so too, its own spelling stays."""
    return replace(line, groups={**scope, **line.groups})


def faults_of(lines: Sequence[Act], scope: Mapping[str, str]) -> dict[int, list[Violation]]:
    """What is wrong with lines as lines of this roster, by row: of another scope, or a person who is on it already."""
    faults: dict[int, list[Violation]] = {}
    first_of: dict[str, int] = {}
    for line in lines:
        found = list(line.violations)
        if line.kind is not ActKind.DECLARE:
            found.append(violation("not_a_guest_line"))
        for dimension, value in scope.items():
            if line.groups.get(dimension) and _folded(line.groups[dimension]) != _folded(value):
                found.append(violation("outside_scope", "", f"dòng {line.row}", expected=dimension))
        number = _document_of(line.fields)
        if number is not None and first_of.setdefault(number, line.row) != line.row:
            found.append(
                violation("listed_twice", "/guest/document/number", f"dòng {line.row}", limit=first_of[number])
            )
        if found:
            faults[line.row] = found
    return faults


# -- the plan ----------------------------------------------------------------------------------------------------------


def plan(
    lines: Sequence[Act],
    refused: Mapping[int, Problem],
    residents: Sequence[Resident],
    departed: Callable[[Act], bool],
    scope: Mapping[str, str],
    *,
    absence_nights: int,
    now: datetime,
) -> Plan:
    """Compare a roster with who is in house at the facility.

    `refused` are rows that cannot be taken, with the reason; while there are any, the list is incomplete and nobody is
    checked out by it. `departed` says of a line whether a stay of this document and day of arrival has ended: then the
    worker is back, and arrives `now`.
    """
    house, within = House(residents), [each for each in residents if is_within(each.groups, scope)]
    own = {each.stay_id for each in within}
    named = {each.stay_id for line in lines for each in house.named(line)}
    lines_by_row = {line.row: line for line in lines}
    steps = [_refused(row, problem, lines_by_row.get(row), house) for row, problem in refused.items()]
    held: set[UUID] = set()
    for line in lines:
        if line.row in refused:
            continue
        stays = house.named(line)
        if stays:
            steps.append(_known(line, stays, own, scope))
            continue
        alike = [each for each in house.resembling(line) if each.stay_id not in named]
        if alike:
            held |= {each.stay_id for each in alike}
            steps.append(_typo(line, max(alike, key=_arrival)))
        else:
            steps.append(_check_in(line, back_at=now if departed(line) else None))
    incomplete = bool(refused)
    missing = [each for each in within if each.stay_id not in named | held]
    steps += [_missing(each, absence_nights, now, incomplete) for each in missing]
    steps.sort(key=lambda step: (step.row is None, step.row or 0))
    return Plan(tuple(steps), len(within), len(residents) - len(within), incomplete)


def _arrival(resident: Resident) -> datetime:
    return resident.arrived_at


def _refused(row: int, problem: Problem, line: Act | None, house: House) -> Step:
    resident = max(house.named(line), key=_arrival, default=None) if line is not None else None
    return Step("refused", row, resident.stay_id if resident else None, problem=problem)


def _check_in(line: Act, back_at: datetime | None) -> Step:
    fields = dict(line.fields)
    if back_at is not None:
        fields["arrived_at"] = back_at.isoformat()
    return Step(
        "return" if back_at else "check_in", line.row, kind=ActKind.DECLARE, fields=fields,
        guest_ref=line.guest_ref, groups=line.groups, guest=_shown(line.fields, line.guest_ref),
    )  # fmt: skip


def _known(line: Act, stays: Sequence[Resident], own: set[UUID], scope: Mapping[str, str]) -> Step:
    """The line of somebody in house. Who belongs to another part of the facility is moved only by a decision."""
    resident = max(stays, key=lambda each: (each.stay_id in own, each.arrived_at))
    patch = _patch(line, resident)
    regrouped = _folded(line.guest_ref) not in ("", _folded(resident.guest_ref)) or any(
        _folded(resident.groups.get(dimension)) != _folded(value) for dimension, value in line.groups.items()
    )
    belongs = {dimension: value for dimension in scope if (value := resident.groups.get(dimension))}
    elsewhere = not is_within(belongs, {dimension: scope[dimension] for dimension in belongs})
    step = Step(
        "unchanged", line.row, resident.stay_id, resident.version, differs=tuple(_differences(line, resident)),
        last_seen_on=resident.last_seen_on, guest=_shown(resident.declared, resident.guest_ref),
        joins=resident.stay_id not in own and not elsewhere,
    )  # fmt: skip
    if not patch and not regrouped:
        return step
    act = replace(
        step, kind=ActKind.CORRECT, fields=patch, guest_ref=line.guest_ref, groups=line.groups,
        changes=tuple(f"/{name}" for name in patch),
    )  # fmt: skip
    if elsewhere:
        return replace(act, action="elsewhere", choices=(Decision.MOVE, Decision.SKIP))
    if "room" in patch:
        return replace(act, action="room_change")
    if not patch:
        return replace(act, action="assignment")
    return replace(act, action="renewal") if regrouped else replace(act, action="renewal", kind=ActKind.EXTEND)


def _patch(line: Act, resident: Resident) -> dict[str, Any]:
    """What the line says anew: another room, another end of the stay."""
    patch: dict[str, Any] = {}
    room, planned = line.fields.get("room"), line.fields.get("planned_departure_at")
    if room and _folded(room) != _folded(resident.declared.get("room")):
        patch["room"] = room
    if planned and _instant(planned) != _instant(resident.declared.get("planned_departure_at")):
        patch["planned_departure_at"] = planned
    return patch


def _differences(line: Act, resident: Resident) -> Iterator[str]:
    """What a roster does not change by itself. A later arrival is a landlord's month, and no difference."""
    new, old = line.fields.get("guest", {}), resident.declared.get("guest", {})
    if _folded(new.get("full_name")) != _folded(old.get("full_name")):
        yield "/guest/full_name"
    if new.get("birth_date") != old.get("birth_date"):
        yield "/guest/birth_date"
    arrived = _instant(line.fields.get("arrived_at"))
    if arrived is not None and rules.local_day(arrived) < rules.local_day(resident.arrived_at):
        yield "/arrived_at"


def _instant(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _typo(line: Act, resident: Resident) -> Step:
    document = line.fields.get("guest", {}).get("document") or {}
    patch = {"guest": {"document": dict(document)}, **_patch(line, resident)}
    return Step(
        "possible_typo", line.row, resident.stay_id, resident.version, ActKind.CORRECT, patch,
        line.guest_ref, line.groups, (Decision.CORRECT, Decision.NEW_PERSON, Decision.SKIP),
        ("/guest/document", *(f"/{name}" for name in patch if name != "guest")),
        tuple(_differences(line, resident)), resident.last_seen_on,
        guest=_shown(resident.declared, resident.guest_ref),
    )  # fmt: skip


def _missing(resident: Resident, absence_nights: int, now: datetime, incomplete: bool) -> Step:
    """Somebody of the scope whom no line names: away for some nights, or gone."""
    since = max(resident.last_seen_on or date.min, rules.local_day(resident.arrived_at))
    nights = max((rules.local_day(now) - since).days, 0)
    step = Step(
        "absent", None, resident.stay_id, resident.version, last_seen_on=resident.last_seen_on, nights_missing=nights,
        guest=_shown(resident.declared, resident.guest_ref),
    )  # fmt: skip
    if incomplete or nights < absence_nights or resident.arrived_at > now:
        return step
    return replace(step, action="check_out", kind=ActKind.CHECK_OUT, fields={"departed_at": now.isoformat()})


def _shown(declared: Mapping[str, Any], guest_ref: str | None) -> dict[str, str | None]:
    room = declared.get("room")
    return {"full_name": declared.get("guest", {}).get("full_name"), "guest_ref": guest_ref, "room": room}


# -- the execution -----------------------------------------------------------------------------------------------------


def check_decisions(made: Plan, decisions: Mapping[int, Decision]) -> list[int]:
    """The rows that are decided upon although there is nothing to decide, or not this."""
    choices = {step.row: step.choices for step in made.steps if step.row is not None}
    return [row for row, decision in decisions.items() if decision not in choices.get(row, ())]


def settled(step: Step, lines: Mapping[int, Act], decisions: Mapping[int, Decision]) -> Step | None:
    """The step as it is to be done; None for one that waits for a decision, or is to be left."""
    if not step.choices:
        return step
    decision = decisions.get(step.row or 0, Decision.SKIP)
    if decision is Decision.SKIP:
        return None
    if decision is Decision.NEW_PERSON:
        return replace(_check_in(lines[step.row or 0], None), action=step.action)
    return step


def seen_by(made: Plan, decisions: Mapping[int, Decision]) -> list[UUID]:
    """The stays of whom a line says that they are there, each once.

    Also where the line is refused, and where a number may be mistyped and nobody has said that it is another person.
    Who lives in another part is not seen until moved here.
    """
    stays = [
        step.stay_id
        for step in made.steps
        if step.stay_id is not None
        and step.row is not None
        and decisions.get(step.row) is not Decision.NEW_PERSON
        and (step.action != "elsewhere" or decisions.get(step.row) is Decision.MOVE)
    ]
    return list(dict.fromkeys(stays))


def act_of(step: Step) -> Act:
    """The act of a step that has one."""
    if step.kind is None:
        raise LookupError("nothing follows from this step")
    return Act(step.kind, step.fields, step.row or 0, guest_ref=step.guest_ref, groups=step.groups)


# -- in words ----------------------------------------------------------------------------------------------------------

LABELS: Mapping[RosterAction, Text] = {
    "check_in": Text("Vào ở", "Checks in"),
    "return": Text("Trở lại sau khi đã trả phòng", "Is back after a departure"),
    "room_change": Text("Đổi phòng", "Moves to another room"),
    "renewal": Text("Đổi ngày dự kiến đi (gia hạn)", "Another planned departure (renewal)"),
    "assignment": Text("Ghi mã nhân viên, toà nhà, đơn vị, ca", "Gets employee code or groups"),
    "unchanged": Text("Không đổi", "Unchanged"),
    "check_out": Text("Trả phòng: không còn trong danh sách", "Checks out: no longer on the list"),
    "absent": Text("Vắng: chưa trả phòng", "Away: not checked out"),
    "possible_typo": Text("Có thể gõ nhầm số giấy tờ: cần quyết định", "Possibly a mistyped document: decide"),
    "elsewhere": Text("Đang ở phần khác của cơ sở: cần quyết định", "In house in another part: decide"),
    "refused": Text("Không nhận được dòng này", "The line cannot be taken"),
}
_CHOICES: Mapping[RosterDecisionName, Decision] = {each.value: each for each in Decision}


def decision_named(name: RosterDecisionName) -> Decision:
    """The decision of this name."""
    return _CHOICES[name]
