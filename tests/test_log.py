"""No log line tells about a person, whatever the code that logs does wrong."""

from __future__ import annotations

import ast
import asyncio
import io
import logging
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
import structlog

import asm_daemon
from asm_daemon.log import ALLOWED_KEYS, DROPPED_KEYS, configure_logging
from tests.conftest import Database

NAME = "NGUYỄN VĂN THỬ"


@pytest.fixture
def output() -> Iterator[io.BytesIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, sys.unraisablehook, threading.excepthook
    stream = io.BytesIO()
    root.handlers = []  # pytest's own, which basicConfig would close
    configure_logging("debug", "asm.hungyen.example", stream)
    yield stream
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers, root.level, sys.excepthook, sys.unraisablehook, threading.excepthook = before


def lines(output: io.BytesIO) -> list[dict[str, Any]]:
    assert NAME.encode() not in output.getvalue()
    return [orjson.loads(line) for line in output.getvalue().splitlines()]


def dropped_keys() -> float:
    return next(iter(DROPPED_KEYS.collect())).samples[0].value


def fail_on(guest: str) -> None:
    local_variable = guest
    raise ValueError(f"cannot read {local_variable}")


def test_a_key_outside_the_list_is_dropped_and_counted(output: io.BytesIO) -> None:
    before = dropped_keys()
    structlog.get_logger().info("stay_accepted", guest=NAME, count=3)
    (line,) = lines(output)
    assert line["count"] == 3
    assert "guest" not in line
    assert dropped_keys() == before + 1


def test_an_event_that_is_a_sentence_is_not_logged(output: io.BytesIO) -> None:
    structlog.get_logger().info(f"accepted {NAME}", count=1)
    (line,) = lines(output)
    assert line["event"] == "unnamed"


def test_an_exception_is_its_type_and_frames_without_message_and_locals(output: io.BytesIO) -> None:
    try:
        fail_on(NAME)
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = lines(output)
    (described,) = line["exception"]
    assert described["type"] == "builtins.ValueError"
    assert described["frames"][-1].startswith("tests/test_log.py:")
    assert described["frames"][-1].endswith(" fail_on")


def test_causes_and_members_of_a_group_are_described_too(output: io.BytesIO) -> None:
    try:
        try:
            fail_on(NAME)
        except ValueError as error:
            raise ExceptionGroup(NAME, [RuntimeError(NAME), error]) from OSError(28, NAME)
    except ExceptionGroup:
        structlog.get_logger().exception("failed")
    (line,) = lines(output)
    types = [described["type"] for described in line["exception"]]
    assert types == ["builtins.ExceptionGroup", "builtins.RuntimeError", "builtins.ValueError", "builtins.OSError"]
    assert line["exception"][-1]["errno"] == 28


async def test_a_refusal_of_postgresql_is_its_sqlstate_without_the_value(
    output: io.BytesIO, database: Database
) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE people (name text PRIMARY KEY)")
    await connection.execute("INSERT INTO people VALUES ($1)", NAME)
    with pytest.raises(asyncpg.UniqueViolationError, match=NAME) as caught:
        await connection.execute("INSERT INTO people VALUES ($1)", NAME)
    structlog.get_logger().warning("refused", exc_info=caught.value)
    assert lines(output)[-1]["exception"][0]["sqlstate"] == "23505"


def test_an_object_in_an_allowed_key_is_only_its_type(output: io.BytesIO) -> None:
    structlog.get_logger().info("failed", problem=ValueError(NAME), outcome={"name": NAME}, exception=NAME)
    (line,) = lines(output)
    assert (line["problem"], line["outcome"]) == ("ValueError", "dict")
    assert "exception" not in line


def test_what_libraries_log_keeps_its_template_and_loses_its_values(output: io.BytesIO) -> None:
    logging.getLogger("aiohttp.server").error("cannot serve %s", NAME)
    logging.getLogger("asyncio").error(f"Task exception was never retrieved: {NAME}")
    logging.getLogger("third.party").log(35, "between warning and error")
    first, second, third = lines(output)
    assert (first["logger"], first["level"], first["template"]) == ("aiohttp.server", "error", "cannot serve %s")
    assert second["logger"] == "asyncio"
    assert "template" not in second
    assert third["level"] == "warning"


def test_a_warning_is_logged_without_its_text(output: io.BytesIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn(NAME, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert lines(output)[-1]["logger"] == "py.warnings"


async def test_a_task_whose_exception_nobody_awaits_does_not_tell_it(output: io.BytesIO) -> None:
    async def fails() -> None:
        fail_on(NAME)

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    del task
    (line,) = lines(output)
    assert line["logger"] == "asyncio"
    assert line["exception"][0]["type"] == "builtins.ValueError"


def test_a_crash_of_a_thread_does_not_tell_its_message(output: io.BytesIO) -> None:
    thread = threading.Thread(target=fail_on, args=(NAME,))
    thread.start()
    thread.join()
    (line,) = lines(output)
    assert line["event"] == "crashed"


def test_a_crash_of_the_process_does_not_tell_its_message() -> None:
    program = (
        "from asm_daemon.log import configure_logging\n"
        "configure_logging('info', 'asm.hungyen.example')\n"
        f"raise ValueError('{NAME}')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ended.returncode == 1
    assert NAME.encode() not in ended.stderr
    line = orjson.loads(ended.stderr)
    assert (line["event"], line["level"], line["exception"][0]["type"]) == (
        "crashed",
        "critical",
        "builtins.ValueError",
    )


def test_a_line_says_when_where_and_how_grave(output: io.BytesIO) -> None:
    structlog.get_logger().warning("lease_lost", lane=7)
    (line,) = lines(output)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"deployment": "asm.hungyen.example", "event": "lease_lost", "lane": 7, "level": "warning"}


def test_what_a_request_binds_is_on_each_of_its_lines(output: io.BytesIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="0190a000", guest=NAME):
        structlog.get_logger().info("answered", status=201)
    (line,) = lines(output)
    assert line["request_id"] == "0190a000"


def test_a_long_text_is_cut(output: io.BytesIO) -> None:
    structlog.get_logger().info("answered", route="x" * 5000)
    (line,) = lines(output)
    assert len(line["route"]) == 300


def test_no_allowed_key_is_a_word_for_personal_data() -> None:
    personal = {
        "name",
        "full_name",
        "guest",
        "document",
        "number",
        "phone",
        "birth_date",
        "address",
        "source_ref",
        "room",
    }
    assert not ALLOWED_KEYS & personal


LOGGERS = {"log", "_log", "logger"}
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(Path(asm_daemon.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=level)) if (
                    name in LOGGERS and level in LEVELS
                ):
                    yield f"{path.name}:{node.lineno}", node


def test_every_log_call_of_the_daemon_has_a_constant_event_and_listed_keys() -> None:
    """What it logs besides would be dropped when it runs, and somebody would miss it."""
    calls = list(log_calls())
    assert len(calls) > 10
    for place, call in calls:
        keys = {keyword.arg for keyword in call.keywords}
        assert keys <= ALLOWED_KEYS | {"exc_info"}, place
        (event,) = call.args
        assert isinstance(event, ast.Constant), place
        assert re.fullmatch(r"[a-z][a-z0-9_.]*", str(event.value)), place


def test_a_configuration_holds_for_loggers_made_before_it(output: io.BytesIO) -> None:
    log = structlog.get_logger()
    log.info("first")
    second = io.BytesIO()
    configure_logging("info", "asm.other.example", second)
    log.info("second")
    assert [line["event"] for line in lines(output)] == ["first"]
    assert [line["deployment"] for line in lines(second)] == ["asm.other.example"]
