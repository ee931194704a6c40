"""What PostgreSQL must not write into its log about people, and whether it is told so.

Values about people reach it sealed, so its log holds none even at its most talkative (`tests/canary`). These settings
are the second wall: they keep sealed values, and whatever a later fault would send unsealed, out of a log that is
copied to more places than the database is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from asm_daemon.store import Connection
from asm_daemon.store.server import read_settings

PRIVATE_LOGGING: Mapping[str, str] = {
    "log_statement": "none",
    "log_min_messages": "log",
    "log_min_duration_statement": "-1",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
"""The settings that we recommend and that the embedded server has: an error's message, detail, statement and parameters
carry values. `log_min_messages = log` leaves errors to the client that caused them and keeps start, stop and FATAL."""

_WITHOUT_VALUES: Mapping[str, str] = {
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "auto_explain.log_parameter_max_length": "0",
    "pgaudit.log_parameter": "off",
}
"""What writes parameters, where the server has it."""
_VERBOSITY, _LEAST = "log_error_verbosity", "log_min_messages"
_WITHOUT_ERRORS = frozenset({"log", "fatal", "panic"})


class Fault(NamedTuple):
    """A setting by which values would be logged, and what it has to be."""

    name: str
    required: str


async def check_database_settings(connection: Connection) -> list[Fault]:
    """Which settings, as they are for this login, let PostgreSQL log values."""
    found = await read_settings(connection, (*_WITHOUT_VALUES, _VERBOSITY, _LEAST))
    faults = [Fault(name, must) for name, must in _WITHOUT_VALUES.items() if found.get(name, must) != must]
    if found.get(_LEAST) not in _WITHOUT_ERRORS and found.get(_VERBOSITY) != "terse":
        faults.append(Fault(_VERBOSITY, "terse"))  # the detail of an error quotes the row
    return faults
