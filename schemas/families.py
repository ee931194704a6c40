"""Minors without a document (trẻ em chưa có giấy tờ): up to which age a guardian stands for one, by kind of facility.

These are facility rules and not the law. Article 30 of the Law on Residence asks for the personal identification number
or the passport number of every guest, and a child has a number from the registration of birth on. Where a family has no
paper of it at hand, a declaration with the guardian is better than none: the stay carries a warning until the number is
added by a correction. The rules are data with dates, so that the competent authority's word replaces them without a
change of code; each row says where it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from schemas.codes import FacilityKind


@dataclass(frozen=True, slots=True)
class MinorRule:
    """At these kinds of facility, for arrivals from `valid_from` on (Viet Nam), a guest below `below_age` needs no
    document if there is a guardian.

    `guardian_in_house`: the guardian stays at the same facility; where that cannot be seen, the sender is warned.
    """

    valid_from: date
    kinds: frozenset[FacilityKind]
    below_age: int
    guardian_in_house: bool
    source: str


_IN_FORCE = date(2021, 7, 1)  # the Law on Residence 68/2020/QH14; older arrivals are not taken

MINOR_RULES: Sequence[MinorRule] = (
    MinorRule(
        _IN_FORCE,
        frozenset(FacilityKind) - {FacilityKind.MEDICAL_FACILITY},
        below_age=14,
        guardian_in_house=True,
        source="Facility rule; the law asks for a number. From 14 on a citizen must hold an identity card (Law on "
        "Identification 26/2023/QH15, Article 19). To be confirmed by the provincial police.",
    ),
    MinorRule(
        _IN_FORCE,
        frozenset({FacilityKind.MEDICAL_FACILITY}),
        below_age=16,
        guardian_in_house=False,
        source="Facility rule; the law asks for a number. A hospital admits a child, and a newborn whose birth is not "
        "registered yet, whoever brings it; a child is below 16 (Law on Children 102/2016/QH13, Article 1). To be "
        "confirmed by the provincial police.",
    ),
)
"""Of the rows for a kind, the one with the newest `valid_from` that is not after the day of arrival is in force."""


def minor_rule(kind: FacilityKind, arrived_on: date) -> MinorRule | None:
    """The rule in force for a kind of facility on the day of arrival; None: every guest needs a document."""
    rows = [rule for rule in MINOR_RULES if kind in rule.kinds and rule.valid_from <= arrived_on]
    return max(rows, key=lambda rule: rule.valid_from, default=None)


def age_on(birth_date: str, day: date) -> int:
    """Completed years of age on `day`; a birth date of YYYY or YYYY-MM counts as its first day.

    That is the oldest that the guest can be: a doubt asks for the document. Whoever is born on 29 February completes a
    year on 1 March where there is no 29 February.
    """
    year, month, day_of_month = (int(part) for part in f"{birth_date}-01-01".split("-")[:3])
    return day.year - year - ((day.month, day.day) < (month, day_of_month))
