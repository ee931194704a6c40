"""A connector to a population database of another kind, as a third party would write it: a dict in memory.

It shares nothing with the client of the simulator but the types of the contract, and is installed by an entry point.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from schemas.population import (
    BatchAnswer,
    HeldPage,
    HeldStay,
    IdRange,
    Outcome,
    PopulationItem,
    PopulationResult,
    PopulationState,
    RangeDigest,
    Verification,
    digest,
    range_digest,
)


@dataclass
class Ledger:
    """What is held: the newest version of each stay. It knows nobody, so every guest is `unknown`."""

    items: dict[UUID, PopulationItem] = field(default_factory=dict)

    async def send(self, items: Sequence[PopulationItem]) -> BatchAnswer:
        """Take everything."""
        self.items |= {one.stay_id: one for one in items}
        return BatchAnswer(
            {
                one.stay_id: PopulationResult(
                    stay_id=one.stay_id,
                    version=one.version,
                    outcome=Outcome.ACCEPTED,
                    code=None,
                    verification=Verification.UNKNOWN,
                )
                for one in items
            },
            frozenset(),
        )

    async def status(self, stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        """The version held of each stay."""
        states = {}
        for stay_id in stay_ids:
            held = self.items.get(stay_id)
            states[stay_id] = PopulationState(
                stay_id=stay_id,
                version=None if held is None else held.version,
                digest=None if held is None else digest(held),
                verification=None if held is None else Verification.UNKNOWN,
            )
        return states

    async def digests(self, ranges: Sequence[IdRange]) -> Mapping[IdRange, RangeDigest]:
        """How many stays of each range, and the digest over theirs."""
        told = {}
        for one in ranges:
            digests = [row.digest for row in self._rows(one)]
            told[one] = RangeDigest(start=one.start, end=one.end, stays=len(digests), digest=range_digest(digests))
        return told

    async def held(self, wanted: IdRange) -> HeldPage:
        """Everything of a range."""
        rows = self._rows(wanted)
        return HeldPage(results=rows, count=len(rows), complete=True)

    def _rows(self, one: IdRange) -> list[HeldStay]:
        return [
            HeldStay(stay_id=stay_id, version=item.version, digest=digest(item))
            for stay_id, item in sorted(self.items.items())
            if one.start <= stay_id < one.end
        ]


LEDGERS: dict[str, Ledger] = {}
"""By address, so that a test can look into the one it named."""


@asynccontextmanager
async def open_client(base_url: str, client_id: str, client_secret: str) -> AsyncIterator[Ledger]:
    """The ledger of this address."""
    assert client_id
    assert client_secret
    yield LEDGERS.setdefault(base_url, Ledger())
