"""What becomes of an act, decided in memory: the rules of a stay's life, with no database and no clock.

`prepare` checks an act by itself; `World` holds what the database knows about the stays concerned; `World.decide`
takes acts one after the other, each seeing what the earlier ones of the same batch did. Intake loads the world under
the facilities' turns, lets it decide, and writes what changed in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from uuid_utils.compat import uuid7

from asm_daemon import rules
from asm_daemon.crypto import (
    IndexField,
    Keyring,
    Tampered,
    UnknownEpoch,
    document_value,
    epoch_of,
    key_version_of,
    name_values,
)
from asm_daemon.expecting import Expectations, Sifted, document_number_of, merge_patch, sift
from asm_daemon.families import Ties, party_led, ties_of
from asm_daemon.issuing import Draft
from asm_daemon.ledger import canonical_json
from asm_daemon.model import (
    Beside,
    Contents,
    ExpectedContents,
    ExpectedRow,
    Facility,
    PartyHead,
    Presence,
    StayRow,
    Tags,
)
from asm_daemon.problems import PROBLEMS, Refused, from_validation, invalid, located
from asm_daemon.sealing import new_salt, open_contents, seal_contents
from schemas.act import Act, ActKind
from schemas.sandbox import refusal_on_demand
from schemas.stay import (
    STAY_LIMIT,
    Cancellation,
    CheckOut,
    DeclarationContext,
    Document,
    ExpectedStay,
    Extension,
    Instant,
    StayCorrection,
    StayDeclaration,
    StayMatch,
    UndoCheckOut,
    is_source_ref,
)
from schemas.violations import Violation, violation

CLOCK_TOLERANCE = timedelta(minutes=5)
REPEATED_WITHIN = timedelta(hours=24)
"""How long a departure that names the guest by document may be repeated: after it nobody is in house to be named."""
Span = tuple[datetime, datetime | None]
"""From when to when a guest stays; None without a planned end."""
_NOT_DECLARED = {"source_ref", "facility", "override"}


@dataclass(frozen=True, slots=True)
class Command:
    """One act, addressed and authorised.

    `received_at` is when the request body was complete; `actor` the principal's id. A transition names its stay by
    `stay_id`, by the act's `source_ref` or by its `match`, or the expected guest whom it is about by `expected_id`.
    `expected_version` is If-Match. `idempotency_key` names a
    declaration whose sender gave no `source_ref`. With `extends_within_days` an extension is one in the strict sense of
    the national portal: the departure moves to a later time, at most so many days after the day of arrival.
    """

    facility: Facility
    act: Act
    received_at: datetime
    actor: str
    stay_id: UUID | None = None
    expected_id: UUID | None = None
    expected_version: int | None = None
    idempotency_key: str | None = field(default=None, repr=False)
    extends_within_days: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An act that is sound by itself. `derived_name`: its sender gave none, so facility, guest and day name it.

    `document_tag` is the presence tag of the guest who is declared (`rules.guest_value`). `ties` are a declaration's.

    `match` is the document that names the stay of a transition, `document_tag` then its tag; with `arrived_on` it means
    the stay that began on that day, and `ref_tag` is the name it has if its sender gave none. `guest_ref` is the
    sender's own name of the guest that a `match` has instead. `sifted` is what is sound of an expectation by itself,
    `refusal` why a declaration is none by itself; it may still complete an expectation.
    """

    command: Command
    body: BaseModel = field(repr=False)
    ref_tag: bytes | None
    document_tag: int | None
    content_tag: bytes | None
    declared: Mapping[str, Any] | None = field(repr=False)
    warnings: tuple[Violation, ...]
    derived_name: bool = False
    match: Document | None = None
    arrived_on: date | None = None
    guest_ref: str | None = field(default=None, repr=False)
    guest_tag: int | None = None
    refusal: Refused | None = None
    sifted: Sifted | None = None
    ties: Ties | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one act. `row` is the version that resulted, or that exists already.

    `expected` is the expected guest that it was about and that is still no stay, `missing` what they lack to be one;
    `warnings` are what was found while deciding.
    """

    outcome: Literal["accepted", "duplicate", "expected", "refused"]
    row: StayRow | None = None
    refusal: Refused | None = None
    expected: ExpectedRow | None = None
    missing: tuple[Violation, ...] = ()
    warnings: tuple[Violation, ...] = ()


_BODIES: Mapping[ActKind, type[BaseModel]] = {
    ActKind.DECLARE: StayDeclaration,
    ActKind.CORRECT: StayCorrection,
    ActKind.CHECK_OUT: CheckOut,
    ActKind.UNDO_CHECK_OUT: UndoCheckOut,
    ActKind.EXTEND: Extension,
    ActKind.CANCEL: Cancellation,
}


def prepare(keyring: Keyring, command: Command) -> Prepared:
    """Check one act by itself. Raises `Refused` with every violation at once."""
    act, facility = command.act, command.facility
    if facility.sandbox and act.source_ref:
        refusal = refusal_on_demand(act.source_ref)
        if refusal is not None:
            code, violations = refusal
            raise Refused(code if code in PROBLEMS else "bad_request", violations=violations)
    if act.kind is ActKind.EXPECT:
        return _prepare_expectation(keyring, command, None)
    try:
        return _prepare_sound(keyring, command)
    except Refused as refusal:
        # What is missing may be known of the guest who was expected under this name.
        named = command.expected_id or _name(act)
        if act.kind is not ActKind.DECLARE or not named or act.violations or refusal.code != "declaration_invalid":
            raise
        return _prepare_expectation(keyring, command, refusal)


def _prepare_expectation(keyring: Keyring, command: Command, refusal: Refused | None) -> Prepared:
    """An act of which any part may be missing. Raises `Refused` if it names nobody, or another facility."""
    act, facility = command.act, command.facility
    name = _name(act)
    if name is None and command.expected_id is None:
        raise invalid("wrong_source_ref" if act.fields.get("source_ref") else "required", "/source_ref")
    if act.fields.get("facility") not in (None, facility.code):
        raise Refused("facility_not_granted")
    _refuse_unwritable(act.fields)
    sifted = None
    if act.kind is ActKind.EXPECT:
        sifted = sift({}, act.fields, facility.kind, command.received_at, act.origin)
    return Prepared(
        command=command,
        body=ExpectedStay(dict(act.fields)),
        ref_tag=keyring.reference_tag(facility.id, name) if name else None,
        document_tag=_patched_document_tag(keyring, act.fields),
        content_tag=None,
        declared=None,
        warnings=(*act.warnings, *act.violations),
        refusal=refusal,
        sifted=sifted,
    )


def _refuse_unwritable(fields: Mapping[str, Any]) -> None:
    """Refuse what is nested deeper than JSON is written (254), before anything walks through it."""
    try:
        orjson.dumps(fields)
    except TypeError:
        raise invalid("not_json") from None


def _name(act: Act) -> str | None:
    """The sender's own name of a stay, if it has the form of one."""
    name = act.fields.get("source_ref")
    return act.source_ref or (name if isinstance(name, str) and is_source_ref(name) else None)


def _prepare_sound(keyring: Keyring, command: Command) -> Prepared:
    act, facility = command.act, command.facility
    body, match = _validate_act(command)
    if isinstance(body, StayDeclaration):
        return _prepare_declaration(keyring, command, body)
    document, arrived_on, guest_ref = (match.document, match.arrived_on, match.guest_ref) if match else (None,) * 3
    ref = act.source_ref
    if document is not None and arrived_on is not None:
        ref = rules.derived_ref(facility.id, document_value(document.number), arrived_on)
    document_tag = _patched_document_tag(keyring, act.fields) if act.kind is ActKind.CORRECT else None
    return Prepared(
        command=command,
        body=body,
        ref_tag=keyring.reference_tag(facility.id, ref) if ref else None,
        document_tag=keyring.presence_tag(document_value(document.number)) if document else document_tag,
        content_tag=None,
        declared=None,
        warnings=act.warnings,
        match=document,
        arrived_on=arrived_on,
        guest_ref=guest_ref,
        guest_tag=keyring.guest_tag(facility.id, guest_ref) if guest_ref else None,
    )


def _validate_act(command: Command) -> tuple[BaseModel, StayMatch | None]:
    """The act's body and its `match`. Raises `Refused` with what its document showed to be wrong, and
    everything that is found wrong here at other places."""
    act = command.act
    if act.match is None and not act.violations:  # as nearly always
        return _validate(_BODIES[act.kind], act.fields, command, act.origin), None
    parts: list[tuple[type[BaseModel], Mapping[str, Any]]] = [(_BODIES[act.kind], act.fields)]
    if act.match is not None:
        parts.append((StayMatch, act.match))
    faults, sound = list(act.violations), []
    for model, fields in parts:
        try:
            sound.append(_validate(model, fields, command, act.origin))
        except Refused as refusal:
            known = {fault.pointer for fault in faults}
            faults += [fault for fault in refusal.violations if not _is_told(fault.pointer, known)]
    if faults:
        raise Refused("declaration_invalid", violations=faults)
    body, *match = sound
    return body, match[0] if match and isinstance(match[0], StayMatch) else None


def _is_told(pointer: str, known: Iterable[str]) -> bool:
    """Whether a part of what the pointer means has its own fault: of a document whose parts are missing, no more."""
    return any(each == pointer or (pointer and each.startswith(f"{pointer}/")) for each in known)


def _validate(
    model: type[BaseModel], fields: Mapping[str, Any], command: Command, origin: Mapping[str, str]
) -> BaseModel:
    context = DeclarationContext(command.facility.kind, command.received_at, _arrives_on(fields))
    try:
        return model.model_validate_json(orjson.dumps(fields), context=context)
    except ValidationError as error:
        found = from_validation(error, origin)
        backwards = violation("departure_before_arrival", "/planned_departure_at", origin.get("/planned_departure_at"))
        if model is StayDeclaration and backwards not in found and _leaves_before_it_comes(fields):
            found.append(backwards)
        raise Refused("declaration_invalid", violations=found) from None
    except (TypeError, ValueError):  # orjson: a lone surrogate, an integer over 64 bits
        raise invalid("not_json") from None


_INSTANT = TypeAdapter[datetime](Instant)


def _arrives_on(fields: Mapping[str, Any]) -> date | None:
    """The local day of a sound arrival, for a guest without a document: the only one whose age is asked."""
    guest = fields.get("guest")
    if isinstance(guest, Mapping) and guest.get("document") is None:
        with suppress(ValidationError, TypeError, ValueError):
            return rules.local_day(_INSTANT.validate_json(orjson.dumps(fields.get("arrived_at"))))
    return None


def _leaves_before_it_comes(fields: Mapping[str, Any]) -> bool:
    """Whether two sound instants are in the wrong order, also where the arrival is refused for another reason."""
    with suppress(ValidationError, TypeError, ValueError):
        arrived, planned = (
            _INSTANT.validate_json(orjson.dumps(fields.get(name))) for name in ("arrived_at", "planned_departure_at")
        )
        return planned < arrived
    return False


def _prepare_declaration(keyring: Keyring, command: Command, body: StayDeclaration) -> Prepared:
    facility = command.facility
    if body.facility not in (None, facility.code):
        raise Refused("facility_not_granted")  # a document must not be filed under another facility than it names
    declared = declared_members(body)
    name = body.source_ref or command.act.source_ref or command.idempotency_key
    return Prepared(
        command=command,
        body=body,
        ref_tag=keyring.reference_tag(facility.id, name or _derived_ref(facility, body, declared["guest"])),
        document_tag=keyring.presence_tag(rules.guest_value(declared["guest"])),
        content_tag=content_tag_of(keyring, declared, "declared", None),
        declared=declared,
        warnings=(*command.act.warnings, *located(rules.warnings_for(body), command.act.origin)),
        derived_name=name is None,
        ties=ties_of(keyring, facility, body),
    )


def _derived_ref(facility: Facility, body: StayDeclaration, guest: Mapping[str, Any]) -> str:
    return rules.derived_ref(facility.id, rules.guest_value(guest), rules.local_day(body.arrived_at))


def _patched_document_tag(keyring: Keyring, patch: Mapping[str, Any]) -> int | None:
    number = document_number_of(patch)
    return keyring.presence_tag(document_value(number)) if number is not None else None


def declared_members(declaration: StayDeclaration) -> dict[str, Any]:
    """The declared fields as kept, digested and shown: JSON-shaped, UTC instants, nothing absent."""
    return declaration.model_dump(mode="json", exclude=_NOT_DECLARED, exclude_none=True)


def content_tag_of(keyring: Keyring, declared: Mapping[str, Any], status: str, departed_at: datetime | None) -> bytes:
    """The tag by which a stay that is what it would become is recognised: it takes in all that an act can change."""
    departed = departed_at.isoformat() if departed_at else None
    return keyring.content_tag(canonical_json({"declared": declared, "status": status, "departed_at": departed}))


def tags_of(keyring: Keyring, row: StayRow, contents: Contents) -> Tags:
    """The blind indexes of a version of a stay, in the epoch of its id, under the index key that goes with its blob."""
    epoch, version, guest = epoch_of(row.id), key_version_of(row.sealed), contents.declared["guest"]
    person, given_name = name_values(guest["full_name"], guest["birth_date"])
    return Tags(
        document=keyring.blind_index(epoch, version, IndexField.DOCUMENT, rules.guest_value(guest)),
        person=keyring.blind_index(epoch, version, IndexField.PERSON, person),
        given_name=keyring.blind_index(epoch, version, IndexField.GIVEN_NAME, given_name),
    )


@dataclass(slots=True)
class Change:
    """The end state of one stay after a batch."""

    facility: Facility
    row: StayRow
    tags: Tags
    contents: Contents
    presence: Presence | None
    is_new: bool


class World:
    """What is known of the stays concerned, and what the acts of one batch do to it."""

    def __init__(
        self,
        keyring: Keyring,
        now: datetime,
        refs: Mapping[tuple[int, bytes], UUID],
        present: Iterable[Presence],
        rows: Iterable[StayRow],
        earlier: Iterable[StayRow],
        left: Iterable[tuple[StayRow, int]],
        drafts: Draft,
        heads: Iterable[PartyHead] = (),
        expected: Iterable[ExpectedRow] = (),
    ) -> None:
        """`left` are stays that have ended lately, each with the presence tag that it is asked for by; `heads` those
        in house who lead the parties that the acts are about."""
        self._keyring = keyring
        self._now = now
        self._refs = dict(refs)
        self._rows = {(row.facility_id, row.id): row for row in rows}
        self._earlier: dict[UUID, list[StayRow]] = {}
        for row in earlier:
            self._earlier.setdefault(row.id, []).append(row)
        self._present: dict[tuple[int, int], dict[UUID, Presence]] = {}
        self._present_under: dict[UUID, tuple[int, int]] = {}
        for entry in present:
            self._enter(entry)
        self._left: dict[tuple[int, int], set[UUID]] = {}
        for row, tag in left:
            self._rows.setdefault((row.facility_id, row.id), row)
            self._left.setdefault((row.facility_id, tag), set()).add(row.id)
        self._opened: dict[tuple[UUID, int], Contents] = {}
        self._drafts = drafts
        self.expectations = Expectations(keyring, now, expected)
        self._heads = {head.stay_id: (head.facility_id, head.party_tag) for head in heads}
        self.changes: dict[UUID, Change] = {}
        self.superseded: list[StayRow] = []
        self.new_refs: dict[tuple[int, bytes], UUID] = {}
        self.freed_refs: list[tuple[int, UUID]] = []

    def decide(self, act: Prepared) -> Decision:
        """Decide one act and remember what it does; a refusal does nothing."""
        try:
            expected = self._expected(act)
            if expected is not None or isinstance(act.body, ExpectedStay):
                return self._decide_expected(act, expected)
            if isinstance(act.body, StayDeclaration):
                return self._declare(act, act.body)
            return self._change(act)
        except Refused as refusal:
            refusal.violations = located(refusal.violations, act.command.act.origin)
            return Decision("refused", refusal=refusal, row=self._named(act))

    def contents(self, row: StayRow) -> Contents:
        """The opened blob of one version. Raises `Refused` record_unreadable: one bad record must not stop the rest."""
        key = (row.id, row.version)
        if key not in self._opened:
            try:
                self._opened[key] = open_contents(self._keyring, row)
            except (Tampered, UnknownEpoch):
                raise Refused("record_unreadable", stay_id=str(row.id)) from None
        return self._opened[key]

    def doubts(self, act: Prepared, decision: Decision) -> tuple[Violation, ...]:
        """What is odd about the guest's family or party once the whole batch is decided, in whatever order it came:
        warnings, since a declaration is never lost for them."""
        if act.ties is None or decision.refusal is not None or decision.row is None:
            return ()
        found = (self._doubt_of_guardian(act, act.ties, decision.row.id), self._doubt_of_party(act, act.ties, decision))
        return located([each for each in found if each is not None], act.command.act.origin)

    def _doubt_of_guardian(self, act: Prepared, ties: Ties, own_id: UUID) -> Violation | None:
        facility_id = act.command.facility.id
        if ties.guardian_ref_tag is not None:
            row = self._rows.get((facility_id, self._refs.get((facility_id, ties.guardian_ref_tag), own_id)))
            if row is None or row.id == own_id:
                return violation("guardian_not_found", "/guest/guardian/source_ref")
            if ties.guardian_in_house and row.status != "declared":
                return violation("guardian_not_in_house", "/guest/guardian/source_ref")
        elif ties.guardian_tag is not None and ties.guardian_in_house:
            present = self._present.get((facility_id, ties.guardian_tag), ())
            rows = [row for each in present if (row := self._rows.get((facility_id, each))) is not None]
            if not any(self._is_guest(row, ties.guardian_value) for row in rows):
                return violation("guardian_not_found", "/guest/guardian/document")
        return None

    def _is_guest(self, row: StayRow, guest: str | None) -> bool:
        with suppress(Refused):  # a record that cannot be opened spoils no other guest's answer
            return _guest_value(self.contents(row)) == guest
        return False

    def _doubt_of_party(self, act: Prepared, ties: Ties, decision: Decision) -> Violation | None:
        if ties.party_tag is None or decision.row is None:
            return None
        party = act.command.facility.id, ties.party_tag
        others = any(led == party and stay_id != decision.row.id for stay_id, led in self._heads.items())
        if ties.leads:
            return violation("party_with_other_head", "/party/role") if others else None
        return None if others else violation("party_without_head", "/party/ref")

    # -- declarations --------------------------------------------------------------------------------------------------

    def _declare(
        self, act: Prepared, body: StayDeclaration, left_at: datetime | None = None, *, was_expected: bool = False
    ) -> Decision:
        facility = act.command.facility
        existing = self._named(act)
        if existing is not None and act.derived_name and _has_left_before(existing, body.arrived_at):
            self._free_names(facility.id, existing.id)  # back on the same day: another stay under the same name
        elif existing is not None:
            return self._declare_again(act, existing)
        if body.override is None and act.document_tag is not None:
            span = (body.arrived_at, left_at or body.planned_departure_at)
            guest = rules.guest_value((act.declared or {})["guest"])
            staying = self._staying(facility, act.document_tag, guest, span)
            if staying is not None:
                raise AlreadyStaying(staying)
        received_at = act.command.received_at
        deadline_at = rules.deadline(body.arrived_at)
        stay_id = uuid7(nanoseconds=int(self._now.timestamp() * 1_000_000) * 1000)
        contents = Contents(
            declared=act.declared or {},
            salt=new_salt(),
            source_ref=body.source_ref or act.command.act.source_ref,
            sender=act.command.actor,
            override=body.override.model_dump() if body.override else None,
            guest_ref=act.command.act.guest_ref,
            groups=act.command.act.groups,
            was_expected=was_expected,
            beside=Beside("declared", None, received_at),
        )
        batch_id, index = self._drafts.next_place(facility)
        row = StayRow(
            id=stay_id,
            facility_id=facility.id,
            version=1,
            status="declared",
            event=ActKind.DECLARE.value,
            received_at=received_at,
            declared_at=received_at,
            arrived_at=body.arrived_at,
            planned_departure_at=body.planned_departure_at,
            departed_at=None,
            deadline_at=deadline_at,
            late_minutes=rules.late_minutes(received_at, deadline_at),
            content_tag=act.content_tag or b"",
            receipt_batch_id=batch_id,
            receipt_index=index,
            sealed=seal_contents(self._keyring, facility.id, stay_id, 1, contents),
        )
        self._adopt(facility, contents, row, act.document_tag)
        if act.ref_tag is not None:
            self._refs[facility.id, act.ref_tag] = self.new_refs[facility.id, act.ref_tag] = row.id
        return Decision("accepted", row=row)

    def _declare_again(self, act: Prepared, current: StayRow) -> Decision:
        if current.status == "cancelled":
            raise Refused("stay_cancelled")
        for row in (current, *self._earlier.get(current.id, ())):
            if row.content_tag == act.content_tag:
                return Decision("duplicate", row=row)
        if self.contents(current).was_expected:  # the same act again, which an expectation had completed
            return self._said_already(act, current)
        raise Refused("content_differs")

    def _staying(
        self, facility: Facility, document_tag: int, guest: str, span: Span, own_id: UUID | None = None
    ) -> StayRow | None:
        """A stay in house of this guest (`rules.guest_value`) that shares time with the span, if there is one."""
        for entry in self._present.get((facility.id, document_tag), {}).values():
            row = self._rows.get((facility.id, entry.stay_id))
            if row is None or entry.stay_id == own_id:
                continue
            # 64-bit tags collide; what is inside decides.
            if rules.overlaps(*span, *_span(row)) and _guest_value(self.contents(row)) == guest:
                return row
        return None

    # -- changes of an existing stay -----------------------------------------------------------------------------------

    def _named(self, act: Prepared) -> StayRow | None:
        facility_id = act.command.facility.id
        stay_id = act.command.stay_id
        if stay_id is None and act.ref_tag is not None:
            stay_id = self._refs.get((facility_id, act.ref_tag))
        if stay_id is None and act.match is not None:
            return self._matched(act, act.match)
        if stay_id is None and act.guest_ref is not None:
            return max(self._guests(act), key=_arrival, default=None)
        return self._rows.get((facility_id, stay_id)) if stay_id is not None else None

    def _matched(self, act: Prepared, document: Document) -> StayRow | None:
        """The stay in house of this document: the one that began last, else the next to begin. Where nobody is in house
        any more, a departure finds the stay that ended lately, perhaps by the same message."""
        facility_id, received_at = act.command.facility.id, act.command.received_at
        key = (facility_id, act.document_tag or 0)
        present = self._of_document(facility_id, self._present.get(key, ()), document)
        if act.arrived_on is not None:
            return next((row for row in present if rules.local_day(row.arrived_at) == act.arrived_on), None)
        if present:
            begun = [row for row in present if row.arrived_at <= received_at]
            return max(begun, key=_arrival) if begun else min(present, key=_arrival)
        if act.command.act.kind is not ActKind.CHECK_OUT:
            return None
        left = self._of_document(facility_id, self._left.get(key, ()), document)
        since = received_at - REPEATED_WITHIN
        ended = [row for row in left if row.departed_at is not None and row.departed_at >= since]
        return max(ended, key=_arrival, default=None)

    def _of_document(self, facility_id: int, stay_ids: Iterable[UUID], document: Document) -> list[StayRow]:
        """Those of the stays that are of this document: 64-bit tags collide, what is inside decides."""
        rows = [row for each in stay_ids if (row := self._rows.get((facility_id, each))) is not None]
        known = ((row, self._guest_document(row)) for row in rows)
        return [row for row, other in known if other is not None and rules.is_same_document(document, other)]

    def _guest_document(self, row: StayRow) -> Document | None:
        declared = self.contents(row).declared["guest"].get("document")
        return None if declared is None else Document.model_validate_json(orjson.dumps(declared))

    def _guests(self, act: Prepared) -> list[StayRow]:
        """The stays in house of the guest whom the sender names."""
        facility_id = act.command.facility.id
        return [
            row
            for entries in self._present.values() for entry in entries.values()
            if entry.facility_id == facility_id and entry.guest_tag == act.guest_tag
            and (row := self._rows.get((facility_id, entry.stay_id))) is not None
            and self.contents(row).guest_ref == act.guest_ref
        ]  # fmt: skip

    def _change(self, act: Prepared) -> Decision:
        current = self._named(act)
        if current is None:
            raise Refused("not_found" if act.match is None and act.guest_ref is None else "not_in_house")
        if act.match is not None and act.arrived_on is None and current.status == "departed":
            return Decision("duplicate", row=current)
        contents = self.contents(current)
        body = act.body
        if isinstance(body, StayCorrection):
            after, row = self._corrected(act, current, contents, body)
        elif isinstance(body, CheckOut):
            after, row = contents, _departed(current, body.departed_at, act.command.received_at)
        elif isinstance(body, UndoCheckOut):
            after, row = contents, _returned(current)
        elif isinstance(body, Extension):
            after, row = _extended(current, contents, body, act.command.extends_within_days)
        else:
            after, row = _cancelled(current, contents, body)
        tag = content_tag_of(self._keyring, after.declared, row.status, row.departed_at)
        if tag == current.content_tag and not _is_regrouped(contents, after):
            return Decision("duplicate", row=current)
        if act.command.expected_version not in (None, current.version):
            raise Refused("version_conflict")
        if row.status == "declared" and (
            current.status != "declared"
            or _span(row) != _span(current)
            or _guest_value(after) != _guest_value(contents)
        ):
            self._refuse_overlap(act.command.facility, after, row)
        facility, version = act.command.facility, current.version + 1
        after = replace(after, salt=new_salt(), sender=act.command.actor, signed_sha256=None)
        after = replace(after, beside=Beside(row.status, row.departed_at, row.declared_at))
        batch_id, index = self._drafts.next_place(facility)
        row = replace(
            row,
            version=version,
            event=act.command.act.kind.value,
            received_at=act.command.received_at,
            content_tag=tag,
            receipt_batch_id=batch_id,
            receipt_index=index,
            sealed=seal_contents(self._keyring, facility.id, row.id, version, after),
        )
        self.superseded.append(current)
        self._earlier.setdefault(current.id, []).append(current)
        self._adopt(facility, after, row, self._keyring.presence_tag(_guest_value(after)))
        return Decision("accepted", row=row)

    def _refuse_overlap(self, facility: Facility, contents: Contents, row: StayRow) -> None:
        """A stay that is in house again, at another time or as another guest, must not double another one.

        Unless one of the two was declared with the explicit override: then they were meant to stand side by side.
        """
        if contents.override is not None:
            return
        guest = _guest_value(contents)
        other = self._staying(facility, self._keyring.presence_tag(guest), guest, _span(row), row.id)
        if other is not None and self.contents(other).override is None:
            raise AlreadyStaying(other)

    def _corrected(
        self, act: Prepared, current: StayRow, contents: Contents, body: StayCorrection
    ) -> tuple[Contents, StayRow]:
        if current.status == "cancelled":
            raise Refused("wrong_state")
        fixed = [name for name in sorted(_NOT_DECLARED) if name in body.root]
        if fixed:
            raise invalid("not_correctable", f"/{fixed[0]}")
        merged = merge_patch(contents.declared, body.root)
        after = _validate(StayDeclaration, merged, act.command, act.command.act.origin)
        if not isinstance(after, StayDeclaration):
            raise TypeError
        declared = declared_members(after)
        for before in (contents, *map(self.contents, self._earlier.get(current.id, ()))):
            if rules.is_another_person(before.declared["guest"], declared["guest"]):
                raise Refused("another_person")
        # Deadline and lateness stay those of the first declaration: a correction neither erases nor creates lateness.
        row = replace(current, arrived_at=after.arrived_at, planned_departure_at=after.planned_departure_at)
        if row.departed_at is not None and row.departed_at < row.arrived_at:
            raise invalid("departure_before_arrival", "/arrived_at")
        told = act.command.act
        groups = {**contents.groups, **told.groups}
        return replace(contents, declared=declared, guest_ref=told.guest_ref or contents.guest_ref, groups=groups), row

    # -- guests who are expected, or here without an identity ----------------------------------------------------------

    def _expected(self, act: Prepared) -> ExpectedRow | None:
        """The expected guest that the act is about, if it is about one. In house comes before expected, and there the
        later arrival."""
        facility_id, expected_id = act.command.facility.id, act.command.expected_id
        if expected_id is not None:
            row = self.expectations.of_id(facility_id, expected_id)
            if row is None:
                raise Refused("not_found")
            return row
        if act.ref_tag is not None:
            return self.expectations.named(facility_id, act.ref_tag)
        if act.guest_ref is None or act.guest_tag is None:
            return None
        rows = self.expectations.of_guest(facility_id, act.guest_tag, act.guest_ref)
        here = [row for row in rows if row.present and row.departed_at is None]
        staying = max((row.arrived_at for row in self._guests(act)), default=None)
        if here or staying is None:
            return max(here or rows, key=lambda row: row.arrives_at or row.created_at, default=None)
        return None

    def _decide_expected(self, act: Prepared, row: ExpectedRow | None) -> Decision:
        kind, body = act.command.act.kind, act.body
        if row is None:
            stay = self._named(act)
            if stay is not None:
                return self._said_already(act, stay)
            if act.refusal is not None:
                raise act.refusal
            return self._expect(act, None, act.command.act.fields)
        if kind is ActKind.DECLARE:
            return self._declare_expected(act, row)
        if isinstance(body, Cancellation):
            return self._mark_expected(act, row, ended=True, departed_at=row.departed_at)
        if row.state == "ended" and kind is not ActKind.EXPECT:
            raise Refused("wrong_state")
        if not isinstance(body, CheckOut | UndoCheckOut):
            return self._expect(act, row, act.command.act.fields)
        if not row.present:
            raise Refused("wrong_state")
        departed_at = body.departed_at if isinstance(body, CheckOut) else None
        if departed_at is not None:
            _refuse_departure(row.arrives_at, departed_at, act.command.received_at)
        return self._mark_expected(act, row, departed_at=departed_at)

    def _expect(self, act: Prepared, row: ExpectedRow | None, fields: Mapping[str, Any]) -> Decision:
        """Take in what is known of a guest; it is a declaration at once if they are in house and nothing is missing."""
        command, said = act.command, act.command.act
        before = self.expectations.contents(row) if row is not None else None
        known = before.known if before else {}
        found = sift(known, fields, command.facility.kind, command.received_at, said.origin, act.sifted)
        present, warnings = row is not None and row.present, found.warnings
        if isinstance(given := fields.get("present"), bool):
            present = given
        elif given is not None:
            warnings = (*warnings, violation("wrong_type", "/present", said.origin.get("/present"), expected="boolean"))
        if not found.known and not present:
            raise Refused("declaration_invalid", violations=(*act.warnings, *warnings) or [violation("required")])
        contents = ExpectedContents(
            known=found.known,
            missing=_kept(found.missing),
            source_ref=before.source_ref if before else _name(said) or "",
            sender=command.actor,
            guest_ref=said.guest_ref or (before.guest_ref if before else None),
            groups={**(before.groups if before else {}), **said.groups},
        )
        missing = found.missing
        if present and not missing:
            try:
                return self._complete(act, row, contents, warnings)
            except Refused as refusal:
                if refusal.code != "declaration_invalid":
                    raise
                missing = located(refusal.violations, said.origin)
                contents = replace(contents, missing=_kept(missing))
        if row is None:
            kept: ExpectedRow | None = self.expectations.enter(
                command.facility, act.ref_tag or b"", contents, present=present, received_at=command.received_at
            )
        else:
            departed_at = row.departed_at if row.state == "open" else None  # who comes again has not left
            kept = self.expectations.change(
                row, contents, received_at=command.received_at, present=present, departed_at=departed_at
            )
        outcome: Literal["expected", "duplicate"] = "expected" if kept is not None else "duplicate"
        return Decision(outcome, expected=kept or row, missing=missing, warnings=warnings)

    def _mark_expected(
        self, act: Prepared, row: ExpectedRow, *, departed_at: datetime | None, ended: bool = False
    ) -> Decision:
        contents = self.expectations.contents(row)
        kept = self.expectations.change(
            row,
            contents,
            received_at=act.command.received_at,
            present=row.present,
            departed_at=departed_at,
            ended=ended,
        )
        missing = () if ended else tuple(Violation(*each) for each in contents.missing)
        return Decision("expected" if kept is not None else "duplicate", expected=kept or row, missing=missing)

    def _declare_expected(self, act: Prepared, row: ExpectedRow) -> Decision:
        """The desk declares an expected guest: what it says lies over what was known."""
        contents, said = self.expectations.contents(row), act.command.act
        fields = {name: value for name, value in said.fields.items() if name not in ("present", "facility")}
        if fields.pop("source_ref", contents.source_ref) != contents.source_ref:
            raise invalid("not_correctable", "/source_ref")
        contents = replace(
            contents,
            known=merge_patch(contents.known, fields),
            guest_ref=said.guest_ref or contents.guest_ref,
            groups={**contents.groups, **said.groups},
        )
        return self._complete(act, row, contents)

    def _complete(
        self, act: Prepared, row: ExpectedRow | None, contents: ExpectedContents, warnings: tuple[Violation, ...] = ()
    ) -> Decision:
        """Declare what an expectation has become, and check out who has left meanwhile. Raises `Refused` before
        anything is changed."""
        left_at = row.departed_at if row is not None and row.state == "open" else None
        said = replace(
            act.command.act,
            kind=ActKind.DECLARE,
            fields=contents.known,
            source_ref=contents.source_ref,
            match=None,
            violations=(),
            warnings=(),
            guest_ref=contents.guest_ref,
            groups=contents.groups,
        )
        command = replace(act.command, act=said, stay_id=None, expected_id=None, expected_version=None)
        prepared = _prepare_sound(self._keyring, command)
        if not isinstance(prepared.body, StayDeclaration):
            raise TypeError
        if left_at is not None and left_at < prepared.body.arrived_at:
            raise invalid("departure_before_arrival", "/arrived_at")
        decision = self._declare(prepared, prepared.body, left_at, was_expected=True)
        if row is not None:
            self.expectations.remove(row)
        if left_at is not None and decision.row is not None:
            left = replace(command, act=replace(said, kind=ActKind.CHECK_OUT), stay_id=decision.row.id)
            decision = self._change(replace(prepared, command=left, body=CheckOut(departed_at=left_at)))
        more = [found for found in prepared.warnings if found not in act.warnings]
        return replace(decision, warnings=(*warnings, *more))

    def _said_already(self, act: Prepared, stay: StayRow) -> Decision:
        """What is said of a guest who has been declared: nothing new, or a difference that is no correction."""
        if stay.status == "cancelled":
            raise Refused("stay_cancelled")
        command, said = act.command, act.command.act
        for row in (stay, *self._earlier.get(stay.id, ())):
            declared = self.contents(row).declared
            found = sift(declared, said.fields, command.facility.kind, command.received_at, said.origin)
            if found.missing or (found.warnings and said.kind is ActKind.DECLARE):
                continue
            after = _validate(StayDeclaration, found.known, command, said.origin)
            if isinstance(after, StayDeclaration) and declared_members(after) == declared:
                return Decision("duplicate", row=row, warnings=found.warnings)
        raise Refused("content_differs")

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def _adopt(self, facility: Facility, contents: Contents, row: StayRow, document_tag: int | None) -> None:
        """Remember a new version as the stay's state, with its receipt and its place in the house."""
        self._drafts.add(facility, row, contents)
        tags = tags_of(self._keyring, row, contents)
        previous = self.changes.get(row.id)
        self._leave(row.id)
        self._heads.pop(row.id, None)
        presence = None
        if row.status == "declared" and document_tag is not None:
            guest_tag = self._keyring.guest_tag(facility.id, contents.guest_ref) if contents.guest_ref else None
            presence = Presence(facility.id, row.id, document_tag, row.arrived_at, row.planned_departure_at, guest_tag)
            self._enter(presence)
            if (led := party_led(self._keyring, contents.declared)) is not None:
                self._heads[row.id] = (facility.id, led)
        elif row.status == "cancelled" and contents.source_ref is None:
            # a name that was not the sender's own must not keep the declaration from being made again
            self._free_names(facility.id, row.id)
        self._rows[facility.id, row.id] = row
        self._opened[row.id, row.version] = contents
        is_new = previous.is_new if previous else row.version == 1
        self.changes[row.id] = Change(facility, row, tags, contents, presence, is_new)

    def _enter(self, entry: Presence) -> None:
        key = (entry.facility_id, entry.document_tag)
        self._present.setdefault(key, {})[entry.stay_id] = entry
        self._present_under[entry.stay_id] = key

    def _leave(self, stay_id: UUID) -> None:
        key = self._present_under.pop(stay_id, None)
        if key is not None:
            del self._present[key][stay_id]
            self._left.setdefault(key, set()).add(stay_id)

    def _free_names(self, facility_id: int, stay_id: UUID) -> None:
        self.freed_refs.append((facility_id, stay_id))
        for key in [key for key, named in self._refs.items() if named == stay_id]:
            del self._refs[key]
            self.new_refs.pop(key, None)


class AlreadyStaying(Refused):
    """The guest is in house already; carries the stay that says so."""

    def __init__(self, row: StayRow) -> None:
        super().__init__("already_staying")
        self.row = row


def _span(row: StayRow) -> Span:
    return row.arrived_at, row.planned_departure_at


def _guest_value(contents: Contents) -> str:
    return rules.guest_value(contents.declared["guest"])


def guests_after(contents: Contents, patches: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Who a stay is about now and, one correction after the other, would be about (`rules.guest_value`)."""
    yield from guests_over(contents.declared["guest"], patches)


def guests_over(guest: Any, patches: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Whom the `guest` of a declaration names, and whom it would after each patch (`rules.guest_value`)."""
    for patch in ({}, *patches):
        guest = merge_patch(guest, patch.get("guest", {}))
        with suppress(KeyError, TypeError, AttributeError):  # no guest at all; deciding will say so
            yield rules.guest_value(guest)


def _is_regrouped(before: Contents, after: Contents) -> bool:
    """Whether the guest's own name at the facility, or what the guest belongs to there, has changed."""
    return (before.guest_ref, before.groups) != (after.guest_ref, after.groups)


def _has_left_before(row: StayRow, arrived_at: datetime) -> bool:
    return row.status == "departed" and row.departed_at is not None and row.departed_at <= arrived_at


def _departed(current: StayRow, departed_at: datetime, received_at: datetime) -> StayRow:
    if current.status == "cancelled":
        raise Refused("wrong_state")
    _refuse_departure(current.arrived_at, departed_at, received_at)
    return replace(current, status="departed", departed_at=departed_at)


def _refuse_departure(arrived_at: datetime | None, departed_at: datetime, received_at: datetime) -> None:
    if arrived_at is not None and departed_at < arrived_at:
        raise invalid("departure_before_arrival", "/departed_at")
    if departed_at > received_at + CLOCK_TOLERANCE:
        raise invalid("departure_in_future", "/departed_at")


def _kept(faults: Iterable[Violation]) -> tuple[tuple[str, str, str, str], ...]:
    return tuple((fault.code, fault.pointer, fault.vi, fault.en) for fault in faults)


def _returned(current: StayRow) -> StayRow:
    if current.status == "cancelled":
        raise Refused("wrong_state")
    return replace(current, status="declared", departed_at=None)


def _arrival(row: StayRow) -> datetime:
    return row.arrived_at


def _extended(
    current: StayRow, contents: Contents, body: Extension, within_days: int | None
) -> tuple[Contents, StayRow]:
    if current.status != "declared":
        raise Refused("wrong_state")
    planned = body.planned_departure_at
    if planned < current.arrived_at:
        raise invalid("departure_before_arrival", "/planned_departure_at")
    if planned - current.arrived_at > STAY_LIMIT:
        raise invalid("stay_too_long", "/planned_departure_at", limit=STAY_LIMIT.days)
    if within_days is not None:
        _refuse_no_extension(current, planned, within_days)
    declared = {**contents.declared, "planned_departure_at": planned.isoformat().replace("+00:00", "Z")}
    return replace(contents, declared=declared), replace(current, planned_departure_at=planned)


def _refuse_no_extension(current: StayRow, planned: datetime, within_days: int) -> None:
    if current.planned_departure_at is not None and planned < current.planned_departure_at:
        raise invalid("departure_not_later", "/planned_departure_at")
    if rules.local_day(planned) - rules.local_day(current.arrived_at) > timedelta(days=within_days):
        raise invalid("stay_too_long", "/planned_departure_at", limit=within_days)


def _cancelled(current: StayRow, contents: Contents, body: BaseModel) -> tuple[Contents, StayRow]:
    if current.status == "cancelled":
        return contents, current
    cancellation = body.model_dump(exclude_none=True)
    return replace(contents, cancellation=cancellation), replace(current, status="cancelled")
