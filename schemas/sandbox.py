"""The sandbox: test persons with a known answer of the population check, and every error on demand.

A sandbox facility is a tenant of its own: its stays get receipts marked as trials, and reach neither the population
database nor the police nor any extract.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any, NamedTuple

from schemas.synthetic import Person, person
from schemas.violations import CATALOGUE, Violation, violation

ERROR_PREFIX = "sandbox:"
"""A `source_ref` of `sandbox:<problem code>` or `sandbox:declaration_invalid:<violation code>` provokes that error."""


class TestPerson(NamedTuple):
    """A synthetic person and what the population check answers for them."""

    person: Person
    verification: str


TEST_PERSONS: tuple[TestPerson, ...] = (
    TestPerson(person(900_001), "matched"),
    TestPerson(person(900_002), "mismatch"),
    TestPerson(person(900_003), "unknown"),
    TestPerson(person(900_004), "document_revoked"),
)
_VERIFICATIONS = {entry.person.document_number: entry.verification for entry in TEST_PERSONS}


def verification_of(document: Mapping[str, Any] | None) -> str:
    """What the sandbox answers for the population database about the `document` of a declared guest."""
    return "not_checked" if document is None else _VERIFICATIONS.get(document["number"], "not_checked")


def refusal_on_demand(source_ref: str) -> tuple[str, tuple[Violation, ...]] | None:
    """The problem code and violations that a `source_ref` asks for; None when it asks for none."""
    if not source_ref.startswith(ERROR_PREFIX):
        return None
    code, _, wanted = source_ref.removeprefix(ERROR_PREFIX).partition(":")
    if wanted not in CATALOGUE:
        return code, ()
    names = {name for text in CATALOGUE[wanted] for _, name, _, _ in Formatter().parse(text) if name}
    return code, (violation(wanted, "", None, **dict.fromkeys(names, "…")),)
