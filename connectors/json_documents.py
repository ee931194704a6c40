"""JSON of hotel software, without anything about payment from the first moment it is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from connectors.card_numbers import without_payment
from connectors.parties import Reservation, acts
from schemas.act import Act, Unreadable
from schemas.hotels import EVENTS_LIMIT, Changed, HotelEvents, NotEvents
from schemas.violations import violation

_FETCHABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""What may stand in the address of a reservation."""


def loaded(document: bytes) -> Any:
    """The document, payment left out. Raises ValueError, which says nothing of it."""
    try:
        return without_payment(orjson.loads(document.removeprefix(b"\xef\xbb\xbf")))
    except (orjson.JSONDecodeError, RecursionError):
        raise ValueError("not JSON") from None


def all_acts(reservations: Iterable[Reservation]) -> Iterator[Act | Unreadable]:
    """The acts of each; a document without a reservation is refused."""
    empty = True
    for reservation in reservations:
        empty = False
        yield from acts(reservation)
    if empty:
        yield Unreadable(0, (violation("no_rows"),))


def not_json() -> Unreadable:
    """The document is none."""
    return Unreadable(0, (violation("not_json"),))


def events_of(document: bytes) -> Any:
    """The body of a webhook call. Raises `NotEvents`."""
    try:
        return loaded(document)
    except ValueError:
        raise NotEvents from None


def collected(changes: Iterable[Changed | None]) -> HotelEvents:
    """Each reservation once; None is an event about something else. Raises `NotEvents` for too many."""
    changed: dict[Changed, None] = {}
    ignored = 0
    for number, change in enumerate(changes):
        if number == EVENTS_LIMIT:
            raise NotEvents
        if change is None or not _FETCHABLE.fullmatch(change.reservation_id):
            ignored += 1
        else:
            changed[change] = None
    return HotelEvents(tuple(changed), ignored)
