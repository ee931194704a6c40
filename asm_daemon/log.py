"""Logging: one JSON object a line, only keys from a list, never personal data.

What code may log is decided here, not where it logs: a key that is not in `ALLOWED_KEYS` is dropped and counted, an
event is a constant name (never a sentence with a value in it), and an exception is its type and its frames, because
messages and local variables carry what people typed. PostgreSQL, for one, quotes the values of a violated unique key.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator, MutableMapping
from datetime import date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from uuid import UUID

import asyncpg
import orjson
import structlog
from prometheus_client import Counter

# Add a key here when its values are numbers, identifiers made by us, or words from a fixed set.
ALLOWED_KEYS = frozenset(
    {
        # every line
        "at", "deployment", "event", "exception", "level", "logger", "template", "timestamp",
        # a request
        "duration_ms", "method", "principal_id", "problem", "request_id", "route", "status", "trace_id",
        # what was worked on
        "batch_id", "connector", "epoch", "facility_id", "feed", "import_id", "job", "migration", "period", "release",
        "stay_id",
        # how much, and how it went
        "accepted", "ambiguous", "attempt", "attempts", "bytes", "confirmed", "count", "duplicate", "lane", "lanes",
        "outcome", "pending", "queued", "refused", "retry_in_ms", "rows", "stale", "waiting",
        # the process
        "environment", "listen", "pid", "port", "signal", "state", "version",
    }
)  # fmt: skip
_EVENT_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}")
_TEXT_CHARACTERS = 300
_FRAMES = 30
_LINKED_EXCEPTIONS = 10
_ROOT = Path(__file__).resolve().parents[1]

DROPPED_KEYS = Counter("asm_log_dropped_keys", "Keys that a log call carried and ALLOWED_KEYS does not hold")

Event = MutableMapping[str, Any]


def configure_logging(level: str, deployment: str, stream: BinaryIO | None = None) -> None:
    """Send everything that this process logs to `stream` (stderr), from structlog, libraries and crashes alike.

    `level` is debug, info, warning or error; libraries say info and below only at debug.
    """
    number = logging.getLevelNamesMapping()[level.upper()]

    def add_deployment(_logger: Any, _method: str, event: Event) -> Event:
        event["deployment"] = deployment
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_deployment,
            _describe_exception,
            _keep_allowed,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(stream or sys.stderr.buffer),
        cache_logger_on_first_use=False,  # a module's logger outlives a configuration
    )
    logging.basicConfig(handlers=[_LibraryHandler()], level=number if level == "debug" else logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_crash
    sys.unraisablehook = lambda caught: _log_crash(caught.exc_type, caught.exc_value, caught.exc_traceback)
    threading.excepthook = lambda caught: _log_crash(caught.exc_type, caught.exc_value, caught.exc_traceback)


def describe_exception(error: BaseException) -> list[dict[str, Any]]:
    """The exception, what it came from and what it groups: types and frames, never a message, an argument or a local.

    `sqlstate` names what PostgreSQL refused, `errno` what the operating system did.
    """
    described = []
    for linked in _linked(error, set()):
        entry: dict[str, Any] = {"type": f"{type(linked).__module__}.{type(linked).__qualname__}"}
        if isinstance(linked, asyncpg.PostgresError) and isinstance(linked.sqlstate, str):
            entry["sqlstate"] = linked.sqlstate
        if isinstance(linked, OSError) and linked.errno is not None:
            entry["errno"] = linked.errno
        entry["frames"] = [_place(frame, line) for frame, line in _frames(linked.__traceback__)][-_FRAMES:]
        described.append(entry)
        if len(described) == _LINKED_EXCEPTIONS:
            break
    return described


def _linked(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _linked(member, seen)
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from _linked(earlier, seen)


def _frames(traceback: TracebackType | None) -> Iterator[tuple[Any, int]]:
    while traceback is not None:
        yield traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next


def _place(code: Any, line: int) -> str:
    return f"{_short(code.co_filename)}:{line} {code.co_name}"


def _short(filename: str) -> str:
    """A path as its reader knows it: from the root of this repository, or from a library's folder."""
    path = Path(filename)
    if "site-packages" not in path.parts and path.is_relative_to(_ROOT):
        return path.relative_to(_ROOT).as_posix()
    return "/".join(path.parts[-2:])


def _describe_exception(_logger: Any, _method: str, event: Event) -> Event:
    caught = event.pop("exc_info", None)
    if caught is True:
        caught = sys.exc_info()
    if isinstance(caught, tuple):
        caught = caught[1]
    if isinstance(caught, BaseException):
        event["exception"] = describe_exception(caught)
    else:
        event.pop("exception", None)
    return event


def _keep_allowed(_logger: Any, _method: str, event: Event) -> Event:
    kept = {key: value for key, value in event.items() if key in ALLOWED_KEYS}
    dropped = len(event) - len(kept)
    if not isinstance(kept.get("event"), str) or not _EVENT_NAME.fullmatch(kept["event"]):
        kept["event"] = "unnamed"
        dropped += 1
    if dropped:
        DROPPED_KEYS.inc(dropped)
    return kept


def _render(_logger: Any, _method: str, event: Event) -> bytes:
    return orjson.dumps({key: value if key == "exception" else _plain(value) for key, value in event.items()})


def _plain(value: object) -> object:
    """Texts are cut; anything that could hold something else inside is only its type."""
    if isinstance(value, str):
        return value[:_TEXT_CHARACTERS]
    if value is None or isinstance(value, int | float | UUID | datetime | date):
        return value
    return type(value).__qualname__


class _LibraryHandler(logging.Handler):
    """What libraries say through `logging`: who, where and the unfilled template; the filled text may quote anything.

    asyncio fills its texts before it logs them, with the `repr` of tasks and exceptions: then there is no template.
    """

    def emit(self, record: logging.LogRecord) -> None:
        template = {"template": record.msg} if record.args and isinstance(record.msg, str) else {}
        structlog.get_logger().log(
            min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL),  # structlog knows no others
            "library",
            logger=record.name,
            at=f"{_short(record.pathname)}:{record.lineno}",
            exc_info=record.exc_info,
            **template,
        )


def _log_crash(_type: type[BaseException], error: BaseException | None, _traceback: TracebackType | None) -> None:
    structlog.get_logger().critical("crashed", exc_info=error)
