"""What an object shows of itself: no `repr` and no `str` has anything about a person in it, whoever prints or logs it.

Every record and every exception of the product is filled with known words. A field that may hold a text, bytes, a date
or anything at all, and that shows, is named in `SHOWN` with the reason why it may: a new one fails until it is hidden
(`field(repr=False)`) or judged.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any, TypeVar

import pydantic

from schemas.stay import ExpectedStay, StayCorrection

PACKAGES = ("asm_daemon", "connectors", "schemas")
WORD = "QXJ{}VWZ"
"""What a field is filled with: a word that its name is in, and that stands nowhere else."""
TELLING = (str, bytes, date, time, object, dict, list, tuple, set, Any, pydantic.BaseModel)
"""What may hold a name, a number or a birth date: texts, and what says nothing of what is in it. Instants, numbers,
enumerations and UUIDs may not; records of ours are looked at by themselves."""

SHOWN = {
    "a code from a table, a state, or a place in a document: never what stands there": """
        authority code codes commune connector department disabled_code event facility_commune facility_kind kind
        last_code place province reasons state status system template verification why zone
        Choice.code Part.reason Waiting.reason Proofs.codes StaysVerification.faults
        Peer.address Elsewhere.at Cell.at Leak.node Suppression.exposed Suppression.hidden Suppression.own
        Progress.sealed_table Round.counts Round.cutoffs PlanRow.decisions _Collector.path HospitalProfile.charset
        HospitalProfile.overnight_classes HospitalProfile.relative_role Envelope.version""",
    "an id that we gave, of a facility, a key, a stay, or of somebody who works here": """
        actor client_id closed_by facility facility_code id key_id property_id
        Actor.name Alert.details Alert.subject Principal.grants _Resealed.tags_changed""",
    "what a facility is called and where it is, which anybody may look up at the check page": """
        facility_address facility_name Facility.address Facility.name""",
    "a day on which something happened, never one on which somebody was born": """
        arrived_on counted_on period registered_on
        Reservation.arrival Reservation.departure Reservation.left_at""",
    "sealed, hashed, keyed or public: nobody reads a person in it without our keys": """
        certificate_sha256 content_tag declared_digest digest guardian_ref_tag message_tag plan_sha256 question ref_tag
        reservation_sealed reservation_tag sealed sealed_sha256 sha256
        AuditVerification.root Checkpoint.extensions Checkpoint.origin Checkpoint.root ConsistencyProof.path
        InclusionProof.leaf InclusionProof.note InclusionProof.path LogEntry.leaf NoteKey.name NoteKey.public_key
        Peer.certificate ReceiptBatch.checkpoint ReceiptBatch.leaves RefusedMessage.header_sealed Replacement.after
        Replacement.before Reseal.pairs SignedBatch.note SigningKey.public_key_bytes Subtree.hash _Anew.pair
        _Tiles.levels""",
    "why something was not done, in our own words": "NotEndable.en NotErasable.en",
    "settings and addresses of machines, without their secrets": """
        Daemon.connectors Daemon.pools base_url credentials_file deployment host public_url token_url
        KeyFacts.algorithm LogClient.url LogMisbehaved.kind Settings.key_pkcs11_token Settings.key_vault_key
        Settings.key_vault_mount Settings.key_vault_url Settings.population_client_id Settings.population_connector
        Settings.population_url""",
}
"""Fields by name, or as `Class.field` where the name alone says too little."""
WRITTEN_HERE = set(
    """
    asm_daemon.database_settings.Fault asm_daemon.embedded._Account asm_daemon.forms.Form asm_daemon.forms._Column
    asm_daemon.jobs.Job asm_daemon.problems.ProblemType asm_daemon.rules.ResidenceRule
    asm_daemon.store.migrate.Migration asm_daemon.store.sealed.SealedTable asm_daemon.web.bodies.Body
    asm_daemon.web.bodies.Content asm_daemon.web.route.Header asm_daemon.web.route.Route
    asm_daemon.web.route.Shown asm_daemon.web.route.Who
    connectors.tables.Vocabulary schemas.act.Connector schemas.codes.Code schemas.codes.Table schemas.families.MinorRule
    schemas.places.NamedCommune schemas.places.NamedProvince schemas.places._District schemas.places._Name
    schemas.violations.Text schemas.violations.Violation
    asm_daemon.demo.Site asm_daemon.demo.Summary asm_daemon.samples_directory._Row schemas.synthetic.Person
    asm_daemon.suppression._Search
""".split()  # noqa: SIM905 - one a line would be a page
)
"""The program's own words (routes, forms, code tables, messages), people who do not exist, and a search over counts."""


def records() -> list[type]:
    """Every dataclass, named tuple and model of the product."""
    return [each for each in classes() if fields_of(each)]


def classes() -> Iterator[type]:
    """Every class of the product, where it is defined."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            module = importlib.import_module(found.name)
            for each in vars(module).values():
                # Pydantic puts the bases that it makes into the module, too: "RootModel[dict[str, Any]]".
                if inspect.isclass(each) and each.__module__ == module.__name__ and "[" not in each.__name__:
                    yield each


def fields_of(cls: type) -> list[str]:
    """The names of a record's fields; none if it is no record."""
    if dataclasses.is_dataclass(cls):
        return [each.name for each in dataclasses.fields(cls)]
    if issubclass(cls, pydantic.BaseModel):
        return list(cls.model_fields)
    return list(getattr(cls, "_fields", ()))


def filled(cls: type) -> object:
    """A record of which each field is the word with its name in it, whatever it should be."""
    words: dict[str, Any] = {name: WORD.format(name) for name in fields_of(cls)}
    if issubclass(cls, pydantic.BaseModel):
        return cls.model_construct(**words)
    if issubclass(cls, tuple):
        return tuple.__new__(cls, words.values())
    made = object.__new__(cls)
    for name, word in words.items():
        object.__setattr__(made, name, word)
    return made


def may_tell(annotation: Any) -> bool:
    """Whether what is annotated so may hold a text, a date or anything at all."""
    if isinstance(annotation, TypeVar):
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return annotation in TELLING
    if origin in (typing.Literal, type, collections.abc.Callable):
        return False
    if origin is typing.Annotated:
        return may_tell(arguments[0])
    return any(may_tell(each) for each in arguments if each is not Ellipsis)


def telling(words: Mapping[str, str], shown: str, hints: Mapping[str, Any]) -> list[str]:
    """The names of what may tell something and stands in a text."""
    return [name for name, word in words.items() if word in shown and may_tell(hints.get(name, Any))]


def judged() -> set[str]:
    return {name for names in SHOWN.values() for name in names.split()}


def found_in_records() -> dict[str, str]:
    """What shows: `Class.field` → the field alone."""
    found = {}
    for cls in records():
        if f"{cls.__module__}.{cls.__name__}" not in WRITTEN_HERE:
            made, words = filled(cls), {name: WORD.format(name) for name in fields_of(cls)}
            for name in telling(words, repr(made) + str(made), typing.get_type_hints(cls)):
                found[f"{cls.__name__}.{name}"] = name
    return found


def found_in_exceptions() -> dict[str, str]:
    """The same of exceptions that say themselves how they are made. What else is in a message stands where it is
    raised, and `asm_daemon.log` lets no message through."""
    found = {}
    for cls in classes():
        if not issubclass(cls, BaseException) or "__init__" not in vars(cls):
            continue
        signature, hints = inspect.signature(cls), typing.get_type_hints(cls.__init__)
        words = {name: WORD.format(name) for name in signature.parameters}
        given = {**words, "code": "not_found"} if "code" in words else words
        positional = [given[each.name] for each in signature.parameters.values() if each.kind in POSITIONAL]
        named = {name: given[name] for name, each in signature.parameters.items() if each.kind not in POSITIONAL}
        made = cls(*positional, **named)
        for name in telling(words, f"{made!r} {made}", hints):
            found[f"{cls.__name__}.{name}"] = name
    return found


POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def test_no_record_and_no_exception_shows_what_nobody_judged() -> None:
    found = found_in_records() | found_in_exceptions()
    assert len(found) > 100, "nothing was looked at"
    assert {each for each, name in found.items() if not {each, name} & judged()} == set()


def test_nothing_is_let_show_that_shows_no_more() -> None:
    found = found_in_records() | found_in_exceptions()
    assert judged() - set(found) - set(found.values()) == set()
    assert WRITTEN_HERE - {f"{each.__module__}.{each.__name__}" for each in records()} == set()


@dataclasses.dataclass(frozen=True, slots=True)
class Careless:
    """What somebody may write tomorrow."""

    guests: Mapping[str, Any]
    born_on: date | None
    count: int
    said: str = dataclasses.field(repr=False)


def test_a_careless_record_is_found() -> None:
    words = {name: WORD.format(name) for name in fields_of(Careless)}
    assert telling(words, repr(filled(Careless)), typing.get_type_hints(Careless)) == ["guests", "born_on"]


def test_a_correction_says_nothing_of_itself_however_it_is_printed() -> None:
    for cls in (StayCorrection, ExpectedStay):
        made = cls.model_validate({"guest": {"full_name": "Nguyễn Văn Mẫu"}})
        assert f"{made} {made!r}" == f"<{cls.__name__}> <{cls.__name__}>"
