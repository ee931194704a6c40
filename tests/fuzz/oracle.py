"""What has to be true of a reader, whatever it is given."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path

from asm_daemon.crypto import Keyring, epoch_at
from asm_daemon.decisions import Command, prepare
from asm_daemon.keystores import create_store, open_keyring
from asm_daemon.model import Facility
from asm_daemon.problems import Refused
from schemas.act import RESULTS_LIMIT, Act, Unreadable, from_json, to_json
from schemas.codes import FacilityKind
from schemas.violations import Violation
from tests.fuzz.targets import MARKS, Target

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
"""When everything is received, so that what was found is found again."""
CPU_SECONDS_LIMIT = 3.0
PLACE_CHARACTERS_LIMIT = 300
PREPARED_LIMIT = 20
_MARK = re.compile("|".join(MARKS), re.IGNORECASE)
_KINDS = (FacilityKind.GUESTHOUSE, FacilityKind.MEDICAL_FACILITY)


class Finding(AssertionError):
    """A reader broke its promise; the text says which one, and holds nothing of the input."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one input that broke no promise."""

    acts: int
    unreadable: int
    cpu_seconds: float


def check(target: Target, data: bytes) -> Checked:
    """Read `data` and hold every result against the promises. Raises `Finding`, or whatever the reader raised."""
    began = time.process_time()
    results = list(islice(target.read(data), RESULTS_LIMIT + 2))
    cpu_seconds = time.process_time() - began
    check_results(results)
    if cpu_seconds > CPU_SECONDS_LIMIT:
        raise Finding("took too long")
    acts = [result for result in results if isinstance(result, Act)]
    return Checked(len(acts), len(results) - len(acts), cpu_seconds)


def check_results(results: Sequence[object]) -> None:
    """Hold what a reader gave against the promises. Raises `Finding`."""
    if len(results) > RESULTS_LIMIT + 1:
        raise Finding("more results than a document may have")
    prepared = 0
    for result in results:
        if isinstance(result, Unreadable):
            if not result.violations:
                raise Finding("unreadable without a reason")
            check_violations(result.violations)
        elif isinstance(result, Act):
            check_violations((*result.violations, *result.warnings))
            _refuse_long(*result.origin.values())
            _refuse_marks("origin", *result.origin.values(), *result.origin)
            _refuse_marks("repr", repr(result))
        else:
            raise Finding("neither an act nor an unreadable row")
        if from_json(to_json(result)) != result:
            raise Finding("differs after a journey as JSON")
        if isinstance(result, Act) and prepared < PREPARED_LIMIT:
            prepared += 1
            _check_preparation(result)


def check_violations(violations: Iterable[Violation]) -> None:
    """Each has a code and both texts, and repeats nothing of the input."""
    for each in violations:
        if not (each.code and each.vi.strip() and each.en.strip()):
            raise Finding("a reason without words")
        _refuse_long(each.place or "", each.pointer)
        _refuse_marks("violation", each.code, each.pointer, each.vi, each.en, each.place or "")


def _check_preparation(act: Act) -> None:
    """What intake makes of the act by itself, in two kinds of facility: prepared, or refused with reasons."""
    for kind in _KINDS:
        try:
            found = prepare(keyring(), Command(facility(kind), act, NOW, "fuzz"))
        except Refused as refusal:
            if refusal.code == "declaration_invalid" and not refusal.violations:
                raise Finding("refused without a reason") from None
            check_violations(refusal.violations)
            _refuse_marks("refusal", repr(refusal), str(refusal))
        else:
            check_violations(found.warnings)
            _refuse_marks("repr", repr(found))


def _refuse_marks(where: str, *texts: str) -> None:
    if any(_MARK.search(text) for text in texts):
        raise Finding(f"repeats the input: {where}")


def _refuse_long(*places: str) -> None:
    if any(len(place) > PLACE_CHARACTERS_LIMIT for place in places):
        raise Finding("a place longer than a line")


@cache
def keyring() -> Keyring:
    """Keys for the month of `NOW`, made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="asm-fuzz-keys-")) / "store"
    create_store(folder, [epoch_at(NOW)], NOW)
    return open_keyring(folder)


@cache
def facility(kind: FacilityKind) -> Facility:
    """A facility of that kind."""
    return Facility(1, "T-1", "Cơ sở", kind, "109", "109900001", "Số 1", None, "PA-1", 100, sandbox=False)
