"""The witness (nhân chứng) of an audit: a process of its own, elsewhere, that sees to it that the log only ever grows.

It has the public key of the log, an address, and a folder; no database and no key of the daemon. What it confirmed it
never takes back: every checkpoint is on its disk before its cosignature leaves. When the log shows something that does
not extend what was confirmed, both signed checkpoints are kept as evidence, and nothing is confirmed until a human
looked (docs/adr/0027).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asm_daemon.ledger import (
    COSIGNATURE,
    HASH_BYTES,
    BadNote,
    Checkpoint,
    NoteKey,
    cosign,
    open_checkpoint,
    open_cosignature,
    read_vkey,
    verify_consistency,
    write_vkey,
)

KEY_FILE, NAME_FILE, CHECKPOINTS_FILE, LOCK_FILE = "witness.key", "witness.vkey", "checkpoints.ndjson", "lock"
EVIDENCE = "evidence-"
ANSWER_BYTES = 65_536
PROOF_HASHES = 64
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 15.0
_TAIL_BYTES = 1 << 17  # more than one record can be

log = structlog.get_logger()


class WitnessError(Exception):
    """The witness's own folder is not as it should be; the message says what is wrong."""


class LogUnreachable(Exception):
    """The log did not give an answer that can be used. Nothing is known, and it is asked again."""


class LogMisbehaved(Exception):
    """The log, or the witness's own store, went back or split: what was signed contradicts what was confirmed.

    `kind` is `rolled_back` (a smaller log than was confirmed), `forked` (another log of the same size), `unproven` (a
    larger one that does not extend it) or `store_rolled_back` (our own cosignature is newer than our store).
    """

    def __init__(self, kind: str, evidence: Path) -> None:
        super().__init__(f"{kind}: nothing is confirmed any more; evidence is in {evidence}")
        self.kind, self.evidence = kind, evidence


# -- what the witness keeps --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of a witness: its key, every checkpoint it confirmed (a line each, only ever added to), evidence."""

    folder: Path
    key: NoteKey
    _private: Ed25519PrivateKey

    def sign(self, message: bytes) -> bytes:
        """The signature of the witness's key."""
        return self._private.sign(message)

    def newest(self) -> str | None:
        """The note that was confirmed last; None before the first. Raises WitnessError if the file is damaged."""
        lines = _tail(self.folder / CHECKPOINTS_FILE)
        try:
            return str(orjson.loads(lines[-1])["note"]) if lines else None
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise WitnessError(f"{CHECKPOINTS_FILE} is damaged") from None

    def add(self, note: str, seen_at: datetime) -> None:
        """Add a checkpoint; it is on the disk when this returns."""
        line = orjson.dumps({"seen_at": seen_at.isoformat(), "note": note}) + b"\n"
        descriptor = os.open(self.folder / CHECKPOINTS_FILE, os.O_WRONLY | os.O_APPEND)
        try:
            written = os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if written != len(line):
            raise WitnessError("the disk is full")

    def evidence(self) -> list[Path]:
        """Evidence that nobody has looked at yet, oldest first."""
        return sorted(self.folder.glob(f"{EVIDENCE}*.json"))

    def accuse(self, kind: str, now: datetime, **found: Any) -> LogMisbehaved:
        """Keep evidence; returns the error to raise. From now on the witness refuses to work."""
        name = f"{EVIDENCE}{now:%Y%m%dT%H%M%S.%fZ}-{kind}.json"
        content = orjson.dumps({"kind": kind, "found_at": now.isoformat(), **found}, option=orjson.OPT_INDENT_2)
        _write_new(self.folder / name, content, 0o600)
        return LogMisbehaved(kind, self.folder / name)

    def resume(self) -> list[Path]:
        """Note that a human looked at the evidence: it is kept under another name. Returns what it is called now."""
        seen = [path.rename(path.with_name(f"seen-{path.name}")) for path in self.evidence()]
        _sync_folder(self.folder)
        return seen


def create_store(folder: Path, name: str) -> Store:
    """Make the folder of a new witness, with a key of its own. Raises WitnessError if there is something already."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise WitnessError(f"{folder} exists: a witness that forgets what it confirmed is none") from None
    key = Ed25519PrivateKey.generate()
    vkey = write_vkey(name, key.public_key().public_bytes_raw(), COSIGNATURE)
    read_vkey(vkey, COSIGNATURE)
    _write_new(folder / KEY_FILE, key.private_bytes_raw().hex().encode() + b"\n", 0o600)
    _write_new(folder / CHECKPOINTS_FILE, b"", 0o600)
    _write_new(folder / NAME_FILE, f"{vkey}\n".encode(), 0o644)
    return open_store(folder)


def open_store(folder: Path) -> Store:
    """Open the folder of a witness that nobody else uses (`held`). Raises WitnessError if a part is missing or wrong.

    A last line that was being written when the machine stopped is taken away: it was not confirmed to anybody.
    """
    try:
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex((folder / KEY_FILE).read_text("ascii").strip()))
        key = read_vkey((folder / NAME_FILE).read_text("utf-8"), COSIGNATURE)
        path = folder / CHECKPOINTS_FILE
        with path.open("r+b") as opened:
            end = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, end - _TAIL_BYTES))
            torn = len(opened.read().rpartition(b"\n")[2])
            if torn:
                opened.truncate(end - torn)
                os.fsync(opened.fileno())
    except (OSError, ValueError, BadNote) as error:
        raise WitnessError(f"{folder} is not the whole folder of a witness: {type(error).__name__}") from None
    if key.public_key != private.public_key().public_bytes_raw():
        raise WitnessError("the two key files do not belong together")
    return Store(folder, key, private)


@contextmanager
def held(folder: Path) -> Iterator[Store]:
    """Open the folder, one process at a time: two could confirm two branches, and what one is writing looks torn to
    another. Raises WitnessError if another one runs, and as `open_store` does."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise WitnessError(f"{folder} is not the whole folder of a witness: {type(error).__name__}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield open_store(folder)
    except BlockingIOError:
        raise WitnessError("another witness works in this folder") from None
    finally:
        os.close(descriptor)


def _tail(path: Path) -> list[bytes]:
    with path.open("rb") as opened:
        end = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, end - _TAIL_BYTES))
        return opened.read().splitlines()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- the log, from outside ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogClient:
    """The public side of a daemon. Answers are read within a limit; redirects are not followed."""

    session: aiohttp.ClientSession
    url: str

    async def checkpoint(self) -> str | None:
        """The newest checkpoint; None before the first."""
        return await self._note("/v1/audit/checkpoint")

    async def cosigned(self) -> str | None:
        """The newest checkpoint for which the daemon has our cosignature, with it."""
        return await self._note("/v1/audit/cosigned-checkpoint")

    async def proof(self, old: int, new: int) -> list[bytes]:
        """The proof that the log of `new` entries extends that of `old`."""
        answer = await self._get("/v1/audit/consistency", {"old": str(old), "new": str(new)})
        try:
            hashes = [bytes.fromhex(each) for each in orjson.loads(answer or b"")["proof"]]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise LogUnreachable("the proof cannot be read") from None
        if len(hashes) > PROOF_HASHES or any(len(each) != HASH_BYTES for each in hashes):
            raise LogUnreachable("the proof cannot be read")
        return hashes

    async def hand_over(self, size: int, line: str) -> None:
        """Give the daemon a cosignature."""
        body = orjson.dumps({"size": size, "line": line})
        headers = {"Content-Type": "application/json"}
        await self._ask("POST", "/v1/audit/cosignatures", {HTTPStatus.NO_CONTENT}, data=body, headers=headers)

    async def _note(self, path: str) -> str | None:
        answer = await self._get(path, {})
        try:
            return None if answer is None else answer.decode("utf-8")
        except UnicodeDecodeError:
            raise LogUnreachable("the checkpoint is not text") from None

    async def _get(self, path: str, query: Mapping[str, str]) -> bytes | None:
        return await self._ask("GET", path, {HTTPStatus.OK, HTTPStatus.NOT_FOUND}, params=query)

    async def _ask(self, method: str, path: str, expected: set[HTTPStatus], **options: Any) -> bytes | None:
        try:
            async with self.session.request(method, self.url + path, allow_redirects=False, **options) as answer:
                content = await answer.content.read(ANSWER_BYTES) if answer.status == HTTPStatus.OK else None
                while content is not None and len(content) < ANSWER_BYTES and not answer.content.at_eof():
                    content += await answer.content.read(ANSWER_BYTES - len(content))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LogUnreachable(type(error).__name__) from None
        if answer.status not in expected:
            raise LogUnreachable(f"{method} {path} was answered with {answer.status}")
        return content


@asynccontextmanager
async def open_log(url: str) -> AsyncIterator[LogClient]:
    """A client of the daemon at `url`, closed after the block."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield LogClient(session, url.rstrip("/"))


# -- witnessing --------------------------------------------------------------------------------------------------------


async def witness_once(store: Store, log_key: NoteKey, client: LogClient, now: datetime) -> dict[str, int]:
    """Look at the log once: confirm its newest checkpoint if it extends what was confirmed. Counts: `size`, `grown`.

    Raises LogUnreachable (also for a checkpoint that the log did not sign), LogMisbehaved, WitnessError. The
    cosignature leaves only when the checkpoint is on the disk. An unchanged log is confirmed anew: somebody looked.
    """
    if waiting := store.evidence():
        raise LogMisbehaved("halted", waiting[0])
    kept_note = store.newest()
    kept = _believed(kept_note, log_key) if kept_note is not None else None
    await _check_store(store, log_key, client, kept_note, kept, now)
    note = await client.checkpoint()
    if note is None:
        if kept is not None:
            raise store.accuse("rolled_back", now, confirmed=kept_note, shown=None)
        return {"size": 0, "grown": 0}
    try:
        shown = _believed(note, log_key)
    except BadNote as error:
        raise LogUnreachable(f"what came is no checkpoint of this log: {error}") from None
    if kept is not None:
        await _require_growth(store, client, (kept_note, kept), (note, shown), now)
    if kept is None or shown.size > kept.size:
        store.add(note, now)
    await client.hand_over(shown.size, cosign(note, store.key.name, store.key.public_key, store.sign, _seconds(now)))
    return {"size": shown.size, "grown": shown.size - (kept.size if kept else 0)}


def _seconds(now: datetime) -> int:
    return int(now.timestamp())


def _believed(note: str, log_key: NoteKey) -> Checkpoint:
    checkpoint = open_checkpoint(note, log_key)
    if checkpoint.origin != log_key.name:
        raise BadNote("it is of another log")
    return checkpoint


async def _require_growth(
    store: Store, client: LogClient, kept: tuple[str | None, Checkpoint], shown: tuple[str, Checkpoint], now: datetime
) -> None:
    (kept_note, old), (note, new) = kept, shown
    if new.size < old.size:
        raise store.accuse("rolled_back", now, confirmed=kept_note, shown=note)
    if new.size == old.size:
        if new.root != old.root:
            raise store.accuse("forked", now, confirmed=kept_note, shown=note)
        return
    proof = await client.proof(old.size, new.size)
    if not verify_consistency(old.size, old.root, new.size, new.root, proof):
        hashes = [each.hex() for each in proof]
        raise store.accuse("unproven", now, confirmed=kept_note, shown=note, proof=hashes)


async def _check_store(
    store: Store, log_key: NoteKey, client: LogClient, kept_note: str | None, kept: Checkpoint | None, now: datetime
) -> None:
    """Our own cosignature, which the daemon holds: of a larger log than our store knows, and the store was put back; of
    another one of the same size, and somebody else confirms with our key."""
    note = await client.cosigned()
    if note is None:
        return
    line = note.rpartition("\n\n")[2].splitlines()[-1:] or [""]
    try:
        checkpoint = _believed(note, log_key)
        open_cosignature(note, line[0], store.key)
    except BadNote:
        return  # of another witness, or forged: it says nothing about our store
    if kept is None or checkpoint.size > kept.size:
        raise store.accuse("store_rolled_back", now, confirmed=kept_note, shown=note)
    if checkpoint.size == kept.size and checkpoint.root != kept.root:
        raise store.accuse("forked", now, confirmed=kept_note, shown=note)


async def run(
    store: Store,
    log_key: NoteKey,
    client: LogClient,
    *,
    interval_seconds: float,
    now: Callable[[], datetime],
    stop: asyncio.Event,
) -> None:
    """Look at the log until `stop`. A log that cannot be reached is tried again; LogMisbehaved ends it, loudly."""
    while not stop.is_set():
        try:
            counts = await witness_once(store, log_key, client, now())
            log.info("witness.confirmed", count=counts["size"])
        except LogUnreachable:
            log.exception("witness.log_unreachable")
        except LogMisbehaved:
            log.critical("witness.log_misbehaved", exc_info=True)
            raise
        try:
            async with asyncio.timeout(interval_seconds):
                await stop.wait()
        except TimeoutError:
            continue
