"""The record of one run: everything that was sent, and everything that was answered.

Kept in memory while the load runs, and what the auditor holds the daemon to afterwards. It holds ids, codes, receipts
and the numbers from which `contents` makes what was said again: nothing about a person, and the persons are synthetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import orjson

from schemas.act import ActKind
from tests.faults.contents import Content

NOT_RECORDED = frozenset({"overloaded", "unavailable", "request_timeout"})
"""Problem codes that promise a sender that nothing was recorded (docs/api.md, "Sending again")."""


def utc_now() -> datetime:
    """The clock of whoever sends."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Attempt:
    """One time that something was sent. Without a status nobody has answered, and what became of it is unknown."""

    at: datetime
    status: int | str | None = None
    code: str | None = None

    @property
    def may_have_counted(self) -> bool:
        """Whether the daemon may have done what this attempt asked, after all that it was told."""
        if self.status is None:
            return True
        if isinstance(self.status, int) and self.status >= 400:
            return self.status >= 500 and self.code not in NOT_RECORDED
        return self.status not in ("AE", "AR")


@dataclass(slots=True)
class SentAct:
    """One act of one facility, and what was answered in the end.

    A declaration is named by `source_ref`, or by `key`: Idempotency-Key and row. Any other act is about `stay_id`, over
    MLLP about `source_ref`. `refusals` are the codes that a correct daemon may refuse it with, and with `may_succeed`
    false one of them is the only correct answer. `outcome` stays None while no answer has come.
    """

    number: int
    facility: str
    door: Literal["single", "batch", "mllp"]
    content: Content
    source_ref: str | None = None
    key: str | None = None
    stay_id: UUID | None = None
    if_match: int | None = None
    control_id: str | None = None
    refusals: frozenset[str] = frozenset()
    may_succeed: bool = True
    attempts: list[Attempt] = field(default_factory=list)
    outcome: Literal["accepted", "duplicate", "refused"] | None = None
    code: str | None = None
    version: int | None = None

    @property
    def kind(self) -> ActKind:
        """What it does."""
        return self.content.kind

    @property
    def is_accepted(self) -> bool:
        """Whether the sender was told that it is on file: a 2xx, or an ACK AA."""
        return self.outcome in ("accepted", "duplicate")

    @property
    def may_have_counted(self) -> bool:
        """Whether it may be on file, once or not at all; false if every attempt was refused."""
        return self.is_accepted or any(attempt.may_have_counted for attempt in self.attempts)

    def label(self) -> str:
        """How a finding names it."""
        return f"act {self.number} ({self.kind.value} at {self.facility}, {self.door})"


@dataclass(slots=True)
class Read:
    """An owner's read of what was declared. `declaration` is what came back, None while nothing has."""

    stay_id: UUID
    at: datetime
    version: int | None = None
    declaration: Any = None


@dataclass(slots=True)
class Search:
    """An officer's search, sent once. `expected` are the stays of the person that were on file before it was sent."""

    person: int
    at: datetime
    expected: frozenset[UUID]
    status: int | None = None
    code: str | None = None
    trace: str | None = None
    found: tuple[UUID, ...] = ()


class Journal:
    """Everything of one run, in the order in which it began to be sent."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.began = utc_now().replace(microsecond=0)
        self.acts: list[SentAct] = []
        self.receipts: dict[tuple[UUID, int], set[bytes]] = {}
        self.reads: list[Read] = []
        self.searches: list[Search] = []

    def enter(
        self, facility: str, door: Literal["single", "batch", "mllp"], content: Content, **members: Any
    ) -> SentAct:
        """Add an act before it is sent."""
        act = SentAct(len(self.acts) + 1, facility, door, content, **members)
        self.acts.append(act)
        return act

    def keep_receipt(self, stay_id: UUID, version: int, receipt: Any) -> None:
        """Keep a receipt as it was given, members in the order in which they came."""
        self.receipts.setdefault((stay_id, version), set()).add(orjson.dumps(receipt))

    def accepted(self) -> list[SentAct]:
        """What the senders were told is on file."""
        return [act for act in self.acts if act.is_accepted]

    def unknown(self) -> list[SentAct]:
        """What was sent and never answered."""
        return [act for act in self.acts if act.outcome is None and act.attempts]

    def counts(self) -> dict[str, int]:
        """How much of what there was."""
        outcomes = [act.outcome for act in self.acts]
        return {
            "acts": len(self.acts),
            "attempts": sum(len(act.attempts) for act in self.acts),
            "accepted": outcomes.count("accepted"),
            "duplicate": outcomes.count("duplicate"),
            "refused": outcomes.count("refused"),
            "unknown": len(self.unknown()),
            "acts_over_mllp": sum(act.door == "mllp" for act in self.acts),
            "receipts": sum(map(len, self.receipts.values())),
            "reads": len(self.reads),
            "searches": len(self.searches),
        }

    def dump(self, path: Path) -> None:
        """Write it as JSON lines: ids, codes and numbers."""
        path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in self._lines()))

    def _lines(self) -> Iterator[dict[str, Any]]:
        yield {"seed": self.seed, "began": self.began, "counts": self.counts()}
        for act in self.acts:
            yield {
                "act": act.number,
                "facility": act.facility,
                "door": act.door,
                "kind": act.kind.value,
                "person": act.content.person,
                "seed": act.content.seed,
                "source_ref": act.source_ref,
                "key": act.key,
                "stay_id": act.stay_id,
                "if_match": act.if_match,
                "control_id": act.control_id,
                "attempts": [[one.at, one.status, one.code] for one in act.attempts],
                "outcome": act.outcome,
                "code": act.code,
                "version": act.version,
            }
        for search in self.searches:
            yield {
                "search": search.person,
                "at": search.at,
                "status": search.status,
                "code": search.code,
                "trace": search.trace,
                "expected": sorted(map(str, search.expected)),
                "found": [str(found) for found in search.found],
            }
        for read in self.reads:
            yield {"read": read.stay_id, "at": read.at, "version": read.version}
