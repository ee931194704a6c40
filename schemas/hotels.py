"""What hotel software tells: something about a reservation changed (a thin event), or the reservation itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

PARTY_LIMIT = 50
"""How many guests one reservation may have; groups come as many reservations."""
EVENTS_LIMIT = 1_000
"""How many events one webhook call may carry."""
RESERVATION_ID_LIMIT = 64


class HotelSystem(StrEnum):
    """Hotel software whose webhooks are taken and whose reservations are fetched."""

    MEWS = "mews"
    APALEO = "apaleo"
    OHIP = "ohip"


@dataclass(frozen=True, slots=True)
class Changed:
    """Something about this reservation changed. `property_id` is the system's own name of the hotel, where it says."""

    reservation_id: str = field(repr=False)
    property_id: str | None = None


@dataclass(frozen=True, slots=True)
class HotelEvents:
    """What one webhook call says: each reservation once, and how many events were about something else."""

    changed: tuple[Changed, ...]
    ignored: int = 0


class NotFetched(Exception):
    """A reservation was not fetched: a code of our own, and how long the system asks to be left alone."""

    def __init__(self, code: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class NotEvents(Exception):
    """The body is not a webhook call of that system."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an OpenTravel request says about itself, to be said again in the answer."""

    echo_token: str | None = field(repr=False)
    version: str


def source_ref(system: str, reservation_id: str, place: int) -> str:
    """The name of one guest of a reservation: `mews:4c1d…:2` is the second."""
    return f"{system}:{reservation_id}:{place}"


def reservation_of(source_ref: str) -> tuple[str, int] | None:
    """Undo `source_ref`: the name of the reservation with its system, and the guest's place; None for other names."""
    reservation, _, place = source_ref.rpartition(":")
    if ":" not in reservation or not place.isascii() or not place.isdigit() or not 1 <= int(place) <= PARTY_LIMIT:
        return None
    return reservation, int(place)
