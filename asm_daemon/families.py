"""What binds a guest to others in the house: a minor's guardian (người giám hộ), and a party with its head (đoàn)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asm_daemon import rules
from asm_daemon.crypto import Keyring, document_value
from asm_daemon.model import Facility
from schemas.families import minor_rule
from schemas.folding import fold_text
from schemas.stay import StayDeclaration


@dataclass(frozen=True, slots=True)
class Ties:
    """How the others of a declared guest are found. A guardian is by `source_ref` or, where there is none, by document.

    `guardian_in_house`: the rule for minors wants the guardian at the same facility. `leads`: the guest is the head of
    the party, not a member.
    """

    guardian_ref_tag: bytes | None
    guardian_tag: int | None
    guardian_value: str | None = field(repr=False)
    guardian_in_house: bool
    party_tag: int | None
    leads: bool


def ties_of(keyring: Keyring, facility: Facility, body: StayDeclaration) -> Ties | None:
    """The ties of a declared guest; None for a guest alone, as nearly all are."""
    guardian, party = body.guest.guardian, body.party
    if guardian is None and party is None:
        return None
    ref = guardian.source_ref if guardian else None
    document = guardian.document if guardian and ref is None else None
    value = document_value(document.number) if document else None
    rule = minor_rule(facility.kind, rules.local_day(body.arrived_at)) if body.guest.document is None else None
    return Ties(
        guardian_ref_tag=None if ref is None else keyring.reference_tag(facility.id, ref),
        guardian_tag=None if value is None else keyring.presence_tag(value),
        guardian_value=value,
        guardian_in_house=rule is not None and rule.guardian_in_house,
        party_tag=None if party is None else _party_tag(keyring, party.ref),
        leads=party is not None and party.role == "head",
    )


def party_led(keyring: Keyring, declared: Mapping[str, Any]) -> int | None:
    """The tag of the party that the guest of declared data is the head of."""
    party = declared.get("party")
    return _party_tag(keyring, party["ref"]) if party and party["role"] == "head" else None


def _party_tag(keyring: Keyring, ref: str) -> int:
    """Marks, case and spaces make no difference. No guest's value begins with two bars (`rules.guest_value`)."""
    return keyring.presence_tag(f"||party|{fold_text(ref)}")
