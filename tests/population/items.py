"""Stays of synthetic people, as they would be sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from schemas.codes import DocumentType, FacilityKind, Gender
from schemas.population import (
    ItemStatus,
    PopulationDocument,
    PopulationFacility,
    PopulationGuest,
    PopulationItem,
)
from schemas.synthetic import person

ARRIVED_AT = datetime(2026, 11, 23, 7, 5, tzinfo=UTC)


def stay_id(number: int) -> UUID:
    """The id of the test's stay number `number`."""
    return UUID(f"0193569f-0000-7000-8000-{number:012x}")


def guest(index: int = 20, **changes: Any) -> PopulationGuest:
    """The synthetic person `index` as a guest; `document_type` and `document_number` may be changed too."""
    one = person(index)
    document = PopulationDocument(
        type=DocumentType(changes.pop("document_type", one.document_type)),
        number=changes.pop("document_number", one.document_number),
    )
    described: dict[str, Any] = {
        "full_name": one.full_name,
        "birth_date": one.birth_date,
        "gender": Gender(one.gender),
        "nationality": one.nationality,
        "document": document,
    }
    return PopulationGuest(**described | changes)


def item(number: int = 1, version: int = 1, **changes: Any) -> PopulationItem:
    """Version `version` of the stay `number`; a cancelled or departed one gets what its status wants."""
    status = changes.setdefault("status", ItemStatus.DECLARED)
    cancelled = status is ItemStatus.CANCELLED
    content: dict[str, Any] = {
        "stay_id": stay_id(number),
        "version": version,
        "facility": PopulationFacility(code="HY-KS-0001", kind=FacilityKind.HOTEL_2_3_STAR, commune="12103"),
        "guest": None if cancelled else guest(),
        "arrived_at": ARRIVED_AT,
        "planned_departure_at": ARRIVED_AT + timedelta(days=2),
        "departed_at": ARRIVED_AT + timedelta(days=1) if status is ItemStatus.DEPARTED else None,
    }
    return PopulationItem(**content | changes)
