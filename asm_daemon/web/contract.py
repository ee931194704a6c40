"""The contract as a file: `python -m asm_daemon.web.contract` writes `schemas/generated/openapi.json`.

A change of the API is then seen in review; a test holds the file equal to what is served.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from asm_daemon.web.admin_api import admin_routes
from asm_daemon.web.api import owner_routes
from asm_daemon.web.audit_api import audit_routes
from asm_daemon.web.documents_api import document_routes
from asm_daemon.web.events_api import event_routes
from asm_daemon.web.expected_api import expected_routes
from asm_daemon.web.feeds_api import feed_routes
from asm_daemon.web.hotels_api import hotel_routes
from asm_daemon.web.imports_api import import_routes
from asm_daemon.web.kbtt import kbtt_routes
from asm_daemon.web.openapi import document
from asm_daemon.web.pages import page_routes
from asm_daemon.web.police_api import police_routes
from asm_daemon.web.public_api import public_routes
from asm_daemon.web.rosters_api import roster_routes
from asm_daemon.web.route import Table
from asm_daemon.witnessing import Watch
from schemas.generate import DIRECTORY

_UNBOUND: Any = None
"""Stands for what a handler would use: a table that only describes never calls one."""


def unbound_table() -> Table:
    """Every route, with nothing behind it."""
    connectors = {entry.name: entry.load() for entry in entry_points(group="asm_daemon.connectors")}
    return (
        *public_routes(0, 0, (), {}, False),
        *owner_routes(_UNBOUND, _UNBOUND, _UNBOUND, _UNBOUND, 0, 0),
        *import_routes(_UNBOUND, _UNBOUND, _UNBOUND, _UNBOUND, connectors, 0),
        *expected_routes(_UNBOUND, _UNBOUND, _UNBOUND, 0, 0),
        *roster_routes(_UNBOUND, _UNBOUND, _UNBOUND, connectors, 0, 0, False),
        *hotel_routes(_UNBOUND, _UNBOUND, _UNBOUND, _UNBOUND, _UNBOUND, 0),
        *event_routes(_UNBOUND, _UNBOUND, "", _UNBOUND),
        *document_routes(_UNBOUND),
        *kbtt_routes(_UNBOUND, _UNBOUND, _UNBOUND, _UNBOUND, 0, 0),
        *police_routes(_UNBOUND),
        *feed_routes(_UNBOUND, _UNBOUND),
        *audit_routes(Watch(_UNBOUND, _UNBOUND, None)),
        *admin_routes(_UNBOUND, _UNBOUND, _UNBOUND, _UNBOUND),
        *page_routes(_UNBOUND, False),
    )


if __name__ == "__main__":
    (DIRECTORY / "openapi.json").write_bytes(document(unbound_table()) + b"\n")
